"""What to cite: BibTeX for the samplers, schedules, paths, recipes, metrics and networks in use."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from workbench import zoo
from workbench.callable_module import make_callable
from workbench.compare import Column, Comparison
from workbench.distill.objectives.moments import Moments
from workbench.distill.recipes import Recipe
from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.references import REFERENCES, Reference
from workbench.samplers.plan import Plan
from workbench.samplers.sample import default_sampling

ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030c": "v", "\u0327": "c"}
LETTERS = {"ł": r"{\l}", "ø": r"{\o}", "ß": r"{\ss}", "α": r"$\alpha$", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"}
USES: dict[str, tuple[str, ...]] = {
    # samplers
    "euler": ("song2021score",),
    "heun": ("karras2022elucidating",),
    "ddim": ("song2021ddim",),
    "dpmpp_2m": ("lu2022dpmpp",),
    "dpmpp_2s": ("lu2022dpmpp",),
    "dpmpp_3m": ("lu2022dpmpp",),
    "dpmpp_2m_sde": ("lu2022dpmpp",),
    "dpmpp_3m_sde": ("lu2022dpmpp",),
    "dpm_1": ("lu2022dpm",),
    "dpm_2": ("lu2022dpm",),
    "dpm_3": ("lu2022dpm",),
    "dpm_adaptive": ("lu2022dpm",),
    "heun_adaptive": ("karras2022elucidating",),
    "unipc": ("zhao2023unipc",),
    "deis": ("zhang2023fast",),
    "ab": ("zhang2023fast",),
    "ipndm": ("liu2022pseudo", "zhang2023fast"),
    "pndm": ("liu2022pseudo",),
    "ghvb": ("wizadwongsa2024diffusion",),
    "hb": ("wizadwongsa2024diffusion",),
    "ddpm": ("ho2020denoising",),
    "euler_ancestral": ("song2021ddim",),
    "restart": ("xu2023restart",),
    "lcm": ("luo2023latent",),
    "dualfast": ("yu2025dualfast",),
    "consistency": ("song2023consistency",),  # the recipe too
    "flow_map": ("kim2024consistency",),
    # schedules; karras and EDM's path are one paper
    "uniform": ("song2021ddim",),
    "quadratic": ("song2021ddim",),
    "trailing": ("lin2024common",),
    "logsnr": ("lu2022dpm",),
    "karras": ("karras2022elucidating",),
    "shift": ("esser2024scaling",),
    "resolution": ("esser2024scaling", "hoogeboom2023simple"),
    "cosine": ("nichol2021improved",),  # the path; equal angles need no paper
    "beta": ("lee2024beta",),
    "ays": ("sabour2024align",),
    "ays_tuned": ("sabour2024align",),
    "gits": ("chen2024trajectory",),
    # learned plans and steps
    "fit_plan": ("fu2025learnable", "tong2025learning", "frankel2025s4s"),
    "learn_steps": ("saz2025reinforcement",),
    "precision": ("paxton2022climate",),
    # at inference time
    "diversity_plan": ("gandikota2025distilling",),
    "one_more_step": ("hu2024one",),
    "zero_terminal_snr": ("lin2024common",),
    "shallow_sample": ("liu2022diffsinger", "meng2022sdedit"),
    "negative_guidance": ("nguyen2025snoopi", "chen2025normalized"),
    "optimise_noise": ("novack2024ditto2",),
    "noise_search": ("yu2025ttsnap",),
    "parallel": ("shih2023parallel", "liu2025accelerate"),
    "bottleneck": ("tian2025training",),
    "cascade": ("xu2025lowdiff",),
    "regions": ("chen2025regione",),
    "asynchronous": ("sun2025ardiffusion",),
    "patches": ("li2024distrifusion", "zhang2024partially"),
    # paths
    "linear": ("lipman2023flow", "liu2023flow"),
    "vp": ("song2021score",),
    "edm": ("karras2022elucidating",),
    "trig": ("lu2025simplifying",),
    "table": ("ho2020denoising",),  # a path read from a scheduler
    "v": ("salimans2022progressive",),
    # recipes
    "kd": ("luhman2021knowledge",),
    "reflow": ("liu2023flow",),
    "instaflow": ("liu2024instaflow", "liu2023flow"),
    "rfpp": ("lee2024improving", "liu2023flow"),
    "keypoints": ("zhang2025accvideo",),
    "slimflow": ("zhu2024slimflow", "liu2023flow"),
    "hipa": ("zhang2023hipa",),
    "progressive": ("salimans2022progressive",),
    "agd": ("jensen2025efficient",),
    "ddgan": ("xiao2022tackling",),
    "guided distillation": ("meng2023distillation",),
    "low-rank updates": ("hu2022lora",),
    "cd": ("song2023consistency",),
    "ct": ("song2023consistency",),
    "ict": ("song2024improved", "song2023consistency"),
    "ect": ("geng2025consistency", "song2024improved"),
    "scott": ("liu2025scott", "song2023consistency"),
    "tscd": ("ren2024hypersd", "wang2024phased"),
    "ctm": ("kim2024consistency",),
    "scm": ("lu2025simplifying", "chen2025sanasprint"),
    "tbcm": ("tang2025imagefree", "lu2025simplifying"),
    "sana-sprint": ("chen2025sanasprint", "lu2025simplifying", "sauer2024fast"),
    "meanflow": ("geng2025mean",),
    "meanflow-dispersive": ("zou2025dm1", "geng2025mean", "sheng2025mp1"),
    "splitmeanflow": ("guo2025splitmeanflow", "geng2025mean"),
    "ayf": ("sabour2025align", "karras2024guiding"),
    "boot": ("gu2023boot",),
    "freeflow": ("tong2025flow",),
    "diff-instruct": ("luo2023diffinstruct",),
    "vsd": ("wang2023prolificdreamer",),
    "score distillation sampling": ("poole2023dreamfusion",),
    "swiftbrush": ("nguyen2024swiftbrush", "wang2023prolificdreamer"),
    "pg-sb": ("nguyen2025snoopi", "nguyen2024swiftbrush"),
    "dmd": ("yin2024onestep",),
    "dmd2": ("yin2024improved", "yin2024onestep"),
    "twinflow": ("cheng2025twinflow",),
    "mdt-dist": ("zhou2025fewstepflow",),
    "nitrofusion": ("chen2025nitrofusion",),
    "rcm": ("zheng2025large", "lu2025simplifying", "yin2024improved"),
    "msd": ("song2024multistudent",),
    "flash-dmd": ("chen2025flashdmd", "yin2024improved"),
    "phased-dmd": ("fan2025phased", "yin2024improved"),
    "decoupled-dmd": ("liu2025decoupled", "yin2024improved"),
    "tdm": ("luo2025learning",),
    "f-distill": ("xu2025onestep", "yin2024improved"),
    "uni-instruct": ("wang2025uniinstruct", "zhou2024score"),
    "sim": ("luo2024onestep",),
    "sid": ("zhou2024score",),
    "sid-few-step": ("zhou2025fewstep", "zhou2024score", "zhou2025flow"),
    "di-star": ("luo2024diffinstruct", "luo2024onestep"),
    "asd": ("ma2024scaledreamer",),
    "disback": ("zhang2024distribution", "yin2024improved"),
    "nct": ("luo2025noise",),
    "sfd": ("chen2025score", "zhou2024score"),
    "echo": ("yang2025echodistill",),
    "tad-sr": ("he2024one", "wang2023zeroshot"),
    "distillation-dpo": ("zhao2025diffusion",),
    "pso": ("miao2025tuning",),
    "rlcm": ("oertell2024rl",),
    "pseudo-huber": ("song2024improved",),
    "moment matching": ("aiello2024fast", "gretton2012kernel"),
    "adversarial term": ("sauer2024fast",),
    "mixed target": ("shing2025taid",),
    # metrics, by function, and as the tables call them
    "sliced_wasserstein": ("bonneel2015sliced",),
    "sw2": ("bonneel2015sliced",),
    "wasserstein2": ("flamary2021pot",),
    "energy_distance": ("szekely2013energy",),
    "mmd": ("gretton2012kernel",),
    "kid": ("binkowski2018demystifying", "detlefsen2022torchmetrics"),
    "kid_subsets": ("binkowski2018demystifying", "detlefsen2022torchmetrics"),
    "frechet_distance": ("heusel2017gans",),
    "frechet_from_moments": ("heusel2017gans",),
    "Frechet": ("heusel2017gans",),
    "precision_recall": ("kynkaanniemi2019improved",),
    "density_coverage": ("naeem2020reliable",),
    "straightness": ("liu2023flow",),
    "vendi_score": ("friedman2023vendi",),
    "reliability": ("guo2017calibration",),
    # what a denoiser is made of and wrapped in
    "DiT": ("peebles2023scalable", "chen2024pixart"),
    "guidance": ("ho2022classifier",),
    "guidance interval": ("kynkaanniemi2024applying",),
    "thresholding": ("saharia2022photorealistic",),
    "flow matching": ("lipman2023flow",),
    # software
    "workbench": ("workbench",),
    "torch": ("paszke2019pytorch",),
    "diffusers": ("vonplaten2022diffusers",),
    "POT": ("flamary2021pot",),
    "torchmetrics": ("detlefsen2022torchmetrics",),
}


def bibtex(*things: Any) -> str:
    """BibTeX of the references of what is named, sorted by key, each once; of everything that the workbench implements for no argument.

    Args:
        things: names (of a sampler, schedule, path, recipe, metric, part, model or key), a `Plan`, `Path`, `Recipe`,
            `Column` or `Comparison`, a trained model, or a metric function; lists of these.

    Raises:
        UnknownName: for a name that nothing here has, with the nearest one. WorkbenchError: for anything else.

    >>> print(bibtex("dpmpp_2m").splitlines()[0])
    @misc{lu2022dpmpp,
    """
    names = (name for thing in things for name in _names(thing)) if things else USES
    keys = {key for name in names for key in ([name] if name in REFERENCES else USES[name])}
    return "\n\n".join(_entry(key, REFERENCES[key]) for key in sorted(keys))


def cite(*things: Any) -> None:
    """Print the BibTeX of what is used; arguments and errors as for `bibtex`.

    >>> cite("consistency")  # doctest: +ELLIPSIS
    @inproceedings{song2023consistency,
      title = {{Consistency Models}},
    ...
    """
    print(bibtex(*things))


def _names(thing: Any) -> Iterator[str]:
    """Names in USES or REFERENCES of what a thing uses; what has no reference of its own gives none."""
    if isinstance(thing, str):
        yield from _named(thing)
    elif isinstance(thing, Plan):
        learned = ("fit_plan", thing.options.get("from")) if thing.sampler.startswith("lsd(") else ()
        yield from _known(thing.sampler, thing.schedule, *learned)
        yield from _names(thing.path)
    elif isinstance(thing, Path):
        yield from _known(thing.name if thing.name in USES else "table")
    elif isinstance(thing, Recipe):
        yield from _of_recipe(thing)
    elif isinstance(thing, Column):
        column = thing.resolved()
        yield from _names(column.plan())
        yield from _of_model(column.model, column.scale())
    elif isinstance(thing, Comparison):
        yield "workbench"
        yield from (name for column in thing.columns for name in _names(column))
        yield from _known(*map(str, thing.table.columns))
    elif getattr(thing, "path", None) is not None and callable(thing):
        sampling = default_sampling(thing)
        yield from _known(sampling.sampler, sampling.schedule)
        yield from _names(thing.path)
        yield from _of_model(thing, sampling.guidance)
    elif isinstance(thing, Callable) and getattr(thing, "__name__", "") in USES:
        yield thing.__name__
    elif isinstance(thing, Iterable):
        for part in thing:
            yield from _names(part)
    else:
        raise WorkbenchError(
            f"there is nothing to cite for {thing!r:.80}: give a name, a plan, a path, a recipe, a model or a comparison."
        )


def _named(name: str) -> Iterator[str]:
    if name in USES or name in REFERENCES:
        yield name
        return
    models = [entry.name for entry in zoo.catalog()]
    if name not in models:
        raise unknown("name", name, [*USES, *models])
    yield from _names(zoo.load(name))


def _of_recipe(recipe: Recipe) -> Iterator[str]:
    yield from _known(recipe.name, recipe.sampling.sampler)
    if type(getattr(recipe.objective, "metric", None)).__name__ == "PseudoHuber":
        yield "pseudo-huber"
    if isinstance(recipe.objective, Moments):
        yield "moment matching"
    if isinstance(getattr(recipe.objective, "guidance", None), tuple):
        yield "guided distillation"
    if recipe.lora:
        yield "low-rank updates"
    yield from (
        name
        for part, name in (("gan", "adversarial term"), ("mixing", "mixed target"))
        if getattr(recipe.objective, part, None)
    )


def _of_model(model: Any, scale: float) -> Iterator[str]:
    """What a model was made with: its recipe and network, the guidance that it runs with or that was distilled into it."""
    card = getattr(model, "card", None) or {}
    yield from _known(str(card.get("recipe", "")), str(card.get("network", "")))
    if card.get("guidance_input"):
        yield "guided distillation"
    if (card.get("trained") or {}).get("lora"):
        yield "low-rank updates"
    if card.get("network"):
        yield "diffusers"
        if card.get("role") == "teacher" and card.get("kind") == "flow":
            yield "flow matching"
    if getattr(model, "classes", 0) and (scale != 1 or card.get("guidance_baked_in", 1) != 1):
        yield "guidance"


def _known(*names: Any) -> Iterator[str]:
    yield from (name for name in names if isinstance(name, str) and name in USES)


def _entry(key: str, reference: Reference) -> str:
    kind = reference.kind if reference.venue or reference.kind != "inproceedings" else "misc"
    fields = {
        "title": f"{{{_latex(reference.title)}}}",  # a second pair of braces keeps the capitals
        "author": _authors(reference.authors),
        "year": str(reference.year),
    }
    if reference.venue:
        fields["journal" if kind == "article" else "booktitle"] = _latex(reference.venue)
    if reference.eprint:
        fields |= {"eprint": reference.eprint, "archivePrefix": "arXiv"}
    fields |= dict(reference.more)
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}\n}}"


def _authors(names: str) -> str:
    return " and ".join(_latex(name).removeprefix("and ") for name in names.split("; "))


def _latex(text: str) -> str:
    """The text in ASCII, accents as LaTeX writes them.

    >>> _latex("Székely, Bińkowski, Mikołaj")
    "Sz{\\\\'e}kely, Bi{\\\\'n}kowski, Miko{\\\\l}aj"
    """
    out: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        if character in ACCENTS:
            mark, letter = ACCENTS[character], out.pop()
            out.append(f"{{\\{mark}{{{letter}}}}}" if mark.isalpha() else f"{{\\{mark}{letter}}}")
        else:
            out.append(LETTERS.get(character, character))
    return "".join(out)


make_callable(__name__, cite)
