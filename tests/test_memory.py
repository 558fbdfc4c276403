"""The memory of dmlanet-plus: closed-form attention over training pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor, nn

from mvsent.models import memory as memory_module
from mvsent.models import registry
from mvsent.models.batch import Batch
from mvsent.models.label_rule import apply_rule, label_rule
from mvsent.models.memory import Memory
from tests.test_models import pairs, sizes


def blobs(n_rows: int, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Rows around three centres, which are their classes; the second target is known of every other row."""
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 3, (n_rows,), generator=random)
    vectors = torch.randn(n_rows, 5, generator=random) + 2.5 * nn.functional.one_hot(target, 5)
    second = torch.where(torch.arange(n_rows) % 2 == 0, target, -1)
    return vectors, [target, second]


def remembered(n_rows: int = 90, capacity: int = 1000) -> Memory:
    memory = Memory([(5, 1.0)], [3, 3], width=0.7, capacity=capacity)
    memory.solve(blobs(n_rows), blobs(40, seed=1))
    return memory


def test_it_is_kernel_ridge_regression_of_the_training_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "RIDGES", (0.3,))
    monkeypatch.setattr(memory_module, "SCALES", (1.0,))
    (x, (y, _)), (new, _) = blobs(90), blobs(20, seed=2)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    one_hot = nn.functional.one_hot(y, 3).double()
    reference = KernelRidge(alpha=0.3, kernel="rbf", gamma=0.7 / 5)
    reference.fit((x - mean) / std, one_hot - one_hot.mean(dim=0))
    expected = reference.predict((new - mean) / std) + one_hot.mean(dim=0).numpy()
    np.testing.assert_allclose(remembered()(new)[0].numpy(), expected, atol=2e-3)


def test_blocks_count_as_much_as_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "RIDGES", (0.3,))
    monkeypatch.setattr(memory_module, "SCALES", (1.0,))
    (x, (y, _)), (new, _) = blobs(90), blobs(20, seed=2)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    memory = Memory([(2, 1.5), (3, 0.4)], [3], width=0.7, capacity=1000)
    memory.solve((x, [y]), (x, [y]))
    root = torch.tensor([1.5 / 2] * 2 + [0.4 / 3] * 3).sqrt()
    one_hot = nn.functional.one_hot(y, 3).double()
    reference = KernelRidge(alpha=0.3, kernel="rbf", gamma=0.7)
    reference.fit((x - mean) / std * root, one_hot - one_hot.mean(dim=0))
    expected = reference.predict((new - mean) / std * root) + one_hot.mean(dim=0).numpy()
    np.testing.assert_allclose(memory(new)[0].numpy(), expected, atol=2e-3)


def test_refitted_it_is_the_memory_of_all_rows_with_what_was_chosen() -> None:
    train, validation = blobs(60), blobs(40, seed=1)
    memory, other = remembered(), Memory([(5, 1.0)], [3, 3], width=0.7, capacity=1000)
    memory.solve(train, validation)
    ridges, scale = list(memory.chosen_ridges), memory.scale.clone()
    both = (
        torch.cat([train[0], validation[0]]),
        [torch.cat(each) for each in zip(train[1], validation[1], strict=True)],
    )
    memory.refit(both)
    assert memory.chosen_ridges == ridges and torch.equal(memory.scale, scale)
    other.chosen_ridges, other.scale = ridges, scale
    other.refit(both)
    new = blobs(20, seed=2)[0]
    for one, another in zip(memory(new), other(new), strict=True):
        torch.testing.assert_close(one, another)
    assert len(memory.keys) == 100


def test_a_memory_of_a_version_without_blocks_weighs_every_feature_alike() -> None:
    memory = remembered()
    state = {name: value for name, value in memory.state_dict().items() if name != "factor"}
    again = Memory([(2, 9.0), (3, 0.1)], [3, 3], width=0.7, capacity=1000)
    again.load_state_dict(state)
    new = blobs(20, seed=2)[0]
    for one, another in zip(memory(new), again(new), strict=True):
        torch.testing.assert_close(one, another)


def test_rows_it_never_saw_are_told_by_those_that_are_like_them() -> None:
    vectors, (target, _) = blobs(200, seed=3)
    of_all, of_half = ((logits.argmax(dim=1) == target).float().mean() for logits in remembered()(vectors))
    assert of_all > 0.85
    assert of_half > 0.65


