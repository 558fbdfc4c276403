"""MultiSentiNet, FENet, AHRM and BDMLA against their formulas, written out a second time for one pair."""

from dataclasses import replace

import pytest
import torch

from mvsent.errors import UsageError
from mvsent.models import registry
from mvsent.models.batch import OWNER_LINKS, SCENE, TAG_LINKS
from mvsent.models.encoders import PhraseEncoder
from tests.test_models import fresh, loss_of, pairs, sizes

ROW = 3  # shorter than the batch, with one linked row
UNLINKED = 0


def words_of(network: torch.nn.Module, row: int = ROW) -> torch.Tensor:
    """The embedded words of one pair, without padding, `[1, S, D]`."""
    batch = pairs()
    return network.embedding.table(batch.words[row][batch.word_mask[row]])[None]


def softmax(scores: torch.Tensor) -> torch.Tensor:
    return torch.exp(scores) / torch.exp(scores).sum()


def query_weights(attention: torch.nn.Module, items: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """`[N, D]`, `[Q]` → `[N]`."""
    hidden = torch.tanh(attention.of_item(items) + attention.of_guide(query))
    return softmax(attention.score(hidden)[:, 0])


def test_multisentinet_weighs_words_by_objects_and_scene() -> None:
    network, batch = fresh("multisentinet", hidden=16).eval(), pairs()
    output = network(batch)
    i_object, i_scene = batch.regions[ROW].flatten(1).max(1).values, batch.scene[ROW]
    visual = torch.relu(torch.cat([network.to_object(i_object), network.to_scene(i_scene)]))
    h = network.lstm.lstm(words_of(network))[0][0]  # [S, d]
    alpha = query_weights(network.attention, h, visual)
    joint = torch.relu(network.fusion(torch.cat([visual, alpha @ h])))
    torch.testing.assert_close(output.attention["words"][ROW, : len(alpha)], alpha)
    torch.testing.assert_close(output.logits[ROW], network.classifier(joint))


def test_multisentinet_takes_the_mean_of_the_map_where_no_second_backbone_saw_the_scene() -> None:
    assert SCENE in registry.card("multisentinet").may_read
    torch.manual_seed(0)
    network = registry.build("multisentinet", replace(sizes(), scene_channels=0), {"hidden": 16}).eval()
    batch = replace(pairs(), scene=None)
    v_scene = network.visual(batch)[ROW, 16:]
    mean = batch.regions[ROW].flatten(1).mean(1)
    torch.testing.assert_close(v_scene, torch.relu(network.to_scene(mean)))


def test_multisentinet_unguided_gives_every_word_the_same_weight() -> None:
    network, batch = fresh("multisentinet", hidden=16, guided=False).eval(), pairs()
    output = network(batch)
    assert not output.attention
    visual = network.visual(batch)[ROW]
    h = network.lstm.lstm(words_of(network))[0][0]
    joint = torch.relu(network.fusion(torch.cat([visual, h.mean(0)])))
    torch.testing.assert_close(output.logits[ROW], network.classifier(joint))


def test_fenet_fuses_both_ways_and_extracts_what_the_gate_lets_through() -> None:
    network, batch = fresh("fenet", hidden=16, kernels=6).eval(), pairs()
    output = network(batch)
    t = words_of(network)[0]  # [S, D]
    i = network.project(batch.regions[ROW].flatten(1).T)  # [M, d]

    def fuse(layer: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.stack([softmax(row) for row in torch.tanh(layer.w_1(x)) @ torch.tanh(layer.w_2(y)).T])
        return torch.tanh(layer.w_fuse(torch.cat([x, a @ y], dim=1))), a

    def extract(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        gated = torch.sigmoid(layer.gate(x.T[None])) * torch.tanh(layer.content(x.T[None]))  # [1, kernels, N]
        return gated[0].max(1).values

    text, to_regions = fuse(network.fuse_text, t, i)
    image, to_words = fuse(network.fuse_image, i, t)
    extracted = torch.cat([extract(network.extract_text, text), extract(network.extract_image, image)])
    torch.testing.assert_close(output.logits[ROW], network.classifier(extracted))
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), to_regions.mean(0))
    torch.testing.assert_close(output.attention["words"][ROW, : len(t)], to_words.mean(0))


def test_fenet_refuses_a_window_without_a_middle() -> None:
    with pytest.raises(UsageError, match=r"--option width: .*should be odd"):
        registry.options("fenet", {"width": "4"})


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_ahrm_attends_channels_then_regions_of_what_is_left(gate: str) -> None:
    network, batch = fresh("ahrm", hidden=16, channel_gate=gate).eval(), pairs()
    output = network(batch)
    t = network.lstm.lstm(words_of(network))[0][0].mean(0)  # [d]
    m = network.project(batch.regions[ROW].flatten(1).T)  # [M, d]
    scores = network.w_channel(torch.tanh(network.w_pooled(m.mean(0)) + network.w_text(t)))
    a_c = softmax(scores) if gate == "softmax" else 1 / (1 + torch.exp(-scores))
    f = m * a_c
    a_r = query_weights(network.region_attention, f, t)
    content = torch.tanh(network.fusion(torch.cat([a_r @ f, t])))
    torch.testing.assert_close(output.logits[ROW], network.classifier(content))
    torch.testing.assert_close(output.attention["channel"][ROW], a_c)
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), a_r)


