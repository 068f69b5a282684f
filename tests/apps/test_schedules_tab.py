"""The Schedules tab: what is measured, times by hand, a fit that stops, plans that are kept and that Compare then runs."""

from __future__ import annotations

import re
from html import unescape

import pytest
import torch

pytest.importorskip("gradio_client")
from gradio_client import Client

from apps import laboratory, session, work
from workbench import compare, metrics, plans, samplers, zoo
from workbench.errors import WorkbenchError

SPACE, TIMES = "eight_gaussians", "1, 0.7, 0.3, 0"
SAID, TABLE, LEARNED = 1, 2, 8


@pytest.fixture
def client(served, tmp_path, home):
    return Client(served[1], verbose=False, download_files=str(tmp_path))


def ask(
    space=SPACE, teacher=SPACE, sampler="ddim", steps=3, seed=0, overlaid=("by hand", "uniform"), hand=TIMES, shown="by hand"
):
    return [space, teacher, sampler, steps, seed, list(overlaid), hand, shown]


def text(output) -> str:
    value = output.get("value") if isinstance(output, dict) and "__type__" in output else output
    return unescape(re.sub("<[^>]+>", " ", str(value))).strip()


def test_the_table_is_the_distance_to_the_fine_solution(client):
    final = client.predict(*ask(), api_name="/schedules")
    model = zoo.load(SPACE)
    fine = compare.fine_solution(model, laboratory.POINTS, None, 0)
    column = compare.Column(model, "hand", "ddim", [1.0, 0.7, 0.3, 0.0], 3)
    *_, (_, frame) = compare.stream([column.resolved()], laboratory.POINTS, None, 0)
    expected = float(metrics.trajectory_error(frame.x, fine))
    assert re.search(rf"by hand\s+{expected:.4g}", text(final[TABLE])) and "n = 500, seed 0" in text(final[TABLE])
    assert "Least error" in text(final[SAID])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"hand": "1, 0.3, 0.7, 0"}, "must fall, but 0.7 follows 0.3"),
        ({"hand": "1, abc, 0"}, "'abc'"),
        ({"hand": "1, nan, 0"}, "'nan'"),
        ({"hand": "1, 0.5, 0"}, "3 times by hand are 2 steps, not 3"),
        ({"hand": ""}, "0 times by hand"),
        ({"steps": 21}, "from 1 to 20"),
        ({"sampler": "oiler"}, "did you mean 'euler'"),
        ({"overlaid": ["karas"]}, "did you mean 'karras'"),
        ({"overlaid": []}, "tick at least one"),
        ({"teacher": "../x"}, "unknown teacher"),
        ({"seed": -1}, "the seed"),
    ],
)
def test_bad_input_gets_one_sentence(served, wrong, told):
    with pytest.raises(WorkbenchError, match=re.escape(told)):
        laboratory.check(*ask(**wrong), laboratory.Page())


def test_the_page_tells_an_error_without_a_traceback(client):
    said = text(client.predict(*ask(hand="1, <b>x</b>, 0"), api_name="/schedules")[SAID])
    assert "must be numbers" in said and "Traceback" not in said


def test_a_fit_beats_its_start_stops_and_is_kept_for_compare(client, home, until):
    job = client.submit(*ask(overlaid=["uniform"], shown="uniform"), ["rows", "times"], "3 minutes", api_name="/fit")
    until(lambda: job.done() or any("Iteration" in text(output[LEARNED]) for output in job.outputs()))  # has learned something
    client.predict(api_name="/stop_fit")
    job.result(timeout=30)
    told = " ".join(text(output[LEARNED]) for output in job.outputs())
    assert "Stopped after" in told and "against" in told, told
    said = client.predict(*ask(overlaid=["uniform"], shown="fitted"), "mine", False, api_name="/save_plan")[0]
    assert "saved:mine" in text(said)
    again = client.predict(*ask(overlaid=["uniform"], shown="fitted"), "mine", False, api_name="/save_plan")[0]
    assert "there already" in text(again)
    plan = plans.load("mine")
    assert plan.sampler == "lsd(ddim)" and plans.names("linear") == ["mine"] and plans.names("vp") == []
    assert "saved:mine" in session.schedules_of(SPACE, SPACE)
    setup = session.check(SPACE, [(SPACE, "euler", "saved:mine", 3, 1.0)], 6, 0, session.NONE)
    assert work.columns_of(setup)[0].plan() == plan
    with pytest.raises(WorkbenchError, match="has 3 steps, not 8"):
        session.check(SPACE, [(SPACE, "euler", "saved:mine", 8, 1.0)], 6, 0, session.NONE)


