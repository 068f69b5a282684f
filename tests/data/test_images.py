"""Image sets: what each source gives, and what each says when it is missing or damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from workbench import data
from workbench.data import images as module
from workbench.data.images import FASHION_CLASSES, read_idx
from workbench.errors import MissingSource, UnknownName, WorkbenchError


def idx(values: torch.Tensor) -> bytes:
    """The IDX encoding of unsigned bytes, written out by hand."""
    sides = b"".join(side.to_bytes(4, "big") for side in values.shape)
    return bytes([0, 0, 8, values.dim()]) + sides + bytes(values.flatten().tolist())


def random_bytes(*shape: int, top: int = 256) -> torch.Tensor:
    return torch.randint(top, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def write_fashion(folder: Path, n: int = 12, ending: str = ".gz") -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = random_bytes(n, 28, 28), torch.arange(n, dtype=torch.uint8) % 10
    for stem in ("train", "t10k"):
        for what, values in (("images-idx3", pictures), ("labels-idx1", labels)):
            raw = idx(values)
            (folder / f"{stem}-{what}-ubyte{ending}").write_bytes(gzip.compress(raw) if ending else raw)
    return pictures, labels


def write_picture(file: Path, colour: tuple[int, int, int], size: int = 16) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(file)


def test_digits():
    train, test = data.digits(), data.load("digits", split="test")
    assert train.images.shape == (1500, 1, 8, 8) and test.images.shape == (297, 1, 8, 8)
    assert train.images.dtype == torch.float32 and float(train.images.min()) == -1 and float(train.images.max()) == 1
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10)) and train.classes == tuple("0123456789")
    rows = {tuple(row) for row in train.images.flatten(1).tolist()}
    assert sum(tuple(row) in rows for row in test.images.flatten(1).tolist()) == 0  # nothing of the test split was trained on
    assert torch.equal(data.digits().labels, train.labels) and "1500 images 1x8x8, 10 classes" in repr(train)


def test_unknown_splits_and_names():
    with pytest.raises(UnknownName, match=r"unknown split 'tests': did you mean 'test'\?"):
        data.digits("tests")
    with pytest.raises(UnknownName, match=r"did you mean 'fashion'\?"):
        data.load("fasion")
    with pytest.raises(UnknownName, match="unknown data set"):
        data.load("b" * 5000)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (2, 1, 3, 2)])
def test_idx_round_trip(tmp_path, ending, shape):
    values = random_bytes(*shape)
    file = tmp_path / f"some-idx-ubyte{ending}"
    file.write_bytes(gzip.compress(idx(values)) if ending else idx(values))
    assert torch.equal(read_idx(file), values)


def test_damaged_idx_files_are_named(tmp_path):
    whole = idx(random_bytes(4, 3))
    packed = gzip.compress(whole)
    flipped = packed[:14] + bytes([packed[14] ^ 255]) + packed[15:]
    wrong = {"truncated": whole[:-1], "long": whole + b"x", "magic": b"\x00\x00\x0d" + whole[3:], "short": b"\x00\x00",
             "empty": b"", "none": idx(torch.zeros(0, 3, dtype=torch.uint8)), "rank.gz": gzip.compress(b"\x00\x00\x08\x09" + whole[4:]),
             "cut.gz": packed[:-9], "plain.gz": whole, "flipped.gz": flipped}  # fmt: skip
    for name, raw in wrong.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(WorkbenchError, match=rf"{name}.*fetch it again"):
            read_idx(tmp_path / name)
    with pytest.raises(WorkbenchError, match="cannot be read"):
        read_idx(tmp_path / "absent")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_fashion_from_a_local_folder(tmp_path, monkeypatch, ending, split):
    pictures, labels = write_fashion(tmp_path, ending=ending)
    monkeypatch.setenv("WORKBENCH_FASHION", str(tmp_path))
    found = data.load("fashion", split)
    assert torch.equal(((found.images + 1) * 127.5).round().to(torch.uint8).squeeze(1), pictures)
    assert torch.equal(found.labels, labels.long()) and found.classes == FASHION_CLASSES and str(tmp_path) in found.source
    assert torch.equal(data.fashion(split, folder=tmp_path).images, found.images)


def test_fashion_files_that_do_not_belong_together(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(random_bytes(11, top=10))))
    with pytest.raises(WorkbenchError, match="fetch them again"):
        data.fashion("train", folder=tmp_path)
    assert len(data.fashion("test", folder=tmp_path)) == 12


def test_fashion_from_debian(fashion_folder):
    found = data.fashion("test", folder=fashion_folder)
    assert found.images.shape == (10000, 1, 28, 28) and float(found.images.min()) == -1 and float(found.images.max()) == 1
    assert torch.bincount(found.labels).tolist() == [1000] * 10
    # a trouser is two legs: the columns between them, low in the image, are darker than the legs
    trouser = found.images[found.labels == FASHION_CLASSES.index("Trouser")].mean(0)[0, 20:]
    assert float(trouser[:, 14].mean()) < float(trouser[:, 10].mean()) - 0.2


def test_a_missing_source_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_FASHION", raising=False)
    with pytest.raises(
        MissingSource, match=r"no Fashion-MNIST IDX files .*apt-get install dataset-fashion-mnist.*WORKBENCH_FASHION"
    ):
        data.fashion(folder=tmp_path)
    monkeypatch.setattr(module, "FASHION_FOLDERS", (str(tmp_path / "absent"),))
    monkeypatch.setattr(module, "hub", lambda *_, **__: (_ for _ in ()).throw(MissingSource("not reachable")))
    with pytest.raises(MissingSource, match="not on this machine: install Debian's package"):
        data.fashion()


def test_image_folder_with_classes(tmp_path):
    write_picture(tmp_path / "red" / "a.png", (255, 0, 0))
    write_picture(tmp_path / "red" / "deep" / "b.JPG", (255, 0, 0), 20)
    write_picture(tmp_path / "blue" / "a.png", (0, 0, 255), 9)
    (tmp_path / "blue" / "notes.txt").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    found = data.load(str(tmp_path), size=8)
    assert found.images.shape == (3, 3, 8, 8) and found.classes == ("blue", "red", "red/deep")
    assert found.labels.tolist() == [0, 1, 2]
    assert torch.allclose(found.images[0, :, 4, 4], torch.tensor([-1.0, -1.0, 1.0]))
    assert torch.allclose(found.images[1, :, 4, 4], torch.tensor([1.0, -1.0, -1.0]))
    assert data.image_folder(tmp_path, size=8, grey=True).images.shape == (3, 1, 8, 8)


def test_image_folder_without_classes(tmp_path):
    write_picture(tmp_path / "a.png", (0, 0, 0))
    found = data.image_folder(tmp_path, size=4)
    assert found.labels is None and found.classes == () and torch.equal(found.images, -torch.ones(1, 3, 4, 4))


def test_bad_image_folders(tmp_path):
    with pytest.raises(MissingSource, match="does not exist"):
        data.image_folder(tmp_path / "absent")
    with pytest.raises(WorkbenchError, match="no image"):
        data.image_folder(tmp_path)
    write_picture(tmp_path / "class" / "good.png", (1, 2, 3))
    with pytest.raises(WorkbenchError, match="size is 0"):
        data.image_folder(tmp_path, size=0)
    write_picture(tmp_path / "beside.png", (1, 2, 3))
    with pytest.raises(WorkbenchError, match="both beside and inside class folders"):
        data.image_folder(tmp_path)
    (tmp_path / "beside.png").unlink()
    good = (tmp_path / "class" / "good.png").read_bytes()
    for raw in (b"", b"GIF89a nonsense", good[: len(good) // 2], good[:40] + b"\xff" * 20 + good[60:]):
        (tmp_path / "class" / "bad.png").write_bytes(raw)
        with pytest.raises(WorkbenchError, match=r"bad\.png is not a readable image"):
            data.image_folder(tmp_path)


@pytest.fixture(scope="module")
def saved_set(tmp_path_factory):
    """Six pictures in two classes, as `datasets` saves them: whole, and inside a dictionary of splits."""
    import datasets
    from PIL import Image

    folder = tmp_path_factory.mktemp("hub")
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dark", "light"])})
    rows = {"picture": [Image.new("L", (10, 10), 40 * k) for k in range(6)], "kind": [0, 0, 0, 1, 1, 1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(folder / "table")
    datasets.DatasetDict({"test": table}).save_to_disk(folder / "splits")
    datasets.Dataset.from_dict({"number": [1, 2]}).save_to_disk(folder / "numbers")
    return folder


def test_hub_reads_what_datasets_saved(saved_set, monkeypatch):
    found = data.hub(str(saved_set / "table"), size=10, grey=True)
    assert (
        found.images.shape == (6, 1, 10, 10)
        and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
        and found.classes == ("dark", "light")
    )
    assert torch.allclose(found.images[:, 0, 0, 0], torch.arange(6) * 40 / 127.5 - 1)
    assert data.load(str(saved_set / "table"), size=5, limit=2).images.shape == (2, 3, 5, 5)
    assert torch.equal(data.hub(str(saved_set / "splits"), "test", size=10, grey=True).images, found.images)
    monkeypatch.chdir(saved_set)
    assert len(data.load("table", size=4)) == 6


def test_hub_says_what_is_wrong(saved_set, monkeypatch):
    with pytest.raises(UnknownName, match=r"unknown split 'train'.*Known: test"):
        data.hub(str(saved_set / "splits"))
    with pytest.raises(WorkbenchError, match="no image column; its columns are number"):
        data.hub(str(saved_set / "numbers"))
    with pytest.raises(WorkbenchError, match="limit is 0"):
        data.hub(str(saved_set / "table"), limit=0)
    with pytest.raises(MissingSource, match=r"data set .* could not be opened"):
        data.hub("no such/data set")
    import datasets

    empty = datasets.load_from_disk(str(saved_set / "table")).select([])
    monkeypatch.setattr(datasets, "load_from_disk", lambda name: empty)
    with pytest.raises(WorkbenchError, match="no rows"):
        data.hub(str(saved_set / "table"))
