"""How a model likes to be sampled, and one call that samples it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench import samplers
from workbench.denoiser import Denoiser, Guided, Hinted, Scaled, Thresholded
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path
from workbench.samplers import adaptive
from workbench.samplers.plan import Plan
from workbench.samplers.policy import Policy
from workbench.samplers.run import initial_noise, run

MAX_SAMPLES = 100_000
SAVED = "saved:"  # before the name of a plan that the user keeps (`workbench.plans`)


@dataclass(frozen=True)
class Sampling:
    """Settings that make a plan: what a model's card carries.

    Attributes:
        sampler, steps, schedule, options: as for `workbench.plan`.
        guidance: classifier-free scale; 1 where it is not used, or baked into the weights; what is asked for by default of
            weights that take it as an input.
        times: step count -> falling times, for counts whose times were tuned or trained.
        only: samplers that the weights can be run with; empty for any.
    """

    sampler: str = "heun"
    steps: int = 25
    schedule: str = "uniform"
    guidance: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)

    def plan(
        self,
        path: str | Path,
        steps: int | None = None,
        sampler: str | None = None,
        schedule: str | Callable | Sequence[float] | Tensor | None = None,
        **options: Any,
    ) -> Plan:
        """The plan of these settings, with any of them replaced.

        Options of the card's own sampler are kept only while that sampler is.

        Raises:
            WorkbenchError: for a sampler that the card rules out.
        """
        if self.only and (sampler or self.sampler) not in self.only:
            raise WorkbenchError(
                f"this model's card allows the sampler{'s' * (len(self.only) > 1)} {', '.join(self.only)} only, not {sampler}: "
                "its weights answer no other question."
            )
        if steps is None and isinstance(schedule, (list, tuple, Tensor)):
            steps = len(schedule) - 1
        steps = self.steps if steps is None else steps
        kept = self.options if sampler in (None, self.sampler) and schedule is None else {}
        own = self.times.get(str(steps)) if schedule is None else None
        chosen = schedule if schedule is not None else own if own is not None and "t_end" not in options else self.schedule
        return samplers.plan(sampler or self.sampler, path, steps, chosen, **{**kept, **options})


def default_sampling(model: Denoiser) -> Sampling:
    """The model's own settings, or Heun at 25 steps for a model that carries none."""
    return getattr(model, "sampling", None) or Sampling()


def plan_for(
    model: Denoiser, steps: int | None = None, sampler: str | None = None, schedule: Any = None, **options: Any
) -> Plan:
    """The plan that a model runs: its own settings, any of them replaced.

    A schedule may also be one computed from the model (`tuned`), or `saved:NAME`, a plan that the user keeps (`workbench.plans`).

    >>> import workbench as wb
    >>> str(plan_for(wb.load("moons"), 4, "ddim", "gits"))
    'ddim, 4 gits steps on linear'
    """
    from workbench.samplers import tuned

    if isinstance(schedule, str) and schedule.startswith(SAVED):
        from workbench.samplers import saved  # here, since it plans

        return saved.plan_of(schedule, model, steps, sampler, **options)
    if isinstance(schedule, str) and schedule in tuned.TUNED:
        return tuned.tuned_plan(schedule, model, steps, sampler, **options)
    return default_sampling(model).plan(model.path, steps, sampler, schedule, **options)


def labels(model: Denoiser, cond: Any, n: int) -> Tensor | None:
    """Check a condition at the edge: None, a label, or n labels, as a tensor (n,); -1 is the null class.

    Raises:
        WorkbenchError: for labels that the model does not know, or of a wrong number.
    """
    if cond is None:
        own = getattr(model, "own_labels", None)  # a model that is never asked without one
        return None if own is None else own(n)
    classes = int(getattr(model, "classes", 0) or 0)
    try:
        given = torch.as_tensor(cond)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WorkbenchError(f"cond is {cond!r}, but must be a label, a list of labels, or None.") from error
    if given.is_floating_point() or given.is_complex():
        raise WorkbenchError(f"cond holds {given.dtype}, but labels are whole numbers.")
    if not classes:
        raise WorkbenchError("this model has no classes: leave cond out.")
    if given.dim() > 1 or (given.dim() == 1 and len(given) != n):
        raise WorkbenchError(f"cond has shape {tuple(given.shape)}, but {n} samples need one label or {n} labels.")
    if int(given.min()) < -1 or int(given.max()) >= classes:
        wrong = int(given.max() if given.max() >= classes else given.min())
        raise WorkbenchError(f"class {wrong} does not exist: this model knows 0 to {classes - 1}, and -1 for no class.")
    return given.long().expand(n)


