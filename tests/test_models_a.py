"""SentiBank, the RMNNs, HSAN and CoMN against their computations, written out a second time for one pair."""

from dataclasses import replace

import pytest
import torch

from mvsent.models import registry
from mvsent.models.attention import AdditiveAttention, weighted_sum
from mvsent.models.batch import Batch, Output
from mvsent.models.encoders import Standardize
from tests.test_models import fresh, pairs

ROW = 3


def words_of(network: torch.nn.Module, batch: Batch, row: int) -> torch.Tensor:
    """The vectors of the real words of one text, `[S, D]`."""
    return network.embedding.table(batch.words[row][batch.word_mask[row]])


def kim_2014(convolutions: torch.nn.ModuleList, words: torch.Tensor) -> torch.Tensor:
    """The largest value of each channel over all windows that hold a word."""
    found = [torch.relu(convolution(words.T[None]))[0].max(dim=1).values for convolution in convolutions]
    return torch.cat(found)


def additive(
    attention: AdditiveAttention, items: torch.Tensor, guide: torch.Tensor | None = None
) -> torch.Tensor:
    """Bahdanau et al. 2015: softmax of `w · tanh(W x + b + U g)` over the rows of `items`."""
    hidden = items @ attention.of_item.weight.T + attention.of_item.bias
    if guide is not None:
        hidden = hidden + attention.of_guide.weight @ guide
    return torch.softmax(torch.tanh(hidden) @ attention.score.weight[0], dim=0)


def test_sentibank_is_a_linear_classifier_on_standardised_scores() -> None:
    network, batch = fresh("sentibank"), pairs()
    scores = torch.cat([batch.anp_scores, batch.lexicon], dim=1)
    standard = (scores - scores.mean(dim=0)) / (scores.var(dim=0, correction=0) + 1e-5).sqrt()
    expected = network.classifier.weight @ standard[ROW] + network.classifier.bias
    torch.testing.assert_close(network(batch).logits[ROW], expected)


@pytest.mark.parametrize(("without", "unread"), [("sentibank", "anp_scores"), ("sentistrength", "lexicon")])
def test_half_of_sentibank_does_not_look_at_the_other_half(without: str, unread: str) -> None:
    network, batch = fresh("sentibank", without=without).eval(), pairs()
    other = replace(batch, **{unread: getattr(batch, unread) + 1})
    torch.testing.assert_close(network(other).logits, network(batch).logits, rtol=0, atol=0)


def test_scores_as_they_are_reach_the_classifier_unchanged() -> None:
    network, batch = fresh("sentibank", standardize=False), pairs()
    expected = network.classifier(torch.cat([batch.anp_scores, batch.lexicon], dim=1))
    torch.testing.assert_close(network(batch).logits, expected)


