"""AMGN, HDF, DMAF, the joint cross-modal model and the baselines against their formulas, for one pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from mvsent.errors import UsageError
from mvsent.models import registry
from mvsent.models.attention import AdditiveAttention, attended_regions
from mvsent.models.batch import OWNER_LINKS, REGIONS, TAG_LINKS, WORDS, Batch
from mvsent.models.dmaf import GRID_STEPS, simplex
from mvsent.models.hdf import last
from mvsent.models.joint_cross_modal import BANDWIDTHS, discrepancy
from mvsent.models.logistic import NEVER
from tests.test_models import loss_of, pairs, sizes

ROW = 0  # as long as the batch


def built(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    small = {} if name == "logistic" else {"hidden": 16}
    return registry.build(name, sizes(), {**small, **options}).eval()


def strong(network: torch.nn.Module) -> torch.nn.Module:
    """The network with large weights: a guide adds the same to every item while tanh is almost linear."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def words_of(network: torch.nn.Module, batch: Batch) -> Tensor:
    """The vectors of the real words of one pair, `[S, D]`."""
    return network.embedding.table(batch.words[ROW][batch.word_mask[ROW]])


def regions_of_pair(network: torch.nn.Module, batch: Batch) -> Tensor:
    """The projected regions of one pair, `[M, d]`."""
    return torch.tanh(network.project(batch.regions[ROW : ROW + 1])[0].flatten(1).T)


