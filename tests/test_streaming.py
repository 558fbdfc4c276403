"""`mvsent train --stream`: the order, what is read when, and that batches are those of the map-style path."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.errors import DatasetError, UsageError
from mvsent.features.anps import AnpDetectors
from mvsent.features.backbones import load_backbone
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import BatchSource, Rows, cut
from mvsent.learn.checkpoint import Checkpoint
from mvsent.learn.loop import Fold
from mvsent.learn.stream import GROUPS_AHEAD, STEPS_AHEAD, ReadPlan, Stream, shuffled, through_buffer
from mvsent.models.batch import Batch
from mvsent.runs import train as training
from mvsent.runs.history import read_history
from mvsent.runs.inputs.kind import OfFold
from mvsent.runs.material import prepare
from mvsent.runs.predictor import DatasetPredictor
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.streaming import Streamed
from mvsent.runs.train import train
from mvsent.shards.reader import Dataset
from mvsent.splits import TRAIN, VALIDATION
from mvsent.workers.ranks import Ranks
from tests.conftest import write_dataset
from tests.drawing import draw_pairs
from tests.tiny_models import write_bert, write_clip

QUICK = {
    "stream": True,
    "text_vector": "none",
    "lexicon": "none",
    "epochs": 2,
    "batch_size": 16,
    "folds": [0],
    "options": {"hidden": 16},
    "threads": 1,
}

# The order -----------------------------------------------------------------------------------------------

layouts = st.lists(st.integers(1, 9), min_size=1, max_size=12)
seeds = st.integers(0, 2**32 - 6)


def firsts_of(sizes: list[int]) -> Rows:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)


def some_rows(sizes: list[int], seed: int) -> Rows:
    return np.flatnonzero(np.random.default_rng(seed).random(sum(sizes)) < 0.7)


@given(st.integers(0, 60), st.integers(1, 70), seeds)
def test_everything_leaves_the_buffer_once_and_nothing_before_it_can_be_there(
    n: int, size: int, seed: int
) -> None:
    leaves = through_buffer(n, size, np.random.default_rng(seed))
    assert sorted(leaves) == list(range(n))
    assert (leaves < np.arange(n) + size).all()


def test_a_buffer_of_all_rows_makes_any_order_as_likely_as_another() -> None:
    random = np.random.default_rng(0)
    counts = np.zeros(6)
    for _ in range(3000):
        first, second, _ = through_buffer(3, 5, random)
        counts[2 * first + (second > 3 - first - second)] += 1
    assert (abs(counts - 500) < 100).all()


@given(layouts, st.integers(1, 30), seeds, st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_takes_each_row_once_in_an_order_of_the_arguments_alone(
    sizes: list[int], buffer: int, seed: int, fold: int, epoch: int
) -> None:
    rows, firsts = some_rows(sizes, seed), firsts_of(sizes)
    source = numbers(firsts, buffer)
    order = source.order(rows, seed=seed, fold=fold, epoch=epoch)
    assert sorted(order) == rows.tolist()
    again = numbers(firsts, buffer, workers=3).order(rows[::-1], seed=seed, fold=fold, epoch=epoch)
    assert (again == order).all()


@given(layouts, seeds)
def test_a_buffer_of_one_row_leaves_the_groups_whole(sizes: list[int], seed: int) -> None:
    rows = np.arange(sum(sizes))
    order = shuffled(rows, firsts_of(sizes), 1, np.random.default_rng(seed))
    starts = [row for row in order if row in firsts_of(sizes)]
    in_groups = [rows[first : first + sizes[firsts_of(sizes).tolist().index(first)]] for first in starts]
    assert (np.concatenate(in_groups) == order).all()


def test_epochs_folds_and_seeds_have_orders_of_their_own() -> None:
    source, rows = numbers(firsts_of([10] * 10), 20), np.arange(100)
    orders = {
        tuple(source.order(rows, seed=seed, fold=fold, epoch=epoch).tolist())
        for seed in (0, 1)
        for fold in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 8


# What is read, and when ----------------------------------------------------------------------------------


def numbers(firsts: Rows, buffer: int, workers: int = 1, log: list[str] | None = None) -> Stream[int, int]:
    """A source whose batches carry ten times their rows' numbers, and which notes what it does."""
    noted = [] if log is None else log

    def read(group: int, rows: Rows) -> Mapping[int, int]:
        noted.extend(["read"] * len(rows))
        return {row: row for row in rows.tolist()}

    def decode(row: int) -> int:
        noted.append(f"decode {row}")
        return 10 * row

    def collate(rows: Rows, decoded: list[int]) -> Batch:
        noted.extend(["deliver"] * len(rows))
        return Batch(target=torch.tensor(decoded))

    return Stream(np.arange(1000), firsts, buffer, read, decode, collate, workers)


