"""References: every part has one, every entry is BibTeX that LaTeX can read, and each thing cites what it uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import workbench as wb
from workbench import metrics, paths, schedules
from workbench.cite import REFERENCES, USES, bibtex, cite
from workbench.compare import Column
from workbench.distill.recipes import RECIPES
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent
ENTRY = re.compile(r"@(?P<kind>[a-z]+)\{(?P<key>[a-z0-9]+),\n(?P<fields>(?:  [A-Za-z]+ = \{.*\},?\n)+)\}")


def keys(*things) -> list[str]:
    return [match["key"] for match in ENTRY.finditer(bibtex(*things))]


@pytest.mark.parametrize(
    "registry", [SAMPLERS, schedules.NAMES, paths.NAMES, RECIPES], ids=["samplers", "schedules", "paths", "recipes"]
)
def test_everything_that_has_a_name_has_a_reference(registry):
    for name in registry:
        assert keys(name), f"{name} has no reference: add it to USES in workbench/cite.py"


def test_every_paper_that_the_source_names_is_in_the_table():
    """A docstring that says where a thing is from, and a table without it, would leave the paper out of every report."""
    known = {reference.eprint for reference in REFERENCES.values()}
    cited = {
        number
        for file in (ROOT / "workbench").rglob("*.py")
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", file.read_text(encoding="utf-8"))
    }
    assert len(cited) > 15 and not cited - known, sorted(cited - known)


def test_a_recipe_cites_the_paper_that_it_names():
    for recipe in RECIPES.values():
        assert recipe.paper.removeprefix("arXiv ") in bibtex(recipe)
        assert set(keys(recipe.name)) <= set(keys(recipe)) and set(keys(recipe.sampling.sampler)) <= set(keys(recipe))


def test_entries_are_whole_sorted_unique_and_ascii():
    text = bibtex()
    blocks = text.split("\n\n")
    found = [ENTRY.fullmatch(block) for block in blocks]
    assert all(found), [block for block, match in zip(blocks, found, strict=True) if not match]
    names = [match["key"] for match in found]
    assert names == sorted(set(names)) == sorted(REFERENCES)
    assert text.isascii()
    for match in found:
        fields = dict(re.findall(r"  (\w+) = \{(.*)\},?\n", match["fields"]))
        assert {"title", "author", "year"} <= set(fields)
        assert re.fullmatch(r"\{[^{}].*\}", fields["title"]), "capitals of the title are not protected"
        for value in fields.values():
            depth = [value[:end].count("{") - value[:end].count("}") for end in range(len(value) + 1)]
            assert min(depth) == depth[-1] == 0, value
        assert {"inproceedings": "booktitle", "article": "journal"}.get(match["kind"], "title") in fields
        assert "eprint" not in fields or re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"])
        assert 2000 < int(fields["year"]) < 2100
        people = fields["author"].split(" and ")
        assert all(", " in person or person.startswith("{") or person == "others" for person in people), fields["author"]


def test_no_paper_is_listed_twice():
    for values in ([r.eprint for r in REFERENCES.values() if r.eprint], [r.title for r in REFERENCES.values()]):
        assert len(values) == len(set(values))
    assert {key for used in USES.values() for key in used} == set(REFERENCES), "an entry that nothing uses, or the reverse"


def test_accents_are_written_for_latex():
    assert r"Kynk{\"a}{\"a}nniemi, Tuomas" in bibtex("precision_recall")
    assert r"Bi{\'n}kowski, Miko{\l}aj" in bibtex("kid") and r"PixArt-$\alpha$" in bibtex("DiT")
    assert r"Sz{\'e}kely, G{\'a}bor J." in bibtex("energy_distance")


def test_a_plan_cites_sampler_schedule_and_path():
    assert keys(wb.plan("dpmpp_2m", "cosine", 4, "karras")) == ["karras2022elucidating", "lu2022dpmpp", "nichol2021improved"]
    assert keys(wb.plan("heun", "edm", 4, "karras")) == ["karras2022elucidating"]  # one paper, once
    assert keys(paths.trig) == ["lu2025simplifying"]
    table = paths.from_table(1 - (paths.torch.arange(10) + 1) / 12)
    assert keys(wb.plan("ddim", table, 2, [1.0, 0.5, 0.0])) == ["ho2020denoising", "song2021ddim"]


def test_a_student_cites_what_made_it_and_how_it_is_run():
    found = keys(wb.load("digits/dmd2"))
    assert {"yin2024improved", "song2023consistency", "peebles2023scalable", "lipman2023flow", "ho2022classifier"} <= set(found)
    assert found == keys("digits/dmd2") and "liu2023flow" in found and "karras2022elucidating" not in found
    column = Column("digits/dmd2", sampler="heun", schedule="shift")
    assert {"karras2022elucidating", "esser2024scaling", "yin2024improved"} <= set(keys(column))
    assert "song2023consistency" not in keys(column), "a column cites what it runs, not what the card says"


def test_a_comparison_cites_columns_and_metrics():
    result = wb.compare(["moons", Column("moons", "few", "ddim", "quadratic", 2)], 8)
    assert {"bonneel2015sliced", "karras2022elucidating", "song2021ddim", "workbench"} <= set(keys(result))
    assert "heusel2017gans" not in keys(result)


def test_metrics_lists_and_keys():
    assert keys(metrics.kid) == ["binkowski2018demystifying", "detlefsen2022torchmetrics"] == keys("kid")
    assert keys("ddim", ["ddim", metrics.mmd]) == ["gretton2012kernel", "song2021ddim"] == keys("gretton2012kernel", "ddim")


def test_what_is_unknown_is_said_in_one_sentence():
    with pytest.raises(UnknownName, match=r"unknown name 'dpmp_2m': did you mean 'dpmpp_2m'\?"):
        cite("dpmp_2m")
    with pytest.raises(WorkbenchError, match="nothing to cite for 3:"):
        cite(3)


def test_cite_prints(capsys):
    assert cite("heun", RECIPES["consistency"]) is None
    assert capsys.readouterr().out == bibtex("heun", "consistency", "pseudo-huber") + "\n"


def test_the_workbench_is_cited_as_its_own_file_says():
    own, stated = bibtex("workbench"), (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    title = re.search(r'^title: "(.*)"', stated, re.M)[1]
    version = re.search(r"^version: (.*)", stated, re.M)[1]
    name = re.search(r"^  - name: (.*)", stated, re.M)[1]
    assert title in own and f"version {version}" in own and name in own
