"""A paper is a row: each recipe is one configured objective, its rates, and the sampler that its student must use."""

from __future__ import annotations

from typing import Any

from workbench.distill import adaptation_rows, distribution_rows, matching_rows
from workbench.distill.loop import Optim
from workbench.distill.objectives.adversarial import Adversarial
from workbench.distill.objectives.ddgan import DenoisingGAN
from workbench.distill.objectives.extras import Anchor, Correction, Dispersive, TwoStep
from workbench.distill.objectives.frequency import HighFrequency
from workbench.distill.objectives.moments import Moments
from workbench.distill.objectives.pairs import Pairs
from workbench.distill.objectives.parts import L2, AdaptiveL2, Hard, InverseGap, InverseStep, PseudoHuber, RootL2, TruncatedSNR
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.starts import FromKeyPoints, FromPairs, FromPrior, FromRollout
from workbench.distill.objectives.targets import (
    DiscreteConsistency,
    Eulerian,
    Lagged,
    Lagrangian,
    Semigroup,
    StoredEndpoint,
    TeacherSteps,
    TrigTangent,
)
from workbench.distill.objectives.times import (
    Between,
    EasyGap,
    FromTop,
    Grid,
    Halving,
    LogNormalGrid,
    LongStart,
    Noisy,
    Segments,
    Straighten,
    UShaped,
)
from workbench.distill.recipe import Recipe
from workbench.errors import unknown
from workbench.samplers.sample import Sampling

JUMP, CHAIN, RENOISED = Sampling("flow_map", 1), Sampling("flow_map", 4), Sampling("consistency", 1)


def _row(
    name: str, paper: str, summary: str, objective: Any, sampling: Sampling, lr: float = 3e-4, critic: Optim | None = None, **points: Any
) -> Recipe:  # fmt: skip
    """A recipe with one rate, and on points the batch of 256 and half of the labels dropped."""
    optim = {"student": Optim(lr=lr)} | ({"critic": critic} if critic else {})
    return Recipe(name, f"arXiv {paper}", summary, objective, sampling, optim, points={"batch": 256, "dropout": 0.5, **points})


