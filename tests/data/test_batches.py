"""What a training step sees depends on its generator alone, and bad data is refused before training starts."""

from __future__ import annotations

import pytest
import torch

from workbench import data
from workbench.data.batches import sampler
from workbench.errors import WorkbenchError

X = torch.arange(50.0).reshape(25, 2)
Y = torch.arange(25) % 5


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_depend_only_on_the_generator():
    draw = sampler((X, Y), 8, "cpu")
    first = draw(rng(1))
    torch.manual_seed(5)
    draw(rng(2))  # what was drawn before does not matter
    again, fresh = draw(rng(1)), sampler((X.clone(), Y.clone()), 8, "cpu")(rng(1))
    for other in (again, fresh):
        assert torch.equal(first[0], other[0]) and torch.equal(first[1], other[1])
    assert not torch.equal(first[0], draw(rng(2))[0])
    state = torch.get_rng_state()
    draw(rng(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_items_keep_their_labels_and_all_are_drawn():
    x, y = sampler((X, Y), 2000, "cpu")(rng(0))
    assert torch.equal(y, (x[:, 0] / 2).long() % 5)
    assert set((x[:, 0] / 2).long().tolist()) == set(range(25))


def test_every_kind_of_data():
    assert sampler(None, 4, "cpu")(rng(0)) == (None, None)
    x, y = sampler(X, 4, "cpu")(rng(0))
    assert x.shape == (4, 2) and y is None
    x, y = sampler((X, None), 4, "cpu")(rng(0))
    assert x.shape == (4, 2) and y is None
    x, y = sampler(data.digits("test"), 4, "cpu")(rng(0))
    assert x.shape == (4, 1, 8, 8) and y.shape == (4,)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (X.clone().index_fill_(0, torch.tensor([3]), float("nan")), "NaN or infinite"),
        (X.clone().index_fill_(0, torch.tensor([3]), float("inf")), "NaN or infinite"),
        (X[:0], "empty"),
        ((X, Y[:7]), "25 items but 7 labels"),
        ((X, [1, 2]), "give an ImageSet, a tensor"),
        (torch.tensor(1.0), "give an ImageSet, a tensor"),
        ([1, 2, 3], "data is a list"),
        ("digits", "data is a str"),
    ],
)
def test_bad_data_is_refused(bad, said):
    with pytest.raises(WorkbenchError, match=said):
        sampler(bad, 4, "cpu")