def test_a_last_batch_of_one_row_is_standardised_by_the_rows_before_it() -> None:
    standardize = Standardize(1).train()
    for _ in range(200):
        standardize(torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(
        standardize(torch.tensor([[2.0 + 2.0**0.5]])), torch.ones(1, 1), atol=1e-4, rtol=0
    )


def test_early_rmnn_merges_features_and_judges_once() -> None:
    network, batch = fresh("early-rmnn").eval(), pairs()
    modalities = network.modalities
    t = kim_2014(modalities.text.convolutions, words_of(modalities, batch, ROW))
    v = torch.relu(modalities.image(batch.regions[ROW].flatten(1).mean(dim=1)))
    x = torch.cat([t, v])
    first, _, second = network.residual
    merged = torch.relu(x + second(torch.relu(first(x))))
    torch.testing.assert_close(network(batch).logits[ROW], network.classifier(merged))


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_late_rmnn_judges_each_modality_and_merges_the_judgements(outputs: str) -> None:
    network, batch = fresh("late-rmnn", outputs=outputs).eval(), pairs()
    modalities = network.modalities
    y_t = network.judge_text(kim_2014(modalities.text.convolutions, words_of(modalities, batch, ROW)))
    y_v = network.judge_image(torch.relu(modalities.image(batch.regions[ROW].flatten(1).mean(dim=1))))
    if outputs == "probabilities":
        y_t, y_v = torch.softmax(y_t, dim=0), torch.softmax(y_v, dim=0)
    first, _, second = network.residual
    expected = y_t + y_v + second(torch.relu(first(torch.cat([y_t, y_v]))))
    torch.testing.assert_close(network(batch).logits[ROW], expected)


def hsan_by_hand(network: torch.nn.Module, sentences: list[torch.Tensor]) -> tuple[torch.Tensor, list]:
    """Logits of one pair, and the weight of every word of every sentence."""
    vectors, weights = [], []
    for words in sentences:
        states = network.encode_words.gru(words[None])[0][0]
        alpha = additive(network.attend_words, states)
        vectors.append(alpha @ states)
        weights.append(alpha)
    states = network.encode_sentences.gru(torch.stack(vectors)[None])[0][0]
    beta = additive(network.attend_sentences, states)
    return network.classifier(beta @ states), [b * alpha for b, alpha in zip(beta, weights, strict=True)]


def test_hsan_reads_words_then_sentences_and_the_caption_as_one_more() -> None:
    network, batch = fresh("hsan").eval(), pairs()
    output = network(batch)
    for row in range(8):
        words, sentence = words_of(network, batch, row), batch.sentence[row][batch.word_mask[row]]
        text = [words[sentence == i] for i in sentence.unique()]
        caption = network.embedding.table(batch.caption[row][batch.caption_mask[row]])
        logits, weights = hsan_by_hand(network, text + [caption] * (len(caption) > 0))
        of_text = torch.cat(weights[: len(text)])
        torch.testing.assert_close(output.logits[row], logits)
        torch.testing.assert_close(output.attention["words"][row, : len(words)], of_text / of_text.sum())


def test_hsan_without_the_caption_is_a_reader_of_the_text_alone() -> None:
    batch = pairs()
    no_captions = replace(batch, caption=None, caption_mask=None)
    deaf, hearing = fresh("hsan", caption=False).eval(), fresh("hsan").eval()
    torch.testing.assert_close(deaf(batch).logits, hearing(no_captions).logits, rtol=0, atol=0)
    captioned = batch.caption_mask.any(dim=1)
    differs = (hearing(batch).logits - deaf(batch).logits).abs().amax(dim=1) > 1e-6
    assert (differs == captioned).all()


@pytest.mark.parametrize("empty", [slice(2, 3), slice(7, 8), slice(None)])
def test_a_text_without_words_is_judged_too(empty: slice) -> None:
    batch = replace(pairs(), caption=None, caption_mask=None)
    mask = batch.word_mask.clone()
    mask[empty] = False
    batch = replace(batch, words=batch.words * mask, word_mask=mask, sentence=batch.sentence * mask)
    for name in ("early-rmnn", "late-rmnn", "hsan", "comn"):
        output: Output = fresh(name).eval()(batch)
        assert output.logits.shape == (8, 3) and torch.isfinite(output.logits).all(), name
        assert (output.attention.get("words", torch.zeros(8, 7))[empty] == 0).all(), name


@pytest.mark.parametrize("tied", [False, True])
def test_comn_asks_each_memory_with_what_it_read_from_the_other(tied: bool) -> None:
    network, batch = fresh("comn", hops=3, tied=tied).eval(), pairs()
    output = network(batch)
    text = network.lstm.lstm(words_of(network, batch, ROW)[None])[0][0]  # [S, d]
    image = torch.tanh(network.to_region(batch.regions[ROW].flatten(1).T))  # [M, d]
    t, v = text.mean(dim=0), image.mean(dim=0)
    for hop in range(3):
        layer = 0 if tied else hop
        alpha = additive(network.attend_words[layer], text, v)
        beta = additive(network.attend_regions[layer], image, t)
        t, v = t + alpha @ text, v + beta @ image
    torch.testing.assert_close(output.logits[ROW], network.classifier(torch.cat([t, v])))
    torch.testing.assert_close(output.attention["words"][ROW, : len(text)], alpha)
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), beta)


def test_tied_hops_share_their_weights() -> None:
    def n_weights(**options: object) -> int:
        return sum(p.numel() for p in fresh("comn", **options).parameters() if p.requires_grad)

    assert n_weights(hops=4, tied=True) == n_weights(hops=1)
    assert n_weights(hops=4) > n_weights(hops=2)


def test_early_rmnn_says_why_it_has_no_number_and_late_rmnn_has_one() -> None:
    assert not registry.card("early-rmnn").published
    assert registry.card("late-rmnn").published["mvsa-single"].accuracy == 67.09


def test_a_weighted_sum_of_one_item_is_that_item() -> None:
    items = torch.randn(2, 3, 4)
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(weighted_sum(weights, items), torch.stack([items[0, 1], items[1, 2]]))
