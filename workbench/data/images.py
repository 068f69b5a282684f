"""Image sets as tensors in [-1, 1]: digits (scikit-learn), Fashion-MNIST, image folders, any Hub set."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workbench.errors import MissingSource, WorkbenchError, check_count, unknown

FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
FASHION_FOLDERS = ("/usr/share/datasets/fashion-mnist", "/usr/share/dataset-fashion-mnist")
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


@dataclass(frozen=True)
class ImageSet:
    """Images (n, channels, size, size) in [-1, 1], float32, with labels (n,) or None.

    `classes` names the labels; `source` says where the images came from.
    """

    images: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"ImageSet({len(self)} images {shape}, {len(self.classes)} classes, from {self.source})"


def digits(split: str = "train") -> ImageSet:
    """scikit-learn's 8x8 digits: 1500 images to train, 297 to test; no download.

    >>> digits("test").images.shape
    torch.Size([297, 1, 8, 8])
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    chosen = order[:1500] if _split(split) == "train" else order[1500:]
    images = torch.from_numpy(raw.images).float().div(8).sub(1).unsqueeze(1)
    return ImageSet(images[chosen], torch.from_numpy(raw.target).long()[chosen], tuple("0123456789"), "scikit-learn digits")


def fashion(split: str = "train", folder: str | Path | None = None) -> ImageSet:
    """Fashion-MNIST, 60000 train and 10000 test images of 28x28, from IDX files or through `datasets`.

    Looks in `folder`, in WORKBENCH_FASHION, in the places where Debian's `dataset-fashion-mnist` puts its
    files, then asks the Hub for `zalando-datasets/fashion_mnist`.

    Raises:
        MissingSource: if no source has it; the message says how to get it.
    """
    split = _split(split)
    given = folder or os.environ.get("WORKBENCH_FASHION")
    for place in [Path(given)] if given else [Path(name) for name in FASHION_FOLDERS]:
        stem = "train" if split == "train" else "t10k"
        image_file, label_file = _idx_file(place, f"{stem}-images"), _idx_file(place, f"{stem}-labels")
        if image_file and label_file:
            images, labels = read_idx(image_file), read_idx(label_file).long()
            if images.shape != (len(labels), 28, 28) or labels.dim() != 1 or int(labels.max()) > 9:
                raise WorkbenchError(
                    f"the IDX files in {place} are not images of 28x28 with a label from 0 to 9 each: fetch them again."
                )
            return ImageSet(images.float().div(127.5).sub(1).unsqueeze(1), labels, FASHION_CLASSES, f"IDX files in {place}")
    advice = (
        "install Debian's package (apt-get install dataset-fashion-mnist), put the four IDX files into a folder and set "
        "WORKBENCH_FASHION to it, or connect to the Hub"
    )
    if given:
        raise MissingSource(f"no Fashion-MNIST IDX files (train-images..., train-labels...) in {given!s}: {advice}.")
    try:
        return hub("zalando-datasets/fashion_mnist", split, size=28, grey=True)
    except WorkbenchError as error:
        raise MissingSource(f"Fashion-MNIST is not on this machine: {advice}.") from error


def hub(name: str, split: str = "train", size: int = 32, grey: bool = False, limit: int | None = None) -> ImageSet:
    """Any image set that `datasets.load_dataset` or `load_from_disk` can open, resized to `size`.

    The image column is the first one of `Image` type; the label column the first `ClassLabel`.

    Raises:
        MissingSource: if the set cannot be opened. WorkbenchError: if it has no image column.
    """
    import datasets

    check_count("size", size)
    try:
        local = (Path(name).is_dir() and (Path(name) / "dataset_info.json").exists()) or (
            Path(name) / "dataset_dict.json"
        ).exists()
        table = datasets.load_from_disk(name) if local else datasets.load_dataset(name, split=split)
    except Exception as error:  # datasets raises many types, all of which mean: not available
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingSource(
            f"data set {name!r} could not be opened ({reason}): check the name, or the connection to the Hub."
        ) from error
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise unknown("split", split, table)
        table = table[split]
    features = table.features
    columns = [key for key, value in features.items() if isinstance(value, datasets.Image)]
    if not columns:
        raise WorkbenchError(f"data set {name!r} has no image column; its columns are {', '.join(features)}.")
    if limit is not None:
        table = table.select(range(min(check_count("limit", limit), len(table))))
    if len(table) == 0:
        raise WorkbenchError(f"data set {name!r} has no rows in this split: choose another.")
    label = next((key for key, value in features.items() if isinstance(value, datasets.ClassLabel)), None)
    images = torch.stack([_to_tensor(image, size, grey) for image in table[columns[0]]])
    labels = torch.tensor(list(table[label])) if label else None
    return ImageSet(images, labels, tuple(features[label].names) if label else (), f"data set {name}")


