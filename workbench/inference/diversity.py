"""Diversity distillation: the teacher takes the first k steps, the student the rest (arXiv 2503.10637)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from workbench import samplers
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.metrics import density_coverage, energy_distance, median_distance, pairwise_diversity
from workbench.metrics.vendi import vendi_score
from workbench.samplers.plan import Plan, hybrid
from workbench.samplers.run import run
from workbench.samplers.sample import default_sampling, labels, noise_for, prepare


class DiversityAtK(NamedTuple):
    """What is kept when the teacher takes the first k steps.

    Attributes:
        k: steps of the teacher. nfe: evaluations per sample, both models together.
        coverage, density: of the reference (`metrics.density_coverage`). vendi: effective number of different samples.
        diversity: mean distance of pairs. distance: energy distance to the reference.
    """

    k: int
    nfe: int
    coverage: float
    density: float
    vendi: float
    diversity: float
    distance: float


class DiversityCurve(NamedTuple):
    """`points`: one a k. `floor`: the same figures between two draws of the real law (k = -1, nfe = 0). n, seed: of the samples."""

    points: tuple[DiversityAtK, ...]
    floor: DiversityAtK
    n: int
    seed: int


def diversity_plan(
    teacher: Denoiser, student: Denoiser, k: int, steps: int | None = None, finer: int | None = None, **changes: Any
) -> Plan:
    """The student's plan with its first k steps given to the teacher; run it as `run(plan, [teacher, student], noise)`.

    Args:
        k: 0 (the student alone) to steps (the teacher alone).
        steps: of the student; its own number by default. changes: sampler, schedule or options of the student's plan.
        finer: the teacher's own sampler takes this many equal steps in t within each of the k (the released code lets
            the teacher walk its own grid); by default it takes the student's rows, as in the paper.

    A second-order sampler of the student starts anew where it takes over from a finer teacher.

    Raises:
        WorkbenchError: for a k out of range or changes that no plan takes; when run, for models on different paths.
    """
    plan = default_sampling(student).plan(student.path, steps, **changes)
    k = check_count("k (the teacher's steps)", k, 0, plan.steps)
    cut = _after(plan, k)
    if finer is None or k == 0:
        if 0 < cut < len(plan.stages):
            return hybrid(plan, cut)
        owned = tuple(replace(stage, model=int(k == 0)) for stage in plan.stages)
        return replace(plan, stages=owned, options={**plan.options, "switch": cut})
    finer, own = check_count("finer", finer), default_sampling(teacher)
    grid = [
        s + (t - s) * part / finer for s, t in zip(plan.times[:k], plan.times[1 : k + 1], strict=True) for part in range(finer)
    ]
    first = samplers.plan(own.sampler, teacher.path, schedule=[*grid, plan.times[k]], **own.options)
    rest: tuple = ()
    if k < plan.steps:
        rest = samplers.plan(plan.sampler, plan.path, schedule=list(plan.times[k:]), **_of_sampler(plan)).stages
    return Plan(
        f"{first.sampler} then {plan.sampler}" if rest else first.sampler,
        plan.path,
        (*first.times, *plan.times[k + 1 :]),
        (*first.stages, *(replace(stage, model=1) for stage in rest)),
        plan.schedule,
        {**plan.options, "switch": len(first.stages), "finer": finer},
    )


def diversity_against_k(
    teacher: Denoiser,
    student: Denoiser,
    reference: Tensor,
    other: Tensor,
    ks: Sequence[int] | None = None,
    cond: Any = None,
    seed: int = 0,
    guidance: float | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> DiversityCurve:
    """Coverage, density, diversity and distance to the data against the number of steps that the teacher takes first.

    The paper's finding: a distilled model settles the composition in its first step, and that step alone, taken by the
    teacher, brings the diversity back. k = 0 is the student, k = steps the teacher; all start from the same noise.

    Args:
        teacher, student: denoisers on one path. reference, other: two disjoint draws of the data (n, ...), the second for the floor;
            as many samples are drawn as the reference holds.
        ks: by default every k from 0 to steps. cond: a label or n labels; with one label, and data of that class, the figures
            are those within the class.
        guidance: of the teacher, its own by default; two evaluations a step. The student runs at its own.
        features: map (n, ...) samples and data alike to what is compared, such as `lambda x: wb.metrics.image_features("digits", x)`.
        options: steps, finer, sampler, ... of `diversity_plan`.

    Raises:
        WorkbenchError: as `diversity_plan` and the metrics.

    Measured: a student of `eight_gaussians` with 93 % of its weight on one mode (ddim, 8 steps, n = 512, seed 0) has coverage 0.28 at
    k = 0, 0.61 at k = 4, 0.87 at k = 8 (floor 0.96). digits/dmd2 at 4 steps is not
    collapsed, and the guided teacher is farther from the data than it is: with k = 0, 1, ..., 4 coverage falls from 0.954 to
    0.840 (floor 0.964) while the Vendi score rises from 5.13 to 5.54, past the data's 5.09 (n = 500, seed 0;
    `benchmarks/inference.py --only diversity`).
    """
    n = len(reference)
    view = features or (lambda x: x)
    real, second = view(reference), view(other)
    width = median_distance(real)

    def figures(k: int, nfe: int, x: Tensor) -> DiversityAtK:
        support = density_coverage(x, real)
        return DiversityAtK(
            k,
            nfe,
            support.coverage,
            support.density,
            vendi_score(x, width),
            pairwise_diversity(x),
            energy_distance(x, real),
        )

    models = [prepare(teacher, guidance), prepare(student)]
    given, noise = labels(teacher, cond, n), noise_for(student, n, seed)
    most = default_sampling(student).plan(student.path, options.get("steps")).steps
    points = []
    for k in range(most + 1) if ks is None else ks:
        for frame in run(diversity_plan(teacher, student, k, **options), models, noise, given, seed):
            last = frame
        points.append(figures(k, last.nfe, view(last.x)))
    if not points:
        raise WorkbenchError("ks is empty: give at least one number of steps for the teacher.")
    return DiversityCurve(tuple(points), figures(-1, 0, second), n, seed)


def _after(plan: Plan, k: int) -> int:
    """How many stages the first k steps have, helper points among them."""
    if k == 0:
        return 0
    stages, end = plan.stages, plan.times[k]
    starts = (i for i in range(1, len(stages)) if not stages[i].inner and (stages[i].t <= end or stages[i - 1].to <= end))
    return next(starts, len(stages))


def _of_sampler(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in plan.options.items() if name in samplers.sampler_options(plan.sampler)}
