"""What the workbench adds to the networks it runs: `make bench`, or `python benchmarks/overhead.py`.

Every ratio comes from one run of this file on one machine; both sides take turns, in either order, and the figure is the median
of their repeats, so that a busy moment hits both alike. For the network the ratio is the median of the rounds' ratios: what is
added is small, and the machine's pace changes more than that from one round to the next. Parts: sampler, network, import, app; `--only sampler,network` picks.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((1, 1, 28, 28), (64, 1, 28, 28), (4, 4, 64, 64))
STEPS = 50
IMPORTS = "import torch, diffusers, gradio"


@dataclass(frozen=True)
class Line:
    """One comparison: what was measured, ours and theirs (in `unit`), and the largest ratio that is allowed."""

    what: str
    ours: float
    theirs: float
    unit: str
    target: float
    remark: str = ""
    paired: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.paired is None else self.paired


def interleaved(
    calls: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each call, taken in turns after one round that does not count."""
    return {name: statistics.median(values) for name, values in rounds(calls, repeats, clock).items()}


def rounds(
    calls: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call in every round but the first; the order is turned round from one to the next."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(repeats + 1):
        for name in order:
            began = clock()
            calls[name]()
            taken[name].append(clock() - began)
        order.reverse()
    return {name: values[1:] for name, values in taken.items()}


def sampler_lines(repeats: int) -> list[Line]:
    """Microseconds a step around a model that costs nothing: it returns one stored x0 estimate to both sides."""
    import torch
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    import workbench as wb

    def schedulers(name: str):
        if name == "ddim":
            return DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
        return DPMSolverMultistepScheduler(prediction_type="sample", timestep_spacing="trailing")

    lines = []
    for shape in SHAPES:
        noise, estimate = torch.randn(2, *shape)
        for name, label in (("ddim", "DDIM"), ("dpmpp_2m", "DPM-Solver++(2M)")):
            scheduler = schedulers(name)
            scheduler.set_timesteps(STEPS)
            timesteps = list(scheduler.timesteps)

            def model(x, t, cond=None, estimate=estimate):
                return estimate

            model.path = wb.paths.from_scheduler(scheduler)
            plan = wb.plan(name, model.path, schedule=wb.schedules.from_scheduler(scheduler))

            def ours(plan=plan, model=model, noise=noise):
                for _ in wb.run(plan, model, noise):
                    pass

            @torch.no_grad()
            def theirs(scheduler=scheduler, timesteps=timesteps, noise=noise, estimate=estimate):
                scheduler.set_timesteps(STEPS)
                x = noise
                for t in timesteps:
                    x = scheduler.step(estimate, t, x).prev_sample

            assert _same(model, plan, scheduler, timesteps, noise, estimate), "the two sides must compute the same"

            @torch.no_grad()
            def only_set(scheduler=scheduler):
                scheduler.set_timesteps(STEPS)

            found = interleaved({"ours": ours, "theirs": theirs, "set": only_set}, repeats, time.thread_time)
            mine, other = 1e6 * found["ours"] / STEPS, 1e6 * (found["theirs"] - found["set"]) / STEPS
            lines.append(Line(f"{label}, {'x'.join(map(str, shape))}", mine, other, "us/step", 1 / 8))
    return lines


def _same(model, plan, scheduler, timesteps, noise, estimate) -> bool:
    import torch

    import workbench as wb

    scheduler.set_timesteps(STEPS)
    x = noise * float(model.path.sigma(plan.times[0]))
    for t in timesteps:
        x = scheduler.step(estimate, t, x).prev_sample
    *_, last = wb.run(plan, model, noise)
    return bool(torch.allclose(last.x, x, atol=1e-3, rtol=1e-3))


def network_lines(repeats: int) -> list[Line]:
    """A step of the Fashion teacher through the executor, against the bare network on the same inputs."""
    import torch

    import workbench as wb
    from workbench.networks.dit import DiT

    try:
        model, remark = wb.load("fashion/teacher"), ""
    except wb.WorkbenchError:
        model = wb.Network(DiT().eval().requires_grad_(False), "linear", "flow", (1, 28, 28), 10)
        remark = "random weights: the teacher is not bundled yet"
    lines, steps = [], 4
    plan = wb.plan("dpmpp_2m", model.path, steps)
    for n in (1, 16):
        noise, cond, time_ = torch.randn(n, 1, 28, 28), torch.zeros(n, dtype=torch.long), torch.full((n,), 0.5)

        @torch.no_grad()
        def bare(noise=noise, cond=cond, time_=time_):
            for _ in range(steps):
                model.net(noise, time_, cond)

        def ours(noise=noise, cond=cond):
            for _ in wb.run(plan, model, noise, cond):
                pass

        found = rounds({"ours": ours, "bare": bare}, 4 * repeats, time.thread_time)
        mine, other = (1000 * statistics.median(found[side]) / steps for side in ("ours", "bare"))
        ratio = statistics.median(a / b for a, b in zip(found["ours"], found["bare"], strict=True))
        what = f"DPM-Solver++(2M) with the Fashion teacher, batch {n}"
        lines.append(Line(what, mine, other, "ms/step", 1.05, remark, ratio))
    return lines


def import_lines(repeats: int) -> list[Line]:
    """`import workbench` in a fresh interpreter, against `import torch`."""
    found = interleaved({name: lambda name=name: _python(f"import {name}") for name in ("workbench", "torch")}, min(repeats, 5))
    return [Line("import workbench / import torch", found["workbench"], found["torch"], "s", 1.3)]


def app_lines(repeats: int) -> list[Line]:
    """From the command to the app's first page, against importing what it is built on."""
    found = interleaved({"ours": _first_page, "theirs": lambda: _python(IMPORTS)}, min(repeats, 3))
    return [Line(f"first page of the app / {IMPORTS}", found["ours"], found["theirs"], "s", 1.3)]


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _first_page(limit: float = 120.0) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "workbench", "app", "--port", str(port)]
    app = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.perf_counter()
    try:
        while time.perf_counter() - began < limit:
            if app.poll() is not None:
                raise SystemExit(f"the app ended with status {app.returncode} before it answered: try `workbench app --debug`.")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=limit) as page:
                    page.read()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.02)
        raise SystemExit(f"the app did not answer within {limit:.0f} s.")
    finally:
        app.terminate()
        app.wait()


