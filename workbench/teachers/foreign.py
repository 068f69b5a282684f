"""Diffusers pipelines as teachers: what a folder holds, and its network asked in the workbench's times and labels.

A network trained on a table of T timesteps is asked at the timestep t T - 1, and at fractions of one between the entries:
its embedding of time is continuous in them, as the path is (a learned embedding takes the nearest entry). One trained on
flow matching is asked at t T; one in EDM's or a consistency model's preconditioning at the logarithm of sigma.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench import paths
from workbench.errors import WorkbenchError
from workbench.paths import per_sample
from workbench.teachers.pipeline_folder import CONFIG, Clock, Source, in_a_line, variant_of, weights


class Adapted(nn.Module):
    """A diffusers network that takes times in [0, 1] and labels of which -1 (or None) is the null class.

    Args:
        model: a UNet2DModel or DiTTransformer2DModel. path: what its times mean. clock: how it is told them.
        classes, null: as in `Source`.

    It returns the prediction of its kind; x0 where it is preconditioned. The channels of a learned variance are left out.
    """

    def __init__(self, model: nn.Module, path: paths.Path, clock: Clock, classes: int = 0, null: int | None = None):
        super().__init__()
        self.model, self.path, self.clock, self.classes, self.null = model, path, clock, classes, null
        self.whole = getattr(model.config, "time_embedding_type", None) == "learned"

    def __deepcopy__(self, memo: dict) -> Adapted:
        return Adapted(copy.deepcopy(self.model, memo), self.path, self.clock, self.classes, self.null)  # a path is shared

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | int | None = None) -> Tensor:
        """The prediction (n, *shape) at states x (n, *shape) and times t (n,) in [0, 1] of the path.

        Args:
            cond: labels (n,) or one for all, -1 or None for the null class; left out where the network has no classes.

        Raises:
            WorkbenchError: for the null class, where the network has none.
        """
        clock = self.clock
        if clock.form in ("table", "flow"):
            steps = t * clock.count - 1 if clock.form == "table" else t * clock.count
            near = steps.round()
            if self.whole:
                return self.ask(x, near.clamp(0, clock.count - 1).long(), cond)
            steps = torch.where((steps - near).abs() < 1e-3, near, steps)  # t is float32: 41 comes as 40.99998
            return self.ask(x, steps.clamp_min(0), cond)
        sigma = self.path.sigma(t.double()).clamp_min(clock.sigma_min)
        data, low = clock.sigma_data, clock.sigma_min if clock.form == "consistency" else 0.0
        scale = (sigma**2 + data**2).rsqrt()
        steps = sigma.log() * (250.0 if clock.form == "consistency" else 0.25)
        output = self.ask(per_sample(scale, x) * x, steps.to(x.dtype), cond)
        skip = data**2 / ((sigma - low) ** 2 + data**2)
        return per_sample(skip, x) * x + per_sample(clock.sign * (sigma - low) * data * scale, x) * output

    def ask(self, x: Tensor, steps: Tensor, cond: Tensor | int | None) -> Tensor:
        """The network's output at its own timesteps (n,)."""
        given = self.labels(cond, x) if self.classes else None
        return self.model(x, timestep=steps, class_labels=given, return_dict=False)[0][:, : x.shape[1]]

    def labels(self, cond: Tensor | int | None, x: Tensor) -> Tensor:
        """Class indices (n,) as the network knows them.

        Raises:
            WorkbenchError: for the null class, where the network has none.
        """
        given = torch.as_tensor(-1 if cond is None else cond, device=x.device).expand(len(x))
        if self.null is not None:
            return torch.where(given < 0, self.null, given).long()
        if bool((given < 0).any()):
            raise WorkbenchError(
                f"this network was trained without a null class: give a class from 0 to {self.classes - 1}, and leave guidance at 1."
            )
        return given.long()


def build(source: Source) -> Adapted:
    """The network with its weights, float32, frozen, from safetensors alone.

    Raises:
        WorkbenchError: if the weights are pickles, missing, damaged, of another network, or not finite.
    """
    import diffusers

    net = _load(getattr(diffusers, source.network), source.part)
    adapted = Adapted(net, source.path, source.clock, source.classes, source.null)
    try:  # a damaged configuration may load, and fail here
        with torch.no_grad():
            tried = adapted(torch.zeros(1, *source.shape), torch.full((1,), 0.5), 0 if source.classes else None)
    except Exception as error:
        raise WorkbenchError(
            f"the network in {source.part} cannot be run ({in_a_line(error)}): fetch the folder again."
        ) from error
    if tried.shape[1:] != source.shape or not bool(torch.isfinite(tried).all()):
        raise WorkbenchError(
            f"the network in {source.part} makes {tuple(tried.shape[1:])} or no finite numbers: fetch the folder again."
        )
    return adapted


def build_autoencoder(source: Source) -> nn.Module | None:
    """The autoencoder that turns latents into images, checked as the network is, or None where there is none."""
    if source.autoencoder is None:
        return None
    from diffusers import AutoencoderKL

    autoencoder = _load(AutoencoderKL, source.autoencoder)
    if autoencoder.config.latent_channels != source.shape[0]:
        raise WorkbenchError(
            f"{source.autoencoder} decodes {autoencoder.config.latent_channels} channels, but the network makes {source.shape[0]}: "
            "they are not of one pipeline."
        )
    return autoencoder


def _load(kind: type, part: Path) -> nn.Module:
    from diffusers.utils import logging

    variant, level = variant_of(weights(part)), logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is an error here
    try:
        with torch.random.fork_rng(devices=[]):
            net, report = kind.from_pretrained(
                str(part), use_safetensors=True, local_files_only=True, variant=variant,
                torch_dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # whatever a damaged config or file makes it raise
        raise WorkbenchError(
            f"the weights in {part} do not fit its {CONFIG} ({in_a_line(error)}): fetch the folder again."
        ) from error
    finally:
        logging.set_verbosity(level)
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if wrong:
        raise WorkbenchError(
            f"the weights in {part} do not fit its {CONFIG} ({len(wrong)} differ, such as {wrong[0]}): fetch the folder again."
        )
    if not all(bool(torch.isfinite(value).all()) for value in net.state_dict().values()):
        raise WorkbenchError(f"{part} holds NaN or infinite weights: fetch it again, or train it again.")
    return net.float().eval().requires_grad_(False)
