"""A residual MLP for points in a few dimensions."""

from __future__ import annotations

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import WorkbenchError
from workbench.networks.adapter import Inputs, silence
from workbench.networks.embedding import TimeEmbedding, batch_times, labels


class MLP(ModelMixin, ConfigMixin):
    """Predict from noisy points (n, dim), their times and classes; arguments as in `DiT`.

    >>> import torch
    >>> MLP(dim=2, width=32, depth=2)(torch.zeros(5, 2), 0.5).shape
    torch.Size([5, 2])
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        classes: int = 0,
        two_times: bool = False,
        kind: str = "flow",
        path: str = "linear",
        frequency: float = 256.0,
        guidance_input: tuple[float, float] | None = None,
        adapter: int = 0,
        z_dim: int = 0,
        hint: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.time = TimeEmbedding(width, frequency=frequency)
        self.class_embedding = nn.Embedding(classes + 1, width)
        self.second_time = TimeEmbedding(width, frequency=frequency) if two_times else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, dim)
        nn.init.normal_(self.class_embedding.weight, std=0.02)
        silent = [*self.modulation, self.head]
        silence(*([*silent, self.second_time.mlp[2]] if two_times else silent))
        self.inputs = Inputs(width, depth, guidance_input, adapter, z_dim, hint)

    def features(
        self, x: Tensor, t: Tensor | float, cond: Tensor | int | None = None, s: Tensor | float | None = None,
        w: Tensor | float | None = None, z: Tensor | None = None, hint: Tensor | None = None,
    ):  # fmt: skip
        """Return features after the last block (n, width) and the conditioning vector (n, width)."""
        if x.dim() != 2 or x.shape[1] != self.config.dim:
            raise WorkbenchError(f"x has shape {tuple(x.shape)}, but this network takes (n, {self.config.dim}).")
        c = self.time(batch_times(t, x)) + self.class_embedding(labels(cond, len(x), self.config.classes, x.device))
        if s is not None:
            if self.second_time is None:
                raise WorkbenchError("this network has no second time: build it with two_times=True.")
            c = c + self.second_time(batch_times(s, x))
        c = F.silu(self.inputs.conditioning(c, x, w, z))
        e, seen = self.inputs.embedding(x, w, c), self.inputs.hints(hint, len(x))
        h = self.embed(x)
        for k, (block, modulation) in enumerate(zip(self.blocks, self.modulation, strict=True)):
            shift, scale = modulation(c).chunk(2, dim=1)
            h = self.inputs.beside(k, h + block(self.norm(h) * (1 + scale) + shift), h, e, seen)
        return h, c

    def forward(
        self, x: Tensor, t: Tensor | float, cond: Tensor | int | None = None, s: Tensor | float | None = None,
        w: Tensor | float | None = None, z: Tensor | None = None, hint: Tensor | None = None,
    ):  # fmt: skip
        """Return the prediction of its kind, of the shape of x, at times t in [0, 1] (n,) and labels (n,), -1 for none."""
        h, _ = self.features(x, t, cond, s, w, z, hint)
        return self.head(F.silu(h))
