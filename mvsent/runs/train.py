"""Train a model on every fold of a protocol: the job behind `mvsent train`."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mvsent.config import TrainSettings
from mvsent.errors import MvsentError, RunError, UsageError
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.loop import Fold, Trainer, inverse_frequency
from mvsent.models import registry
from mvsent.pairs import Label
from mvsent.runs.fold_result import FoldResult, read_result
from mvsent.runs.history import write_history
from mvsent.runs.inputs.kind import OfFold
from mvsent.runs.inputs.text_vector import TextVector
from mvsent.runs.material import ROLE_NAMES, Material, fold_words, prepare
from mvsent.runs.network import MODEL, VOCABULARY, build_network, save_network
from mvsent.runs.predictions import prediction_table, write_predictions
from mvsent.runs.progress import EpochProgress
from mvsent.runs.recipes import with_recipe
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
from mvsent.runs.seen_rows import record_rows
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import locked
from mvsent.splits import TEST, TRAIN, VALIDATION
from mvsent.storage import make_folder, remove
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
from mvsent.workers.ranks import Ranks, joined

log = logging.getLogger("mvsent")

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    run: Path
    folds: list[FoldResult]


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
    """Train every fold and return the finished run; folds that an earlier call finished are kept.

    With `resume`, `settings` is ignored: the settings are those of the run at `out`, or of the newest
    unfinished run, with `changes`, which may not affect results. `ready` is called with the run's folder as
    soon as `resume` can continue it. Under torchrun this process is one of the ranks that train together.

    Raises: DatasetError, SplitError, WeightsError, UsageError, OutputExistsError before anything is written;
        NonFiniteLossError later, with the finished folds kept; KeyboardInterrupt on Ctrl-C, after a
        checkpoint is saved.
    """
    with joined() as ranks:
        begun = ranks.first_says(lambda: RunFolder.open(out or newest_unfinished(runs)) if resume else None)
        if begun:
            begun = changed(begun, changes or {})
            ready(begun.path)
            settings = begun.settings
        registry.options(settings.model, settings.options)
        if not begun:
            refuse_contradiction(settings)
            settings = with_recipe(settings)
        if out and not begun and ranks.first:
            refuse_unless_free(out, overwrite=overwrite)
        if not ranks.first:
            quiet = True
            log.setLevel(logging.ERROR)  # the first rank speaks for all
        if _shares_steps(settings, ranks):
            call = partial(
                train, settings, runs=runs, resume=resume, overwrite=overwrite, engine=engine, quiet=quiet
            )
            place = begun.path if begun else out
            return in_ranks(partial(call, out=place, changes=changes), settings.devices, ready)

        by_folds = ranks.world == 1 and settings.devices > 1 and settings.parallel == "folds"
        n_apart = settings.devices if by_folds else 1
        threads = begun.resolved.threads if begun else threads_each(settings, n_apart * ranks.local_world)
        compute_alike(threads)
        device = rank_device(settings.device, ranks)
        known = begun.resolved.revisions if begun else None
        read = partial(prepare, settings, device=device, revisions=known, engine=engine, quiet=quiet)
        material = ranks.in_turn(read)
        material = replace(material, ranks=ranks)
        split, folds = material.split, settings.folds or range(material.split.n_folds)
        check_ranks(ranks.world, min(settings.batch_size, *(len(split.rows(k, TRAIN)) for k in folds)))
        warn_of(settings, material)
        resolved = resolve(settings, material, threads)
        if begun:
            check_same(begun, resolved)
        name = f"{settings.model}-{material.dataset.name}-{split.protocol}-s{settings.seed}"
        path = ranks.first_says(lambda: begun.path if begun else out or free_name(runs, name))
        with locked(path.with_name(f".{path.name}.lock")) if ranks.first else nullcontext():
            create = partial(RunFolder.create, path, settings, resolved, overwrite=overwrite)
            run = begun or ranks.first_says(create)
            if ranks.first:
                record_rows(run, material.dataset, material.split)
            ready(path)
            log.info(described(device, ranks, n_apart, threads))
            if by_folds:
                results = train_apart(run, material, quiet=quiet)
            else:
                results = [train_fold(run, k, material, quiet=quiet) for k in run.wanted_folds]
            if ranks.first:
                remove(former(path))  # what was overwritten is no longer needed
        return TrainResult(run.path, results)


def refuse_contradiction(settings: TrainSettings) -> None:
    """Raises: UsageError for settings that exclude each other."""
    if settings.split_file and settings.protocol != TrainSettings().protocol:
        raise UsageError(
            f"--split-file and --protocol {settings.protocol} contradict each other", "Leave one of them out"
        )
    if settings.choose_on == "test" and not registry.has_epochs_alone(settings.model):
        raise UsageError(
            f"--choose-on test: {settings.model} would be fitted on test rows", "Train another model by it"
        )


def warn_of(settings: TrainSettings, material: Material) -> None:
    """Log what makes the figures of these settings worth less."""
    if settings.words == "random" and material.reader.numbers_words:
        log.warning("word vectors are RANDOM: they know nothing about words until they are trained")
    if settings.choose_on == "test":
        log.warning("the test rows choose the best epoch, so the figures will be TOO HIGH")
    for option in material.reader.setup.without_effect:
        log.warning("%s has no effect, as %s does not read it", option, settings.model)


def changed(run: RunFolder, changes: Mapping[str, Any]) -> RunFolder:
    """The run with `changes` to its settings. Raises: UsageError for a setting that can change a result."""
    asked = run.settings.model_copy(update=dict(changes))
    for name in changes:
        before, now = getattr(run.settings, name), getattr(asked, name)
        if name == "options":  # with defaults, and text such as "0.5" as a number
            before, now = (registry.options(asked.model, each) for each in (before, now))
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


def _shares_steps(settings: TrainSettings, ranks: Ranks) -> bool:
    """Whether ranks have to be started. Raises: UsageError if they cannot train this model together."""
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


def compute_alike(threads: int) -> None:
    """Make torch repeatable: the same settings give the same numbers."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may add up in any order
    # A warning, as some operations on a GPU have no deterministic version.
    torch.use_deterministic_algorithms(True, warn_only=True)


