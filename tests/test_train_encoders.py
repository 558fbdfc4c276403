"""`mvsent train` with encoders, links and models that are fitted in their own way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.errors import DatasetError, InputError, OutputExistsError, RunError, UsageError, WeightsError
from mvsent.features.backbones import BACKBONES, load_backbone
from mvsent.features.transformer import TextEncoder, Tokens, load_text_encoder
from mvsent.features.vectors import WordVectors, load_vectors
from mvsent.learn.batches import Examples
from mvsent.learn.finetune import ThroughEncoders
from mvsent.learn.loop import Fold, Trainer
from mvsent.learn.optimisation import parameter_groups
from mvsent.models.batch import Batch, Batches, Output
from mvsent.runs.evaluate import evaluate
from mvsent.runs.inputs.setup import CAPTION_TOKENS
from mvsent.runs.predictor import DatasetPredictor
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import train
from mvsent.runs.train_anps import train_anps
from mvsent.shards.reader import Dataset
from tests.conftest import write_dataset
from tests.drawing import draw_pairs
from tests.tiny_models import write_bert, write_clip

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bert(folder / "bert")
    write_clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pairs of six owners with a tag each, found by the queries of three adjective-noun pairs."""
    pairs = draw_pairs(60, prefix="linked")
    columns = {
        "owner": [f"owner {row % 6}" for row in range(60)],
        "tags": [[f"tag {row % 5}"] for row in range(60)],
        "query": [("sunny day", "plain street", "sad song")[row % 3] for row in range(60)],
    }
    for name, values in columns.items():
        at = pairs.schema.get_field_index(name)
        pairs = pairs.set_column(at, pairs.schema.field(at), pa.array(values, pairs.schema.field(at).type))
    return write_dataset(tmp_path_factory.mktemp("data") / "linked", pairs)


def settings(dataset: Path, models: Path, **changes: object) -> TrainSettings:
    quick = {
        "model": "dmlanet",
        "backbone": str(models / "clip"),
        "words": str(models / "bert"),
        "text_vector": "none",
        "image_vector": "none",
        "lexicon": "none",
        "epochs": 2,
        "batch_size": 16,
        "folds": [0],
        "options": {"hidden": 16},
        "threads": 1,
    }
    return TrainSettings(dataset=str(dataset), **{**quick, **changes})


def assert_judged_as_in_training(run: Path, dataset: Path) -> None:
    opened = Dataset.open(dataset)
    fresh = DatasetPredictor(RunFolder.open(run), opened, quiet=True).predict(0)
    saved = pq.read_table(run / "fold-0" / "predictions.parquet")
    saved = saved.filter(pc.equal(saved["role"], "test"))  # a network may be refitted on the others
    rows = [opened.ids.index(i) for i in saved["id"].to_pylist()]
    assert abs(fresh[rows, 2] - saved["p_positive"].to_numpy()).max() < 1e-4


