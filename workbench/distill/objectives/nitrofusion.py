"""NitroFusion (arXiv 2412.02030): an adversary alone, a pool of small heads on one backbone, some of them made anew all the time."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.levels import BackSimulation
from workbench.distill.objectives.pairs import Pairs
from workbench.distill.objectives.parts import drop_labels, guided, normal
from workbench.distill.objectives.starts import uniform_labels
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, check_count, unknown

LOSSES = ("logistic", "hinge")


@dataclass(frozen=True)
class NitroFusion:
    """What the recipe is.

    The pool has heads of four kinds in each group of noise levels: on features with and without the label, of the whole sample and of its
    parts (tokens; on points the two are one). The paper's losses, levels and subset are not published; these are choices.

    Attributes:
        inputs: where the student is asked. pairs: the teacher's own samples, which are the real ones; None takes the data instead.
        heads: in the pool, a multiple of 4 groups. groups: of noise levels, equal parts of (0, top). asked: heads of each kind and
            group in a step. renewed: chance of each head to be made anew in a step, with its optimiser's state.
        loss: "logistic" (non-saturating) or "hinge". guidance: the teacher's scale, None for its own. dropout: share of null labels.
    """

    inputs: BackSimulation = field(default_factory=BackSimulation)
    pairs: Pairs | None = field(default_factory=Pairs)
    heads: int = 64
    groups: int = 4
    asked: int = 1
    renewed: float = 0.01
    top: float = 0.9
    loss: str = "logistic"
    guidance: float | None = None
    dropout: float = 0.1

    def __post_init__(self):
        object.__setattr__(self, "inputs", BackSimulation().given(self.inputs))
        check_count("groups", self.groups)
        check_count("heads", self.heads, 4 * self.groups)
        check_count("asked", self.asked, 1, self.heads // (4 * self.groups))
        check_share("renewed", self.renewed)
        if self.heads % (4 * self.groups):
            raise WorkbenchError(
                f"heads is {self.heads}, but there are four kinds in each of {self.groups} groups: give a multiple of {4 * self.groups}."
            )
        if not 0 < self.top <= 1:
            raise WorkbenchError(f"top is {self.top}, but is the highest noise level, above 0 and at most 1.")
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return self.pairs is None

    def bind(self, teacher: Denoiser, student: Network) -> BoundNitroFusion:
        """The objective for this teacher and student."""
        return BoundNitroFusion(self, teacher, student)


class Pool(nn.Module):
    """Heads on a backbone's features; head k belongs to kind and group k mod (4 groups).

    The backbone is the teacher's network, frozen and neither trained nor saved here; or `own`, a network that learns with the heads.
    """

    def __init__(self, backbone: nn.Module, own: bool, heads: int, hidden: int = 64):
        super().__init__()
        self.net, self.frozen = (backbone, ()) if own else (None, (backbone,))
        width, interval = backbone.config.width, backbone.config.get("guidance_input")
        self.more = {"w": float(interval[0])} if interval else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.heads = nn.ModuleList(
                nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1)) for _ in range(heads)
            )

    def features(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Normalised features (n, tokens, width)."""
        h, _ = (self.net if self.net is not None else self.frozen[0]).features(x, t.to(x.dtype), cond, **self.more)
        h = h if h.dim() == 3 else h[:, None]
        return F.layer_norm(h, h.shape[-1:])

    def forward(self, h: Tensor, chosen: Tensor) -> Tensor:
        """Logits (b, m, n, tokens) of heads (b, m) on features (b, n, tokens, width); positive for real."""
        b, m = chosen.shape
        picked = [self.heads[k] for k in chosen.flatten().tolist()]
        stack = lambda layer, name: torch.stack([getattr(head[layer], name) for head in picked]).unflatten(0, (b, m))  # noqa: E731
        z = torch.einsum("bntw,bmhw->bmnth", h, stack(0, "weight")) + stack(0, "bias")[:, :, None, None]
        return (F.silu(z) * stack(2, "weight")[:, :, None]).sum(-1) + stack(2, "bias")[:, :, None]

    @torch.no_grad()
    def renew(self, share: float, rng: torch.Generator) -> list[int]:
        """Draw the weights of about this share of the heads anew; returns which."""
        drawn = (torch.rand(len(self.heads), generator=rng, device=rng.device) < share).nonzero().flatten().tolist()
        for k in drawn:
            for layer in (self.heads[k][0], self.heads[k][2]):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=rng)
        return drawn