def resolve(settings: TrainSettings, material: Material, threads: int) -> Resolved:
    """The values that the settings take on this dataset."""
    reader, hashes = material.reader, material.reader.hashes
    first = (settings.folds or [0])[0]
    vectors = fold_words(settings, material, first)[1] if reader.numbers_words else None
    widths: dict[str, Any] = material.inputs.widths
    reads_tokens = reader.encoder is not None or reader.of(TextVector) is not None
    return Resolved(
        dataset_name=material.dataset.name,
        dataset_sha256=material.dataset.sha256,
        split_sha256=material.split.sha256,
        classes=material.dataset.classes,
        n_folds=material.split.n_folds,
        max_words=reader.setup.max_words if reader.numbers_words else 0,
        backbone_sha256=hashes.pop("backbone", ""),  # not also in pretrained_sha256
        words_sha256=vectors.sha256 if vectors else "",
        word_size=vectors.matrix.shape[1] if vectors else 0,
        max_tokens=reader.setup.max_tokens if reads_tokens else 0,
        threads=threads,
        pretrained_sha256=hashes,
        revisions=reader.setup.revisions,
        **widths,
    )


def check_same(run: RunFolder, now: Resolved) -> None:
    """Raises: RunError if data, split or pretrained weights have changed since the run began."""
    known = run.resolved.model_fields_set  # older versions recorded fewer values
    for name in now.model_dump():
        before, after = getattr(run.resolved, name, 0), getattr(now, name)
        if name in known and before != after:
            raise RunError(
                f"{run.path}: {name} was {before} when the run began and is {after} now",
                "Restore it, or start a new run",
            )