def prepare(model: Denoiser, guidance: float | None = None, thresholding: str | None = None) -> Denoiser:
    """Wrap a model with guidance (its own by default) and thresholding; a model that takes the scale as an input is given it.

    Raises:
        WorkbenchError: for a scale that is no number, or outside what the model accepts.
    """
    scale = default_sampling(model).guidance if guidance is None else guidance
    try:
        scale = float(scale)
    except (TypeError, ValueError) as error:
        raise WorkbenchError(f"guidance is {guidance!r}, but must be a number; 1 is none.") from error
    if not math.isfinite(scale) or not -50 <= scale <= 50:
        raise WorkbenchError(f"guidance is {scale}, but must be a number from -50 to 50; 1 is none.")
    if getattr(model, "guidance_input", None):
        wrapped: Denoiser = Scaled(model, scale)
    else:
        wrapped = Guided(model, scale) if scale != 1 and getattr(model, "classes", 0) else model
    return Thresholded(wrapped, thresholding) if thresholding else wrapped


def noise_for(model: Denoiser, n: int, seed: int = 0, first: int = 0) -> Tensor:
    """The standard normal noise that samples first .. first + n - 1 of a seed start from; float64 for analytic models.

    Raises:
        WorkbenchError: if the model does not say the shape of its samples.
    """
    shape = getattr(model, "shape", None)
    if shape is None:
        raise WorkbenchError("the model has no .shape (shape of one sample): set it, or pass noise to workbench.run yourself.")
    dtype = getattr(model, "dtype", None)
    device = next(model.net.parameters()).device if hasattr(getattr(model, "net", None), "parameters") else "cpu"
    return initial_noise(n, shape, seed, torch.float64 if dtype is None else torch.float32, first).to(device)


def sample(
    model: Denoiser,
    n: int,
    cond: Any = None,
    steps: int | None = None,
    sampler: str | Policy | None = None,
    schedule: str | Callable | Sequence[float] | Tensor | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 512,
    thresholding: str | None = None,
    hint: Tensor | None = None,
    negative: int | None = None,
    steering: float = 1.0,
    **options: Any,
) -> Tensor:
    """Draw n samples (n, ...); what is not given is the model's own setting.

    Args:
        sampler: one of `SAMPLERS`; dpm_adaptive or heun_adaptive, with rtol=; or a policy, such as learned steps.
        schedule: a name, times or a function, as for `plan`; one of `TUNED`; or `saved:NAME`, a plan of `workbench.plans`.
        cond: a label or n labels. guidance: classifier-free scale, 1 for none. thresholding: "clip" or "dynamic".
        batch: how many run together; it does not change the samples.
        hint: what is wanted, (n, *model.hint_shape) or one for all, of a model that takes it (recipes nct and tad-sr).
        negative, steering: a class to stay away from inside the attention, and how far (`inference.negative_guidance`).
        options: of the sampler and the schedule.

    Raises:
        WorkbenchError: for impossible counts, classes or options; each says what is accepted.

    >>> import workbench as wb
    >>> wb.sample(wb.mixture([[0.0, 1.0]], [0.1]), 3, steps=5).shape
    torch.Size([3, 2])
    """
    n, batch = check_count("n", n, 1, MAX_SAMPLES), check_count("batch", batch, 1)
    if getattr(model, "path", None) is None:
        raise WorkbenchError("the model has no .path: set it, or wrap the network in workbench.Network.")
    cond = labels(model, cond, n)
    if negative is not None:
        from workbench.steering import negative_guidance

        model = negative_guidance(model, negative, steering)
    if hint is not None and len(Hinted(model, hint).hint) not in (1, n):
        raise WorkbenchError(f"there are {len(hint)} hints for {n} samples: give one for each, or one for all.")
    if isinstance(sampler, Policy) or sampler in adaptive.POLICIES:
        plan = _policy(model, steps, sampler, schedule, options)
    else:
        plan = plan_for(model, steps, sampler, schedule, **options)
    denoiser = prepare(model, guidance, thresholding)
    parts = []
    for first in range(0, n, batch):
        count = min(batch, n - first)
        noise = noise_for(model, count, seed, first)
        part = cond[first : first + count].to(noise.device) if cond is not None else None
        asked = denoiser
        if hint is not None:
            asked = Hinted(denoiser, hint if len(hint) == 1 else hint[first : first + count])
        for frame in run(plan, asked, noise, part, seed, index=range(first, first + count)):
            last = frame
        parts.append(last.x)
    return torch.cat(parts)


def _policy(model: Denoiser, steps: Any, sampler: str | Policy, schedule: Any, options: dict[str, Any]) -> Policy:
    made = sampler if isinstance(sampler, Policy) else adaptive.policy(sampler, model.path, **options)
    if steps is not None or schedule is not None:
        raise WorkbenchError(f"{made.sampler} chooses its own steps: leave steps and schedule out.")
    if isinstance(sampler, Policy) and options:
        raise WorkbenchError(
            f"{', '.join(options)} cannot be set here: {made.sampler} is a finished policy; make it with these options."
        )
    return made
