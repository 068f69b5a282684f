"""What the inference-time methods gain, measured: `python benchmarks/inference.py [--only negative search]`.

One function a method; each returns its claims, which are printed and written to benchmarks/results/inference.json with the
seconds that they took. `--only` replaces the claims of the methods named and keeps the others of that file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import workbench as wb
from workbench import inference, metrics, paths
from workbench.data import digits
from workbench.denoiser import Guided, Network
from workbench.networks import new_network
from workbench.samplers.sample import Sampling
from workbench.student import hardware

RESULTS = Path(__file__).parent / "results" / "inference.json"
Claim = dict[str, Any]
COLUMN = 2.5  # where the stroke's centre is to lie, in pixels from the left; real digits: about 3.5


def final(*arguments: Any, **options: Any) -> Tensor:
    *_, last = wb.run(*arguments, **options)
    return last.x


def view(x: Tensor) -> Tensor:
    return metrics.image_features("digits", x)


def real_digits() -> tuple[Tensor, Tensor]:
    """All 1797 images and labels, in an order of seed 0."""
    train, test = digits("train"), digits("test")
    images, labels = torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


def diversity() -> Iterator[Claim]:
    teacher = wb.load("eight_gaussians")
    collapsed = wb.mixture(teacher.means, teacher.spectrum[:, 0].sqrt(), weights=[0.93] + [0.01] * 7)
    collapsed.sampling = Sampling("ddim", 8)
    n = 512
    curve = inference.diversity_against_k(teacher, collapsed, teacher.sample(n, 1), teacher.sample(n, 2))
    yield _curve("collapsed student of eight_gaussians, ddim 8 steps", curve)
    images, _ = real_digits()
    n, models = 500, [wb.load("digits/teacher"), wb.load("digits/dmd2")]
    reference, other, labels = images[:n], images[n : 2 * n], torch.arange(n) % 10
    for finer in (None, 4):
        curve = inference.diversity_against_k(*models, reference, other, cond=labels, features=view, steps=4, finer=finer)
        yield _curve(f"digits/dmd2 after digits/teacher, 4 steps, finer {finer}, classifier features", curve)


def _curve(what: str, curve: inference.DiversityCurve) -> Claim:
    rows = [{key: round(value, 4) for key, value in point._asdict().items()} for point in curve.points]
    floor = {key: round(value, 4) for key, value in curve.floor._asdict().items()}
    return {"what": what, "n": curve.n, "seed": curve.seed, "points": rows, "floor": floor}


def one_more_step() -> Iterator[Claim]:
    path = paths.from_betas("scaled_linear", 1000, 0.00085, 0.012)
    mended = inference.zero_terminal_snr(path)
    classes, n = torch.arange(30) // 10, 3000
    level, cond = torch.linspace(-1, 1, 30, dtype=torch.float64), torch.arange(n) % 3
    for side in (8, 32):
        # isotropic modes along one line: only the coordinate along it moves otherwise than as one Gaussian, so it is run alone
        exact = wb.mixture(side * level[:, None], [0.05] * 30, path=path, labels=classes.tolist())
        truth, other = exact.sample(n, 1, cond), exact.sample(n, 2, cond)
        psi = inference.fit_terminal_mean(truth, cond, path)
        noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        plan = wb.plan("dpmpp_2m", path, 50, schedule="trailing")
        made = {
            "flawed": final(plan, exact, noise, cond),
            "one more step": final(inference.one_more_step(plan), [exact, psi], noise, cond),
            "zero SNR": final(wb.plan("dpmpp_2m", mended, 50, schedule="trailing"), exact.on(mended), noise, cond),
        }
        yield _brightness(f"exact teacher, constant {side}x{side} images", made, truth, other, cond, side)
    yield from _trained_brightness(path, mended)
    teacher, labels = wb.load("digits/teacher"), torch.arange(300) % 10
    noise = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = teacher.plan()
    runs = {
        "guidance 1": teacher,
        "guidance 5": Guided(teacher, 5.0),
        "guidance 5, phi 0.7": inference.RescaledGuidance(teacher, 5.0),
    }
    runs["guidance 5, phi 1"] = inference.RescaledGuidance(teacher, 5.0, phi=1.0)
    claim = {"what": "rescaled guidance, digits/teacher, dpmpp_2m 25 steps", "n": 300, "seed": 0}
    for name, model in runs.items():
        x = final(plan, model, noise, labels)
        outside = float((x.abs() > 1).double().mean())
        claim[name] = {"contrast": round(float(x.flatten(1).std(1).mean()), 3), "pixels outside [-1, 1]": round(outside, 3)}
    yield claim


def _brightness(what: str, made: dict[str, Tensor], truth: Tensor, other: Tensor, cond: Tensor, side: float) -> Claim:
    """Brightness (coordinate along the constant image over the side) by class, and its distance to exact draws."""
    claim: Claim = {"what": what, "n": len(truth), "seed": 0}
    for name, x in {"exact": truth, **made, "floor": other}.items():
        bright = x / side
        claim[name] = {
            "std": round(float(bright.std()), 3),
            "W2": round(metrics.sliced_wasserstein(bright, truth / side, projections=1), 4),  # one coordinate: exact
        }
        if name != "floor":
            claim[name]["mean by class"] = [round(float(bright[cond == c].mean()), 3) for c in range(3)]
    return claim


def _trained_brightness(path: paths.Path, mended: paths.Path) -> Iterator[Claim]:
    """A small network trained on the flawed table, and one on the mended table."""
    n, steps, dim = 3000, 1500, 64
    rng = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        bright = 2 * torch.rand(count, 1, generator=rng) - 1
        images = bright + 0.05 * torch.randn(count, dim, generator=rng)
        return images, ((bright.squeeze(1) + 1) * 1.5).long().clamp(0, 2)

    teachers = []
    for law in (path, mended):
        net = new_network((dim,), 3, "v", "vp")
        model = Network(net, law, "v", (dim,), 3)
        adam = torch.optim.Adam(net.parameters(), lr=1e-3)
        for step in range(steps):
            x0, labels = draw(256)
            t = (torch.randint(1000, (256,), generator=rng).double() + 1) / 1000
            eps = torch.randn(x0.shape, generator=rng)
            a, b = law.kind("v", t)
            target = paths.per_sample(a, x0) * x0 + paths.per_sample(b, x0) * eps
            loss = F.mse_loss(model.predict(law.mix(x0, eps, t), t, labels), target)
            adam.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
            adam.zero_grad()
            loss.backward()
            adam.step()
        net.eval().requires_grad_(False)
        teachers.append(model)
    (truth, cond), (other, _) = draw(n), draw(n)
    psi = inference.fit_terminal_mean(truth, cond, path)
    noise = torch.randn(n, dim, generator=rng)
    plan = wb.plan("dpmpp_2m", path, 50, schedule="trailing")
    made = {
        "flawed": final(plan, teachers[0], noise, cond),
        "one more step": final(inference.one_more_step(plan), [teachers[0], psi], noise, cond),
        "zero SNR": final(wb.plan("dpmpp_2m", mended, 50, schedule="trailing"), teachers[1], noise, cond),
    }
    line = {name: x.mean(1, keepdim=True) for name, x in made.items()}
    what = f"network trained for {steps} steps, constant 8x8 images"
    yield _brightness(what, line, truth.mean(1, keepdim=True), other.mean(1, keepdim=True), cond, 1)


def shallow() -> Iterator[Claim]:
    images, labels = real_digits()
    n = 800
    real, truth, asked = view(images[:n]), images[n : 2 * n], labels[n : 2 * n]
    teacher = wb.load("digits/teacher")
    blurred = F.interpolate(F.avg_pool2d(truth, 2), scale_factor=2, mode="bilinear")
    for kappa in (0.1, 1.0, 10.0):
        level = inference.shallow_level(teacher.path, truth, blurred, kappa)
        plan, x = inference.shallow_plan(teacher, level), inference.shallow_sample(teacher, blurred, level, asked, seed=7)
        yield {
            "what": f"digits from their 4x4 means, kappa {kappa:g}",
            "n": n,
            "seed": 7,
            "t": round(level, 3),
            "nfe": 2 * plan.evaluations,
            "frechet": round(metrics.frechet_distance(view(x), real), 2),
            "rms to truth": round(float((x - truth).square().mean().sqrt()), 3),
        }
    whole = wb.sample(teacher, n, asked, seed=7)
    yield {
        "what": "the same: full run, prediction, floor",
        "n": n,
        "seed": 7,
        "nfe": 50,
        "frechet": round(metrics.frechet_distance(view(whole), real), 2),
        "frechet of the prediction": round(metrics.frechet_distance(view(blurred), real), 2),
        "floor": round(metrics.frechet_distance(view(truth), real), 2),
        "rms to truth": round(float((whole - truth).square().mean().sqrt()), 3),
    }


def negative() -> Iterator[Claim]:
    n = 500
    features, labels = metrics.reference("digits")
    for name in ("digits/consistency", "digits/dmd2", "digits/reflow"):
        student = wb.load(name)
        cost = inference.relative_cost(student, inference.negative_guidance(student, 0))
        runs: dict[str, Callable[[int], tuple[Any, int | None]]] = {"none": lambda b, s=student: (s, None)}
        for form, scales in (("extrapolate", (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)), ("subtract", (0.25, 0.5, 1.0))):
            for scale in scales:
                runs[f"{form} {scale:g}"] = lambda b, s=student, v=scale, f=form: (
                    inference.negative_guidance(s, b, v, f),
                    None,
                )
        for scale in (0.5, 1.0, 2.0):  # outputs: null + scale (null - negated)
            runs[f"between outputs {scale:g}"] = lambda b, s=student, v=scale: (Guided(s, -v), b)
        claim = {
            "what": f"{name}, no class asked for, mean over the 10 negated classes",
            "n": n,
            "seed": 0,
            "flops ratio": round(cost, 3),
        }
        before = None
        for run, make in runs.items():
            shares, moved, precision, nfe = [], [], [], 0
            for b in range(10):
                model, cond = make(b)
                noise = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
                *_, last = wb.run(student.plan(), model, noise, None if cond is None else torch.full((n,), cond))
                law = torch.bincount(metrics.image_logits("digits", last.x).argmax(1), minlength=10).double() / n
                before = law if before is None else before
                shares.append(float(law[b]))
                moved.append(float((_without(law, b) - _without(before, b)).abs().sum() / 2))
                precision.append(metrics.precision_recall(view(last.x), features[labels != b]).precision)
                nfe = last.nfe
            means = (round(sum(values) / 10, 3) for values in (shares, moved, precision))
            claim[run] = {"nfe": nfe, **dict(zip(("share", "others moved", "precision"), means, strict=True))}
        yield claim


def _without(law: Tensor, negated: int) -> Tensor:
    """Shares of the other classes among themselves."""
    kept = law[torch.arange(len(law)) != negated]
    return kept / kept.sum()


def centre(x: Tensor) -> Tensor:
    ink = (x + 1).clamp_min(0)
    return (ink * torch.arange(8.0)).sum((1, 2, 3)) / ink.sum((1, 2, 3)).clamp_min(1e-3)


def optimise() -> Iterator[Claim]:
    teacher, n = wb.load("digits/teacher"), 100
    cond = torch.arange(n) % 10

    def reward(x: Tensor, _: Any) -> Tensor:
        return -(centre(x) - COLUMN).square()

    before = wb.sample(teacher, n, cond)
    for name in ("digits/consistency", "digits/reflow", "digits/dmd2"):
        for keep in ("sphere", "free"):
            made = inference.optimise_samples(wb.load(name), teacher, reward, n, cond, iterations=30, keep=keep)
            yield {
                "what": f"stroke centre to column {COLUMN} through {name}, decoded by digits/teacher, {keep}",
                "n": n,
                "seed": 0,
                "nfe": made.nfe,
                "reward before": round(float(reward(before, cond).mean()), 3),
                "reward of the student": round(float(made.found.reward.mean()), 3),
                "reward decoded": round(float(made.reward.mean()), 3),
                "centre before": round(float(centre(before).mean()), 2),
                "centre decoded": round(float(centre(made.x).mean()), 2),
                "agreement decoded": metrics.class_agreement(metrics.image_logits("digits", made.x), cond),
                "noise norm": round(float(made.found.noise.flatten(1).norm(dim=1).mean()), 2),
            }


def search() -> Iterator[Claim]:
    law = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5])
    goal = torch.tensor([1.2, 0.3], dtype=torch.float64)
    plan = {"sampler": "ddim", "steps": 20}
    yield _search("2-D mixture, distance to a point", law, lambda x, _: -(x - goal).square().sum(1), 400, None, plan)
    teacher, groups = wb.load("digits/teacher"), 50

    def ink(x: Tensor, _: Any) -> Tensor:
        return (x + 1).mean((1, 2, 3)) / 2

    def log_probability(x: Tensor, cond: Tensor) -> Tensor:
        logs = metrics.image_logits("digits", x).log_softmax(1)
        return logs.gather(1, cond[:, None]).squeeze(1)

    for name, reward in (("ink", ink), ("log probability of the class", log_probability)):
        yield _search(f"digits/teacher, {name}", teacher, reward, groups, torch.arange(groups) % 10, {"steps": 20})


def _search(what: str, model: Any, reward: Callable, groups: int, cond: Tensor | None, sampling: dict) -> Claim:
    """Pruned search of 20 seeds against best-of-m at its cost: the mean of the best of m among the same 20, over all choices."""
    n = 20
    each = None if cond is None else cond.repeat_interleave(n)
    x = wb.sample(model, n * groups, each, batch=n * groups, **sampling)
    ranked = reward(x, each).view(groups, n).sort(1).values
    claim = {"what": what, "n": n, "groups": groups, "seed": 0, "best of 20": round(float(ranked[:, -1].mean()), 4)}
    for prune in ({2: 0.4, 6: 0.4, 11: 0.5}, {6: 0.5, 12: 0.5}):
        found = inference.noise_search(model, reward, n, groups, prune, cond, **sampling)
        whole = found.evaluations / inference.search_evaluations(_plan(model, sampling), n, prune) * 20  # of one seed
        m = int(found.evaluations // whole)
        weights = torch.tensor([math.comb(j, m - 1) / math.comb(n, m) for j in range(n)], dtype=torch.float64)
        gain = found.reward - ranked.double() @ weights
        claim[json.dumps(prune)] = {
            "evaluations": found.evaluations,
            "search": round(float(found.reward.mean()), 4),
            f"best of {m}": round(float((ranked.double() @ weights).mean()), 4),
            "gain": round(float(gain.mean()), 4),
            "standard error": round(float(gain.std() / math.sqrt(groups)), 4),
            "best seed kept": round(float((found.reward >= ranked[:, -1] - 1e-4).double().mean()), 3),
        }
    return claim


def _plan(model: Any, sampling: dict) -> Any:
    return getattr(model, "sampling", Sampling()).plan(model.path, **sampling)


METHODS = {f.__name__: f for f in (diversity, one_more_step, shallow, negative, optimise, search)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    chosen = parser.parse_args().only
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    stored |= {"torch": torch.__version__.split("+")[0], "hardware": hardware()}
    for name in chosen:
        began, claims = time.perf_counter(), []
        for claim in METHODS[name]():
            claims.append(claim)
            print(f"{name}: {claim['what']} (n = {claim['n']}, seed {claim['seed']})", flush=True)
            for key, value in claim.items():
                if key not in ("what", "n", "seed"):
                    for line in value if isinstance(value, list) else [value]:
                        print(f"    {key}: {line}", flush=True)
        stored[name] = {"seconds": round(time.perf_counter() - began, 1), "claims": claims}
        print(f"    {stored[name]['seconds']} s", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
