"""Let a module be called: `workbench.distill(...)` while `workbench.distill.recipes` stays importable.

Importing `workbench.distill.recipes` anywhere binds the name `distill` on the package to the module, in whatever order
things are imported; a function of the same name could not survive beside it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Make the loaded module `name` behave like `function` when it is called."""
    module = sys.modules[name]

    class CallableModule(type(module)):
        @functools.wraps(function)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    module.__class__ = CallableModule
    module.__signature__ = inspect.signature(function)