def attend(attention: AdditiveAttention, items: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Additive attention written out: the vector `[d]` and the weights `[N]`."""
    hidden = attention.of_item(items)
    if guide is not None:
        hidden = hidden + attention.of_guide.weight @ guide
    e = torch.exp(torch.tanh(hidden) @ attention.score.weight[0])
    alpha = e / e.sum()
    return alpha @ items, alpha


def see(words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """What each word sees, one word at a time: `[S, d]`, `[S, M]`."""
    weights = torch.stack([torch.softmax(regions @ word / len(word) ** 0.5, dim=0) for word in words])
    return weights @ regions, weights


def test_a_word_sees_the_regions_that_match_it() -> None:
    words = torch.tensor([[[10.0, 0.0], [0.0, 10.0]]])
    regions = torch.tensor([[[5.0, 0.0], [0.0, 5.0]]])
    seen, weights = attended_regions(words, regions)
    torch.testing.assert_close(weights[0], torch.eye(2))
    torch.testing.assert_close(seen, regions)


@pytest.mark.parametrize("gate", ["state", "input"])
def test_amgn_gates_word_and_region_at_each_step_of_its_lstm(gate: str) -> None:
    network, batch = built("amgn", gate=gate), pairs()
    output = network(batch)
    words = torch.tanh(network.to_word(words_of(network, batch)))
    seen, where = see(words, regions_of_pair(network, batch))
    w_ih, w_hh = network.lstm.cell.weight_ih, network.lstm.cell.weight_hh
    bias = network.lstm.cell.bias_ih + network.lstm.cell.bias_hh
    h, c, states, gates = torch.zeros(16), torch.zeros(16), [], []
    for x, v in zip(words, seen, strict=True):
        score = network.lstm.gate(torch.cat([x, v]))
        g = torch.sigmoid(score + network.lstm.gate_of_state(h) if gate == "state" else score)
        i, f, new, o = (w_ih @ (g * x + (1 - g) * v) + w_hh @ h + bias).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
        gates.append(g)
    text, weights = attend(network.self_attention, torch.stack(states))
    torch.testing.assert_close(output.logits[ROW], network.classify(text))
    torch.testing.assert_close(output.attention["words"][ROW][: len(words)], weights)
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), weights @ where)
    of_words = torch.stack(gates).mean()
    torch.testing.assert_close(output.attention["fusion"][ROW], torch.stack([of_words, 1 - of_words]))


def test_amgn_with_an_open_gate_does_not_see_the_picture() -> None:
    network, batch = built("amgn", gate="input"), pairs()
    with torch.no_grad():
        network.lstm.gate.weight.zero_()
        network.lstm.gate.bias.fill_(100)
    other = replace(batch, regions=batch.regions.flip(0))
    torch.testing.assert_close(network(other).logits, network(batch).logits)


def test_amgn_can_have_a_single_gate_for_a_word() -> None:
    assert built("amgn", axis="word").lstm.gate.out_features == 1
    assert built("amgn", axis="word")(pairs()).logits.shape == (8, 3)


def test_hdf_reads_the_picture_with_words_phrases_and_sentence() -> None:
    network, batch = built("hdf"), pairs()
    image = torch.tanh(network.to_image(batch.regions[ROW].mean((1, 2))))

    def read(encoder: torch.nn.Module, items: Tensor) -> Tensor:
        return encoder.lstm(torch.cat([items, image.expand(len(items), -1)], dim=1)[None])[0][0]

    words = read(network.word_lstm, network.embedding.table(batch.words[ROW]))
    # Seven words: two phrases of three, and one of a single word.
    phrases = read(network.phrase_lstm, torch.stack([words[:3].mean(0), words[3:6].mean(0), words[6]]))
    sentence = read(network.sentence_lstm, phrases)
    fused = torch.cat([words.mean(0), phrases.mean(0), sentence[-1]])
    torch.testing.assert_close(network(batch).logits[ROW], network.mlp(fused))


def test_hdf_adds_the_mean_of_the_linked_rows_where_it_is_asked_to() -> None:
    network, batch = built("hdf", links="tags"), pairs()
    row = int(batch.link_mask.sum(dim=1).argmax())
    assert batch.link_mask[row].all()
    image = torch.tanh(network.to_image(batch.regions.mean(dim=(2, 3))))
    content = network.levels(*network.embedding(batch), image)
    linked = torch.tanh(network.to_link(batch.links[row])).mean(0)
    fused = torch.cat([*(level[row] for level in content), linked])
    torch.testing.assert_close(network(batch).logits[row], network.mlp(fused))


def test_hdf_judges_a_row_without_links_by_its_content() -> None:
    network, batch = built("hdf", links="owner"), pairs()
    alone = ~batch.link_mask.any(dim=1)
    assert alone.any()
    other = replace(batch, links=batch.links + (~batch.link_mask).unsqueeze(-1))
    torch.testing.assert_close(network(other).logits[alone], network(batch).logits[alone])


def test_hdf_needs_links_only_where_an_option_asks_for_them() -> None:
    assert registry.reads("hdf", {}) == {REGIONS, WORDS}
    assert registry.reads("hdf", {"links": "tags"}) == {REGIONS, WORDS, TAG_LINKS}
    assert registry.reads("hdf", {"links": "owner"}) == {REGIONS, WORDS, OWNER_LINKS}


@pytest.mark.parametrize("phrase", [1, 4, 100])
def test_hdf_takes_phrases_of_any_length(phrase: int) -> None:
    changed, plain = built("hdf", phrase=phrase)(pairs()).logits, built("hdf")(pairs()).logits
    assert changed.shape == plain.shape
    assert not torch.allclose(changed, plain)


def test_the_last_state_is_that_of_the_last_real_item_and_zero_without_any() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    states = torch.arange(6.0).view(2, 3, 1) * mask.unsqueeze(-1)
    assert last(states, mask).tolist() == [[1.0], [0.0]]


def test_dmaf_averages_three_attentive_classifiers() -> None:
    network, batch = strong(built("dmaf")), pairs()
    network.late.copy_(torch.tensor([0.2, 0.3, 0.5]))
    output = network(batch)
    regions = regions_of_pair(network, batch)
    words = network.lstm.lstm(words_of(network, batch)[None])[0][0]
    image, where = attend(network.visual_attention, regions)
    text, weights = attend(network.semantic_attention, words)
    both = torch.cat(
        [attend(network.regions_for_text, regions, text)[0], attend(network.words_for_image, words, image)[0]]
    )
    joint = network.of_both(torch.tanh(network.fuse(both)))
    mixture = (
        0.2 * torch.softmax(network.of_image(image), 0)
        + 0.3 * torch.softmax(network.of_text(text), 0)
        + 0.5 * torch.softmax(joint, 0)
    )
    torch.testing.assert_close(output.logits[ROW], mixture.log())
    torch.testing.assert_close(output.attention["words"][ROW][: len(words)], weights)
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), where)


def test_dmaf_trains_each_classifier_by_its_own_cross_entropy() -> None:
    network, batch = built("dmaf", dropout=0.0).train(), pairs()
    each = [cross_entropy(logits, batch.target) for logits in network.classifiers(batch, {})]
    torch.testing.assert_close(loss_of(network, batch), sum(each))
    assert network(replace(batch, target=None)).penalty is None


def test_dmaf_gives_the_weight_to_the_classifier_that_is_right() -> None:
    network, batch = built("dmaf"), pairs()
    confident = 20 * torch.nn.functional.one_hot(batch.target, 3).float()
    network.classifiers = lambda some, attention: (-confident, confident, torch.zeros_like(confident))
    network.settle(lambda: [batch], lambda: [batch])
    assert network.late.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.slow
def test_dmafs_late_weights_are_the_likeliest_of_the_grid() -> None:
    network, batch = built("dmaf"), pairs(n_pairs=32)
    halves = [batch.map(lambda tensor: tensor[:16]), batch.map(lambda tensor: tensor[16:])]

    def loss(weights: tuple[float, float, float]) -> float:
        network.late.copy_(torch.tensor(weights))
        return float(cross_entropy(network(batch).logits, batch.target))

    with torch.no_grad():
        expected = min(simplex(GRID_STEPS), key=loss)
        network.settle(lambda: halves, lambda: halves)
    assert network.late.tolist() == pytest.approx(expected)


def test_dmaf_keeps_equal_weights_where_it_is_asked_to() -> None:
    network = built("dmaf", late="equal")
    network.settle(lambda: [pairs()], lambda: [pairs()])
    assert network.late.tolist() == pytest.approx([1 / 3] * 3)


def test_the_grid_of_late_weights_covers_the_simplex_once() -> None:
    points = list(simplex(GRID_STEPS))
    assert len(points) == len(set(points)) == 231
    assert all(sum(point) == pytest.approx(1) and min(point) >= 0 for point in points)


def test_joint_cross_modal_reads_each_word_with_its_regions() -> None:
    network, batch = strong(built("joint-cross-modal")), pairs()
    output = network(batch)
    words = torch.tanh(network.to_word(network.gru.gru(words_of(network, batch)[None])[0][0]))
    text, _ = attend(network.text_attention, words)
    seen, where = see(words, regions_of_pair(network, batch))
    states = network.lstm.lstm(torch.cat([words, seen], dim=1)[None])[0][0]
    joint, weights = attend(network.joint_attention, states, text)
    torch.testing.assert_close(output.logits[ROW], network.classify(joint))
    torch.testing.assert_close(output.attention["words"][ROW][: len(words)], weights)
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), weights @ where)


def test_the_discrepancy_is_that_of_the_kernels_written_out() -> None:
    random = torch.Generator().manual_seed(3)
    x, y = torch.randn(5, 4, generator=random), 1 + torch.randn(5, 4, generator=random)
    both = torch.cat([x, y])
    width = np.mean([float((a - b).pow(2).sum()) for a in both for b in both])

    def kernel(a: Tensor, b: Tensor) -> float:
        return float(np.mean([np.exp(-float((a - b).pow(2).sum()) / (w * width)) for w in BANDWIDTHS]))

    def mean(some: Tensor, others: Tensor) -> float:
        return float(np.mean([kernel(a, b) for a in some for b in others]))

    assert discrepancy(x, y).item() == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), rel=1e-4)
    assert discrepancy(x, y) > discrepancy(x, x)


def test_descending_the_discrepancy_brings_two_samples_together() -> None:
    random = torch.Generator().manual_seed(4)
    x, shift = torch.randn(16, 3, generator=random), torch.full((3,), 2.0, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.1)
    before = discrepancy(x, x + shift).item()
    for _ in range(60):
        loss = discrepancy(x, x + shift)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < before / 10


def test_the_alignment_weighs_the_discrepancy_in_the_loss() -> None:
    batch = pairs()
    once, twice = (
        built("joint-cross-modal", alignment=weight, dropout=0.0).train()(batch).penalty
        for weight in (0.1, 0.2)
    )
    assert once > 0
    torch.testing.assert_close(twice, 2 * once)


def test_the_image_baseline_reads_no_word_and_the_text_baseline_no_region() -> None:
    batch = pairs()
    image = built("image-only")(replace(batch, words=None, word_mask=None)).logits
    text = built("text-only")(replace(batch, regions=None)).logits
    assert image.shape == text.shape == (8, 3)
    assert registry.reads("image-only", {}) == {REGIONS}
    assert registry.reads("text-only", {}) == {WORDS}


def test_early_concatenation_has_the_mean_of_the_map_beside_the_mean_of_the_states() -> None:
    network, batch = built("early-concat"), pairs()
    states = network.text.lstm.lstm(words_of(network.text, batch)[None])[0][0]
    features = torch.cat([batch.regions[ROW].mean((1, 2)), states.mean(0)])
    torch.testing.assert_close(network(batch).logits[ROW], network.classify(features))


def halves() -> tuple[Batch, Batch]:
    """48 pairs to train on and 48 to choose by."""
    batch = pairs(n_pairs=96)
    return batch.map(lambda tensor: tensor[:48]), batch.map(lambda tensor: tensor[48:])


def test_logistic_regression_is_scikit_learns_on_standardised_features() -> None:
    train, validation = halves()
    network = built("logistic", c="0.1", refit=False)
    network.solve(lambda: [train], lambda: [validation])

    def features(batch: Batch) -> np.ndarray:
        parts = [batch.regions.mean((2, 3)), batch.text_vector, batch.lexicon]
        return torch.cat(parts, dim=1).double().numpy()

    x = features(train)
    mean, std = x.mean(0), x.std(0)
    model = LogisticRegression(C=0.1, max_iter=1000).fit((x - mean) / std, train.target.numpy())
    expected = model.predict_proba((features(validation) - mean) / std)
    found = torch.softmax(network(validation).logits, dim=1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_logistic_regression_keeps_the_strength_that_the_validation_rows_like_best() -> None:
    train, validation = halves()

    def quality(network: torch.nn.Module) -> tuple[float, float]:
        logits = network(validation).logits.detach()
        accuracy = (logits.argmax(dim=1) == validation.target).float().mean()
        return float(accuracy), -float(cross_entropy(logits, validation.target))

    def solved(c: str) -> torch.nn.Module:
        network = built("logistic", c=c, refit=False)
        network.solve(lambda: [train], lambda: [validation])
        return network

    each = [quality(solved(c)) for c in ("0.0001", "0.01", "1.0")]
    assert len(set(each)) == 3
    assert quality(solved("1.0,0.01,0.0001")) == pytest.approx(max(each), abs=1e-4)


def test_logistic_regression_is_fitted_on_validation_rows_too_once_they_have_chosen() -> None:
    train, validation = halves()
    network, plain = built("logistic", c="1.0,0.01"), built("logistic", c="1.0,0.01", refit=False)
    for each in (network, plain):
        each.solve(lambda: [train], lambda: [validation])
        each.refit(lambda: [train], lambda: [validation])
    x = torch.cat([network.features(train), network.features(validation)]).detach().double().numpy()
    y = torch.cat([train.target, validation.target]).numpy()
    mean, std = x.mean(0), x.std(0)
    fits = [LogisticRegression(C=c, max_iter=1000).fit((x - mean) / std, y) for c in (1.0, 0.01)]
    expected = [fit.predict_proba((x[:48] - mean) / std) for fit in fits]
    found = torch.softmax(network(train).logits, dim=1).detach().numpy()
    assert min(np.abs(found - each).max() for each in expected) < 1e-3
    assert not torch.allclose(network.mean, plain.mean)


def test_the_label_rule_is_taken_as_far_as_the_validation_rows_like_it() -> None:
    random = torch.Generator().manual_seed(0)

    def rows(n: int) -> Batch:
        # Each modality's label is written in its own features; the class follows by the rule alone.
        text, image = (torch.randint(0, 3, (n,), generator=random) for _ in range(2))
        image = torch.where((text - image).abs() == 2, text, image)  # no contradictions
        target = torch.where(text == 1, image, text)
        batch = pairs(n_pairs=n)
        vector, regions = batch.text_vector.clone() * 0.1, batch.regions.clone() * 0.1
        vector[torch.arange(n), text] += 3
        regions[torch.arange(n), image] += 3
        given = {"text_target": text, "image_target": image, "target": target}
        return replace(batch, text_vector=vector, regions=regions, **given)

    train, validation, new = rows(120), rows(60), rows(60)
    network = built("logistic")
    network.solve(lambda: [train], lambda: [validation])
    assert network.ruled > 0
    assert (network(new).logits.argmax(dim=1) == new.target).float().mean() > 0.9
    unlabelled = replace(validation, text_target=None, image_target=None)
    without = built("logistic")
    without.solve(lambda: [train], lambda: [unlabelled])
    assert without.ruled == 0


def test_without_a_text_vector_logistic_regression_has_the_mean_of_the_words() -> None:
    network, batch = registry.build("logistic", replace(sizes(), text_size=0, n_lexicon=0), {}), pairs()
    expected = torch.cat([batch.regions[ROW].mean((1, 2)), words_of(network, batch).mean(0)])
    torch.testing.assert_close(network.features(batch)[ROW], expected)


@pytest.mark.parametrize("present", [[0, 2], [1]])
def test_a_class_without_a_training_row_is_never_chosen(present: list[int]) -> None:
    train, validation = halves()
    seen = replace(train, target=torch.tensor(present)[torch.arange(48) % len(present)])
    network = built("logistic", c="1.0", refit=False)
    network.solve(lambda: [seen], lambda: [validation])
    chosen = network(seen).logits.argmax(dim=1)
    assert set(chosen.tolist()) == set(present)
    assert (chosen == seen.target).float().mean() > 0.75
    absent = [k for k in range(3) if k not in present]
    assert (network(validation).logits[:, absent] == NEVER).all()


def test_a_constant_feature_does_no_harm_to_logistic_regression() -> None:
    train, validation = halves()
    constant = replace(train, lexicon=torch.full_like(train.lexicon, 7.0))
    network = built("logistic")
    network.solve(lambda: [constant], lambda: [replace(validation, lexicon=constant.lexicon)])
    assert torch.isfinite(network(constant).logits).all()
    assert (network.std > 0).all()


@pytest.mark.parametrize("c", ["", "1,x", "0.1,-1", "inf", "0"])
def test_strengths_that_are_no_positive_numbers_are_refused(c: str) -> None:
    with pytest.raises(UsageError, match="--option c"):
        registry.options("logistic", {"c": c})