def test_ahrm_averages_a_pair_with_the_rows_it_is_linked_to() -> None:
    network, batch = fresh("ahrm", hidden=16, graph="tags", layers=2).eval(), pairs()
    row = 5
    assert batch.link_mask[row].sum() == 2
    content = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    first, second = network.convolutions
    node, (one, two) = content[row], torch.tanh(network.to_node(batch.links[row]))
    around = torch.relu(first.w((node + one + two) / 3))
    one, two = (torch.relu(first.w((linked + node) / 2)) for linked in (one, two))
    expected = torch.relu(second.w((around + one + two) / 3))
    torch.testing.assert_close(network.related(content, batch)[row], expected)


def test_ahrm_leaves_a_row_without_links_to_itself() -> None:
    network, batch = fresh("ahrm", hidden=16, graph="owner").eval(), pairs()
    assert not batch.link_mask[UNLINKED].any()
    content = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    expected = torch.relu(network.convolutions[0].w(content[UNLINKED]))
    torch.testing.assert_close(network.related(content, batch)[UNLINKED], expected)
    other = replace(batch, links=batch.links + 1000 * ~batch.link_mask.unsqueeze(-1))
    torch.testing.assert_close(network(other).logits, network(batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("graph", "needed"), [("none", set()), ("tags", {TAG_LINKS}), ("owner", {OWNER_LINKS})]
)
def test_ahrm_reads_links_only_for_the_graph_that_is_asked_for(graph: str, needed: set) -> None:
    assert registry.reads("ahrm", {"graph": graph}) - registry.reads("ahrm", {}) == needed


@pytest.mark.parametrize("layers", [1, 2])
def test_ahrm_trains_every_weight_of_its_graph(layers: int) -> None:
    network = fresh("ahrm", graph="tags", layers=layers)
    loss_of(network, pairs()).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert (parameter.grad != 0).any(), name


def test_bdmla_attends_regions_from_three_levels_of_text_and_words_from_two_of_the_picture() -> None:
    network, batch = fresh("bdmla", hidden=16).eval(), pairs()
    output = network(batch)
    v = torch.tanh(network.to_region(batch.regions[ROW].flatten(1).T))  # [M, d]
    word = torch.tanh(network.to_word(words_of(network)))  # [1, S, d]
    phrase = network.to_phrase(word, torch.ones(word.shape[:2], dtype=torch.bool))
    sentence = network.to_sentence.gru(phrase)[0]
    levels = [level[0] for level in (word, phrase, sentence)]
    alphas = [
        query_weights(attention, v, level.mean(0))
        for attention, level in zip(network.visual_attention, levels, strict=True)
    ]
    h = levels[-1]
    beta_global = query_weights(network.global_attention, h, v.mean(0))
    beta_local = torch.stack([softmax(h @ network.w_local(v_i)) for v_i in v]).mean(0)
    attended = torch.cat([*(alpha @ v for alpha in alphas), beta_global @ h, beta_local @ h])
    torch.testing.assert_close(output.logits[ROW], network.mlp(attended))
    torch.testing.assert_close(output.attention["regions"][ROW].flatten(), sum(alphas) / 3)
    torch.testing.assert_close(output.attention["words"][ROW, : len(h)], (beta_global + beta_local) / 2)


def test_bdmla_without_local_guidance_follows_the_whole_picture() -> None:
    network, batch = fresh("bdmla", hidden=16, local=False).eval(), pairs()
    v = torch.tanh(network.to_region(batch.regions[ROW].flatten(1).T))
    word = torch.tanh(network.to_word(words_of(network)))
    phrase = network.to_phrase(word, torch.ones(word.shape[:2], dtype=torch.bool))
    h = network.to_sentence.gru(phrase)[0][0]
    expected = query_weights(network.global_attention, h, v.mean(0))
    torch.testing.assert_close(network(batch).attention["words"][ROW, : len(h)], expected)


def test_a_phrase_is_the_largest_of_the_windows_that_end_at_its_word() -> None:
    torch.manual_seed(0)
    encoder = PhraseEncoder(4, 5)
    words = torch.randn(1, 6, 4)
    before = torch.cat([torch.zeros(2, 4), words[0]])  # two positions before the first word
    expected = []
    for s in range(6):
        windows = [
            (convolution.weight * before[s + 3 - width : s + 3].T).sum((1, 2)) + convolution.bias
            for width, convolution in enumerate(encoder.convolutions, start=1)
        ]
        expected.append(torch.tanh(torch.stack(windows).max(0).values))
    phrases = encoder(words, torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(phrases[0], torch.stack(expected))


@pytest.mark.parametrize("name", ["multisentinet", "fenet", "ahrm", "bdmla"])
def test_a_pair_without_any_word_gets_a_finite_answer_and_gradient(name: str) -> None:
    batch = pairs()
    mask = batch.word_mask.clone()
    mask[ROW] = False
    network = fresh(name)
    output = network(replace(batch, words=batch.words * mask, word_mask=mask))
    output.logits.sum().backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert all((weights[ROW] == 0).all() for key, weights in output.attention.items() if key == "words")