@pytest.mark.slow
@given(layouts, st.integers(1, 30), st.integers(1, 9), seeds)
def test_batches_are_those_of_their_steps_and_only_their_rows_are_decoded(
    sizes: list[int], buffer: int, batch_size: int, seed: int
) -> None:
    log: list[str] = []
    source = numbers(firsts_of(sizes), buffer, 2, log)
    order = source.order(some_rows(sizes, seed), seed=seed, fold=0, epoch=0)
    steps = cut(order, batch_size)
    found = [batch.target.tolist() for batch in source.batches(steps)]
    assert found == [(10 * rows).tolist() for rows in steps]
    decoded = sorted(int(line.split()[1]) for line in log if line.startswith("decode"))
    assert decoded == sorted(order)
    assert log.count("read") == len(order)


class Kept:
    """A row that was read; who refers to it keeps it in memory."""

    def __init__(self, row: int) -> None:
        self.row = row


@pytest.mark.slow
@given(st.integers(1, 40), seeds)
def test_no_more_rows_are_in_memory_than_the_buffer_and_what_is_ahead(buffer: int, seed: int) -> None:
    group, n_groups, batch_size = 8, 40, 4
    alive: WeakSet[Kept] = WeakSet()

    def read(group: int, rows: Rows) -> Mapping[int, Kept]:
        found = {row: Kept(row) for row in rows.tolist()}
        alive.update(found.values())
        return found

    plain = numbers(firsts_of([group] * n_groups), buffer, 2)
    source = replace(plain, read=read, decode=lambda kept: kept.row)
    order = source.order(np.arange(group * n_groups), seed=seed, fold=0, epoch=0)
    for _ in source.batches(cut(order, batch_size)):
        assert len(alive) <= buffer + (GROUPS_AHEAD + 2) * group + (STEPS_AHEAD + 1) * batch_size


def test_a_row_may_be_in_several_steps() -> None:
    steps = [np.array([3, 0]), np.array([0]), np.array([3, 3])]
    found = [batch.target.tolist() for batch in numbers(firsts_of([2, 2]), 2).batches(steps)]
    assert found == [[30, 0], [0], [30, 30]]


def test_no_steps_are_no_batches() -> None:
    assert list(numbers(firsts_of([2, 2]), 2).batches([])) == []


def test_groups_are_read_in_the_order_in_which_they_are_first_needed() -> None:
    plan = ReadPlan.of([np.array([5, 1]), np.array([0, 4]), np.array([8])], np.array([0, 3, 6]))
    assert plan.groups.tolist() == [1, 0, 2]
    assert [rows.tolist() for rows in plan.wanted] == [[4, 5], [0, 1], [8]]
    assert plan.needed == [2, 2, 3]


def test_who_stops_asking_leaves_no_thread_behind() -> None:
    source = numbers(firsts_of([5] * 20), 10)
    batches = source.batches(cut(np.arange(100), 4))
    next(batches)
    batches.close()  # would wait for ever if a thread did


# Row groups of a dataset ---------------------------------------------------------------------------------


def test_row_groups_are_all_rows_in_order(small_dataset: Path) -> None:
    dataset = Dataset.open(small_dataset)
    groups = dataset.row_groups()
    assert [(g.shard, g.first, g.rows) for g in groups] == [(0, 0, 25), (1, 25, 25), (2, 50, 10)]
    ids = [row for group in groups for row in dataset.read_group(group, ["id"])["id"].to_pylist()]
    assert ids == dataset.ids


