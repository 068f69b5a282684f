"""Turn a teacher into a student: one call for every recipe."""

from __future__ import annotations

import copy
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from workbench.data import load as load_data
from workbench.data.batches import sampler
from workbench.denoiser import INNER, Denoiser, Network, Wrapper, picture_shape
from workbench.distill.adapters import adapted, merged
from workbench.distill.compiling import backend_of, compile_networks, told
from workbench.distill.fit import check_fit
from workbench.distill.generated import fingerprint
from workbench.distill.health import Watch
from workbench.distill.loop import Batch, Optim, Progress, sound, train
from workbench.distill.measuring import Measure, trained_labels
from workbench.distill.objectives.levels import BackSimulation
from workbench.distill.objectives.starts import FromKeyPoints
from workbench.distill.recipe import kinds
from workbench.distill.recipes import Recipe, get
from workbench.distill.several import Several, distill_several
from workbench.distill.start import begun, check_matched
from workbench.distill.students import new_student, sampling_of, scale_of, settled
from workbench.errors import Diverged, MissingSource, WorkbenchError, check_count
from workbench.samplers.sample import Sampling, default_sampling, sample
from workbench.student import make_card, save

ANALYTIC_DRAWS = 100_000


def distill(
    teacher: Denoiser,
    recipe: str | Recipe,
    data: Any = None,
    run: str | os.PathLike | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    init: Network | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
    network: dict[str, int] | None = None,
    clock: Callable[[], float] = time.monotonic,
    report_seconds: float | None = None,
    **options: Any,
) -> Iterator[Progress]:
    """Train a student of `teacher`; a generator of `Progress`, the last of which has `.student`.

    Args:
        teacher: any denoiser with `.path` and `.shape`. recipe: a name from `workbench.recipes()`.
        data: an `ImageSet`, the name of one, a tensor, or (tensor, labels). By default what the teacher was trained on, or draws from
            an analytic teacher; recipes that need none do not look.
        run: folder of the run; the student is saved in run/student. Continues what it finds there. A temporary
            folder by default.
        steps, seconds: how long, whichever ends first; the recipe's own number of steps by default.
        init: start the student from this trained network instead of the teacher's (or of nothing).
        device: "cpu", "cuda", ...; an accelerator by default if there is one.
        network: width, depth, ... of a student that starts from nothing, such as {"width": 32, "depth": 3}; by default it
            is the teacher's own network where that is one.
        clock: what counts the seconds; `time.process_time` for those of the processor.
        report_seconds: report at least so often (a step is never cut), beside every 20 steps; None for these alone.
        options: of the recipe, such as guidance, batch, lr, turns, count.

    Raises:
        UnknownName: for an unknown recipe or option. WorkbenchError: for impossible settings, data, or a run folder of
            another run. Diverged: when training does; the last checkpoint stays.

    >>> import workbench as wb
    >>> for progress in distill(wb.mixture([[1.0, 0.0]], [0.2]), "reflow", steps=3, count=64): pass
    >>> progress.student.role
    'student'
    """
    if isinstance(get(recipe).objective, Several):
        return distill_several(
            teacher, get(recipe), data, run, steps, seconds, seed, init, device, name, network, clock, report_seconds, **options
        )
    row, shape = get(recipe), getattr(teacher, "shape", None)
    if isinstance(recipe, str) and shape is not None:  # with its defaults for points, where the teacher has them
        row = row.fitted(tuple(shape), False)
    chosen = row.configured(**options)  # what is wrong with the options is said first
    for what, value in (("steps", steps), ("batch", chosen.batch)):
        if value is not None:
            check_count(what, value, 1, 10_000_000)
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds < 1e7):
        raise WorkbenchError(f"seconds is {seconds!r}, but must be a positive number.")
    if steps is None and seconds is None:
        steps = chosen.steps
    if getattr(teacher, "path", None) is None or getattr(teacher, "shape", None) is None:
        raise WorkbenchError(
            "a teacher needs .path and .shape (of one sample): set them, or wrap the network in workbench.Network."
        )
    backend_of(chosen.compile)
    check_fit(chosen, teacher, data, init, network)
    baked = _baked(chosen, teacher)
    teacher, settings = settled(teacher, chosen)
    chosen = chosen.configured(**settings)
    student, fresh = new_student(teacher, init, seed, chosen, network or {})
    if isinstance(recipe, str):
        chosen = get(recipe).fitted(tuple(teacher.shape), fresh).configured(**options).configured(**settings)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = File(run) if run is not None else File(tempfile.mkdtemp(prefix="workbench-"))
    if isinstance(data, str):
        data = load_data(data)
    check_matched(chosen.matched)
    if fresh and chosen.matched and (data is not None or _has_data(teacher)):
        return begun(
            teacher, chosen, data, folder, steps, seconds, network,
            seed=seed, device=device, name=name, clock=clock, report_seconds=report_seconds,
        )  # fmt: skip
    if data is None and (chosen.objective.needs_data or hasattr(teacher, "sample")):
        data = _default_data(teacher, seed)
    data, chosen = _inverted(data, chosen, teacher, seed, "inverted" in options)
    draw = sampler(data, chosen.batch, device)
    return _distill(
        teacher, student, chosen, draw, folder, steps, seconds, seed, device, name, init, clock, report_seconds, baked,
        trained_labels(chosen.objective, data, int(getattr(teacher, "classes", 0) or 0)),
    )  # fmt: skip


