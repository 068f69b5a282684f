"""`workbench distill` and `workbench zoo build`: both loops are generators, drawn here as they go."""

from __future__ import annotations

import inspect
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from workbench import zoo
from workbench.cli.commands import settings
from workbench.cli.reports import console
from workbench.distill.checkpoint import CHECKPOINT
from workbench.distill.loop import Progress
from workbench.errors import WorkbenchError, unknown
from workbench.files import check_folder

PLAIN_SECONDS = 5.0  # between lines where there is no terminal to redraw


def distill(args: Namespace) -> None:
    """Train a student and name its folder."""
    from workbench.distill.distill import distill as train
    from workbench.distill.recipes import get, recipes

    known = [recipe.name for recipe in recipes()]
    if args.recipe not in known:  # before the teacher is read
        raise unknown("recipe", args.recipe, known)
    teacher, options = zoo.load(args.teacher), settings(args.settings)
    own = [name for name in inspect.signature(train).parameters if name != "options"]
    if taken := sorted(set(own) & set(options)):
        if not hasattr(args, taken[0]):
            raise unknown(f"option of recipe {args.recipe!r}", taken[0], get(args.recipe).options())
        raise WorkbenchError(f"--set {taken[0]}=... has an option of its own: write --{taken[0]}.")
    size = settings(args.network, "--network", "width=32")
    run = (
        Path(args.run)
        if args.run
        else Path("runs")
        / f"{Path(args.teacher).name if Path(args.teacher).is_dir() else args.teacher.replace('/', '-')}-{args.recipe}"
    )
    data = None
    if args.data:
        from workbench import data as sets

        shape = tuple(teacher.shape)
        folder = Path(args.data).is_dir() or "/" in args.data
        data = sets.load(args.data, **({"size": shape[-1], "grey": shape[0] == 1} if folder and len(shape) == 3 else {}))
    title = f"{args.recipe} from {args.teacher}"
    report = follow(
        train(
            teacher,
            args.recipe,
            data,
            run,
            args.steps,
            args.seconds,
            args.seed,
            init=zoo.load(args.init) if args.init else None,
            device=device(args.device),
            name=args.name,
            network=size or None,
            report_seconds=0.5,
            **options,
        ),
        title,
        run,
    )
    print(_sentence(report.metrics), end="")
    print(f"student: {run / 'student'}\nlook at it: workbench sample {run / 'student'}")


def build(args: Namespace) -> None:
    """Train a bundled model again."""
    from workbench.zoo import build as builds
    from workbench.zoo import classifier

    space, _, part = args.name.partition("/")
    if part == "classifier" and space in classifier.NAMES:
        into = Path(args.into) if args.into else zoo.home() / "zoo" / args.name
        check_folder(into)
        accuracy = classifier.train_classifier(space, into, seed=args.seed, device=device(args.device) or "cpu")
        print(f"{args.name}: test accuracy {accuracy:.4f} -> {into}")
        return
    known = [*builds.BUILDS, *(f"{name}/classifier" for name in classifier.NAMES)]
    if args.name not in builds.BUILDS:
        raise unknown("bundled model", args.name, known)
    run = Path(args.run) if args.run else zoo.home() / "runs" / args.name.replace("/", "-")
    report = follow(builds.build(args.name, run, args.into, device(args.device), args.seed), args.name, run)
    print(f"{args.name} -> {args.into or zoo.home() / 'zoo' / args.name}")
    for key, value in report.student.card.get("figures", {}).items():
        print(f"  {key}: {value}")


def follow(reports: Iterable[Progress], title: str, run: Path) -> Progress:
    """Draw a training run until its last report, which is returned; Ctrl-C says how to go on.

    Raises:
        KeyboardInterrupt: after saying what is kept.
    """
    last = None
    try:
        if sys.stderr.isatty():
            last = _live(reports, title)
        else:
            last = _plain(reports, title)
    except KeyboardInterrupt:
        kept = f"the last checkpoint is in {run}" if (run / CHECKPOINT).exists() else f"{run} holds no checkpoint yet"
        print(f"\n{kept}; give the same command again to go on from there.", file=sys.stderr)
        raise
    if last is None or last.student is None:
        raise WorkbenchError(f"the run in {run} ended without a student: start it again.")
    return last


def _live(reports: Iterable[Progress], title: str) -> Progress | None:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    last, warned = None, ""
    with Bars(*columns, TextColumn("{task.fields[figures]}"), console=console(stderr=True)) as bars:
        task = bars.add_task(title, total=None, step="", figures="")
        for last in reports:
            name = title if last.stage in ("train", "done") else last.stage
            total = last.steps
            if last.warning and last.warning != warned:
                bars.console.print(f"Warning, step {last.step}: {last.warning}", markup=False)
            warned = last.warning
            bars.update(task, description=name, total=total, completed=last.step, step=_count(last), figures=_figures(last))
    return last


def _plain(reports: Iterable[Progress], title: str) -> Progress | None:
    last, spoke, told, warned = None, -PLAIN_SECONDS, "", ""
    for last in reports:
        what = title if last.stage in ("train", "done") else last.stage
        changed = what.split()[0] != told or last.stage == "done"
        if changed or time.monotonic() - spoke >= PLAIN_SECONDS:
            print(f"{what}: step {_count(last)}, {last.seconds:.0f} s  {_figures(last)}".rstrip(), file=sys.stderr, flush=True)
            spoke, told = time.monotonic(), what.split()[0]
        if last.warning and last.warning != warned:
            print(f"Warning, step {last.step}: {last.warning}", file=sys.stderr, flush=True)
        warned = last.warning
    return last


def _count(progress: Progress) -> str:
    return f"{progress.step}/{progress.steps}" if progress.steps else str(progress.step)


def _figures(progress: Progress) -> str:
    losses = {key: value for key, value in progress.losses.items() if "/" not in key and key != "pairs"}
    shown = [f"{key} {value:.4g}" for key, value in {**losses, **progress.metrics}.items() if isinstance(value, int | float)]
    return "  ".join(shown)


def _sentence(metrics: dict[str, Any]) -> str:
    floor = metrics.get("sw2_floor")
    words = [f"{key} = {value:.4g}" + (f" (floor {floor:.4g})" if key == "sw2" and floor is not None else "")
             for key, value in metrics.items() if key != "sw2_floor" and isinstance(value, int | float)]  # fmt: skip
    return ", ".join(words) + "\n" if words else ""


def device(name: str | None) -> str | None:
    """Check that a device exists.

    Raises:
        WorkbenchError: if torch does not know it, or this machine lacks it.
    """
    if name is None:
        return None
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = [
            "cpu",
            *(["cuda"] if torch.cuda.is_available() else []),
            *(["mps"] if torch.backends.mps.is_available() else []),
        ]
        raise WorkbenchError(f"device {name!r} is not usable here: this machine has {', '.join(have)}.") from error
    return name
