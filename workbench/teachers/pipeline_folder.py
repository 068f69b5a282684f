"""What the folder of a diffusers pipeline holds, read from its JSON files and the heads of its weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench import paths
from workbench.errors import MissingSource, WorkbenchError
from workbench.files import read_json

INDEX, CONFIG, SCHEDULER, WEIGHTS = "model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model"
NETWORKS = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer", "Transformer2DModel": "transformer"}
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
SUPPORTED = (
    "pipelines of a UNet2DModel (DDPMPipeline, DDIMPipeline, PNDMPipeline, ConsistencyModelPipeline) "
    "or of a DiTTransformer2DModel (DiTPipeline) with a scheduler, and an AutoencoderKL where they work on latents"
)
_ACCEPTED = (
    "a teacher's scheduler must have alphas_cumprod (DDPM, DDIM, PNDM, DPM-Solver, Euler and others), match flows, "
    "or be of the EDM or consistency-model kind"
)


@dataclass(frozen=True)
class Clock:
    """How a network is told the time, and what its output means where it is preconditioned.

    Attributes:
        form: "table", "flow", "edm" or "consistency". count: timesteps of the table or of the flow.
        sigma_data, sigma_min, sign: of the preconditioning (EDM, arXiv 2206.00364, table 1; consistency models,
            arXiv 2303.01469, appendix C).
    """

    form: str
    count: int = 1000
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sign: float = 1.0


@dataclass(frozen=True)
class Source:
    """A pipeline's folder, read from its JSON files alone.

    Attributes:
        folder, pipeline, network: where it lies, and the names of its classes. part: folder of the network's files.
        autoencoder: folder of the autoencoder's files, or None. path, kind, clock: what was predicted, and when.
        shape: of one sample, (channels, height, width). classes: labels 0 to classes - 1.
        null: index of the class that means none, or None if the network has none. class_names: as many as classes, or none.
    """

    folder: Path
    pipeline: str
    network: str
    part: Path
    autoencoder: Path | None
    path: paths.Path
    kind: str
    clock: Clock
    shape: tuple[int, int, int]
    classes: int
    null: int | None
    class_names: tuple[str, ...]

    @property
    def latent(self) -> bool:
        """Whether the network works on latents: it has an autoencoder, or is of the kind that always does."""
        return self.autoencoder is not None or self.network == "DiTTransformer2DModel"


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a diffusers pipeline, or a bare network of one."""
    if (folder / INDEX).is_file():
        return True
    return (folder / CONFIG).is_file() and str(_dict(folder / CONFIG).get("_class_name")) in NETWORKS


def read(folder: Path, null_class: bool = False) -> Source:
    """Find out what a folder holds, from its JSON files alone: nothing is loaded or run.

    Args:
        folder: with model_index.json, or of a bare network with scheduler_config.json in it, in scheduler/ or in ../scheduler/.
        null_class: the last class of a UNet2DModel means "no class", as in training with label dropout; taken for granted
            where model_index.json names one class less than the network has.

    Raises:
        WorkbenchError: for a component that is not supported, or a file that is missing or damaged.
    """
    if (folder / INDEX).is_file():
        index = _dict(folder / INDEX)
        part, autoencoder, scheduler = _components(folder, index)
        pipeline = str(index.get("_class_name"))
    else:
        index, part, autoencoder, pipeline = {}, folder, None, "bare network"
        places = (folder, folder / "scheduler", folder.parent / "scheduler")
        scheduler = next((place for place in places if (place / SCHEDULER).is_file()), None)
        if scheduler is None:
            raise WorkbenchError(
                f"{folder} has no {SCHEDULER} in it, in scheduler/ or in ../scheduler/, so its noise levels are unknown: copy it there."
            )
    config = _dict(part / CONFIG)
    network = str(config.get("_class_name"))
    if network not in NETWORKS or (network == "Transformer2DModel" and config.get("norm_type") != "ada_norm_zero"):
        raise WorkbenchError(f"{part / CONFIG} is of a {network}, but supported are {SUPPORTED}.")
    if "quantization_config" in config:
        raise WorkbenchError(f"{part} holds quantised weights: give the folder of the full-precision pipeline.")
    path, kind, clock = _noise(scheduler)
    shape = _shape(part, config)
    return Source(
        folder, pipeline, "UNet2DModel" if network == "UNet2DModel" else "DiTTransformer2DModel", part,
        autoencoder, path, kind, clock, shape, *_classes(part, network, config, index.get("id2label"), null_class),
    )  # fmt: skip


