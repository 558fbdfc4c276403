"""Predictions of a trained run for the rows of a dataset."""

import numpy as np
import numpy.typing as npt
from torch import nn

from mvsent.features.vectors import load_vectors
from mvsent.learn.loop import Trainer
from mvsent.pairs import Label
from mvsent.runs.inputs.input_reader import InputReader, Inputs
from mvsent.runs.inputs.kind import OfFold
from mvsent.runs.inputs.links import LinkedRows
from mvsent.runs.inputs.pair_sources import DatasetPairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.network import load_network
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.streaming import Streamed
from mvsent.shards.reader import Dataset
from mvsent.workers.devices import compute_device


class DatasetPredictor:
    """The networks of a run's folds, applied to one dataset, whose inputs are read once for all folds."""

    def __init__(self, run: RunFolder, dataset: Dataset, *, quiet: bool) -> None:
        """Read the dataset's inputs, unless the run is streamed.

        Raises: RunError if pretrained weights, or the width of an input, differ from those in training;
            UsageError, WeightsError, InputError or DatasetError if an input is missing.
        """
        self.run, self.dataset = run, dataset
        self.setup = Setup(run.settings, compute_device(run.settings.device), dataset, run)
        self.reader = InputReader(self.setup)
        self.inputs: Inputs | Streamed
        if run.settings.stream:
            self.inputs = Streamed(self.reader, dataset)
        else:
            self.inputs = self.reader.read(DatasetPairs(self.setup, self.reader.columns, quiet=quiet))

    def predict(
        self,
        fold: int,
        rows: npt.NDArray[np.int64] | None = None,
        *,
        train: npt.NDArray[np.int64] | None = None,
        missing: str = "",
    ) -> npt.NDArray[np.float32]:
        """Probabilities `[n, 3]` by the network of one fold; zero for a class that the run does not know.

        Args:
            rows: row numbers, in this order; None: all.
            train: the fold's training rows, if they are of this dataset: others may be linked to them.
            missing: `image` or `text`, removed from every row; empty: neither.

        Raises: RunError if the fold is not finished.
        """
        network, of_fold = self.of_fold(fold, train)
        source = self.inputs.source(of_fold, missing)
        trainer = Trainer(network, source, self.run.settings, self.setup.device)
        asked = np.arange(len(self.dataset)) if rows is None else rows
        probabilities = np.zeros((len(asked), len(Label)), np.float32)
        probabilities[:, self.run.resolved.classes] = trainer.predict_proba(asked)
        return probabilities

    def of_fold(self, fold: int, train: npt.NDArray[np.int64] | None = None) -> tuple[nn.Module, OfFold]:
        """The network of one fold, and what its inputs know of the fold; `train` as of `predict`."""
        network, vocabulary = load_network(self.run, fold, self.reader)
        vectors = np.zeros((len(vocabulary), self.run.resolved.word_size), np.float32)
        if self.reader.numbers_words and train is not None and self.reader.of(LinkedRows):
            vectors = load_vectors(self.run.settings.words, vocabulary, self.run.settings.seed).matrix
        return network, OfFold(vocabulary, vectors, np.zeros(0, np.int64) if train is None else train)
