"""Students that are a trained network with a small trained part: LoRA, and adapters that are told the guidance scale."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from workbench.errors import WorkbenchError, check_count

MOST_HIDDEN = 64


def add_lora(net: nn.Module, rank: int, seed: int = 0, whole: Collection[str] = ()) -> nn.Module:
    """Freeze a network and put low-rank updates of its linear and convolutional layers beside it, in place (LoRA, arXiv 2106.09685).

    W + B A with B = 0 at first, so that it computes the same; `merged` makes it an ordinary network again.

    Args:
        rank: of the updates. seed: of A. whole: names of parameters that are trained as they are, such as those of a new input.

    Raises:
        WorkbenchError: for a rank that is no whole number from 1, or a network without such layers.

    >>> from workbench.networks import new_network
    >>> net = add_lora(new_network((2,), 0, "flow", "linear"), rank=2)
    >>> sum(p.numel() for p in net.parameters() if p.requires_grad)
    6792
    """
    from peft import LoraConfig, inject_adapter_in_model

    rank = check_count("lora", rank)
    layers = [
        name
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and f"{name}.weight" not in whole
    ]
    if not layers:
        raise WorkbenchError(f"{type(net).__name__} has no linear or convolutional layer for lora to adapt.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), net)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("lora_" in name or name in whole)
    return net


def merged(net: nn.Module) -> nn.Module:
    """A network with the updates of `add_lora` added to its weights, in place; any other is returned as it is."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(net.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, layer.get_base_layer())
    return net


def hidden_for(net: nn.Module, share: float) -> int:
    """The largest hidden size of guidance adapters, at most 64, with which they are at most `share` of all parameters.

    Raises:
        WorkbenchError: if even a size of 1 is more.
    """
    from workbench.networks.adapter import GuidanceAdapters

    if not 0 < share < 1:
        raise WorkbenchError(f"adapters is {share!r}, but must be their largest share of the parameters, between 0 and 1.")
    base = sum(parameter.numel() for parameter in net.parameters())
    for hidden in range(MOST_HIDDEN, 0, -1):
        with torch.device("meta"):
            made = GuidanceAdapters(net.config.width, net.config.depth, hidden, (0.0, 1.0))
        size = sum(parameter.numel() for parameter in made.parameters())
        if size <= share * (base + size):
            return hidden
    least = math.ceil(100 * size / (base + size))
    raise WorkbenchError(
        f"adapters is {share}, but the smallest are {least} % of this network: give more than {least / 100:g}."
    )


def only(net: nn.Module, names: Collection[str]) -> nn.Module:
    """Freeze everything but the parameters of these names, in place."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in names)
    return net


def adapted(net: nn.Module) -> dict[str, Any]:
    """What a card says of a network of which only a part was trained: how many parameters, and their share; empty if all were."""
    every, mine = (sum(p.numel() for p in net.parameters() if p.requires_grad or not own) for own in (False, True))
    return {} if mine == every else {"trained_parameters": mine, "trained_share": round(mine / every, 4)}