def picture_shape(source: Source) -> tuple[int, int, int] | None:
    """Shape of a decoded sample, from the autoencoder's configuration; None for latents without an autoencoder.

    Raises:
        WorkbenchError: if the configuration is damaged.
    """
    if source.autoencoder is None:
        return None if source.latent else source.shape
    config = _dict(source.autoencoder / CONFIG)
    made, blocks = config.get("out_channels", 3), config.get("up_block_types")
    if not isinstance(made, int) or not isinstance(blocks, list) or not 1 <= len(blocks) <= 8:
        raise WorkbenchError(
            f"{source.autoencoder / CONFIG} has no whole out_channels and up_block_types: fetch the folder again."
        )
    factor = 2 ** (len(blocks) - 1)  # every block but the last doubles both sides
    return made, source.shape[1] * factor, source.shape[2] * factor


def weights(part: Path) -> list[Path]:
    """The safetensors files of one network; those of the first variant where there are several.

    Raises:
        WorkbenchError: if there are pickles only, or nothing.
    """
    files = sorted(part.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        pickles = sorted(path.name for path in part.iterdir() if path.suffix in PICKLES) if part.is_dir() else []
        if pickles:
            raise WorkbenchError(f"{part} holds {pickles[0]}, a pickle, which could run code: convert it to safetensors first.")
        raise WorkbenchError(f"{part} has no {WEIGHTS}.safetensors: restore it from where it came.")
    variant = variant_of(files)
    middle = f".{variant}" if variant else ""
    own = [file for file in files if file.name == f"{WEIGHTS}{middle}.safetensors"]
    return own or [file for file in files if file.name.startswith(f"{WEIGHTS}{middle}-")] or files


def parameters(part: Path) -> int:
    """Number of weights, read from the heads of the files.

    Raises:
        WorkbenchError: as for `weights`, or if a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in weights(part):
        try:
            with safe_open(file, "pt") as opened:
                count += sum(torch.Size(opened.get_slice(name).get_shape()).numel() for name in opened.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WorkbenchError(f"{file} is damaged ({in_a_line(error)}): fetch it again.") from error
    return count


def _components(folder: Path, index: dict[str, Any]) -> tuple[Path, Path | None, Path]:
    """Folders of the network, the autoencoder or None, and the scheduler, after every component's class was checked."""
    found: dict[str, str] = {}
    for part, value in index.items():
        if isinstance(value, list) and len(value) == 2 and not part.startswith("_") and value[1] is not None:
            library, kind = map(str, value)
            known = kind in NETWORKS and NETWORKS[kind] == part
            known |= part == "scheduler" or (part == "vae" and kind == "AutoencoderKL")
            if not known or library != "diffusers":
                raise WorkbenchError(
                    f"{folder} is a {index.get('_class_name')} with a {kind} ({part}), but supported are {SUPPORTED}."
                )
            found[part] = kind
    network = next((part for part in ("unet", "transformer") if part in found), None)
    if network is None or "scheduler" not in found:
        raise WorkbenchError(f"{folder} is a {index.get('_class_name')}, but supported are {SUPPORTED}.")
    for part in found:
        name = SCHEDULER if part == "scheduler" else CONFIG
        if not (folder / part / name).is_file():
            raise MissingSource(f"{folder} has no {part}/{name}, which its {INDEX} names: fetch the folder again.")
    return folder / network, folder / "vae" if "vae" in found else None, folder / "scheduler"


def _noise(part: Path) -> tuple[paths.Path, str, Clock]:
    """Path, kind of prediction and clock, from a scheduler's configuration."""
    import diffusers

    content = _dict(part / SCHEDULER)
    name = str(content.get("_class_name"))
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)) or name.startswith("LCM"):
        raise WorkbenchError(f"{part / SCHEDULER} is of a {name}: {_ACCEPTED}.")
    count = content.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or not 2 <= count <= 100_000:
        raise WorkbenchError(f"{part / SCHEDULER} has {count!r} training timesteps, but must have 2 to 100000.")
    try:
        scheduler = kind.from_config(content)
        path = _named(scheduler, paths.from_scheduler(scheduler))
        conditioned = "sigma_data" in scheduler.config
        data, least = (float(scheduler.config[key]) if conditioned else 0.0 for key in ("sigma_data", "sigma_min"))
    except Exception as error:  # whatever a damaged or unknown configuration makes it raise
        raise WorkbenchError(f"{part / SCHEDULER} is of a {name} ({in_a_line(error)}): {_ACCEPTED}.") from error
    config = scheduler.config
    predicted = str(config.get("prediction_type") or ("flow_prediction" if path.name == "linear" else "epsilon"))
    if predicted not in KINDS or config.get("timestep_type") == "continuous":
        told = predicted if predicted not in KINDS else "continuous timesteps"
        raise WorkbenchError(
            f"{part / SCHEDULER} asks for {told}, but a network must predict one of {', '.join(KINDS)} on a table."
        )
    if conditioned:
        form = "edm" if "EDM" in name else "consistency"
        sign = -1.0 if form == "edm" and predicted == "v_prediction" else 1.0
        return path, "x0", Clock(form, count, data, least, sign)
    return path, KINDS[predicted], Clock("flow" if path.name == "linear" else "table", count)