def _distill(
    teacher, student, recipe, draw, folder, steps, seconds, seed, device, name, init, clock, report_seconds, baked, labels
) -> Iterator[Progress]:
    teacher_name, teacher_hash = getattr(teacher, "name", type(teacher).__name__), fingerprint(teacher)
    teacher = _frozen(teacher, device)
    objective, backend = recipe.objective.bind(teacher, student), backend_of(recipe.compile)
    if backend:
        compile_networks(objective, teacher, backend)
    if hasattr(objective, "real_samples"):
        objective.real_samples = draw
    settings = _plain({"objective": asdict(recipe.objective), "batch": recipe.batch})
    settings |= {key: getattr(recipe, key) for key in ("lora", "adapters") if getattr(recipe, key)}
    config = {"recipe": recipe.name, "teacher": teacher_name, "teacher_hash": teacher_hash, "init": getattr(init, "name", None)}
    config |= {"parts": kinds(recipe.objective), **settings}
    sampling = sampling_of(recipe, _sampling(recipe), teacher)
    hint = getattr(recipe.objective, "hint", None)
    measure = Measure(teacher, sampling, seed, _asked(recipe, teacher, sampling), hint, labels)
    watch = Watch(folder)
    batches = lambda rng: Batch(*draw(rng), recipe.batch)  # noqa: E731
    training = train(
        objective, batches, config, run=folder, steps=steps, seconds=seconds, seed=seed,
        optim=_rates(recipe, objective), ema=recipe.ema, device=device, clock=clock, report_seconds=report_seconds,
    )  # fmt: skip
    for progress in told(training) if backend else training:
        begun = progress.average is not None  # before, the student is what it starts as
        net = progress.average if begun else objective.players["student"]
        averaged = Network(net, student.path, student.kind, student.shape, student.classes, student.two_times)
        averaged.sampling = sampling
        progress.samples = functools.partial(_samples, averaged)
        if begun:
            try:
                progress.metrics = measure(averaged, always=progress.stage == "done")
            except WorkbenchError as error:
                if sound([net]):
                    raise
                raise Diverged(
                    f"training diverged by step {progress.step}: {error} Lower the rate (lr=...) and use a new run folder."
                ) from error
            done = max(progress.step / steps if steps else 0.0, progress.seconds / seconds if seconds else 0.0)
            progress.warning = watch(progress.metrics, progress.step, min(done, 1.0))
        if progress.stage == "done":
            part, net = adapted(student.net), merged(objective.players["student"])
            card = make_card(
                net,
                name=name or f"{teacher_name.split('/')[0]}/{recipe.name}",
                role="student",
                shape=student.shape,
                sampling=sampling,
                class_names=_class_names(teacher, student),
                recipe=recipe.name,
                paper=recipe.paper,
                teacher=teacher_name,
                **_latent(teacher),
                guidance_baked_in=None if isinstance(scale_of(recipe), tuple) else baked,
                **part,
                seed=seed,
                trained={"steps": progress.step, "seconds": round(progress.seconds, 1), **settings},
                figures=progress.metrics,
            )
            progress.student = save(net, card, folder / "student")
        yield progress