def test_words_through_a_frozen_transformer_are_judged_as_in_training(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    run = train(settings(small_dataset, models), out=tmp_path / "run", quiet=True).run
    weights = load_file(run / "fold-0" / "model.safetensors")
    assert not any(name.startswith(("transformer.", "backbone.")) for name in weights)
    assert_judged_as_in_training(run, small_dataset)


@pytest.mark.parametrize("how_much", ["last", "all"])
def test_fine_tuning_words_changes_only_the_parameters_that_it_may(
    small_dataset: Path, models: Path, tmp_path: Path, how_much: str
) -> None:
    chosen = settings(small_dataset, models, fine_tune_words=how_much)
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    start = "transformer.transformer."
    tuned = load_file(run / "fold-0" / "model.safetensors")
    pretrained = load_text_encoder(str(models / "bert")).transformer.state_dict()
    assert {name.removeprefix(start) for name in tuned if name.startswith(start)} == pretrained.keys()
    changed = {name for name, before in pretrained.items() if (tuned[start + name] != before).any()}
    assert any("layer.1." in name for name in changed)
    assert all("layer.1." in name for name in changed) == (how_much == "last")
    assert_judged_as_in_training(run, small_dataset)


@pytest.mark.parametrize(("words", "pictures"), [("all", "none"), ("last", "none"), ("none", "all")])
def test_lora_changes_linear_layers_alone_by_matrices_of_its_rank(
    small_dataset: Path, models: Path, tmp_path: Path, words: str, pictures: str
) -> None:
    pytest.importorskip("peft")
    chosen = settings(small_dataset, models, fine_tune_words=words, fine_tune=pictures, lora=1)
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    tuned = load_file(run / "fold-0" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in tuned)
    if words == "none":
        start, pretrained = "backbone.trunk.", load_backbone(str(models / "clip")).trunk.state_dict()
    else:
        start = "transformer.transformer."
        pretrained = load_text_encoder(str(models / "bert")).transformer.state_dict()
    assert {name.removeprefix(start) for name in tuned if name.startswith(start)} == pretrained.keys()
    changed = {name for name, before in pretrained.items() if (tuned[start + name] != before).any()}
    assert changed and all(name.endswith("weight") for name in changed)
    assert words != "last" or all("layer.1." in name for name in changed)
    for name in changed:  # the difference is a product of two matrices of rank 1, up to rounding
        sizes = torch.linalg.svdvals((tuned[start + name] - pretrained[name]).double())
        assert sizes[1] < 1e-3 * sizes[0]
    assert_judged_as_in_training(run, small_dataset)


def test_a_fold_starts_from_the_pretrained_words_and_a_resumed_run_repeats_it(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    chosen = settings(small_dataset, models, fine_tune_words="last", folds=[0, 1])
    both = train(chosen, out=tmp_path / "both", quiet=True).run
    expected = load_file(both / "fold-1" / "model.safetensors")
    alone = train(chosen.model_copy(update={"folds": [1]}), out=tmp_path / "alone", quiet=True).run
    shutil.rmtree(both / "fold-1")
    train(TrainSettings(), out=both, resume=True, quiet=True)
    for run in (alone, both):
        weights = load_file(run / "fold-1" / "model.safetensors")
        assert all((weights[name] == expected[name]).all() for name in expected)


def test_a_tuned_run_judges_another_dataset_and_notices_another_encoder(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    bert = write_bert(tmp_path / "bert")
    chosen = settings(small_dataset, models, words=str(bert), fine_tune_words="last", epochs=1)
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    other = write_dataset(tmp_path / "other", draw_pairs(12, prefix="other"))
    found = evaluate(run, [], other, quiet=True)
    assert found.document["folds"][0]["n_test"] == 12
    shutil.rmtree(bert)
    write_bert(bert, seed=1)
    with pytest.raises(RunError, match="encoder has changed since training"):
        DatasetPredictor(RunFolder.open(run), Dataset.open(other), quiet=True)


@pytest.mark.parametrize("read_as", ["words", "text_vector"])
def test_a_transformer_reads_as_much_of_another_dataset_s_texts_as_in_training(
    small_dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_as: str
) -> None:
    asked, tokenize = [], TextEncoder.tokenize

    def recorded(self: TextEncoder, texts: list[str], max_tokens: int) -> Tokens:
        asked.append(max_tokens)
        return tokenize(self, texts, max_tokens)

    monkeypatch.setattr(TextEncoder, "tokenize", recorded)
    bert = str(models / "bert")
    changes = {
        "words": {},
        "text_vector": {"model": "logistic", "options": {}, "words": "random", "text_vector": bert},
    }
    chosen = settings(small_dataset, models, epochs=1, **changes[read_as])
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    tweets = write_dataset(tmp_path / "tweets", draw_pairs(12, prefix="mvsa"))
    evaluate(run, [], tweets, quiet=True)
    assert RunFolder.open(run).resolved.max_tokens == CAPTION_TOKENS
    assert set(asked) == {CAPTION_TOKENS}


def test_the_words_of_a_fold_are_looked_up_once(
    small_dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*given: object) -> WordVectors:
        calls.append(given)
        return load_vectors(*given)

    monkeypatch.setattr("mvsent.runs.material.load_vectors", counted)
    chosen = settings(small_dataset, models, words="random", epochs=1, folds=[1, 0])
    train(chosen, out=tmp_path / "run", quiet=True)
    assert len(calls) == 2


def test_a_table_of_vectors_cannot_be_fine_tuned_as_a_transformer(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    chosen = settings(small_dataset, models, words="random", fine_tune_words="all")
    with pytest.raises(UsageError, match="--fine-tune-words: --words random is a table of vectors"):
        train(chosen, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_encoders_learn_at_their_own_rate() -> None:
    encoder = nn.Linear(2, 2)
    network = ThroughEncoders(nn.Linear(2, 3), list(encoder.parameters()), transformer=encoder)
    groups = parameter_groups(network, TrainSettings(learning_rate=0.1, encoder_learning_rate=0.002))
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.1, 2), (0.002, 2)]


class Recorder(nn.Module):
    """A constant answer with a penalty in training; it keeps the rows that it is fitted on."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.seen: dict[str, list[float]] = {}

    def forward(self, batch: Batch) -> Output:
        logits = self.bias.expand(len(batch.target), -1)
        return Output(logits, penalty=torch.tensor(5.0) if self.training else None)

    def note(self, name: str, rows: Batches) -> None:
        self.seen[name] = [number for batch in rows() for number in batch.lexicon[:, 0].tolist()]


class SettledRecorder(Recorder):
    def settle(self, train: Batches, validation: Batches) -> None:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.note("train", train)
        self.note("validation", validation)


class SolvedRecorder(Recorder):
    def solve(self, train: Batches, validation: Batches) -> None:
        self.note("train", train)
        self.note("validation", validation)


def recorded(network: Recorder, tmp_path: Path) -> tuple[list, Recorder]:
    """Rows 0 to 7 train, 8 and 9 validate, the others test; each carries its number."""
    numbers = np.arange(12, dtype=np.float32)[:, None]
    rows = Examples(np.arange(12) % 3, {"lexicon": numbers})
    chosen = TrainSettings(batch_size=3, epochs=1, learning_rate=1e-9)
    trainer = Trainer(network, rows, chosen, torch.device("cpu"))
    return trainer.fit(Fold(0, np.arange(8), np.arange(8, 10)), tmp_path / "c.pt"), network


def test_what_is_settled_is_settled_on_training_and_validation_rows_alone(tmp_path: Path) -> None:
    _, network = recorded(SettledRecorder(), tmp_path)
    assert network.seen == {"train": list(range(8)), "validation": [8, 9]}


def test_what_is_solved_is_solved_on_training_and_validation_rows_alone(tmp_path: Path) -> None:
    _, network = recorded(SolvedRecorder(), tmp_path)
    assert network.seen == {"train": list(range(8)), "validation": [8, 9]}


def test_a_penalty_is_added_in_training_and_only_there(tmp_path: Path) -> None:
    (record,), _ = recorded(Recorder(), tmp_path)
    assert record.train_loss == pytest.approx(np.log(3) + 5, abs=1e-4)
    assert record.validation_loss == pytest.approx(np.log(3), abs=1e-4)


def test_what_is_settled_through_encoders_is_the_model_on_encoded_batches() -> None:
    class Model(SettledRecorder):
        def settle(self, train: Batches, validation: Batches) -> None:
            self.shapes: list[Tensor] = [batch.word_vectors for batch in validation()]

    class Encoder(nn.Module):
        def forward(self, numbers: Tensor, mask: Tensor) -> Tensor:
            return numbers.unsqueeze(-1).float() * mask.unsqueeze(-1)

    network = ThroughEncoders(Model(), [], transformer=Encoder())
    batch = Batch(tokens=torch.tensor([[4, 5]]), word_mask=torch.tensor([[True, False]]))
    network.settle(lambda: [batch], lambda: [batch])
    assert network.model.shapes[0].tolist() == [[[4.0], [0.0]]]


@pytest.mark.parametrize("words", ["random", "bert"])
def test_dmaf_is_trained_settled_saved_and_loaded(
    small_dataset: Path, models: Path, tmp_path: Path, words: str
) -> None:
    chosen = settings(
        small_dataset, models, model="dmaf", words=words if words == "random" else str(models / words)
    )
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    late = load_file(run / "fold-0" / "model.safetensors")["late"]
    assert late.sum() == pytest.approx(1)
    assert not torch.allclose(late, torch.full((3,), 1 / 3))
    assert_judged_as_in_training(run, small_dataset)


def test_logistic_is_solved_saved_and_loaded_with_a_sentence_encoder_and_a_lexicon(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("vaderSentiment")
    chosen = settings(
        small_dataset,
        models,
        model="logistic",
        options={"c": "0.01,1"},
        text_vector=str(models / "bert"),
        lexicon="vader",
    )
    result = train(chosen, out=tmp_path / "run", quiet=True)
    assert result.folds[0].epochs == 1
    assert load_file(result.run / "fold-0" / "model.safetensors")["linear.weight"].shape == (3, 12 + 16 + 4)
    assert_judged_as_in_training(result.run, small_dataset)
    with pytest.raises(UsageError, match="logistic is solved, not trained in steps"):
        train(chosen.model_copy(update={"fine_tune_words": "last"}), out=tmp_path / "tuned", quiet=True)


def test_several_sentence_encoders_stand_side_by_side(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    bert, twin = str(models / "bert"), shutil.copytree(models / "bert", tmp_path / "twin")
    chosen = settings(small_dataset, models, model="logistic", options={}, lexicon="none")
    both = chosen.model_copy(update={"text_vector": f"{bert},{twin}"})
    run = train(both, out=tmp_path / "run", quiet=True).run
    assert load_file(run / "fold-0" / "model.safetensors")["linear.weight"].shape == (3, 12 + 2 * 16)
    assert_judged_as_in_training(run, small_dataset)
    for odd in (f"{bert},{bert}", f"{bert},", f"none,{bert}"):
        with pytest.raises(UsageError, match="not a list of different encoders"):
            train(chosen.model_copy(update={"text_vector": odd}), out=tmp_path / "odd", quiet=True)


@pytest.mark.parametrize(("model", "option"), [("ahrm", ("graph", "tags")), ("hdf", ("links", "owner"))])
@pytest.mark.parametrize("words", ["random", "bert"])
def test_links_are_read_where_there_are_any_and_asked_for_by_name_where_not(
    linked: Path, small_dataset: Path, models: Path, tmp_path: Path, model: str, option: tuple, words: str
) -> None:
    changes = {
        "model": model,
        "options": {"hidden": 16, option[0]: option[1]},
        "words": words if words == "random" else str(models / words),
    }
    result = train(settings(linked, models, **changes), out=tmp_path / "run", quiet=True)
    assert result.folds[0].epochs == 2
    with pytest.raises(DatasetError, match=rf"has no {option[1]}, which link its rows"):
        train(settings(small_dataset, models, **changes), out=tmp_path / "none", quiet=True)
    found = evaluate(result.run, [], small_dataset, quiet=True)
    assert found.document["folds"][0]["n_test"] == 60, (
        "nothing is linked there, and it is judged all the same"
    )


def test_hsan_reads_captions_of_a_file(small_dataset: Path, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("id,caption\n" + "".join(f"drawn:{i},a sunny day\n" for i in range(0, 60, 2)))
    for words in ("random", str(models / "bert")):
        chosen = settings(small_dataset, models, model="hsan", words=words, captions=str(path), epochs=1)
        run = train(chosen, out=tmp_path / f"run-{Path(words).name}", quiet=True).run
        assert_judged_as_in_training(run, small_dataset)


def test_captions_of_another_dataset_go_to_the_run_s_file(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("id,caption\ndrawn:1,a sunny day\n")
    chosen = settings(small_dataset, models, model="hsan", captions=str(path), epochs=1)
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    other = write_dataset(tmp_path / "other", draw_pairs(12, prefix="other"))
    asked = r"captions\.csv: has no caption for any row of .*other\. Add its rows to the file of --captions, "
    with pytest.raises(InputError, match=asked + "which may hold"):
        evaluate(run, [], other, quiet=True)
    path.write_text(path.read_text() + "other:1,a sad street\n")
    assert evaluate(run, [], other, quiet=True).document["folds"][0]["n_test"] == 12


def test_anp_scores_of_another_dataset_go_to_the_run_s_file(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("vaderSentiment")
    path, other = tmp_path / "anps.parquet", draw_pairs(12, prefix="other")

    def write_scores(ids: list[str]) -> None:
        pq.write_table(pa.table({"id": ids, "anp_scores": [[0.5, 0.5]] * len(ids)}), path)

    known = Dataset.open(small_dataset).ids
    write_scores(known)
    chosen = settings(small_dataset, models, model="sentibank", options={}, anps=str(path), lexicon="vader")
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    folder = write_dataset(tmp_path / "other", other)
    asked = (
        r"anps\.parquet: has no row for 12 of 12 pairs, such as other:0\. Add them to the file of --anps, "
    )
    with pytest.raises(InputError, match=asked + "which may hold"):
        evaluate(run, [], folder, quiet=True)
    write_scores([*known, *other["id"].to_pylist()])
    assert evaluate(run, [], folder, quiet=True).document["folds"][0]["n_test"] == 12


def test_a_second_backbone_is_the_scene(small_dataset: Path, models: Path, tmp_path: Path) -> None:
    chosen = settings(
        small_dataset, models, model="multisentinet", scene_backbone=str(models / "clip"), epochs=1
    )
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    assert_judged_as_in_training(run, small_dataset)


def test_a_scene_backbone_with_a_file_of_weights_is_found_from_anywhere(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    pytest.importorskip("timm")
    save_file(BACKBONES["efficientnet_lite0"].build().state_dict(), tmp_path / "weights" / "r.safetensors")
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        str(small_dataset),
        "--model",
        "multisentinet",
        "--weights",
        "random",
        "--words",
        "random",
    ]
    words += ["--scene-backbone", "efficientnet_lite0=weights/r.safetensors", "--epochs", "1", "--folds", "0"]
    done = CliRunner().invoke(app, [*words, "--out", "run", "--threads", "1", "-q"])
    assert done.exit_code == 0, done.output
    monkeypatch.chdir("/")
    run = RunFolder.open(tmp_path / "run")
    assert run.settings.scene_backbone == f"efficientnet_lite0={tmp_path / 'weights' / 'r.safetensors'}"
    assert run.resolved.width("scene_channels") == 1280
    assert_judged_as_in_training(run.path, small_dataset)


def test_anp_detectors_are_trained_measured_and_read_by_sentibank(
    linked: Path, small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("vaderSentiment")
    out, backbone = tmp_path / "anps.safetensors", str(models / "clip")
    printed = CliRunner().invoke(
        app, ["train-anps", str(linked), "--out", str(out), "--backbone", backbone, "--json"]
    )
    assert printed.exit_code == 0, printed.output
    document = json.loads(printed.stdout)
    assert (document["n_anps"], document["n_train"], document["n_test"]) == (3, 48, 6)
    assert 0 <= document["top_1"] <= document["top_5"] == 1
    with pytest.raises(OutputExistsError, match="Replace it with --overwrite"):
        train_anps(TrainSettings(dataset=str(linked), backbone=backbone), out, quiet=True)
    chosen = settings(
        small_dataset, models, model="sentibank", options={}, anps=str(out), lexicon="vader", epochs=1
    )
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    assert load_file(run / "fold-0" / "model.safetensors")["classifier.weight"].shape == (3, 3 + 4)
    assert_judged_as_in_training(run, small_dataset)
    other = chosen.model_copy(update={"backbone": str(write_clip(tmp_path / "other", seed=1))})
    with pytest.raises(WeightsError, match="read another backbone than"):
        train(other, out=tmp_path / "other-run", quiet=True)


def test_a_dataset_that_no_query_found_has_no_anps(small_dataset: Path, models: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no query found its rows.*mvsent build-flickr"):
        chosen = TrainSettings(dataset=str(small_dataset), backbone=str(models / "clip"))
        train_anps(chosen, tmp_path / "a.safetensors", quiet=True)


def test_every_setting_of_training_is_a_flag() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    apart = {"dataset": "[dataset]", "options": "--option "}
    for name in TrainSettings.model_fields:
        assert apart.get(name, f"--{name.replace('_', '-')}") in shown, name