ROWS = (
    # --- stored targets and straightening
    _row(
        "kd", "2101.02388", "Knowledge distillation: regress the teacher's answer on stored pairs of noise and answer, in one step.",
        Pointwise(start=FromPairs(Pairs()), times=Straighten(share=0.0), target=StoredEndpoint(), metric=L2()),
        RENOISED, count=32768,
    ),
    _row(
        "keypoints", "2503.19462", "AccVideo: regress the chords between five key points of stored teacher trajectories, the only states the student meets.",
        Pointwise(start=FromKeyPoints(), times=Straighten(share=0.0), target=StoredEndpoint(), metric=L2(), compare="velocity"),
        Sampling("ddim", 5), count=32768, keys=4,
    ),
    Recipe(
        "hipa",
        paper="arXiv 2311.18158",
        summary="High-frequency adaptation: low-rank updates alone learn the stored answers in one step, high frequencies counted extra.",
        objective=Pointwise(start=FromPairs(Pairs()), times=Straighten(share=0.0), target=StoredEndpoint(), metric=HighFrequency()),
        sampling=RENOISED,
        optim={"student": Optim(lr=1e-3)},
        lora=4,
    ),
    _row(
        "reflow", "2209.03003", "Rectified flow: straighten the flow on the teacher's own pairs, then regress its one-step answer.",
        Pointwise(start=FromPairs(Pairs()), times=Straighten(share=0.4), target=StoredEndpoint(), metric=L2(), compare="velocity"),
        Sampling("euler", 1), lr=5e-4, count=32768,
    ),
    _row(
        "instaflow", "2309.06380", "InstaFlow: reflow on guided pairs for most of the run, then one-step distillation with a robust metric.",
        Pointwise(start=FromPairs(Pairs()), times=Straighten(share=0.6), target=StoredEndpoint(), metric=PseudoHuber(), compare="velocity"),
        Sampling("euler", 1), lr=5e-4, count=32768,
    ),
    _row(
        "rfpp", "2405.20320", "Improved rectified flow: one reflow round with hard times drawn more often and a robust metric.",
        Pointwise(start=FromPairs(Pairs(inverted=0.2)), times=UShaped(4.0), target=StoredEndpoint(), metric=PseudoHuber(), weight=Hard(), compare="velocity"),
        Sampling("euler", 1), lr=5e-4, count=32768,
    ),
    _row(
        "slimflow", "2407.12718", "SlimFlow: the pairs' noise turns from independent into the teacher's own, so a small fresh student can follow.",
        Pointwise(start=FromPairs(Pairs(), anneal=0.4), times=Straighten(share=0.7), target=StoredEndpoint(), metric=L2(), compare="velocity", extras=(TwoStep(),)),
        Sampling("euler", 1), lr=5e-4, count=32768,
    ),
    # --- step halving
    _row(
        "progressive", "2202.00512", "Progressive distillation: one step lands where two of the teacher's do, then the student teaches the next halving.",
        Pointwise(times=Halving(8, 1), target=TeacherSteps(2), metric=L2(), weight=TruncatedSNR()),
        Sampling("ddim", 1), first=32,
    ),
    # --- guidance in one pass
    _row(
        "guidance", "2210.03142", "Guided distillation: one pass gives what guidance takes two for, at any scale, which is an input.",
        Pointwise(times=Between(equal=1.0), target=TeacherSteps(0), metric=L2(), weight=TruncatedSNR(), guidance=(1.0, 5.0)),
        Sampling("dpmpp_2m", 16),
    ),
    Recipe(
        "agd",
        paper="arXiv 2503.07274",
        summary="Adapter guidance distillation: small adapters beside the frozen teacher learn its guided answers, on guided trajectories.",
        objective=Pointwise(
            start=FromRollout(top=True), times=Noisy(), target=TeacherSteps(0), metric=L2(), compare="velocity", guidance=(1.0, 6.0)
        ),
        sampling=Sampling("dpmpp_2m", 16),
        optim={"student": Optim(lr=4e-3)},
        points={"batch": 256, "lr": 2e-3},
        adapters=0.05,
    ),
    # --- discrete consistency
    _row(
        "consistency", "2303.01469", "Consistency distillation on a grid that is refined over the run: neighbouring points of a teacher trajectory must agree.",
        Pointwise(times=Grid(8, 64), target=DiscreteConsistency(), metric=PseudoHuber()),
        RENOISED, times=Grid(4, 16), substeps=4, metric=L2(), lr=6e-4,
    ),
    _row(
        "cd", "2303.01469", "Consistency distillation: a fixed grid of 18 levels, a Heun step of the teacher, and a moving average as the target net.",
        Pointwise(times=Grid(18, 18), target=DiscreteConsistency(solver="heun"), metric=PseudoHuber(), average=0.95),
        RENOISED, lr=4e-4,
    ),
    _row(
        "ct", "2303.01469", "Consistency training: as distillation, with the same noise at the smaller level in place of a teacher.",
        Pointwise(times=Grid(2, 150, rule="root"), target=DiscreteConsistency(shared=True), metric=PseudoHuber(), average=0.9),
        RENOISED, lr=4e-4,
    ),
    _row(
        "ict", "2310.14189", "Improved consistency training: lognormal levels, a doubling grid, pseudo-Huber and 1/gap weights, no moving average.",
        Pointwise(times=LogNormalGrid(), target=DiscreteConsistency(shared=True), metric=PseudoHuber(), weight=InverseGap()),
        RENOISED,
    ),
    _row(
        "ect", "2406.14548", "Easy consistency tuning: starts as denoising, and the gap between the two levels shrinks stage by stage.",
        Pointwise(times=EasyGap(), target=DiscreteConsistency(shared=True), metric=RootL2(), weight=InverseGap()),
        RENOISED, stages=4,
    ),
    _row(
        "lcm", "2310.04378", "Latent consistency: distillation of the guided flow with several grid cells skipped at once.",
        Pointwise(times=Grid(50, 50, skip=5), target=DiscreteConsistency(), metric=PseudoHuber(), average=0.95),
        RENOISED,
    ),
    _row(
        "scott", "2403.01505", "Stochastic consistency: the teacher's step is an SDE's, of small eta, since at eta = 1 the fixed point is the mean.",
        Pointwise(times=Grid(16, 16), target=DiscreteConsistency(substeps=3, eta=0.2), metric=PseudoHuber(), average=0.95),
        RENOISED,
    ),
    _row(
        "tscd", "2404.13686", "Trajectory-segmented consistency: a flow map within 8, 4, 2 and then 1 segments.",
        Pointwise(times=Segments(), target=DiscreteConsistency(), metric=L2(), two_times=True, average=0.95),
        CHAIN,
    ),
    _row(
        "ctm", "2310.02279", "Consistency trajectory model: any-to-any jumps compared at the data's end, anchored by denoising.",
        Pointwise(
            times=LongStart(), target=DiscreteConsistency(substeps=2, solver="heun"), metric=PseudoHuber(), two_times=True, push=True,
            average=0.95, extras=(Anchor(1.0),),
        ),
        JUMP,
    ),
    # --- continuous consistency
    _row(
        "scm", "2410.11081", "Continuous-time consistency distillation: the tangent along the teacher's flow on TrigFlow, normalised.",
        Pointwise(times=Noisy(), target=TrigTangent("teacher"), metric=L2(), compare="trig"),
        RENOISED, lr=1.5e-4, mean=0.0, std=2.0,
    ),
    _row(
        "tbcm", "2511.20410", "Trajectory-backward consistency: the same tangent at points of the teacher's own trajectories; no data.",
        Pointwise(start=FromRollout(), times=Noisy(), target=TrigTangent("teacher"), metric=L2(), compare="trig"),
        RENOISED, lr=1.5e-4,
    ),
    Recipe(
        "sana-sprint",
        paper="arXiv 2503.09641",
        summary="Continuous consistency beside a discriminator on the teacher's features, half of whose samples start from pure noise.",
        objective=Pointwise(times=Noisy(mean=0.2, std=1.6), target=TrigTangent("teacher"), metric=L2(), compare="trig", gan=Adversarial(0.5)),
        sampling=RENOISED,
        optim={"student": Optim(lr=3e-4), "discriminator": Optim(lr=3e-4)},
        points={"batch": 256, "dropout": 0.5, "lr": 1.5e-4, "mean": 0.0, "std": 2.0, "gan": Adversarial(0.003, top=1.0)},
    ),
    # --- average velocity
    _row(
        "meanflow", "2505.13447", "MeanFlow: the average velocity satisfies a derivative identity; trained on data, without a teacher.",
        Pointwise(times=Between(equal=0.5), target=Eulerian("data"), metric=AdaptiveL2(), compare="velocity", two_times=True),
        JUMP, lr=4e-4,
    ),
    _row(
        "meanflow-dispersive", "2510.07865", "MeanFlow with inner features pushed apart, against collapse.",
        Pointwise(
            times=Between(equal=0.5), target=Eulerian("data"), metric=AdaptiveL2(), compare="velocity", two_times=True,
            extras=(Dispersive(unit=True),),
        ),
        JUMP, lr=5e-4, metric=L2(),
    ),
    _row(
        "splitmeanflow", "2507.16884", "SplitMeanFlow: two jumps of the student add up to one; no derivative is taken.",
        Pointwise(times=Between(equal=0.5), target=Semigroup("teacher"), metric=L2(), compare="velocity", two_times=True),
        JUMP, lr=5e-4,
    ),
    _row(
        "ayf", "2506.14603", "Align your flow: the flow map's tangent along the teacher's velocity, normalised, for any pair of times.",
        Pointwise(
            times=Between(equal=0.1), target=Eulerian("teacher", normalise=True, warmup=0.2), metric=L2(), compare="velocity",
            two_times=True,
        ),
        CHAIN, lr=2.5e-4,
    ),
    # --- from the prior, without data
    _row(
        "boot", "2306.05544", "BOOT: from noise alone, each point of the student's trajectory is one teacher step after the one before.",
        Pointwise(start=FromPrior(), times=FromTop(), target=Lagged(), metric=L2(), weight=InverseStep(), two_times=True),
        JUMP,
    ),
    _row(
        "freeflow", "2511.19428", "FreeFlow: from noise alone, the teacher's velocity at the student's own points, corrected by a critic.",
        Pointwise(
            start=FromPrior(), times=FromTop(step=0.0, boundary=0.0), target=Lagrangian(), metric=AdaptiveL2(), compare="velocity",
            two_times=True, extras=(Correction(),),
        ),
        JUMP, critic=Optim(lr=3e-4, decay=0.5), lr=2.5e-4, extras=(Correction(0.1),), metric=L2(), zero=0.2,
    ),
    # --- the law of a few-step sampler
    Recipe(
        "ddgan",
        paper="arXiv 2112.07804",
        summary="Denoising diffusion GAN: each of four large steps draws from a law that a latent spreads and a discriminator judges.",
        objective=DenoisingGAN(),
        sampling=DenoisingGAN().sampling,
        optim={"student": Optim(lr=1.6e-4, betas=(0.5, 0.9)), "discriminator": Optim(lr=1.25e-4, betas=(0.5, 0.9))},
        points={"batch": 256, "dropout": 0.5, "lr": 2.5e-4, "discriminator_lr": 2.5e-4, "r1": 0.05, "lazy": 4},
    ),
    Recipe(
        "mmd",
        paper="arXiv 2301.07969",
        summary="Moment matching: the few-step DDIM sampler is finetuned as a whole until features of its samples have the data's law.",
        objective=Moments(),
        sampling=Sampling("ddim", 4),
        optim={"student": Optim(lr=1e-4, clip=0.5)},
        batch=128,
        steps=500,
        points={"batch": 256, "dropout": 0.5, "kernel": "rbf", "lr": 5e-4},
    ),
)  # fmt: skip

RECIPES = {recipe.name: recipe for recipe in (*ROWS, *distribution_rows.ROWS, *adaptation_rows.ROWS, *matching_rows.ROWS)}


def get(recipe: str | Recipe) -> Recipe:
    """A recipe by name; a `Recipe` is returned as it is."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    return RECIPES[recipe]


def recipes() -> list[Recipe]:
    """Every recipe, by name.

    >>> [recipe.name for recipe in recipes()][:4]
    ['agd', 'asd', 'ayf', 'boot']
    """
    return [RECIPES[name] for name in sorted(RECIPES)]
