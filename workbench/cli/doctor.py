"""`workbench doctor`: what this machine has, what is missing, and the command that gets it.

Nothing outside the standard library is imported at the top, so that the doctor can also be asked where packages are missing.
No question here reaches the network, and none changes anything on disk.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from workbench.errors import WorkbenchError

DISTRIBUTION, PORT = "diffusion-workbench", 7860
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LITTLE = 2**30  # bytes free on a disk, below which a run may not fit
MARKS = {"ok": "✓", "note": "!", "bad": "✗"}
COLORS = {"ok": "green", "note": "yellow", "bad": "bold red"}
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/Library/Fonts",
                "/System/Library/Fonts", "C:/Windows/Fonts")  # fmt: skip


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        what, told: its name and what was found. state: "ok"; "note", something that most people can do without; or "bad".
        mend: what to do, where something can be done.
    """

    what: str
    told: str
    state: str = "ok"
    mend: str = ""


def doctor(args: Namespace) -> int:
    """Print the report; 1 if a model is damaged or a package is missing or too old."""
    report = {title: list(_safely(look)) for title, look in SECTIONS.items()}
    show(report)
    return int(any(finding.state == "bad" for findings in report.values() for finding in findings))


def verdict(findings: Iterable[Finding]) -> str:
    """One line for all.

    >>> verdict([Finding("plotly", "missing", "bad"), Finding("port", "in use", "note")])
    '1 thing to mend: plotly. 1 note.'
    """
    findings = list(findings)
    bad, notes = ([finding.what for finding in findings if finding.state == state] for state in ("bad", "note"))
    counted = f" {len(notes)} note{'s' * (len(notes) > 1)}." if notes else ""
    if bad:
        return f"{len(bad)} thing{'s' * (len(bad) > 1)} to mend: {', '.join(bad)}.{counted}"
    return f"All that the workbench needs is here.{counted}"


def show(report: dict[str, list[Finding]]) -> None:
    """Sections of marked lines and the verdict; in colour on a terminal, plain and unwrapped elsewhere or without rich."""
    every = [finding for findings in report.values() for finding in findings]
    width = max(len(finding.what) for finding in every)
    worst = next((state for state in ("bad", "note") if any(finding.state == state for finding in every)), "ok")
    lines: list[tuple[str, str, str]] = []  # (head, its style, rest)
    for title, findings in report.items():
        lines.append((title, "bold", ""))
        for state, what, told, mend in ((f.state, f.what, f.told, f.mend) for f in findings):
            lines.append((f"  {MARKS[state]} ", COLORS[state], f"{what:{width}}  {told}"))
            if mend:
                lines.append((" " * (width + 6), "", f"→ {mend}"))
        lines.append(("", "", ""))
    lines.append((f"{MARKS[worst]} ", COLORS[worst], verdict(every)))
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print("\n".join(head + rest for head, _, rest in lines))
        return
    if not sys.stdout.isatty():
        print("\n".join((head + rest).rstrip() for head, _, rest in lines))
        return
    console = Console(file=sys.stdout)
    for head, style, rest in lines:
        if not rest:
            console.print(Text(head, style))
            continue
        hanging = Table.grid()  # so that a long line goes on under itself
        hanging.add_column(no_wrap=True)
        hanging.add_column(overflow="fold")
        found = head.startswith("  ") and head.strip()
        if found:
            hanging.add_column(overflow="fold")
            hanging.add_row(Text(head, style), Text(rest[: width + 2]), Text(rest[width + 2 :]))
        else:
            hanging.add_row(Text(head, style), Text(rest, "dim" if not head.strip() else style))
        console.print(hanging)


def machine() -> Iterator[Finding]:
    """Interpreter, torch's build, processors, memory, accelerators."""
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}"
    yield Finding("python", told)
    memory = _memory()
    yield Finding("memory", f"{memory / 2**30:.1f} GiB" if memory else "unknown")
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", f"cannot be imported: {_line(error)}", "bad", _install("torch"))
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "CPU"
    yield Finding("torch", f"{torch.__version__}, {build} build")
    threads = torch.get_num_threads()
    told = f"{threads} thread{'s' * (threads > 1)} on {os.cpu_count()} processors (--threads N changes it)"
    yield Finding("processors", told)
    yield from _gpus(torch)


