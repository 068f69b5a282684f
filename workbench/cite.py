"""What to cite: BibTeX for the samplers, schedules, paths, recipes, metrics and networks in use."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from workbench import zoo
from workbench.callable_module import make_callable
from workbench.compare import Column, Comparison
from workbench.distill.recipes import Recipe
from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.samplers.plan import Plan
from workbench.samplers.sample import default_sampling

ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030c": "v", "\u0327": "c"}
LETTERS = {"ł": r"{\l}", "ø": r"{\o}", "ß": r"{\ss}", "α": r"$\alpha$", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"}
NIPS, ICLR, ICML = (
    "Advances in Neural Information Processing Systems",
    "International Conference on Learning Representations",
    "International Conference on Machine Learning",
)
CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
JMLR = "Journal of Machine Learning Research"


class Reference(NamedTuple):
    """One entry: authors separated by "; ", "and others" for a cut list; `venue` empty for a preprint; `more` other fields."""

    title: str
    authors: str
    year: int
    eprint: str = ""
    venue: str = ""
    kind: str = "inproceedings"
    more: tuple[tuple[str, str], ...] = ()


def _software(url: str, **more: str) -> dict[str, Any]:
    return {"kind": "misc", "more": (("howpublished", rf"\url{{{url}}}"), *more.items())}


REFERENCES: dict[str, Reference] = {
    "binkowski2018demystifying": Reference(
        "Demystifying MMD GANs", "Bińkowski, Mikołaj; Sutherland, Danica J.; Arbel, Michael; Gretton, Arthur", 2018,
        "1801.01401", ICLR),
    "bonneel2015sliced": Reference(
        "Sliced and Radon Wasserstein Barycenters of Measures",
        "Bonneel, Nicolas; Rabin, Julien; Peyré, Gabriel; Pfister, Hanspeter", 2015,
        venue="Journal of Mathematical Imaging and Vision", kind="article",
        more=(("volume", "51"), ("number", "1"), ("pages", "22--45"), ("doi", "10.1007/s10851-014-0506-3"))),
    "chen2024pixart": Reference(
        "PixArt-α: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis",
        "Chen, Junsong; Yu, Jincheng; Ge, Chongjian; Yao, Lewei; Xie, Enze; Wu, Yue; Wang, Zhongdao; Kwok, James; Luo, Ping; "
        "Lu, Huchuan; Li, Zhenguo", 2024, "2310.00426", ICLR),
    "detlefsen2022torchmetrics": Reference(
        "TorchMetrics - Measuring Reproducibility in PyTorch",
        "Detlefsen, Nicki Skafte; Borovec, Jiri; Schock, Justus; Jha, Ananya Harsh; Koker, Teddy; Di Liello, Luca; "
        "Stancl, Daniel; Quan, Changsheng; Grechkin, Maxim; Falcon, William", 2022,
        venue="Journal of Open Source Software", kind="article",
        more=(("volume", "7"), ("number", "70"), ("pages", "4101"), ("doi", "10.21105/joss.04101"))),
    "esser2024scaling": Reference(
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        "Esser, Patrick; Kulal, Sumith; Blattmann, Andreas; Entezari, Rahim; Müller, Jonas; Saini, Harry; Levi, Yam; "
        "Lorenz, Dominik; Sauer, Axel; Boesel, Frederic; Podell, Dustin; Dockhorn, Tim; English, Zion; Lacey, Kyle; "
        "Goodwin, Alex; Marek, Yannik; Rombach, Robin", 2024, "2403.03206", ICML),
    "flamary2021pot": Reference(
        "POT: Python Optimal Transport",
        "Flamary, Rémi; Courty, Nicolas; Gramfort, Alexandre; Alaya, Mokhtar Z.; Boisbunon, Aurélie; Chambon, Stanislas; "
        "Chapel, Laetitia; Corenflos, Adrien; Fatras, Kilian; Fournier, Nemo; Gautheron, Léo; Gayraud, Nathalie T. H.; "
        "Janati, Hicham; Rakotomamonjy, Alain; Redko, Ievgen; Rolet, Antoine; Schutz, Antony; Seguy, Vivien; "
        "Sutherland, Danica J.; Tavenard, Romain; Tong, Alexander; Vayer, Titouan", 2021,
        venue=JMLR, kind="article", more=(("volume", "22"), ("number", "78"), ("pages", "1--8"))),
    "gretton2012kernel": Reference(
        "A Kernel Two-Sample Test",
        "Gretton, Arthur; Borgwardt, Karsten M.; Rasch, Malte J.; Schölkopf, Bernhard; Smola, Alexander", 2012,
        venue=JMLR, kind="article", more=(("volume", "13"), ("pages", "723--773"))),
    "heusel2017gans": Reference(
        "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        "Heusel, Martin; Ramsauer, Hubert; Unterthiner, Thomas; Nessler, Bernhard; Hochreiter, Sepp", 2017, "1706.08500", NIPS),
    "ho2020denoising": Reference(
        "Denoising Diffusion Probabilistic Models", "Ho, Jonathan; Jain, Ajay; Abbeel, Pieter", 2020, "2006.11239", NIPS),
    "ho2022classifier": Reference("Classifier-Free Diffusion Guidance", "Ho, Jonathan; Salimans, Tim", 2022, "2207.12598"),
    "karras2022elucidating": Reference(
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        "Karras, Tero; Aittala, Miika; Aila, Timo; Laine, Samuli", 2022, "2206.00364", NIPS),
    "kim2024consistency": Reference(
        "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion",
        "Kim, Dongjun; Lai, Chieh-Hsin; Liao, Wei-Hsiang; Murata, Naoki; Takida, Yuhta; Uesaka, Toshimitsu; He, Yutong; "
        "Mitsufuji, Yuki; Ermon, Stefano", 2024, "2310.02279", ICLR),
    "kynkaanniemi2019improved": Reference(
        "Improved Precision and Recall Metric for Assessing Generative Models",
        "Kynkäänniemi, Tuomas; Karras, Tero; Laine, Samuli; Lehtinen, Jaakko; Aila, Timo", 2019, "1904.06991", NIPS),
    "kynkaanniemi2024applying": Reference(
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        "Kynkäänniemi, Tuomas; Aittala, Miika; Karras, Tero; Laine, Samuli; Aila, Timo; Lehtinen, Jaakko", 2024,
        "2404.07724", NIPS),
    "lin2024common": Reference(
        "Common Diffusion Noise Schedules and Sample Steps are Flawed",
        "Lin, Shanchuan; Liu, Bingchen; Li, Jiashi; Yang, Xiao", 2024, "2305.08891",
        "IEEE/CVF Winter Conference on Applications of Computer Vision"),
    "lipman2023flow": Reference(
        "Flow Matching for Generative Modeling",
        "Lipman, Yaron; Chen, Ricky T. Q.; Ben-Hamu, Heli; Nickel, Maximilian; Le, Matt", 2023, "2210.02747", ICLR),
    "liu2023flow": Reference(
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        "Liu, Xingchao; Gong, Chengyue; Liu, Qiang", 2023, "2209.03003", ICLR),
    "lu2022dpm": Reference(
        "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
        "Lu, Cheng; Zhou, Yuhao; Bao, Fan; Chen, Jianfei; Li, Chongxuan; Zhu, Jun", 2022, "2206.00927", NIPS),
    "lu2022dpmpp": Reference(
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        "Lu, Cheng; Zhou, Yuhao; Bao, Fan; Chen, Jianfei; Li, Chongxuan; Zhu, Jun", 2022, "2211.01095"),
    "lu2025simplifying": Reference(
        "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", "Lu, Cheng; Song, Yang", 2025,
        "2410.11081", ICLR),
    "naeem2020reliable": Reference(
        "Reliable Fidelity and Diversity Metrics for Generative Models",
        "Naeem, Muhammad Ferjad; Oh, Seong Joon; Uh, Youngjung; Choi, Yunjey; Yoo, Jaejun", 2020, "2002.09797", ICML),
    "nichol2021improved": Reference(
        "Improved Denoising Diffusion Probabilistic Models", "Nichol, Alex; Dhariwal, Prafulla", 2021, "2102.09672", ICML),
    "paszke2019pytorch": Reference(
        "PyTorch: An Imperative Style, High-Performance Deep Learning Library",
        "Paszke, Adam; Gross, Sam; Massa, Francisco; Lerer, Adam; Bradbury, James; Chanan, Gregory; Killeen, Trevor; "
        "Lin, Zeming; Gimelshein, Natalia; Antiga, Luca; Desmaison, Alban; Köpf, Andreas; Yang, Edward; DeVito, Zachary; "
        "Raison, Martin; Tejani, Alykhan; Chilamkurthy, Sasank; Steiner, Benoit; Fang, Lu; Bai, Junjie; Chintala, Soumith",
        2019, "1912.01703", NIPS),
    "peebles2023scalable": Reference(
        "Scalable Diffusion Models with Transformers", "Peebles, William; Xie, Saining", 2023, "2212.09748",
        "IEEE/CVF International Conference on Computer Vision"),
    "vonplaten2022diffusers": Reference(
        "Diffusers: State-of-the-Art Diffusion Models",
        "von Platen, Patrick; Patil, Suraj; Lozhkov, Anton; Cuenca, Pedro; Lambert, Nathan; Rasul, Kashif; "
        "Davaadorj, Mishig; Nair, Dhruv; Paul, Sayak; Berman, William; Xu, Yiyi; Liu, Steven; Wolf, Thomas", 2022,
        **_software("https://github.com/huggingface/diffusers")),
    "saharia2022photorealistic": Reference(
        "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        "Saharia, Chitwan; Chan, William; Saxena, Saurabh; Li, Lala; Whang, Jay; Denton, Emily; and others", 2022,
        "2205.11487", NIPS),
    "salimans2022progressive": Reference(
        "Progressive Distillation for Fast Sampling of Diffusion Models", "Salimans, Tim; Ho, Jonathan", 2022,
        "2202.00512", ICLR),
    "song2021ddim": Reference(
        "Denoising Diffusion Implicit Models", "Song, Jiaming; Meng, Chenlin; Ermon, Stefano", 2021, "2010.02502", ICLR),
    "song2021score": Reference(
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        "Song, Yang; Sohl-Dickstein, Jascha; Kingma, Diederik P.; Kumar, Abhishek; Ermon, Stefano; Poole, Ben", 2021,
        "2011.13456", ICLR),
    "song2023consistency": Reference(
        "Consistency Models", "Song, Yang; Dhariwal, Prafulla; Chen, Mark; Sutskever, Ilya", 2023, "2303.01469", ICML),
    "song2024improved": Reference(
        "Improved Techniques for Training Consistency Models", "Song, Yang; Dhariwal, Prafulla", 2024, "2310.14189", ICLR),
    "szekely2013energy": Reference(
        "Energy Statistics: A Class of Statistics Based on Distances", "Székely, Gábor J.; Rizzo, Maria L.", 2013,
        venue="Journal of Statistical Planning and Inference", kind="article",
        more=(("volume", "143"), ("number", "8"), ("pages", "1249--1272"), ("doi", "10.1016/j.jspi.2013.03.018"))),
    "workbench": Reference(
        "workbench: a diffusion-distillation workbench", "{The workbench authors}", 2026,
        kind="misc", more=(("note", f"Python package, version {sys.modules['workbench'].__version__}"),)),
    "yin2024improved": Reference(
        "Improved Distribution Matching Distillation for Fast Image Synthesis",
        "Yin, Tianwei; Gharbi, Michaël; Park, Taesung; Zhang, Richard; Shechtman, Eli; Durand, Frédo; Freeman, William T.",
        2024, "2405.14867", NIPS),
    "yin2024onestep": Reference(
        "One-step Diffusion with Distribution Matching Distillation",
        "Yin, Tianwei; Gharbi, Michaël; Zhang, Richard; Shechtman, Eli; Durand, Frédo; Freeman, William T.; Park, Taesung",
        2024, "2311.18828", CVPR),
}  # fmt: skip

USES: dict[str, tuple[str, ...]] = {
    # samplers
    "euler": ("song2021score",),
    "heun": ("karras2022elucidating",),
    "ddim": ("song2021ddim",),
    "dpmpp_2m": ("lu2022dpmpp",),
    "consistency": ("song2023consistency",),  # the recipe too
    "flow_map": ("kim2024consistency",),
    # schedules; karras and EDM's path are one paper
    "uniform": ("song2021ddim",),
    "quadratic": ("song2021ddim",),
    "trailing": ("lin2024common",),
    "logsnr": ("lu2022dpm",),
    "karras": ("karras2022elucidating",),
    "shift": ("esser2024scaling",),
    # paths
    "linear": ("lipman2023flow", "liu2023flow"),
    "cosine": ("nichol2021improved",),
    "vp": ("song2021score",),
    "edm": ("karras2022elucidating",),
    "trig": ("lu2025simplifying",),
    "table": ("ho2020denoising",),  # a path read from a scheduler
    "v": ("salimans2022progressive",),
    # recipes
    "reflow": ("liu2023flow",),
    "dmd2": ("yin2024improved", "yin2024onestep"),
    "pseudo-huber": ("song2024improved",),
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
        yield from _known(thing.sampler, thing.schedule)
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


def _of_model(model: Any, scale: float) -> Iterator[str]:
    """What a model was made with: its recipe and network, the guidance that it runs with or that was distilled into it."""
    card = getattr(model, "card", None) or {}
    yield from _known(str(card.get("recipe", "")), str(card.get("network", "")))
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
