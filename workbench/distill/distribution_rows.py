"""Rows of the recipes that push the student's distribution: score gaps, score identities, divergences."""

from __future__ import annotations

from typing import Any

from workbench.distill.loop import Optim
from workbench.distill.objectives.backtracking import Backtracking
from workbench.distill.objectives.cores import (
    Even,
    ExpandedDivergence,
    HuberGap,
    ImplicitMatching,
    NoiseVariance,
    PerSampleL1,
    ScoreIdentity,
)
from workbench.distill.objectives.critics import CriticHead, FakeScore, ShiftedTeacher
from workbench.distill.objectives.distributional import Distributional, Guidance, Regression
from workbench.distill.objectives.divergences import Ratio
from workbench.distill.objectives.flash import Flash
from workbench.distill.objectives.levels import (
    Annealed,
    AnyCount,
    BackSimulation,
    EachStep,
    KarrasLevels,
    LogNormalLevels,
    PhaseEnd,
    TrajectoryStep,
)
from workbench.distill.objectives.rewards import Reward
from workbench.distill.recipe import Recipe
from workbench.samplers.sample import Sampling

FOUR = (1.0, 0.75, 0.5, 0.25)
ONE, RENOISED, ODE = Sampling("consistency", 1), Sampling("consistency", 4), Sampling("ddim", 4)
NO_MOMENTUM = (0.0, 0.999)


def _row(
    name: str, paper: str, summary: str, objective: Any, sampling: Sampling = ONE, lr: float = 1e-4, critic_lr: float = 3e-4,
    betas: tuple[float, float] = (0.9, 0.999), **points: Any,
) -> Recipe:  # fmt: skip
    optim, critic = {"student": Optim(lr=lr, betas=betas)}, {}
    if not isinstance(objective.critic, ShiftedTeacher):
        optim["critic"] = Optim(lr=critic_lr, betas=betas, decay=0.5)
        critic = {"warmup": 100}
    return Recipe(
        name,
        f"arXiv {paper}",
        summary,
        objective,
        sampling,
        optim,
        points={"batch": 256, "dropout": 0.5, "ema": 0.995, "matched": 0.2, "momentum": 0.0, **critic, **points},
    )


