"""The command `workbench`: the words that it takes. What they do lies in `commands.py`, `comparing.py`, `training.py` and `reports.py`.

Nothing here imports torch, so that `--help` and a misspelt word are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from workbench.errors import WorkbenchError, unknown

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting thread sleeps: a spinning one holds a core that others need

EXAMPLES = """\
examples:
  workbench app --open                                      the comparison in a browser
  workbench sample fashion/teacher --cond Dress -n 16       a grid of images, in samples.png
  workbench compare digits/teacher digits/dmd2 -n 200       same noise through both, and a table
  workbench compare moons moons@3 --out report.html         and a page to keep or to send
  workbench distill eight_gaussians consistency --seconds 60
  workbench recipes                                         the methods, their papers and options

`workbench COMMAND --help` says more about each.
"""


COLUMNS = """

settings of a column, behind its name and a colon:
  sampler=euler  schedule=karras  steps=8  guidance=2  label="my student"
  schedule=[1,0.6,0]              own times, falling from noise (1) to data (0)
  eta=0.5  shift=3  t_end=0.01    options of the sampler and the schedule

  workbench compare fashion/teacher:sampler=euler,steps=8,schedule=karras fashion/dmd2@4 -n 500 --out report.html

--out may be given several times; the ending says what is written:
  .html  a page with samples, figures, trajectories, settings, citations and the command that makes it again
  .png   samples, one row a model          .gif   the samples as they denoise
  .csv   the table                         .json  the table, the settings and the command
  .safetensors  the samples as numbers
