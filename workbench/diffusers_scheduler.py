"""Any plan of one model as a diffusers scheduler: an unmodified pipeline then draws the samples of `workbench.run`.

The plan travels in the scheduler's configuration, so that `save_pretrained` keeps it. A pipeline's folder names this module,
and diffusers loads a component only of modules that are imported already: `import workbench.diffusers_scheduler` first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from workbench import paths
from workbench.denoiser import Thresholded
from workbench.errors import WorkbenchError, check_count, check_options, unknown
from workbench.paths import Path
from workbench.samplers.plan import Plan
from workbench.samplers.run import stage_noise
from workbench.samplers.table import combine, table_of
from workbench.teachers.pipeline_folder import KINDS

CLOCKS = ("table", "flow", "edm", "consistency")
_LOG_SIGMA = {"edm": 0.25, "consistency": 250.0}


@dataclass
class PlanOutput(BaseOutput):
    """What a step returns: the state for the next evaluation, and the x0 estimate seen from this one."""

    prev_sample: Tensor
    pred_original_sample: Tensor


def to_diffusers(
    plan: Plan,
    prediction_type: str | None = None,
    seed: int | None = None,
    thresholding: str | None = None,
    clock: str | None = None,
    **more: Any,
) -> PlanScheduler:
    """Return a scheduler that runs a plan of one model in any diffusers pipeline: `pipe.scheduler = to_diffusers(plan)`.

    Args:
        plan: from `workbench.plan`, on the path of the pipeline's network (`workbench.paths.from_scheduler`).
        prediction_type: epsilon, v_prediction, sample or flow_prediction; by default flow_prediction on the linear
            path, sample on the edm one, else epsilon.
        seed: of the noise that stochastic stages add, as for `workbench.run` with indices from 0 in every batch; by default
            the pipeline's generator draws it.
        thresholding: "clip" or "dynamic", as for `workbench.sample`.
        clock: how the network is told time t: "table" (t T - 1), "flow" (t T), "edm" or "consistency" (by the logarithm of
            sigma, with their preconditioning); by default by the path: its table's, edm's, else the flow's.
        more: num_train_timesteps (T of a path without a table, 1000), sigma_data and sigma_min of the preconditioning.

    Raises:
        WorkbenchError: for a plan of two models or of jumps to a second time, and for a path of one's own functions.

    >>> import workbench as wb
    >>> to_diffusers(wb.plan("heun", "linear", 3)).timesteps.tolist()
    [1000.0, 666.6666870117188, 666.6666870117188, 333.3333435058594, 333.3333435058594]
    """
    check_options("to_diffusers", more, ("num_train_timesteps", "sigma_data", "sigma_min"))
    content, table = _stored(plan)
    form = clock or ("table" if plan.path.timesteps else "edm" if plan.path.name.split()[0] == "edm" else "flow")
    kind = prediction_type or ("flow_prediction" if _flows(plan.path) else "sample" if form in _LOG_SIGMA else "epsilon")
    count = more.pop("num_train_timesteps", plan.path.timesteps or 1000)
    return PlanScheduler(
        plan=content, alphas_cumprod=table, prediction_type=kind, clock=form, num_train_timesteps=count, seed=seed,
        thresholding=thresholding, use_flow_sigmas=_flows(plan.path), **more,
    )  # fmt: skip


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """A plan as a diffusers scheduler; make one with `to_diffusers`.

    One call of `step` is one stage of the plan, so a Heun step takes two of them and `timesteps` has an entry for each.
    The pipeline's `num_inference_steps` must be the plan's. Pipelines that multiply their noise by `init_noise_sigma`
    start as `workbench.run` does; the others (DDPM, DDIM, DiT) start from the noise itself.

    Args:
        plan: of `Plan.to_json`. alphas_cumprod: the table of the plan's path where no name makes it, else None.
        use_flow_sigmas: the path is that of flow matching, which flow pipelines ask for. The rest is as for `to_diffusers`.
    """

    @register_to_config
    def __init__(
        self,
        plan: dict[str, Any] | None = None,
        alphas_cumprod: list[float] | None = None,
        prediction_type: str = "epsilon",
        clock: str = "table",
        num_train_timesteps: int = 1000,
        seed: int | None = None,
        thresholding: str | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        use_flow_sigmas: bool = False,
    ):
        if plan is None:
            raise WorkbenchError("a PlanScheduler needs a plan, which this configuration has not: make it with to_diffusers.")
        if prediction_type not in KINDS:
            raise unknown("prediction type", prediction_type, KINDS)
        if clock not in CLOCKS:
            raise unknown("clock", clock, CLOCKS)
        if thresholding not in (None, "clip", "dynamic"):
            raise unknown("thresholding", thresholding, ("clip", "dynamic"))
        check_count("num_train_timesteps", num_train_timesteps)
        self.plan = _read(plan, alphas_cumprod)
        if self.plan.path.timesteps:  # where other code looks for the table
            nodes = torch.arange(1, self.plan.path.timesteps + 1, dtype=torch.float64) / self.plan.path.timesteps
            self.alphas_cumprod = self.plan.path.alpha(nodes) ** 2
        self.init_noise_sigma = self.plan.path.sigma(self.plan.times[0])
        self.order = _order(self.plan)
        self.set_timesteps()

    def __repr__(self) -> str:
        return f"PlanScheduler({self.plan}, {self.config.prediction_type})"

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def step_index(self) -> int | None:
        """Index of the stage that comes next, None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the stage to begin with, where a pipeline has set one."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at a later stage, as pipelines that start from an image do."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Go back to the plan's start, its timesteps on `device`.

        Args:
            num_inference_steps: the plan's number of steps. timesteps: none, since the plan has its own.
            sigmas: none, or the evenly spaced ones from 1 that flow pipelines fill in. mu: the shift that such a pipeline would use;
                the plan's times hold their own.

        Raises:
            WorkbenchError: for another number of steps or times of the caller's own.
        """
        if timesteps is not None or (sigmas is not None and not _even(sigmas)):
            raise WorkbenchError(f"{self.plan} has its own times: leave timesteps and sigmas out, or plan with schedule=times.")
        asked = len(sigmas) if sigmas is not None else num_inference_steps
        if asked not in (None, self.plan.steps):
            raise WorkbenchError(
                f"this scheduler holds a plan of {self.plan.steps} steps, not {asked}: pass num_inference_steps={self.plan.steps}, "
                "or make a scheduler of another plan."
            )
        self.num_inference_steps = self.plan.steps
        self.timesteps = _whole_if_all_are(self._timesteps([stage.t for stage in self.plan.stages])).to(device)
        ends = [*(stage.t for stage in self.plan.stages), self.plan.times[-1]]
        self.sigmas = torch.tensor([self.plan.path.sigma(t) for t in ends]) if self.config.use_flow_sigmas else None
        self._step_index = self._begin_index = self._base = None
        self._outputs: list[Tensor] = []

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network sees of a state: the state, divided by sqrt(sigma^2 + sigma_data^2) where it is preconditioned."""
        if self.config.clock not in _LOG_SIGMA:
            return sample
        return sample * self._preconditioning(self.plan.stages[self._index(timestep)].t)[0]

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float | None = None,
        use_clipped_model_output: bool | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> PlanOutput | tuple[Tensor, Tensor]:
        """Make one stage of the plan.

        Args:
            model_output: prediction (n, ...) at `timestep`; further channels (a learned variance) are left out.
            sample: the state (n, ...). eta: 0, or that of the plan, which is made with it.
            generator: draws the noise of stochastic stages, unless there is a `seed`; variance_noise: that noise itself.
            use_clipped_model_output: no use here; a plan works on the thresholded estimate throughout.

        Raises:
            WorkbenchError: after the last stage, and where the plan needs what came before its first one.
        """
        index, plan = self._index(timestep), self.plan
        if eta and eta != plan.options.get("eta"):
            raise WorkbenchError(f"eta is {eta}, but this plan is {plan}: make it with eta={eta}, and leave eta out here.")
        stage, high = plan.stages[index], sample.dtype if sample.dtype == torch.float64 else torch.float32
        move = table_of(plan, high).moves[index]
        x = sample.to(high)
        target = self._target(model_output[:, : sample.shape[1]].to(high), x, stage.t)
        output = target if move.convert is None else combine(move.convert, (x, target))
        self._outputs = [output, *self._outputs[: plan.history - 1]]
        base = x if self._base is None else self._base
        held = (x, base, self._noise(x, index, generator, variance_noise) if move.draws else None, *self._outputs)
        made = combine(move.x, held).to(sample.dtype)
        self._base = base if move.base is None else combine(move.base, held)
        self._step_index = index + 1
        found = target.to(sample.dtype)
        return PlanOutput(prev_sample=made, pred_original_sample=found) if return_dict else (made, found)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The state at the network's timesteps (n,), of clean samples (n, ...) and noise (n, ...)."""
        return self.plan.path.mix(original_samples, noise, self._times(timesteps))

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, by the name and in the order that flow pipelines use."""
        return self.add_noise(sample, noise, timestep)

    def _index(self, timestep: float | Tensor | None) -> int:
        """Index of the stage to come; a pipeline that begins later says so, or is found by its first timestep."""
        if self._step_index is None:
            index = self._begin_index
            if index is None:
                told = torch.as_tensor(math.nan if timestep is None else timestep).flatten()[0].cpu()
                same = (self.timesteps.cpu() == told).nonzero().flatten()
                if not len(same):
                    raise WorkbenchError(
                        f"timestep {timestep} is not one of this plan's: run the pipeline over scheduler.timesteps."
                    )
                able = [i for i in same.tolist() if _can_begin(self.plan, i)]  # a Heun step ends where the next begins
                index = able[0] if able else int(same[0])
            if not _can_begin(self.plan, index):
                raise WorkbenchError(
                    f"{self.plan} cannot begin at stage {index}, which needs earlier outputs: make a plan with t_start instead."
                )
            self._step_index = index
        if self._step_index >= len(self.plan.stages):
            raise WorkbenchError(
                f"{self.plan} is at its end after {len(self.plan.stages)} evaluations: call set_timesteps first."
            )
        return self._step_index

    def _target(self, prediction: Tensor, x: Tensor, t: float) -> Tensor:
        """The x0 estimate, from what the network predicts."""
        if self.config.clock in _LOG_SIGMA:
            _, skip, out = self._preconditioning(t)
            target = skip * x + out * prediction
        else:
            target = self.plan.path.convert(prediction, x, t, KINDS[self.config.prediction_type], "x0")
        mode = self.config.thresholding
        return Thresholded(lambda *_: target, mode)(x, t) if mode else target

    def _preconditioning(self, t: float) -> tuple[float, float, float]:
        """c_in, c_skip and c_out of EDM (arXiv 2206.00364, table 1) or of consistency models (arXiv 2303.01469, appendix C)."""
        config = self.config
        sigma, data = max(self.plan.path.sigma(t), config.sigma_min), config.sigma_data
        low = config.sigma_min if config.clock == "consistency" else 0.0
        sign = -1.0 if config.clock == "edm" and config.prediction_type == "v_prediction" else 1.0
        scale = (sigma**2 + data**2) ** -0.5
        return scale, data**2 / ((sigma - low) ** 2 + data**2), sign * (sigma - low) * data * scale

    def _noise(self, x: Tensor, index: int, generator: Any, given: Tensor | None) -> Tensor:
        if given is not None:
            return given.to(x)
        if self.config.seed is not None:
            return stage_noise(x, self.config.seed, index)
        return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def _timesteps(self, times: Sequence[float]) -> Tensor:
        """How the network is told these times, in float64."""
        at, count = torch.tensor(times, dtype=torch.float64), self.config.num_train_timesteps
        if (scale := _LOG_SIGMA.get(self.config.clock)) is not None:
            return scale * self.plan.path.sigma(at).clamp_min(self.config.sigma_min).log()
        return (at * count - 1).clamp_min(0) if self.config.clock == "table" else at * count

    def _times(self, timesteps: Tensor) -> Tensor:
        """The inverse of `_timesteps`."""
        told, count = torch.as_tensor(timesteps).cpu().double(), self.config.num_train_timesteps
        if (scale := _LOG_SIGMA.get(self.config.clock)) is not None:  # alpha is 1
            return self.plan.path.time(-told / scale)
        return ((told + 1) if self.config.clock == "table" else told) / count


def _flows(path: Path) -> bool:
    return path.name == "linear"


def _whole_if_all_are(steps: Tensor) -> Tensor:
    """As whole numbers where all are (a learned embedding of time takes no other), else float32."""
    near = steps.round()
    steps = torch.where((steps - near).abs() < 1e-6, near, steps)
    return near.long() if bool((steps == near).all()) and len(steps) else steps.float()


def _even(sigmas: Sequence[float]) -> bool:
    """Whether sigmas are the ones that flow pipelines fill in: equal steps, from 1."""
    given = torch.as_tensor(sigmas, dtype=torch.float64)
    steps = given.diff()
    return bool((given[:1] - 1).abs() < 1e-3) and bool((steps < 0).all() and ((steps - steps[:1]).abs() < 1e-5).all())


def _order(plan: Plan) -> int:
    """Stages a step where that is regular (but for a shorter last step), else 1: pipelines count their progress in it."""
    starts = [index for index, stage in enumerate(plan.stages) if not stage.inner]
    size = math.ceil(len(plan.stages) / plan.steps)
    return size if starts == [size * step for step in range(plan.steps)] else 1


def _can_begin(plan: Plan, first: int) -> bool:
    """Whether no stage from `first` on looks at an output or a base state from before it."""
    saved = first == 0
    for count, stage in enumerate(plan.stages[first:], 1):
        for row in (stage.x, stage.base):
            if row and (any(row.outputs[count:]) or (row.base and not saved)):
                return False
        saved |= stage.base is not None
    return True


def _stored(plan: Plan) -> tuple[dict[str, Any], list[float] | None]:
    """A plan as JSON values, and the table of its path where no name makes that again."""
    if plan.models > 1:
        raise WorkbenchError("a pipeline of diffusers runs one network, but this plan is for two: run it with workbench.run.")
    if any(stage.jump for stage in plan.stages):
        raise WorkbenchError(
            f"{plan} asks the network for jumps to a second time, which no pipeline of diffusers passes on: "
            "take ddim, the same step for a network of one time, or consistency."
        )
    table = None
    try:
        content = plan.to_json()
    except WorkbenchError as error:
        count = plan.path.timesteps
        if not count:
            raise WorkbenchError(
                f"a plan on the path {plan.path.name!r} cannot be put in a scheduler, since neither a name nor a table makes the path."
            ) from error
        table = (plan.path.alpha(torch.arange(1, count + 1, dtype=torch.float64) / count) ** 2).tolist()
        content = {**replace(plan, path=paths.linear).to_json(), "path": plan.path.name}
    try:
        return json.loads(json.dumps(content, allow_nan=False)), table
    except (TypeError, ValueError) as error:
        raise WorkbenchError(f"the options of {plan.sampler!r} cannot be stored ({error}): use numbers and names.") from error


def _read(content: dict[str, Any], table: list[float] | None) -> Plan:
    if table is None:
        return Plan.from_json(content)
    plan = Plan.from_json({**content, "path": "linear"})
    return replace(plan, path=paths.from_table(torch.tensor(table, dtype=torch.float64), content["path"]))
