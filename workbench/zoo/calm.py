"""A network with a slow clock: what objectives that differentiate in time can start from."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from workbench.denoiser import Network

BATCH, RATE = 512, 3e-3


def calmed(model: Network, frequency: float = 16.0, steps: int = 1500, seed: int = 0) -> Network:
    """A copy of a model whose time embedding has no angular frequency above `frequency`, fitted to its own; all else is the same.

    The bundled teachers embed times with frequencies up to 256: the derivative of the embedding in t is a dozen times as large as
    the embedding, most of it noise of training, which MeanFlow and continuous consistency would learn as a target. A smooth
    embedding keeps the answers and loses the noise.

    Args:
        model: with a network of ours, of one time. frequency: see `workbench.networks.embedding.TimeEmbedding`. steps: of the fit.
    """
    config = {name: value for name, value in model.net.config.items() if name != "_use_default_values"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = type(model.net).from_config(config | {"frequency": float(frequency)})
        fresh = {name: value for name, value in net.state_dict().items() if name.startswith("time.")}
        net.load_state_dict({**model.net.state_dict(), **fresh})
        optimizer = torch.optim.Adam(net.time.parameters(), lr=RATE)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            t = torch.rand(BATCH)
            with torch.no_grad():
                wanted = model.net.time(t)
            loss = F.mse_loss(net.time(t), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    made = copy.copy(model)
    made.net = net.eval()
    return made