PARTS: dict[str, tuple[str, Callable[[int], list[Line]]]] = {
    "sampler": ("executor / diffusers scheduler, around a model that costs nothing (CPU time)", sampler_lines),
    "network": ("executor and network / network alone (CPU time)", network_lines),
    "import": ("import, fresh interpreter (wall clock)", import_lines),
    "app": ("start of the app (wall clock)", app_lines),
}


def main() -> None:
    """Print every part; the exit status is 1 if a target is missed and --check was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="of every measurement (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, 1 thread, Python {platform.python_version()}, torch {torch.__version__}"
    )
    missed = 0
    for name in args.only.split(","):
        if name not in PARTS:
            parser.error(f"unknown part {name!r}; known: {', '.join(PARTS)}")
        title, part = PARTS[name]
        print(f"\n{title}, median of {args.repeats} at most\n{'':52} {'ours':>9} {'theirs':>9}           ratio  target")
        for line in part(args.repeats):
            verdict = "" if line.ratio <= line.target else "  MISSED"
            missed += bool(verdict)
            ratio, target = (f"1/{1 / value:.1f}" if line.target < 1 else f"{value:.3f}" for value in (line.ratio, line.target))
            remark = f"  ({line.remark})" if line.remark else ""
            print(
                f"{line.what:52} {line.ours:9.3f} {line.theirs:9.3f} {line.unit:8} {ratio:>7} {target:>7}{verdict}{remark}",
                flush=True,
            )
    if missed and args.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