def test_a_shard_with_other_rows_than_the_manifest_says_is_named(sixty_pairs: object, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", sixty_pairs)
    dataset = Dataset.open(folder)
    last = dataset.row_groups()[-1]
    first, third = folder / "data/shard-00000.parquet", folder / "data/shard-00002.parquet"
    shutil.copy(first, third)
    with pytest.raises(DatasetError, match=r"shard-00002\.parquet: altered: 25 rows, where there were 10"):
        dataset.row_groups()
    with pytest.raises(DatasetError, match=r"shard-00002\.parquet: altered: \d+ bytes, the manifest says"):
        dataset.read_group(last, ["id"])


# Batches -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    write_bert(folder / "bert")
    clip = load_backbone(str(write_clip(folder / "clip")))
    random = np.random.default_rng(0)
    weight = random.normal(size=(5, clip.channels)).astype(np.float32)
    zeros, ones = np.zeros(clip.channels, np.float32), np.ones(clip.channels, np.float32)
    names = [f"adjective noun {i}" for i in range(5)]
    detectors = AnpDetectors(names, weight, zeros[:5], zeros, ones, clip.weights_sha256)
    detectors.save(folder / "anps.safetensors")
    return folder


@pytest.fixture(scope="module")
def with_an_empty_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = draw_pairs(60)
    texts = pairs["text"].to_pylist()
    texts[7] = ""
    at = pairs.schema.get_field_index("text")
    pairs = pairs.set_column(at, pairs.field(at), pa.array(texts, pairs.field(at).type))
    return write_dataset(tmp_path_factory.mktemp("data") / "empty", pairs)


def settings(dataset: Path, models: Path, **changes: object) -> TrainSettings:
    """Words and pictures through tiny transformers; what is named BERT, CLIP or ANPS lies in `models`."""
    folders = {"BERT": "bert", "CLIP": "clip", "ANPS": "anps.safetensors"}
    folders = {name: str(models / path) for name, path in folders.items()}
    chosen = QUICK | {"model": "dmlanet", "backbone": "CLIP", "words": "random"} | changes
    return TrainSettings(
        dataset=str(dataset),
        **{k: folders.get(v, v) if isinstance(v, str) else v for k, v in chosen.items()},
    )


def source_of(chosen: TrainSettings, run: Path) -> BatchSource:
    """What the trainer of fold 0 reads."""
    material = prepare(chosen, device=torch.device("cpu"), quiet=True)
    folder = RunFolder.create(run, chosen, training.resolve(chosen, material, 1), overwrite=False)
    folder.fold(0).mkdir()
    return training.make_trainer(folder, 0, material).source


def assert_same_batches(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        for field in fields(Batch):
            ours, theirs = getattr(first, field.name), getattr(second, field.name)
            assert (ours is None) == (theirs is None), field.name
            if ours is not None:
                assert ours.dtype == theirs.dtype, field.name
                assert torch.allclose(ours.float(), theirs.float(), atol=2e-3), field.name


READS = [
    {},
    {"fine_tune": "last"},
    {"words": "BERT"},
    {"words": "BERT", "fine_tune_words": "last", "fine_tune": "last"},
    {"model": "hsan", "words": "random"},
    {"model": "hsan", "words": "BERT"},
    {"model": "dmlanet-plus", "text_vector": "BERT", "lexicon": "vader", "options": {}},
    {"model": "multisentinet", "scene_backbone": "CLIP"},
    {"model": "sentibank", "lexicon": "vader", "options": {}},
    {"model": "sentibank", "lexicon": "vader", "anps": "ANPS", "options": {}},
    {"model": "logistic", "text_vector": "BERT", "words": "BERT", "options": {}},
    {"model": "text-only", "options": {}},
    {"model": "image-only", "options": {}},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", READS, ids=lambda changes: "-".join(map(str, changes.values())) or "plain"
)
def test_batches_are_those_of_the_map_style_path(
    with_an_empty_text: Path, models: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    chosen = settings(with_an_empty_text, models, **changes)
    streamed = source_of(chosen, tmp_path / "streamed")
    mapped = source_of(chosen.model_copy(update={"stream": False}), tmp_path / "mapped")
    assert (streamed.target == mapped.target).all()
    runs = [RunFolder.open(tmp_path / name) for name in ("streamed", "mapped")]
    assert runs[0].resolved == runs[1].resolved
    steps = cut(streamed.order(np.arange(2, 60), seed=0, fold=0, epoch=0), 16)
    assert_same_batches(list(streamed.batches(steps)), list(mapped.batches(steps)))


@pytest.mark.slow
def test_the_rest_of_an_epoch_is_that_of_the_whole_epoch(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    source = source_of(settings(small_dataset, models, shuffle_buffer=20), tmp_path / "run")
    steps = cut(source.order(np.arange(60), seed=0, fold=0, epoch=3), 7)
    whole, rest = list(source.batches(steps)), list(source.batches(steps[5:]))
    assert len(rest) == 4
    for first, second in zip(whole[5:], rest, strict=True):
        assert (first.regions == second.regions).all()
        assert (first.words == second.words).all()
        assert (first.target == second.target).all()


@pytest.mark.slow
def test_the_shares_of_two_ranks_are_the_batch_of_one(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    source = source_of(settings(small_dataset, models, fine_tune="last"), tmp_path / "run")
    steps = cut(source.order(np.arange(60), seed=0, fold=0, epoch=0), 16)
    shares = [[Ranks(rank, 2).share(rows) for rows in steps] for rank in (0, 1)]
    of_ranks = [list(source.batches(share)) for share in shares]
    for whole, *parts in zip(source.batches(steps), *of_ranks, strict=True):
        for name in ("pixels", "target"):
            together = torch.cat([getattr(part, name) for part in parts])
            assert (getattr(whole, name) == together).all()


@pytest.fixture(scope="module")
def finished(small_dataset: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streamed run of one worker."""
    chosen = settings(small_dataset, models, shuffle_buffer=20, workers=1, folds=[0, 1])
    return train(chosen, out=tmp_path_factory.mktemp("runs") / "run", quiet=True).run


def assert_same_fold(one: Path, other: Path) -> None:
    assert pq.read_table(one / "predictions.parquet") == pq.read_table(other / "predictions.parquet")
    weights, again = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all((weights[name] == again[name]).all() for name in weights)


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_bit(
    finished: Path, small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    chosen = settings(small_dataset, models, shuffle_buffer=20, workers=5, folds=[1])
    again = train(chosen, out=tmp_path / "run", quiet=True).run
    assert_same_fold(finished / "fold-1", again / "fold-1")  # nor does it that a fold is the run's first


@pytest.mark.slow
def test_stopped_in_mid_epoch_and_continued_it_ends_as_if_nothing_had_happened(
    small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    chosen = settings(small_dataset, models, shuffle_buffer=20)
    material = prepare(chosen, device=torch.device("cpu"), quiet=True)
    run = RunFolder.create(tmp_path / "run", chosen, training.resolve(chosen, material, 1), overwrite=False)
    run.fold(0).mkdir()
    rows = Fold(0, material.split.rows(0, TRAIN), material.split.rows(0, VALIDATION))

    def fit(checkpoint: str, stop: Callable[[], bool] = lambda: False) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        trainer = training.make_trainer(run, 0, material)
        trainer.fit(rows, tmp_path / checkpoint, stop=stop)
        return trainer.network.state_dict()

    steps = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        fit("cut.pt", lambda: next(steps) == 4)  # the second of three steps of the second epoch
    assert Checkpoint.load(tmp_path / "cut.pt").begun.step == 2
    whole, continued = fit("whole.pt"), fit("cut.pt")
    assert all((whole[name] == continued[name]).all() for name in whole)


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(small_dataset: Path, models: Path, tmp_path: Path) -> None:
    losses = []
    for devices in (1, 2):
        chosen = settings(small_dataset, models, devices=devices, options={"hidden": 16, "dropout": 0.0})
        run = train(chosen, out=tmp_path / str(devices), quiet=True).run
        losses.append([record.train_loss for record in read_history(run / "fold-0" / "history.csv")])
    assert np.allclose(*losses, atol=1e-5)


@pytest.mark.slow
def test_a_streamed_run_judges_a_dataset_as_in_training_and_without_a_modality(
    finished: Path, small_dataset: Path, models: Path, tmp_path: Path
) -> None:
    dataset = Dataset.open(small_dataset)
    fresh = DatasetPredictor(RunFolder.open(finished), dataset, quiet=True).predict(0)
    saved = pq.read_table(finished / "fold-0" / "predictions.parquet")
    rows = [dataset.ids.index(i) for i in saved["id"].to_pylist()]
    assert abs(fresh[rows, 2] - saved["p_positive"].to_numpy()).max() < 1e-5
    mapped = shutil.copytree(finished, tmp_path / "mapped")
    (mapped / "config.toml").write_text(
        (mapped / "config.toml").read_text().replace("stream = true", "stream = false")
    )
    for missing in ("image", "text"):
        ours, theirs = (
            DatasetPredictor(RunFolder.open(run), dataset, quiet=True).predict(0, missing=missing)
            for run in (finished, mapped)
        )
        assert abs(ours - theirs).max() < 1e-4
        assert abs(ours - fresh).max() > 1e-3


@pytest.mark.slow
def test_nothing_is_cached(
    small_dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVSENT_CACHE", str(tmp_path / "cache"))
    train(settings(small_dataset, models, words="BERT", epochs=1), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "cache").exists()


# What goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"model": "hsan", "captions": "captions.csv"}, "--captions: not with --stream"),
        ({"model": "hdf", "options": {"links": "owner"}}, "--option links=owner: not with --stream"),
        ({"model": "ahrm", "options": {"graph": "tags"}}, "--option graph=tags: not with --stream"),
        ({"model": "sentibank", "anps": "s.parquet", "options": {}}, r"--anps s\.parquet: not with --stream"),
    ],
)
def test_what_a_row_alone_cannot_give_is_refused_before_anything_is_written(
    sixty_pairs: object, models: Path, tmp_path: Path, changes: dict[str, object], option: str
) -> None:
    folder = write_dataset(tmp_path / "d", sixty_pairs)
    with pytest.raises(UsageError, match=option):
        train(settings(folder, models, **changes), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert not (folder / "splits").exists()


@pytest.mark.slow
def test_a_dataset_without_pictures_is_refused_at_once(models: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", draw_pairs(60, images=False))
    with pytest.raises(DatasetError, match="has rows without pictures"):
        train(settings(folder, models), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def damaged(folder: Path, how: str) -> None:
    """The last shard has gone, is shorter, or has a flipped bit in its pictures."""
    shard = folder / "data" / "shard-00002.parquet"
    if how == "gone":
        shard.unlink()
        return
    data = bytearray(shard.read_bytes())
    if how == "short":
        del data[-100:]
    else:
        picture = pq.ParquetFile(shard).metadata.row_group(0).column(1)
        data[picture.data_page_offset + picture.total_compressed_size // 2] ^= 0xFF
    shard.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "short", "flipped"])
def test_a_shard_damaged_in_mid_training_is_one_line_and_the_checkpoint_is_kept(
    sixty_pairs: object, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = write_dataset(tmp_path / "d", sixty_pairs)
    epochs: list[int] = []
    order = Stream.order

    def damaging(self: Stream, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        epochs.append(epoch)
        if epoch == 1:
            damaged(folder, how)
        return order(self, rows, seed=seed, fold=fold, epoch=epoch)

    monkeypatch.setattr(Stream, "order", damaging)
    more = "--epochs 3 --folds 0 --threads 1 --text-vector none --batch-size 16 --words random --quiet"
    command = [
        "train",
        str(folder),
        "--stream",
        "--backbone",
        str(models / "clip"),
        "--out",
        str(tmp_path / "run"),
    ]
    found = CliRunner().invoke(app, [*command, *more.split()])
    assert isinstance(found.exception, DatasetError)
    assert found.exception.exit_code == 1
    assert "shard-00002.parquet: " in str(found.exception)
    assert "\n" not in str(found.exception)
    assert epochs == [0, 1]
    assert (tmp_path / "run" / "fold-0" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_picture_that_cannot_be_decoded_is_named(models: Path, tmp_path: Path) -> None:
    pairs = draw_pairs(60)
    images = pairs["image"].to_pylist()
    images[41] = {"bytes": b"no picture", "path": "41.jpg"}
    at = pairs.schema.get_field_index("image")
    folder = write_dataset(
        tmp_path / "d", pairs.set_column(at, pairs.field(at), pa.array(images, pairs.field(at).type))
    )
    source = source_of(settings(folder, models), tmp_path / "run")
    with pytest.raises(DatasetError, match="drawn:41: a picture cannot be decoded"):
        list(source.batches(cut(np.arange(60), 16)))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["text", "image"])
def test_a_row_without_its_text_or_picture_is_named(what: str, models: Path, tmp_path: Path) -> None:
    pairs = draw_pairs(60)
    values = pairs[what].to_pylist()
    values[41] = None
    at = pairs.schema.get_field_index(what)
    folder = write_dataset(
        tmp_path / "d", pairs.set_column(at, pairs.field(at), pa.array(values, pairs.field(at).type))
    )
    named = rf"drawn:41: has no {'text' if what == 'text' else 'picture'}"
    material = prepare(settings(folder, models), device=torch.device("cpu"), quiet=True)
    assert isinstance(material.inputs, Streamed)
    if what == "text":
        with pytest.raises(DatasetError, match=named):
            list(material.inputs.texts(np.arange(60)))
    # An empty vocabulary: no text is read before a batch asks for it.
    source = material.inputs.source(OfFold(Vocabulary([]), np.zeros((2, 50), np.float32), np.arange(0)))
    others = np.delete(np.arange(60), 41)
    assert len(list(material.inputs.texts(others))) == 59
    with pytest.raises(DatasetError, match=named):
        list(source.batches(cut(np.arange(60), 16)))