"""


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is answered with one sentence and the nearest name."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.rstrip('.')}. (`{self.prog} --help` lists what it takes.)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(None, str(unknown(action.metavar or action.dest, value, action.choices)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for what the user can mend, 130 after Ctrl-C.

    >>> main(["catalgo"])
    Traceback (most recent call last):
        ...
    SystemExit: 2
    """
    args, rest = build_parser().parse_known_args(argv)
    parser = args.parser
    if rest:
        known = [name for name in parser._option_string_actions if name.startswith("--")]
        parser.error(str(unknown("option", rest[0], known)) if rest[0].startswith("-") else f"{rest[0]!r} is one word too many")
    try:
        if (threads := getattr(args, "threads", None)) is not None:
            _use(threads)
        module, _, function = args.does.partition(":")
        status = getattr(importlib.import_module(f"workbench.cli.{module}"), function)(args)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:  # the reader has gone: `workbench catalog | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if getattr(args, "debug", False):
            raise
        print("\nworkbench: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except Exception as error:
        if getattr(args, "debug", False):
            raise
        if isinstance(error, WorkbenchError):
            print(f"workbench: {error}", file=sys.stderr)
            return 2
        reason = (str(error).strip().splitlines() or [""])[0]
        hint = f"run `{parser.prog} ... --debug` to see where, and please report it"
        print(f"workbench: unexpected {type(error).__name__}: {reason} ({hint}).", file=sys.stderr)
        return 1


def build_parser() -> Parser:
    """Every command with its options."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("for every command")
    group.add_argument("--threads", type=int, default=argparse.SUPPRESS, metavar="N", help="processor threads torch may use")
    group.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from")
    top = Parser(
        "workbench",
        description="See what a diffusion teacher does, distil it into a few-step student, and watch both side by side.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[common],
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(dest="command", metavar="command", required=True)

    def command(name: str, does: str, text: str, example: str = "", into: Any = commands) -> argparse.ArgumentParser:
        made = into.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {example}" if example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            parents=[common],
        )
        made.set_defaults(does=does, parser=made)
        return made

    app = command("app", "commands:app", "open the comparison app on this machine", "workbench app --port 8000 --open")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    app.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    app.add_argument("--share", action="store_true", help="also make a public link through Gradio's server")
    app.add_argument("--open", action="store_true", help="open the browser")

    catalog = command("catalog", "reports:catalog", "list the models known by name", "workbench catalog fashion")
    catalog.add_argument("space", nargs="?", help="only this space (digits, fashion, moons, ...)")

    sample = command(
        "sample",
        "commands:sample",
        "draw samples from a model into a picture",
        "workbench sample fashion/dmd2 --cond all --steps 1 -n 40",
    )
    sample.add_argument("model", help="a name from `workbench catalog`, or a model's folder")
    _drawing(sample, n=16, out="samples.png", what="a .png picture, or .safetensors for the numbers")
    for name, text in (("sampler", "sampler"), ("schedule", "schedule")):
        sample.add_argument(f"--{name}", help=f"{text} (default: the model's own)")
    sample.add_argument("--steps", type=int, help="number of steps (default: the model's own)")
    sample.add_argument("--guidance", type=float, help="classifier-free guidance, 1 for none (default: the model's own)")
    _settings(sample, "of the sampler or schedule, such as eta=0.5")

    compare = command(
        "compare",
        "comparing:compare",
        "send the same noise through several models and print what was kept",
        "workbench compare fashion/teacher fashion/dmd2 fashion/dmd2@4 -n 500 --out images.png",
    )
    word = "NAME, NAME@STEPS or NAME:key=value,... (a name from `workbench catalog`, or a folder)"
    compare.add_argument("words", nargs="*", metavar="MODEL", help=word)
    compare.add_argument("--models", nargs="+", action="extend", default=[], metavar="MODEL", help="the same, as an option")
    _drawing(compare, n=64, out=None, what="also write a file, see below; may be repeated", many=True)
    compare.epilog += COLUMNS

    sweep = command(
        "sweep",
        "sweeps:sweep",
        "find the sampler and schedule that a model should be run with",
        "workbench sweep fashion/consistency --steps 1,2,4 --samplers euler,consistency --out table.csv",
    )
    sweep.add_argument(
        "models", nargs="+", metavar="MODEL", help="names from `workbench catalog`, or folders; settings as for compare"
    )
    sweep.add_argument("--samplers", metavar="NAMES", help="with commas between (default: all)")
    sweep.add_argument("--schedules", metavar="NAMES", help="with commas between (default: all)")
    sweep.add_argument("--steps", metavar="COUNTS", help="with commas between (default: 1,2,4,8, and the model's own)")
    sweep.add_argument("--guidance", type=float, help="classifier-free guidance, 1 for none (default: the model's own)")
    sweep.add_argument("-n", type=int, default=500, help="samples of each plan (default: %(default)s)")
    sweep.add_argument(
        "--cond", default="all", help="class: a number, a name, several with commas, none, or all (the default) in turn"
    )
    sweep.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    sweep.add_argument(
        "--out", action="append", metavar="FILE", help="also write a .csv table or an .html page; may be repeated"
    )

    distill = command(
        "distill",
        "training:distill",
        "turn a teacher into a student; the same command again goes on where it stopped",
        "workbench distill digits/teacher dmd2 --steps 3000 --set turns=3 batch=128",
    )
    distill.add_argument("teacher", help="a name from `workbench catalog`, or a model's folder")
    distill.add_argument("recipe", help="a name from `workbench recipes`")
    distill.add_argument("--run", metavar="FOLDER", help="folder of the run (default: runs/TEACHER-RECIPE)")
    distill.add_argument("--steps", type=int, help="number of training steps (default: the recipe's)")
    distill.add_argument("--seconds", type=float, help="training time; ends at steps or seconds, whichever comes first")
    distill.add_argument(
        "--data", help="digits, fashion, a folder of images or OWNER/NAME on the Hub (default: the teacher's own)"
    )
    distill.add_argument(
        "--init", metavar="MODEL", help="start the student as this model, a name or a folder (default: the teacher)"
    )
    distill.add_argument(
        "--network", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="size of a student that starts from nothing, such as width=32 depth=3",
    )  # fmt: skip
    distill.add_argument("--name", help="the student's name on its card")
    _training(distill)
    _settings(distill, "of the recipe, such as batch=32 lr=1e-4")

    command("recipes", "reports:recipes", "list the distillation methods with their papers and options")

    zoo = command("zoo", "", "make and measure the bundled models")
    parts = zoo.add_subparsers(dest="part", metavar="command", required=True)
    build = command(
        "build", "training:build", "train a bundled model again", "workbench zoo build digits/teacher --device cpu", into=parts
    )
    build.add_argument("name", help="such as digits/teacher, fashion/dmd2 or fashion/classifier")
    build.add_argument("--run", metavar="FOLDER", help="folder of checkpoints (default: below the user's folder)")
    build.add_argument(
        "--into", metavar="FOLDER", help="where the model goes (default: the user's zoo, which comes before the bundled one)"
    )
    _training(build)
    measure = command(
        "measure",
        "reports:measure",
        "measure a digits or fashion model again",
        "workbench zoo measure digits/dmd2 --steps 1 2 4",
        into=parts,
    )
    measure.add_argument("name", help="a name from `workbench catalog`, or a model's folder")
    measure.add_argument("-n", type=int, default=1000, help="number of samples (default: %(default)s)")
    measure.add_argument("--steps", type=int, nargs="+", help="numbers of steps (default: the teacher's own, or 1 and 4)")
    measure.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    table = command(
        "table",
        "reports:table",
        "print the tables of the README as markdown",
        "workbench zoo table --write README.md",
        into=parts,
    )
    table.add_argument("--write", metavar="FILE", help="put them between the markers of this file instead")

    bench = command("bench", "", "show the committed benchmarks")
    parts = bench.add_subparsers(dest="part", metavar="command", required=True)
    solving = command(
        "solvers",
        "reports:bench",
        "which sampler on which schedule, at a number of evaluations of the teacher",
        "workbench bench solvers --nfe 8 --out errors.html",
        into=parts,
    )
    solving.add_argument("--nfe", type=int, default=8, help="evaluations of the model (default: %(default)s)")
    solving.add_argument("--best", type=int, default=5, help="how many to list for each teacher (default: %(default)s)")
    solving.add_argument("--out", metavar="FILE", help="also draw error against evaluations, as .html or .png")

    recipes = command(
        "recipes",
        "benching:recipes",
        "train every recipe on exact teachers with the same processor time, and measure the students",
        "workbench bench recipes --only cd,dmd2 --spaces eight_gaussians --seconds 60 --jobs 2",
        into=parts,
    )
    recipes.add_argument("--only", metavar="NAMES", help="recipes, with commas between (default: all)")
    recipes.add_argument(
        "--spaces", metavar="NAMES", help="analytic teachers, with commas between (default: two of 2-D, one of 64-D)"
    )
    recipes.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each (default: %(default)s)")
    recipes.add_argument(
        "--seconds", type=float, default=60.0, help="processor time of training, each recipe and space (default: %(default)s)"
    )
    recipes.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    recipes.add_argument(
        "--cells", metavar="FOLDER", help="where finished cells are kept, not to be run again (default: runs/bench-recipes)"
    )
    recipes.add_argument(
        "--out",
        metavar="FILE",
        help="also write all rows, such as workbench/bench/recipes.json; rows that it holds stay, and are not run again",
    )

    command("doctor", "doctor:doctor", "say what this machine has, what it lacks, and how to get it")
    return top


def _drawing(parser: argparse.ArgumentParser, n: int, out: str | None, what: str, many: bool = False) -> None:
    parser.add_argument("-n", type=int, default=n, help="number of samples (default: %(default)s)")
    parser.add_argument("--cond", help='class: a number, a name ("Dress"), several with commas, or "all" in turn')
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    if many:
        parser.add_argument("--out", action="append", default=[], metavar="FILE", help=what)
    else:
        parser.add_argument("--out", default=out, metavar="FILE", help=what + (f" (default: {out})" if out else ""))


def _training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: an accelerator if there is one)")


def _settings(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings", help=f"options {what}"
    )


def _use(threads: int) -> None:
    from workbench.errors import check_count

    count = check_count("--threads", threads, 1, 1024)
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)


def _version() -> str:
    import workbench

    return f"workbench {workbench.__version__}"
