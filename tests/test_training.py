"""The training loop on numbers made up here: what it keeps, where it continues, when it stops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mvsent.config import TrainSettings
from mvsent.errors import NonFiniteLossError, RunError
from mvsent.learn.batches import Examples, Text, cut
from mvsent.learn.checkpoint import EpochRecord
from mvsent.learn.finetune import ThroughEncoders
from mvsent.learn.loop import Fold, Trainer, best_epoch
from mvsent.models import registry
from mvsent.models.batch import Sizes

CPU = torch.device("cpu")


def made_up(n_rows: int = 60) -> Examples:
    """Rows whose class is written in one channel of the map and in the first word."""
    random = np.random.default_rng(0)
    target = random.integers(0, 3, n_rows)
    regions = random.normal(0, 0.1, (n_rows, 6, 2, 2)).astype(np.float16)
    regions[np.arange(n_rows), target] += 1
    words = random.integers(5, 20, (n_rows, 5))
    words[:, 0] = target + 2
    words[::3, 3:] = 0
    text = Text((words != 0).sum(axis=1), numbers=words)
    return Examples(target, {"words": text, "regions": regions})


def trainer(examples: Examples, **settings: object) -> Trainer:
    torch.manual_seed(0)
    vectors = torch.randn(20, 8)
    network = registry.build("dmlanet", Sizes(6, (2, 2), vectors, 3), {"hidden": 16, "map_channels": 8})
    chosen = TrainSettings(**{"batch_size": 16, "epochs": 6, "learning_rate": 5e-3, **settings})
    return Trainer(network, examples, chosen, CPU)


FOLD = Fold(0, train=np.arange(40), validation=np.arange(40, 60))


def records(history: list[EpochRecord]) -> list[tuple]:
    return [
        (r.epoch, r.train_loss, r.train_accuracy, r.validation_loss, r.validation_accuracy) for r in history
    ]


@pytest.mark.slow
def test_it_learns_what_is_written_in_the_rows(tmp_path: Path) -> None:
    history = trainer(made_up(), epochs=30).fit(FOLD, tmp_path / "c.pt")
    assert history[best_epoch(history)].validation_accuracy > 0.9


@pytest.mark.slow
def test_a_killed_fold_continues_bit_for_bit(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill_after_two(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise Killed

    whole = trainer(made_up())
    expected = whole.fit(FOLD, tmp_path / "whole.pt")
    with pytest.raises(Killed):
        trainer(made_up()).fit(FOLD, tmp_path / "cut.pt", on_epoch=kill_after_two)
    torch.manual_seed(12345)  # another process would not have our random state either
    again = trainer(made_up())
    continued = again.fit(FOLD, tmp_path / "cut.pt")
    assert records(continued) == records(expected)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_the_network_that_is_kept_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    running = trainer(made_up(), epochs=12, learning_rate=0.1)
    history = running.fit(FOLD, tmp_path / "c.pt")
    kept = running.predict_proba(FOLD.validation).argmax(1) == made_up().target[FOLD.validation]
    assert kept.mean() == pytest.approx(max(r.validation_accuracy for r in history))


def test_training_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    history = trainer(made_up(), epochs=50, patience=2, learning_rate=1e-7).fit(FOLD, tmp_path / "c.pt")
    assert len(history) == best_epoch(history) + 3


def test_shuffled_test_labels_change_nothing_that_is_chosen(tmp_path: Path) -> None:
    fold = Fold(0, train=np.arange(30), validation=np.arange(30, 45))
    plain, shuffled = made_up(), made_up()
    shuffled.target[45:] = np.random.default_rng(1).permutation(shuffled.target[45:])
    assert records(trainer(plain).fit(fold, tmp_path / "a.pt")) == records(
        trainer(shuffled).fit(fold, tmp_path / "b.pt")
    )


def test_an_infinite_input_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    examples = made_up()
    examples.columns["regions"][:40] = np.inf
    with pytest.raises(NonFiniteLossError, match=r"fold 0, epoch 0, step 0: the loss is nan\. Lower"):
        trainer(examples).fit(FOLD, tmp_path / "c.pt")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"half a check")
    with pytest.raises(RunError, match=r"c\.pt: not a checkpoint"):
        trainer(made_up()).fit(FOLD, tmp_path / "c.pt")


def test_a_batch_is_as_long_as_its_longest_text() -> None:
    examples = made_up()
    batch = examples.batch(np.array([0, 3, 6]))  # rows that were cut to three words
    assert batch.words is not None and batch.words.shape == (3, 3)


def test_every_row_is_seen_once_in_an_order_of_its_own_each_epoch() -> None:
    rows = np.arange(100, 140)
    first, second = (made_up(1).order(rows, seed=0, fold=0, epoch=e) for e in (0, 1))
    assert sorted(first) == sorted(second) == rows.tolist()
    assert (first != second).any()
    seen = [batch.target for batch in made_up(200).batches(cut(rows, 16))]
    assert [len(part) for part in seen] == [16, 16, 8]


def test_equal_accuracy_is_decided_by_the_lower_loss_then_by_the_earlier_epoch() -> None:
    history = [EpochRecord(i, 0, 0, loss, 0.5, 0) for i, loss in enumerate([0.9, 0.7, 0.7])]
    assert best_epoch(history) == 1


def test_fine_tuning_trains_only_the_chosen_parameters_and_keeps_the_batch_norms(tmp_path: Path) -> None:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)
            self.last = torch.nn.Conv2d(4, 6, 1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.first(pixels.float() / 255)))

    backbone = Tiny()
    running = trainer(made_up())
    pixels = np.random.default_rng(3).integers(0, 256, (60, 3, 2, 2), dtype=np.uint8)
    network = ThroughEncoders(running.network, list(backbone.last.parameters()), backbone=backbone)
    rows = made_up()
    examples = Examples(rows.target, {"words": rows.columns["words"], "pixels": pixels})
    tuned = Trainer(network, examples, running.settings, CPU)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    tuned.fit(FOLD, tmp_path / "c.pt")
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"last.weight", "last.bias"}
