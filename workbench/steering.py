"""Negative guidance for one-step students: the negated class is subtracted inside the attention (NASA, arXiv 2412.02687)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Network
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.networks.dit import Block, DiT

FORMS = ("extrapolate", "subtract")


def negative_guidance(model: Network, negative: int, scale: float = 1.0, form: str = "extrapolate") -> Network:
    """Return the model with its attention steered away from a class; run it like the model, `wb.sample(steered, n)`.

    Two images of different classes that a one-step student draws from one noise have little in common, so guidance
    between outputs (`Guided`) blends them. NASA moves the subtraction into every attention layer, on the same queries:

        Z = Attention(Q, K+, V+) - scale Attention(Q, K-, V-)

    There K and V come from the prompts. In our `DiT` a class enters by the shifts and scales before each attention, so
    K- and V- are those of the same tokens under the modulation of the negated class. This is attention among the image's own
    tokens: Z+ and Z- share most of the image, and subtracting Z- shrinks it too. The default therefore takes only what the
    classes differ in, Z+ + scale (Z+ - Z-) (the extrapolation of NAG, arXiv 2505.21179, section 4, without its normalisation).

    Args:
        model: a `Network` around a `DiT` with classes, such as `wb.load("digits/dmd2")`, or a set of such students (msd), each of which
            is steered; one that does not draw the negated class knows it from the teacher's weights that it started from.
        negative: the class to stay away from, 0 to classes - 1.
        scale: 0 changes nothing, bit for bit.
        form: "extrapolate", or "subtract" for the formula of the paper.

    An evaluation counts as one: tokens and MLP are computed once. `relative_cost` says what the second attention adds.

    Raises:
        WorkbenchError: for a model without such attention or classes, a class that does not exist, or a scale not in [0, 20].
        UnknownName: for another form.

    Measured: digits/consistency, no class asked for, mean over the ten negated classes (n = 500 each, seed 0): the classifier sees the
    negated class in 10.0 % without guidance, 5.6 % at scale 1, 3.5 % at scale 2, at one evaluation and 1.17 times the work;
    precision 0.50, 0.48, 0.47. The other classes do not keep their proportions: 13 % and 23 % of the samples change among
    them. Images break from scale 5 on (precision 0.40, at 8 0.29). Guidance between outputs reaches 3.7 % at two
    evaluations with precision 0.21. The paper's form leaves 7.3 % at 0.5 and moves 54 % of the others at 1, where class 8 is
    seen more, not less (`benchmarks/inference.py --only negative`).

    >>> import workbench as wb
    >>> wb.sample(negative_guidance(wb.load("digits/dmd2"), 1), 2).shape
    torch.Size([2, 1, 8, 8])
    """
    net = getattr(model, "net", None)
    several = hasattr(net, "around")  # a router
    nets = list(net.nets) if several else [net]
    if not isinstance(model, Network) or not all(isinstance(one, DiT) for one in nets) or not model.classes:
        raise WorkbenchError(
            f"negative guidance works on a class-conditional DiT of ours, not on {getattr(model, 'name', type(model).__name__)}: "
            "use workbench.Guided with a scale there."
        )
    negative = check_count("negative", negative, 0, model.classes - 1)
    if not (isinstance(scale, int | float) and math.isfinite(scale) and 0 <= scale <= 20):
        raise WorkbenchError(f"scale is {scale!r}, but must be a number from 0 to 20; 0 changes nothing.")
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    steered = copy.copy(model)  # path, sampling and card stay the model's own
    nets = [Steered(one, negative, float(scale), form) for one in nets]
    steered.net = net.around(nets) if several else nets[0]
    return steered


def relative_cost(model: Network, steered: Network) -> float:
    """Multiply-adds of an evaluation of the steered model over those of the model.

    >>> import workbench as wb
    >>> student = wb.load("digits/dmd2")
    >>> round(relative_cost(student, negative_guidance(student, 1)), 2)
    1.17
    """
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for one in (model, steered):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            one(torch.zeros(1, *model.shape), 1.0)
        counts.append(counter.get_total_flops())
    return counts[1] / counts[0]


class Steered(nn.Module):
    """A `DiT` whose blocks attend twice, under the modulation of the sample's class and under that of the negated one."""

    def __init__(self, net: DiT, negative: int, scale: float, form: str):
        super().__init__()
        self.net, self.negative, self.scale, self.form = net, negative, scale, form

    def forward(
        self, x: Tensor, t: Tensor | float, cond: Tensor | int | None = None, s: Tensor | float | None = None,
        w: Tensor | float | None = None, z: Tensor | None = None, hint: Tensor | None = None,
    ):  # fmt: skip
        """The prediction, as `DiT.forward`."""
        net = self.net
        if self.scale == 0:
            return net(x, t, cond, s, w, z, hint)
        c, c_negative = (net.conditioning(x, t, label, s, w, z) for label in (cond, self.negative))
        e, seen = net.inputs.embedding(x, w, c), net.inputs.hints(hint, len(x))
        modulation, away = (net.modulation(each).view(len(x), 6, -1) for each in (c, c_negative))
        tokens = net.embed(x).flatten(2).transpose(1, 2) + net.position
        for k, block in enumerate(net.blocks):
            tokens = net.inputs.beside(k, self._block(block, tokens, modulation, away), tokens, e, seen)
        return net.picture(tokens, c)

    def _block(self, block: Block, x: Tensor, modulation: Tensor, away: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + block.table).unsqueeze(2).unbind(1)
        shift_away, scale_away = (away[:, :2] + block.table[:2]).unsqueeze(2).unbind(1)
        normed, width = block.norm1(x), x.shape[2]
        q, k, v = block.heads_of(block.qkv(normed * (1 + scale1) + shift1))
        weight, bias = block.qkv.weight[width:], block.qkv.bias[width:]  # keys and values only
        k_away, v_away = block.heads_of(F.linear(normed * (1 + scale_away) + shift_away, weight, bias))
        z, z_away = F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k_away, v_away)
        z = z - self.scale * z_away if self.form == "subtract" else z + self.scale * (z - z_away)
        x = x + gate1 * block.project(z.transpose(1, 2).reshape(x.shape))
        return x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