class Counted(laboratory.Watched):
    """Remembers how often it had been asked when it was told to stop."""

    at = None

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "stop" and value and self.at is None:
            super().__setattr__("at", self.calls)


def test_a_fit_ends_within_one_evaluation(monkeypatch):
    asked = laboratory.check(*ask(), laboratory.Page())
    start = laboratory.plan_of(asked, "uniform", laboratory.Page())
    asked_of = []
    monkeypatch.setattr(laboratory, "Watched", lambda model: asked_of.append(Counted(model)) or asked_of[0])
    reports = [one for one in laboratory.fitting(asked, start, ["rows"], 60, lambda: True) if not isinstance(one, int)]
    (teacher,) = asked_of
    assert len(reports) <= 1 and teacher.at <= teacher.calls <= teacher.at + 1


def test_a_saved_schedule_gives_its_times_and_keeps_the_sampler(home):
    made = samplers.plan("ddim", "linear", schedule=[1.0, 0.4, 0.0])
    plans.save(made, "two")
    assert compare.Column(SPACE, sampler="euler", schedule="saved:two").resolved().plan().times == made.times
    assert compare.Column(SPACE, sampler="euler", schedule="saved:two").resolved().plan().sampler == "euler"
    for name in ("../two", "a,b", "", ".x", "x" * 60):
        with pytest.raises(WorkbenchError, match="cannot be named"):
            plans.save(made, name)
    with pytest.raises(WorkbenchError, match="did you mean 'two'"):
        plans.load("twoo")
    with pytest.raises(WorkbenchError, match="there already"):
        plans.save(made, "two")
    (plans.folder() / "bad.json").write_text("[1]")
    assert plans.names() == ["two"]


def test_more_steps_keep_the_shape():
    assert laboratory.stretched((1.0, 0.5, 0.0), 4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert torch.tensor(laboratory.stretched((1.0, 0.9, 0.1, 0.0), 7)).diff().max() < 0


@pytest.mark.browser
def test_a_dragged_point_changes_times_error_and_samples(browser, served):
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)  # milliseconds; a busy machine is not a fault
    page.goto(f"{served[1]}?space={SPACE}&n=20&c1={SPACE},euler,own,2,1")
    page.wait_for_selector("#message [data-done='1']")
    page.get_by_role("tab", name="Schedules", exact=True).click()
    page.wait_for_selector("#plan-said [data-done='1']")
    before, picture = page.locator("#plan-errors").inner_text(), page.locator("#plan-samples img").first.get_attribute("src")
    point = page.locator("[data-point='3']").bounding_box()
    x, y = point["x"] + point["width"] / 2, point["y"] + point["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(6):
        page.mouse.move(x, y + 6 * k)
    page.mouse.up()
    shown = page.locator("#board output").inner_text()
    moved = re.search(r"t = ([\d.]+)", shown)[1].rstrip("0")
    page.wait_for_function("(t) => document.querySelector('#hand input, #hand textarea').value.includes(t)", arg=moved)
    page.wait_for_function("(old) => document.querySelector('#plan-errors').innerText !== old", arg=before)
    page.wait_for_function("(old) => document.querySelector('#plan-samples img').getAttribute('src') !== old", arg=picture)
    page.get_by_role("tab", name="Compare", exact=True).click()
    assert page.locator("#picture-0 canvas").is_visible()
    page.close()
