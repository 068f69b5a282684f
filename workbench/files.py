"""Files that are either whole or not there: atomic writing, and reading that says what is wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workbench.errors import WorkbenchError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def home() -> Path:
    """The user's folder: WORKBENCH_HOME, or workbench below XDG_DATA_HOME (~/.local/share)."""
    given = os.environ.get("WORKBENCH_HOME")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "workbench"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a neighbouring temporary file, then put it in place of `path` in one step.

    Raises:
        WorkbenchError: if writing fails (a full disk, say); the old file is then untouched.
    """
    write_together({path: write})


def write_together(writers: Mapping[Path, Callable[[Path], None]]) -> None:
    """Write files that belong together: none is put in place before all are written.

    Raises:
        WorkbenchError: if writing one fails; the old files are then untouched.
    """
    temporaries = {path: path.with_name(path.name + ".tmp") for path in writers}
    try:
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporaries[path])
            with open(temporaries[path], "rb") as handle:
                os.fsync(handle.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if getattr(error, "errno", None) in NO_SPACE or "space" in reason:
            free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.exists() else 0
            reason, cure = f"{reason}; {free:.0f} MiB free", "free some space and run again"
        else:
            cure = "choose a folder that can be written"
        raise WorkbenchError(f"could not write {path} ({reason}): the previous version is intact, {cure}.") from error


def check_folder(folder: Path) -> None:
    """Make a folder, and see that files can be written there: before work whose result goes there.

    Raises:
        WorkbenchError: if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WorkbenchError(f"nothing can be written in {folder} ({error.strerror}): choose another folder.") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys in the given order."""
    write_atomically(path, lambda temporary: temporary.write_text(to_json(content), encoding="utf-8") and None)


def to_json(content: Any) -> str:
    """JSON as we store it: two spaces, keys in the given order."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON, or say in one sentence that the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"{path} is missing or not valid JSON ({error}): restore it, or start a new folder.") from error
