"""Train a model on every fold of a protocol: the job behind `mvsent train`."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from mvsent.config import TrainSettings
from mvsent.datasets.split import ensure_split
from mvsent.errors import MvsentError, RunError, SplitError, UsageError
from mvsent.features.vectors import WordVectors, load_vectors
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import BatchSource
from mvsent.learn.loop import Fold, Trainer, best_epoch, inverse_frequency
from mvsent.models import registry
from mvsent.pairs import LABEL_NAMES, Label
from mvsent.runs import inputs
from mvsent.runs.history import read_history, write_history
from mvsent.runs.network import MODEL, VOCABULARY, build_network, save_network
from mvsent.runs.predictions import prediction_table, read_predictions, write_predictions
from mvsent.runs.progress import EpochProgress
from mvsent.runs.run_folder import (
    HISTORY,
    PREDICTIONS,
    Resolved,
    RunFolder,
    former,
    free_name,
    newest_unfinished,
    refuse_unless_free,
)
from mvsent.runs.streaming import Streamed, first_row, own_cache
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import locked
from mvsent.splits import TEST, TRAIN, VALIDATION, Split
from mvsent.storage import located, make_folder, remove
from mvsent.workers.devices import (
    check_devices,
    check_ranks,
    compute_device,
    described,
    rank_device,
    threads_each,
)
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.interrupt import interruptible_by_parent
from mvsent.workers.launcher import in_ranks
from mvsent.workers.processes import Ended, ProcessFailure, apart, visible_gpus
from mvsent.workers.ranks import ALONE, Ranks, joined

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
    streamed: Streamed | None = None  # then `inputs` are those of the first row
    ranks: Ranks = ALONE
    words: dict[int, tuple[Vocabulary, WordVectors]] = field(default_factory=dict)  # of the fold at hand


def train(
    settings: TrainSettings,
    *,
    out: Path | None = None,
    runs: Path = Path("runs"),
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    engine: Engine = LOCAL,
    quiet: bool = False,
    ready: Callable[[Path], object] = lambda run: None,
) -> TrainResult:
    """Train every fold and return the finished run; what an earlier, killed call finished is kept.

    With `resume`, `settings` do not count: those of the run at `out`, or of the newest unfinished one, do,
    but for `changes`, which may only say how it is computed. `ready` is told the run's folder once it is one
    that `resume` can continue. Under torchrun this process is one of the ranks that train together.

    Raises: DatasetError, SplitError, WeightsError, UsageError, OutputExistsError before anything is written;
        NonFiniteLossError in the middle, with the finished folds kept; KeyboardInterrupt on Ctrl-C, with
        what was done saved.
    """
    with joined() as ranks:
        begun = ranks.first_says(lambda: RunFolder.open(out or newest_unfinished(runs)) if resume else None)
        if begun:
            begun = changed(begun, changes or {})
            ready(begun.path)
            settings = begun.settings
        registry.options(settings.model, settings.options)
        if out and not begun and ranks.first:
            refuse_unless_free(out, overwrite=overwrite)
        if not ranks.first:
            quiet = True
            log.setLevel(logging.ERROR)
        if _shares_steps(settings, ranks):
            call = partial(
                train, settings, runs=runs, resume=resume, overwrite=overwrite, engine=engine, quiet=quiet
            )
            place = begun.path if begun else out
            return in_ranks(partial(call, out=place, changes=changes), settings.devices, ready)
        return _train(settings, ranks, begun, out, runs, overwrite, engine, quiet, ready)


def changed(run: RunFolder, changes: Mapping[str, Any]) -> RunFolder:
    """The run with what is to be changed. Raises: UsageError for what its numbers would depend on."""
    asked = run.settings.model_copy(update=dict(changes))
    for name in changes:
        before, now = (_meant(settings, name) for settings in (run.settings, asked))
        if before != now and name not in TrainSettings.without_effect():
            flag = TrainSettings.stated()[name].flag
            raise UsageError(
                f"{flag}: {run.path} was begun with {before!r}; --resume takes no {now!r}",
                "Leave it out to continue that run, or leave --resume out to begin another",
            )
    resolved = run.resolved
    if asked.threads and "threads" in changes:
        resolved = resolved.model_copy(update={"threads": asked.threads})
    return replace(run, settings=asked, resolved=resolved)


def _meant(settings: TrainSettings, name: str) -> Any:
    """A setting; the model's options with their defaults, and as numbers where they were given as text."""
    if name == "options":
        return registry.options(settings.model, settings.options)
    return getattr(settings, name)


