"""Rows of the recipes that match the law without a critic of its own kind, or several at once: twins, transport, pools, mixtures of losses."""

from __future__ import annotations

from workbench.distill.loop import Optim
from workbench.distill.objectives.consistency_matching import ConsistencyMatching
from workbench.distill.objectives.marginal_transport import LogitNormal, VelocityDistillation, VelocityMatching
from workbench.distill.objectives.nitrofusion import NitroFusion
from workbench.distill.objectives.parts import L2
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.twinflow import AnyStep, Recursive, Twin
from workbench.distill.recipe import Recipe
from workbench.distill.several import Several
from workbench.samplers.sample import Sampling

ONE, JUMP = Sampling("consistency", 1), Sampling("flow_map", 1)

ROWS = (
    Recipe(
        "twinflow",
        paper="arXiv 2512.05150",
        summary="TwinFlow: one any-step network knows the data's velocity and that of its own samples, whose difference moves them; no critic.",
        objective=Pointwise(
            times=AnyStep(), target=Recursive(), metric=L2(), compare="velocity", two_times=True, average=0.99, extras=(Twin(),)
        ),
        sampling=JUMP,
        optim={"student": Optim(lr=3e-4)},
        points={"batch": 256, "dropout": 0.5, "source": "teacher", "gap": 0.05, "rectify": 0.1, "momentum": 0.0},
    ),
    Recipe(
        "mdt-dist",
        paper="arXiv 2509.04406",
        summary="Marginal-data transport: the average velocity to the data by a derivative identity, sharpened by the velocity that it implies.",
        objective=Pointwise(
            times=LogitNormal(), target=VelocityMatching(), metric=L2(), compare="velocity", extras=(VelocityDistillation(),)
        ),
        sampling=ONE,
        optim={"student": Optim(lr=2e-4)},
        # at full weight from the start, the velocity of a student that is no transport yet drives it away
        points={
            "batch": 256,
            "dropout": 0.5,
            "mean": 0.0,
            "std": 2.0,
            "extras": (VelocityDistillation(weight=0.1, begins=0.5),),
        },
    ),
    Recipe(
        "nitrofusion",
        paper="arXiv 2412.02030",
        summary="NitroFusion: an adversary alone, a pool of small heads on frozen features, of which some are made anew at every step.",
        objective=NitroFusion(),
        sampling=ONE,
        optim={"student": Optim(lr=1e-4, betas=(0.5, 0.9)), "discriminator": Optim(lr=3e-4, betas=(0.5, 0.9), decay=0.5)},
        points={"batch": 256, "count": 32768, "matched": 0.2},
    ),
    Recipe(
        "rcm",
        paper="arXiv 2510.08431",
        summary="Score-regularised consistency: the continuous tangent covers the modes, the score gap on the student's own chain sharpens them.",
        objective=ConsistencyMatching(),
        sampling=ONE,
        optim={"student": Optim(lr=1e-4, betas=(0.0, 0.999)), "critic": Optim(lr=3e-4, betas=(0.0, 0.999), decay=0.5)},
        points={"batch": 256, "dropout": 0.5, "lr": 1.5e-4, "mean": 0.0, "std": 2.0, "always": True, "turns": 4},
    ),
    Recipe(
        "msd",
        paper="arXiv 2410.23274",
        summary="Multi-student distillation: a student for each part of the classes, trained by another recipe; a label finds its student.",
        objective=Several(),
        sampling=ONE,
        optim={"student": Optim(lr=1e-4), "critic": Optim(lr=3e-4, decay=0.5)},
        matched=0.25,
    ),
)