def test_of_more_pairs_than_it_keeps_every_one_still_counts() -> None:
    vectors, (target, _) = blobs(200, seed=3)
    memory = remembered(n_rows=600, capacity=60)
    assert memory.keys.shape == (60, 5)
    assert (memory(vectors)[0].argmax(dim=1) == target).float().mean() > 0.85


def test_a_class_that_no_row_is_known_of_gets_even_answers() -> None:
    memory = Memory([(5, 1.0)], [3], width=0.7, capacity=100)
    (x, (y, _)) = blobs(30)
    memory.solve((x, [torch.full_like(y, -1)]), (x, [torch.full_like(y, -1)]))
    assert memory(x)[0].abs().max() == 0


def test_a_constant_feature_and_a_far_row_stay_finite() -> None:
    x, targets = blobs(30)
    x[:, 0] = 3.0
    memory = Memory([(5, 1.0)], [3, 3], width=0.7, capacity=100)
    memory.solve((x, targets), (x, targets))
    assert all(logits.isfinite().all() for logits in memory(torch.full((2, 5), 1e30)))


def settled(**options: object) -> nn.Module:
    torch.manual_seed(0)
    network = registry.build("dmlanet-plus", sizes(), options).eval()
    batch = labelled()
    with torch.no_grad():
        network.settle(lambda: [batch], lambda: [batch])
    return network


def labelled() -> Batch:
    """Both modalities of every pair have a label, and the rule makes its class of them."""
    batch = pairs()
    return replace(batch, image_target=batch.target, text_target=batch.target)


def test_a_settled_network_is_the_same_when_it_is_loaded() -> None:
    network, batch = settled(), labelled()
    again = registry.build("dmlanet-plus", sizes(), {}).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(batch).logits, network(batch).logits)


def test_a_memory_of_another_size_is_refused() -> None:
    wider = registry.build("dmlanet-plus", replace(sizes(), text_size=9), {})
    with pytest.raises(RuntimeError, match="size mismatch"):
        wider.load_state_dict(settled().state_dict())


@pytest.mark.parametrize(
    ("missing", "fields"), [("has_text", ("text_vector", "lexicon")), ("has_image", ("regions",))]
)
def test_what_is_missing_is_not_remembered_by(missing: str, fields: tuple[str, ...]) -> None:
    network, batch = settled(share=1), labelled()
    gone = replace(batch, **{missing: torch.zeros(8, dtype=torch.bool)})
    other = replace(gone, **{field: getattr(gone, field).roll(1, dims=0) for field in fields})
    assert torch.equal(network(gone).logits, network(other).logits)
    assert not torch.equal(network(gone).logits, network(batch).logits)


def test_without_the_labels_of_modalities_it_remembers_the_class() -> None:
    batch = replace(pairs(), text_target=None, image_target=None)
    network = registry.build("dmlanet-plus", sizes(), {"share": 1}).eval()
    with torch.no_grad():
        network.settle(lambda: [batch], lambda: [batch])
    assert (network(batch).logits.argmax(dim=1) == batch.target).all()


def test_the_share_of_the_memory_is_the_likeliest_on_validation_rows() -> None:
    network, batch = settled(), labelled()
    found = float(network.share)

    def loss(share: float) -> float:
        network.share.fill_(share)
        with torch.no_grad():
            return float(nn.functional.nll_loss(network(batch).logits, batch.target))

    tried = {round(share, 2): loss(share) for share in np.linspace(0, 1, 21)}
    assert tried[round(found, 2)] == min(tried.values())


def test_a_conflict_has_no_class_and_neutral_gives_way() -> None:
    rule = label_rule((0, 1, 2))
    sure = torch.tensor([[9.0, -9, -9], [-9, 9, -9], [-9, -9, 9]])  # negative, neutral, positive
    assert apply_rule(rule, sure[[0, 1, 2, 1]], sure[[1, 1, 1, 2]]).argmax(dim=1).tolist() == [0, 1, 2, 2]
    conflict = apply_rule(rule, sure[:1], sure[2:]).exp()
    assert conflict.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["memory.of_both.keys", "memory.of_both.values"])
def test_keys_and_values_of_different_numbers_are_refused(name: str) -> None:
    state = settled().state_dict()
    state[name] = state[name][:3]
    with pytest.raises(RuntimeError, match="size mismatch"):
        registry.build("dmlanet-plus", sizes(), {}).load_state_dict(state)
