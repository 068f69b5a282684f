"""`workbench doctor`: each finding with its state and what to do, and the status that follows from them."""

from __future__ import annotations

import builtins
import io
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from workbench import cli, zoo
from workbench.cli import doctor
from workbench.cli.doctor import Finding


def call(capsys: pytest.CaptureFixture) -> tuple[int, str]:
    status = cli.main(["doctor"])
    return status, capsys.readouterr().out


def told(findings) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def put(folder: Path, name: str = "cats/mine"):
    from workbench.networks.dit import DiT
    from workbench.samplers.sample import Sampling
    from workbench.student import make_card, save

    net = DiT(image_size=8, patch=4, width=8, depth=1, heads=2)
    save(net, make_card(net, name=name, role="teacher", shape=(1, 8, 8), sampling=Sampling("euler", 2), data="digits"), folder)


def test_a_whole_installation_has_status_0_and_says_what_is_there(capsys, home):
    status, out = call(capsys)
    *_, last = out.strip().splitlines()
    assert status == 0 and "All that the workbench needs is here." in last and "✗" not in out
    for title in doctor.SECTIONS:
        assert f"\n{title}\n" in f"\n{out}"
    for word in (
        "python",
        "torch",
        "memory",
        "device",
        "analytic",
        "diffusers",
        "gradio",
        "Fashion-MNIST",
        "fonts",
        "port 7860",
    ):
        assert word in out
    assert str(home / "zoo") in out and torch.__version__ in out


def test_your_models_are_listed_with_their_damage(capsys, home):
    put(home / "zoo" / "cats" / "mine")
    put(home / "zoo" / "cats" / "broken")
    weights = home / "zoo" / "cats" / "broken" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (home / "zoo" / "cats" / "empty").mkdir()
    status, out = call(capsys)
    assert status == 1 and "1 thing to mend: cats/broken." in out
    found = told(doctor.models())
    assert found["your own"].told == f"2 in {home / 'zoo'}" and "teacher trained on digits" in found["cats/mine"].told
    assert found["cats/broken"].state == "bad" and "SHA-256" in found["cats/broken"].told and found["cats/broken"].mend
    assert found["cats/empty"].state == "note" and found["cats/mine"].state == "ok"


def test_a_pipeline_that_cannot_be_read_is_damage(home):
    folder = home / "zoo" / "cats" / "pipe"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    found = told(doctor.models())["cats/pipe"]
    assert found.state == "bad" and "supported are pipelines of" in found.told


def test_a_bundled_model_that_was_changed_is_damage(home, monkeypatch, tmp_path):
    copied = tmp_path / "bundled"
    put(copied / "digits" / "teacher", "digits/teacher")
    (copied / "digits" / "teacher" / "config.json").unlink()
    monkeypatch.setattr(zoo, "BUNDLED", copied)
    found = told(doctor.models())
    assert found["digits/teacher"].state == "bad" and "install the workbench again" in found["digits/teacher"].mend
    assert "0 trained" in found["bundled"].told


def test_packages_are_held_against_their_ranges(monkeypatch):
    versions = {"plotly": "5.24", "torch": "2.13.0+cpu", "rich": "15.0", "pytest": "8.3.1"}
    monkeypatch.setattr(doctor, "installed", versions.get)
    declared = ["plotly>=6", "torch>=2.6", "rich>=13", "gradio>=6,<7", 'winonly>=1; sys_platform == "none"',
                'pytest>=8; extra == "test"', 'nbval>=0.11; extra == "test"', 'jupyterlab>=4.3; extra == "lab"']  # fmt: skip
    found = told(doctor.packages(declared))
    assert found["plotly"].state == "bad" and found["plotly"].told == "5.24, but >=6 is needed"
    assert found["gradio"].told == "missing" and found["gradio"].mend == f"{sys.executable} -m pip install 'gradio<7,>=6'"
    assert found["required"].told == "torch 2.13.0+cpu, rich 15.0" and "winonly" not in found
    assert found["test"].state == "note" and "without nbval" in found["test"].told and "[test]" in found["test"].mend
    assert found["lab"].state == "note"
    versions |= {"nbval": "0.11", "plotly": "6.0", "gradio": "6.31"}
    found = told(doctor.packages(declared))
    assert found["test"].told == "optional: pytest 8.3.1, nbval 0.11" and {f.state for f in found.values()} == {"ok", "note"}


