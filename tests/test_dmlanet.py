"""DMLANet against its equations, written out a second time for one pair."""

import pytest
import torch

from mvsent.models import registry
from mvsent.models.dmlanet import DMLANet
from tests.test_models import pairs, sizes


def dmlanet(**options: object) -> DMLANet:
    torch.manual_seed(0)
    network = registry.build("dmlanet", sizes(), {"hidden": 16, "map_channels": 10, **options}).eval()
    assert isinstance(network, DMLANet)
    return network


def test_equations_1_to_9_hold_for_one_pair() -> None:
    network, batch = dmlanet(sequence="regions"), pairs()
    output = network(batch)
    row = 3
    m = network.project(batch.regions[row : row + 1])[0]  # [c, H, W]
    channel, spatial = network.channel_attention, network.spatial_attention

    def mlp(x: torch.Tensor) -> torch.Tensor:
        return channel.w1(channel.w0(x))

    a_c = torch.relu(mlp(m.flatten(1).max(1).values) + mlp(m.flatten(1).mean(1)))  # Eq. 1
    f = m * a_c[:, None, None]
    pooled = torch.stack([f.mean(0), f.max(0).values])
    a_s = torch.relu(spatial.conv(pooled[None])[0, 0])  # Eq. 2
    v = network.to_region((f * a_s).flatten(1).T)  # Eq. 3, [M, d]
    words = batch.words[row][batch.word_mask[row]]
    t = network.lstm.lstm(network.embedding.table(words)[None])[0][0]  # [S, d]
    m_f = torch.tanh(network.w_semantic(v.mean(0) * t))  # Eq. 4
    alpha = torch.exp(m_f) / torch.exp(m_f).sum()  # Eq. 5
    s = (alpha * t).sum(0)  # Eq. 6
    j = torch.cat([s[None], v])
    upsilon = torch.exp(torch.tanh(network.w_self(j)))
    upsilon = upsilon / upsilon.sum()  # Eq. 7
    logits = network.w_s((upsilon * j).sum(0))  # Eq. 8, 9
    torch.testing.assert_close(output.logits[row], logits)
    torch.testing.assert_close(output.attention["channel"][row], a_c)
    torch.testing.assert_close(output.attention["spatial"][row], a_s)
    torch.testing.assert_close(output.attention["words"][row][: len(words)], alpha[:, 0])
    torch.testing.assert_close(output.attention["fusion"][row], upsilon[:, 0])


def test_region_word_attention_averages_a_distribution_of_every_region() -> None:
    network, batch = dmlanet(semantic="region_word"), pairs()
    row = 0  # as long as the batch
    v = network.visual(batch.regions[:1], {})[0]
    t = network.lstm(*network.embedding(batch))[row]
    by_region = [torch.softmax(torch.tanh(network.w_semantic(v_i * t)), dim=0)[:, 0] for v_i in v]
    expected = torch.stack(by_region).mean(0)
    torch.testing.assert_close(network(batch).attention["words"][row], expected)


@pytest.mark.parametrize(
    ("without", "gone", "kept"),
    [
        ("visual", {"channel", "spatial"}, {"words", "fusion"}),
        ("semantic", {"words"}, {"channel", "spatial", "fusion"}),
        ("self", {"fusion"}, {"channel", "spatial", "words"}),
    ],
)
def test_an_ablation_removes_its_attention_and_its_weights(without: str, gone: set, kept: set) -> None:
    whole, ablated = dmlanet(), dmlanet(without=without)
    assert set(ablated(pairs()).attention) == kept
    missing = {name.split(".")[0] for name in whole.state_dict()} - {
        name.split(".")[0] for name in ablated.state_dict()
    }
    owners = {
        "channel": "channel_attention",
        "spatial": "spatial_attention",
        "words": "w_semantic",
        "fusion": "w_self",
    }
    assert missing == {owners[name] for name in gone}


@pytest.mark.parametrize("options", [{"axis": "elementwise"}, {"sequence": "regions"}, {"gate": "sigmoid"}])
def test_each_option_changes_the_answer_but_not_its_shape(options: dict) -> None:
    changed, plain = dmlanet(**options)(pairs()).logits, dmlanet()(pairs()).logits
    assert changed.shape == plain.shape
    assert not torch.allclose(changed, plain)


def test_the_self_attention_splits_between_text_and_picture() -> None:
    fusion = dmlanet()(pairs()).attention["fusion"]
    assert fusion.shape == (8, 2)
    torch.testing.assert_close(fusion.sum(1), torch.ones(8))


def test_a_map_of_the_papers_width_is_not_projected() -> None:
    network = dmlanet(map_channels=12)
    assert isinstance(network.project, torch.nn.Identity)
