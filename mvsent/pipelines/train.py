"""Train a model on every fold of a protocol: the job behind `mvsent train`."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from mvsent.config import TrainSettings
from mvsent.errors import RunError, SplitError, UsageError
from mvsent.features.vectors import WordVectors, load_vectors
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import Examples
from mvsent.learn.loop import Fold, Trainer, best_epoch, inverse_frequency
from mvsent.models import registry
from mvsent.pairs import LABEL_NAMES, Label
from mvsent.pipelines import inputs
from mvsent.pipelines.history import read_history, write_history
from mvsent.pipelines.network import MODEL, VOCABULARY, build_network, save_network
from mvsent.pipelines.predictions import prediction_table, read_predictions, write_predictions
from mvsent.pipelines.progress import EpochProgress
from mvsent.pipelines.run import (
    HISTORY,
    PREDICTIONS,
    Resolved,
    RunFolder,
    former,
    free_name,
    newest_unfinished,
    refuse_unless_free,
)
from mvsent.pipelines.split import ensure_split
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import locked
from mvsent.splits import TEST, TRAIN, VALIDATION, Split

log = logging.getLogger("mvsent")

CHECKPOINT = "checkpoint.pt"
ROLE_NAMES = {VALIDATION: "validation", TEST: "test"}


@dataclass(frozen=True)
class FoldResult:
    """How one fold went; accuracies from 0 to 1, that of the test rows measured once, at the end."""

    fold: int
    epochs: int
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    run: Path
    folds: list[FoldResult]


@dataclass(frozen=True)
class Material:
    """Everything that the folds of a run share."""

    dataset: Dataset
    split: Split
    classes: list[int]
    target: npt.NDArray[np.int64]
    inputs: inputs.Inputs
    device: torch.device
    words: dict[int, tuple[Vocabulary, WordVectors]] = field(default_factory=dict)  # of the fold at hand


def train(
    settings: TrainSettings,
    *,
    out: Path | None = None,
    runs: Path = Path("runs"),
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    ready: Callable[[Path], object] = lambda run: None,
) -> TrainResult:
    """Train every fold and return the finished run; what an earlier, killed call finished is kept.

    With `resume`, `settings` do not count: those of the run at `out`, or of the newest unfinished one, do.
    `ready` is told the run's folder once it is one that `resume` can continue.

    Raises: DatasetError, SplitError, WeightsError, UsageError, OutputExistsError before anything is written;
        NonFiniteLossError in the middle, with the finished folds kept.
    """
    begun = RunFolder.open(out or newest_unfinished(runs)) if resume else None
    if begun:
        ready(begun.path)
    settings = begun.settings if begun else settings
    threads = begun.resolved.threads if begun else settings.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    registry.options(settings.model, settings.options)
    if out and not begun:
        refuse_unless_free(out, overwrite=overwrite)
    material = prepare(settings, quiet=quiet)
    if settings.words == "random" and material.inputs.reads_words:
        log.warning("word vectors are RANDOM: they know nothing about words until they are trained")
    resolved = resolve(settings, material, threads)
    if begun:
        check_same(begun, resolved)
    path = begun.path if begun else out or free_name(runs, default_name(settings, material))
    with locked(path.with_name(f".{path.name}.lock")):
        run = begun or RunFolder.create(path, settings, resolved, overwrite=overwrite)
        ready(path)
        folds = [train_fold(run, k, material, quiet=quiet) for k in run.wanted_folds]
        shutil.rmtree(former(path), ignore_errors=True)  # what was overwritten is no longer needed
    return TrainResult(run.path, folds)


def prepare(settings: TrainSettings, *, quiet: bool) -> Material:
    """Open the dataset, find its split, and turn its pictures to maps."""
    device = inputs.compute_device(settings.device)
    card = registry.card(settings.model)
    dataset = Dataset.open(Path(settings.dataset))
    split_file = Path(settings.split_file) if settings.split_file else None
    # Before the split is made, so that a refused dataset is left as it was.
    reads = registry.reads(settings.model, settings.options)
    texts = inputs.read_texts(dataset, reads, card.may_read)
    split = ensure_split(dataset, settings.protocol, settings.seed, split_file)
    classes = dataset.classes
    target = inputs.targets(dataset, classes)
    check_folds(settings.folds, split, target, classes)
    found = inputs.read_inputs(dataset, texts, reads, card.may_read, settings, target, device, quiet=quiet)
    return Material(dataset, split, classes, target, found, device)


def check_folds(wanted: list[int], split: Split, target: npt.NDArray[np.int64], classes: list[int]) -> None:
    """Raises: UsageError for a fold that does not exist, SplitError for one that lacks a class."""
    for fold in wanted:
        if not 0 <= fold < split.n_folds:
            raise UsageError(f"--folds: there is no fold {fold}", f"Choose from 0 to {split.n_folds - 1}")
    for fold in wanted or range(split.n_folds):
        present = set(target[split.rows(fold, TRAIN)].tolist())
        missing = [LABEL_NAMES[label] for i, label in enumerate(classes) if i not in present]
        if missing:
            raise SplitError(
                f"fold {fold} has no {missing[0]} row to train on",
                "Use another --protocol or --seed, or a larger dataset",
            )
        for role, name in ROLE_NAMES.items():
            if len(split.rows(fold, role)) == 0:
                raise SplitError(f"fold {fold} has no {name} rows", "Give every fold some in --split-file")


def resolve(settings: TrainSettings, material: Material, threads: int) -> Resolved:
    """What the settings come to on this dataset."""
    found = material.inputs
    reads_words = found.reads_words
    first = (settings.folds or [0])[0]
    vectors = fold_words(settings, material, first)[1] if reads_words else None
    return Resolved(
        dataset_name=material.dataset.name,
        dataset_sha256=material.dataset.sha256,
        split_sha256=material.split.sha256,
        classes=material.classes,
        n_folds=material.split.n_folds,
        max_words=inputs.longest_text(material.dataset, settings, inputs.TWEET_WORDS, inputs.CAPTION_WORDS)
        if reads_words
        else 0,
        backbone_sha256=found.hashes.get("backbone", ""),
        words_sha256=vectors.sha256 if vectors else "",
        word_size=vectors.matrix.shape[1] if vectors else 0,
        max_tokens=inputs.longest_text(material.dataset, settings, inputs.TWEET_TOKENS, inputs.CAPTION_TOKENS)
        if found.encoder is not None or found.given.text_vector is not None
        else 0,
        threads=threads,
        pretrained_sha256=inputs.pretrained_hashes(found),
        **inputs.input_sizes(found),
    )


def check_same(run: RunFolder, now: Resolved) -> None:
    """Raises: RunError when what the run was begun with has changed since."""
    known = run.resolved.model_fields_set  # an older run says less
    for name in Resolved.model_fields:
        before, after = getattr(run.resolved, name), getattr(now, name)
        if name in known and before != after:
            raise RunError(
                f"{run.path}: {name} was {before} when the run began and is {after} now",
                "Restore it, or start a new run",
            )


def default_name(settings: TrainSettings, material: Material) -> str:
    """`dmlanet-mvsa-single-paper-5x-s0`."""
    return f"{settings.model}-{material.dataset.name}-{material.split.protocol}-s{settings.seed}"


def fold_words(settings: TrainSettings, material: Material, fold: int) -> tuple[Vocabulary, WordVectors]:
    """The vocabulary of a fold's training rows, and a vector for each of its words; asked again, the same."""
    if fold not in material.words:
        material.words.clear()
        material.words[fold] = _look_up_words(settings, material, fold)
    return material.words[fold]


