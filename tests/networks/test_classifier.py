"""The classifier: shapes, round trip, and what the bundled ones are worth."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from workbench import data, metrics
from workbench.errors import MissingSource, WorkbenchError
from workbench.metrics import features as bundled
from workbench.networks.classifier import Classifier
from workbench.zoo import classifier as zoo


@pytest.mark.parametrize("size, channels, classes", [(28, 1, 10), (8, 1, 10), (32, 3, 4)])
def test_shapes_follow_the_configuration(size, channels, classes):
    net = Classifier(image_size=size, channels=channels, classes=classes, width=4).eval()
    x = torch.zeros(3, channels, size, size)
    assert net.features(x).shape == (3, 64) and net(x).shape == (3, classes)


def test_bad_sizes_and_images_are_refused():
    with pytest.raises(WorkbenchError, match=r"takes \(n, 1, 8, 8\)"):
        Classifier(image_size=8, width=4)(torch.zeros(2, 1, 28, 28))
    with pytest.raises(WorkbenchError, match="image_size is 4"):
        Classifier(image_size=4)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    net = Classifier(image_size=8, width=4).eval()
    net.save_pretrained(tmp_path)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Classifier.from_pretrained(tmp_path)(x), net(x))


def test_a_training_run_is_repeatable_and_documented(tmp_path):
    state = torch.get_rng_state()
    scores = [zoo.train_classifier("digits", tmp_path / name, epochs=2) for name in ("a", "b")]
    assert torch.equal(state, torch.get_rng_state())
    cards = [json.loads((tmp_path / name / "card.json").read_text()) for name in ("a", "b")]
    assert scores[0] == scores[1] > 0.5 and cards[0]["sha256"] == cards[1]["sha256"]
    assert cards[0]["test_accuracy"] == round(scores[0], 4) and (cards[0]["epochs"], cards[0]["seed"]) == (2, 0)


@pytest.mark.parametrize("reach, name", [(2, "fashion"), (1, "digits")])
def test_augmentation_only_shifts_and_mirrors(reach, name):
    size = 28 if name == "fashion" else 8
    images = torch.full((200, 1, size, size), -1.0)
    images[:, 0, 5, 3] = 1.0
    moved = zoo._augment(images, name, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and bool((moved.sum((1, 2, 3)) == images.sum((1, 2, 3))).all())
    _, _, rows, columns = (moved > 0).nonzero(as_tuple=True)
    assert set(rows.tolist()) == set(range(5 - reach, 6 + reach))
    straight = set(range(3 - reach, 4 + reach))
    assert set(columns.tolist()) == straight | ({size - 1 - c for c in straight} if name == "fashion" else set())


@pytest.mark.parametrize("name, count", [("digits", 1797), ("fashion", 5000)])
def test_the_bundle_is_whole_small_and_frozen(name, count):
    folder = bundled.BUNDLED / f"{name}-classifier"
    card = json.loads((folder / "card.json").read_text())
    weights = folder / card["weights"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size < 500_000
    net = bundled.features(name)
    assert net is bundled.features(name) and not net.training and net.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in net.parameters())
    real, labels = metrics.reference(name)
    assert real.shape == (count, 64) and real.dtype == torch.float64 and bool(torch.isfinite(real).all())
    # features are standardised on the (shifted) training images, so those of other real images are nearly so
    assert float(real.mean(0).abs().max()) < 0.6 and 0.5 < float(real.std(0).mean()) < 1.6
    assert labels.bincount().min() > 0.08 * count


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_stored_features_are_those_of_the_stored_images(name):
    """Each stored image's features, rounded to half precision, are a row of the reference with the same label."""
    images, labels = metrics.reference_images(name)
    real, real_labels = metrics.reference(name)
    assert len(images) == 64 and float(images.min()) == -1.0 and float(images.max()) <= 1.0
    gaps = torch.cdist(metrics.image_features(name, images), real)
    near = gaps.min(1)
    assert float(near.values.max()) < (0.3 if name == "digits" else 0.02)  # digits have 17 levels, stored in 256
    assert torch.equal(real_labels[near.indices], labels)


def test_bundled_digits_classifier_is_accurate():
    test = data.load("digits", "test")
    assert metrics.class_agreement(metrics.image_logits("digits", test.images), test.labels) >= 0.97


def test_bundled_fashion_classifier_is_accurate():
    try:
        test = data.load("fashion", "test")
    except MissingSource as error:
        pytest.skip(str(error))
    assert metrics.class_agreement(metrics.image_logits("fashion", test.images[:1000]), test.labels[:1000]) >= 0.91


def test_real_features_are_closer_to_real_features_than_noise_is():
    real, _ = metrics.reference("digits")
    noise = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    figure = metrics.measure(metrics.frechet_distance, metrics.image_features("digits", noise), real)
    assert figure.n == 400 and figure.value > 5 * figure.floor


def test_what_is_not_bundled_is_refused(monkeypatch, tmp_path):
    with pytest.raises(WorkbenchError, match="did you mean 'fashion'"):
        metrics.reference("fashon")
    with pytest.raises(WorkbenchError, match=r"\(n, 1, size, size\)"):
        metrics.image_features("digits", torch.zeros(8, 8))
    with pytest.raises(WorkbenchError, match="NaN"):
        metrics.image_features("digits", torch.full((1, 1, 8, 8), torch.nan))
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path)
    bundled._stored.cache_clear()
    with pytest.raises(MissingSource, match=r"reference-digits\.safetensors is missing"):
        metrics.reference("digits")
    bundled._stored.cache_clear()
