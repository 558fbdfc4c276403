"""`--image-vector`: a model that reads vectors of whole pictures is trained, evaluated, used and exported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import mvsent
from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.errors import InputError, MvsentError, RunError, UsageError
from mvsent.features.backbones import load_backbone
from mvsent.features.pixels import decode_pixels
from mvsent.inference.export_model import export_model
from mvsent.models import registry
from mvsent.models.batch import IMAGE_VECTOR, REGIONS, Batch, Output, Sizes
from mvsent.models.registry import ModelCard
from mvsent.runs.evaluate import evaluate
from mvsent.runs.inputs.input_reader import InputReader
from mvsent.runs.inputs.pair_sources import DatasetPairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.predictor import DatasetPredictor
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import train
from mvsent.setting import Settings
from mvsent.shards.reader import Dataset
from mvsent.storage import recorded
from tests.conftest import write_dataset
from tests.drawing import draw_pairs
from tests.hub import COMMIT, serving
from tests.tiny_models import write_clip

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")


class NoOptions(Settings):
    """The toy model has no options."""


class Toy(nn.Module):
    """A linear layer on the vector of the picture; zeros stand for it where there is none."""

    def __init__(self, sizes: Sizes, options: NoOptions) -> None:
        super().__init__()
        self.size = sizes.image_vector_size
        self.linear = nn.Linear(max(1, self.size), sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        assert self.size == 0 or batch.image_vector.shape[1:] == (self.size,)
        there = batch.image_vector is not None
        vector = batch.image_vector if there else batch.regions.new_zeros(len(batch.regions), 1)
        return Output(self.linear(vector))


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models `toy`, which needs the vector, and `may`, which reads regions and may read it."""
    registry.names()
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    for name, reads, may_read in (("toy", {IMAGE_VECTOR}, set()), ("may", {REGIONS}, {IMAGE_VECTOR})):
        card = ModelCard(
            name=name,
            citation="Nobody 2026",
            url="https://example.org",
            fidelity="exact",
            fidelity_note="It is defined by its code.",
            reads=frozenset(reads),
            may_read=frozenset(may_read),
            options=NoOptions,
            kind="ours",
        )
        registry.register(card)(type("Toy", (Toy,), {}))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "resnet.safetensors")
    return folder


def settings(dataset: Path, **changes: object) -> TrainSettings:
    quick = {"model": "toy", "epochs": 1, "batch_size": 16, "folds": [0], "threads": 1}
    return TrainSettings(dataset=str(dataset), **{**quick, **changes})


def vectors(dataset: Path, chosen: TrainSettings) -> np.ndarray:
    setup = Setup(chosen, torch.device("cpu"), Dataset.open(dataset))
    reader = InputReader(setup)
    return reader.read(DatasetPairs(setup, reader.columns, quiet=True)).readings["image_vector"]


def first_picture(dataset: Path) -> bytes:
    (row,) = next(Dataset.open(dataset).batches(["image"], 1)).to_pylist()
    return row["image"]["bytes"]


def assert_judged_as_in_training(run: Path, dataset: Path) -> None:
    opened = Dataset.open(dataset)
    fresh = DatasetPredictor(RunFolder.open(run), opened, quiet=True).predict(0)
    saved = pq.read_table(run / "fold-0" / "predictions.parquet")
    rows = [opened.ids.index(i) for i in saved["id"].to_pylist()]
    assert abs(fresh[rows, 2] - saved["p_positive"].to_numpy()).max() < 1e-4


def own_file(path: Path, ids: list[str], width: int = 3) -> Path:
    values = np.random.default_rng(0).normal(size=(len(ids), width)).astype(np.float32)
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(ids), vectors=values)
    else:
        pq.write_table(pa.table({"id": ids, "vector": values.tolist()}), path)
    return path


