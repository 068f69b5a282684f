"""The report: one page, escaped, below 5 MB, made again by its own command; and columns in one word of a command line."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import cli
from workbench.cli.commands import classes
from workbench.compare import Column, compare
from workbench.errors import UnknownName, WorkbenchError
from workbench.report import command_of, parse_column, report, spell_column
from workbench.report.facts import class_words, facts, fingerprint, title
from workbench.views import export

HOSTILE = "</script><script>document.body.dataset.hurt=1</script><img src=x onerror=document.body.dataset.hurt=1>"


class Addresses(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[Path, str]:
    """A page of three ways to run moons, one with a hostile label."""
    models = [Column("moons"), Column("moons", label=HOSTILE, steps=3), parse_column("moons:sampler=ddim,steps=2,eta=0.5")]
    path = report(models, tmp_path_factory.mktemp("report") / "page.html", n=40, cond=1, seed=3)
    return path, path.read_text(encoding="utf-8")


def stored(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="workbench">(.*?)</script>', text, re.DOTALL)[1])


def figures(text: str) -> list[str]:
    return re.findall(r'<script type="application/json" data-plot="[\w-]+">(.*?)</script>', text, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("moons", Column("moons")),
        ("moons@4", Column("moons", steps=4)),
        ("fashion/dmd2:steps=8", Column("fashion/dmd2", steps=8)),
        ("a/b@2:sampler=euler,guidance=2", Column("a/b", steps=2, sampler="euler", guidance=2)),
        ("m:schedule=[1,0.6,0]", Column("m", schedule=[1, 0.6, 0])),
        ("m:schedule=karras,rho-min=0.01, eta=0.5", Column("m", schedule="karras", options={"rho_min": 0.01, "eta": 0.5})),
        ("./runs/a:b/student", None),
        ("m:label=it's, steps=3", Column("m", label="it's", steps=3)),
        ('m:label="a, b: c=d",steps=3', Column("m", label="a, b: c=d", steps=3)),
    ],
)
def test_a_column_is_one_word(text, column):
    found = parse_column(text)
    if column is None:
        assert found.model == text
        return
    assert replace(found, label=column.label) == column
    assert found.label == column.label or column.label is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("moons@many", "NAME@STEPS"),
        ("moons:sampelr=euler", "did you mean 'sampler'"),
        ("moons:steps", "moons:steps"),
        ("moons:steps=2,steps=3", "twice"),
        ("moons@2:steps=3", "twice"),
        ("moons:steps=2,", "key=value"),
        ("moons:steps=half", "whole number"),
        ("moons:steps=0", "at least 1"),
        ("moons:guidance=strong", "must be a number"),
        ("moons:sampler=3", "must be a name"),
    ],
)
def test_a_column_that_cannot_be_read_gets_a_sentence(text, says):
    with pytest.raises(WorkbenchError, match=re.escape(says)) as caught:
        wb.load(parse_column(text).model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        Column("moons"),
        Column("moons", steps=3),
        Column("moons", steps=3, guidance=1.5, sampler="ddim", options={"eta": 0.25}),
        Column("moons", schedule=[1.0, 1 / 3, 0.0]),
        Column("moons", schedule=torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)),
        Column("moons", schedule=wb.schedules.karras, steps=4),
        Column("moons", label=HOSTILE),
        Column("moons", label="quotes ' and \" and \\ and, comma"),
        Column("moons", label="line\nbreak", options={"t_end": 1e-7}),
        Column("moons", label="12"),
    ],
)
def test_spelling_and_reading_are_inverse(column):
    found = parse_column(shlex.split(shlex.quote(spell_column(column)))[0])
    assert found.label == (column.label or parse_column(spell_column(column)).label)
    assert str(found.resolved().plan()).replace("given", "karras") == str(column.resolved().plan()).replace("given", "karras")
    assert found.resolved().plan().times == column.resolved().plan().times
    assert (found.guidance, found.options) == (column.guidance, column.options)


@pytest.mark.parametrize("labels", [[3, 3, 3], [0, 1, 0, 1, 0], list(range(8)), [k % 8 for k in range(20)], [-1, 2], [5]])
def test_the_command_gives_the_same_labels(labels):
    words = shlex.split(command_of([Column("eight_gaussians")], len(labels), torch.tensor(labels), 1))
    args = cli.build_parser().parse_args(words[1:])
    assert classes(wb.load("eight_gaussians"), args.cond, args.n).tolist() == labels
    assert (args.seed, args.out) == (1, ["report.html"])


def test_a_model_in_hand_is_named_only_if_the_name_gives_the_same(tmp_path):
    assert spell_column(Column(wb.load("moons"))) == "moons"
    assert spell_column(Column(wb.load("digits/dmd2"))) == "digits/dmd2"
    assert spell_column(Column("moons").resolved()) == "moons"
    other = wb.mixture([[0.0, 1.0]], [0.1])
    other.name = "moons"
    with pytest.raises(WorkbenchError, match="handed over as an object"):
        spell_column(Column(other))
    text = report([other], tmp_path / "own.html", n=4).read_text()
    assert "No command makes this page again" in text and 'id="command"' not in text and stored(text)["command"] is None
    with pytest.raises(WorkbenchError, match="is a function"):
        spell_column(Column("moons", schedule=lambda path, steps: torch.linspace(1, 0, steps + 1), steps=2))


def test_the_page_is_whole_small_and_asks_nobody(page):
    path, text = page
    assert path.stat().st_size < 5_000_000
    body = re.sub(r'<script type="text/plain" id="plotly-gz">[^<]*</script>', "", text)
    asked = Addresses()
    asked.feed(body)
    assert asked.found and all(address.startswith("data:image/png;base64,") for address in asked.found)
    assert "default-src 'none'" in body and body.count('class="plot"') == len(figures(text)) >= 7
    for heading in ("The figures", "The samples of each", "When is the result decided?", "Settings", "What to cite"):
        assert f"<h2>{heading}</h2>" in body
    assert "@" in body and "BibTeX" in body and "floor" in body and "n = 40, seed 3" in body
    assert {"workbench", "python", "torch", "diffusers", "numpy"} <= set(stored(text)["versions"])


def test_nothing_from_outside_is_markup(page):
    _, text = page
    assert "document.body.dataset.hurt" in text and HOSTILE not in text
    assert "<img src=x" not in text and text.count("<script") == len(figures(text)) + 3


def test_the_command_in_the_footer_makes_the_same_page_again(page, tmp_path, monkeypatch):
    """Samples (by their SHA-256), settings, table and figures; the times that it took are the only difference."""
    _, text = page
    monkeypatch.chdir(tmp_path)
    words = shlex.split(stored(text)["command"])
    assert words[0] == "workbench" and cli.main(words[1:]) == 0
    again = (tmp_path / "page.html").read_text(encoding="utf-8")

    def lasting(content: dict) -> dict:
        place = content["table"]["columns"].index("ms/image")
        rows = {label: [v for k, v in enumerate(row) if k != place] for label, row in content["table"]["rows"].items()}
        return {**content, "table": rows}

    assert lasting(stored(again)) == lasting(stored(text))
    assert figures(again) == figures(text)
    assert re.findall(r'src="data:image/png[^"]*"', again) == re.findall(r'src="data:image/png[^"]*"', text)


def test_the_facts_are_those_of_the_comparison():
    result = compare([Column("eight_gaussians"), parse_column("eight_gaussians@3")], 30)
    told = facts(result, "a.html")
    assert told["title"] == title(result) == "eight_gaussians and eight_gaussians@3 from the same noise"
    assert [each["samples"] for each in told["columns"]] == [fingerprint(x) for x in result.images.values()]
    assert [each["nfe"] for each in told["columns"]] == result.table["nfe"].tolist()
    assert f"floor {told['floor']['value']:.3f}" in result.notes
    assert class_words(result) == "no class asked for"
    assert class_words(replace(result, cond=torch.arange(30) % 8)) == "all 8 classes in turn"


def test_images_have_grids_differences_and_film_strips(tmp_path):
    text = report(["digits/dmd2", "digits/reflow"], tmp_path / "digits.html", n=12, cond=3).read_text()
    assert "digits/dmd2 and digits/reflow from the same noise" in text and "− reference" in text
    assert len(re.findall(r"<img[^>]*data:image/png", text)) == 2 + 1 + 2  # samples, reference, differences
    assert any('"type":"image"' in figure for figure in figures(text)) and stored(text)["classes"] == "3"


@pytest.mark.parametrize("path", ["page.txt", "folder", "x.html/y.html"])
def test_a_wrong_place_gets_a_sentence_and_spoils_nothing(path, tmp_path):
    (tmp_path / "x.html").write_text("earlier")
    with pytest.raises(WorkbenchError) as caught:
        report(["moons"], tmp_path / path, n=2)
    assert "\n" not in str(caught.value) and (tmp_path / "x.html").read_text() == "earlier"
    assert path != "page.txt" or isinstance(caught.value, UnknownName)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_in_a_browser(page, chromium, width, scheme):
    from playwright.sync_api import sync_playwright

    path, text = page
    complaints, asked = [], []
    with sync_playwright() as playwright:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        view.set_default_timeout(120_000)
        view.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(path.as_uri())
        view.wait_for_selector('html[data-ready="1"]')
        assert view.locator(".js-plotly-plot .main-svg").count() >= len(figures(text))
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate("document.body.dataset.hurt") is None
        assert view.locator("#command").inner_text() == stored(text)["command"]
        paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 380) == (scheme == "light")
        browser.close()
    assert not complaints
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def test_a_page_that_grows_too_large_shows_fewer_samples(monkeypatch, tmp_path):
    from workbench.report import page as pages

    full = report(["digits/dmd2"], tmp_path / "full.html", n=36).stat().st_size
    monkeypatch.setattr(pages, "MOST_BYTES", full - 1000)  # pages differ by bytes: each holds its name and time
    small = report(["digits/dmd2"], tmp_path / "small.html", n=36)
    assert small.stat().st_size < full and "The same 36 samples" not in small.read_text()
    monkeypatch.setattr(pages, "MOST_BYTES", 1000)
    with pytest.raises(WorkbenchError, match="above 5 MB"):
        report(["digits/dmd2"], tmp_path / "none.html", n=4)


def test_pictures_of_the_page_are_those_of_the_samples():
    """The first grid of a page of images holds the samples' own pixels."""
    import base64

    result = compare(["digits/dmd2"], 4)
    from workbench.report.figures import LEVELS, Drawer, sections

    html = next(iter(sections(Drawer(result), LEVELS[0]))).html
    picture = export.pixels(base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", html)[1]))
    assert np.array_equal(picture, wb.views.image_grid(result.images["digits/dmd2"], 2, 2 * 58))
