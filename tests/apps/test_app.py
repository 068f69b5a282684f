"""The Compare tab through its interface: what streams, what bad input gets, what stops."""

from __future__ import annotations

import re
import socket
import time
from html import unescape
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio_client")
from gradio_client import Client

from apps import main, session
from workbench import compare, zoo
from workbench.errors import WorkbenchError

OWN, ANY, NONE = session.OWN, session.ANY, session.NONE
EXACT = ("eight_gaussians", "euler", OWN, 6, 1.0)
SPACES = ["eight_gaussians", *[space for space in ("digits",) if (zoo.BUNDLED / space / "teacher" / "card.json").exists()]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served():
    demo = main.build()
    _, url, _ = demo.launch(server_port=free_port(), prevent_thread_lock=True, **main.settings())
    yield demo, url
    main.close(demo)


@pytest.fixture
def client(served, tmp_path):
    return Client(served[1], verbose=False, download_files=str(tmp_path))


def ask(space="eight_gaussians", label=NONE, count=8, seed=0, columns=(EXACT, EXACT)) -> list:
    """Everything that /generate takes, in its order."""
    four = [*columns, *[columns[0]] * (4 - len(columns))]
    return [space, label, count, seed, len(columns), *(value for column in four for value in column)]


def message(outputs) -> str:
    """The line over the pictures, without its tags."""
    return unescape(re.sub("<[^>]+>", "", text(outputs[8]))).strip()


def text(value) -> str:
    return str(value.get("value") if isinstance(value, dict) else value)


@pytest.mark.parametrize("space", SPACES)
def test_generate_streams_every_step_and_ends_with_the_table(client, space):
    picked = session.defaults(space, 2)
    columns = [setting._replace(steps=min(setting.steps, 6)) for setting in picked]
    job = client.submit(*ask(space, ANY if space == "digits" else NONE, 8, 3, columns), api_name="/generate")
    final = job.result(timeout=240)
    frames = job.outputs()
    told = " ".join(text(output[4]) for output in frames)
    statuses = set(re.findall(r"evaluation (\d+) of", told))
    assert len(statuses) >= columns[0].steps - 1, "the first column did not stream its steps"
    assert "Done in" in message(final)
    table = text(final[9])
    assert "error to fine solution" in table and "nfe" in table and "diversity" in table
    assert all(f"<td>{setting.steps}</td>" in table for setting in columns)
    pictures = [text(output[0]) for output in frames if isinstance(output[0], dict) and output[0].get("value")]
    assert len(pictures) >= columns[0].steps and Path(pictures[-1]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"space": "eigt_gaussians"}, "did you mean 'eight_gaussians'"),
        ({"label": "trouser"}, "unknown class"),
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
        ({"columns": [("eight_gaussians", "euler", OWN, 201, 1.0), EXACT]}, "from 1 to 200"),
        ({"columns": [("eight_gaussians", "euler", OWN, 4, 1e9), EXACT]}, "from 0 to 20"),
        ({"columns": [("eight_gaussians", "euler", OWN, 4, None), EXACT]}, "guidance is None"),
        ({"columns": [(["a"], "euler", OWN, 4, 1.0), EXACT]}, "unknown model"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(client, wrong, told):
    final = client.submit(*ask(**wrong), api_name="/generate").result(timeout=120)
    said = message(final)
    assert told.lower() in said.lower() and "Traceback" not in said and said.count("\n") == 0


def test_nan_is_refused_before_anything_runs():
    nan = float("nan")
    for wrong in ({"count": nan}, {"seed": nan}, {"columns": [("eight_gaussians", "euler", OWN, 4, nan)]}):
        asked = {"space": "eight_gaussians", "columns": [EXACT], "count": 8, "seed": 0, "label": NONE} | wrong
        with pytest.raises(WorkbenchError):
            session.check(**asked)


def test_a_stopped_run_evaluates_at_most_one_step_more(served, client, monkeypatch):
    calls = []
    model = session.load("eight_gaussians")

    class Slow:
        def __init__(self):
            self.calls = calls

        def __getattr__(self, name):
            return getattr(model, name)

        def __call__(self, x, t, cond=None):
            self.calls.append(time.monotonic())
            time.sleep(0.05)
            return model(x, t, cond)

    slow = Slow()
    monkeypatch.setattr(session, "load", lambda name: slow)
    session.columns_of.cache_clear()
    try:
        job = client.submit(*ask(columns=[("eight_gaussians", "euler", OWN, 200, 1.0)] * 2), api_name="/generate")
        while len(calls) < 5:
            time.sleep(0.02)
        job.cancel()
        stopped = len(calls)
        time.sleep(1.0)
        assert len(calls) <= stopped + 3 < 200
    finally:
        session.columns_of.cache_clear()


def test_a_clicked_sample_is_the_one_that_was_shown():
    setup = session.check("eight_gaussians", [("eight_gaussians", "ddim", "karras", 5, 1.0), EXACT], 120, 7, NONE)
    ends = {index: frame for index, frame in session.frames(setup)}
    trajectories, place = session.one_sample(setup, 101)
    for index, trajectory in enumerate(trajectories.values()):
        assert torch.allclose(trajectory.final[place], ends[index].x[101])


def test_the_fine_solution_is_that_of_compare():
    setup = session.check("eight_gaussians", [EXACT], 5, 2, "class 3")
    *_, (_, solution) = session.reference(setup)
    assert torch.allclose(solution, compare.fine_solution(zoo.load("eight_gaussians"), 5, 3, 2))


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