def packages(declared: Iterable[str] | None = None) -> Iterator[Finding]:
    """Every required distribution against its range, then the optional groups."""
    from packaging.requirements import Requirement

    required = [Requirement(line) for line in (requirements() if declared is None else declared)]
    always = [item for item in required if item.marker is None or item.marker.evaluate({"extra": ""})]
    held, wanting = [], []
    for item in always:
        version = installed(item.name)
        if version is not None and item.specifier.contains(version, prereleases=True):
            held.append(f"{item.name} {version}")
            continue
        told = "missing" if version is None else f"{version}, but {item.specifier} is needed"
        wanting.append(Finding(item.name, told, "bad", _install(f"{item.name}{item.specifier}")))
    yield from wanting
    if held:
        yield Finding("required", ", ".join(held))
    for extra in dict.fromkeys(re.findall(r"extra == [\"'](\w+)[\"']", " ".join(str(item.marker) for item in required))):
        group = [item for item in required if item not in always and item.marker.evaluate({"extra": extra})]
        lacking = [item.name for item in group if (found := installed(item.name)) is None or not item.specifier.contains(found)]
        if lacking:
            mend = _install(f"{DISTRIBUTION}[{extra}]")
            yield Finding(extra, f"optional, without {', '.join(lacking)}", "note", mend)
        else:
            yield Finding(extra, "optional: " + ", ".join(f"{item.name} {installed(item.name)}" for item in group))


def models() -> Iterator[Finding]:
    """Analytic and bundled models, then each of the user's own; every file is read."""
    from workbench import student, zoo

    analytic = sum(entry.source == "analytic" for entry in zoo.catalog())
    damaged = list(filter(None, map(_damage, zoo.folders(zoo.BUNDLED))))
    for folder in sorted(zoo.BUNDLED.glob("*-classifier")):
        from workbench.files import read_json

        if student.digest(folder / student.WEIGHTS) != read_json(folder / student.CARD)["sha256"]:
            damaged.append(Finding(folder.name, f"damaged: {folder / student.WEIGHTS} is not what its card says", "bad"))
    yield from (finding._replace(mend="install the workbench again from where it came") for finding in damaged)
    count = len(zoo.folders(zoo.BUNDLED)) - len(damaged)
    yield Finding("bundled", f"{analytic} analytic, {count} trained, every file checked")
    root = zoo.home() / "zoo"
    if not root.is_dir():
        yield Finding("your own", f"none; they belong into {root} as SPACE/NAME (not there yet)")
        return
    own = zoo.folders(root)
    yield Finding("your own", f"{len(own)} in {root}")
    known = {entry.folder: entry for entry in zoo.catalog()}
    for folder in own:
        name = f"{folder.parent.name}/{folder.name}"
        yield _damage(folder) or Finding(name, known[folder].summary if folder in known else "whole")
    for folder in sorted(path for path in root.glob("*/*") if path.is_dir() and path not in own):
        yield Finding(f"{folder.parent.name}/{folder.name}", "no card.json or model_index.json: not a model", "note")


def data() -> Iterator[Finding]:
    """Data sets, browser, fonts."""
    from workbench.data.images import FASHION_FOLDERS

    yield Finding("digits", "scikit-learn's, always there")
    given = os.environ.get("WORKBENCH_FASHION")
    folders = [Path(path) for path in ([given] if given else FASHION_FOLDERS)]
    held = next((folder for folder in folders if folder.is_dir() and any(folder.rglob("train-images*"))), None)
    if held is not None:
        yield Finding("Fashion-MNIST", f"IDX files in {held}")
    else:
        mend = "apt-get install dataset-fashion-mnist, or set WORKBENCH_FASHION to the folder of the IDX files"
        yield Finding("Fashion-MNIST", "not on this machine; needed to train on it only", "note", mend)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        yield Finding("browser", browser)
    else:
        yield Finding("browser", "no Chromium; needed by the tests only", "note", "apt-get install chromium")
    fonts = sum(1 for folder in FONT_FOLDERS for file in Path(folder).expanduser().rglob("*.[to]t[fc]"))
    if fonts:
        yield Finding("fonts", f"{fonts} on this machine")
    else:
        yield Finding(
            "fonts", "none; exported pictures are lettered in plain ASCII", "note", "apt-get install fonts-dejavu-core"
        )