def train_fold(run: RunFolder, fold: int, material: Material, *, quiet: bool) -> FoldResult:
    """Train one fold, or read its result if it is already finished; the first rank writes its files.

    Raises: KeyboardInterrupt if the process was told to end; `resume` continues with the next step.
    """
    ranks, folder, split = material.ranks, run.fold(fold), material.split
    if ranks.first_says(lambda: fold in run.finished_folds):
        return ranks.first_says(lambda: read_result(run, fold))
    with interruptible_by_parent() as stop:
        if ranks.first:
            make_folder(folder)
            for left in folder.glob(f".{CHECKPOINT}.*.tmp"):  # of a process that was killed while it saved
                left.unlink()
        # By fold, so that its numbers do not depend on the folds trained before it.
        torch.manual_seed(run.settings.seed * 1000 + fold)
        trainer = make_trainer(run, fold, material)
        chooses = VALIDATION if run.settings.choose_on == "validation" else TEST
        rows = Fold(fold, split.rows(fold, TRAIN), split.rows(fold, chooses))
        with EpochProgress(run, fold, quiet=quiet) if ranks.first else nullcontext() as progress:
            history = trainer.fit(rows, folder / CHECKPOINT, on_epoch=progress, stop=stop.is_set)
        parts = []
        for role, name in ROLE_NAMES.items():
            asked = split.rows(fold, role)
            y_prob = np.zeros((len(asked), len(Label)), np.float32)  # an absent sentiment has probability 0
            seen = trainer.of_validation if role == VALIDATION else None
            y_prob[:, run.resolved.classes] = trainer.predict_proba(asked) if seen is None else seen
            labels = material.dataset.labels[asked]
            parts.append(prediction_table([split.ids[row] for row in asked], labels, y_prob, name))
        if ranks.first:
            if dead := trainer.dead_channels(rows.validation):
                log.info("fold %d: %.0f%% of the channel gates never open", fold, 100 * dead)
            save_network(trainer.network, folder / MODEL)
            write_history(history, folder / HISTORY)
            write_predictions(pa.concat_tables(parts), folder / PREDICTIONS)  # last: it means "finished"
            (folder / CHECKPOINT).unlink(missing_ok=True)
        [ending] = ranks.any(stop.is_set())
    if ending:
        raise KeyboardInterrupt
    return ranks.first_says(lambda: read_result(run, fold))


def train_apart(run: RunFolder, material: Material, *, quiet: bool) -> list[FoldResult]:
    """Train the folds in processes of their own, one on each device at a time.

    Raises: MvsentError of the first fold that fails; the other running folds are then saved and ended.
    """
    n = run.settings.devices
    gpus = visible_gpus()[:n] if material.reader.setup.device.type == "cuda" else []
    tasks = [(run, k, quiet or sys.stderr.isatty()) for k in run.wanted_folds if k not in run.finished_folds]
    with closing(apart(tasks, n, _train_one, gpus=gpus)) as answers:
        for (_, fold, _), answer in answers:
            if isinstance(answer, Ended):
                again = f"It goes on where it was with: mvsent train --resume --out {run.path}"
                raise MvsentError(f"fold {fold}: its process {answer}", again)
            if isinstance(answer, ProcessFailure):
                raise answer.exception()
            log.info("fold %d is finished: validation accuracy %.4f", fold, answer.validation_accuracy)
    return [read_result(run, k) for k in run.wanted_folds]


def _train_one(sender: Connection, task: tuple[RunFolder, int, bool]) -> None:
    """Train one fold of a run in a process of its own."""
    run, fold, quiet = task
    logging.basicConfig(format=f"fold {fold}: %(message)s", level=logging.WARNING)
    compute_alike(run.resolved.threads)
    try:
        device = compute_device(run.settings.device)
        material = prepare(run.settings, device=device, revisions=run.resolved.revisions, quiet=True)
        sender.send(train_fold(run, fold, material, quiet=quiet))
    except Exception as error:
        if not isinstance(error, MvsentError):
            traceback.print_exc()
        sender.send(ProcessFailure.of(error, f"fold {fold}"))


def make_trainer(run: RunFolder, fold: int, material: Material) -> Trainer:
    """A trainer with a new network for the fold; writes the fold's vocabulary."""
    settings, reader, train_rows = run.settings, material.reader, material.split.rows(fold, TRAIN)
    vocabulary, matrix = Vocabulary([]), np.zeros((2, 1), np.float32)
    if reader.numbers_words:
        vocabulary, vectors = fold_words(settings, material, fold)
        matrix, known = vectors.matrix, 100 * vectors.coverage
        log.info("fold %d: %d words, %.0f%% with a pretrained vector", fold, len(vocabulary), known)
    if material.ranks.first:
        vocabulary.save(run.fold(fold) / VOCABULARY)
    source = material.inputs.source(OfFold(vocabulary, matrix, train_rows))
    weights = None
    if settings.class_weights == "inverse":
        weights = inverse_frequency(source.target[train_rows], len(run.resolved.classes))
    network = build_network(run, reader, torch.from_numpy(matrix), in_training=True)
    return Trainer(network, source, settings, reader.setup.device, weights, material.ranks)
