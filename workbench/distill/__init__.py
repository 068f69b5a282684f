"""How a student is made: recipes over two objectives, one loop."""

from workbench.distill.distill import distill
from workbench.distill.loop import Progress
from workbench.distill.recipes import Recipe, recipes

__all__ = ["Progress", "Recipe", "distill", "recipes"]
