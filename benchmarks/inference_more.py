"""Claims of the inference-time methods that save rounds, pixels, elements or processes: `python benchmarks/inference_more.py`.

Every line compares both sides in this run, on exact teachers or the digits teacher, from fixed seeds. Parts: parallel,
bottleneck, cascade, regions, asynchronous, patches; `--only parallel,patches` picks. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import workbench as wb
from workbench.inference.asynchronous import asynchronous_run
from workbench.inference.bottleneck import bottleneck_parts, bottleneck_run
from workbench.inference.cascade import cascade_run, mismatch
from workbench.inference.parallel import parallel_run
from workbench.inference.patch_group import PatchGroup
from workbench.inference.patches import patch_run, seam
from workbench.inference.regions import region_run, straightness
from workbench.inference.resolution import final, identity_noise
from workbench.inference.tokens import PartialDiT
from workbench.metrics.distances import Moments, frechet_from_moments
from workbench.teachers.gaussian import gaussian_field, rotating_sequence

OUT = Path(__file__).resolve().parent / "results" / "inference_more.json"
SEED = 0


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers of the one seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED), dtype=dtype)


def rms(a: Tensor, b: Tensor) -> float:
    """Root mean square difference."""
    return float((a - b).square().mean().sqrt())


def w2(linear: Tensor, covariance: Tensor) -> float:
    """Exact W2 between N(0, J^T J), the law of a linear sampler that maps unit vectors to the rows of J, and N(0, C)."""
    rows, zero = linear.flatten(1), torch.zeros(len(covariance), dtype=torch.float64)
    return frechet_from_moments(Moments(zero, rows.T @ rows), Moments(zero, covariance)) ** 0.5


def parallel_lines() -> list[dict[str, Any]]:
    """Rounds against stages, and how far the samples are from those of `run`."""
    moons, digits = wb.load("moons"), wb.load("digits/teacher")
    cases = [
        ("moons", moons, normal(256, 2), None),
        ("digits", digits, normal(16, 1, 8, 8, dtype=torch.float32), torch.arange(16) % 10),
    ]
    settings = [
        ("euler", 128, {}, {}),
        ("euler", 128, {}, {"window": 16}),
        ("euler", 128, {}, {"window": 16, "slide": False}),
        ("euler", 128, {}, {"rule": "rows"}),
        ("euler", 128, {}, {"rule": "jacobi"}),
        ("ddim", 128, {"eta": 1.0}, {}),
        ("heun", 64, {}, {}),
        ("dpmpp_2m", 64, {}, {}),
        ("consistency", 32, {}, {}),
    ]
    lines = []
    for name, model, noise, cond in cases:
        for sampler, steps, options, how in settings:
            if name == "digits" and how.get("rule") == "jacobi":
                continue
            plan = wb.plan(sampler, model.path, steps, **options)
            whole, last = final(wb.run(plan, model, noise, cond)).x, final(parallel_run(plan, model, noise, cond, **how))
            lines.append(
                {
                    "what": f"{name}, {sampler} {steps} {options or ''} {how or ''}",
                    "n": len(noise),
                    "stages": len(plan.stages),
                    "rounds": last.i,
                    "nfe": last.nfe,
                    "rms": rms(last.x, whole),
                }
            )
    return lines


def bottleneck_lines() -> list[dict[str, Any]]:
    """Power kept in frequencies that the small picture lacks (above 4 cycles a side), and in those that it has."""
    field, n = gaussian_field(16), 2000
    models, noise, fine = {16: field, 8: field.down(8)}, normal(2000, 1, 16, 16), field.frequency > 4

    def kept(x: Tensor, which: Tensor) -> float:
        return float(field.power(x)[which].sum() / field.spectrum[which].sum())

    lines = []
    for sampler, steps in (("dpmpp_2m", (10, 40, 40)), ("dpmpp_2m", (4, 8, 8))):
        plan = wb.plan(sampler, field.path, 61 if steps[1] == 40 else 15)
        x = final(wb.run(plan, field, noise)).x
        lines.append(
            {"what": str(plan), "n": n, "cost": float(plan.evaluations), "fine": kept(x, fine), "coarse": kept(x, ~fine)}
        )
        for delta in (0.0, 1.0, 2.0, 3.0):
            parts = bottleneck_parts(field.path, (16, 8, 16), steps, (0.9, 0.1), delta, sampler)
            last = final(bottleneck_run(parts, models, noise))
            lines.append(
                {
                    "what": f"{sampler} {steps}, switches 0.9 and 0.1, delta {delta:g}",
                    "n": n,
                    "cost": last.cost,
                    "fine": kept(last.x, fine),
                    "coarse": kept(last.x, ~fine),
                }
            )
    return lines


def cascade_lines() -> list[dict[str, Any]]:
    """Exact W2 to the 16 x 16 field at equal compute in pixels: one resolution, and 8 -> 16 with half the cost each."""
    field = gaussian_field(16)
    small, large = field.down(8), field.given(8)
    noise = [identity_noise(small.shape, 320), identity_noise(field.shape, 320, 64)]
    lines = []
    for sampler in ("ddim", "dpmpp_2m"):
        for steps in (8, 16, 32):
            one = final(wb.run(wb.plan(sampler, field.path, steps), field, identity_noise(field.shape))).x
            plans = [wb.plan(sampler, field.path, count) for count in (2 * steps, steps // 2)]
            frames = list(cascade_run([small, large], plans, noise=noise))
            low = next(frame.x for frame in reversed(frames) if frame.part == 0)
            lines.append(
                {
                    "what": f"{sampler}, {steps} steps at 16 against {2 * steps} at 8 and {steps // 2} at 16",
                    "cost": frames[-1].cost,
                    "w2_one": w2(one, field.covariance),
                    "w2_cascade": w2(frames[-1].x, field.covariance),
                    "mismatch": mismatch(frames[-1].x, low),
                }
            )
    return lines


def edit_teacher(known: int = 6) -> Any:
    """Four modes in the first two coordinates, a point mass in the others."""
    centres = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    means = torch.cat([centres, torch.linspace(-0.8, 0.8, known).double().expand(4, -1)], 1)
    covariance = torch.diag(torch.cat([torch.full((2,), 0.04), torch.full((known,), 1e-16)]).double())
    return wb.mixture(means, covariance.expand(4, -1, -1))


def region_lines() -> list[dict[str, Any]]:
    """Evaluations in units of a full one, and the difference from a full run."""
    teacher, lines = edit_teacher(), []
    noise, plan = normal(512, 8), wb.plan("ddim", teacher.path, 32)
    reference = torch.cat([torch.full((2,), 3.0, dtype=torch.float64), teacher.means[0, 2:]])
    whole = final(wb.run(plan, teacher, noise)).x
    for how in ({}, {"refresh": 8}, {"cache": 0.04}, {"threshold": -1.0}):
        last = final(region_run(plan, teacher, noise, reference, **how))
        lines.append(
            {
                "what": f"mixture, 2 of 8 edited, {plan} {how or ''}",
                "n": 512,
                "full": 32,
                "elements": last.elements,
                "nfe": last.nfe,
            }
            | {"rms": rms(last.x, whole), "rms_unedited": rms(last.x[:, 2:], whole[:, 2:])}
        )
    straight = straightness(plan, teacher, noise)
    lines.append(
        {
            "what": "straightness, edited and unedited",
            "n": 512,
            "values": [float(straight[:2].max()), float(straight[2:].min())],
        }
    )
    digits, noise = wb.load("digits/teacher"), normal(64, 1, 8, 8, dtype=torch.float32)
    plan, before, after = wb.plan("euler", digits.path, 28), torch.arange(64) % 10, (torch.arange(64) + 1) % 10
    source, whole = (final(wb.run(plan, digits, noise, label)).x for label in (before, after))
    for threshold in (0.1, 0.3):
        last = final(region_run(plan, digits, noise, source, after, warmup=8, post=2, refresh=8, threshold=threshold))
        lines.append(
            {
                "what": f"digits, next class from the same noise, threshold {threshold}",
                "n": 64,
                "full": 28,
                "elements": last.elements,
            }
            | {"nfe": last.nfe, "rms": rms(last.x, whole), "rms_source": rms(source, whole)}
        )
    return [*lines, *_partial_lines()]


def _partial_lines() -> list[dict[str, Any]]:
    """A network that spares the work: CPU time over that of a full run, one picture at a time."""
    model, lines = wb.load("fashion/teacher"), []
    plan, before, after = wb.plan("euler", model.path, 28), torch.arange(8), torch.arange(8) + 1
    noise = normal(8, *model.shape, dtype=torch.float32)
    source = final(wb.run(plan, model, noise, before)).x
    for threshold in (0.1, 0.3):
        elements, apart, seconds = 0.0, [], [0.0, 0.0]
        for j in range(8):
            one, label, known = noise[j : j + 1], after[j : j + 1], source[j : j + 1]
            began = time.thread_time()
            whole = final(wb.run(plan, model, one, label)).x
            middle = time.thread_time()
            dit = PartialDiT(model)
            how = {"warmup": 6, "post": 2, "threshold": threshold, "patch": 4, "partial": dit.partial}
            last = final(region_run(plan, dit, one, known, label, **how))
            seconds = [seconds[0] + middle - began, seconds[1] + time.thread_time() - middle]
            elements, apart = elements + last.elements / 8, [*apart, (last.x - whole).square().mean()]
        found = {"elements": elements, "time_ratio": seconds[1] / seconds[0], "rms": float(torch.stack(apart).mean().sqrt())}
        lines.append({"what": f"fashion, PartialDiT, next class, threshold {threshold}", "n": 8, "full": 28, **found})
    return lines


def asynchronous_lines() -> list[dict[str, Any]]:
    """Exact W2 to the joint law of four frames, against the lag: at equal evaluations, and at equal steps of a frame."""
    sequence = rotating_sequence()
    noise, lines = identity_noise(sequence.shape), []
    for sampler in ("ddim", "dpmpp_2m"):
        for steps, lag in (
            (32, 0),
            (29, 1),
            (26, 2),
            (20, 4),
            (14, 6),
            (8, 8),
            (16, 0),
            (16, 1),
            (16, 2),
            (16, 4),
            (16, 8),
            (16, 16),
        ):
            last = final(asynchronous_run(wb.plan(sampler, sequence.path, steps), sequence, noise, lag))
            lines.append(
                {
                    "what": f"{sampler}, {steps} steps, lag {lag}",
                    "nfe": last.nfe,
                    "moved": last.moved,
                    "w2": w2(last.x, sequence.covariance),
                }
            )
    return lines


def patch_lines() -> list[dict[str, Any]]:
    """RMS difference from the whole network on digits in two bands, the seam, and what real processes send."""
    digits, noise, cond = wb.load("digits/teacher"), normal(64, 1, 8, 8, dtype=torch.float32), torch.arange(64) % 10
    lines = []
    for steps in (8, 16, 32, 64):
        plan = wb.plan("euler", digits.path, steps)
        whole = final(wb.run(plan, digits, noise, cond)).x
        for warmup, width in ((steps, None), (2, None), (2, 1), (2, 0)):
            x = final(patch_run(plan, digits, noise, cond, warmup=warmup, width=width)).x
            lines.append(
                {"what": f"{plan}, warm-up {warmup}, width {'all' if width is None else width}", "n": 64, "rms": rms(x, whole)}
                | {"seam": seam(x, [4]), "seam_whole": seam(whole, [4])}
            )
    plan = wb.plan("euler", digits.path, 32)
    with PatchGroup(digits, ranks=2) as group:
        for width in (None, 1):
            made, same = (
                group.sample(plan, noise, cond, 2, width),
                final(patch_run(plan, digits, noise, cond, warmup=2, width=width)).x,
            )
            lines.append(
                {"what": f"two processes (gloo), {plan}, warm-up 2, width {width or 'all'}", "n": 64, "rms": rms(made.x, same)}
                | {"numbers_sent": made.numbers}
            )
    return lines


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "parallel": parallel_lines,
    "bottleneck": bottleneck_lines,
    "cascade": cascade_lines,
    "regions": region_lines,
    "asynchronous": asynchronous_lines,
    "patches": patch_lines,
}


def main() -> None:
    """Print the parts asked for, and write them over what the results file held for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas (default: %(default)s)")
    args = parser.parse_args()
    chosen = args.only.split(",")
    for name in chosen:
        if name not in PARTS:
            parser.error(f"unknown part {name!r}; known: {', '.join(PARTS)}")
    results = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {"seed": SEED, "parts": {}}
    results["machine"] = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    torch.set_num_threads(1)
    for name in chosen:
        began, part = time.perf_counter(), PARTS[name]
        lines = part()
        print(f"\n{name}: {part.__doc__} ({time.perf_counter() - began:.1f} s)")
        for line in lines:
            rest = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in line.items() if key != "what"}
            print(f"  {line['what']:70} " + ", ".join(f"{key} {value}" for key, value in rest.items()), flush=True)
        results["parts"][name] = lines
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {OUT.relative_to(OUT.parent.parent.parent)}")


if __name__ == "__main__":
    main()
