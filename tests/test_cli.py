"""The command `workbench`: what each word does, what it prints, and how it ends."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from workbench import cli, zoo
from workbench.cli import commands, reports, training
from workbench.distill.loop import Progress

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    """Every test writes into a folder of its own."""
    monkeypatch.chdir(home)
    return home


def call(capsys, *argv: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of one command, run in this process."""
    try:
        status = cli.main(argv)
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def one_sentence(text: str) -> str:
    assert "Traceback" not in text and len(text.strip().splitlines()) == 1, text
    return text.strip()


def test_help_needs_no_torch_and_shows_examples():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "workbench", "--help"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "workbench" in loaded and not loaded & {"torch", "rich", "numpy", "gradio"}
    assert "examples:" in done.stdout and "workbench sample fashion/teacher" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        "app",
        "catalog",
        "sample",
        "compare",
        "distill",
        "sweep",
        "recipes",
        "zoo",
        "zoo build",
        "zoo measure",
        "zoo table",
        "doctor",
    ],
)
def test_every_command_has_help(capsys, words):
    status, out, _ = call(capsys, *words.split(), "--help")
    assert status == 0 and out.startswith(f"usage: workbench {words}")


def test_catalog_names_every_model(capsys):
    status, out, _ = call(capsys, "catalog")
    assert status == 0
    for entry in zoo.catalog():
        assert f"\n{entry.name} " in out and entry.summary in out
    assert "moons" in call(capsys, "catalog", "moons")[1] and "spirals" not in call(capsys, "catalog", "moons")[1]


def test_catalog_shows_the_figures_of_a_card():
    card = {
        "figures": {
            "n": 9,
            "frechet_floor": 0.5,
            "1": {"frechet": 2.0, "agreement": 0.9},
            "4": {"frechet": 1.5, "agreement": 0.95},
        }
    }
    text = "1 step: Frechet 2, agreement 90.0%; 4 steps: Frechet 1.5, agreement 95.0% (floor 0.5)"
    assert reports.main_figures(card) == text and reports.main_figures({}) == ""


def test_recipes_name_paper_and_options(capsys):
    status, out, _ = call(capsys, "recipes")
    assert status == 0 and "arXiv 2405.14867" in out and "critic_lr" in out


def test_sample_draws_a_picture_and_says_what_ran(capsys):
    status, out, _ = call(
        capsys, "sample", "moons", "-n", "30", "--cond", "all", "--steps", "4", "--sampler", "ddim", "--set", "eta=0.5"
    )
    assert (
        status == 0
        and "30 samples of moons" in out
        and "ddim, 4 uniform steps on linear, eta 0.5, seed 0 -> samples.png" in out
    )
    with Image.open("samples.png") as picture:
        assert picture.size == (560, 560) and len(picture.getcolors()) > 3


def test_sample_keeps_the_numbers_and_repeats_them(capsys):
    import torch

    import workbench as wb

    assert call(capsys, "sample", "moons", "-n", "5", "--steps", "3", "--seed", "7", "--out", "a.safetensors")[0] == 0
    assert torch.equal(load_file("a.safetensors")["samples"], wb.sample(wb.load("moons"), 5, steps=3, seed=7))


def test_images_become_a_grid():
    import torch

    from workbench.report.pictures import draw

    images = torch.full((5, 1, 8, 8), -1.0)
    images[4] = 1.0
    picture = draw({"one": images})
    assert picture.size == (3 * 60 + 4, 2 * 60 + 4)  # 3 x 2 cells of 56 + gap 4
    assert picture.getpixel((10, 10)) == (0, 0, 0) and picture.getpixel((70, 70)) == (255, 255, 255)
    assert draw({"one": images, "two": images}).size == (5 * 60 + 4, 2 * (64 + 18))


@pytest.mark.parametrize(
    ("text", "labels"), [("3", [3, 3, 3]), ("1,2", [1, 2, 1]), ("all", [0, 1, 2]), ("-1", [-1, -1, -1]), (None, None)]
)
def test_classes(text, labels):
    found = commands.classes(zoo.load("eight_gaussians"), text, 3)
    assert found is None if labels is None else found.tolist() == labels


def test_a_class_may_be_named():
    model = types.SimpleNamespace(classes=3, class_names=("Shirt", "Dress", "7"))
    assert commands.classes(model, "dress,0,7", 3).tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match=r"did you mean 'Dress'"):
        commands.classes(model, "Dres", 3)


