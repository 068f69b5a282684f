"""The Compare tab through its interface: what streams, what follows a slider, what bad input gets, what stops."""

from __future__ import annotations

import base64
import re
import threading
import time
from html import unescape
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch

pytest.importorskip("gradio_client")
from gradio_client import Client

from apps import links, live, main, session, stream, work
from workbench import compare, zoo
from workbench.errors import WorkbenchError

OWN, ANY, NONE = session.OWN, session.ANY, session.NONE
EXACT = ("eight_gaussians", "euler", OWN, 6, 1.0)
SPACES = ["eight_gaussians", *[space for space in ("digits",) if (zoo.BUNDLED / space / "teacher" / "card.json").exists()]]
MESSAGE, TABLE, LINK = 4, 5, -1  # places in the outputs that a client sees; neither state nor buttons are sent


@pytest.fixture
def client(served, tmp_path):
    return Client(served[1], verbose=False, download_files=str(tmp_path))


def ask(space="eight_gaussians", label=NONE, count=8, seed=0, columns=(EXACT, EXACT)) -> list:
    """Everything that /generate takes, in its order."""
    four = [*columns, *[columns[0]] * (4 - len(columns))]
    return [space, label, count, seed, len(columns), *(value for column in four for value in column)]


def value_of(output):
    return output.get("value") if isinstance(output, dict) and "__type__" in output else output


def latest(job, place: int):
    """The last value that a job has sent for an output; what a yield leaves out arrives as an empty update."""
    return [found for output in job.outputs() if (found := value_of(output[place])) is not None][-1]


def message(outputs) -> str:
    """The line over the pictures, without its tags."""
    return unescape(re.sub("<[^>]+>", "", str(value_of(outputs[MESSAGE])))).strip()


def frames_of(outputs: list, k: int) -> list[dict]:
    """Every frame of column k that a run has sent, in order."""
    found, last = [], None
    for output in outputs:
        sent = value_of(output[k])
        if isinstance(sent, dict) and sent is not last and sent.get("frames"):
            found += [frame for frame in sent["frames"] if not found or frame["k"] > found[-1]["k"]]
        last = sent
    return found


@pytest.mark.parametrize("space", SPACES)
def test_generate_streams_every_step_and_ends_with_the_table(client, space):
    picked = session.defaults(space, 2)
    columns = [setting._replace(steps=min(setting.steps, 6)) for setting in picked]
    job = client.submit(*ask(space, ANY if space == "digits" else NONE, 8, 3, columns), api_name="/generate")
    final = job.result(timeout=240)  # the client keeps every message before this one, so `outputs` is whole
    assert "Done in" in message(final), message(final)
    for k, setting in enumerate(columns):
        assert [frame["k"] for frame in frames_of(job.outputs(), k)] == list(range(setting.steps + 1))
    table = str(value_of(final[TABLE]))
    assert "error to fine solution" in table and "nfe" in table and "diversity" in table
    assert all(f"<td>{setting.steps}</td>" in table for setting in columns)
    assert links.from_query(dict(parse_qsl(latest(job, LINK)))).seed == 3


def test_what_is_sent_is_what_the_executor_computed(client):
    job = client.submit(*ask(count=5, seed=4, columns=[EXACT]), api_name="/generate")
    job.result(timeout=120)
    model = zoo.load("eight_gaussians")
    expected = compare.compare([compare.Column(model, "x", "euler", None, 6)], 5, None, 4).trajectories["x"]
    for frame, x, target in zip(frames_of(job.outputs(), 0), expected.x, expected.target, strict=True):
        for sent, exact in ((frame["x"], x), (frame["target"], target)):
            values = np.frombuffer(base64.b64decode(sent), "<i2").reshape(5, 2) / stream.UNIT
            assert np.abs(values - exact.numpy()).max() <= 0.51 / stream.UNIT


def test_the_last_message_alone_is_the_whole_run():
    setup = session.check("eight_gaussians", [EXACT, (*EXACT[:3], 2, 1.0)], 5, 4, NONE)
    *streamed, (last, end) = live.messages(setup, 0)
    assert [frame["k"] for message, _ in streamed for frame in message["frames"]] == list(range(7))
    assert last["frames"] == [frame for message, _ in streamed for frame in message["frames"]]  # a slow page sees only this one
    assert last["begin"] == streamed[0][0]["begin"] and end is streamed[-1][1]
    parts = live.Parts(["p0", "p1", "p2", "p3"], "message", "table", "shown", "start", "stop", "link")
    for _ in range(2):  # run, then from memory
        shown = [update["p0"] for update in live.opening(parts, None, setup) if "p0" in update][-1]
        assert [frame["k"] for frame in shown["frames"]] == list(range(7)) and shown["begin"]["label"] == last["begin"]["label"]


