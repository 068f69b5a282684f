"""A path that ends before pure noise: One More Step (arXiv 2311.15744), zero terminal SNR and rescaled guidance (arXiv 2305.08891).

Stable Diffusion's table ends at alpha_T = 0.068: training never saw pure noise, but sampling starts from it, without the
trace of the image's mean that x_T = alpha_T x0 + sigma_T eps carries. Samples keep a middling brightness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.denoiser import Denoiser, Wrapper, evaluate
from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.samplers.plan import Plan, Row, Stage


def one_more_step(plan: Plan, fresh: bool = True) -> Plan:
    """The plan with a stage before its first, which makes x_T of pure noise; run it with one model more.

    With z0 pure noise, x0 = psi(z0, c) and T the plan's first time:  x_T = alpha_T x0 + sigma_T z,  z fresh.
    psi is trained where the SNR is 0, so its optimum is E[x0 | c] (`TerminalMean`). x_T then has the mean that training saw;
    its covariance lacks alpha_T^2 Cov(x0 | c). The released code scales z by sigma_T^2, which is not repeated here.

    Args:
        plan: a plan of one or more models; psi is the last of the run's models: `run(one_more_step(plan), [teacher, psi], noise)`.
        fresh: draw z anew, as in the paper; False keeps z = z0, which for a psi that ignores z0 has the same law, and
            keeps the sample's own noise.

    The stage counts as one evaluation and is not a point of the trajectory (`Stage.inner`).

    Raises:
        WorkbenchError: for a plan that starts at pure noise, where there is nothing to mend.

    Measured: brightness of constant 8x8 images of three classes (exact teacher, alpha_T = 0.068, 51 evaluations, n = 3000, seed 0): std
    0.541 from pure noise, 0.600 with the step, exactly 0.598; W2 to exact draws 0.068 and 0.017 (floor 0.018). At 32x32 0.402 and
    0.597, W2 0.216 and 0.028 (floor 0.022). A network trained on 8x8: W2 0.061 and 0.034 (floor 0.024;
    `benchmarks/inference.py --only one_more_step`).

    >>> from workbench import paths, samplers
    >>> path = paths.from_betas("scaled_linear", 1000, 0.00085, 0.012)
    >>> one_more_step(samplers.plan("ddim", path, 10, schedule="trailing")).evaluations
    11
    """
    start = plan.times[0]
    alpha, sigma = plan.path.alpha(start), plan.path.sigma(start)
    if not alpha > 1e-6:
        raise WorkbenchError(
            f"{plan} starts at pure noise (alpha = {alpha:.2g}), so one more step adds nothing: run the plan as it is."
        )
    row = Row(outputs=(alpha,), noise=sigma) if fresh else Row(x=1.0, outputs=(alpha,))
    more = Stage(start, start, "x0", row, model=plan.models, inner=True)
    return replace(plan, stages=(more, *plan.stages), options={**plan.options, "one_more_step": True})


class TerminalMean:
    """E[x0 | c], the optimal psi of One More Step: a denoiser that looks at the class alone.

    Args:
        means: (classes, *shape), the mean of each class. overall: (*shape), the mean where no class is asked for.
        path: of the models that it runs with.

    >>> psi = TerminalMean(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0]), "vp")
    >>> psi(torch.zeros(3, 1), 1.0, torch.tensor([0, 1, -1])).flatten().tolist()
    [1.0, 3.0, 2.0]
    """

    def __init__(self, means: Tensor, overall: Tensor, path: str | Path):
        if means.shape[1:] != overall.shape or not len(means):
            raise WorkbenchError(
                f"means {tuple(means.shape)} and overall {tuple(overall.shape)} do not fit: (classes, ...) and (...)."
            )
        self.table, self.path = torch.cat([means, overall[None]]), paths.get(path)
        self.shape, self.classes = tuple(overall.shape), len(means)

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        wanted = torch.as_tensor(-1 if cond is None else cond).expand(len(x)).cpu()
        if int(wanted.max()) >= self.classes or int(wanted.min()) < -1:
            raise WorkbenchError(f"this psi knows the classes 0 to {self.classes - 1}, and -1 for none.")
        return self.table[wanted].to(x)  # -1 is the last row


def fit_terminal_mean(x0: Tensor, labels: Tensor, path: str | Path) -> TerminalMean:
    """Fit psi by least squares, min over W of |onehot(c) W - x0|^2: its solution is the mean of each class.

    Args:
        x0: data (n, ...). labels: (n,), every class from 0 to the highest at least once.

    Raises:
        WorkbenchError: for labels that do not fit, or a class without data.

    >>> fit_terminal_mean(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]), "vp").table.flatten().tolist()
    [1.0, 5.0, 2.3333332538604736]
    """
    if labels.shape != (len(x0),) or labels.is_floating_point() or int(labels.min()) < 0:
        raise WorkbenchError(f"{len(x0)} items need as many labels from 0 up, not {tuple(labels.shape)} of {labels.dtype}.")
    counts = torch.bincount(labels)
    if bool((counts == 0).any()):
        raise WorkbenchError(f"class {int((counts == 0).nonzero()[0])} has no data: its mean cannot be fitted.")
    total = torch.zeros(len(counts), *x0.shape[1:], dtype=torch.float64).index_add_(0, labels.cpu(), x0.double().cpu())
    return TerminalMean((total / counts.cpu().reshape(-1, *[1] * (x0.dim() - 1))).to(x0), x0.mean(0), path)


def zero_terminal_snr(path: str | Path) -> Path:
    """The variance-preserving path moved and stretched so that it ends at pure noise (algorithm 1 of arXiv 2305.08891).

        alpha'(t) = (alpha(t) - alpha(1)) alpha(t1) / (alpha(t1) - alpha(1)),  sigma'^2 = 1 - alpha'^2

    t1 is the table's first entry, or 0 on a continuous path: the least noisy level stays where it is. A network must be
    trained on the new path, as x0, v or flow; eps says nothing at alpha = 0. For one of diffusers' tables by name,
    `paths.from_betas(..., zero_snr=True)` gives the same and can be stored.

    Raises:
        WorkbenchError: for a path that is not variance preserving, or ends at pure noise already.

    Measured: on the images of `one_more_step`, with a teacher of the new path, W2 0.014 at 8x8 (floor 0.018) and 0.019 at 32x32 (floor
    0.022); a network trained on it 0.038 (floor 0.024).

    >>> zero_terminal_snr("vp").alpha(1.0), paths.get("vp").alpha(1.0) > 0
    (0.0, True)
    """
    path = paths.get(path)
    probe = torch.linspace(0, 1, 11, dtype=torch.float64)
    if not torch.allclose(path.alpha(probe) ** 2 + path.sigma(probe) ** 2, torch.ones_like(probe), atol=1e-6):
        raise WorkbenchError(f"path {path.name!r} is not variance preserving: take vp or a table of betas.")
    last = path.alpha(1.0)
    if last < 1e-6:
        raise WorkbenchError(f"path {path.name!r} ends at pure noise already: use it as it is.")
    name = f"{path.name} to zero SNR"
    if path.timesteps:
        alpha = path.alpha(torch.arange(1, path.timesteps + 1, dtype=torch.float64) / path.timesteps)
        return paths.from_table(((alpha - last) * alpha[0] / (alpha[0] - last)) ** 2, name)
    first = path.alpha(0.0)
    stretch = first / (first - last)

    def alpha_of(t: Tensor) -> Tensor:
        return (path.alpha_fn(t) - last) * stretch

    def sigma_of(t: Tensor) -> Tensor:
        # 1 - alpha'^2 = sigma^2 + (alpha - alpha')(alpha + alpha'): no cancellation near the data
        old, new = path.alpha_fn(t), alpha_of(t)
        return torch.sqrt((path.sigma_fn(t) ** 2 + (old - new) * (old + new)).clamp(0, 1))

    def time_of(log_snr: Tensor) -> Tensor:
        old = torch.exp(-0.5 * torch.nn.functional.softplus(-2 * log_snr)) / stretch + last
        return path.time_fn(torch.log(old) - 0.5 * torch.log1p(-(old**2)))

    def d_alpha(t: Tensor) -> Tensor:
        return path.d_alpha_fn(t) * stretch

    return Path(name, alpha_of, sigma_of, d_alpha, lambda t: -alpha_of(t) * d_alpha(t) / sigma_of(t), time_of, path.smooth)


class RescaledGuidance(Wrapper):
    """Classifier-free guidance without over-exposure (arXiv 2305.08891, section 3.4), one batched call.

        m = null + scale (cond - null),   m' = phi m std(cond) / std(m) + (1 - phi) m

    std over all coordinates of a sample. Guided predictions grow in size with the scale; on a path that ends at pure noise nothing
    else limits them.

    Args:
        scale: as for `Guided`. phi: 0 is plain guidance, 1 the full rescaling; the paper takes 0.7.
        kind: of the prediction that is rescaled: x0, eps, v or flow; by default the network's own, else x0.

    `wb.sample(RescaledGuidance(model, 5.0), n, cond, guidance=1)`: without guidance=1 the model's own comes on top of it.
    Counted: two evaluations, one where no class is asked for.

    Measured: digits/teacher at scale 5 (dpmpp_2m, 25 steps, n = 300, seed 0): contrast 0.806 without rescaling, 0.793 at phi 0.7, 0.784 at
    phi 1, against 0.747 at scale 1; pixels outside [-1, 1] 38 %, 33 %, 29 % and 30 %
    (`benchmarks/inference.py --only one_more_step`).

    Raises:
        WorkbenchError: for phi outside [0, 1]. UnknownName: for another kind.
    """

    def __init__(self, model: Denoiser, scale: float, phi: float = 0.7, kind: str | None = None):
        super().__init__(model)
        kind = kind or getattr(model, "kind", None) or "x0"
        if kind not in paths.KINDS:
            raise unknown("prediction kind", kind, paths.KINDS)
        if not 0 <= phi <= 1 or not math.isfinite(scale):
            raise WorkbenchError(
                f"phi is {phi} and scale {scale}: phi must lie in [0, 1] and scale be finite; 0 is plain guidance."
            )
        self.scale, self.phi, self.rescaled = float(scale), float(phi), kind

    def __call__(self, x: Tensor, t: float, cond: Any = None, **second_time: Any) -> Tensor:
        if cond is None or self.scale == 1:
            return evaluate(self.model, x, t, cond, **second_time)[0]
        given = torch.as_tensor(cond, device=x.device).expand(len(x))
        twice = torch.cat([given, torch.full_like(given, -1)])
        both = evaluate(self.model, torch.cat([x, x]), t, twice, **second_time)[0]
        convert: Callable[..., Tensor] = self.model.path.convert
        wanted, null = convert(both, torch.cat([x, x]), t, "x0", self.rescaled).chunk(2)
        guided = null + self.scale * (wanted - null)
        std = [each.flatten(1).std(1, correction=0).clamp_min(1e-12) for each in (wanted, guided)]
        factor = self.phi * std[0] / std[1] + (1 - self.phi)
        return convert(paths.per_sample(factor, x) * guided, x, t, self.rescaled, "x0")
