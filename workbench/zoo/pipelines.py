"""Diffusers pipelines by folder or Hub id: each becomes a teacher (a consistency model: a student) with a card of its own."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import MissingSource, WorkbenchError
from workbench.samplers.sample import Sampling
from workbench.student import Trained
from workbench.teachers import foreign, pipeline_folder
from workbench.teachers.pipeline_folder import WEIGHTS, Source
from workbench.zoo import HUB

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
STEPS, LATENT_GUIDANCE = 25, 4.0  # DiTPipeline's own scale
DECODED = 8  # images decoded together


class Pipeline(Trained):
    """A diffusers pipeline as a denoiser; attributes as of `Trained`.

    Samples are what the network works on: images in [-1, 1], or latents where `latent` is true; `decode` makes images of
    them. The x0 estimate is the network's own: schedulers that clip it by default (clip_sample) do as `thresholding="clip"`.
    """

    def __init__(self, net: foreign.Adapted, card: dict[str, Any], autoencoder: nn.Module | None = None):
        super().__init__(net, {**card, "path": net.path})
        self.card, self.autoencoder = card, autoencoder
        self.latent = bool(card["latent"])
        self.rescale = False  # a preconditioned network scales its own input

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of a decoded sample (channels, height, width), from the autoencoder's configuration.

        Raises:
            WorkbenchError: for latents of a pipeline without an autoencoder.
        """
        if self.card["picture_shape"] is None:
            raise WorkbenchError(f"{self.name} works on latents and holds no autoencoder (vae): its samples cannot be shown.")
        return tuple(self.card["picture_shape"])

    def decode(self, samples: Tensor) -> Tensor:
        """Images (n, c, h, w), about [-1, 1], of samples (n, *shape): latents go through the autoencoder, images stay.

        Raises:
            WorkbenchError: for latents of a pipeline without an autoencoder.
        """
        if not self.latent:
            return samples
        shape = self.picture_shape
        config, made = self.autoencoder.to(samples.device).config, []
        try:
            for part in samples.float().split(DECODED):
                with torch.no_grad():
                    latents = part / (config.scaling_factor or 1.0) + (getattr(config, "shift_factor", None) or 0.0)
                    made.append(self.autoencoder.decode(latents, return_dict=False)[0])
        except (TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise WorkbenchError(f"the autoencoder of {self.name} cannot decode {tuple(samples.shape)} ({reason}).") from error
        images = torch.cat(made)
        if images.shape[1:] != shape:
            raise WorkbenchError(
                f"the autoencoder of {self.name} makes {tuple(images.shape[1:])}, but its config.json says {shape}."
            )
        return images


def load(folder: str | os.PathLike, device: str = "cpu", name: str | None = None, null_class: bool = False) -> Pipeline:
    """Load a pipeline, or a bare network with its scheduler beside it, from safetensors alone.

    Args:
        name: on the card; the folder's by default. null_class: as for `workbench.teachers.pipeline_folder.read`.

    Raises:
        WorkbenchError: for anything that is not supported, missing, damaged, or not finite, in one sentence.
    """
    folder = Path(folder)
    source = pipeline_folder.read(folder, null_class)
    card = _card(source, name or folder.resolve().name)
    net, autoencoder = foreign.build(source), foreign.build_autoencoder(source)
    return Pipeline(net.to(device), card, autoencoder.to(device) if autoencoder is not None else None)


def card_of(folder: Path, name: str) -> dict[str, Any]:
    """The card of a pipeline, from its configurations and the heads of its weights; nothing is loaded.

    Raises:
        WorkbenchError: as for `load`, as far as these can tell.
    """
    return _card(pipeline_folder.read(folder), name)


def is_pipeline(folder: Path) -> bool:
    """Whether `load` is the one to read this folder."""
    return pipeline_folder.is_pipeline(folder)


def lend_decoder(student: Trained) -> Trained:
    """Let a student of latents decode as its teacher does, which is loaded when it is first asked to."""
    card = student.card
    if card.get("latent") and card.get("picture_shape"):
        student.latent, student.picture_shape = True, tuple(card["picture_shape"])
        student.decode = functools.partial(_decode_as, str(card.get("teacher")), student.name)
    return student


def _decode_as(teacher: str, student: str, samples: Tensor) -> Tensor:
    reason = "it is of the Hub, and nothing is fetched to show a picture"
    try:
        lender = None if teacher.startswith(HUB) else _lender(teacher)
    except WorkbenchError as error:
        lender, reason = None, str(error).rstrip(".")
    if lender is None or not hasattr(lender, "decode"):
        raise WorkbenchError(
            f"{student} works on the latents of {teacher}, which cannot decode them ({reason}): put that pipeline's folder in the zoo."
        )
    return lender.decode(samples)


@functools.lru_cache(maxsize=2)
def _lender(name: str) -> Any:
    from workbench.zoo import load as load_named

    return load_named(name)


def load_hub(name: str, device: str = "cpu") -> Pipeline:
    """Fetch and load `hf:org/name` or `hf:org/name@revision`; only JSON and the safetensors that are needed are fetched.

    Raises:
        MissingSource: if it is not there, not allowed, or the Hub cannot be reached. WorkbenchError: as for `load`.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    if not HUB_NAME.fullmatch(repository) or (revision and not re.fullmatch(r"[\w./-]+", revision)):
        raise WorkbenchError(f"{name[:80]!r} is no Hub id: write hf:org/name, or hf:org/name@revision.")
    return load(_fetch(repository, revision or None), device, name)


def _fetch(repository: str, revision: str | None) -> Path:
    """The local folder of a Hub repository: first its JSON files, and, once they are understood, the weights they name."""
    texts = ["*.json", "*/*.json"]
    folder = _download(repository, revision, texts)
    source = pipeline_folder.read(folder)
    parts = [part.relative_to(folder) for part in (source.part, source.autoencoder) if part is not None]
    return _download(repository, revision, texts + [(part / f"{WEIGHTS}*.safetensors").as_posix() for part in parts])


def _download(repository: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    name = HUB + repository
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        sentence = f"{name} is gated: accept its terms on its page, then log in with `hf auth login`."
        raise MissingSource(sentence) from error
    except errors.RepositoryNotFoundError as error:
        sentence = f"{name} is not on the Hub: check the id, and log in with `hf auth login` if it is private."
        raise MissingSource(sentence) from error
    except errors.RevisionNotFoundError as error:
        raise MissingSource(f"{name} has no revision {revision!r}: leave it out, or check its name.") from error
    except Exception as error:  # no network, a proxy, a full disk: the libraries below have no common class for them
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__
        raise MissingSource(
            f"{name} is not whole on this machine and could not be fetched ({offline}): where there is a network run "
            f"`hf download {repository} --local-dir FOLDER`, then load FOLDER."
        ) from error


def sampling_of(source: Source) -> Sampling:
    """The plan of a pipeline's card: a consistency model in one step, latents guided, anything else DPM-Solver++ at 25 steps."""
    if source.clock.form == "consistency":
        return Sampling("consistency", 1)
    guidance = LATENT_GUIDANCE if source.network == "DiTTransformer2DModel" else 1.0
    steps = min(STEPS, source.clock.count)
    if source.clock.form == "edm":
        return Sampling("dpmpp_2m", steps, "karras", guidance)
    return Sampling("dpmpp_2m", steps, "trailing", guidance)


def _card(source: Source, name: str) -> dict[str, Any]:
    shown = pipeline_folder.picture_shape(source)
    return {
        "name": name,
        "role": "student" if source.clock.form == "consistency" else "teacher",
        "network": source.network,
        "pipeline": source.pipeline,
        "parameters": pipeline_folder.parameters(source.part),
        "path": source.path.name,
        "kind": source.kind,
        "shape": list(source.shape),
        "classes": source.classes,
        "null_class": source.null is not None,
        "class_names": list(source.class_names),
        "two_times": False,
        "latent": source.latent,
        "picture_shape": list(shown) if shown is not None else None,
        "sampling": asdict(sampling_of(source)),
    }


def summary(card: dict[str, Any]) -> str:
    """What a pipeline is, in one line, for the catalog."""
    plan, classes = card["sampling"], card["classes"]
    told = [
        f"{card['pipeline']} of diffusers" if card["pipeline"] != "bare network" else f"{card['network']} of diffusers",
        f"{card['parameters'] / 1e6:.2f} M parameters",
        f"{'latents' if card['latent'] else 'images'} {' x '.join(map(str, card['shape']))}",
        *([f"{classes} classes" + ("" if card["null_class"] else " (no null class)")] if classes else []),
        f"{plan['sampler']} at {plan['steps']} step{'s' * (plan['steps'] > 1)}",
    ]
    return ", ".join(told)
