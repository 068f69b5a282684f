"""Error against evaluations of every solver on every schedule.

For the deterministic ones the figure is the RMS distance per coordinate to where the teacher's own flow takes the same noise (`fine`),
divided by the RMS of that solution. It is about the solver alone: no data, no features. The floor is the same distance of the
fine solution at half its steps. Schedules that are computed from the teacher (`tuned`) are measured alike, in a file of their own.

A solver that adds noise follows no flow, so it is judged by its law: the sliced 2-Wasserstein distance to the fine solution from
other noise, over the RMS of that; the floor is that of the fine solution itself, from the solver's own noise.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench import samplers, schedules, zoo
from workbench.compare import fine_solution
from workbench.errors import WorkbenchError, unknown
from workbench.files import write_atomically
from workbench.metrics import sliced_wasserstein, trajectory_error
from workbench.samplers.plan import Plan
from workbench.samplers.run import run
from workbench.samplers.sample import default_sampling, labels, noise_for, prepare
from workbench.samplers.tuned import TUNED, tuned

STORED = Path(__file__).with_name("solvers.json")
STORED_TUNED, STORED_LAW = STORED.with_name("solvers_tuned.json"), STORED.with_name("solvers_law.json")
SPACES = {  # teacher, samples, largest number of evaluations, steps of the fine solution
    "eight_gaussians": (512, 64, 512),
    "mixture64": (256, 64, 512),
    "digits/teacher": (16, 16, 128),
    "fashion/teacher": (8, 12, 96),
}
LAW = {"eight_gaussians": 1024, "mixture64": 512, "digits/teacher": 64, "fashion/teacher": 32}  # samples judged by their law
COUNTS = (4, 5, 6, 8, 10, 12, 16, 24, 32, 64)
STOCHASTIC = ("ddpm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "restart", "consistency", "lcm", "flow_map")


class Entry(NamedTuple):
    """One run: `error` is relative to the solution's own size; `nfe` counts evaluations of the model, guided ones as one."""

    teacher: str
    sampler: str
    schedule: str
    steps: int
    nfe: int
    error: float


def solvers() -> list[str]:
    """The samplers that follow the teacher's own flow: deterministic ones."""
    return [name for name in samplers.SAMPLERS if name not in STOCHASTIC]