def test_compare_prints_the_table_its_notes_and_a_picture(capsys):
    status, out, _ = call(capsys, "compare", "moons", "moons@3", "-n", "20", "--cond", "1", "--out", "both.png")
    lines = out.splitlines()
    assert status == 0 and lines[0].startswith("model") and "nfe" in lines[0]
    assert lines[1].split()[:4] == ["moons", "heun", "uniform", "25"] and lines[2].split()[:4] == [
        "moons@3",
        "heun",
        "uniform",
        "3",
    ]
    assert lines[3].startswith("n = 20, seed 0, same noise for all.") and "floor" in lines[3]
    assert Path("both.png").stat().st_size > 1000


def test_distill_ends_with_the_students_folder_and_continues(capsys, at_home):
    argv = ("distill", "moons", "reflow", "--steps", "4", "--set", "count=64", "batch=16")
    status, out, err = call(capsys, *argv)
    assert status == 0 and "student: runs/moons-reflow/student" in out and "step 4/4" in err
    assert zoo.load("./runs/moons-reflow/student").card["recipe"] == "reflow"
    before = (at_home / "runs/moons-reflow/checkpoint.safetensors").read_bytes()
    assert call(capsys, *argv)[0] == 0  # finished already
    assert (at_home / "runs/moons-reflow/checkpoint.safetensors").read_bytes() == before


def test_distill_takes_a_start_and_a_size(capsys):
    argv = ("distill", "moons", "kd", "--steps", "2", "--set", "count=64", "batch=16", "--network", "width=16", "depth=1")
    assert call(capsys, *argv, "--run", "small")[0] == 0
    assert zoo.load("./small/student").net.config.width == 16
    status, *_ = call(capsys, *argv[:8], "--init", "./small/student", "--run", "again")
    assert status == 0 and zoo.load("./again/student").net.config.width == 16


def test_follow_says_how_to_go_on_after_ctrl_c(capsys, tmp_path):
    def interrupted():
        yield Progress(1, 9, {"student": 0.5}, {}, 0.1)
        raise KeyboardInterrupt

    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(KeyboardInterrupt):
        training.follow(interrupted(), "reflow from moons", tmp_path)
    err = capsys.readouterr().err
    assert f"the last checkpoint is in {tmp_path}" in err and "same command again" in err


