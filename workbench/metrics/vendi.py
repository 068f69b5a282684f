"""How many different things a sample set holds: the Vendi score."""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import WorkbenchError
from workbench.metrics.samples import flat


def vendi_score(x: Any, width: float | None = None) -> float:
    """Return the effective number of different samples, between 1 (all equal) and n (none like another).

    exp of the entropy of the eigenvalues of K / n, with K the kernel exp(-|x - y|^2 / (2 width^2)). It grows with n and
    depends on the width: compare at equal n and equal width only.

    Args:
        x: samples or features (n, ...), at least 2; the work is cubic in n.
        width: of the kernel, in the units of x; by default the median distance of pairs of x.

    Raises:
        WorkbenchError: for samples that cannot be compared, or a width that is not positive. Source: Friedman and Dieng 2022,
            arXiv 2210.02410, eq. 1.

    >>> round(vendi_score(torch.tensor([[0.0], [0.0], [9.0], [9.0]]), width=1.0), 3)
    2.0
    """
    x = flat(x)
    squares = torch.cdist(x, x).square()
    if width is None:
        width = float(squares[~torch.eye(len(x), dtype=torch.bool, device=x.device)].median().sqrt()) or 1.0
    if not width > 0:
        raise WorkbenchError(f"width is {width!r}, but must be a positive distance; None takes the median of pairs.")
    values = torch.linalg.eigvalsh(torch.exp(-squares / (2 * width**2)) / len(x)).clamp(min=0)
    return float(torch.exp(torch.special.entr(values).sum()))