def _shares_steps(settings: TrainSettings, ranks: Ranks) -> bool:
    """Whether ranks have to be started. Raises: UsageError where they cannot be, or are of no use."""
    solved = registry.is_solved(settings.model)
    if ranks.world > 1:
        if solved or settings.parallel == "folds":
            why = f"{settings.model} is solved, not trained in steps" if solved else "--parallel folds"
            raise UsageError(f"{why}: ranks share the rows of a step", "Train without torchrun")
        return False
    if settings.devices == 1:
        return False
    check_devices(settings)
    if settings.parallel == "ranks" and solved:
        log.warning("%s is solved at once and not in steps: one process trains it", settings.model)
    shares = settings.parallel == "ranks" and not solved
    if shares:  # as far as can be known before they start
        check_ranks(settings.devices, min(settings.batch_size, len(Dataset.open(Path(settings.dataset)))))
    return shares


def _train(
    settings: TrainSettings,
    ranks: Ranks,
    begun: RunFolder | None,
    out: Path | None,
    runs: Path,
    overwrite: bool,
    engine: Engine,
    quiet: bool,
    ready: Callable[[Path], object],
) -> TrainResult:
    """`train` in a process that trains itself, or has its folds trained."""
    by_folds = ranks.world == 1 and settings.devices > 1 and settings.parallel == "folds"
    n_apart = settings.devices if by_folds else 1
    threads = threads_each(settings, n_apart * ranks.local_world)
    threads = begun.resolved.threads if begun else threads
    compute_alike(threads)
    device = rank_device(settings.device, ranks)
    material = ranks.in_turn(partial(prepare, settings, device=device, engine=engine, quiet=quiet))
    material = replace(material, ranks=ranks)
    check_rows(settings, material)
    if settings.words == "random" and material.inputs.reads_words:
        log.warning("word vectors are RANDOM: they know nothing about words until they are trained")
    resolved = resolve(settings, material, threads)
    if begun:
        check_same(begun, resolved)
    name = default_name(settings, material)
    path = ranks.first_says(lambda: begun.path if begun else out or free_name(runs, name))
    with locked(path.with_name(f".{path.name}.lock")) if ranks.first else nullcontext():
        create = partial(RunFolder.create, path, settings, resolved, overwrite=overwrite)
        run = begun or ranks.first_says(create)
        ready(path)
        log.info(described(device, ranks, n_apart, threads))
        if by_folds:
            folds = train_apart(run, material, quiet=quiet)
        else:
            folds = [train_fold(run, k, material, quiet=quiet) for k in run.wanted_folds]
        if ranks.first:
            remove(former(path))  # what was overwritten is no longer needed
    return TrainResult(run.path, folds)


