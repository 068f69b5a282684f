"""One cell of a claim: train an arm with one seed in this process, and measure its student.

`python -m workbench.bench.claim_cell REQUEST` reads the JSON file REQUEST and writes its row beside it. Figures are named
figure@evaluations, with /sampler where that is not the recipe's own:

    ratio       sliced Wasserstein distance to the law over its floor, 1 is the best there is
    off_mode    share of samples at no mode; balance, exp(entropy of the shares of modes) over their number
    vendi       Vendi score of 512 samples over that of 512 exact ones, kernel width a quarter of their median distance
    recall      share of the law's support that samples reach; precision, share of samples in it
    paired      RMS distance to the exact flow map from the same noise, for plans without noise of their own
    agreement   share of conditional samples at their own class
    frechet     (images) Frechet distance of classifier features, over its floor between two real sets; forget: agreement of class 0
    nfe         evaluations of the network for a sample

and of training: steps, step_ms (processor time a step), peak_mb, parameters (of the student), trained_share, state_mb (of the
checkpoint: every network, average and optimiser), loss_first and loss_last (means of the first and last tenth of the run), area (mean log ratio along the run),
swing (mean absolute change of the ratio between marks of the second half, over its mean).
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench import metrics, zoo
from workbench.bench import cell
from workbench.bench.claims import Arm, arm_at
from workbench.compare import fine_solution
from workbench.distill.checkpoint import CHECKPOINT
from workbench.distill.distill import distill
from workbench.errors import WorkbenchError, unknown
from workbench.files import read_json, write_json
from workbench.samplers.plan import Plan
from workbench.samplers.run import run as run_plan
from workbench.samplers.sample import default_sampling, noise_for, prepare
from workbench.teachers.mixture import ANALYTIC, Mixture, eight_gaussians

MARKS = 12  # measurements along a run
DIVERSE = 512
IMAGES = 898  # as many as the digits' test half


def grid25() -> Mixture:
    """Twenty-five modes on a grid of spacing 0.5, standard deviation 0.05; the toy of mode-coverage studies."""
    places = torch.linspace(-1, 1, 5, dtype=torch.float64)
    return Mixture(torch.cartesian_prod(places, places), [0.05] * 25, name="grid25")


def turned() -> Mixture:
    """Eight Gaussians turned by half the angle between them: data that do not match their teacher."""
    plain, angle = eight_gaussians(), torch.tensor(math.pi / 8, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return Mixture(plain.means @ turn.T, [0.1] * 8, labels=range(8), name="turned")


def blurred() -> Mixture:
    """Eight Gaussians of standard deviation 0.16 on a circle of radius 0.9: a teacher that has not learned its data well."""
    return Mixture(0.9 * eight_gaussians().means, [0.16] * 8, labels=range(8), name="blurred")


SPACES = {"grid25": grid25, "turned": turned, "blurred": blurred}


def space(name: str) -> Any:
    """A teacher by the name of its space, or of its model.

    Raises:
        UnknownName: for a name that no space has.
    """
    if name in SPACES:
        return SPACES[name]()
    if name in ANALYTIC or "/" in name:
        return zoo.load(name)
    raise unknown("space", name, {*SPACES, *ANALYTIC})


class Points:
    """Figures of samples against an exact law."""

    def __init__(self, law: Mixture, teacher: Any, labelled: bool = False):
        self.law, self.teacher, self.draws = cell.Law(law), teacher, cell.DRAWS
        self.cond = torch.arange(cell.N) % law.classes if labelled else None
        exact = self.law.exact[0]
        self.width = metrics.median_distance(exact) / 4
        self.vendi = metrics.vendi_score(exact[:DIVERSE], self.width)
        noise = torch.randn(cell.N, *teacher.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.noise = metrics.sliced_wasserstein(noise, exact) / self.law.floor

    def ratio(self, drawn: list[Tensor]) -> float:
        """Mean distance of draws to the law over the floor."""
        return sum(self.law.distances(drawn)) / len(drawn) / self.law.floor

    def quick(self, model: Any, plan: Plan, guidance: float | None) -> float:
        """The distance during training."""
        return self.ratio([sampled(model, cell.N, plan, k, self.cond, guidance) for k in range(cell.EARLY)])

    def figures(self, model: Any, plan: Plan, guidance: float | None) -> dict[str, float | None]:
        """Everything, of a finished student."""
        drawn = [sampled(model, cell.N, plan, k, self.cond, guidance) for k in range(self.draws)]
        exact, means = self.law.exact, self.law.teacher.means
        together = torch.cat(drawn).double()
        hit, off = self.law.modes(together)
        nearest = torch.cdist(together, means).argmin(1)
        shares = torch.bincount(nearest, minlength=len(means)).double() / len(nearest)
        support = metrics.precision_recall(drawn[0], exact[0])
        found = {
            "ratio": self.ratio(drawn), "off_mode": off, "modes": hit,
            "balance": float(torch.special.entr(shares).sum().exp()) / len(means),
            "vendi": metrics.vendi_score(drawn[0][:DIVERSE], self.width) / self.vendi,
            "recall": support.recall, "precision": support.precision, "paired": self.paired(model, plan, guidance),
        }  # fmt: skip
        if self.law.teacher.labels is not None:
            cond = torch.arange(cell.N) % self.law.teacher.classes
            labelled = sampled(model, cell.N, plan, 0, cond, guidance).double()
            mine = self.law.teacher.labels[torch.cdist(labelled, means).argmin(1)]
            found["agreement"] = float((mine == cond).double().mean())
        return found

    def paired(self, model: Any, plan: Plan, guidance: float | None) -> float | None:
        """RMS distance to the exact flow map, or None where the plan adds noise or the teacher is guided."""
        if any(stage.x.noise for stage in plan.stages) or guidance not in (None, 1.0) or self.cond is not None:
            return None
        noise = noise_for(model, cell.PAIRED, cell.FIRST)
        exact = fine_solution(self.teacher, cell.PAIRED, noise=noise, steps=128)
        return metrics.trajectory_error(sampled(model, cell.PAIRED, plan, 0, None, guidance), exact)


class Images:
    """Figures of images against the space's real ones."""

    def __init__(self, teacher: Any, guidance: float | None):
        self.teacher, self.name, self.guidance = teacher, teacher.name.split("/")[0], guidance
        self.held: dict[int, Tensor] = {}
        features, _ = metrics.reference(self.name)
        self.n = min(IMAGES, len(features) // 2)
        self.real, self.cond = features[: self.n], torch.arange(self.n) % teacher.classes
        self.floor = metrics.frechet_distance(features[self.n : 2 * self.n], self.real)
        noise = torch.randn(self.n, *teacher.shape, generator=torch.Generator().manual_seed(0))
        self.noise = metrics.frechet_distance(metrics.image_features(self.name, noise), self.real) / self.floor

    def quick(self, model: Any, plan: Plan, guidance: float | None) -> float:
        """The distance during training."""
        drawn = sampled(model, self.n, plan, 0, self.cond, guidance)
        return metrics.frechet_distance(metrics.image_features(self.name, drawn), self.real) / self.floor

    def figures(self, model: Any, plan: Plan, guidance: float | None, seed: int = 0) -> dict[str, float | None]:
        """Everything, of a finished student."""
        drawn = sampled(model, self.n, plan, seed, self.cond, guidance)
        found, logits = metrics.image_features(self.name, drawn), metrics.image_logits(self.name, drawn)
        support, first = metrics.precision_recall(found, self.real), self.cond == 0
        frechet = metrics.frechet_distance(found, self.real)
        answers = self.answers(seed)
        return {
            "ratio": frechet / self.floor, "frechet": frechet, "recall": support.recall, "precision": support.precision,
            "agreement": metrics.class_agreement(logits, self.cond), "vendi": metrics.vendi_score(found[:DIVERSE]),
            "forget": metrics.class_agreement(logits[first], self.cond[first]),
            "kept": metrics.class_agreement(logits[~first], self.cond[~first]),
            "paired": float((drawn - answers).square().mean().sqrt()),
        }  # fmt: skip

    def answers(self, seed: int) -> Tensor:
        """The teacher's own samples from the same noise by its own plan, guided as the arm is."""
        if seed not in self.held:
            plan = default_sampling(self.teacher).plan(self.teacher.path)
            self.held[seed] = sampled(self.teacher, self.n, plan, seed, self.cond, self.guidance)
        return self.held[seed]


def draws(law: Mixture, seed: int) -> Any:
    """Exact draws to train on, with their classes where there are any."""
    if law.labels is not None:
        return cell.data_of(law, seed)
    return law.sample(50 * cell.N, seed=cell.DATA + seed).float()


def sampled(model: Any, n: int, plan: Plan, k: int, cond: Tensor | None, guidance: float | None) -> Tensor:
    """n samples by a plan from the k-th noise."""
    noise = noise_for(model, n, cell.FIRST + k)
    for frame in run_plan(plan, prepare(model, guidance), noise, cond, cell.FIRST + k):
        last = frame
    if not bool(torch.isfinite(last.x).all()):
        raise WorkbenchError(f"the student's samples in {plan.evaluations} evaluations are not finite.")
    return last.x


def cost(model: Any, plan: Plan, guidance: float | None) -> float:
    """Evaluations of the network for a sample, guidance counted."""
    cond = torch.zeros(1, dtype=torch.long) if getattr(model, "classes", 0) else None
    for frame in run_plan(plan, prepare(model, guidance), noise_for(model, 1, 0), cond, 0):
        last = frame
    return float(last.nfe)


def plans_of(arm: Arm, model: Any) -> dict[str, Plan]:
    """Suffix of the figures -> plan: the student's own sampler, and the arm's further ones, at each number of evaluations."""
    sampling, found = default_sampling(model), {}
    for count in arm.counts:
        own = cell.plan_of(sampling, model.path, count)
        if own is None:
            raise WorkbenchError(f"the sampler {sampling.sampler} has no plan of {count} evaluations.")
        found[f"@{count}"] = own
        for name in arm.samplers:
            steps = next(n for n in range(count, 0, -1) if sampling.plan(model.path, n, sampler=name).evaluations <= count)
            found[f"@{count}/{name}"] = sampling.plan(model.path, steps, sampler=name)
    return found


def run(arm: Arm, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Train and measure an arm for `seconds` times its share; checkpoints go to `folder`.

    Raises:
        WorkbenchError: whatever training or measuring finds wrong.
    """
    teacher = space(arm.teacher)
    law = space(arm.law) if arm.law else teacher
    judge = Points(law, teacher, arm.labelled) if isinstance(law, Mixture) else Images(teacher, arm.guidance)
    if not arm.recipe:
        figures = measured(arm, teacher, judge)
        return {"figures": figures, "noise": round(judge.noise, 4), "sensible": True}
    trained_on = space(arm.data) if arm.data else law
    data = draws(trained_on, seed) if isinstance(trained_on, Mixture) else None
    more = {"init": zoo.load(arm.init)} if arm.init else {}
    if arm.network:
        more["network"] = arm.network
    memory, curve, losses, marks = cell.Memory(), [], [], [(k + 1) / MARKS for k in range(MARKS)]
    training = distill(
        teacher, arm.recipe, data, folder, seconds=seconds, steps=arm.steps, seed=seed, device="cpu", clock=time.process_time, **more, **arm.options
    )  # fmt: skip
    preparing, began = 0.0, time.process_time()
    for progress in training:
        if progress.stage not in ("train", "done"):
            preparing = time.process_time() - began
            continue
        if progress.stage == "train" and "student" in progress.losses:
            losses.append(progress.losses["student"])
        done = max(progress.seconds / seconds, progress.step / arm.steps if arm.steps else 0.0)
        if progress.stage == "train" and marks and done >= marks[0]:
            marks = [mark for mark in marks if mark > done]
            memory.before()
            model = progress.samples.args[0]
            curve.append(
                [
                    round(progress.seconds, 2),
                    progress.step,
                    round(judge.quick(model, next(iter(plans_of(arm, model).values())), arm.guidance), 4),
                ]
            )
            memory.after()
    student = progress.student
    ratios = [point[2] for point in curve]
    figures = measured(arm, student, judge) | {
        "steps": progress.step, "step_ms": 1000 * progress.seconds / progress.step, "peak_mb": memory.peak, "parameters": sum(p.numel() for p in student.net.parameters()), "state_mb": state(folder),
        "trained_share": student.card.get("trained_share", 1.0), "loss_first": _mean(losses[: max(1, len(losses) // 10)]),
        "loss_last": _mean(losses[-max(1, len(losses) // 10) :]), "preparing": preparing,
        "area": _mean([math.log(ratio) for ratio in ratios]), "swing": swing(ratios),
    }  # fmt: skip
    nearest = min(value for name, value in figures.items() if name.startswith("ratio@"))
    return {
        "figures": {name: None if value is None else float(f"{value:.6g}") for name, value in figures.items()},
        "noise": round(judge.noise, 4),
        "sensible": nearest < judge.noise,
        "curve": curve,
    }


def measured(arm: Arm, model: Any, judge: Points | Images) -> dict[str, float | None]:
    """Figures of a model by every plan of the arm."""
    found: dict[str, float | None] = {}
    for suffix, plan in plans_of(arm, model).items():
        figures = judge.figures(model, plan, arm.guidance) | {"nfe": cost(model, plan, arm.guidance)}
        found |= {name + suffix: value for name, value in figures.items()}
    return found


def state(folder: Path) -> float:
    """Megabytes of the checkpoints in a run's folder."""
    return sum(file.stat().st_size for file in folder.rglob(CHECKPOINT)) / 1e6


def swing(ratios: list[float]) -> float | None:
    """Mean absolute change between neighbours of the second half, over its mean; None of fewer than two.

    >>> swing([9.0, 9.0, 2.0, 1.0, 2.0]), swing([1.0])
    (0.6, None)
    """
    late = ratios[len(ratios) // 2 :]
    if len(late) < 2:
        return None
    return _mean([abs(a - b) for a, b in itertools.pairwise(late)]) / _mean(late)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def main(file: str) -> None:
    """Answer one request; what goes wrong is a sentence in the row."""
    torch.set_num_threads(1)
    asked = read_json(Path(file))
    head = asked["head"]
    with tempfile.TemporaryDirectory(dir=Path(file).parent) as folder:
        try:
            row = run(arm_at(asked["claim"]), head["seconds"], head["seed"], Path(folder))
        except WorkbenchError as error:
            row = {"failed": str(error)}
        except Exception as error:
            traceback.print_exc()
            row = {"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"}
    write_json(Path(asked["out"]), {**head, **row})


if __name__ == "__main__":
    main(sys.argv[1])