def plan_with(sampler: str, path: Any, nfe: int, schedule: Any) -> Plan | None:
    """The longest plan of at most `nfe` evaluations (Heun has odd numbers only); None where the sampler has none so short."""
    steps = nfe
    while steps:
        try:
            made = samplers.plan(sampler, path, steps, schedule)
        except WorkbenchError:
            return None
        if made.evaluations <= nfe:
            return made
        steps -= max(1, (made.evaluations - nfe) // 3)
    return None


def plan_on(sampler: str, model: Any, nfe: int, schedule: str) -> Plan | None:
    """`plan_with`, on a schedule by name or computed from the model (for the sampler that `tuned` takes, not for each)."""
    plan = plan_with(sampler, model.path, nfe, "uniform" if schedule in TUNED else schedule)
    if plan is None or schedule not in TUNED:
        return plan
    try:
        made = samplers.plan(sampler, model.path, schedule=tuned(schedule, model, plan.steps))
    except WorkbenchError:  # such as two times in one place
        return None
    return made if made.evaluations == plan.evaluations else None


def measure(
    teachers: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    schedule_names: Sequence[str] | None = None,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> Iterator[Entry | dict[str, Any]]:
    """Run everything, yielding an entry for each run and, after the entries of a teacher, what they are worth (its floor, n, machine).

    Args:
        teachers: names; by default a 2-D and a 64-D mixture, and the digits and fashion teachers.
        names: of samplers; all deterministic ones by default. schedule_names: all that need no teacher by default; `TUNED` as well.
        counts: evaluations of the model.

    Raises:
        UnknownName: for a name that is not known.
    """
    chosen = names or solvers()
    for teacher, model, noise, cond, most, fine_steps in _teachers(chosen, teachers, SPACES, seed):
        guided = prepare(model)
        exact = fine_solution(model, len(noise), cond, seed, noise=noise, steps=fine_steps)
        size = float(exact.double().square().mean().sqrt())
        coarse = fine_solution(model, len(noise), cond, seed, noise=noise, steps=fine_steps // 2)
        for plan, entry in _plans(teacher, model, chosen, schedule_names, counts, most):
            yield entry._replace(error=trajectory_error(_end(plan, guided, noise, cond, seed), exact) / size)
        yield _note(teacher, model, len(noise), seed, fine_steps, trajectory_error(coarse, exact) / size)


def measure_law(
    teachers: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    schedule_names: Sequence[str] | None = None,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> Iterator[Entry | dict[str, Any]]:
    """As `measure`, for the solvers that add noise, by the distance of laws."""
    chosen = names or [name for name in STOCHASTIC if name != "flow_map"]  # which is ddim without a flow map
    for teacher, model, noise, cond, most, fine_steps in _teachers(chosen, teachers, LAW, seed):
        guided, other = prepare(model), noise_for(model, len(noise), seed + 1)
        law = fine_solution(model, len(noise), cond, seed, noise=other, steps=fine_steps).double().flatten(1)
        own = fine_solution(model, len(noise), cond, seed, noise=noise, steps=fine_steps).double().flatten(1)
        size = float(law.square().mean().sqrt())
        for plan, entry in _plans(teacher, model, chosen, schedule_names, counts, most):
            x = _end(plan, guided, noise, cond, seed).double().flatten(1)
            yield entry._replace(error=sliced_wasserstein(x, law) / size)
        yield _note(teacher, model, len(noise), seed, fine_steps, sliced_wasserstein(own, law) / size)


def _teachers(names: Sequence[str], teachers: Sequence[str] | None, sizes: dict, seed: int) -> Iterator[tuple]:
    for name in names:
        if name not in samplers.SAMPLERS:
            raise unknown("sampler", name, samplers.SAMPLERS)
    for teacher in teachers or SPACES:
        n, most, fine_steps = SPACES.get(teacher, (64, 32, 128))
        n = sizes[teacher] if isinstance(sizes.get(teacher), int) else n
        model = zoo.load(teacher)
        drawn = getattr(model, "classes", 0) and not hasattr(
            model, "log_density"
        )  # a class of a mixture is one Gaussian: too easy
        cond = labels(model, torch.arange(n) % model.classes, n) if drawn else None
        yield teacher, model, noise_for(model, n, seed), cond, most, fine_steps


def _plans(
    teacher: str,
    model: Any,
    names: Sequence[str],
    schedule_names: Sequence[str] | None,
    counts: Sequence[int] | None,
    most: int,
) -> Iterator[tuple[Plan, Entry]]:
    for sampler in names:
        for schedule in schedule_names or schedules.NAMES:
            seen = set()
            for nfe in counts or COUNTS:
                plan = plan_on(sampler, model, nfe, schedule) if nfe <= most else None
                if plan is not None and plan.evaluations not in seen:
                    seen.add(plan.evaluations)
                    yield plan, Entry(teacher, sampler, schedule, plan.steps, plan.evaluations, math.nan)


def _note(teacher: str, model: Any, n: int, seed: int, fine_steps: int, floor: float) -> dict[str, Any]:
    return {
        "teacher": teacher,
        "n": n,
        "seed": seed,
        "guidance": default_sampling(model).guidance,
        "path": model.path.name,
        "fine_steps": fine_steps,
        "floor": floor,
        "machine": f"{platform.machine()}, torch {torch.__version__.split('+')[0]}",
    }


def _end(plan: Plan, model: Any, noise: Tensor, cond: Any, seed: int) -> Tensor:
    for frame in run(plan, model, noise, cond, seed):
        last = frame
    return last.x


def store(found: Sequence[Entry], notes: Sequence[dict[str, Any]], place: Path = STORED) -> None:
    """Write the entries, three digits each, and their notes."""
    rows = [
        [e.teacher, e.sampler, e.schedule, e.steps, e.nfe, float(f"{e.error:.3g}")] for e in found if math.isfinite(e.error)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = f'{{"fields": {json.dumps(Entry._fields)},\n"notes": {json.dumps(list(notes), indent=1)},\n"rows": [\n'
    write_atomically(place, lambda file: file.write_text(f"{head}{lines}\n]}}\n", encoding="utf-8"))


def load(place: Path = STORED) -> tuple[list[Entry], list[dict[str, Any]]]:
    """Entries and notes of a stored run.

    Raises:
        WorkbenchError: if there is none, or it cannot be read.
    """
    try:
        content = json.loads(Path(place).read_text(encoding="utf-8"))
        return [Entry(*row) for row in content["rows"]], content["notes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(f"{place} holds no stored benchmark: run python benchmarks/solvers.py.") from error


def stored() -> list[Entry]:
    """The entries that come with the package.

    >>> {entry.teacher for entry in stored()} >= {"eight_gaussians", "digits/teacher"}
    True
    """
    return load()[0]


def within(entries: Sequence[Entry], teacher: str, nfe: int) -> list[Entry]:
    """Of each solver and schedule the entry with most evaluations up to `nfe`, if those are more than half of it.

    >>> [(e.sampler, e.nfe) for e in within(stored(), "eight_gaussians", 8) if e.schedule == "karras"][:2]
    [('euler', 8), ('heun', 7)]
    """
    found: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.nfe):
        if entry.teacher == teacher and nfe / 2 < entry.nfe <= nfe:
            found[entry.sampler, entry.schedule] = entry
    return list(found.values())


def best(entries: Sequence[Entry], teacher: str, nfe: int, count: int = 5) -> list[Entry]:
    """The smallest errors of a teacher `within` a number of evaluations, one per sampler.

    >>> [e.nfe for e in best(stored(), "eight_gaussians", 8, 2)]
    [8, 8]
    """
    found: dict[str, Entry] = {}
    for entry in sorted(within(entries, teacher, nfe), key=lambda entry: entry.error):
        found.setdefault(entry.sampler, entry)
    return list(found.values())[:count]


def text(entries: Sequence[Entry], notes: Sequence[dict[str, Any]], nfe: int, count: int = 5) -> str:
    """A table for a terminal: the best pairs of every teacher at a number of evaluations, tuned times and solvers with noise after them."""
    lines = []
    more = [(place, *load(place)) for place in (STORED_TUNED, STORED_LAW) if place.exists()]
    for note in notes:
        teacher = note["teacher"]
        known = sorted({e.nfe for e in entries if e.teacher == teacher} & set(COUNTS))
        if nfe not in known:
            raise WorkbenchError(f"{teacher} was measured at {', '.join(map(str, known))} evaluations, not at {nfe}.")
        lines.append(
            f"{teacher} at {nfe} evaluations: RMS error to the fine solution, relative "
            f"(floor {note['floor']:.2g}, n = {note['n']}, seed {note['seed']}, guidance {note['guidance']:g})"
        )
        lines += [_line(e) for e in best(entries, teacher, nfe, count)]
        plain = [e for e in entries if (e.teacher, e.sampler, e.schedule, e.nfe) == (teacher, "ddim", "uniform", nfe)]
        lines += [f"  {e.error:9.3g}  ddim on uniform, for comparison" for e in plain]
        lines += [line for place, others, words in more for line in _more(place, others, words, teacher, nfe)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _line(e: Entry) -> str:
    asked = "" if e.steps == e.nfe else f", {e.nfe} evaluations"
    return f"  {e.error:9.3g}  {e.sampler} on {e.schedule}, {e.steps} steps{asked}"


def _more(place: Path, entries: Sequence[Entry], notes: Sequence[dict[str, Any]], teacher: str, nfe: int) -> list[str]:
    """Lines on the tuned schedules, or on the solvers that add noise, where they were measured on this teacher."""
    note = next((one for one in notes if one["teacher"] == teacher), None)
    found = best(entries, teacher, nfe, 3)
    if note is None or not found:
        return []
    rows = [_line(e) for e in found]
    if place == STORED_TUNED:
        return ["  on times computed from the teacher:", *rows]
    pairs = within(entries, teacher, nfe)
    alike = sum(e.error <= note["floor"] for e in pairs)
    told = f"floor {note['floor']:.2g}, n = {note['n']}; {alike} of {len(pairs)} pairs cannot be told from it"
    return [f"  with noise added, sliced W2 to the law, relative ({told}):", *rows]
