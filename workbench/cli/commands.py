"""`workbench app` and `sample`."""

from __future__ import annotations

import ast
import time
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import torch

from workbench import zoo
from workbench.denoiser import decode
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.report import pictures
from workbench.samplers.adaptive import POLICIES
from workbench.samplers.sample import default_sampling, plan_for


def app(args: Namespace) -> None:
    """Start the app; it blocks until Ctrl-C."""
    from apps.main import launch

    check_count("--port", args.port, 0, 65535)
    launch(host=args.host, port=args.port, share=args.share, open_browser=args.open)


def sample(args: Namespace) -> None:
    """Draw samples into a file."""
    from workbench.samplers.sample import sample as draw

    model, options = zoo.load(args.model), settings(args.settings)
    n = check_count("-n", args.n, 1, 100_000)
    cond = classes(model, args.cond, n)
    taken = {"n", "cond", "seed", "steps", "sampler", "schedule", "guidance"} & set(options)
    if taken:
        raise WorkbenchError(f"--set {min(taken)}=... has an option of its own: write --{min(taken)}.")
    plan = None  # an adaptive sampler has none
    if args.sampler not in POLICIES:
        of_plan = {key: value for key, value in options.items() if key not in ("batch", "thresholding")}
        plan = plan_for(model, args.steps, args.sampler, args.schedule, **of_plan)
    began = time.perf_counter()
    x = draw(model, n, cond, args.steps, args.sampler, args.schedule, args.guidance, args.seed, **options)
    seconds = time.perf_counter() - began
    numbers = args.out.lower().endswith(".safetensors")  # latents stay latents there
    path = pictures.save(args.out, {"samples": x if numbers else decode(model, x)}, cond)
    scale = default_sampling(model).guidance if args.guidance is None else args.guidance
    guided = f", guidance {scale:g}" if getattr(model, "classes", 0) and scale != 1 else ""
    print(f"{n} samples of {args.model} in {seconds:.2f} s: {plan or args.sampler}{guided}, seed {args.seed} -> {path}")


def classes(model: Any, text: str | None, n: int) -> torch.Tensor | None:
    """Read --cond: None, or n labels from a number, a class name, several with commas, or "all" in turn.

    Raises:
        WorkbenchError: for a class that the model does not have.
    """
    if text is None:
        return None
    count, names = int(getattr(model, "classes", 0) or 0), list(getattr(model, "class_names", ()))
    if not count:
        raise WorkbenchError("this model has no classes: leave --cond out.")
    if text == "all":
        return torch.arange(n) % count
    lower = [name.lower() for name in names]
    found = []
    for word in text.split(","):
        word = word.strip()
        if word.lstrip("-").isdigit() and word not in names:
            number = int(word)
            if not -1 <= number < count:
                raise WorkbenchError(f"class {number} does not exist: this model knows 0 to {count - 1}, and -1 for no class.")
            found.append(number)
        elif word.lower() in lower:
            found.append(lower.index(word.lower()))
        else:
            raise unknown("class", word, names or [f"0 to {count - 1}"])
    return torch.tensor(found)[torch.arange(n) % len(found)]


def settings(pairs: Iterable[str], option: str = "--set", such: str = "batch=32") -> dict[str, Any]:
    """Read KEY=VALUE words; values are Python literals where they can be, else text.

    Raises:
        WorkbenchError: for a word without "=", or a key given twice.

    >>> settings(["batch=32", "lr=1e-4", "schedule=karras"])
    {'batch': 32, 'lr': 0.0001, 'schedule': 'karras'}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise WorkbenchError(f"{option} {pair!r} must be KEY=VALUE, such as {such}.")
        if key in found:
            raise WorkbenchError(f"{option} gives {key!r} twice.")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found
