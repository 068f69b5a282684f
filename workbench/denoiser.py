"""Denoisers: callables (x, t, cond) -> x0 estimate with a `.path`, and the wrappers that return denoisers.

Evaluations are counted where they happen: a denoiser that owns a network calls `tally`, `evaluate` reads the count,
and a plain callable that never tallies counts as one evaluation per sample and call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from workbench import paths
from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path

Denoiser = Callable[..., Tensor]
_rows: ContextVar[list[int] | None] = ContextVar("rows", default=None)


def tally(rows: int) -> None:
    """Tell whoever is counting that a network has just evaluated `rows` samples."""
    box = _rows.get()
    if box is not None:
        box[0] += rows


def evaluate(model: Denoiser, x: Tensor, t: float, cond: Any = None, **second_time: Any) -> tuple[Tensor, int]:
    """Return (x0 estimate, network evaluations per sample) of one call."""
    counting, box = _rows.get(), [0]
    token = _rows.set(box)
    try:
        target = model(x, t, cond, **second_time)
    finally:
        _rows.reset(token)
    size = x.shape[0]
    rows = box[0] or size
    if counting is not None:
        counting[0] += rows
    return target, rows // size if size else 1


class Network:
    """A network as a denoiser: converts its prediction to x0 and keeps the state's precision.

    Args:
        net: called as net(x, t, cond) with t of shape (n,), or net(x, t, cond, s) if it takes two times.
        path: the path it was trained on. kind: what it predicts: x0, eps, v or flow.
        shape: shape of one sample, without the batch. classes: number of labels, 0 if unconditional.
        two_times: the network is a flow map; `model(x, t, cond, s=...)` returns the x0 estimate whose
            deterministic step from t lands where the map does.

    Attributes:
        guidance_input: (low, high) of the guidance scale w that the network takes as an input, or None. scale: the w of calls
            that give none, a number or one for each row (a shorter list is repeated). z_dim: size of the latent z that the
            network takes, 0 for none; `run` draws it at every step, and a call without one has z = 0. hint_shape: shape of one
            hint, a picture or a vector that the network may be given (`sample(..., hint=)`), or None.

    >>> model = Network(lambda x, t, cond: torch.zeros_like(x), "linear", "flow", (2,))
    >>> model(torch.ones(3, 2), 0.5).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        path: str | Path,
        kind: str,
        shape: tuple[int, ...],
        classes: int = 0,
        two_times: bool = False,
    ):
        if kind not in paths.KINDS:
            raise unknown("prediction kind", kind, paths.KINDS)
        self.net, self.path, self.kind = net, paths.get(path), kind
        self.shape, self.classes, self.two_times = tuple(shape), classes, two_times
        first = next(net.parameters(), None) if isinstance(net, nn.Module) else None
        self.dtype = first.dtype if first is not None else None
        config = getattr(net, "config", None) or {}
        self.guidance_input = tuple(config.get("guidance_input") or ()) or None
        self.z_dim, self.scale = int(config.get("z_dim", 0)), None
        self.hint_shape = tuple(config.get("hint") or ()) or None
        self.rescale = self.path.sigma(1.0) > 2  # variance-exploding: the network sees x / r and predicts in units of r

    def __call__(
        self, x: Tensor, t: float | Tensor, cond: Any = None, s: float | Tensor | None = None, w: Any = None, z: Any = None,
        hint: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        more = {name: value for name, value in (("w", w), ("z", z), ("hint", hint)) if value is not None}
        return self.path.convert(self.predict(x, t, cond, s, **more), x, t, self.kind, "x0")

    def unit(self, x: Tensor, t: float | Tensor) -> Tensor | float:
        """r = sqrt(alpha^2 + sigma^2), what the network's input and output are measured in; 1 except on exploding paths."""
        if not self.rescale:
            return 1.0
        times = torch.as_tensor(t, dtype=torch.float64)
        return paths.per_sample((self.path.alpha(times) ** 2 + self.path.sigma(times) ** 2).sqrt(), x)

    def inputs(self, x: Tensor, w: Any = None, z: Tensor | None = None, hint: Tensor | None = None) -> dict[str, Tensor]:
        """The further inputs of the network by name, for states x: the scale w, the latent z and the hint, where it takes them.

        Raises:
            WorkbenchError: if it takes a scale and there is none.
        """
        given = {name: value.to(x) for name, value in (("z", z), ("hint", hint)) if value is not None}
        if self.guidance_input is not None:
            w = self.scale if w is None else w
            if w is None:
                raise WorkbenchError(
                    "this network takes the guidance scale as an input: call it with w=..., or set its .scale."
                )
            given["w"] = rows_of(w, x)
        return given

    def predict(
        self, x: Tensor, t: float | Tensor, cond: Any = None, s: float | Tensor | None = None, w: Any = None, z: Any = None,
        hint: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The network's own prediction, of its own kind, at (x, t); arguments as for a call."""
        r = self.unit(x, t)
        inputs = x / r if self.rescale else x
        inputs = inputs.to(self.dtype) if self.dtype is not None else inputs
        time = _times(t, inputs)
        asked = self.guidance_input or z is not None or hint is not None
        more = self.inputs(inputs, w, z, hint) if asked else {}
        if self.two_times:
            second = time if s is None else _times(s, inputs)
            prediction = self.net(inputs, time, cond, second, **more)
        else:
            prediction = self.net(inputs, time, cond, **more)
        tally(len(x))
        prediction = prediction.to(x.dtype)
        return r * prediction if self.rescale else prediction


def picture_shape(model: Denoiser) -> tuple[int, ...]:
    """Shape of one sample of a model as a picture, known without decoding one: that of a sample, unless the model decodes.

    Raises:
        WorkbenchError: for a model of latents that has nothing to decode them with.
    """
    return tuple(getattr(model, "picture_shape", model.shape))


def decode(model: Denoiser, x: Tensor) -> Tensor:
    """What a model draws, as a person sees it: a model with a `decode` of its own works on latents, any other on the picture.

    Args:
        x: samples (n, *shape), or their states at k steps (k, n, *shape); other leading axes likewise.

    Raises:
        WorkbenchError: for latents that the model cannot decode.

    >>> model = Network(lambda x, t, cond: x, "linear", "flow", (2,))
    >>> decode(model, torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3, 2])
    """
    own = getattr(model, "decode", None)
    if own is None:
        return x
    leading = x.shape[: x.dim() - len(model.shape)]
    made = own(x.reshape(-1, *model.shape))
    return made.reshape(*leading, *made.shape[1:])


def _times(t: float | Tensor, like: Tensor) -> Tensor:
    return t.to(like).expand(len(like)) if isinstance(t, Tensor) else like.new_full((len(like),), t)


def rows_of(w: float | Tensor, like: Tensor) -> Tensor:
    """A scale for each row of `like`, (n,): row i has w[i mod m] of m scales."""
    w = torch.as_tensor(w, dtype=like.dtype, device=like.device).reshape(-1)
    return w.repeat(-(-len(like) // len(w)))[: len(like)]


INNER = ("model", "weak")  # where wrappers hold the denoisers that they ask


class Wrapper:
    """A denoiser around another: attributes that it does not have are the inner one's."""

    def __init__(self, model: Denoiser):
        self.model = model

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


class Guided(Wrapper):
    """Classifier-free guidance (arXiv 2207.12598): D(null) + scale (D(cond) - D(null)), one batched call.

    scale = 1 is the conditional model and scale = 0 the unconditional one, one evaluation each; anything else
    costs two. The papers that write (1 + w) cond - w null mean scale = 1 + w.

    Args:
        scale: a number, or one for each row (m,), repeated where there are more rows.
        interval: times (low, high) within which guidance acts (arXiv 2404.07724); outside, scale = 1.
    """

    def __init__(self, model: Denoiser, scale: float | Tensor, interval: tuple[float, float] = (0.0, 1.0)):
        super().__init__(model)
        low, high = interval
        if not 0 <= low <= high <= 1:
            raise WorkbenchError(f"guidance interval {interval} must be two times 0 <= low <= high <= 1.")
        if getattr(model, "guidance_input", None):
            raise WorkbenchError("this model takes the guidance scale as an input, so it must not be guided again: use Scaled.")
        self.scale, self.interval = scale if isinstance(scale, Tensor) else float(scale), (low, high)

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **second_time: Any) -> Tensor:
        scale = rows_of(self.scale, x) if isinstance(self.scale, Tensor) else self.scale
        active = cond is not None and (isinstance(scale, Tensor) or scale != 1)
        if active and self.interval != (0.0, 1.0):
            if isinstance(t, Tensor):
                scale = torch.where((t >= self.interval[0]) & (t <= self.interval[1]), scale, 1.0)
            else:
                active = self.interval[0] <= float(t) <= self.interval[1]
        if not active:
            return evaluate(self.model, x, t, cond, **second_time)[0]
        n = len(x)
        given = torch.as_tensor(cond, device=x.device).expand(n)
        null = torch.full_like(given, -1)
        if not isinstance(scale, Tensor) and scale == 0:
            return evaluate(self.model, x, t, null, **second_time)[0]
        twice = {name: torch.cat([v, v]) if isinstance(v, Tensor) and v.dim() else v for name, v in second_time.items()}
        both_t = torch.cat([t, t]) if isinstance(t, Tensor) and t.dim() else t
        both = evaluate(self.model, torch.cat([x, x]), both_t, torch.cat([given, null]), **twice)[0]
        with_cond, without = both[:n], both[n:]
        if isinstance(scale, Tensor):
            scale = paths.per_sample(scale, x)
        return without + scale * (with_cond - without)


class Autoguided(Wrapper):
    """Autoguidance (arXiv 2406.02507, eq. 3): D_weak + scale (D - D_weak), two calls; D_weak is a smaller or less trained model of the same law.

    A teacher like any other: `distill(Autoguided(teacher, weak, 2.0), "ayf")` is what Align Your Flow does (arXiv 2506.14603).
    The student starts from the stronger one's weights.

    Raises:
        WorkbenchError: for two models that do not share path and shape.
    """

    def __init__(self, model: Denoiser, weak: Denoiser, scale: float):
        super().__init__(model)
        for what in ("path", "shape"):
            mine, other = getattr(model, what, None), getattr(weak, what, None)
            if mine != other:
                raise WorkbenchError(
                    f"the weak model's {what} is {getattr(other, 'name', other)}, and the model's {getattr(mine, 'name', mine)}: "
                    "choose a weaker model of the same kind, such as an early checkpoint."
                )
        self.weak, self.scale = weak, float(scale)

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **second_time: Any) -> Tensor:
        strong = evaluate(self.model, x, t, cond, **second_time)[0]
        if self.scale == 1:
            return strong
        weak = evaluate(self.weak, x, t, cond, **second_time)[0].to(strong)
        return weak + self.scale * (strong - weak)


class Scaled(Wrapper):
    """A model that takes the guidance scale as an input, asked at `scale`: a number, or one for each row. One evaluation.

    Raises:
        WorkbenchError: for a number outside the range that the model was trained in.
    """

    def __init__(self, model: Denoiser, scale: float | Tensor):
        super().__init__(model)
        low, high = model.guidance_input
        if not isinstance(scale, Tensor) and not low <= scale <= high:
            raise WorkbenchError(
                f"guidance is {scale:g}, but this model takes it as an input and was trained from {low:g} to {high:g}: stay within."
            )
        self.scale = scale

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **more: Any) -> Tensor:
        return evaluate(self.model, x, t, cond, **{"w": self.scale, **more})[0]


class Hinted(Wrapper):
    """A model that takes a hint, asked with these: (n, *hint_shape), one for each row, or (1, *hint_shape) for all.

    Raises:
        WorkbenchError: for a model that takes none, or hints of another shape or with NaN.
    """

    def __init__(self, model: Denoiser, hint: Tensor):
        super().__init__(model)
        shape = getattr(model, "hint_shape", None)
        if shape is None:
            raise WorkbenchError(
                "this model takes no hint: leave it out, or train one that does, with the recipe nct or tad-sr."
            )
        if not isinstance(hint, Tensor) or tuple(hint.shape[1:]) != tuple(shape) or not len(hint):
            given = tuple(hint.shape) if isinstance(hint, Tensor) else type(hint).__name__
            raise WorkbenchError(f"hint is {given}, but must be a tensor (n, {', '.join(map(str, shape))}).")
        if not bool(torch.isfinite(hint).all()):
            raise WorkbenchError("hint holds NaN or infinite values.")
        self.hint = hint

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **more: Any) -> Tensor:
        hint = self.hint.to(x)
        hint = hint.expand(len(x), *hint.shape[1:]) if len(hint) == 1 else hint
        return evaluate(self.model, x, t, cond, **{"hint": hint, **more})[0]