def test_what_is_declared_is_the_installed_metadata_or_the_folder(monkeypatch):
    names = {line.split(">")[0].split("<")[0] for line in doctor.requirements()}
    assert {"torch", "diffusers", "gradio"} <= names
    whole = len(doctor.requirements())

    def nothing(name: str):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", nothing)
    lines = doctor.requirements()
    assert any(line.startswith("torch>=") for line in lines) and len(lines) >= whole
    assert any(line.endswith('extra == "lab"') for line in lines) and told(doctor.packages(lines))["required"]


def test_a_missing_package_ends_a_section_and_not_the_report(capsys, monkeypatch):
    def models():
        raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers.models")
        yield

    monkeypatch.setitem(doctor.SECTIONS, "Models", models)
    status, out = call(capsys)
    assert status == 1 and "not looked at: diffusers cannot be imported" in out and "-m pip install 'diffusers'" in out
    assert "Surroundings" in out and "Traceback" not in out


def test_the_doctor_needs_no_rich(capsys, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    doctor.show({"Machine": [Finding("python", "3.11"), Finding("GPU", "none", "note", "buy one")]})
    lines = [
        "Machine",
        "  ✓ python  3.11",
        "  ! GPU     none",
        "            → buy one",
        "",
        "! All that the workbench needs is here. 1 note.",
    ]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_long_line_goes_on_under_itself_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    doctor.show({"Packages": [Finding("required", "one two three four five six seven eight", "bad")]})
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in screen.getvalue().splitlines()]
    assert "\x1b[" in screen.getvalue() and max(map(len, lines)) <= 40
    assert lines[:3] == ["Packages", "  ✗ required  one two three four five", "              six seven eight"]


def test_verdicts_count():
    findings = [Finding("a", "", "bad"), Finding("b", "", "bad"), Finding("c", "", "note"), Finding("d", "")]
    assert doctor.verdict(findings) == "2 things to mend: a, b. 1 note."
    assert doctor.verdict(findings[2:]) == "All that the workbench needs is here. 1 note."


def test_a_port_in_use_is_a_note():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        found = told(doctor.surroundings(port))["app"]
        assert found.state == "note" and found.mend == f"workbench app --port {port + 1}"
    assert told(doctor.surroundings(port))["app"].told == f"port {port} is free"


def test_the_hub_is_asked_for_nothing(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = told(doctor.surroundings())["Hub"]
    assert found.state == "note" and "a token is there" in found.told and "hf_secret" not in str(found)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "no token" in told(doctor.surroundings())["Hub"].told


def test_tools_that_are_missing_are_notes_with_a_command(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv("WORKBENCH_FASHION", str(tmp_path))
    monkeypatch.setattr(doctor, "FONT_FOLDERS", (str(tmp_path),))
    found = told(doctor.data())
    for what, package in (("browser", "chromium"), ("Fashion-MNIST", "dataset-fashion-mnist"), ("fonts", "fonts-dejavu-core")):
        assert found[what].state == "note" and f"apt-get install {package}" in found[what].mend


def test_gpus_are_named_with_their_memory():
    def gpu(available: bool, mps: bool = False):
        cuda = SimpleNamespace(
            is_available=lambda: available, device_count=lambda: 2, get_device_name=lambda k: f"card {k}",
            mem_get_info=lambda k: (2**30 * (k + 1), 2**33),
        )  # fmt: skip
        return SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)))

    found = told(doctor._gpus(gpu(True)))
    assert found["cuda:1"].told == "card 1, 2.0 of 8.0 GiB free" and found["device"].told.startswith("cuda")
    assert told(doctor._gpus(gpu(False)))["device"].told.startswith("cpu")
    assert "Apple GPU" in told(doctor._gpus(gpu(False, mps=True)))["mps"].told


def test_a_gpu_that_torch_cannot_use_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_nvidia", lambda: "H100")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = told(doctor._gpus(torch))["GPU"]
    assert found.state == "note" and "H100 is here" in found.told and "CUDA build" in found.mend


def test_a_full_or_forbidden_disk_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    found = doctor._disk("home", tmp_path / "not" / "there")
    assert found.state == "note" and "0.0 GiB free" in found.told and found.mend == "free some space"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "not writable" in doctor._disk("home", tmp_path).told
