"""The material of a run: its dataset, its split, its inputs and the words of the fold at hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mvsent.config import TrainSettings
from mvsent.datasets.split import ensure_split
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import SplitError, UsageError
from mvsent.features.vectors import WordVectors, load_vectors
from mvsent.features.vocabulary import Vocabulary
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.inputs.input_reader import InputReader, Inputs
from mvsent.runs.inputs.pair_sources import DatasetPairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.streaming import Streamed
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN, VALIDATION, Split
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.ranks import ALONE, Ranks

ROLE_NAMES = {VALIDATION: "validation", TEST: "test"}


@dataclass(frozen=True)
class Material:
    """Everything that the folds of a run share."""

    dataset: Dataset
    split: Split
    reader: InputReader
    inputs: Inputs | Streamed
    ranks: Ranks = ALONE
    words: dict[int, tuple[Vocabulary, WordVectors]] = field(default_factory=dict)  # of the fold at hand


def prepare(
    settings: TrainSettings,
    *,
    device: torch.device,
    revisions: Mapping[str, str] | None = None,
    engine: Engine = LOCAL,
    quiet: bool,
) -> Material:
    """Open the dataset, find its split, and read its inputs, unless they are streamed.

    `revisions` are the commits of a run that was begun, by id on Hugging Face's hub.
    """
    dataset = Dataset.open(Path(settings.dataset))
    reader = InputReader(Setup(settings, device, dataset, revisions=dict(revisions or {})))
    # Before the split is made, so that a refused dataset is left as it was.
    opened: Streamed | DatasetPairs
    if settings.stream:
        opened = Streamed(reader, dataset)
    else:
        opened = DatasetPairs(reader.setup, reader.columns, engine=engine, quiet=quiet)
    split = ensure_split(dataset, settings.protocol, settings.seed, SplitFiles.of(settings))
    check_folds(settings.folds, split, reader.setup.target, dataset.classes)
    inputs = reader.read(opened) if isinstance(opened, DatasetPairs) else opened
    return Material(dataset, split, reader, inputs)


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
                some = "Add --validation-share 0.1, or give" if role == VALIDATION else "Give"
                raise SplitError(f"fold {fold} has no {name} rows", f"{some} every fold some in --split-file")


def fold_words(settings: TrainSettings, material: Material, fold: int) -> tuple[Vocabulary, WordVectors]:
    """The vocabulary of a fold's training rows, and a vector for each of its words; computed once."""
    if fold not in material.words:
        texts = material.inputs.texts(material.split.rows(fold, TRAIN))
        vocabulary = Vocabulary.build(texts, settings.min_count)
        material.words.clear()  # only one fold's vectors stay in memory
        material.words[fold] = vocabulary, load_vectors(settings.words, vocabulary, settings.seed)
    return material.words[fold]
