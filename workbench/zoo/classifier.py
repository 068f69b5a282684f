"""How the bundled classifiers and their reference features were made.

`workbench zoo build fashion/classifier --into FOLDER` trains one; `make_reference("fashion")` follows it.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from workbench.data import ImageSet, load
from workbench.errors import Diverged, check_count, unknown
from workbench.files import write_atomically, write_json
from workbench.metrics.features import BUNDLED, image_features
from workbench.networks.classifier import Classifier

NAMES = {"digits": "scikit-learn digits", "fashion": "Fashion-MNIST"}
WIDTHS = {"digits": 16, "fashion": 32}
EPOCHS = {"digits": 15, "fashion": 8}
BATCH = {"digits": 50, "fashion": 200}
NOISY_EPOCHS = {"digits": 5, "fashion": 1}
REFERENCE = {"digits": 1797, "fashion": 5000}
SHOWN = 64


class Stage(NamedTuple):
    """One AdamW run with a linear warm-up and cosine decay; `noise` is the most that is added to half of the images."""

    epochs: int
    lr: float
    noise: float
    seed: int


def train_classifier(
    name: str,
    folder: str | os.PathLike,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> float:
    """Train a `Classifier` on a data set's training split, save it, and return its accuracy on the test split.

    The folder receives config.json, the weights in bfloat16 (safetensors) and card.json. The accuracy is that of the
    saved, rounded weights. There are two stages, on clean images and then, briefly, with noise on half of them. Without
    the second, noise of 0.3 moves fashion images ten times as far, in Frechet distance, as pure noise is from them.
    Images are always shifted by up to two pixels (fashion) or one (digits), and those of fashion mirrored, at random.

    Args:
        name: "digits" or "fashion".
        folder: where the classifier goes; created if absent.
        epochs: passes of the first stage, at least 1; by default 15 (digits) or 8 (fashion).
        seed: of initial weights, order, augmentation and noise.
        device: where to train.

    Raises:
        UnknownName: for another data set. MissingSource: if the data is not on this machine.
        Diverged: if the loss is not finite.
    """
    train, test = _data(name, "train"), _data(name, "test")
    epochs = check_count("epochs", EPOCHS[name] if epochs is None else epochs)
    began = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Classifier(image_size=train.images.shape[-1], classes=len(train.classes), width=WIDTHS[name]).to(device)
    for stage in (Stage(epochs, 4e-3, 0.0, seed), Stage(NOISY_EPOCHS[name], 1e-3, 0.3, seed + 2**32)):
        _fit(net, name, train, test, stage)
        net.bfloat16().float()  # the second stage starts from what the first one would save, and so can be repeated alone
    training = {
        "seed": seed,
        "epochs": epochs,
        "noisy_epochs": NOISY_EPOCHS[name],
        "n_train": len(train),
        "seconds": round(time.monotonic() - began),
        "hardware": _hardware(device),
    }
    return _save(net, Path(folder), name, test, training)


def make_reference(name: str, folder: str | os.PathLike = BUNDLED) -> Path:
    """Store what the metrics need of the real images, so that measuring needs no data set; returns the file.

    `reference-NAME.safetensors` holds `features` (n, 64) float16 and `labels` (n,) uint8 of all 1797 digits, or of 5000
    test images of fashion chosen at random, and 64 of the real images themselves with their labels, class after class
    in turn: `images` (64, size, size) and `image_labels` (64,), uint8. The classifier must be in `BUNDLED` already.

    Raises:
        UnknownName: for another data set. MissingSource: if the data or the classifier is missing.
    """
    test = _data(name, "test")
    images, labels = test.images, test.labels
    if name == "digits":
        train = _data(name, "train")
        images, labels = torch.cat([train.images, images]), torch.cat([train.labels, labels])
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: REFERENCE[name]]
    images, labels = images[chosen], labels[chosen]
    shown = _in_turn(labels)[:SHOWN]
    tensors = {
        "features": image_features(name, images).half(),
        "labels": labels.to(torch.uint8),
        "images": images[shown, 0].add(1).mul(127.5).round().to(torch.uint8),
        "image_labels": labels[shown].to(torch.uint8),
    }
    file = Path(folder) / f"reference-{name}.safetensors"
    about = {
        "data": NAMES[name],
        "n": str(len(images)),
        "seed": "0",
        "made_by": f"workbench.zoo.classifier.make_reference({name!r})",
    }
    write_atomically(file, lambda path: save_file(tensors, path, metadata=about))
    file.chmod(0o644)
    return file


def _data(name: str, split: str) -> ImageSet:
    if name not in WIDTHS:
        raise unknown("bundled classifier", name, WIDTHS)
    return load(name, split)


def _fit(net: Classifier, name: str, train: ImageSet, test: ImageSet, stage: Stage) -> None:
    rng, device, began = torch.Generator().manual_seed(stage.seed), net.device, time.monotonic()
    steps = math.ceil(len(train) / BATCH[name]) * stage.epochs
    optimizer = torch.optim.AdamW(net.parameters(), lr=stage.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    for epoch in range(stage.epochs):
        net.train()
        total = 0.0
        for chosen in torch.randperm(len(train), generator=rng).split(BATCH[name]):
            x, y = _augment(train.images[chosen], name, rng), train.labels[chosen].to(device)
            x = _noised(x, stage.noise, rng) if stage.noise else x
            loss = F.cross_entropy(net(x.to(device)), y, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if not math.isfinite(total):
            raise Diverged(f"training the {name} classifier diverged in epoch {epoch + 1}: use another seed.")
        print(
            f"{name} classifier, {'noisy' if stage.noise else 'clean'} epoch {epoch + 1}/{stage.epochs}: "
            f"loss {total / len(train):.4f}, test accuracy {_accuracy(net, test):.4f}, {time.monotonic() - began:.0f} s",
            flush=True,
        )


def _rate(fraction: float, warmup: float = 0.1) -> float:
    return fraction / warmup if fraction < warmup else 0.5 + 0.5 * math.cos(math.pi * (fraction - warmup) / (1 - warmup))


def _augment(images: Tensor, name: str, rng: torch.Generator) -> Tensor:
    reach, size = (2, 28) if name == "fashion" else (1, 8)
    padded = F.pad(images, [reach] * 4, value=-1.0)
    down, right = torch.randint(2 * reach + 1, (2, len(images), 1), generator=rng)
    rows, columns = torch.arange(size) + down, torch.arange(size) + right
    shifted = padded[torch.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if name == "digits":
        return shifted
    mirrored = torch.rand(len(images), generator=rng) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted)


def _noised(images: Tensor, most: float, rng: torch.Generator) -> Tensor:
    strength = most * torch.rand(len(images), 1, 1, 1, generator=rng) * (torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5)
    return images + strength * torch.randn(images.shape, generator=rng)


@torch.no_grad()
def _accuracy(net: Classifier, data: ImageSet) -> float:
    net.eval()
    guesses = torch.cat([net(part.to(net.device)).argmax(1).cpu() for part in data.images.split(500)])
    return float((guesses == data.labels).double().mean())


def _save(net: Classifier, folder: Path, name: str, test: ImageSet, training: dict[str, object]) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    net.cpu().bfloat16().save_pretrained(folder)
    accuracy = _accuracy(Classifier.from_pretrained(folder, torch_dtype=torch.float32), test)
    weights = next(folder.glob("*.safetensors"))
    weights.chmod(0o644)  # safetensors writes files that only their owner can read
    card = {
        "model": f"{name}/classifier",
        "data": NAMES[name],
        **training,
        "test_accuracy": round(accuracy, 4),
        "n_test": len(test),
        "precision": "bfloat16",
        "weights": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "command": f"workbench zoo build {name}/classifier",
    }
    write_json(folder / "card.json", card)
    return accuracy


def _hardware(device: str | torch.device) -> str:
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({capability}), {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def _in_turn(labels: Tensor) -> Tensor:
    """Indices that visit the classes in turn: the first item of each class, then the second of each, and so on."""
    place = torch.zeros_like(labels)
    for label in labels.unique():
        of_class = labels == label
        place[of_class] = torch.arange(int(of_class.sum()))
    return torch.argsort(place * (int(labels.max()) + 1) + labels)
