"""Generated sets: the same rows however they were made, refused when stale; key points, inverted samples, and the two-step term."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

import workbench as wb
from workbench.denoiser import Guided, Network
from workbench.distill.generated import DATA, MANIFEST, Table, fingerprint, generate, open_set
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.extras import TwoStep
from workbench.distill.objectives.maps import estimate, jump
from workbench.distill.objectives.pairs import KeyPoints, Pairs, invert
from workbench.distill.objectives.parts import L2
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.starts import FromKeyPoints, FromPairs
from workbench.distill.objectives.targets import Point, StoredEndpoint
from workbench.distill.objectives.times import Straighten
from workbench.distill.recipes import get
from workbench.distill.students import new_student
from workbench.errors import WorkbenchError
from workbench.files import read_json
from workbench.networks import new_network
from workbench.samplers.sample import Sampling

MEAN, WIDTH = torch.tensor([0.7, -0.3], dtype=torch.float64), 0.4
LABELLED = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])


def gaussian(path="linear"):
    return wb.mixture(MEAN[None], [WIDTH], path=path)


def land(x, t, s):
    """The exact flow map on the linear path."""
    spread = lambda u: ((1 - u) ** 2 * WIDTH**2 + u**2) ** 0.5  # noqa: E731
    return (1 - s) * MEAN + spread(s) / spread(t) * (x.double() - (1 - t) * MEAN)


def made(pairs, folder=None, teacher=LABELLED, seed=0, stop=None, **more):
    """The store, or None where it was left after `stop` reports."""
    making, reports = pairs.make(teacher, folder, seed, "cpu", **more), []
    while True:
        try:
            reports.append(next(making))
        except StopIteration as end:
            return end.value, reports
        if stop is not None and len(reports) == stop:
            return None, reports


@pytest.mark.parametrize("pairs", [Pairs(50, chunk=16), KeyPoints(50, chunk=16, keys=3, inner=2)], ids=["pairs", "keypoints"])
def test_the_same_rows_in_memory_in_one_go_and_continued(tmp_path, pairs):
    memory, told = made(pairs)
    assert told == [(16, 50), (32, 50), (48, 50), (50, 50)]
    whole, _ = made(pairs, tmp_path / "whole")
    made(pairs, tmp_path / "broken", stop=2)
    place = tmp_path / "broken" / pairs.what
    assert len(list(place.glob("part-*.arrow"))) == 2 and not (place / DATA).exists()
    (place / "part-0000016.arrow").write_bytes(b"cut off")
    broken, again = made(pairs, tmp_path / "broken")
    assert again == [(32, 50), (48, 50), (50, 50)]  # what was whole is kept
    for other in (whole, broken):
        assert memory.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(memory.tensors[name], other.tensors[name]) for name in memory.tensors)
        one, two = (store.draw(Batch(None, None, 20), step_rng(3, 4)) for store in (memory, other))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True) if isinstance(a, torch.Tensor))
    assert made(pairs, tmp_path / "broken")[1] == [] and {file.name for file in place.iterdir()} == {DATA, MANIFEST}


def test_a_finished_set_is_one_of_datasets(tmp_path):
    store, _ = made(Pairs(40, chunk=16), tmp_path)
    found = open_set(tmp_path / "pairs")
    assert len(found) == 40 and set(found.column_names) == {"eps", "x0", "cond"} and found.cache_files
    assert torch.equal(found.with_format("torch")["x0"][:], store.tensors["x0"])
    manifest = read_json(tmp_path / "pairs" / MANIFEST)
    assert manifest["teacher"] == fingerprint(LABELLED) and manifest["count"] == 40 and manifest["seed"] == 0
    assert (
        manifest["columns"]["eps"] == [[2], "float32"]
        and manifest["plan"]["sampler"] == "heun"
        and manifest["versions"]["torch"]
    )
    with pytest.raises(WorkbenchError, match="holds no finished set"):
        open_set(tmp_path)


def test_a_stale_set_is_refused_with_all_that_differs(tmp_path):
    made(Pairs(32, chunk=16), tmp_path)
    other = wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.2, 0.2], labels=[0, 1])
    with pytest.raises(WorkbenchError) as error:
        made(Pairs(64, sampling=Sampling("ddim", 12), chunk=16), tmp_path, other, seed=5)
    said = str(error.value)
    for part in ("teacher = ", "seed = 0, not 5", "count = 32, not 64", "plan.sampler = 'heun', not 'ddim'", "plan.stages = "):
        assert part in said
    assert "dropout" not in said and "choose another run folder" in said


def test_fingerprints_follow_what_a_teacher_answers():
    nets = [Network(new_network((2,), 2, "flow", "linear", seed), "linear", "flow", (2,), 2) for seed in (0, 0, 1)]
    prints = [fingerprint(net) for net in nets]
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint(Guided(nets[0], 2.0)) == fingerprint(Guided(nets[1], 3.0)) != prints[0]  # the manifest names the scale
    before = fingerprint(LABELLED)
    LABELLED(torch.zeros(1, 2), 0.5, torch.tensor([0]))
    LABELLED.sample(3, seed=0)
    assert fingerprint(LABELLED) == before != fingerprint(gaussian())
    assert fingerprint(gaussian("trig")) != fingerprint(gaussian())


def test_a_fingerprint_is_the_same_in_another_process():
    code = "import workbench as wb; from workbench.distill.generated import fingerprint; print(fingerprint(wb.load('digits/teacher')))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}  # another order of every set
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == fingerprint(wb.load("digits/teacher"))


def test_pieces_are_read_as_one_table():
    whole = torch.arange(22.0).view(11, 2)
    rows = torch.tensor([10, 0, 3, 4, 4, 7])
    pieces = Table({"x": list(whole.split(4))}, 4)
    assert len(pieces) == 11 and torch.equal(pieces.take(rows)["x"], whole[rows])


def test_reading_a_file_is_as_quick_as_memory(tmp_path):
    columns = {"x": ((784,), torch.float32)}
    rows = lambda first, n: {"x": torch.full((n, 784), float(first))}  # noqa: E731

    def table(folder):
        making = generate(folder, {}, columns, rows, 2048, 512)
        while True:
            try:
                next(making)
            except StopIteration as end:
                return end.value

    def cost(table):
        taken = []
        for k in range(30):
            chosen = torch.randint(2048, (64,), generator=step_rng(0, k))
            began = time.perf_counter()
            table.take(chosen)
            taken.append(time.perf_counter() - began)
        return sorted(taken)[len(taken) // 2]

    memory, mapped = table(None), table(tmp_path / "set")
    cost(mapped)
    assert cost(mapped) < 5 * cost(memory) + 1e-3  # measured: equal; a busy machine is not


@pytest.mark.parametrize("path", ["linear", "trig"])
def test_key_points_are_states_of_the_trajectory(path):
    pairs = KeyPoints(32, chunk=32, keys=4, inner=40)
    store, _ = made(pairs, teacher=gaussian(path))
    keys = store.tensors["keys"]
    assert keys.shape == (32, 5, 2) and pairs.times[0] == 1 and pairs.times[-1] == 0
    if path == "linear":
        for k, t in enumerate(pairs.times):
            assert torch.allclose(keys[:, k].double(), land(keys[:, 0], 1.0, t), atol=2e-3)
    # the shift of the paper gives the paper's times
    assert KeyPoints(shift=7.0).times == pytest.approx((1, 0.965, 0.913, 0.824, 0.636, 0), abs=1e-3)


@pytest.mark.parametrize("path", ["linear", "trig", "cosine"])
def test_chained_chords_end_where_the_teacher_does(path):
    pairs, teacher = KeyPoints(16, chunk=16, keys=4, inner=3), gaussian(path)
    store, _ = made(pairs, teacher=teacher)
    keys = store.tensors["keys"]
    start = FromKeyPoints(pairs)
    x = keys[:, 0]
    for k, (t, s) in enumerate(zip(pairs.times[:-1], pairs.times[1:], strict=True)):
        rng = step_rng(0, k)
        batch = store.draw(Batch(None, None, 400), rng)
        states, x0, _, _, times = start(batch, None, rng, teacher, teacher)
        assert set(times.t.tolist()) == set(pairs.times[:-1])
        assert torch.allclose(
            jump(teacher.path, states, x0, times.t, times.s)[times.t == t], batch.keys[:, k + 1][times.t == t], atol=1e-4
        )
        t, s = torch.full((16,), t), torch.full((16,), s)
        x = jump(teacher.path, x, estimate(teacher.path, keys[:, k], keys[:, k + 1], t, s), t, s)
    assert torch.allclose(x, keys[:, -1], atol=1e-4)


def test_one_key_is_knowledge_distillation():
    pairs = KeyPoints(16, chunk=16, keys=1, inner=12, shift=1.0)
    keys, plain = made(pairs, teacher=gaussian())[0], made(Pairs(16, chunk=16), teacher=gaussian())[0]
    assert torch.allclose(keys.tensors["keys"][:, 0], plain.tensors["eps"]) and torch.allclose(
        keys.tensors["keys"][:, 1], plain.tensors["x0"], atol=1e-6
    )
    rng = step_rng(0, 0)
    _, x0, _, _, times = FromKeyPoints(pairs)(keys.draw(Batch(None, None, 8), rng), None, rng, gaussian(), gaussian())
    assert torch.equal(times.t, torch.ones(8, dtype=torch.float64)) and x0.shape == (8, 2)


def test_a_student_of_key_points_learns_the_gaussian_flow(tmp_path):
    teacher = gaussian()
    *_, last = wb.distill(teacher, "keypoints", run=tmp_path, steps=200, batch=64, count=512, keys=3, lr=2e-3)
    assert last.student.plan().times == KeyPoints(keys=3).times and last.student.plan().evaluations == 3
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(1))
    (final,) = [frame.x for frame in wb.run(last.student.plan(), last.student, noise) if frame.t == 0]
    assert float((final - land(noise, 1.0, 0.0)).square().mean().sqrt()) < 0.15  # one step of the teacher errs by 0.4


def test_guided_trajectories_are_stored_with_the_teachers_answers(tmp_path):
    """Adapters trained on a stored set meet states of guided trajectories, each at its own scale, and the guided answers there; nobody is asked."""
    start = FromKeyPoints(KeyPoints(24, chunk=8, keys=4, inner=1, sampling=Sampling("ddim")))
    teacher = Network(new_network((2,), 2, "flow", "linear", width=32, depth=1), "linear", "flow", (2,), 2)
    for name, parameter in teacher.net.named_parameters():
        if "head" in name or "modulation" in name or "class" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    chosen = get("agd").configured(start=start, target=StoredEndpoint())
    student, _ = new_student(teacher, None, 0, chosen, {})
    bound = chosen.objective.bind(teacher, student)
    for _ in bound.prepare(tmp_path, 0, "cpu"):
        pass
    assert set(open_set(tmp_path / "keypoints").column_names) == {"keys", "cond", "w"}
    bound.teacher = None
    point = bound.point(Batch(None, None, 32), step_rng(0, 0))
    answer = Guided(teacher, student.scale)(point.x, point.t, point.cond)
    assert torch.allclose(point.x0, answer.to(point.x0), atol=1e-3) and len(student.scale.unique()) > 8
    assert torch.isfinite(bound.loss("student", Batch(None, None, 32), step_rng(0, 1))[0])


@pytest.mark.parametrize("path", ["linear", "trig"])
def test_inverted_samples_lead_back(path):
    teacher = gaussian(path)
    x0 = (MEAN + WIDTH * torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).float()
    errors = []
    for steps in (12, 48):
        eps = invert(teacher, x0, None, tuple(k / steps for k in range(steps, -1, -1)))
        errors.append(float((eps - land(x0, 0.0, 1.0)).square().mean().sqrt()))
    assert errors[0] < 0.05 and errors[1] < 0.01


def test_a_share_of_pairs_comes_from_real_samples(tmp_path):
    real = lambda rng: (3 + torch.rand(8, 2, generator=rng), torch.ones(8, dtype=torch.long))  # noqa: E731
    pairs = Pairs(64, chunk=32, inverted=0.25, dropout=0.0)
    store, _ = made(pairs, tmp_path, real=real)
    far = store.tensors["x0"][:, 0] > 2.9
    assert int(far.sum()) == 16 and torch.all(store.tensors["cond"][far] == 1)
    plain, _ = made(Pairs(64, chunk=32, dropout=0.0))
    assert torch.equal(store.tensors["x0"][~far], plain.tensors["x0"][~far])
    with pytest.raises(WorkbenchError, match="data = "):
        made(pairs, tmp_path, real=lambda rng: (torch.rand(8, 2, generator=rng), None))
    with pytest.raises(WorkbenchError, match="pass data="):
        made(pairs)


def test_rfpp_inverts_data_where_there_are_some(tmp_path):
    *_, last = wb.distill(LABELLED, "rfpp", run=tmp_path / "with", steps=2, batch=8, count=32)
    assert last.student.card["trained"]["objective"]["start"]["pairs"]["inverted"] == 0.2
    teacher = Network(new_network((2,), 0, "flow", "linear"), "linear", "flow", (2,), 0)
    *_, last = wb.distill(teacher, "rfpp", run=tmp_path / "without", steps=2, batch=8, count=32)
    assert last.student.card["trained"]["objective"]["start"]["pairs"]["inverted"] == 0.0
    with pytest.raises(WorkbenchError, match="pass data="):
        wb.distill(teacher, "rfpp", steps=2, count=32, inverted=0.5)


class Line(torch.nn.Module):
    """The straight flow of a Gaussian, eps -> mean + width eps, scaled by a weight that is 1."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        t = t.view(-1, 1).double()
        eps = (x - (1 - t) * MEAN) / ((1 - t) * WIDTH + t)
        return self.gain * (MEAN + WIDTH * eps)


