"""What a student starts as: its teacher's network with further inputs or adapters, or a fresh one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from workbench import paths
from workbench.denoiser import Denoiser, Network, Scaled
from workbench.distill.adapters import add_lora, hidden_for, only
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.recipe import Recipe
from workbench.errors import WorkbenchError
from workbench.samplers.sample import Sampling, default_sampling

CALM = 16.0  # highest angular frequency in time of a fresh network that an objective differentiates


def settled(teacher: Denoiser, recipe: Recipe) -> tuple[Denoiser, dict[str, Any]]:
    """A teacher that takes the guidance scale, made fit for the recipe, and the options that follow.

    A recipe with a range of scales asks it as it is, and a pointwise one that distils it without any setting takes over its range;
    for any other it is fixed at the scale asked for (its own by default).

    Raises:
        WorkbenchError: for a scale outside the teacher's range, or a teacher that cannot be fixed at one.
    """
    from workbench.networks import at_scale

    own = getattr(teacher, "guidance_input", None)
    if own is None:
        return teacher, {}
    asked = scale_of(recipe)
    if isinstance(asked, tuple):
        return teacher, {}
    if asked is None and isinstance(recipe.objective, Pointwise) and recipe.objective.asks_teacher:
        return teacher, {"guidance": own}
    w = default_sampling(teacher).guidance if asked is None else float(asked)
    Scaled(teacher, w)  # says what is wrong with it
    fixed = copy.copy(teacher)
    fixed.net, fixed.guidance_input = at_scale(teacher.net, w), None
    fixed.sampling = replace(default_sampling(teacher), guidance=1.0)
    return fixed, {"guidance": 1.0}


def scale_of(recipe: Recipe) -> Any:
    """The teacher's guidance that a recipe asks for: a scale, a range (low, high), or None for the teacher's own."""
    guidance = recipe.objective.guidance
    return getattr(guidance, "real", guidance)


def sampling_of(recipe: Recipe, sampling: Sampling, teacher: Denoiser) -> Sampling:
    """How a student is sampled; one that takes the scale, by default at the teacher's own, or the nearest in its range."""
    asked = scale_of(recipe)
    if not isinstance(asked, tuple):
        return sampling
    return replace(sampling, guidance=min(max(default_sampling(teacher).guidance, asked[0]), asked[1]))


def new_student(
    teacher: Denoiser, init: Network | None, seed: int, recipe: Recipe, size: dict[str, int]
) -> tuple[Network, bool]:
    """A student that starts as `init` or the teacher, and False; or a fresh network of ours, and True.

    Raises:
        WorkbenchError: if the recipe does not fit the teacher, before anything is trained.
    """
    from workbench.networks import added_to, extended, new_network, with_classes

    objective, shape = recipe.objective, tuple(teacher.shape)
    if getattr(getattr(objective, "metric", None), "images_only", False) and len(shape) != 3:
        raise WorkbenchError(
            f"recipe {recipe.name!r} compares spatial frequencies, so it needs images (c, h, w), not samples of shape {shape}: "
            "use kd for points, or another metric."
        )
    wanted, grown = _inputs(recipe, shape), int(getattr(objective, "new_classes", 0))
    if wanted["guidance_input"] and not getattr(teacher, "classes", 0):
        raise WorkbenchError(
            f"guidance is a range, {wanted['guidance_input']}, but this teacher has no classes, so nothing guides it: "
            "choose a teacher with classes."
        )
    source = init if init is not None else teacher
    net, classes = getattr(source, "net", None), int(getattr(teacher, "classes", 0) or 0)
    path = paths.get(teacher.path)
    if isinstance(net, nn.Module) and hasattr(net, "config") and not size:
        if tuple(source.shape) != shape or source.classes != classes or source.path.name != path.name:
            raise WorkbenchError("init must have the teacher's shape, classes and path.")
        made = extended(net, **changes) if (changes := _changes(net, wanted, recipe)) else copy.deepcopy(net)
        made = with_classes(made, grown) if grown else made
        made.requires_grad_(True)
        if getattr(objective, "hint_only", False):
            only(made, [name for name, _ in made.named_parameters() if name.startswith("inputs.hint.")])
        if recipe.adapters:
            only(made, [name for name, _ in made.named_parameters() if name.startswith("inputs.adapters.")])
        if recipe.lora:
            add_lora(made, recipe.lora, seed, added_to(made, net))
        return Network(made, path, source.kind, shape, classes + grown, bool(made.config.get("two_times"))), False
    if recipe.lora or recipe.adapters:
        part = "low-rank updates (lora)" if recipe.lora else "adapters"
        raise WorkbenchError(
            f"recipe {recipe.name!r} trains {part} beside a trained network of ours, and there is none here: choose a teacher that is a "
            "network, such as digits/teacher, or pass init=, a trained one."
        )
    return _fresh(path, shape, classes, objective, seed, wanted, size, new_network), True


