"""The health of a run's players: what is drawn is what was logged, averaged over stretches."""

from __future__ import annotations

import json

import pytest

from workbench import views
from workbench.errors import UnknownName, WorkbenchError
from workbench.views import notebook


def row(step: int) -> dict[str, float]:
    made = {
        "step": step,
        "seconds": 0.1 * step,
        "student": 0.5,
        "student/grad_norm": 2.0 / step,
        "critic/grad_norm": 0.5,
        "student/ratio_ess": 0.8,
    }
    for k in range(10):
        made |= {f"student/gap/{k}": 10.0**-k, f"critic/loss/{k}": 0.1 + k, f"student/ratio/{k}": 1.0}
        made |= {f"critic/calibration/{k}": (k + 0.5) / 10 if step > 50 else 0.0, f"critic/share/{k}": 0.1}
    if step % 2:
        del made["student/gap/3"]  # an empty tenth is not logged
    return made


ROWS = [row(step) for step in range(1, 201)]


@pytest.mark.parametrize("axis", ["step", "seconds"])
@pytest.mark.parametrize("name", ["gradients", "gap", "critic", "calibration", "weights", "ratio"])
def test_a_figure_says_what_it_shows_and_can_be_sketched(name, axis):
    figure = views.health(ROWS, axis)[name]
    layout = json.loads(figure.to_json())["layout"]
    assert layout["title"]["text"].count("?") == 1 and all(layout[f"{side}axis"]["title"]["text"] for side in "xy")
    assert "NaN" not in figure.to_json() and "nan" not in notebook.svg(figure) and len(figure.to_json()) < 60_000


def test_levels_are_means_of_what_was_logged():
    heat = views.by_level(ROWS, "gap").data[0]
    assert len(heat.x) <= 60 and heat.x[-1] == 200 and len(heat.z) == 10
    assert [line[0] for line in heat.customdata] == pytest.approx([10.0**-k for k in range(10)], rel=1e-2)


def test_calibration_is_of_the_newest_rows():
    assert views.calibration_error(ROWS) == pytest.approx(0.0, abs=1e-9)
    assert views.calibration_error(ROWS[:40]) == pytest.approx(0.5)
    assert "Calibration error 0.5" in views.reliability_curve(ROWS[:40]).layout.title.text


def test_a_recipe_without_a_player_says_so():
    plain = [{"step": 1, "seconds": 0.1, "student": 1.0}]
    assert views.health(plain) == {} and views.health([]) == {}
    for wrong in (
        lambda: views.reliability_curve(plain), lambda: views.by_level(plain, "gap"), lambda: views.gradient_norms(plain),
        lambda: views.calibration_error(plain), lambda: views.by_level(ROWS, "loss of weight"),
    ):  # fmt: skip
        with pytest.raises(WorkbenchError) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    with pytest.raises(UnknownName, match="did you mean 'step'"):
        views.health(ROWS, "steps")
