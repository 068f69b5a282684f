"""A paper is a row: each recipe is one configured objective, its optimisers, and the sampler its student must use."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from workbench.distill.loop import Optim
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.pairs import Pairs
from workbench.distill.objectives.parts import L2, PseudoHuber
from workbench.distill.objectives.pointwise import (
    DiscreteConsistency,
    FromData,
    FromPairs,
    Grid,
    Pointwise,
    StoredEndpoint,
    Straighten,
)
from workbench.errors import unknown
from workbench.samplers.sample import Sampling

FRESH_RATE = 4.0


@dataclass(frozen=True)
class Recipe:
    """One published method.

    Attributes:
        name, paper, summary: what it is. objective: `Pointwise` or `Distributional`, configured.
        sampling: how its student must be run. optim: player -> rates, for a student that starts as its teacher.
        batch, ema (of the evaluated weights), steps (how long): defaults.
        points: options that suit points (d,) better than images.
    """

    name: str
    paper: str
    summary: str
    objective: Pointwise | Distributional
    sampling: Sampling
    optim: dict[str, Optim]
    batch: int = 64
    ema: float = 0.995
    steps: int = 2000
    points: dict[str, Any] = field(default_factory=dict)

    def configured(self, **options: Any) -> Recipe:
        """This recipe with options replaced: its own fields, a switch or a part's field by name, or a rate.

        `lr` sets the student's rate, `critic_lr` the critic's.

        Raises:
            UnknownName: for an option that nothing here has, with the nearest one.
        """
        recipe = self
        for name, value in options.items():
            if name in ("batch", "ema", "steps"):
                recipe = replace(recipe, **{name: value})
            elif name in ("lr", "critic_lr"):
                player = "student" if name == "lr" else "critic"
                if player not in recipe.optim:
                    raise unknown(f"option of recipe {self.name!r}", name, self.options())
                recipe = replace(recipe, optim={**recipe.optim, player: replace(recipe.optim[player], lr=value)})
            else:
                changed = _replace(recipe.objective, name, value)
                if changed is None:
                    raise unknown(f"option of recipe {self.name!r}", name, self.options())
                recipe = replace(recipe, objective=changed)
        return recipe

    def fitted(self, shape: tuple[int, ...], fresh: bool) -> Recipe:
        """With its defaults for points (d,), where the problem is one, and four times its rates for a student that starts
        from nothing."""
        recipe = self.configured(**self.points) if len(shape) == 1 else self
        if not fresh:
            return recipe
        return replace(
            recipe, optim={player: replace(rates, lr=FRESH_RATE * rates.lr) for player, rates in recipe.optim.items()}
        )

    def options(self) -> list[str]:
        """Names of everything that `configured` accepts."""
        rates = ["lr", "critic_lr"] if "critic" in self.optim else ["lr"]
        return list(dict.fromkeys(["batch", "ema", "steps", *rates, *_names(self.objective)]))


def _names(part: Any) -> list[str]:
    own = [item.name for item in fields(part)]
    return own + [
        name for item in own if is_dataclass(getattr(part, item)) for name in _names(getattr(part, item)) if name not in own
    ]


def _replace(part: Any, name: str, value: Any) -> Any:
    """The part with the first field of this name replaced, searching nested parts breadth first; None if there is none."""
    own = [item.name for item in fields(part)]
    if name in own:
        return replace(part, **{name: value})
    for item in own:
        inner = getattr(part, item)
        changed = _replace(inner, name, value) if is_dataclass(inner) else None
        if changed is not None:
            return replace(part, **{item: changed})
    return None


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "reflow",
            paper="arXiv 2209.03003",
            summary="Rectified flow: straighten the flow on the teacher's own pairs, then regress its one-step answer.",
            objective=Pointwise(
                start=FromPairs(Pairs()), times=Straighten(share=0.4), target=StoredEndpoint(), metric=L2(), velocity=True
            ),
            sampling=Sampling("euler", 1),
            optim={"student": Optim(lr=5e-4)},
            points={"batch": 256, "dropout": 0.5, "count": 32768},
        ),
        Recipe(
            "consistency",
            paper="arXiv 2303.01469",
            summary="Consistency distillation: neighbouring points of a teacher trajectory must give the same answer.",
            objective=Pointwise(
                start=FromData(), times=Grid(8, 64), target=DiscreteConsistency(), metric=PseudoHuber(), velocity=False
            ),
            sampling=Sampling("consistency", 1),
            optim={"student": Optim(lr=3e-4)},
            points={"batch": 256, "dropout": 0.5, "times": Grid(4, 16), "substeps": 4, "metric": L2(), "lr": 6e-4},
        ),
        Recipe(
            "dmd2",
            paper="arXiv 2405.14867",
            summary="Distribution matching: a critic on a faster time scale learns the student's law, the score gap moves it.",
            objective=Distributional(),
            sampling=Sampling("consistency", 1),
            optim={"student": Optim(lr=1e-4), "critic": Optim(lr=3e-4, decay=0.5)},
            points={"batch": 256, "dropout": 0.5},
        ),
    )
}


def get(recipe: str | Recipe) -> Recipe:
    """A recipe by name; a `Recipe` is returned as it is."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    return RECIPES[recipe]


def recipes() -> list[Recipe]:
    """Every recipe, by name.

    >>> [recipe.name for recipe in recipes()]
    ['consistency', 'dmd2', 'reflow']
    """
    return [RECIPES[name] for name in sorted(RECIPES)]