def _named(scheduler: Any, path: paths.Path) -> paths.Path:
    """The same path under a name that `paths.get` understands, where its table is one of the common ones."""
    config = scheduler.config
    if path.timesteps is None or config.get("trained_betas") is not None or config.get("beta_schedule") not in paths.BETAS:
        return path
    again = paths.from_betas(
        config.beta_schedule, path.timesteps, float(config.beta_start), float(config.beta_end),
        bool(config.get("rescale_betas_zero_snr", False)),
    )  # fmt: skip
    times = torch.arange(1, path.timesteps + 1, dtype=torch.float64) / path.timesteps
    return again if torch.allclose(again.alpha(times), path.alpha(times), rtol=1e-5, atol=1e-9) else path


def _shape(part: Path, config: dict[str, Any]) -> tuple[int, int, int]:
    size, channels = config.get("sample_size"), config.get("in_channels")
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    if not all(isinstance(number, int) and 1 <= number <= 4096 for number in (channels, height, width)):
        raise WorkbenchError(
            f"{part / CONFIG} has sample_size {size!r} and in_channels {channels!r}, but a teacher's samples need fixed ones: add them."
        )
    made = config.get("out_channels") or channels
    if made not in (channels, 2 * channels):
        raise WorkbenchError(
            f"the network in {part} makes {made} channels of {channels}, but must make as many, or twice with a learned variance."
        )
    if config.get("time_embedding_type") == "fourier":
        raise WorkbenchError(f"the network in {part} embeds sigma itself (time_embedding_type fourier): it is not supported.")
    if config.get("class_embed_type") is not None:
        raise WorkbenchError(
            f"the network in {part} takes a {config['class_embed_type']} for a class: only labels are supported."
        )
    return channels, height, width


def _classes(
    part: Path, network: str, config: dict[str, Any], id2label: Any, null_class: bool
) -> tuple[int, int | None, tuple[str, ...]]:
    """Number of classes, index of the null class or None, and the names of the classes."""
    count = config.get("num_class_embeds") or 0 if network == "UNet2DModel" else config.get("num_embeds_ada_norm", 1000)
    if not isinstance(count, int) or not 0 <= count <= 1_000_000:
        raise WorkbenchError(f"{part / CONFIG} has {count!r} classes, but must have a whole number of them.")
    named = id2label if isinstance(id2label, dict) else {}
    if network != "UNet2DModel":
        null = count  # diffusers gives the embedding one row more than there are classes
    elif count > 1 and (null_class or len(named) == count - 1):
        count = null = count - 1
    else:
        null = None
    names = [str(named.get(str(k), "")) for k in range(count)]
    if not count or not all(names):
        return count, null, ()
    return count, null, tuple(f"{name} ({k})" if names.count(name) > 1 else name for k, name in enumerate(names))


def variant_of(files: list[Path]) -> str | None:
    """The fp16 of diffusion_pytorch_model.fp16.safetensors, or None where plain files are there."""
    names = [file.name.removeprefix(WEIGHTS).removesuffix(".safetensors") for file in files]
    if any(not name or name.startswith("-") for name in names):
        return None
    return names[0].removeprefix(".").split("-")[0]


def _dict(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise WorkbenchError(f"{file} is damaged (not a JSON object): restore it from where it came.")
    return content


def in_a_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