def surroundings(port: int = PORT) -> Iterator[Finding]:
    """Disks, the Hub as this machine is set to use it, the app's port."""
    from workbench import zoo

    for what, folder in (("home", zoo.home()), ("run folder", Path("runs").absolute())):
        yield _disk(what, folder)
    yield _hub()
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that has just been left is free
        try:
            probe.bind(("127.0.0.1", port))
            yield Finding("app", f"port {port} is free")
        except OSError:
            yield Finding("app", f"port {port} is in use", "note", f"workbench app --port {port + 1}")


SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Machine": machine,
    "Packages": packages,
    "Models": models,
    "Data and tools": data,
    "Surroundings": surroundings,
}


def requirements() -> list[str]:
    """What the installed workbench declares, or, where it only lies in a folder, what its pyproject.toml does."""
    import tomllib

    try:
        return list(metadata.requires(DISTRIBUTION) or [])
    except metadata.PackageNotFoundError:
        file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).items()
    return project["dependencies"] + [f'{line} ; extra == "{extra}"' for extra, lines in extras for line in lines]


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _safely(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What could be found; a package that is missing ends the section, and the section on packages says which."""
    try:
        yield from look()
    except ImportError as error:
        name = (error.name or "a package").split(".")[0]
        yield Finding(look.__name__, f"not looked at: {name} cannot be imported", "bad", _install(name))


def _damage(folder: Path) -> Finding | None:
    from workbench import zoo

    try:
        zoo.check(folder)
    except WorkbenchError as error:
        return Finding(f"{folder.parent.name}/{folder.name}", f"damaged: {error}", "bad", "mend or remove the folder")
    return None


def _gpus(torch) -> Iterator[Finding]:
    found = "cpu"
    if torch.cuda.is_available():
        found = "cuda"
        for place in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(place)
            told = f"{torch.cuda.get_device_name(place)}, {free / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
            yield Finding(f"cuda:{place}", told)
    elif driver := _nvidia():
        mend = "install the CUDA build of torch, as its site says for this system"
        yield Finding("GPU", f"{driver} is here, but this build of torch cannot use it", "note", mend)
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple GPU, memory shared with the system (--device mps)")
    else:
        yield Finding("mps", "no Apple GPU")
    told = "the first GPU" if found == "cuda" else "no CUDA GPU: bundled models draw and distil on the processor within minutes"
    yield Finding("device", f"{found}, {told}")


def _nvidia() -> str:
    """Name of an NVIDIA card by its driver's own tool, or nothing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(done.stdout.split("\n")).strip(", ") if done.returncode == 0 else ""


def _memory() -> int:
    """Bytes of memory that this process may use, or 0 where it cannot be told."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            whole = min(whole, int(text))
    return whole


def _disk(what: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    told = f"{folder}, {free / 2**30:.1f} GiB free"
    if not os.access(there, os.W_OK):
        return Finding(what, f"{told}, not writable", "note", "set WORKBENCH_HOME, or work in a folder of your own")
    return Finding(what, told, "note" if free < LITTLE else "ok", "free some space" if free < LITTLE else "")


def _hub() -> Finding:
    from huggingface_hub import constants, get_token

    token = "a token is there" if get_token() else "no token (only public models)"
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", f"offline by HF_HUB_OFFLINE, {token}", "note", "unset HF_HUB_OFFLINE to load hf:ORG/NAME")
    return Finding("Hub", f"online when asked (hf:ORG/NAME), {token}, cache in {constants.HF_HUB_CACHE}")


def _install(what: str) -> str:
    return f"{sys.executable} -m pip install '{what}'"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
