"""Every recipe on an image set: one run of the same length each, and the figures of its student in one, two and four evaluations.

    python benchmarks/images.py --space digits --seconds 60 --out workbench/bench/images_digits.json --table docs/images.md

A finished cell is kept in --cells and not run again; a stopped run goes on from its checkpoint. Rows of other recipes that --out holds
stay, if they are of the same settings. A recipe that adapts a few-step student is given the bundled one of `dmd2`; `sfd` forgets class 0, `echo` learns mirrored pictures of class 7. Seconds are those of the processor in
training, without measuring, so that what else the machine does costs a recipe nothing. Stochastic chains are sampled as the student's card says, at each number of evaluations.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import workbench as wb
from workbench.cli.reports import fill
from workbench.distill.recipes import RECIPES
from workbench.errors import WorkbenchError
from workbench.files import write_json
from workbench.zoo.measure import measure

COUNTS = (1, 2, 4)
STUDENTS = {"digits": "digits/dmd2", "fashion": "fashion/dmd2"}  # what recipes that adapt a student are given
GIVEN = {"sfd": {"forget": (0,)}}  # what a recipe must be told
CONCEPT = 16  # pictures of what echo learns: mirrored ones of class 7
LESS = {"count": 2048}  # pairs: as many as one minute can use


def cell(recipe: str, space: str, seconds: float, seed: int, place: Path) -> dict:
    """Train and measure one recipe; a failure is a sentence in the row."""
    teacher, began = wb.load(f"{space}/teacher"), time.process_time()
    pairs = getattr(getattr(RECIPES[recipe].objective, "start", None), "pairs", None)
    options = GIVEN.get(recipe, {}) | (LESS if pairs is not None else {})
    if recipe == "echo":
        options["data"] = concept(space)
    student = STUDENTS[space] if getattr(RECIPES[recipe].objective, "adapts", False) else None
    if student:
        options["init"] = wb.load(student)
    try:
        curve = []
        for progress in wb.distill(
            teacher, recipe, run=place / recipe, seconds=seconds, seed=seed, clock=time.process_time, **options
        ):
            if progress.stage == "train" and progress.metrics:
                curve.append((round(progress.seconds, 1), progress.step, progress.metrics))
        figures = measure(progress.student, steps=COUNTS)
    except WorkbenchError as error:
        return {"recipe": recipe, "failed": str(error)}
    return {
        "recipe": recipe,
        **({"init": student} if student else {}),
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "clock": "processor",
        "rest": round(time.process_time() - began - progress.seconds, 1),
        "parameters": sum(p.numel() for p in progress.student.net.parameters()),
        "figures": figures,
        "curve": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="digits", choices=("digits", "fashion"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="recipes, with commas between; all by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cells", type=Path, default=Path("runs/images"))
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--table", type=Path, help="a page with the markers <!-- digits --> and <!-- /digits -->, to put the table in"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    known = sorted(RECIPES)
    names = args.only.split(",") if args.only else known
    if wrong := [name for name in names if name not in known]:
        sys.exit(f"unknown recipe {wrong[0]!r}: one of {', '.join(known)}.")
    place = args.cells / f"{args.space}-{args.seconds:g}s-{args.seed}"
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        file = place / f"{name}.json"
        if not file.exists():
            write_json(file, cell(name, args.space, args.seconds, args.seed, place))
        rows.append(json.loads(file.read_text()))
        print(text(rows[-1]), flush=True)
    if args.out:
        facts = {"space": args.space, "seconds": args.seconds, "seed": args.seed, "threads": args.threads,
                 "torch": torch.__version__, "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}"}  # fmt: skip
        rows = sorted([*earlier(args.out, facts, names), *rows], key=lambda row: row["recipe"])
        write_json(args.out, {**facts, "rows": rows})
    if args.table:
        made = fill(args.table.read_text(encoding="utf-8"), {args.space: table(rows)})
        args.table.write_text(made, encoding="utf-8")


def concept(space: str) -> torch.Tensor:
    """Pictures (16, c, h, w) that the teacher does not know."""
    known = wb.data.load(space)
    return known.images[known.labels == 7][:CONCEPT].flip(-1)


def earlier(out: Path, facts: dict, names: list[str]) -> list[dict]:
    """Rows of other recipes than these in a file of the same settings; of other settings, none."""
    if not out.exists():
        return []
    held = json.loads(out.read_text(encoding="utf-8"))
    same = all(held.get(key) == facts[key] for key in ("space", "seconds", "seed", "threads"))
    return [row for row in held["rows"] if row["recipe"] not in names] if same else []


def table(rows: list[dict]) -> str:
    """Markdown, the best in one step first: Frechet distance, class agreement and recall at each number of evaluations."""
    head = ["recipe", "steps", *(f"{what} @{n}" for n in COUNTS for what in ("Fréchet", "agreement", "recall"))]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for row in sorted((row for row in rows if "failed" not in row), key=lambda row: row["figures"]["1"]["frechet"]):
        cells = [f"`{row['recipe']}`", str(row["steps"])]
        for n in COUNTS:
            found = row["figures"][str(n)]
            cells += [f"{found['frechet']:.2f}", f"{found['agreement']:.1%}", f"{found['recall']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n`{row['recipe']}`: {row['failed']}" for row in rows if "failed" in row)])


def text(row: dict) -> str:
    """One line."""
    if "failed" in row:
        return f"{row['recipe']:20} {row['failed']}"
    found = [row["figures"][str(n)] for n in COUNTS if str(n) in row["figures"]]
    shown = "  ".join(f"{f['frechet']:6.2f} {f['agreement']:.3f} {f['recall']:.3f}" for f in found)
    return f"{row['recipe']:20} {row['steps']:5d} steps {row['seconds']:5.0f} s   {shown}"


if __name__ == "__main__":
    main()
