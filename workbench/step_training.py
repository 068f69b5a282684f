"""Training of learned steps: gradients through the solver for the step lengths, exact expectations over the choice to stop.

Where to go next is a smooth choice, and the end of a run is a smooth function of it, so the gradient of the final error with
respect to every step is exact (no critic, no exploration noise). When to stop is a yes or no: while training it stays a
probability p_k at each visit k, and with S_k the probability of getting there,

    error = E sum_k S_k p_k |x_k - x|^2,    evaluations = E sum_k S_k p_k n_k,    x_k: the sample if it ends after visit k

are exact expectations too. What is minimised is error / price + evaluations, and the price follows the wanted mean number of
evaluations. A deep Q-network, as in arXiv 2502.12809, would have to estimate from samples what is computed here; a return whose
variance comes from a few samples near a separatrix is what it estimates worst.
"""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench import samplers, schedules
from workbench.denoiser import Denoiser
from workbench.errors import Diverged, WorkbenchError, check_count, unknown
from workbench.paths import Path
from workbench.samplers.policy import look
from workbench.samplers.run import run
from workbench.samplers.sample import labels, noise_for
from workbench.step_policy import SOLVERS, Chooser, Exit, LearnedSteps, mean_evaluations

PACED = 2048  # samples on which the mean number of evaluations is set during training


class StepProgress(NamedTuple):
    """One report of `learn_steps`.

    Attributes:
        step: of `steps`. stage: "reference", "train" or "done".
        error: RMS endpoint error of the policy as it stands, over the training noise; of the fixed schedule before training.
        evaluations: its mean evaluations. price: what one more evaluation may gain in squared error.
        fixed: best fixed schedule and its RMS error, same solver and evaluations. seconds: so far.
        policy: the result, in the last report; None before.
    """

    step: int
    steps: int
    stage: str
    error: float
    evaluations: float
    price: float
    fixed: tuple[str, float]
    seconds: float
    policy: LearnedSteps | None = None


def learn_steps(
    teacher: Denoiser,
    sampler: str = "dpmpp_2m",
    evaluations: int = 8,
    *,
    cond: Any = None,
    steps: int = 250,
    samples: int = 8192,
    batch: int = 512,
    lr: float = 0.003,
    t_start: float = 1.0,
    t_end: float = 0.0,
    reference: int = 300,
    seed: int = 0,
) -> Iterator[StepProgress]:
    """Train a policy that chooses every sample's steps, at a mean number of evaluations; yields reports, the last with the policy.

    It starts as the best fixed schedule of `workbench.schedules` on this teacher, and learns against the teacher's own fine
    solution from `samples` noises.

    Args:
        teacher: a denoiser with `.path` and `.shape` that gradients can pass through. sampler: ddim, dpmpp_2m or heun.
        evaluations: mean per sample, 4 to 64. cond: a label or `samples` labels. steps: of training. batch: samples a step.
        t_start, t_end: first and last time. reference: Heun steps of the fine solution, at equal steps in log-SNR.

    Raises:
        UnknownName: for another sampler. WorkbenchError: for counts out of range. Diverged: if the gradient is not finite.

    >>> import workbench as wb
    >>> *_, last = learn_steps(wb.mixture([[0.0]], [0.2]), "ddim", 4, steps=2, samples=64, batch=32, reference=50)
    >>> print(last.policy)
    learned_steps, ddim, 4 evaluations on average on linear
    """
    if sampler not in SOLVERS:
        raise unknown("solver of learned steps", sampler, SOLVERS)
    evaluations, steps = check_count("evaluations", evaluations, 4, 64), check_count("steps", steps, 1)
    samples, batch, reference = (
        check_count("samples", samples, 2),
        check_count("batch", batch),
        check_count("reference", reference, 10),
    )
    if not 0 < lr < math.inf:
        raise WorkbenchError(f"lr is {lr}, but must be positive; 0.003 is usual.")
    samplers.plan(sampler, teacher.path, 4, t_start=t_start, t_end=t_end)  # says what is wrong with the times
    noise = noise_for(teacher, samples, seed)
    return _train(
        teacher,
        sampler,
        evaluations,
        labels(teacher, cond, samples),
        steps,
        batch,
        lr,
        (t_start, t_end),
        reference,
        noise,
        seed,
    )


def learned_steps(teacher: Denoiser, sampler: str = "dpmpp_2m", evaluations: int = 8, **options: Any) -> LearnedSteps:
    """`learn_steps` to its end; arguments are the same."""
    *_, last = learn_steps(teacher, sampler, evaluations, **options)
    return last.policy


def fixed_schedules(path: Path, sampler: str, evaluations: int, **ends: float) -> dict[str, samplers.Plan]:
    """The plan of every schedule that needs no teacher, at no more than this many evaluations."""
    found = {}
    for name, function in schedules.NAMES.items():
        parameters = list(inspect.signature(function).parameters.values())[2:]
        if all(parameter.default is not parameter.empty for parameter in parameters):
            count = (evaluations + 1) // SOLVERS[sampler].evaluations if sampler == "heun" else evaluations
            found[name] = samplers.plan(sampler, path, count, name, **ends)
    return found


def endpoint_error(x: Tensor, exact: Tensor) -> float:
    """Root mean square over samples and coordinates."""
    return float((x.double() - exact.double()).square().mean().sqrt())


