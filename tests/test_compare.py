"""Same noise through several models: what runs, what is measured, and what each figure refers to."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.compare import FINE_STEPS, FRECHET_LEAST, Column, columns_of, fine_solution, stream, teacher_of
from workbench.denoiser import Network
from workbench.errors import UnknownName, WorkbenchError
from workbench.networks.dit import DiT
from workbench.networks.mlp import MLP
from workbench.samplers.sample import Sampling
from workbench.student import make_card, save

ERROR = "error to fine solution"


def randomized(net):
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return net


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """An untrained student of the eight Gaussians."""
    net = randomized(MLP(dim=2, width=16, depth=1, classes=8))
    card = make_card(net, name="eight_gaussians/s", role="student", shape=(2,), sampling=Sampling("consistency", 1),
                     teacher="eight_gaussians", recipe="none")  # fmt: skip
    return save(net, card, tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """An untrained teacher of digits that has their name, hence their features."""
    net = randomized(DiT(image_size=8, patch=4, width=16, depth=1, heads=2))
    card = make_card(net, name="digits/teacher", role="teacher", shape=(1, 8, 8), sampling=Sampling("euler", 2, guidance=2.0))
    return save(net, card, tmp_path_factory.mktemp("digits"))


def test_labels_are_unique_and_models_are_loaded():
    columns = columns_of(["moons", "moons", Column("moons", steps=3), Column("moons", label="moons (2)")])
    assert [column.label for column in columns] == ["moons", "moons (2)", "moons (3)", "moons (2) (2)"]
    assert all(column.model.shape == (2,) for column in columns) and columns[2].plan().steps == 3


def test_every_way_to_name_models(student):
    named = columns_of({"mine": "moons", "coarse": Column("moons", label="ignored", steps=2), "student": student})
    assert [column.label for column in named] == ["mine", "coarse", "student"] and named[1].plan().steps == 2
    assert [column.label for column in columns_of("moons")] == ["moons"]
    assert [column.label for column in columns_of(Column("moons"))] == ["moons"]
    assert [column.label for column in columns_of((student, "moons"))] == ["eight_gaussians/s", "moons"]
    assert columns_of(Network(lambda x, t, cond: x, "linear", "x0", (2,)))[0].label == "Network"


def test_bad_columns():
    with pytest.raises(WorkbenchError, match="nothing to compare"):
        columns_of([])
    with pytest.raises(WorkbenchError, match=r"different shapes \(\(2,\), \(64,\)\): compare within one space"):
        columns_of(["moons", "mixture64"])
    with pytest.raises(UnknownName, match=r"did you mean 'moons'\?"):
        columns_of(["moon"])
    with pytest.raises(WorkbenchError, match=r"function has no \.path or \.shape"):
        columns_of([lambda x, t, cond: x])
    with pytest.raises(WorkbenchError, match=r"NoneType has no \.path or \.shape"):
        columns_of([None])
    for n in (0, -3, 2.5, 10**9):
        with pytest.raises(WorkbenchError, match="n is"):
            wb.compare("moons", n)


def test_same_noise_for_all_and_the_seed_decides(student):
    result = wb.compare(["eight_gaussians", Column("eight_gaussians", sampler="euler", steps=7), student, student], 16, seed=3)
    starts = [trajectory.x[0] for trajectory in result.trajectories.values()]
    assert all(torch.equal(start, starts[0]) for start in starts)
    images = list(result.images.values())
    assert torch.equal(images[2], images[3]) and not torch.equal(images[0], images[1])
    again = wb.compare(["eight_gaussians"], 16, seed=3)
    assert torch.equal(again.images["eight_gaussians"], images[0])
    assert not torch.equal(wb.compare(["eight_gaussians"], 16, seed=4).images["eight_gaussians"], images[0])


def test_stream_gives_the_same_frames_column_after_column():
    columns = columns_of(["moons", Column("moons", steps=3, sampler="ddim")])
    seen = list(stream(columns, 6, 1, seed=2))
    assert [index for index, _ in seen] == sorted(index for index, _ in seen) and sum(index == 1 for index, _ in seen) == 4
    result = wb.compare(columns, 6, 1, seed=2)
    for index, label in enumerate(result.images):
        last = [frame for place, frame in seen if place == index][-1]
        assert torch.equal(last.x, result.images[label]) and torch.equal(last.x, result.trajectories[label].final)


def test_the_table_says_what_ran(student):
    coarse = Column("eight_gaussians", "coarse", "dpmpp_2m", "logsnr", 5)
    result = wb.compare(["eight_gaussians", coarse, student], 64)
    table = result.table
    assert list(table.index) == ["eight_gaussians", "coarse", "eight_gaussians/s"] == list(result.images)
    wanted = ["sampler", "schedule", "steps", "guidance", "nfe", "ms/image", ERROR, "diversity", "sw2", "modes", "off-mode"]
    assert list(table.columns) == wanted
    assert list(table["sampler"]) == ["heun", "dpmpp_2m", "consistency"] and list(table["schedule"])[:2] == [
        "uniform",
        "logsnr",
    ]
    assert list(table["steps"]) == [25, 5, 1] and list(table["nfe"]) == [49, 5, 1]
    assert bool((table["ms/image"] >= 0).all()) and bool((table["diversity"] > 0).all())
    exact = table.loc["eight_gaussians"]
    assert exact["sw2"] < 0.2 < table.loc["eight_gaussians/s", "sw2"] and exact["modes"] == 1 and exact["off-mode"] < 0.1
    assert "eight_gaussians/s" in repr(result) and "<table" in result._repr_html_() and result.notes in repr(result)


def test_notes_name_count_seed_and_floor():
    result = wb.compare("eight_gaussians", 32, seed=5)
    assert "n = 32, seed 5" in result.notes and f"{FINE_STEPS}-step solution" in result.notes
    floor = float(result.notes.split("(floor ")[1].split(",")[0])
    exact = wb.load("eight_gaussians")
    # n = 32, seeds 2 and 1: the same two exact draws as the note
    assert floor == pytest.approx(wb.metrics.sliced_wasserstein(exact.sample(32, 2), exact.sample(32, 1)), abs=5.1e-4)


def test_guided_evaluations_count_twice():
    options = {"sampler": "euler", "steps": 4}
    columns = [Column("eight_gaussians", "guided", guidance=2.0, **options), Column("eight_gaussians", "plain", **options)]
    assert list(wb.compare(columns, 4, cond=3).table["nfe"]) == [8, 4]
    assert list(wb.compare(columns, 4).table["nfe"]) == [4, 4]  # without a class there is nothing to guide
    assert list(wb.compare(columns, 4, cond=3).table["guidance"]) == [2.0, 1.0]
    assert columns_of(columns)[0].describe().endswith("guidance 2") and "guidance" not in columns_of(columns)[1].describe()


def test_errors_refer_to_the_teachers_fine_solution():
    fine = Column("eight_gaussians", "fine", "heun", "uniform", FINE_STEPS)
    steps = [Column("eight_gaussians", str(n), "euler", steps=n) for n in (4, 8, 16, 32)]
    errors = list(wb.compare([fine, *steps], 64).table[ERROR])
    assert errors[0] == 0.0 and errors[1:] == sorted(errors[1:], reverse=True) and errors[-1] < 0.1 < errors[1]
    # the fine solution itself is close to one that is four times as fine
    finest = Column("eight_gaussians", "finest", "heun", "uniform", 4 * FINE_STEPS)
    assert wb.compare(finest, 64).table[ERROR].iloc[0] < 0.02


@pytest.mark.parametrize("order", [1, -1])
def test_the_reference_starts_from_the_noise_of_the_columns(student, order):
    """A student computes in float32 and its exact teacher in float64, whose noise of the same seed is other noise."""
    result = wb.compare([student, Column("eight_gaussians", "exact", "heun", steps=FINE_STEPS)][::order], 32)
    assert result.table.loc["exact", ERROR] < 1e-3 < 0.1 < result.table.loc["eight_gaussians/s", ERROR]


def test_the_reference_teacher(student):
    assert teacher_of(columns_of([student, "moons"])).name == "moons"  # a teacher among the columns comes first
    assert teacher_of(columns_of([student])).name == "eight_gaussians"  # then the one on the student's card
    student.card["teacher"], kept = "gone/teacher", student.card["teacher"]
    try:
        result = wb.compare(student, 4)
        assert result.reference is None and ERROR not in result.table and "Error" not in result.notes
    finally:
        student.card["teacher"] = kept


def test_fine_solution_of_one_gaussian_is_known():
    """One isotropic mode: the flow takes x to mean + scale x, exactly."""
    teacher = wb.mixture([[0.5, -1.0]], [0.3])
    from workbench.samplers.sample import noise_for

    exact = teacher.means + 0.3 * noise_for(teacher, 50, 1)
    assert float((fine_solution(teacher, 50, seed=1) - exact).abs().max()) < 2e-3


def test_classes():
    result = wb.compare("eight_gaussians", 12, cond=2)
    assert result.cond.tolist() == [2] * 12
    assert float((result.images["eight_gaussians"] - torch.tensor([0.0, 1.0])).norm(dim=1).max()) < 0.6
    mixed = wb.compare("eight_gaussians", 3, cond=[0, 4, -1])
    assert (
        mixed.cond.tolist() == [0, 4, -1]
        and mixed.images["eight_gaussians"][0, 0] > 0.5 > -0.5 > mixed.images["eight_gaussians"][1, 0]
    )
    assert wb.compare("eight_gaussians", 3).cond is None
    for cond, said in (
        (8, "class 8 does not exist"),
        ([0, 1], "3 samples need"),
        (0.5, "whole numbers"),
        ("x", "must be a label"),
    ):
        with pytest.raises(WorkbenchError, match=said):
            wb.compare("eight_gaussians", 3, cond=cond)
    with pytest.raises(WorkbenchError, match="no classes"):
        wb.compare(wb.mixture([[0.0, 0.0]], [1.0]), 3, cond=0)


def test_image_figures_need_classes_and_counts(digits):
    few = wb.compare(digits, 20, cond=[k % 10 for k in range(20)])
    assert 0 <= few.table["class agreement"].iloc[0] <= 1 and "Frechet" not in few.table
    assert f"Frechet distances need at least {FRECHET_LEAST} samples" in few.notes
    assert "class agreement" not in wb.compare(digits, 4).table
    many = wb.compare([digits, Column(digits, steps=1)], FRECHET_LEAST)
    floor = float(many.notes.split("(floor ")[1].split(",")[0])
    assert f"to {FRECHET_LEAST} real images" in many.notes and bool((many.table["Frechet"] > 5 * floor).all()) and floor > 0
    assert list(many.table["nfe"]) == [2, 1]


def test_one_sample_has_no_diversity():
    result = wb.compare("moons", 1)
    assert "diversity" not in result.table and "sw2" not in result.table and len(result.images["moons"]) == 1