def two_step(gain=1.0, progress=1.0):
    student = Network(Line(gain), "linear", "x0", (2,))
    bound = Pointwise(
        start=FromPairs(Pairs()), times=Straighten(share=0.5), target=StoredEndpoint(), metric=L2(), extras=(TwoStep(),)
    ).bind(gaussian(), student)
    x = torch.zeros(32, 2, dtype=torch.float64)
    one = torch.ones(32, dtype=torch.float64)
    point = Point(x, one, 0 * one, None, x, 0 * one, x, progress)
    return bound, bound.extras[0].term(point, x, Batch(None, None, 32, progress), step_rng(0, 0))


def test_the_two_step_target_of_a_straight_flow_is_its_endpoint():
    _, (value, parts) = two_step()
    assert float(value.detach()) < 1e-20 and "two_step" in parts
    bound, (before, parts) = two_step(progress=0.4)
    assert float(before) == 0 and not parts and not bound.frozen["begun"].done


def test_the_straight_flow_of_the_two_step_term_is_kept_from_when_distillation_began():
    bound, (value, _) = two_step(gain=0.9)
    assert bound.frozen["begun"].done and float(bound.frozen["straight"].gain) == pytest.approx(0.9)
    value.backward()
    assert bound.student.net.gain.grad is not None and bound.frozen["straight"].gain.grad is None
    with torch.no_grad():
        bound.student.net.gain.fill_(0.5)
    one = torch.ones(4, dtype=torch.float64)
    x = torch.zeros(4, 2, dtype=torch.float64)
    bound.extras[0].term(Point(x, one, 0 * one, None, x, 0 * one, x, 1.0), x, Batch(None, None, 4), step_rng(0, 0))
    assert float(bound.frozen["straight"].gain) == pytest.approx(0.9)


def test_an_interrupted_slimflow_ends_where_an_unbroken_one_does(tmp_path):
    teacher = Network(new_network((2,), 2, "flow", "linear", width=16, depth=1), "linear", "flow", (2,), 2)
    options = {"steps": 24, "batch": 16, "count": 64, "share": 0.5}
    *_, whole = wb.distill(teacher, "slimflow", run=tmp_path / "whole", **options)
    for progress in wb.distill(teacher, "slimflow", run=tmp_path / "broken", **options):
        if progress.step >= 20:  # within one-step distillation
            break
    *_, broken = wb.distill(teacher, "slimflow", run=tmp_path / "broken", **options)
    for one, other in zip(whole.student.net.parameters(), broken.student.net.parameters(), strict=True):
        assert torch.equal(one, other)
