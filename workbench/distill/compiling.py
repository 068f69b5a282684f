"""torch.compile for a training: its networks are compiled in place, so that names, types, copies and checkpoints stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from workbench.denoiser import INNER, Denoiser, Wrapper
from workbench.errors import WorkbenchError, unknown

DEFAULT = "inductor"


def backend_of(compile: Any) -> str | None:
    """The backend that an option names: None for False, torch's default for True.

    Raises:
        WorkbenchError: for what is neither. UnknownName: for a backend that torch does not have.

    >>> backend_of(False), backend_of(True)
    (None, 'inductor')
    """
    if isinstance(compile, bool):
        return DEFAULT if compile else None
    if not isinstance(compile, str):
        raise WorkbenchError(f"compile is {compile!r}, but must be True, False or the name of a backend, such as 'aot_eager'.")
    from torch._dynamo import list_backends

    if compile not in (known := list_backends(exclude_tags=())):
        raise unknown("compile backend", compile, known)
    return compile


def compile_networks(objective: Any, teacher: Denoiser, backend: str) -> int:
    """Compile the networks of an objective and of its teacher, and return how many.

    Only calls are compiled: what asks a network for its features, and a derivative in time, runs as before.
    """
    roots = [*objective.players.values(), *getattr(objective, "frozen", {}).values(), *_teachers(teacher)]
    found = {id(net): net for root in roots if isinstance(root, nn.Module) for net in _networks(root)}
    for net in found.values():
        net.compile(backend=backend)
    return len(found)


def _teachers(teacher: Denoiser) -> list[Any]:
    """The networks of a teacher, also those within wrappers."""
    if isinstance(teacher, Wrapper):
        return [net for name in INNER if name in vars(teacher) for net in _teachers(getattr(teacher, name))]
    return [getattr(teacher, "net", None)]


def told(training: Iterator[Any]) -> Iterator[Any]:
    """A training whose failures to compile are a sentence.

    Raises:
        WorkbenchError: for what the compiler cannot do.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield from training
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WorkbenchError(
            f"the networks could not be compiled ({reason.strip().rstrip('.')}): train with compile=False, or compile='aot_eager', which "
            "needs no C++ compiler."
        ) from error


def _networks(module: nn.Module) -> list[nn.Module]:
    """The outermost networks within a module: those that have a configuration."""
    if hasattr(module, "config"):
        return [module]
    return [net for child in module.children() for net in _networks(child)]