def _look_up_words(settings: TrainSettings, material: Material, fold: int) -> tuple[Vocabulary, WordVectors]:
    rows = material.split.rows(fold, TRAIN)
    found = material.inputs
    texts = [text for part in (found.texts, found.captions or []) if part for text in (part[i] for i in rows)]
    vocabulary = Vocabulary.build(texts, settings.min_count)
    return vocabulary, load_vectors(settings.words, vocabulary, settings.seed)


def train_fold(run: RunFolder, fold: int, material: Material, *, quiet: bool) -> FoldResult:
    """Train one fold, or read its result where it is already finished."""
    folder = run.fold(fold)
    if fold in run.finished_folds:
        return read_result(folder, fold, material.classes)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(run.settings.seed * 1000 + fold)
    trainer = make_trainer(run, fold, material)
    rows = Fold(fold, material.split.rows(fold, TRAIN), material.split.rows(fold, VALIDATION))
    with EpochProgress(run, fold, quiet=quiet) as progress:
        history = trainer.fit(rows, folder / CHECKPOINT, on_epoch=progress)
    if dead := trainer.dead_channels(rows.validation):
        log.info("fold %d: %.0f%% of the channel gates never open", fold, 100 * dead)
    save_network(trainer.network, folder / MODEL)
    write_history(history, folder / HISTORY)
    write_fold_predictions(trainer, fold, material, folder / PREDICTIONS)  # last: it means "finished"
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return read_result(folder, fold, material.classes)


def make_trainer(run: RunFolder, fold: int, material: Material) -> Trainer:
    """A fresh network for the fold with the rows it reads; writes the fold's vocabulary."""
    settings = run.settings
    vocabulary, vectors = Vocabulary([]), torch.zeros(2, 1)
    if material.inputs.reads_words:
        vocabulary, found = fold_words(settings, material, fold)
        vectors = torch.from_numpy(found.matrix)
        log.info(
            "fold %d: %d words, %.0f%% with a pretrained vector", fold, len(vocabulary), 100 * found.coverage
        )
    vocabulary.save(run.fold(fold) / VOCABULARY)
    train_rows = material.split.rows(fold, TRAIN)
    data: Examples = inputs.examples(
        material.inputs, vocabulary, vectors.numpy(), run.resolved.max_words, train_rows
    )
    weights = None
    if settings.class_weights == "inverse":
        weights = inverse_frequency(material.target[train_rows], len(material.classes))
    network = build_network(run, material.inputs, vectors)
    return Trainer(network, data, settings, material.device, weights)


def write_fold_predictions(trainer: Trainer, fold: int, material: Material, path: Path) -> None:
    """The probabilities of the fold's validation and test rows."""
    parts = []
    for role, name in ROLE_NAMES.items():
        rows = material.split.rows(fold, role)
        y_prob = np.zeros((len(rows), len(Label)), np.float32)
        y_prob[:, material.classes] = trainer.predict_proba(rows)  # an absent sentiment has probability 0
        ids = [material.split.ids[i] for i in rows]
        parts.append(prediction_table(ids, material.dataset.labels[rows], y_prob, name))
    write_predictions(pa.concat_tables(parts), path)


def read_result(folder: Path, fold: int, classes: list[int]) -> FoldResult:
    """How a finished fold went, from its own files."""
    history = read_history(folder / HISTORY)
    test = read_predictions(folder / PREDICTIONS, classes)["test"]
    accuracy = float((test.y_prob.argmax(axis=1) == test.y_true).mean())
    best = best_epoch(history)
    return FoldResult(fold, len(history), best, history[best].validation_accuracy, accuracy)