def test_images_travel_as_bytes():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    assert list(base64.b64decode(stream.packed(x))) == [0, 0, 128, 255]
    rgb = torch.stack([torch.full((2, 2), value) for value in (-1.0, 0.0, 1.0)])[None]
    assert list(base64.b64decode(stream.packed(rgb)))[:3] == [0, 128, 255]


def test_a_moved_slider_redraws_what_is_quick_and_marks_what_is_slow(client, monkeypatch):
    monkeypatch.setattr(live, "QUICK", 1e9)
    outputs = client.submit(*ask(count=6, columns=[EXACT, (*EXACT[:3], 9, 1.0)]), api_name="/live")
    outputs.result(timeout=60)
    assert [len(frames_of(outputs.outputs(), k)) for k in (0, 1)] == [7, 10]
    monkeypatch.setattr(live, "QUICK", 0.0)
    slow = client.submit(*ask(count=6, seed=1), api_name="/live")
    slow.result(timeout=60)
    assert not frames_of(slow.outputs(), 0) and latest(slow, 0)["stale"] and "press Generate" in latest(slow, MESSAGE)


def test_only_the_column_whose_control_moved_is_drawn_again(monkeypatch):
    monkeypatch.setattr(live, "QUICK", 1e9)
    parts = live.Parts(["p0", "p1", "p2", "p3"], "message", "table", "shown", "start", "stop", "link")
    first = list(live.live(parts, None, *ask(columns=[EXACT, (*EXACT[:3], 9, 1.0)])))
    shown = first[-1]["shown"]
    moved = list(live.live(parts, shown, *ask(columns=[EXACT, (*EXACT[:3], 3, 1.0)])))
    drawn = {key for update in moved for key in update if str(key).startswith("p")}
    assert drawn == {"p1"}
    assert moved[-1]["shown"].ends[0] is shown.ends[0]
    again = list(live.live(parts, moved[-1]["shown"], *ask(seed=5, columns=[EXACT, (*EXACT[:3], 3, 1.0)])))
    assert {key for update in again for key in update if str(key).startswith("p")} == {"p0", "p1"}


def test_the_table_after_a_change_is_that_of_a_full_run(monkeypatch):
    monkeypatch.setattr(live, "QUICK", 1e9)
    monkeypatch.setattr(live, "QUICK_REFERENCE", 1e9)
    parts = live.Parts(["p0", "p1", "p2", "p3"], "message", "table", "shown", "start", "stop", "link")
    values = ask(count=40, seed=2, columns=[EXACT, (*EXACT[:3], 9, 1.0)])
    shown = list(live.live(parts, None, *values))[-1]["shown"]
    quick = list(live.measure(parts, shown))[-1]["table"]
    full = [update["table"] for update in live.generate(parts, None, *values) if "table" in update][-1]
    names = re.findall(r"<th>([^<]+)</th>", quick)
    place = [name.rstrip(" ↓↑") for name in names].index("ms/image") - 1
    rows = [re.findall(r"<td>.*?</td>", table) for table in (quick, full)]
    width = len(names) - 1
    assert len(rows[0]) == len(rows[1]) == 2 * width
    for at, (one, other) in enumerate(zip(*rows, strict=True)):
        if at % width != place:
            assert one == other


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"space": "eigt_gaussians"}, "did you mean 'eight_gaussians'"),
        ({"label": "trouser"}, "unknown class"),
        ({"label": "<script>alert(1)</script>"}, "unknown class"),
        ({"count": 10**9}, "whole number from 1 to 2000"),
        ({"count": None}, "whole number"),
        ({"count": 2.5}, "whole number"),
        ({"count": "many"}, "whole number"),
        ({"seed": -1}, "the seed"),
        ({"columns": [("moon", "euler", OWN, 4, 1.0), EXACT]}, "unknown model"),
        ({"columns": [("moons", "euler", OWN, 4, 1.0), EXACT]}, "unknown model of eight_gaussians"),
        ({"columns": [("../../etc", "euler", OWN, 4, 1.0), EXACT]}, "unknown model"),
        ({"columns": [("eight_gaussians", "oiler", OWN, 4, 1.0), EXACT]}, "did you mean 'euler'"),
        ({"columns": [("eight_gaussians", "euler", "karas", 4, 1.0), EXACT]}, "did you mean 'karras'"),
        ({"columns": [("eight_gaussians", "euler", OWN, session.MOST_STEPS + 1, 1.0), EXACT]}, f"from 1 to {session.MOST_STEPS}"),
        ({"columns": [("eight_gaussians", "euler", OWN, 4, 1e9), EXACT]}, f"from 0 to {session.GUIDANCE[1]:g}"),
        ({"columns": [("eight_gaussians", "euler", OWN, 4, None), EXACT]}, "guidance is None"),
        ({"columns": [(["a"], "euler", OWN, 4, 1.0), EXACT]}, "unknown model"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", ["/generate", "/live"])
def test_bad_input_gets_one_sentence(client, wrong, told, endpoint):
    final = client.submit(*ask(**wrong), api_name=endpoint).result(timeout=120)
    said = message(final)
    assert told.lower() in said.lower() and "Traceback" not in said and said.count("\n") == 0
    assert "<script" not in str(value_of(final[MESSAGE]))


def test_nan_is_refused_before_anything_runs():
    nan = float("nan")
    for wrong in ({"count": nan}, {"seed": nan}, {"columns": [("eight_gaussians", "euler", OWN, 4, nan)]}):
        asked = {"space": "eight_gaussians", "columns": [EXACT], "count": 8, "seed": 0, "label": NONE} | wrong
        with pytest.raises(WorkbenchError):
            session.check(**asked)


class Slow:
    """The exact teacher, 50 ms an evaluation, counting its calls; batches of `held` samples wait for `gate`."""

    def __init__(self, model):
        self.model, self.calls, self.held, self.gate = model, [], None, threading.Event()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, x, t, cond=None):
        self.calls.append(len(x))
        if len(x) == self.held:
            self.gate.wait(120)
        time.sleep(0.05)
        return self.model(x, t, cond)