def fine_endpoints(
    teacher: Denoiser, noise: Tensor, cond: Any = None, steps: int = 300, t_start: float = 1.0, t_end: float = 0.0
) -> Tensor:
    """The teacher's own solution (n, ...) at t_end: Heun at equal steps in log-SNR, down to rho = 5e-4 where t_end is 0."""
    plan = samplers.plan("heun", teacher.path, steps, "logsnr", t_start=t_start, t_end=t_end, rho_min=5e-4)
    return _last(run(plan, teacher, noise, cond)).x


def _train(
    teacher: Denoiser, sampler: str, evaluations: int, cond: Any, steps: int, batch: int, lr: float,
    ends: tuple[float, float], reference: int, noise: Tensor, seed: int,
) -> Iterator[StepProgress]:  # fmt: skip
    began, path = time.monotonic(), teacher.path
    exact = fine_endpoints(teacher, noise, cond, reference, *ends)
    plans = fixed_schedules(path, sampler, evaluations, t_start=ends[0], t_end=ends[1])
    errors = {name: endpoint_error(_last(run(plan, teacher, noise, cond)).x, exact) for name, plan in plans.items()}
    name = min(errors, key=errors.get)
    fixed = (name, errors[name])
    yield StepProgress(0, steps, "reference", fixed[1], evaluations, math.nan, fixed, time.monotonic() - began)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Chooser(_nodes(path, plans[name].times))
    most = 2 * plans[name].steps
    policy = LearnedSteps("learned_steps", path, ends, {}, solver=sampler, net=net, most=most, evaluations=float(evaluations))
    parameters = list(net.parameters())
    optimizer = torch.optim.Adam(parameters, lr)
    rng = torch.Generator().manual_seed(seed)
    usual, order, best = max(fixed[1] ** 2, 1e-300), 2.0, (math.inf, policy)
    few, every = noise[:PACED], max(1, min(25, steps // 4))
    for step in range(steps):
        rows = torch.randperm(len(noise), generator=rng)[:batch]
        there = rows.to(noise.device)
        exits = unroll(policy, teacher, noise[there] * path.sigma(ends[0]), None if cond is None else cond[rows])
        error, count = expected(exits, exact[there])
        usual = 0.95 * usual + 0.05 * max(float(error.detach()), 1e-300)
        price = order * usual / evaluations  # what one evaluation is worth where the error falls as evaluations^-order
        gradients = torch.autograd.grad(error / price + count, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 5.0))
        if not math.isfinite(norm):
            raise Diverged(f"learning steps diverged at step {step}: the gradient is not finite; lower the rate (lr={lr:g}).")
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.step()
        order = min(8.0, max(1.0, order * math.exp(0.05 * (float(count.detach()) - evaluations) / evaluations)))
        if (step + 1) % every == 0 or step + 1 == steps:
            now = policy.paced(teacher, evaluations, noise=few, cond=None if cond is None else cond[: len(few)])
            last = _last(run(now, teacher, noise, cond))
            found = endpoint_error(last.x, exact)
            if found < best[0]:
                best = (found, replace(now, net=copy.deepcopy(net).requires_grad_(False)))
            yield StepProgress(step + 1, steps, "train", found, float(last.nfe), price, fixed, time.monotonic() - began)
    card = {"teacher": str(getattr(teacher, "name", "unnamed")), "trained": sampler, "steps": steps, "samples": len(noise), "seed": seed,
            "error": best[0], "fixed": list(fixed)}  # fmt: skip
    done = replace(best[1], card=card)
    yield StepProgress(
        steps,
        steps,
        "done",
        best[0],
        mean_evaluations(done, teacher, noise, cond),
        price,
        fixed,
        time.monotonic() - began,
        done,
    )


def unroll(policy: LearnedSteps, teacher: Denoiser, x: Tensor, cond: Any = None) -> list[Exit]:
    """Every way in which these samples may end, with gradients with respect to the policy's parameters."""
    exits: list[Exit] = []
    asked, answer = policy.walk(x, exits), None
    while True:
        try:
            visit = asked.send(answer)
        except StopIteration:
            return exits
        answer, _ = look(teacher, visit, x if answer is None else answer, cond)


def expected(exits: list[Exit], exact: Tensor) -> tuple[Tensor, Tensor]:
    """(mean square error, evaluations), expectations over the batch and over the choice to stop."""
    weight = torch.stack([end.probability for end in exits])
    weight = weight / weight.sum(0)  # what was no longer followed is less than a thousandth
    squares = torch.stack([(end.x - exact).flatten(1).square().mean(1).cpu().double() for end in exits])
    counts = torch.stack([end.evaluations for end in exits])
    return (weight * squares).sum(0).mean(), (weight * counts).sum(0).mean()


def _nodes(path: Path, times: tuple[float, ...]) -> Tensor:
    """Log-SNR of the evaluations of a fixed schedule; pure noise stands at rho = 80 or before the next."""
    nodes = path.log_snr(torch.tensor(times[:-1], dtype=torch.float64))
    if not math.isfinite(float(nodes[0])):
        nodes[0] = min(-math.log(80.0), float(nodes[1]) - 1)
    return nodes


def _last(frames: Iterator[samplers.Frame]) -> samplers.Frame:
    *_, last = frames
    return last
