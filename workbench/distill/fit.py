"""Whether a recipe fits a teacher: said before anything is trained, with the recipes that do."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network
from workbench.distill.objectives.distributional import Guidance
from workbench.distill.objectives.extras import Dispersive
from workbench.distill.objectives.parts import FEATURES_OF, FeatureDistance
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.recipe import Recipe
from workbench.distill.recipes import RECIPES
from workbench.errors import MissingSource, WorkbenchError

SHOWN = 8
NO_GUIDANCE = {"guidance": (None, 1), "real": (None, 1), "fake": (1,), "same": (False,), "spread": (None,)}


def check_fit(recipe: Recipe, teacher: Denoiser, data: Any = None, init: Network | None = None, size: Any = None) -> None:
    """Refuse what cannot be trained.

    Args:
        data: what `distill` was given, or None. init, size: the student's start, and the size of one that starts from nothing.

    Raises:
        MissingSource: if all that is missing is data. WorkbenchError: with every reason and the recipes that fit.
    """
    found = misfits(recipe, teacher, init, size)
    own = getattr(recipe.objective, "own_data", None)  # data that the teacher's card does not name
    missing = recipe.objective.needs_data and data is None and (own is not None or not has_data(teacher))
    if missing:
        found.append(own or "it trains on data, and the teacher's card names none: pass data=...")
    shape = _shape(data)
    if shape is not None and shape != tuple(teacher.shape):
        found.append(
            f"the data are of shape {shape}, and the teacher's samples of {tuple(teacher.shape)}: give data of that shape"
        )
    if not found:
        return
    kind = MissingSource if missing and len(found) == 1 else WorkbenchError
    start = lambda one: type(getattr(one.objective, "start", one.objective))  # noqa: E731
    others = sorted(
        fitting(teacher, data is not None), key=lambda name: start(RECIPES[name]) is not start(recipe)
    )  # like it first
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    said = f" Recipes that fit: {', '.join(others[:SHOWN])}{more}." if others else ""
    raise kind(f"recipe {recipe.name!r} does not fit: {'; '.join(found)}.{said}")


def misfits(recipe: Recipe, teacher: Denoiser, init: Network | None = None, size: Any = None) -> list[str]:
    """Why a recipe cannot train a student of this teacher, data aside; empty if it can."""
    objective, shape, found = recipe.objective, tuple(teacher.shape), []
    metric, guidance = getattr(objective, "metric", None), getattr(objective, "guidance", None)
    net = getattr(init if init is not None else teacher, "net", None)
    net = net if isinstance(net, nn.Module) and hasattr(net, "config") and not size else None
    ours = net is not None and type(net).__module__.startswith("workbench.")
    if getattr(metric, "images_only", False) and len(shape) != 3:
        found.append(
            f"it compares spatial frequencies, so it needs images (c, h, w), not samples of shape {shape}: use kd for points, or another metric"
        )
    if isinstance(metric, FeatureDistance) and metric.features is None and shape not in FEATURES_OF:
        found.append(f"its metric compares features of bundled classifiers, and none knows samples of shape {shape}")
    if isinstance(guidance, tuple) and not getattr(teacher, "classes", 0) and not isinstance(objective, Pointwise):
        found.append(
            f"guidance is a range, {list(guidance)}, but this teacher has no classes, so nothing guides it: choose a teacher with classes"
        )
    elif not getattr(teacher, "classes", 0) and not isinstance(objective, Pointwise):
        found += _unguided(recipe)
    if recipe.lora and recipe.adapters:
        found.append(
            f"it would train both low-rank updates (lora = {recipe.lora}) and adapters (at most {recipe.adapters:g} of the parameters): set one of "
            "them to 0"
        )
    if (recipe.lora or recipe.adapters) and net is None:
        part = "low-rank updates (lora)" if recipe.lora else "adapters"
        found.append(
            f"it trains {part} beside a trained network of ours, and there is none here: choose a teacher that is a network, such as "
            "digits/teacher, or pass init=, a trained one"
        )
    if getattr(objective, "two_times", False) and net is not None and not ours and not getattr(teacher, "two_times", False):
        found.append(
            f"its student is asked at two times, t and s, and a {type(net).__name__} takes one: pass network={{...}} for a fresh student"
        )
    if (
        any(isinstance(extra, Dispersive) for extra in getattr(objective, "extras", ()))
        and net is not None
        and not hasattr(net, "features")
    ):
        found.append(
            f"it spreads inner features, and a {type(net).__name__} shows none: pass network={{...}} for a fresh student"
        )
    if getattr(objective, "adapts", False) and net is None:
        found.append(
            "it adapts a trained student that is a network of ours, and there is none here: pass init=, such a student"
        )
    elif getattr(objective, "adapts", False) and init is None and getattr(teacher, "role", "") != "student":
        found.append(
            "it adapts a trained few-step student, and this teacher is none: pass init=, such a student, or give it in the teacher's place"
        )
    if hasattr(objective, "misfits"):
        found += objective.misfits(teacher)
    try:
        recipe.sampling.plan(teacher.path)
    except WorkbenchError as error:
        found.append(f"its student's sampler does not run on the teacher's path ({str(error).rstrip('.')})")
    return found


def _unguided(recipe: Recipe) -> list[str]:
    """What a recipe asks of guidance that its row does not, where nothing guides the teacher."""
    if recipe.name not in RECIPES:
        return []  # a recipe of the caller's own has no row to differ from
    own = _scales(RECIPES[recipe.name].objective)
    given = {name: value for name, value in _scales(recipe.objective).items() if own.get(name) != value}
    if not given:
        return []
    shown = ", ".join(f"{name} = {list(value) if isinstance(value, tuple) else value}" for name, value in given.items())
    return [
        f"guidance is set ({shown}), but this teacher has no classes, so nothing guides it: choose a teacher with classes, or leave guidance out"
    ]


def _scales(objective: Any) -> dict[str, Any]:
    """The guidance that an objective asks for, by option, but for what is none."""
    found = {}
    for part in (objective, getattr(objective, "matching", objective)):  # rcm's second half
        guidance = getattr(part, "guidance", None)
        if isinstance(guidance, Guidance):
            found |= {name: getattr(guidance, name) for name in ("real", "fake", "same", "spread")}
        else:
            found["guidance"] = guidance
    asked = {name: value for name, value in found.items() if value not in NO_GUIDANCE[name]}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()}


def fitting(teacher: Denoiser, data: bool = False) -> list[str]:
    """Names of the recipes that fit a teacher, in alphabetical order.

    >>> import workbench as wb
    >>> "hipa" in fitting(wb.mixture([[1.0, 0.0]], [0.2]))
    False
    """
    there = data or has_data(teacher)
    shape = tuple(teacher.shape)
    return sorted(
        name
        for name, recipe in RECIPES.items()
        if _fed(recipe, there, data) and not misfits(recipe.fitted(shape, False), teacher)
    )


def _fed(recipe: Recipe, there: bool, given: bool) -> bool:
    """Whether the recipe has the data that it needs: any, or, for one of its own, those that were given."""
    needed = recipe.objective.needs_data
    return not needed or (given if hasattr(recipe.objective, "own_data") else there)


def has_data(teacher: Denoiser) -> bool:
    """Whether the teacher itself says what it was trained on, or draws from its law."""
    if hasattr(teacher, "sample") and hasattr(teacher, "log_density"):
        return True
    return bool(getattr(teacher, "card", {}).get("data"))


def _shape(data: Any) -> tuple[int, ...] | None:
    x = data[0] if isinstance(data, tuple) and data else getattr(data, "images", data)
    return tuple(x.shape[1:]) if isinstance(x, Tensor) and x.dim() > 1 and len(x) else None