@pytest.fixture
def slow(monkeypatch):
    model = Slow(session.load("eight_gaussians"))
    monkeypatch.setattr(work, "load", lambda name: model)
    for kept in (work.columns_of.cache_clear, work.pace_of.clear, work._fine.clear):
        kept()
    yield model
    model.gate.set()
    for kept in (work.columns_of.cache_clear, work.pace_of.clear, work._fine.clear):
        kept()


def test_a_stopped_run_evaluates_at_most_one_step_more(client, slow, until):
    columns = [("eight_gaussians", "euler", OWN, session.MOST_STEPS, 1.0)] * 2
    job = client.submit(*ask(columns=columns), api_name="/generate")
    until(lambda: len(slow.calls) >= 5 and job.outputs())  # a client that has heard nothing yet does not know what to cancel
    job.cancel()
    stopped = len(slow.calls)
    time.sleep(1.0)
    assert len(slow.calls) <= stopped + 3 < session.MOST_STEPS


def test_two_people_do_not_wait_for_or_disturb_each_other(served, slow, tmp_path, until, monkeypatch):
    monkeypatch.setattr(live, "QUICK", 1e9)
    one, other = (Client(served[1], verbose=False, download_files=str(tmp_path)) for _ in range(2))
    slow.held = 9  # the first person's run stands still in its first evaluation
    columns = [("eight_gaussians", "euler", OWN, session.MOST_STEPS, 1.0)] * 2
    busy = one.submit(*ask(count=9, seed=1, columns=columns), api_name="/generate")
    until(lambda: 9 in slow.calls)
    quick = other.submit(*ask(seed=2, columns=[("eight_gaussians", "euler", OWN, 2, 1.0)]), api_name="/live")
    quick.result(timeout=60)
    assert not busy.done() and slow.calls.count(9) == 1, "the second person waited for the first"
    assert "seed=2" in latest(quick, LINK) and [f["k"] for f in frames_of(quick.outputs(), 0)] == [0, 1, 2]
    slow.gate.set()
    until(lambda: frames_of(busy.outputs(), 0))  # and goes on as if nothing had been
    assert "seed=1" in latest(busy, LINK)
    busy.cancel()


def test_what_a_page_keeps_is_bounded():
    for space in session.spaces():
        size = 4 * session.most_count(space)
        for side in session.shape_of(session.spaces()[space][0]):
            size *= side
        assert size <= 4 * session.MOST_NUMBERS
    settings = main.settings()
    assert settings["state_session_capacity"] <= 64


def test_a_clicked_sample_is_the_one_that_was_shown():
    setup = session.check("eight_gaussians", [("eight_gaussians", "ddim", "karras", 5, 1.0), EXACT], 120, 7, NONE)
    trajectories, place = work.one_sample(setup, 101)
    for k, trajectory in enumerate(trajectories.values()):
        *_, end = work.frames(setup, k)
        assert torch.allclose(trajectory.final[place], end.x[101])
        assert torch.allclose(work.one_end(setup, k, 101)[0], end.x[101])


def test_the_fine_solution_is_that_of_compare():
    setup = session.check("eight_gaussians", [EXACT], 5, 2, "class 3")
    *_, (_, solution) = work.reference(setup)
    assert torch.allclose(solution, compare.fine_solution(zoo.load("eight_gaussians"), 5, 3, 2))
    assert work.solution(setup) is solution


def test_controls_start_from_the_models_own_plan():
    for space, entries in session.spaces().items():
        for entry in entries:
            own = session.own_setting(entry)
            assert session.describe(space, own).startswith("Its own plan")
            assert session.describe(space, own._replace(steps=own.steps + 9)).startswith("Changed")


def test_only_this_machine_is_served(served):
    demo, url = served
    assert url.startswith("http://127.0.0.1:") and not demo.share_url
    assert not demo.analytics_enabled
