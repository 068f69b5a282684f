"""The empirical denoiser is the mixture of its data points as their scale goes to zero."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError

RNG = torch.Generator().manual_seed(0)
DATA = torch.randn(7, 2, generator=RNG, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
X = torch.randn(5, 2, generator=RNG, dtype=torch.float64)


@pytest.mark.parametrize("path", paths.NAMES)
@pytest.mark.parametrize("cond", [None, torch.tensor([0, 1, 2, -1, 0])])
def test_limit_of_small_modes(path: str, cond: torch.Tensor | None) -> None:
    empirical = wb.Empirical(DATA, LABELS, path=path)
    modes = type(wb.mixture([[0.0]], [1.0]))(DATA, [1e-7] * 7, path=path, labels=LABELS.tolist())
    for t in (0.4, 0.7, 1.0, torch.tensor([0.35, 0.5, 0.6, 0.8, 0.9], dtype=torch.float64)):
        assert torch.allclose(empirical(X, t, cond), modes(X, t, cond), atol=1e-9)


def test_images_and_both_ends() -> None:
    images = torch.randn(4, 1, 3, 3, generator=RNG)
    teacher = wb.Empirical(images)
    assert teacher.shape == (1, 3, 3) and teacher.classes == 0
    assert torch.allclose(teacher(torch.randn(2, 1, 3, 3), 1.0), images.mean(0, keepdim=True).expand(2, -1, -1, -1), atol=1e-6)
    assert torch.allclose(teacher(images + 0.01, 0.0), images, atol=1e-6)  # clean: the nearest item


def test_errors() -> None:
    teacher = wb.Empirical(DATA, LABELS)
    for bad in (torch.zeros(3), torch.zeros(0, 2), torch.full((2, 2), torch.nan)):
        with pytest.raises(WorkbenchError, match="must be a finite tensor"):
            wb.Empirical(bad)
    with pytest.raises(WorkbenchError, match="as many labels"):
        wb.Empirical(DATA, LABELS[:3])
    with pytest.raises(WorkbenchError, match="each given to an item"):
        wb.Empirical(DATA, LABELS * 2)
    with pytest.raises(WorkbenchError, match=r"x has shape \(1, 3\)"):
        teacher(torch.zeros(1, 3), 0.5)
    with pytest.raises(WorkbenchError, match=r"class \[3"):
        teacher(X, 0.5, 3)
    with pytest.raises(WorkbenchError, match="has 0 classes"):
        wb.Empirical(DATA)(X, 0.5, 0)
