"""Class-activation maps, and what they are worth, on networks whose answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mvsent.learn.attribution import (
    faithfulness,
    grad_cam,
    shuffled,
    without_regions,
    without_words,
)
from mvsent.models import registry
from mvsent.models.batch import REGIONS, Batch, Output
from tests.test_models import ALL_MODELS, contextual, fresh, pairs


class OneRegion(nn.Module):
    """Class 1 by the first channel of region (0, 1) alone; class 2 by nothing."""

    def forward(self, batch: Batch) -> Output:
        assert batch.regions is not None
        strength = batch.regions[:, 0, 0, 1]
        return Output(torch.stack([-strength, strength, 0 * strength], dim=1))


class OneWord(nn.Module):
    """Class 1 for texts with word 7."""

    def forward(self, batch: Batch) -> Output:
        assert batch.words is not None
        strength = 4.0 * (batch.words == 7).any(dim=1) - 2
        return Output(torch.stack([-strength, strength], dim=1))


def picture() -> Batch:
    regions = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.5
    return Batch(regions=regions)


def test_the_map_is_bright_where_the_class_comes_from() -> None:
    maps = grad_cam(OneRegion(), picture(), torch.tensor([1, 1]))
    assert maps.shape == (2, 2, 2)
    assert maps.max() == 1
    assert (maps >= 0).all()


def test_a_class_that_no_region_speaks_for_has_an_empty_map() -> None:
    assert grad_cam(OneRegion(), picture(), torch.tensor([0, 2])).sum() == 0


READERS = [name for name in ALL_MODELS if REGIONS in registry.card(name).reads]


@pytest.mark.parametrize("name", READERS)
def test_every_model_that_reads_regions_has_a_finite_map(name: str) -> None:
    batch = replace(pairs(), target=None)
    maps = grad_cam(fresh(name).eval(), batch, torch.zeros(8, dtype=torch.long))
    assert maps.shape == (8, 4, 4)
    assert maps.isfinite().all()


def test_a_faithful_order_of_regions_deletes_faster_and_inserts_faster_than_a_wrong_one() -> None:
    batch = picture()
    right = torch.tensor([[0.1, 0.9, 0.2, 0.3]] * 2)
    of_right, of_wrong = (
        faithfulness(OneRegion(), batch, order, without_regions) for order in (right, 1 - right)
    )
    assert of_right.deletion < of_wrong.deletion
    assert of_right.insertion > of_wrong.insertion


def test_words_are_deleted_in_their_order_and_padding_never() -> None:
    words = torch.tensor([[3, 7, 4, 0], [7, 5, 0, 0]])
    batch = Batch(words=words, word_mask=words > 0)
    right = torch.tensor([[0.1, 0.8, 0.1, -1], [0.9, 0.1, -1, -1]])
    found = faithfulness(OneWord(), batch, right, without_words)
    wrong = faithfulness(OneWord(), batch, torch.where(right >= 0, 1 - right, -1), without_words)
    assert found.deletion < wrong.deletion
    assert found.insertion > wrong.insertion
    gone = without_words(batch, torch.ones(2, 4, dtype=torch.bool) & (right >= 0)).words
    assert gone is not None
    assert gone.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


def test_words_in_context_become_zero() -> None:
    _, batch = contextual(pairs())
    mask = torch.zeros(8, 7, dtype=torch.bool)
    mask[0, 2] = True
    gone = without_words(batch, mask).word_vectors
    assert gone is not None and gone[0, 2].abs().sum() == 0 and gone[0, 1].abs().sum() > 0


def test_chance_is_the_same_for_a_seed_and_leaves_padding_out() -> None:
    importance = torch.tensor([[0.5, 0.5, -1.0]])

    def chance(seed: int) -> Tensor:
        return shuffled(importance, seed)

    assert torch.equal(chance(1), chance(1))
    assert not torch.equal(chance(1), chance(2))
    assert chance(1)[0, 2] == -1