@pytest.mark.slow
def test_ctrl_c_ends_a_real_run_with_130_and_one_line(at_home):
    argv = [sys.executable, "-m", "workbench", "distill", "moons", "reflow", "--steps", "1000000", "--set", "count=64"]
    # a shell's background job ignores SIGINT, and children inherit that: give it back
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen(argv, env=ENVIRONMENT, cwd=at_home, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    watch = threading.Timer(90, run.kill)
    watch.start()
    for line in run.stderr:
        if line.startswith("reflow from moons: step "):
            break
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    rest = run.stderr.read()
    watch.cancel()
    assert run.wait(30) == 130 and "Traceback" not in rest
    assert rest.rstrip().endswith("workbench: stopped by Ctrl-C.") and "go on from there" in rest


def test_a_broken_pipe_is_clean():
    shell = f"{sys.executable} -m workbench recipes | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 1)


def test_app_is_handed_its_options(capsys, monkeypatch):
    handed = {}
    stand_in = types.SimpleNamespace(launch=lambda **options: handed.update(options))
    monkeypatch.setitem(sys.modules, "apps", types.SimpleNamespace(main=stand_in))
    monkeypatch.setitem(sys.modules, "apps.main", stand_in)
    assert call(capsys, "app", "--port", "8001", "--open")[0] == 0
    assert handed == {"host": "127.0.0.1", "port": 8001, "share": False, "open_browser": True}
    assert "from 0 to 65535" in call(capsys, "app", "--port", "70000")[2]


def test_zoo_build_follows_the_build_and_prints_its_figures(capsys, monkeypatch):
    from workbench.zoo import build as builds

    student = types.SimpleNamespace(card={"figures": {"n": 5}})
    monkeypatch.setattr(builds, "build", lambda *_: iter([Progress(1, 1, {}, {}, 0.0, stage="done", student=student)]))
    status, out, _ = call(capsys, "zoo", "build", "digits/teacher", "--into", "here")
    assert status == 0 and out == "digits/teacher -> here\n  n: 5\n"


def test_zoo_table_fills_the_markers(capsys):
    Path("page.md").write_text("a\n<!-- recipes -->\n<!-- /recipes -->\nb\n<!-- models -->old<!-- /models -->\nc\n")
    assert call(capsys, "zoo", "table", "--write", "page.md")[0] == 0
    text = Path("page.md").read_text()
    assert "`dmd2`" in text and "old" not in text and text.endswith("<!-- /models -->\nc\n")
    assert reports.fill(text, reports.tables()) == text
    Path("page.md").write_text("no markers")
    status, _, err = call(capsys, "zoo", "table", "--write", "page.md")
    assert status == 2 and "<!-- recipes -->" in one_sentence(err)


def test_doctor_names_what_is_there(capsys):
    status, out, _ = call(capsys, "doctor")
    assert status == 0
    for word in ("python", "torch", "device", "analytic", "Fashion-MNIST", "browser", str(zoo.home() / "zoo")):
        assert word in out


def test_doctor_reports_a_damaged_model(capsys, at_home):
    folder = at_home / "zoo" / "digits" / "broken"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{")
    status, out, _ = call(capsys, "doctor")
    assert status == 1 and "damaged" in out and str(folder) in out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("catalgo", "did you mean 'catalog'?"),
        ("catalog mons", "did you mean 'moons'?"),
        ("catalog --dbug", "did you mean '--debug'?"),
        ("catalog moons moons", "'moons' is one word too many"),
        ("sample mons", "did you mean 'moons'?"),
        ("sample moons --sampler ddimm", "did you mean 'ddim'?"),
        ("sample moons --schedule karas", "did you mean 'karras'?"),
        ("sample moons --set variabel=t", "did you mean 'variable'?"),
        ("sample moons --set steps=3", "write --steps"),
        ("sample moons --sampler ddim --set eta=much", "eta is 'much', but must be a number"),
        ("sample moons --sampler dpm_adaptive --steps 3", "chooses its own steps"),
        ("sample moons --set eta", "must be KEY=VALUE"),
        ("sample moons --steps 0", "from 1 to 10000"),
        ("sample moons -n 0", "from 1 to 100000"),
        ("sample moons --cond 2", "class 2 does not exist"),
        ("sample moons --guidance nan", "guidance is nan"),
        ("sample moons --out here.jpg", "must end in .png"),
        ("sample ./nowhere", "no model folder"),
        ("sample moons --threads 0", "from 1 to 1024"),
        ("compare moons mons", "did you mean 'moons'?"),
        ("compare moons@x", "NAME@STEPS"),
        ("compare moons mixture64", "different shapes"),
        ("distill moons reflwo", "did you mean 'reflow'?"),
        ("distill moons reflow --set cuont=3", "did you mean 'count'?"),
        ("distill moons reflow --set seed=3", "write --seed"),
        ("distill moons reflow --set init=moons", "write --init"),
        ("distill moons reflow --set clock=3", "unknown option of recipe 'reflow' 'clock'"),
        ("distill moons reflow --set lr=fast", "lr is 'fast', but must be a number"),
        ("distill moons reflow --network width", "--network 'width' must be KEY=VALUE"),
        ("distill moons reflow --device gpu9", "this machine has cpu"),
        ("distill moons consistency --data nowhere", "unknown data set"),
        ("zoo biuld", "did you mean 'build'?"),
        ("zoo build digits/teacher --into /dev/null/x", "nothing can be written in /dev/null/x"),
        ("zoo build digits/classifier --into /dev/null/x", "nothing can be written in /dev/null/x"),
        ("distill moons kd --run /dev/null/x", "choose a folder that can be written"),
        ("zoo build digits/teache", "did you mean 'digits/teacher'?"),
        ("zoo measure moons", "workbench compare"),
        ("zoo table --write nowhere.md", "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(capsys, line, sentence):
    status, out, err = call(capsys, *line.split())
    assert status == 2 and sentence in one_sentence(err) and out == ""


def test_debug_shows_where(capsys):
    with pytest.raises(ValueError, match="mons"):
        cli.main(["sample", "mons", "--debug"])


def test_a_bug_is_one_line_without_debug(capsys, monkeypatch):
    monkeypatch.setattr(reports, "recipes", lambda args: 1 / 0)
    status, _, err = call(capsys, "recipes")
    assert status == 1 and "unexpected ZeroDivisionError" in one_sentence(err) and "--debug" in err