def image_folder(folder: str | Path, size: int = 32, grey: bool = False) -> ImageSet:
    """All images below a folder, resized; sub-folders are classes.

    Raises:
        MissingSource: if the folder does not exist. WorkbenchError: if it has no image, or one cannot be read.
    """
    from PIL import Image

    check_count("size", size)
    root = Path(folder)
    if not root.is_dir():
        raise MissingSource(f"image folder {root} does not exist: give a folder with {', '.join(sorted(IMAGE_ENDINGS))} files.")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    if not files:
        raise WorkbenchError(f"no image ({', '.join(sorted(IMAGE_ENDINGS))}) below {root}.")
    names = sorted({path.parent.relative_to(root).as_posix() for path in files} - {"."})
    images = []
    for path in files:
        try:
            images.append(_to_tensor(path, size, grey))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for bad files
            raise WorkbenchError(f"{path} is not a readable image: remove or repair it.") from error
    labels = None
    if names:
        if any(path.parent == root for path in files):
            raise WorkbenchError(f"{root} holds images both beside and inside class folders: use one or the other.")
        labels = torch.tensor([names.index(path.parent.relative_to(root).as_posix()) for path in files])
    return ImageSet(torch.stack(images), labels, tuple(names), f"folder {root}")


def load(name: str, split: str = "train", **options) -> ImageSet:
    """Return `digits`, `fashion`, an image folder, or a Hub set by name.

    >>> load("digits").images.shape
    torch.Size([1500, 1, 8, 8])
    """
    if name == "digits":
        return digits(split, **options)
    if name == "fashion":
        return fashion(split, **options)
    if _is_folder(name) and not any((Path(name) / mark).exists() for mark in ("dataset_info.json", "dataset_dict.json")):
        return image_folder(name, **options)
    if "/" in name or _is_folder(name):
        return hub(name, split, **options)
    raise unknown("data set", name, ["digits", "fashion", "OWNER/NAME on the Hub", "a folder of images"])


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes (the format of MNIST), plain or gzipped.

    Raises:
        WorkbenchError: if the file is not a whole IDX file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise WorkbenchError(f"{path} cannot be read ({error}): fetch it again.") from error
    rank = raw[3] if len(raw) > 4 else 0
    shape = [int.from_bytes(raw[4 + 4 * k : 8 + 4 * k], "big") for k in range(rank)]
    count = 1
    for side in shape:
        count *= side
    if raw[:3] != b"\x00\x00\x08" or not 1 <= rank <= 4 or count < 1 or len(raw) != 4 + 4 * rank + count:
        raise WorkbenchError(f"{path} is not a whole IDX file of bytes: fetch it again.")
    return torch.frombuffer(bytearray(raw[4 + 4 * rank :]), dtype=torch.uint8).reshape(shape)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # a name too long for a path
        return False


def _idx_file(folder: Path, stem: str) -> Path | None:
    if not folder.is_dir():
        return None
    return next((path for path in sorted(folder.rglob("*")) if path.name.startswith(stem) and "idx" in path.name), None)


def _to_tensor(image, size: int, grey: bool) -> Tensor:
    from PIL import Image
    from torch import frombuffer

    picture = image if isinstance(image, Image.Image) else Image.open(image)
    picture = picture.convert("L" if grey else "RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    flat = frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.reshape(size, size, -1).permute(2, 0, 1).float().div(127.5).sub(1)


def _split(split: str) -> str:
    if split not in ("train", "test"):
        raise unknown("split", split, ["train", "test"])
    return split
