"""Judging a run without its pictures, or without its texts."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.errors import OutputExistsError, RunError, UsageError
from mvsent.learn.batches import Examples, Text, blanked
from mvsent.learn.finetune import ThroughEncoders
from mvsent.models import registry
from mvsent.models.batch import Batch
from mvsent.runs import evaluate as evaluation
from mvsent.runs.evaluate import evaluate, modalities
from mvsent.runs.inputs.pair_sources import DatasetPairs
from mvsent.runs.run_folder import RunFolder, refuse_unless_free
from mvsent.runs.train import train
from mvsent.runs.trial import missing_trial, saved_trial
from mvsent.shards.reader import Dataset
from tests.drawing import draw_pairs
from tests.run_folder import write_run
from tests.test_models import ALL_MODELS, contextual, fresh, pairs

FLAG = {"image": "has_image", "text": "has_text"}
OF = {
    "image": ("regions", "anp_scores", "scene", "caption", "caption_mask"),
    "text": ("words", "word_mask", "sentence", "text_vector", "lexicon"),
}


def without(batch: Batch, modality: str, rows: torch.Tensor | None = None) -> Batch:
    there = torch.zeros(8, dtype=torch.bool) if rows is None else rows
    return blanked(replace(batch, **{FLAG[modality]: there}))


def same(a: Batch, b: Batch) -> bool:
    pairs_of = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch)]
    return all(x is y or torch.equal(x, y) for x, y in pairs_of)


@pytest.mark.parametrize("modality", FLAG)
def test_nothing_is_left_of_what_is_missing(modality: str) -> None:
    batch, random = pairs(), torch.randperm(8, generator=torch.Generator().manual_seed(5))
    other = replace(batch, **{name: getattr(batch, name)[random] for name in OF[modality]})
    assert same(without(batch, modality), without(other, modality))
    assert not same(batch, other)


@pytest.mark.parametrize("modality", FLAG)
def test_rows_that_lack_nothing_stay_as_they_are(modality: str) -> None:
    whole, there = pairs(), torch.arange(8) % 2 == 0
    for name in OF[modality]:
        values = getattr(without(whole, modality, there), name)
        assert torch.equal(values[there], getattr(whole, name)[there])
    kept = pairs()
    without(kept, modality)
    assert same(kept, whole), "what was given is not changed"


def test_a_missing_text_is_what_an_empty_one_is() -> None:
    batch = without(pairs(), "text")
    assert batch.words is not None and batch.word_mask is not None
    assert batch.words[:, 0].tolist() == [1] * 8
    assert batch.words[:, 1:].sum() == 0
    assert batch.word_mask.sum(dim=1).tolist() == [1] * 8


@pytest.mark.parametrize("modality", FLAG)
@pytest.mark.parametrize("name", ALL_MODELS)
def test_every_model_answers_without_a_modality(name: str, modality: str) -> None:
    network = fresh(name).eval()
    with torch.no_grad():
        assert network(without(pairs(), modality)).logits.isfinite().all()


@pytest.mark.parametrize("modality", FLAG)
@pytest.mark.parametrize("name", ALL_MODELS)
def test_so_does_every_model_whose_words_are_vectors(name: str, modality: str) -> None:
    sizes, batch = contextual(pairs())
    network = registry.build(name, sizes, {}).eval()
    with torch.no_grad():
        assert network(without(batch, modality)).logits.isfinite().all()


@pytest.mark.parametrize("modality", FLAG)
def test_vectors_of_a_missing_text_are_zero(modality: str) -> None:
    _, batch = contextual(pairs())
    vectors = without(batch, modality).word_vectors
    assert vectors is not None and batch.word_vectors is not None
    assert (vectors == 0).all() if modality == "text" else torch.equal(vectors, batch.word_vectors)


def test_encoders_that_are_trained_do_not_see_it_either() -> None:
    class Shape(torch.nn.Module):
        def forward(self, batch: Batch) -> Batch:
            return batch

    class Backbone(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.float() + 1

    class Transformer(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return tokens.unsqueeze(-1) + 1.0

    network = ThroughEncoders(Shape(), [], backbone=Backbone(), transformer=Transformer())
    none = torch.zeros(1, dtype=torch.bool)
    given = Batch(
        pixels=torch.ones(1, 3, 2, 2, dtype=torch.uint8),
        tokens=torch.ones(1, 2, dtype=torch.long),
        word_mask=torch.ones(1, 2, dtype=torch.bool),
    )
    seen = network.encode(replace(given, has_image=none, has_text=none))
    assert seen.regions.abs().sum() == 0
    assert seen.word_vectors.abs().sum() == 0


def test_a_batch_of_examples_says_what_is_missing() -> None:
    numbers = np.array([[2, 3], [4, 0]])
    words, regions = Text(np.array([2, 1]), numbers=numbers), np.ones((2, 1, 2, 2), np.float16)
    examples = Examples(np.array([0, 1]), {"words": words, "regions": regions})
    batch = examples.without("image").batch(np.array([1, 0]))
    assert batch.has_image is not None and not batch.has_image.any() and batch.has_text is None
    assert batch.regions is not None and batch.regions.sum() == 0
    assert examples.batch(np.array([0])).has_image is None
    assert examples.without("text").batch(np.array([0])).words.tolist() == [[1, 0]]


@pytest.fixture
def trained(small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    settings = TrainSettings(
        dataset=str(small_dataset), weights="random", words="random", epochs=1, batch_size=16, threads=1
    )
    return train(settings, out=tmp_path / "runs" / "run", quiet=True).run


@pytest.mark.slow
def test_a_run_is_judged_again_on_its_own_test_rows(trained: Path) -> None:
    whole = evaluate(trained, ["roc"], quiet=True).document
    before = (trained / "metrics.json").read_bytes()
    found = CliRunner().invoke(
        app, ["eval", str(trained), "--metrics", "roc", "--missing", "image,text", "-q"]
    )
    assert found.exit_code == 0, found.output
    assert "without image" in found.output and "without text" in found.output
    for modality in FLAG:
        document = json.loads((trained / f"missing-{modality}" / "metrics.json").read_text())
        assert document["missing"] == modality and document["published"] is None
        assert [fold["n_test"] for fold in document["folds"]] == [fold["n_test"] for fold in whole["folds"]]
        assert (trained / f"missing-{modality}" / "fold-0" / "predictions.parquet").is_file()
        assert document["metrics"] != whole["metrics"]
    assert (trained / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_what_the_pictures_show_does_not_matter_where_they_are_missing(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(modality: str) -> np.ndarray:
        return missing_trial(RunFolder.open(trained), modality, quiet=True).answered.folds[0][1]

    seen = {modality: answers(modality) for modality in FLAG}
    maps = DatasetPairs.maps
    monkeypatch.setattr(DatasetPairs, "maps", lambda self, backbone: maps(self, backbone)[::-1] * 3)
    assert np.array_equal(answers("image"), seen["image"])
    assert not np.array_equal(answers("text"), seen["text"])


@pytest.mark.slow
def test_with_nothing_missing_the_same_rows_get_the_answers_that_were_saved(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Examples, "without", lambda self, modality: self)
    run = RunFolder.open(trained)
    for again, saved in zip(
        missing_trial(run, "image", quiet=True).tested, saved_trial(run).tested, strict=True
    ):
        assert list(again.answers.ids) == list(saved.answers.ids)
        assert abs(again.answers.y_prob - saved.answers.y_prob).max() < 1e-5


@pytest.mark.slow
def test_links_lead_to_the_training_rows_of_the_fold(
    make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = draw_pairs(40, prefix="linked")
    owners = pa.array([f"owner {row % 6}" for row in range(40)])
    linked = make_dataset(pairs.set_column(pairs.schema.get_field_index("owner"), "owner", owners))
    settings = TrainSettings(
        dataset=str(linked),
        model="hdf",
        options={"links": "owner"},
        folds=[1],
        weights="random",
        words="random",
        epochs=1,
        threads=1,
    )
    run = RunFolder.open(train(settings, out=tmp_path / "runs" / "run", quiet=True).run)
    with_links = missing_trial(run, "text", quiet=True).answered.folds[0][1]
    monkeypatch.setattr(Examples, "without", lambda self, modality: self)
    saved, whole = (
        trial.answered.folds[0][1] for trial in (saved_trial(run), missing_trial(run, "text", quiet=True))
    )
    assert abs(whole - saved).max() < 1e-5
    assert abs(with_links - saved).max() > 1e-5


@pytest.mark.slow
def test_another_dataset_is_judged_without_a_modality_too(
    trained: Path, make_dataset: Callable[..., Path]
) -> None:
    other = make_dataset(draw_pairs(12, prefix="other"), name="other")
    result = evaluate(trained, ["roc"], other, missing="image", quiet=True)
    assert result.folder == trained / "eval-other-missing-image"
    assert (result.document["dataset"], result.document["missing"]) == ("other", "image")
    whole = evaluate(trained, ["roc"], other, quiet=True)
    assert whole.folder == trained / "eval-other" and "missing" not in whole.document
    assert whole.document["metrics"] != result.document["metrics"]


def test_a_run_whose_dataset_is_gone_is_not_judged_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"gone, and neither beside the run nor in data.*--dataset"):
        evaluate(run, missing="image")
    assert not (run / "missing-image").exists()


def test_a_run_that_was_judged_without_a_modality_may_be_overwritten(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for modality in FLAG:
        (run / f"missing-{modality}").mkdir()
    refuse_unless_free(run, overwrite=True)
    (run / "missing-persons").mkdir()
    with pytest.raises(OutputExistsError, match="holds missing-persons"):
        refuse_unless_free(run, overwrite=True)


@pytest.mark.parametrize("given", ["image,", "", "image,sound", "text,,image"])
def test_a_list_is_refused_before_anything_is_judged(tmp_path: Path, given: str) -> None:
    run = write_run(tmp_path / "run")
    before = sorted(run.rglob("*"))
    found = CliRunner().invoke(app, ["eval", str(run), "--missing", given, "-q"])
    assert isinstance(found.exception, UsageError) and "--missing: unknown" in str(found.exception)
    assert sorted(run.rglob("*")) == before


def test_a_modality_that_is_named_twice_is_judged_once() -> None:
    assert modalities("text, image,text") == ["text", "image"]


@pytest.mark.slow
def test_a_dataset_that_has_changed_is_not_judged(trained: Path, small_dataset: Path) -> None:
    sha256 = Dataset.open(small_dataset).sha256
    config = trained / "config.toml"
    config.write_text(config.read_text().replace(sha256, "0" * 64))
    with pytest.raises(RunError, match=r"has changed since .* was trained on it"):
        evaluate(trained, ["roc"], missing="image", quiet=True)


def test_a_modality_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--missing: unknown 'sound'\. Choose from image, text"):
        evaluate(tmp_path, missing="sound")
    with pytest.raises(UsageError, match="unknown 'image,text'"):
        evaluate(tmp_path, missing="image,text")
    with pytest.raises(UsageError, match="nothing was trained that way"):
        evaluate(write_run(tmp_path / "run"), ["curves"], missing="text")