class BoundNitroFusion:
    """A `NitroFusion` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: NitroFusion, teacher: Denoiser, student: Network):
        self.switches, self.student, self.teacher = switches, student, guided(teacher, switches.guidance)
        own = getattr(teacher, "net", None)
        frozen = hasattr(own, "features") and hasattr(getattr(own, "config", None), "width")
        self.pool = Pool(own if frozen else self._backbone(), not frozen, switches.heads)
        self.players: dict[str, nn.Module] = {"student": student.net, "discriminator": self.pool}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.store: Any = None
        self.drawn: tuple[Tensor, Tensor, Tensor | None, Tensor] | None = None
        if switches.pairs is not None:
            self.prepare = self._prepare

    def _backbone(self) -> nn.Module:
        from workbench.networks import new_network

        student = self.student
        try:
            return new_network(student.shape, student.classes, student.kind, student.path.name, seed=1)
        except WorkbenchError:
            return copy.deepcopy(student.net)

    def watch(self, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """The loop's optimisers: a head that is made anew loses its moments too."""
        self.optimizers = optimizers

    def _prepare(self, folder: File, seed: int, device: Any) -> Iterator[tuple[int, int]]:
        self.store = yield from self.switches.pairs.make(self.teacher, folder, seed, device)

    def turn(self, step: int) -> Sequence[str]:
        """The student, then the heads that have judged it."""
        self.drawn = None
        return ("student", "discriminator")

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The adversarial loss of the student against some of the heads, or of those heads."""
        return self._student_loss(batch, rng) if player == "student" else self._pool_loss(rng)

    def renew(self, rng: torch.Generator) -> list[int]:
        """Make some heads anew, and forget what the optimiser knows of them; returns which."""
        drawn = self.pool.renew(self.switches.renewed, rng)
        if "discriminator" in self.optimizers:
            for k in drawn:
                for parameter in self.pool.heads[k].parameters():
                    self.optimizers["discriminator"].state.pop(parameter, None)
        return drawn

    def _student_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.renew(rng)
        switches, student = self.switches, self.student
        if self.store is not None:
            batch = self.store.draw(batch, rng)
            real, cond = batch.x0, batch.cond
        elif batch.x0 is None:
            raise WorkbenchError("the heads compare with real samples: set pairs, or pass data=...")
        else:
            real, cond = batch.x0, uniform_labels(batch, student, rng) if batch.cond is None else batch.cond
            cond = drop_labels(cond, switches.dropout, rng)
        z, t = switches.inputs(student, (len(real), *student.shape), cond, rng)
        x = student(z, t, cond)
        self.drawn = (x.detach(), real, cond, self.choose(rng))
        says = self._judge(x, cond, self.drawn[3], rng)
        loss = _mean(F.softplus(-v) if switches.loss == "logistic" else -v for v in says)
        return loss, {"fooled": _mean((v > 0).float() for v in says).detach()}

    def _pool_loss(self, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if self.drawn is None:
            raise WorkbenchError("the heads' turn comes after the student's.")
        x, real, cond, chosen = self.drawn
        fakes, reals = self._judge(x, cond, chosen, rng), self._judge(real, cond, chosen, rng)
        if self.switches.loss == "logistic":
            loss = _mean(F.softplus(v) for v in fakes) + _mean(F.softplus(-v) for v in reals)
        else:
            loss = 0.5 * (_mean(F.relu(1 + v) for v in fakes) + _mean(F.relu(1 - v) for v in reals))
        right = 0.5 * (_mean((v < 0).float() for v in fakes) + _mean((v > 0).float() for v in reals))
        real, fake = (torch.cat([v.flatten() for v in each]) for each in (reals, fakes))
        told = reliability(real, fake) if self.switches.loss == "logistic" else {}
        return loss, {"accuracy": right.detach(), **told}

    def choose(self, rng: torch.Generator) -> Tensor:
        """Heads (4 groups, asked) of this step, `asked` of every kind and group."""
        kinds = 4 * self.switches.groups
        order = torch.rand(kinds, self.switches.heads // kinds, generator=rng, device=rng.device).argsort(1)
        return order[:, : self.switches.asked] * kinds + torch.arange(kinds, device=rng.device)[:, None]

    def _judge(self, x: Tensor, cond: Tensor | None, chosen: Tensor, rng: torch.Generator) -> list[Tensor]:
        """Logits of the heads of whole samples and of those of parts; each row is judged at one group's levels, with its label or without."""
        switches, student = self.switches, self.student
        buckets = 2 * switches.groups
        rows = torch.arange(-(-len(x) // buckets) * buckets, device=x.device)
        bucket, rows = rows % buckets, rows % len(x)
        group, hidden = bucket // 2, bucket % 2 == 1
        x = x[rows]
        u = torch.rand(len(rows), generator=rng, device=x.device).double()
        t = (switches.top * (group + u) / switches.groups).clamp_min(1e-3)
        labels = None if cond is None else torch.where(hidden, torch.full_like(cond[rows], -1), cond[rows])
        h = self.pool.features(student.path.mix(x, normal(x.shape, rng), t) / student.unit(x, t), t, labels)
        h = h.unflatten(0, (-1, buckets)).transpose(0, 1)
        return [self.pool(h.mean(2, keepdim=True), chosen[:buckets]), self.pool(h, chosen[buckets:])]


def _mean(values) -> Tensor:
    """Mean of the means."""
    found = [value.mean() for value in values]
    return sum(found) / len(found)