def _frozen(teacher: Denoiser, device: Any) -> Denoiser:
    """The teacher with copies of its networks, also those within wrappers, on the device and without gradient."""
    if not isinstance(teacher, Wrapper) and not isinstance(getattr(teacher, "net", None), nn.Module):
        return teacher
    teacher = copy.copy(teacher)
    if isinstance(teacher, Wrapper):
        for name in INNER:
            if name in vars(teacher):
                setattr(teacher, name, _frozen(getattr(teacher, name), device))
    else:
        teacher.net = copy.deepcopy(teacher.net).to(device).eval().requires_grad_(False)
    return teacher


def _samples(model: Network, n: int = 16, cond: Any = None, **options: Any) -> Tensor:
    return sample(model, n, cond, **options)


def _rates(recipe: Recipe, objective: Any) -> dict[str, Optim]:
    """Rates of every player; one that an option has added learns at the student's."""
    return {name: recipe.optim.get(name, recipe.optim["student"]) for name in objective.players}


def _sampling(recipe: Recipe) -> Sampling:
    own = getattr(recipe.objective, "sampling", None)
    if own is not None:
        return own
    start = getattr(recipe.objective, "start", None)
    if isinstance(start, FromKeyPoints) and not recipe.adapters:  # adapters stand in any plan; a chord in its own jump alone
        return replace(recipe.sampling, steps=start.pairs.keys, times={str(start.pairs.keys): list(start.pairs.times)})
    inputs = getattr(recipe.objective, "inputs", None)
    if isinstance(inputs, BackSimulation) and len(inputs.times) > 1:
        times = [*inputs.times, 0.0]
        return replace(recipe.sampling, steps=len(inputs.times), times={str(len(inputs.times)): times})
    return recipe.sampling


def _baked(recipe: Recipe, teacher: Denoiser) -> float | None:
    """The guidance scale that is in the student's weights; None for a student that takes it."""
    scale = scale_of(recipe)
    if isinstance(scale, tuple):
        return None
    if scale is None and not getattr(recipe.objective, "asks_teacher", True):
        return 1.0  # the data's own law
    return float(default_sampling(teacher).guidance if scale is None else scale)


def _asked(recipe: Recipe, teacher: Denoiser, sampling: Sampling) -> float:
    """The teacher's guidance whose answers the student is compared with."""
    baked = _baked(recipe, teacher)
    return sampling.guidance if baked is None else baked


def _inverted(data: Any, recipe: Recipe, teacher: Denoiser, seed: int, asked: bool) -> tuple[Any, Recipe]:
    """The data that a recipe's pairs are inverted from; without any, none are, unless that was asked for."""
    pairs = getattr(getattr(recipe.objective, "start", None), "pairs", None)
    if data is not None or not getattr(pairs, "inverted", 0.0):
        return data, recipe
    try:
        return _default_data(teacher, seed), recipe
    except MissingSource:
        if asked:
            raise
        return None, recipe.configured(inverted=0.0)


def _has_data(teacher: Denoiser) -> bool:
    """Whether a teacher brings samples of its own, or names its data."""
    return hasattr(teacher, "sample") or bool(getattr(teacher, "card", {}).get("data"))


def _default_data(teacher: Denoiser, seed: int) -> Any:
    if hasattr(teacher, "sample") and hasattr(teacher, "log_density"):
        drawn = teacher.sample(ANALYTIC_DRAWS, seed=seed + 1, labels=True)
        x, y = drawn if isinstance(drawn, tuple) else (drawn, None)
        return (x.float(), y) if y is not None else x.float()
    source = getattr(teacher, "card", {}).get("data")
    if not source:
        raise MissingSource("this recipe trains on data, and the teacher's card names none: pass data=...")
    return load_data(source)


def _class_names(teacher: Denoiser, student: Network) -> list[str]:
    """The teacher's names of its classes; a class that the student alone knows is called new."""
    names = list(getattr(teacher, "class_names", ()))
    return [*names, *["new"] * (student.classes - len(names))] if names else names


def _latent(teacher: Denoiser) -> dict[str, Any]:
    """What a card says of a student that draws latents: what they look like decoded; its teacher decodes them."""
    if not getattr(teacher, "latent", False):
        return {}
    try:
        return {"latent": True, "picture_shape": list(picture_shape(teacher))}
    except WorkbenchError:  # nothing decodes them
        return {"latent": True, "picture_shape": None}


def _plain(value: Any) -> Any:
    """JSON-friendly copy: tuples become lists, functions their names."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else value