def compute_alike(threads: int) -> None:
    """The same settings give the same numbers from here on."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may add up in any order
    torch.use_deterministic_algorithms(True, warn_only=True)


def prepare(
    settings: TrainSettings, *, device: torch.device, engine: Engine = LOCAL, quiet: bool
) -> Material:
    """Open the dataset, find its split, and turn its pictures to maps, unless they are streamed."""
    card = registry.card(settings.model)
    dataset = Dataset.open(Path(settings.dataset))
    split_file = located(settings.split_file) if settings.split_file else None
    # Before the split is made, so that a refused dataset is left as it was.
    reads = registry.reads(settings.model, settings.options)
    shown = first_row(dataset, settings) if settings.stream else dataset
    texts = inputs.read_texts(shown, reads, card.may_read)
    split = ensure_split(dataset, settings.protocol, settings.seed, split_file)
    classes = dataset.classes
    target = inputs.targets(dataset, classes)
    check_folds(settings.folds, split, target, classes)
    with own_cache(settings) as cache:
        found = inputs.read_inputs(
            shown,
            texts,
            reads,
            card.may_read,
            settings,
            target[: len(shown)],
            device,
            cache=cache,
            engine=LOCAL if settings.stream else engine,  # a stream's maps are its own ranks'
            quiet=quiet,
        )
    streamed = Streamed(dataset, target, device) if settings.stream else None
    return Material(dataset, split, classes, target, found, device, streamed)


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


def check_rows(settings: TrainSettings, material: Material) -> None:
    """Raises: UsageError where a step has fewer rows than there are ranks."""
    split, n_ranks = material.split, material.ranks.world
    folds = settings.folds or range(split.n_folds)
    check_ranks(n_ranks, min(settings.batch_size, *(len(split.rows(fold, TRAIN)) for fold in folds)))


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
    found, streamed = material.inputs, material.streamed
    parts = (found.texts, found.captions or [])
    texts = streamed.texts(rows) if streamed else (part[i] for part in parts if part for i in rows)
    vocabulary = Vocabulary.build(texts, settings.min_count)
    return vocabulary, load_vectors(settings.words, vocabulary, settings.seed)


def train_fold(run: RunFolder, fold: int, material: Material, *, quiet: bool) -> FoldResult:
    """Train one fold, or read its result where it is already finished.

    Raises: KeyboardInterrupt where an end was asked for; it goes on after the step that was under way.
    """
    ranks, folder = material.ranks, run.fold(fold)
    if not ranks.first_says(lambda: fold in run.finished_folds):
        with interruptible_by_parent() as stop:
            _train_fold(run, fold, material, stop.is_set, quiet=quiet)
            [ending] = ranks.any(stop.is_set())
        if ending:
            raise KeyboardInterrupt
    return ranks.first_says(lambda: read_result(folder, fold, material.classes))


def _train_fold(
    run: RunFolder, fold: int, material: Material, stop: Callable[[], bool], *, quiet: bool
) -> None:
    """The fold is trained, and where this is the first rank, its files are written."""
    ranks, folder = material.ranks, run.fold(fold)
    if ranks.first:
        make_folder(folder)
        for left in folder.glob(f".{CHECKPOINT}.*.tmp"):  # by a process that was killed while it saved
            left.unlink()
    torch.manual_seed(run.settings.seed * 1000 + fold)
    trainer = make_trainer(run, fold, material)
    rows = Fold(fold, material.split.rows(fold, TRAIN), material.split.rows(fold, VALIDATION))
    with EpochProgress(run, fold, quiet=quiet) if ranks.first else nullcontext() as progress:
        history = trainer.fit(rows, folder / CHECKPOINT, on_epoch=progress, stop=stop)
    predictions = fold_predictions(trainer, fold, material)
    if not ranks.first:
        return
    if dead := trainer.dead_channels(rows.validation):
        log.info("fold %d: %.0f%% of the channel gates never open", fold, 100 * dead)
    save_network(trainer.network, folder / MODEL)
    write_history(history, folder / HISTORY)
    write_predictions(predictions, folder / PREDICTIONS)  # last: it means "finished"
    (folder / CHECKPOINT).unlink(missing_ok=True)


def train_apart(run: RunFolder, material: Material, *, quiet: bool) -> list[FoldResult]:
    """Train the folds in processes of their own, one on each device at a time.

    Raises: MvsentError as the first fold that fails; the others that run are then saved and ended.
    """
    n = run.settings.devices
    gpus = visible_gpus()[:n] if material.device.type == "cuda" else []
    tasks = [(run, k, quiet or sys.stderr.isatty()) for k in run.wanted_folds if k not in run.finished_folds]
    with closing(apart(tasks, n, _train_one, gpus=gpus)) as answers:
        for (_, fold, _), answer in answers:
            if isinstance(answer, Ended):
                again = f"It goes on where it was with: mvsent train --resume --out {run.path}"
                raise MvsentError(f"fold {fold}: its process {answer}", again)
            if isinstance(answer, ProcessFailure):
                raise answer.exception()
            log.info("fold %d is finished: validation accuracy %.4f", fold, answer.validation_accuracy)
    return [read_result(run.fold(k), k, material.classes) for k in run.wanted_folds]


def _train_one(sender: Connection, task: tuple[RunFolder, int, bool]) -> None:
    """What a process does: one fold of a run."""
    run, fold, quiet = task
    logging.basicConfig(format=f"fold {fold}: %(message)s", level=logging.WARNING)
    compute_alike(run.resolved.threads)
    try:
        device = compute_device(run.settings.device)
        material = prepare(run.settings, device=device, quiet=True)
        sender.send(train_fold(run, fold, material, quiet=quiet))
    except Exception as error:
        if not isinstance(error, MvsentError):
            traceback.print_exc()
        sender.send(ProcessFailure.of(error, f"fold {fold}"))


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
    if material.ranks.first:
        vocabulary.save(run.fold(fold) / VOCABULARY)
    train_rows = material.split.rows(fold, TRAIN)
    data: BatchSource = (
        material.streamed.source(run, vocabulary)
        if material.streamed
        else inputs.examples(material.inputs, vocabulary, vectors.numpy(), run.resolved.max_words, train_rows)
    )
    weights = None
    if settings.class_weights == "inverse":
        weights = inverse_frequency(material.target[train_rows], len(material.classes))
    network = build_network(run, material.inputs, vectors)
    return Trainer(network, data, settings, material.device, weights, material.ranks)


def fold_predictions(trainer: Trainer, fold: int, material: Material) -> pa.Table:
    """The probabilities of the fold's validation and test rows."""
    parts = []
    for role, name in ROLE_NAMES.items():
        rows = material.split.rows(fold, role)
        y_prob = np.zeros((len(rows), len(Label)), np.float32)
        y_prob[:, material.classes] = trainer.predict_proba(rows)  # an absent sentiment has probability 0
        ids = [material.split.ids[i] for i in rows]
        parts.append(prediction_table(ids, material.dataset.labels[rows], y_prob, name))
    return pa.concat_tables(parts)


def read_result(folder: Path, fold: int, classes: list[int]) -> FoldResult:
    """How a finished fold went, from its own files."""
    history = read_history(folder / HISTORY)
    test = read_predictions(folder / PREDICTIONS, classes)["test"]
    accuracy = float((test.y_prob.argmax(axis=1) == test.y_true).mean())
    best = best_epoch(history)
    return FoldResult(fold, len(history), best, history[best].validation_accuracy, accuracy)
