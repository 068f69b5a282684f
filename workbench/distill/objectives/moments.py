"""Moment matching: a few-step sampler is tuned as a whole, so that the features of its samples have the data's law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.maps import jump
from workbench.distill.objectives.parts import drop_labels, normal
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.samplers.sample import Sampling

KERNELS, FEATURES = ("polynomial", "rbf"), ("teacher", "samples")
SCALES = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Moments:
    """Finetune through the whole deterministic chain of `evaluations` steps to lower the squared MMD to the data (MMD-DDM, arXiv 2301.07969, eq. 7).

    The paper's features are of Inception or CLIP; here they are the teacher's own, of clean samples, so that no metric of
    the workbench is trained on. The kernel is multiplied by (1 + [same label]) / 2, which matches labels too.

    Attributes:
        evaluations: of the sampler that is tuned. kernel: "polynomial", (<x, y> / d + 1)^3, or "rbf", of widths 0.1, 0.3 and 1
            times the root of the dimension. features: "teacher" (where it is a network of ours) or "samples" themselves.
    """

    evaluations: int = 4
    kernel: str = "polynomial"
    features: str = "teacher"
    guidance: float = 1.0
    dropout: float = 0.1

    needs_data = True

    def __post_init__(self):
        check_count("evaluations", self.evaluations, 1, 64)
        for name, known in (("kernel", KERNELS), ("features", FEATURES)):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if self.guidance != 1:
            raise WorkbenchError(
                f"guidance is {self.guidance}, but moment matching looks at data, not at a guided teacher: leave it at 1."
            )

    @property
    def sampling(self) -> Sampling:
        """How the student is sampled, in training and afterwards."""
        return Sampling("ddim", self.evaluations)

    def bind(self, teacher: Denoiser, student: Network) -> BoundMoments:
        """The objective for this teacher and student."""
        return BoundMoments(self, teacher, student)


class BoundMoments:
    """`Moments` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: Moments, teacher: Denoiser, student: Network):
        self.switches, self.student = switches, student
        own = getattr(teacher, "net", None)
        self.net = own if switches.features == "teacher" and hasattr(own, "features") else None
        self.stages = switches.sampling.plan(student.path).stages
        self.players = {"student": student.net}

    def turn(self, step: int) -> Sequence[str]:
        """The student, always."""
        return ("student",)

    def rollout(self, cond: Tensor | None, n: int, rng: torch.Generator) -> Tensor:
        """Samples (n, ...) of the chain, with their graph."""
        path = self.student.path
        x = path.sigma(1.0) * normal((n, *self.student.shape), rng)
        for stage in self.stages:
            t, s = (torch.full((n,), time, dtype=torch.float64, device=x.device) for time in (stage.t, stage.to))
            x = jump(path, x, self.student(x, t, cond), t, s)
        return x

    def describe(self, x: Tensor) -> Tensor:
        """Features (n, d) of clean samples."""
        if self.net is None:
            return x.flatten(1)
        found = []
        for time in (0.05, 0.3):
            h, _ = self.net.features(x, torch.full((len(x),), time, device=x.device, dtype=x.dtype), None)
            found += [h.mean(1), h.std(1)] if h.dim() == 3 else [h]
        return torch.cat(found, 1)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The unbiased estimate of the squared MMD between the batch and as many samples with its labels."""
        if batch.x0 is None:
            raise WorkbenchError("moment matching compares with real samples: pass data=...")
        cond = drop_labels(batch.cond, self.switches.dropout, rng)
        x = self.rollout(cond, batch.size, rng)
        with torch.no_grad():
            real = self.describe(batch.x0)
            size = real.square().mean().sqrt() if self.net is not None else 1.0
        return mmd(self.describe(x) / size, real / size, cond, self.switches.kernel), {}


def mmd(x: Tensor, y: Tensor, cond: Tensor | None = None, kernel: str = "polynomial") -> Tensor:
    """Unbiased squared maximum mean discrepancy of two sets (n, d) (arXiv 0805.2368, eq. 3); `cond`, the labels (n,) of both."""
    n = len(x)
    both = torch.cat([x, y]).double()
    if kernel == "polynomial":
        k = (both @ both.T / both.shape[1] + 1) ** 3
    else:
        distance = torch.cdist(both, both).square()
        k = sum(torch.exp(-distance / (2 * width**2 * both.shape[1])) for width in SCALES)
    if cond is not None:
        k = k * (1 + (cond[:, None] == cond[None]).to(k).repeat(2, 2)) / 2
    apart = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    within = ((k[:n, :n] + k[n:, n:]) * apart).sum() / (n * (n - 1))
    return (within - 2 * (k[:n, n:] * apart).sum() / (n * (n - 1))).to(x)