ROWS = (
    # --- reverse KL
    _row(
        "diff-instruct", "2305.18455", "Diff-Instruct: the gap between the teacher's score and an online critic's is the gradient of a KL over noise levels.",
        Distributional(weight=Even(), critic=FakeScore(turns=1, fresh=True), renoise=LogNormalLevels()), betas=NO_MOMENTUM,
    ),
    _row(
        "vsd", "2305.16213", "Variational score distillation: the same gap on noise predictions, with a low-rank critic; moves particles as well.",
        Distributional(weight=NoiseVariance(), critic=FakeScore(turns=1, lora=4), renoise=Annealed(low=(0.02, 0.02), high=(0.98, 0.5))),
    ),
    _row(
        "swiftbrush", "2312.05239", "SwiftBrush: variational score distillation of a one-step network, with the critic guided as the teacher is.",
        Distributional(weight=NoiseVariance(), critic=FakeScore(turns=1, lora=4), guidance=Guidance(same=True)), renoise=LogNormalLevels(),
    ),
    _row(
        "pg-sb", "2412.02687", "Proper guidance for SwiftBrush: one guidance scale drawn for each step, the same for teacher and critic.",
        Distributional(weight=NoiseVariance(), critic=FakeScore(turns=1, lora=4), guidance=Guidance(same=True, spread=(0.5, 4.0))),
        renoise=LogNormalLevels(),
    ),
    _row(
        "dmd", "2311.18828", "Distribution matching distillation: the score gap, and regression on the teacher's own pairs against lost modes.",
        Distributional(critic=FakeScore(turns=1), regression=Regression()), count=32768, renoise=LogNormalLevels(),
    ),
    _row(
        "dmd2", "2405.14867", "DMD2: a critic on a faster time scale in place of pairs, a discriminator on its features, and the student's own chain.",
        Distributional(gan=CriticHead()), turns=2, gan=0, renoise=LogNormalLevels(), weight=Even(),
    ),
    _row(
        "flash-dmd", "2511.20549", "Flash-DMD: the score gap at noisy times, an adversary at clean ones, a critic pulled along; then a preference.",
        Flash(), RENOISED, anchor=EachStep(), couple=1.0,  # small critics lag less than a pull towards the student misleads them
    ),
    _row(
        "phased-dmd", "2510.27684", "Phased DMD: each phase of steps is matched at its own noisy end, by a critic of its own.",
        Distributional(inputs=BackSimulation(FOUR, "ode"), anchor=PhaseEnd(2)), ODE, anchor=PhaseEnd(0),
    ),
    _row(
        "decoupled-dmd", "2511.22677", "Decoupled DMD: the guidance part of the gap is taken at levels below the student's time, the rest at all.",
        Distributional(inputs=BackSimulation(FOUR), guidance=Guidance(decoupled=True), renoise=(0.0, 1.0)), RENOISED, turns=2,
        anchor=EachStep(),
    ),
    _row(
        "tdm", "2503.06674", "Trajectory distribution matching: every state of the student's chain, of one to four steps, is matched within its own slice of levels.",
        Distributional(core=HuberGap(), inputs=AnyCount(), anchor=TrajectoryStep(), critic=FakeScore(turns=1)), Sampling("flow_map", 4),
    ),
    # --- other divergences
    _row(
        "f-distill", "2502.15681", "f-distill: the score gap weighted by a density ratio, which makes it the gradient of any f-divergence.",
        Distributional(gan=CriticHead(weight=1e-3), ratio=Ratio("js")), turns=2, judged=0.25, renoise=LogNormalLevels(), weight=Even(),
    ),
    _row(
        "uni-instruct", "2505.20755", "Uni-Instruct: the integral of an f-divergence over noise levels, differentiated as a weighted score identity.",
        Distributional(
            core=ExpandedDivergence(exact=False), weight=PerSampleL1(1e-2), gan=CriticHead(weight=1e-3), ratio=Ratio("kl"), renoise=KarrasLevels(),
            critic=FakeScore(turns=1),
        ),
        betas=NO_MOMENTUM, judged=0.25, renoise=LogNormalLevels(),
    ),
    _row(
        "sim", "2410.16794", "Score implicit matching: any distance of the scores, such as a pseudo-Huber one, through a gradient theorem.",
        Distributional(core=ImplicitMatching(), weight=Even(), renoise=KarrasLevels(), critic=FakeScore(turns=1, fresh=True)), betas=NO_MOMENTUM,
        renoise=LogNormalLevels(),
    ),
    _row(
        "sid", "2404.04057", "Score identity distillation: the Fisher divergence by identities of three scores, of which alpha counts one over.",
        Distributional(core=ScoreIdentity(1.2), weight=PerSampleL1(1e-2), renoise=KarrasLevels(), critic=FakeScore(turns=1, fresh=True)),
        betas=NO_MOMENTUM, renoise=LogNormalLevels(),
    ),
    _row(
        "sid-few-step", "2505.12674", "Few-step SiD: the mixture of all steps' outputs is matched; teacher unguided, critic without labels (Zero-CFG), a GAN.",
        Distributional(
            core=ScoreIdentity(1.0), weight=PerSampleL1(1e-2), inputs=BackSimulation(FOUR), gan=CriticHead(weight=1e-3),
            critic=FakeScore(turns=1, conditional=False), guidance=Guidance(real=1.0, fake=0.0),
        ),
        RENOISED, betas=NO_MOMENTUM, anchor=EachStep(), fake=1.0, conditional=True,  # of points whose classes do not overlap, Zero-CFG leaves nothing
    ),
    _row(
        "di-star", "2410.20898", "Diff-Instruct*: a reward is climbed while a pseudo-Huber score divergence keeps the student near the guided teacher.",
        Distributional(
            core=ImplicitMatching(), weight=Even(), renoise=KarrasLevels(), critic=FakeScore(turns=1, fresh=True), reward=Reward(),
        ),
        betas=NO_MOMENTUM, renoise=LogNormalLevels(),
    ),
    # --- no critic, or a moving teacher
    _row(
        "asd", "2407.02040", "Asynchronous score distillation: the teacher at a slightly noisier time stands for the critic; nothing else is trained.",
        Distributional(weight=NoiseVariance(), critic=ShiftedTeacher(), renoise=Annealed(until=1.0)),
    ),
    _row(
        "disback", "2408.15991", "DisBack: the critic's way from the teacher to the first student is walked back as a sequence of nearer targets.",
        Backtracking(), turns=2, warmup=0,
    ),
)  # fmt: skip
