"""What notebooks show: figures with a sketch that is proper SVG, pictures, a density that sums to one."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

import workbench as wb
from workbench import views
from workbench.errors import WorkbenchError
from workbench.views import notebook
from workbench.views.sketch import svg


@pytest.fixture(scope="module")
def drawn():
    teacher = wb.load("eight_gaussians")
    plan = wb.plan("heun", teacher.path, 4)
    run = wb.record(wb.run(plan, teacher, torch.randn(20, 2, generator=torch.Generator().manual_seed(0))))
    exact = notebook.density(teacher.log_density)
    return {
        "row": notebook.particle_row({"a": run, "b": run}, exact),
        "paths": views.particles(run, "a", exact, j=3),
        "table": views.plan_table(plan),
        "schedule": views.log_snr({"a": plan}),
        "errors": views.error_curve({"a": [(4, 0.1), (8, 0.05)]}, floor=0.02),
        "distilling": notebook.distilling("reflow", run.final, exact, [(1.0, 0.5), (2.0, 0.1)], 0.04),
    }


@pytest.mark.parametrize("name", ["row", "paths", "table", "schedule", "errors", "distilling"])
def test_a_sketch_is_svg_with_the_title_and_every_curve(drawn, name):
    root = ElementTree.fromstring(svg(drawn[name]))
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(drawn[name].layout.title.text.replace("<b>", "").replace("</b>", "").split("<br>")) <= set(texts)
    assert len(list(root.iter())) > 12 and "nan" not in svg(drawn[name])


def test_points_keep_their_place_in_the_sketch(drawn):
    """A falling error falls on the picture: its second marker lies to the right of the first, and lower."""
    root = ElementTree.fromstring(svg(drawn["errors"]))
    marks = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert marks[1][0] > marks[0][0] + 100 and marks[1][1] > marks[0][1] + 20


def test_bundles_carry_plotly_and_a_fallback(drawn):
    assert set(notebook.bundle(drawn["errors"])) == {"application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"}
    picture = notebook.image_rows({"a": torch.zeros(3, 1, 8, 8), "b": torch.ones(3, 1, 8, 8)})
    assert notebook.bundle(picture)["image/png"].startswith(b"\x89PNG") and picture[90, -10, 0] == 255


def test_the_density_is_exact():
    teacher = wb.mixture([[0.5, -0.5]], [0.3])
    exact = notebook.density(teacher.log_density, size=121)
    assert exact.z.sum() * (exact.x[1] - exact.x[0]) ** 2 == pytest.approx(1.0, abs=1e-3)
    assert exact.x[exact.z.max(0).argmax()] == pytest.approx(0.5, abs=0.03)  # columns are x, rows are y
    assert exact.y[exact.z.max(1).argmax()] == pytest.approx(-0.5, abs=0.03)


def test_nothing_to_draw_is_said():
    with pytest.raises(WorkbenchError, match="no trajectory to draw"):
        notebook.particle_row({})
    with pytest.raises(WorkbenchError, match="no images to draw"):
        notebook.image_rows({})