@pytest.mark.slow
def test_the_vectors_are_clips_own_beside_those_that_timms_classifier_reads(
    small_dataset: Path, models: Path
) -> None:
    clip, resnet = str(models / "clip"), f"test_resnet={models / 'resnet.safetensors'}"
    found = vectors(small_dataset, settings(small_dataset, image_vector=f"{clip},{resnet}"))
    assert found.shape == (60, 8 + 96)
    first = first_picture(small_dataset)
    encoder = load_backbone(clip)
    pixels = torch.from_numpy(decode_pixels(first, encoder.size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        theirs = transformers.CLIPModel.from_pretrained(clip).get_image_features(
            pixel_values=(pixels - encoder.mean) * encoder.scale
        )
    theirs = getattr(theirs, "pooler_output", theirs)[0].numpy()
    np.testing.assert_allclose(found[0, :8], theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "backbone", "width"),
    [
        ("may", "clip", 8),  # it has a vector of its own
        ("may", "test_resnet", 0),  # its vector is the mean of the map that the model reads
        ("toy", "test_resnet", 96),
        ("toy", "clip", 8),
    ],
)
def test_by_default_it_is_the_backbones_own_vector_or_what_the_model_needs(
    small_dataset: Path, models: Path, tmp_path: Path, model: str, backbone: str, width: int
) -> None:
    name, weights = (str(models / "clip"), "pretrained") if backbone == "clip" else (backbone, "random")
    chosen = settings(small_dataset, model=model, backbone=name, weights=weights)
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    assert RunFolder.open(run).resolved.width("image_vector_size") == width
    assert_judged_as_in_training(run, small_dataset)


@pytest.mark.slow
def test_the_backbones_vector_does_not_depend_on_its_tap(small_dataset: Path) -> None:
    chosen = settings(small_dataset, backbone="test_resnet", weights="random", image_vector="backbone")
    cut = chosen.model_copy(update={"model": "may", "tap": "layer2"})
    assert (vectors(small_dataset, chosen) == vectors(small_dataset, cut)).all()


@pytest.mark.slow
def test_a_run_is_streamed_judged_used_and_exported(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    chosen = settings(small_dataset, image_vector=str(models / "clip"))
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    assert_judged_as_in_training(run, small_dataset)
    streamed = train(chosen.model_copy(update={"stream": True}), out=tmp_path / "streamed", quiet=True).run
    assert_judged_as_in_training(streamed, small_dataset)
    answers = mvsent.load(run).predict([first_picture(small_dataset), None], ["", "a day"])
    opened = Dataset.open(small_dataset)
    fresh = DatasetPredictor(RunFolder.open(run), opened, quiet=True).predict(0, np.arange(1))
    np.testing.assert_allclose(answers.probabilities[0], fresh[0], atol=1e-3)
    assert not answers.errors[1]
    blind = DatasetPredictor(RunFolder.open(run), opened, quiet=True).predict(0, missing="image")
    assert (blind == blind[0]).all() and not np.allclose(blind[0], fresh[0])
    done = export_model(run, "torchscript", tmp_path / "toy.pt")
    told = json.loads(done.description.read_text())
    assert told["inputs"] == [{"name": "image_vector", "dtype": "float32", "shape": ["batch", 8]}]
    (encoder,) = told["preprocessing"]["image_vector"]["encoders"]
    assert (encoder["encoder"], encoder["side"]) == ("clip", 32)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_vectors_of_ones_own_are_matched_by_id_and_stay_in_their_dataset(
    small_dataset: Path, tmp_path: Path, suffix: str
) -> None:
    ids = Dataset.open(small_dataset).ids
    file = own_file(tmp_path / f"mine{suffix}", [*reversed(ids), "another:1"])
    chosen = settings(small_dataset, image_vector=str(file))
    found = vectors(small_dataset, chosen)
    expected = np.random.default_rng(0).normal(size=(61, 3)).astype(np.float32)
    np.testing.assert_allclose(found[0], expected[len(ids) - 1])
    run = train(chosen, out=tmp_path / "run", quiet=True).run
    assert_judged_as_in_training(run, small_dataset)
    for use in (lambda: mvsent.load(run), lambda: export_model(run, "torchscript", tmp_path / "x.pt")):
        with pytest.raises(
            RunError, match=rf"reads vectors of pictures from .*mine\{suffix}, which has none"
        ):
            use()
    with pytest.raises(UsageError, match=r"--image-vector .*: not with --stream"):
        train(chosen.model_copy(update={"stream": True}), out=tmp_path / "streamed", quiet=True)
    other = write_dataset(tmp_path / "other", draw_pairs(12, prefix="other"))
    with pytest.raises(InputError, match=r"has vectors for 0 of the 12 rows, and none for other:0"):
        evaluate(run, [], other, quiet=True)
    own_file(file, ids, width=4)
    with pytest.raises(RunError, match="image vector has changed since training"):
        assert_judged_as_in_training(run, small_dataset)


def test_a_text_only_dataset_is_enough_for_vectors_of_ones_own(tmp_path: Path) -> None:
    pairs = draw_pairs(30)
    at = pairs.schema.get_field_index("image")
    without = pairs.set_column(at, pairs.schema.field(at), pa.nulls(30, pairs.schema.field(at).type))
    dataset = write_dataset(tmp_path / "texts", without)
    file = own_file(tmp_path / "mine.npz", pairs["id"].to_pylist())
    assert vectors(dataset, settings(dataset, image_vector=str(file))).shape == (30, 3)


def test_missing_ids_are_counted_and_named(small_dataset: Path, tmp_path: Path) -> None:
    ids = Dataset.open(small_dataset).ids
    file = own_file(tmp_path / "mine.parquet", ids[5:])
    with pytest.raises(
        InputError, match=rf"has vectors for 55 of the 60 rows, and none for {ids[0]}"
    ) as told:
        train(settings(small_dataset, image_vector=str(file)), out=tmp_path / "run", quiet=True)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("given", ["clip,clip", "clip,", "none,clip", "auto,clip"])
def test_a_list_of_encoders_that_is_none_is_refused(small_dataset: Path, given: str) -> None:
    with pytest.raises(UsageError, match=f"--image-vector {given}: not a list of different encoders"):
        vectors(small_dataset, settings(small_dataset, image_vector=given))


def test_a_model_that_needs_the_vector_does_not_take_none(small_dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a vector of the picture. Give --image-vector backbone"):
        vectors(small_dataset, settings(small_dataset, image_vector="none"))


def test_an_encoder_that_is_not_there_is_one_line(small_dataset: Path, tmp_path: Path) -> None:
    for given in ("test_resnett", "none/such", "nothing.parquet", "test_resnet=none.pth"):
        with pytest.raises(MvsentError) as told:
            vectors(small_dataset, settings(small_dataset, image_vector=given))
        assert "\n" not in str(told.value) and given.partition("=")[2] in str(told.value)


@pytest.mark.slow
def test_an_encoder_of_the_hub_is_recorded_by_its_commit_and_found_without_a_network(
    small_dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({"tiny/clip": models / "clip"}, tmp_path / "hub", monkeypatch):
        chosen = settings(
            small_dataset, model="may", backbone="tiny/clip", image_vector="backbone,tiny/clip@main"
        )
        run = train(chosen, out=tmp_path / "run", quiet=True).run
    resolved = RunFolder.open(run).resolved
    assert resolved.revisions == {"tiny/clip": COMMIT, "tiny/clip@main": COMMIT}
    assert resolved.width("image_vector_size") == 16
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert_judged_as_in_training(run, small_dataset)


def test_other_weights_than_in_training_are_noticed(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    clip = shutil.copytree(models / "clip", tmp_path / "clip")
    run = train(settings(small_dataset, image_vector=str(clip)), out=tmp_path / "run", quiet=True).run
    shutil.rmtree(clip)
    write_clip(clip, seed=1)
    with pytest.raises(RunError, match="image vector has changed since training"):
        mvsent.load(run)


def test_paths_of_several_encoders_are_recorded_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "clip").mkdir(parents=True)
    (tmp_path / "w.pth").touch()
    given = "models/clip, resnet50=w.pth,none/such"
    kept = recorded(TrainSettings.stated()["image_vector"], given)
    assert kept == f"{tmp_path / 'models' / 'clip'},resnet50={tmp_path / 'w.pth'},none/such"


def test_the_command_line_takes_it(small_dataset: Path, models: Path, tmp_path: Path) -> None:
    words = ["train", str(small_dataset), "--model", "toy", "--image-vector", str(models / "clip")]
    words += ["--epochs", "1", "--folds", "0", "--threads", "1", "-q", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    evaluated = CliRunner().invoke(app, ["eval", str(tmp_path / "run"), "--metrics", "roc", "-q"])
    assert evaluated.exit_code == 0, evaluated.output


@pytest.mark.slow
def test_a_network_of_timm_is_read_at_a_level_and_its_last_stage_is_trained(
    small_dataset: Path, tmp_path: Path
) -> None:
    chosen = settings(
        small_dataset,
        model="image-only",
        backbone="test_convnext",
        weights="random",
        tap="stages.2",
        options={"hidden": 8},
    )
    frozen = train(chosen, out=tmp_path / "frozen", quiet=True).run
    assert_judged_as_in_training(frozen, small_dataset)
    tuned = train(chosen.model_copy(update={"fine_tune": "last"}), out=tmp_path / "tuned", quiet=True).run
    assert_judged_as_in_training(tuned, small_dataset)
    before = load_backbone("test_convnext", tap="stages.2", weights="random").state_dict()
    after = load_file(tuned / "fold-0" / "model.safetensors")
    changed = {name for name, value in before.items() if (after[f"backbone.{name}"] != value).any()}
    assert changed and all(name.startswith("trunk.network.stages.2.") for name in changed)
    with pytest.raises(UsageError, match=r"has no tap 'stages\.9'"):
        train(chosen.model_copy(update={"tap": "stages.9"}), out=tmp_path / "none", quiet=True)
