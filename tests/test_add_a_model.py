"""A model, and a kind of model input, are added as CONTRIBUTING says, and trained from the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

import mvsent
from mvsent.cli import app
from mvsent.models import registry
from mvsent.models.batch import LEXICON, REGIONS, Batch, Output, Sizes
from mvsent.models.registry import ModelCard
from mvsent.runs.inputs import kind
from mvsent.runs.inputs.kind import Input
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.run_folder import RunFolder
from mvsent.setting import Settings

EXCLAMATIONS = "exclamations"


class ToyOptions(Settings):
    """Options of the toy model."""

    scale: float = 1.0


def toy_model(*reads: str) -> None:
    """Register the model `toy`: a linear layer on the lexicon scores."""
    card = ModelCard(
        name="toy",
        citation="Nobody 2026",
        url="https://example.org",
        fidelity="exact",
        fidelity_note="It is defined by its code.",
        reads=frozenset(reads),
        options=ToyOptions,
        kind="ours",
    )

    @registry.register(card)
    class Toy(nn.Module):
        def __init__(self, sizes: Sizes, options: ToyOptions) -> None:
            super().__init__()
            self.scale, self.linear = options.scale, nn.Linear(sizes.n_lexicon, sizes.n_classes)

        def forward(self, batch: Batch) -> Output:
            return Output(self.linear(self.scale * batch.lexicon))


class Exclamations(Input):
    """How many exclamation marks a text has."""

    columns = ("text",)

    @classmethod
    def make(cls, setup: Setup) -> Self:
        return cls()

    def read(self, pairs: Pairs) -> Mapping[str, np.ndarray]:
        return {"lexicon": np.array([[text.count("!")] for text in pairs.texts], np.float32)}


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is forgotten after it."""
    registry.names()
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    monkeypatch.setattr(kind, "_KINDS", dict(kind.kinds()))


def train(dataset: Path, out: Path, *more: str) -> RunFolder:
    words = ["train", str(dataset), "--model", "toy", "--epochs", "1", "--folds", "0", "--threads", "1", "-q"]
    done = CliRunner().invoke(app, [*words, "--out", str(out), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return RunFolder.open(out)


@pytest.mark.slow
def test_a_model_is_one_class_and_its_card(small_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("vaderSentiment")
    toy_model(LEXICON)
    run = train(small_dataset, tmp_path / "run", "--option", "scale=2")
    assert run.is_finished and run.resolved.width("n_lexicon") == 4
    assert "toy" in CliRunner().invoke(app, ["models"]).output
    evaluated = CliRunner().invoke(app, ["eval", str(run.path), "--metrics", "roc", "-q"])
    assert evaluated.exit_code == 0, evaluated.output


@pytest.mark.slow
def test_a_kind_of_input_is_one_class_for_training_streaming_and_new_pairs(
    small_dataset: Path, tmp_path: Path
) -> None:
    kind.register(EXCLAMATIONS)(Exclamations)
    toy_model(EXCLAMATIONS)
    run = train(small_dataset, tmp_path / "run")
    assert run.resolved.width("n_lexicon") == 1
    streamed = train(small_dataset, tmp_path / "streamed", "--stream")
    assert streamed.resolved.width("n_lexicon") == 1
    few, many = mvsent.load(run.path).predict(texts=["good!", "good!!!!!!"]).probabilities
    assert not np.allclose(few, many)
    missing = CliRunner().invoke(app, ["eval", str(run.path), "--missing", "text", "-q"])
    assert missing.exit_code == 0, missing.output


def test_every_input_of_a_model_has_a_class_that_reads_it() -> None:
    cards = [registry.card(name) for name in registry.names()]
    read = {name for card in cards for name in card.reads | card.may_read | set(card.reads_with.values())}
    assert read == set(kind.kinds())
    assert REGIONS in read
