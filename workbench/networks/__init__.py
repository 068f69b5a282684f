"""Small networks for points and images; each is a diffusers model, so it saves and loads itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.errors import WorkbenchError


def new_network(
    shape: tuple[int, ...], classes: int, kind: str, path: str, seed: int = 0, two_times: bool = False, **size: Any
) -> nn.Module:
    """A fresh network of a fitting size for points (d,) or square images (c, h, h); its weights depend on `seed` alone.

    Args:
        two_times: it takes the end of a jump, s, besides t. size: width, depth, frequency, guidance_input, z_dim, ... to replace
            those of the fitting size.

    Raises:
        WorkbenchError: for any other shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(shape) == 1:
            from workbench.networks.mlp import MLP

            fitting = {"width": 128 if shape[0] <= 8 else 256, "depth": 3} | size
            return MLP(dim=shape[0], classes=classes, kind=kind, path=path, two_times=two_times, **fitting)
        if len(shape) == 3 and shape[1] == shape[2] and shape[1] % 2 == 0:
            from workbench.networks.dit import DiT

            fitting = {"patch": 2, "width": 64, "depth": 4} if shape[1] <= 16 else {"patch": 4, "width": 128, "depth": 6}
            fitting |= {"heads": 4, "two_times": two_times} | size
            return DiT(image_size=shape[1], channels=shape[0], classes=classes, kind=kind, path=path, **fitting)
    raise WorkbenchError(
        f"no network of ours fits samples of shape {shape}: points (d,) or square images (c, h, h) of even size."
    )


def extended(net: nn.Module, **changes: Any) -> nn.Module:
    """A copy of one of our networks with parts added, such as two_times=True; they are silent at first, so it computes the same.

    Raises:
        WorkbenchError: for a network that is not ours, or a change after which the weights do not fit.

    >>> import torch
    >>> net = new_network((2,), 0, "flow", "linear")
    >>> x = torch.ones(1, 2)
    >>> torch.equal(extended(net, two_times=True)(x, 0.7, None, 0.2), net(x, 0.7))
    True
    """
    if not type(net).__module__.startswith(__name__):
        raise WorkbenchError(f"{type(net).__name__} is not one of our networks, so {', '.join(changes)} cannot be added to it.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = type(net).from_config(_config(net) | changes)
    missing, unexpected = made.load_state_dict(net.state_dict(), strict=False)
    silent = [name for name, _ in made.named_parameters() if name in missing]
    if unexpected or len(silent) != len(missing):
        raise WorkbenchError(
            f"with {changes} the weights of this network do not fit: {', '.join([*unexpected, *missing][:3])}."
        )
    return made.to(next(net.parameters()).device).train(net.training)


def _config(net: nn.Module) -> dict[str, Any]:
    # diffusers notes which values were defaults, and would give them their defaults again
    return {name: value for name, value in net.config.items() if name != "_use_default_values"}


def added_to(made: nn.Module, net: nn.Module) -> list[str]:
    """Names of the parameters that an extended network has and the one it was made from has not."""
    known = {name for name, _ in net.named_parameters()}
    return [name for name, _ in made.named_parameters() if name not in known]


def with_classes(net: nn.Module, more: int = 1) -> nn.Module:
    """A copy of one of our networks that knows `more` classes, the last ones; each starts as the null class.

    Raises:
        WorkbenchError: for a network that is not ours.

    >>> import torch
    >>> net = new_network((2,), 3, "flow", "linear")
    >>> x = torch.ones(1, 2)
    >>> torch.equal(with_classes(net)(x, 0.7, 3), net(x, 0.7)), torch.equal(with_classes(net)(x, 0.7, 2), net(x, 0.7, 2))
    (True, True)
    """
    if not type(net).__module__.startswith(__name__):
        raise WorkbenchError(f"{type(net).__name__} is not one of our networks, so it cannot be given classes.")
    made = type(net).from_config(_config(net) | {"classes": net.config["classes"] + more})
    kept = dict(net.state_dict())
    rows = kept["class_embedding.weight"]  # the null class is the last
    kept["class_embedding.weight"] = torch.cat([rows[:-1], rows[-1:].expand(more + 1, -1)])
    made.load_state_dict(kept)
    return made.to(next(net.parameters()).device).train(net.training)


def at_scale(net: nn.Module, w: float) -> nn.Module:
    """A copy of a network of ours that takes the guidance scale, with the scale fixed at w: the same answers, and no such input.

    Raises:
        WorkbenchError: for a network with adapters, which is no ordinary one at any scale, or with no such input.

    >>> import torch
    >>> net = new_network((2,), 0, "flow", "linear", guidance_input=(1, 4))
    >>> x = torch.ones(1, 2)
    >>> torch.allclose(at_scale(net, 2.0)(x, 0.7), net(x, 0.7, w=2.0))
    True
    """
    config = net.config
    if config.get("guidance_input") is None or config.get("adapter"):
        raise WorkbenchError("only a network that takes the guidance scale into its conditioning can have it fixed.")
    made = type(net).from_config(_config(net) | {"guidance_input": None})
    kept = {name: value for name, value in net.state_dict().items() if not name.startswith("inputs.guidance.")}
    with torch.no_grad():
        last = net.time.mlp[2]
        kept["time.mlp.2.bias"] = last.bias + net.inputs.guidance(torch.tensor([float(w)], device=last.bias.device))[0]
    made.load_state_dict(kept)
    return made.to(next(net.parameters()).device)
