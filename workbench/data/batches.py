"""How a training step gets its data: from the step's own generator, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.data.images import ImageSet
from workbench.errors import WorkbenchError

Drawn = tuple[Tensor | None, Tensor | None]


def sampler(
    data: ImageSet | Tensor | tuple[Tensor, Tensor] | None, size: int, device: str | torch.device
) -> Callable[[torch.Generator], Drawn]:
    """Return a function rng -> (x0, labels) that draws `size` items with replacement.

    `data` is an `ImageSet`, a tensor (n, ...), a pair (tensor, labels), or None for recipes that need none.

    Raises:
        WorkbenchError: if the data is empty, not finite, or not one of these.
    """
    if data is None:
        return lambda rng: (None, None)
    if isinstance(data, ImageSet):
        x, y = data.images, data.labels
    elif isinstance(data, Tensor):
        x, y = data, None
    elif isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor):
        x, y = data
    else:
        x, y = None, None
    if x is None or x.dim() == 0 or not isinstance(y, (Tensor, type(None))):
        raise WorkbenchError(
            f"data is a {type(data).__name__}: give an ImageSet, a tensor (n, ...), or a pair (tensor, labels)."
        )
    if len(x) == 0 or not bool(torch.isfinite(x).all()):
        raise WorkbenchError("data is empty or holds NaN or infinite values: clean it first.")
    if y is not None and len(y) != len(x):
        raise WorkbenchError(f"data has {len(x)} items but {len(y)} labels: give one label an item.")
    x, y = x.to(device), y.to(device) if y is not None else None

    def draw(rng: torch.Generator) -> Drawn:
        chosen = torch.randint(len(x), (size,), generator=rng, device=rng.device)
        return x[chosen], y[chosen] if y is not None else None

    return draw
