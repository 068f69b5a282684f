"""What a recipe is: one configured objective with its rates, the sampler of its student, and its paper."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from workbench.distill.loop import Optim
from workbench.distill.objectives.ddgan import DenoisingGAN
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.levels import LogNormalLevels
from workbench.distill.objectives.moments import Moments
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.values import put
from workbench.errors import WorkbenchError, unknown
from workbench.samplers.sample import Sampling

FRESH_RATE = 4.0
MANY, LONGER = 16, 0.5  # from so many dimensions on, the start of a student that has one takes this share of the run
OWN = ("batch", "ema", "steps", "lora", "adapters", "compile", "matched")


@dataclass(frozen=True)
class Recipe:
    """One published method.

    Attributes:
        name, paper, summary: what it is. objective: `Pointwise` or `Distributional`, configured.
        sampling: how its student must be run. optim: player -> rates, for a student that starts as its teacher.
        batch, ema (of the evaluated weights), steps (how long): defaults.
        points: options that suit points (d,) better than images.
        lora: rank of low-rank updates, which alone are trained; 0 trains every weight. adapters: largest share of the parameters
            that adapters told the guidance scale may have, which alone are trained; 0 for none.
        compile: every network is compiled (torch.compile): True, or the name of its backend. It changes no more than rounding, so a
            run may be continued with or without.
        matched: share of the run in which a student that starts from nothing first learns the teacher's own estimates, see `start`.
    """

    name: str
    paper: str
    summary: str
    objective: Pointwise | Distributional | Moments | DenoisingGAN
    sampling: Sampling
    optim: dict[str, Optim]
    batch: int = 64
    ema: float = 0.995
    steps: int = 2000
    points: dict[str, Any] = field(default_factory=dict)
    lora: int = 0
    adapters: float = 0.0
    compile: bool | str = field(default=False, repr=False)
    matched: float = field(default=0.0, repr=False)

    def configured(self, **options: Any) -> Recipe:
        """This recipe with options replaced: its own fields, a switch or a part's field by name, or a rate.

        `lr` sets the student's rate, `critic_lr` that of a player called critic, `momentum` the first of Adam's betas of every player.

        Raises:
            UnknownName: for an option that nothing here has, with the nearest one.
        """
        recipe = self
        for name, value in options.items():
            if name in OWN:
                recipe = put(recipe, name, value)
            elif name == "momentum":
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                    raise WorkbenchError(f"momentum is {value!r}, but must be a number from 0 to below 1, such as 0.9.")
                optim = {player: replace(rates, betas=(float(value), rates.betas[1])) for player, rates in recipe.optim.items()}
                recipe = replace(recipe, optim=optim)
            elif name == "lr" or name.endswith("_lr"):
                player = "student" if name == "lr" else name[:-3]
                if player not in recipe.optim:
                    raise unknown(f"option of recipe {self.name!r}", name, self.options())
                recipe = replace(recipe, optim={**recipe.optim, player: put(recipe.optim[player], "lr", value)})
            else:
                changed = _replace(recipe.objective, name, value)
                if changed is None:
                    raise unknown(f"option of recipe {self.name!r}", name, self.options())
                if _own_times(changed) and getattr(changed, "times", None) != recipe.objective.times:
                    start = type(changed.start).__name__
                    raise WorkbenchError(
                        f"{name} changes the times of recipe {self.name!r}, which {start} draws itself: set its options, "
                        f"{', '.join(_names(changed.start))}, or another start."
                    )
                recipe = replace(recipe, objective=changed)
        return recipe

    def fitted(self, shape: tuple[int, ...], fresh: bool) -> Recipe:
        """With its defaults for points (d,), where the problem is one, and four times its rates for a student that starts
        from nothing.

        Modes of d dimensions lie apart by some sqrt(d): log-normal noise levels rise by that, or no level sees two modes at once and the
        student keeps one; and estimates of many dimensions take longer to learn.
        """
        recipe = self.configured(**self.points) if len(shape) == 1 else self
        if len(shape) == 1 and isinstance(levels := getattr(recipe.objective, "renoise", None), LogNormalLevels):
            recipe = recipe.configured(renoise=levels.of(shape[0]))
        if len(shape) == 1 and shape[0] >= MANY and recipe.matched:
            recipe = recipe.configured(matched=max(LONGER, recipe.matched))
        if not fresh:
            return recipe
        return replace(
            recipe, optim={player: replace(rates, lr=FRESH_RATE * rates.lr) for player, rates in recipe.optim.items()}
        )

    def options(self) -> list[str]:
        """Names of everything that `configured` accepts."""
        rates = ["momentum", "lr", *(f"{player}_lr" for player in self.optim if player != "student")]
        unread = ("times",) if _own_times(self.objective) else ()
        return list(dict.fromkeys([*OWN, *rates, *_names(self.objective, unread)]))


def kinds(part: Any, name: str = "objective") -> dict[str, str]:
    """Which class every part of an objective is, by its name; fields alone do not tell two metrics apart."""
    found = {name: type(part).__name__}
    for item in fields(part):
        held = getattr(part, item.name)
        for k, inner in enumerate(_parts(held)):
            place = f"{item.name}.{k}" if isinstance(held, tuple) else item.name
            found |= kinds(inner, place if name == "objective" else f"{name}.{place}")
    return found


def _own_times(objective: Any) -> bool:
    """Whether the states of an objective bring their times, so that its own are not read."""
    return getattr(getattr(objective, "start", None), "own_times", False)


def _names(part: Any, without: tuple[str, ...] = ()) -> list[str]:
    own = [item.name for item in fields(part) if item.name not in without]
    return own + [name for item in own for inner in _parts(getattr(part, item)) for name in _names(inner) if name not in own]


def _parts(value: Any) -> list[Any]:
    """The dataclasses that a field holds: itself, or those of a tuple."""
    return [item for item in (value if isinstance(value, tuple) else (value,)) if is_dataclass(item)]


def _replace(part: Any, name: str, value: Any) -> Any:
    """The part with the first field of this name replaced, searching nested parts breadth first; None if there is none."""
    own = [item.name for item in fields(part)]
    if name in own:
        return put(part, name, value)
    for item in own:
        held = getattr(part, item)
        for inner in _parts(held):
            changed = _replace(inner, name, value)
            if changed is not None:
                whole = tuple(changed if one is inner else one for one in held) if isinstance(held, tuple) else changed
                return replace(part, **{item: whole})
    return None
