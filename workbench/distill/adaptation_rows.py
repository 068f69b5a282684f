"""Rows that adapt a few-step student: a new condition or concept, a class to forget, super-resolution, preferences and rewards."""

from __future__ import annotations

from workbench.distill.loop import Optim
from workbench.distill.objectives.control import NoiseConsistency
from workbench.distill.objectives.echo import Echo
from workbench.distill.objectives.forgetting import ScoreForgetting
from workbench.distill.objectives.policy import PolicyGradient
from workbench.distill.objectives.preference import PairwiseOptimisation, PreferenceDistillation
from workbench.distill.objectives.super_resolution import SuperResolution
from workbench.distill.recipe import Recipe
from workbench.samplers.sample import Sampling

ONE, FOUR = Sampling("consistency", 1), Sampling("consistency", 4)

ROWS = (
    Recipe(
        "nct",
        paper="arXiv 2506.19741",
        summary="Noise consistency training: an adapter beside a frozen one-step student learns to obey a condition read from samples.",
        objective=NoiseConsistency(),
        sampling=ONE,
        optim={"student": Optim(lr=1e-3)},
        points={"batch": 256},
    ),
    Recipe(
        "sfd",
        paper="arXiv 2409.11219",
        summary="Score forgetting distillation: one step for all classes, a forgotten one following the teacher's score of another.",
        objective=ScoreForgetting(),
        sampling=ONE,
        optim={"student": Optim(lr=1e-4, betas=(0.0, 0.999)), "critic": Optim(lr=3e-4, betas=(0.0, 0.999), decay=0.5)},
        points={"batch": 256},
    ),
    Recipe(
        "echo",
        paper="arXiv 2510.20512",
        summary="EchoDistill: teacher and one-step student learn a new class from a few pictures together, each from the other.",
        objective=Echo(),
        sampling=ONE,
        optim={"student": Optim(lr=2e-4), "teacher": Optim(lr=2e-4), "discriminator": Optim(lr=2e-4)},
        steps=1000,
    ),
    Recipe(
        "tad-sr",
        paper="arXiv 2408.07476",
        summary="Time-aware distillation: one-step super-resolution from the teacher's answers, its fine-scale score and its features.",
        objective=SuperResolution(),
        sampling=ONE,
        optim={"student": Optim(lr=3e-4), "discriminator": Optim(lr=3e-4)},
    ),
    Recipe(
        "distillation-dpo",
        paper="arXiv 2504.11447",
        summary="Distillation with preferences: of two samples the better follows the teacher's score, the worse is sent away from it.",
        objective=PreferenceDistillation(),
        sampling=ONE,
        optim={"student": Optim(lr=1e-4), **{name: Optim(lr=3e-4, decay=0.5) for name in ("winner", "loser")}},
        points={"batch": 256, "dropout": 0.5},
    ),
    Recipe(
        "pso",
        paper="arXiv 2410.03190",
        summary="Pairwise sample optimisation: the step kernels of a few-step student come to prefer the better of two trajectories.",
        objective=PairwiseOptimisation(),
        sampling=FOUR,
        optim={"student": Optim(lr=1e-3)},
        lora=8,
        steps=500,
        points={"batch": 256, "beta": 2.0, "clip": 0.5},  # beta counts means over dimensions, of which points have few
    ),
    Recipe(
        "rlcm",
        paper="arXiv 2404.03673",
        summary="Reinforcement learning for consistency models: few-step sampling as a decision process, tuned to a reward by PPO.",
        objective=PolicyGradient(),
        sampling=FOUR,
        optim={"student": Optim(lr=1e-3, clip=5.0)},
        lora=8,
        steps=500,
        points={"batch": 256},
    ),
)
