"""How a student is made: recipes over two objectives, one loop. Call it: `workbench.distill(teacher, recipe, ...)`."""

from workbench.callable_module import make_callable
from workbench.distill.distill import distill
from workbench.distill.loop import Progress
from workbench.distill.recipes import RECIPES, Recipe

make_callable(__name__, distill)

__all__ = ["RECIPES", "Progress", "Recipe", "distill"]