def _fresh(path, shape, classes, objective, seed, wanted, size, new_network) -> Network:
    try:
        paths.get(path.name)  # what the student's card will hold
    except WorkbenchError as error:
        raise WorkbenchError(
            f"the teacher's path, {path.name!r}, has no name that a student's card could hold: "
            "give the teacher a path by name, or a scheduler with linear, scaled_linear or squaredcos_cap_v2 betas."
        ) from error
    kind = "flow" if path.smooth else "v"
    if hasattr(getattr(objective, "target", None), "exact"):  # it differentiates the network in time
        size = {"frequency": CALM, **size}
    inputs = {name: wanted[name] for name in ("guidance_input", "z_dim", "hint") if wanted[name]}
    try:
        net = new_network(shape, classes, kind, path.name, seed, wanted["two_times"], **inputs, **size)
    except (TypeError, RuntimeError, ValueError) as error:
        raise WorkbenchError(f"network={size!r} does not describe a network of ours: {str(error).splitlines()[0]}") from error
    return Network(net, path, kind, shape, classes, wanted["two_times"])


def _inputs(recipe: Recipe, shape: tuple[int, ...]) -> dict[str, Any]:
    """The further inputs that the student of a recipe takes."""
    asked = scale_of(recipe)
    interval = list(asked) if isinstance(asked, tuple) else None
    if recipe.adapters and interval is None:
        raise WorkbenchError(
            f"recipe {recipe.name!r} trains adapters that are told the guidance scale: set guidance to a range (low, high)."
        )
    two_times = bool(getattr(recipe.objective, "two_times", False))
    hint = getattr(recipe.objective, "hint", None)
    return {
        "two_times": two_times,
        "guidance_input": interval,
        "z_dim": int(getattr(recipe.objective, "z_dim", 0)),
        "hint": None if hint is None else list(hint(torch.zeros(1, *shape)).shape[1:]),
    }


def _changes(net: nn.Module, wanted: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What has to be added to a network for the inputs that are wanted."""
    changes: dict[str, Any] = {}
    if wanted["two_times"] and not net.config.get("two_times"):
        changes["two_times"] = True
    for name in ("guidance_input", "z_dim", "hint"):
        has, wants = net.config.get(name) or None, wanted[name] or None
        has = list(has) if isinstance(has, (tuple, list)) else has
        if has is None and wants is not None:
            changes[name] = wants
        elif has is not None and (has != wants if name == "hint" else not _serves(has, wants)):
            raise WorkbenchError(
                f"the network to start from was made with {name} = {has}, and recipe {recipe.name!r} wants {wants}: "
                "start from a network without it, or ask for the same."
            )
    if recipe.adapters and not net.config.get("adapter"):
        changes["adapter"] = hidden_for(net, recipe.adapters)
    return changes


def _serves(has: Any, wants: Any) -> bool:
    """Whether an input that a network has is one that is wanted: a range of scales may be asked for in part."""
    if isinstance(has, list) and isinstance(wants, list):
        return has[0] <= wants[0] and wants[1] <= has[1]
    return has == wants