class Thresholded(Wrapper):
    """Clip the x0 estimate: "clip" to [-limit, limit], or "dynamic" (Imagen, arXiv 2205.11487, section 2.3).

    Dynamic: s = max(limit, quantile of |x0| per sample); clip to [-s, s], then scale by limit / s.
    """

    def __init__(self, model: Denoiser, mode: str = "clip", limit: float = 1.0, quantile: float = 0.995):
        super().__init__(model)
        if mode not in ("clip", "dynamic"):
            raise unknown("thresholding", mode, ("clip", "dynamic"))
        if not limit > 0 or not 0 < quantile <= 1:
            raise WorkbenchError(f"thresholding needs limit > 0 and 0 < quantile <= 1, not {limit} and {quantile}.")
        self.mode, self.limit, self.quantile = mode, limit, quantile

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **second_time: Any) -> Tensor:
        target = evaluate(self.model, x, t, cond, **second_time)[0]
        if self.mode == "clip":
            return target.clamp(-self.limit, self.limit)
        size = torch.quantile(target.flatten(1).abs(), self.quantile, dim=1).clamp_min(self.limit)
        size = paths.per_sample(size, target)
        return target.clamp(-size, size) * (self.limit / size)


class Counted(Wrapper):
    """Counts evaluations: `.nfe` is network evaluations per sample so far, `.calls` the number of calls."""

    def __init__(self, model: Denoiser):
        super().__init__(model)
        self.nfe = self.calls = 0

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **second_time: Any) -> Tensor:
        target, nfe = evaluate(self.model, x, t, cond, **second_time)
        self.nfe += nfe
        self.calls += 1
        return target


class Precision(Wrapper):
    """Evaluate in another precision, `torch.bfloat16` say, and return the estimate in the state's own."""

    def __init__(self, model: Denoiser, dtype: torch.dtype):
        super().__init__(model)
        self.to_dtype = dtype

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **second_time: Any) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.to_dtype):
            return evaluate(self.model, x, t, cond, **second_time)[0].to(x.dtype)
