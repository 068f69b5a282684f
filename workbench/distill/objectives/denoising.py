"""Parts that critics and frozen copies share: the denoising error of a network, copies beside the student, and features to judge by."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network, Wrapper
from workbench.distill.objectives.flow_matching import logit_normal
from workbench.distill.objectives.parts import normal
from workbench.paths import per_sample


def denoising_error(network: Network, x: Tensor, eps: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    """Mean squared error (n,) of the network's own prediction at x_t = alpha x + sigma eps, times t (n,)."""
    path = network.path
    a, b = path.kind(network.kind, t)
    target = per_sample(a, x) * x + per_sample(b, x) * eps
    error = (network.predict(path.mix(x, eps, t), t, cond) - target) / network.unit(x, t)
    return error.square().flatten(1).mean(1)


def denoising_loss(network: Network, x: Tensor, cond: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same (n,) at times of a logistic normal law and fresh noise, and those times (n,)."""
    t = logit_normal(len(x), rng).double()
    return denoising_error(network, x, normal(x.shape, rng), t, cond), t


def beside(teacher: Denoiser, student: Network) -> tuple[Network, bool]:
    """A trainable network like the student, started as the teacher where that is one, and whether it is; else as the student."""
    own = getattr(teacher, "net", None)
    alike = isinstance(own, nn.Module) and type(own) is type(student.net)
    return copied(student, own if alike else student.net, True), alike


def copied(network: Network, net: nn.Module | None = None, trained: bool = False) -> Network:
    """The network around a copy of its own net, or of another; frozen unless it is to be trained."""
    made = copy.deepcopy(network.net if net is None else net).requires_grad_(trained)
    made = made if trained else made.eval()
    return Network(made, network.path, network.kind, network.shape, made.config.classes, network.two_times)


def features_of(teacher: Denoiser, student: Network) -> tuple[nn.Module, bool]:
    """A network whose features a discriminator may read, and whether it is the teacher's own, which stays frozen."""
    base = teacher
    while isinstance(base, Wrapper):
        base = base.model
    own = getattr(base, "net", None)
    if hasattr(own, "features") and hasattr(getattr(own, "config", None), "width"):
        return own, True
    from workbench.networks import new_network

    return new_network(student.shape, student.classes, student.kind, student.path.name, seed=1), False
