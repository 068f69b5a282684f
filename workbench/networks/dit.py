"""A compact diffusion transformer for small images (DiT, arXiv 2212.09748; shared adaLN, PixArt-alpha, arXiv 2310.00426)."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import WorkbenchError
from workbench.networks.adapter import Inputs, silence
from workbench.networks.embedding import TimeEmbedding, batch_times, labels


class Block(nn.Module):
    """Attention and MLP, each modulated by (shift, scale, gate) = shared(c) + own table."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.table = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (n, tokens, width) after this block; modulation (n, 6, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table).unsqueeze(2).unbind(1)
        q, k, v = self.heads_of(self.qkv(self.norm1(x) * (1 + scale1) + shift1))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + gate1 * self.project(attended)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def heads_of(self, joint: Tensor) -> Tensor:
        """Queries, keys and values, or fewer of them, side by side (n, tokens, k width), as (k, n, heads, tokens, depth)."""
        n, tokens, size = joint.shape
        return joint.view(n, tokens, size // self.project.in_features, self.heads, -1).permute(2, 0, 3, 1, 4)


class DiT(ModelMixin, ConfigMixin):
    """Predict from a noisy image, its time and its class; `kind` and `path` say what the prediction means.

    Args:
        image_size: height and width in pixels, a multiple of `patch`.
        channels: image channels.
        patch: side of a square patch in pixels.
        width, depth, heads: transformer size.
        classes: number of classes; index `classes` is the null class. 0 for an unconditional network.
        two_times: accept a second time `s` (flow maps jump from t to s); starts as if it were absent.
        kind: what is predicted: x0, eps, v or flow.
        path: name of the path whose times it was trained with.
        frequency: highest angular frequency of the time embedding.
        guidance_input, adapter, z_dim, hint: further inputs `w`, `z` and `hint`, see `workbench.networks.adapter.Inputs`.

    >>> net = DiT(image_size=8, patch=2, width=32, depth=1, heads=2, classes=10)
    >>> net(torch.zeros(3, 1, 8, 8), 0.5, torch.tensor([0, 9, -1])).shape
    torch.Size([3, 1, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        patch: int = 4,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        classes: int = 10,
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
        if image_size % patch or width % heads:
            raise WorkbenchError(
                f"image_size {image_size} must be a multiple of patch {patch}, and width {width} of heads {heads}."
            )
        tokens = (image_size // patch) ** 2
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.time = TimeEmbedding(width, frequency=frequency)
        self.class_embedding = nn.Embedding(classes + 1, width)
        self.second_time = TimeEmbedding(width, frequency=frequency) if two_times else None
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * patch * patch)
        nn.init.normal_(self.class_embedding.weight, std=0.02)
        silent = [self.modulation, self.last_modulation, self.head]
        silence(*([*silent, self.second_time.mlp[2]] if two_times else silent))
        self.inputs = Inputs(
            width, depth, guidance_input, adapter, z_dim, hint, image_size, patch
        )  # last, so that the weights above do not depend on it

    def conditioning(
        self, x: Tensor, t: Tensor | float, cond: Tensor | int | None = None, s: Tensor | float | None = None,
        w: Tensor | float | None = None, z: Tensor | None = None,
    ):  # fmt: skip
        """Return the conditioning vector (n, width), of times and classes, that modulates every block; checks x."""
        config = self.config
        if x.dim() != 4 or x.shape[1:] != (config.channels, config.image_size, config.image_size):
            raise WorkbenchError(
                f"x has shape {tuple(x.shape)}, but this network takes "
                f"(n, {config.channels}, {config.image_size}, {config.image_size})."
            )
        c = self.time(batch_times(t, x)) + self.class_embedding(labels(cond, len(x), config.classes, x.device))
        if s is not None:
            if self.second_time is None:
                raise WorkbenchError("this network has no second time: build it with two_times=True.")
            c = c + self.second_time(batch_times(s, x))
        return F.silu(self.inputs.conditioning(c, x, w, z))

    def features(
        self, x: Tensor, t: Tensor | float, cond: Tensor | int | None = None, s: Tensor | float | None = None,
        w: Tensor | float | None = None, z: Tensor | None = None, hint: Tensor | None = None,
    ):  # fmt: skip
        """Return tokens after the last block (n, tokens, width) and the conditioning vector (n, width)."""
        c = self.conditioning(x, t, cond, s, w, z)
        e, seen = self.inputs.embedding(x, w, c), self.inputs.hints(hint, len(x))
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        modulation = self.modulation(c).view(len(x), 6, -1)
        for k, block in enumerate(self.blocks):
            tokens = self.inputs.beside(k, block(tokens, modulation), tokens, e, seen)
        return tokens, c

    def forward(
        self, x: Tensor, t: Tensor | float, cond: Tensor | int | None = None, s: Tensor | float | None = None,
        w: Tensor | float | None = None, z: Tensor | None = None, hint: Tensor | None = None,
    ):  # fmt: skip
        """Return the prediction of its kind, of the shape of x, at times t in [0, 1] (n,) and labels (n,), -1 for none."""
        return self.picture(*self.features(x, t, cond, s, w, z, hint))

    def picture(self, tokens: Tensor, c: Tensor) -> Tensor:
        """Return the prediction (n, channels, size, size) of the tokens after the last block, under the conditioning c."""
        shift, scale = self.last_modulation(c).unsqueeze(1).chunk(2, dim=2)
        patches = self.head(self.norm(tokens) * (1 + scale) + shift)
        p, side = self.config.patch, self.config.image_size // self.config.patch
        grid = patches.view(len(tokens), side, side, self.config.channels, p, p)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), self.config.channels, side * p, side * p)
