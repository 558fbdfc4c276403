"""Every registered model keeps the promises that the trainer and the pictures rely on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from mvsent.errors import UsageError
from mvsent.models import registry
from mvsent.models.attention import masked_mean, masked_softmax
from mvsent.models.batch import Batch, Output, Sizes

ALL_MODELS = registry.names()


def sizes(n_classes: int = 3) -> Sizes:
    vectors = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    return Sizes(channels=12, grid=(4, 4), vectors=vectors, n_classes=n_classes)


def pairs(n_pairs: int = 8, n_words: int = 7) -> Batch:
    """Pairs of different lengths, the first as long as the batch, the second a single word."""
    random = torch.Generator().manual_seed(2)
    words = torch.randint(1, 30, (n_pairs, n_words), generator=random)
    lengths = torch.randint(1, n_words + 1, (n_pairs,), generator=random)
    lengths[:2] = torch.tensor([n_words, 1])
    mask = torch.arange(n_words) < lengths[:, None]
    regions = torch.randn(n_pairs, 12, 4, 4, generator=random).relu()
    return Batch(regions=regions, words=words * mask, word_mask=mask, target=torch.arange(n_pairs) % 3)


def padded(batch: Batch, extra: int) -> Batch:
    assert batch.words is not None and batch.word_mask is not None
    pad = torch.zeros(len(batch.words), extra, dtype=torch.int64)
    return replace(
        batch, words=torch.cat([batch.words, pad], 1), word_mask=torch.cat([batch.word_mask, pad.bool()], 1)
    )


def fresh(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return registry.build(name, sizes(), options)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_card_tells_a_reader_what_to_believe(name: str) -> None:
    card = registry.card(name)
    assert len(card.citation) > 20 and card.url.startswith("https://")
    assert card.fidelity in {"exact", "reconstructed", "substitute"} and card.fidelity_note.endswith(".")
    assert card.reads, "a model that reads nothing cannot learn"
    assert card.published and all(0 < p.accuracy < 100 and 0 < p.f1 < 100 for p in card.published.values())


@pytest.mark.parametrize("name", ALL_MODELS)
def test_every_trained_parameter_gets_a_finite_gradient(name: str) -> None:
    network, batch = fresh(name), pairs()
    logits = network(batch).logits
    torch.nn.functional.cross_entropy(logits, batch.target).backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{parameter_name} is never used"
            assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", ALL_MODELS)
@pytest.mark.parametrize("extra", [1, 9])
def test_more_padding_changes_nothing(name: str, extra: int) -> None:
    network, batch = fresh(name).eval(), pairs()
    plain: Output = network(batch)
    longer: Output = network(padded(batch, extra))
    torch.testing.assert_close(plain.logits, longer.logits)
    if "words" in plain.attention:
        n_words = plain.attention["words"].shape[1]
        torch.testing.assert_close(plain.attention["words"], longer.attention["words"][:, :n_words])
        assert (longer.attention["words"][:, n_words:] == 0).all()


@pytest.mark.parametrize("name", ALL_MODELS)
def test_a_pair_is_judged_alike_alone_and_in_company(name: str) -> None:
    network, batch = fresh(name).eval(), pairs()
    together = network(batch).logits
    for row in (0, 1, 5):
        alone = network(batch.map(lambda tensor, row=row: tensor[row : row + 1])).logits
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_words_get_all_the_attention_and_padding_exactly_none(name: str) -> None:
    batch = pairs()
    attention = fresh(name).eval()(batch).attention
    if "words" not in attention:
        pytest.skip(f"{name} has no attention over words")
    assert (attention["words"][~batch.word_mask] == 0).all()
    torch.testing.assert_close(attention["words"].sum(dim=1), torch.ones(8))


@pytest.mark.parametrize("name", ALL_MODELS)
def test_saved_and_loaded_it_says_the_same(name: str) -> None:
    network, batch = fresh(name).eval(), pairs()
    torch.manual_seed(99)
    other = registry.build(name, sizes(), {}).eval()
    other.load_state_dict(load(save({k: v.contiguous() for k, v in network.state_dict().items()})))
    torch.testing.assert_close(other(batch).logits, network(batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_it_can_overfit_eight_pairs(name: str) -> None:
    network, batch = fresh(name), pairs()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(network(batch).logits, batch.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval()(batch).logits.argmax(dim=1) == batch.target).all()


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no model is called 'dmlnet'\. Known are: .*dmlanet"):
        registry.card("dmlnet")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"--option gates.*dmlanet knows .*gate=relu"):
        registry.options("dmlanet", {"gates": "relu"})


def test_options_typed_as_words_become_numbers_and_switches() -> None:
    chosen = registry.options("dmlanet", {"hidden": "32", "train_words": "true"})
    assert (chosen.hidden, chosen.train_words) == (32, True)  # type: ignore[attr-defined]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.integers(0, 255))
def test_masked_softmax_is_a_distribution_over_what_is_there(scores: list[float], bits: int) -> None:
    mask = torch.tensor([bool(bits >> i & 1) for i in range(len(scores))])
    weights = masked_softmax(torch.tensor(scores), mask, dim=0)
    assert (weights[~mask] == 0).all()
    assert weights.sum().item() == pytest.approx(1.0 if mask.any() else 0.0, abs=1e-5)


def test_the_mean_of_no_words_is_zero() -> None:
    assert (masked_mean(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)) == 0).all()
