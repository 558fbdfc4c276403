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
from mvsent.models.batch import (
    ANP_SCORES,
    CAPTION,
    LEXICON,
    SCENE,
    TEXT_VECTOR,
    WIDTHS,
    Batch,
    Output,
    Settled,
    Sizes,
    Solved,
)

ALL_MODELS = registry.names()


def sizes(n_classes: int = 3) -> Sizes:
    vectors = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    return Sizes(
        channels=12,
        grid=(4, 4),
        vectors=vectors,
        n_classes=n_classes,
        text_size=6,
        n_lexicon=4,
        n_anps=5,
        scene_channels=10,
    )


def pairs(n_pairs: int = 8, n_words: int = 7) -> Batch:
    """Pairs of different lengths, the first as long as the batch, the second a single word.

    Everything that a model may read is there; some captions are empty, some rows have no link.
    """
    random = torch.Generator().manual_seed(2)

    def numbers(lengths: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.arange(n) < lengths[:, None]
        return torch.randint(1, 30, (n_pairs, n), generator=random) * mask, mask

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(n_pairs, *shape, generator=random)

    lengths = torch.randint(1, n_words + 1, (n_pairs,), generator=random)
    lengths[:2] = torch.tensor([n_words, 1])
    words, mask = numbers(lengths, n_words)
    caption, caption_mask = numbers(torch.arange(n_pairs) % 4, 3)
    links = torch.arange(n_pairs)[:, None] % 3 > torch.arange(2)
    return Batch(
        regions=floats(12, 4, 4).relu(),
        words=words,
        word_mask=mask,
        sentence=(torch.arange(n_words) // 3) * mask,
        caption=caption,
        caption_mask=caption_mask,
        text_vector=floats(6),
        lexicon=floats(4),
        anp_scores=floats(5),
        scene=floats(10),
        links=floats(2, 12 + 8) * links.unsqueeze(-1),
        link_mask=links,
        target=torch.arange(n_pairs) % 3,
        text_target=torch.arange(n_pairs) % 3,
        image_target=torch.arange(n_pairs) % 4 - 1,
    )


OPTIONAL = {
    CAPTION: ("caption", "caption_mask"),
    SCENE: ("scene",),
    TEXT_VECTOR: ("text_vector",),
    LEXICON: ("lexicon",),
    ANP_SCORES: ("anp_scores",),
}


def without_optional(name: str) -> tuple[Sizes, Batch]:
    """Sizes and pairs of a dataset that lacks what the model only may read."""
    absent = registry.card(name).may_read
    gone = {field: None for what, fields in OPTIONAL.items() if what in absent for field in fields}
    lacking = {size: 0 for size, field in WIDTHS.items() if field in gone}
    return replace(sizes(), **lacking), replace(pairs(), **gone)  # type: ignore[arg-type]


def contextual(batch: Batch) -> tuple[Sizes, Batch]:
    """The same pairs with words that a frozen transformer turned to vectors."""
    table = sizes().vectors
    assert table is not None and batch.words is not None and batch.caption is not None
    changed = replace(
        batch, words=None, word_vectors=table[batch.words], caption=None, caption_vectors=table[batch.caption]
    )
    return replace(sizes(), vectors=None, word_size=8), changed


def padded(batch: Batch, extra: int) -> Batch:
    """The same pairs with more padding after the words of texts and captions."""

    def longer(sequence: torch.Tensor | None) -> torch.Tensor | None:
        if sequence is None:
            return None
        pad = torch.zeros(len(sequence), extra, *sequence.shape[2:], dtype=sequence.dtype)
        return torch.cat([sequence, pad], 1)

    names = ("words", "word_mask", "sentence", "caption", "caption_mask")
    return replace(batch, **{name: longer(getattr(batch, name)) for name in names})


def fresh(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return registry.build(name, sizes(), options)


def loss_of(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """What training minimises."""
    output: Output = network(batch)
    loss = torch.nn.functional.cross_entropy(output.logits, batch.target)
    return loss if output.penalty is None else loss + output.penalty


@pytest.mark.parametrize("name", ALL_MODELS)
def test_card_tells_a_reader_what_to_believe(name: str) -> None:
    card = registry.card(name)
    assert len(card.citation) > 20 and card.url.startswith("https://")
    assert card.fidelity in {"exact", "reconstructed", "substitute"} and card.fidelity_note.endswith(".")
    assert card.reads, "a model that reads nothing cannot learn"
    numbers = [n for p in card.published.values() for n in (p.accuracy, p.f1) if n is not None]
    if card.kind == "paper":
        assert numbers or card.unpublished_note.endswith(".")
    assert all(0 < n < 100 for n in numbers)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_every_trained_parameter_gets_a_finite_gradient(name: str) -> None:
    network, batch = fresh(name), pairs()
    if isinstance(network, Solved):
        pytest.skip("is solved, not descended")
    loss_of(network, batch).backward()
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
def test_it_runs_without_what_it_only_may_read(name: str) -> None:
    torch.manual_seed(0)
    lacking, batch = without_optional(name)
    assert registry.build(name, lacking, {}).eval()(batch).logits.shape == (8, 3)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_words_may_come_as_vectors_of_a_transformer(name: str) -> None:
    torch.manual_seed(0)
    of_vectors, batch = contextual(pairs())
    network = registry.build(name, of_vectors, {}).eval()
    assert network(batch).logits.shape == (8, 3)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_logits_never_depend_on_the_answers(name: str) -> None:
    network, batch = fresh(name).eval(), pairs()
    other = replace(batch, target=batch.target.flip(0), text_target=None, image_target=None)
    torch.testing.assert_close(network(other).logits, network(batch).logits, rtol=0, atol=0)
    assert network(batch).penalty is None, "a penalty is for training alone"


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_MODELS)
def test_it_can_overfit_eight_pairs(name: str) -> None:
    network, batch = fresh(name), pairs()
    if isinstance(network, Solved):
        network.solve(lambda: [batch], lambda: [batch])
    else:
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=5e-3)
        for step in range(1, 301):
            loss = loss_of(network.train(), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 20 == 0 and knows(network, batch):
                break
    if isinstance(network.eval(), Settled):
        network.settle(lambda: [batch], lambda: [batch])
    assert knows(network, batch)


@torch.no_grad()
def knows(network: torch.nn.Module, batch: Batch) -> bool:
    """Whether the network gives every pair its label."""
    return bool((network.eval()(batch).logits.argmax(dim=1) == batch.target).all())


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"no model is called 'dmlnet'\. Did you mean 'dmlanet'\? Known are: "
    ):
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
