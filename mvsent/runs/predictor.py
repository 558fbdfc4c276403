"""What a trained fold says of a dataset it never saw."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mvsent.errors import RunError
from mvsent.features.vectors import load_vectors
from mvsent.learn.batches import BatchSource
from mvsent.learn.loop import Trainer
from mvsent.models import registry
from mvsent.pairs import Label
from mvsent.runs import inputs
from mvsent.runs.network import load_network
from mvsent.runs.read_pairs import NO_PICTURE
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.streaming import Streamed
from mvsent.shards.reader import Dataset
from mvsent.workers.devices import compute_device


def predict_dataset(
    run_path: Path,
    fold: int,
    dataset: Dataset,
    rows: npt.NDArray[np.int64] | None = None,
    *,
    linked_to: npt.NDArray[np.int64] | None = None,
    missing: str = "",
    quiet: bool,
) -> npt.NDArray[np.float32]:
    """`[n, 3]` probabilities by the network of one fold; columns are the labels.

    Args:
        run_path, fold: whose network.
        dataset: where the rows are.
        rows: which of them, in this order; None: all.
        linked_to: the fold's training rows, if they are of this dataset; a model that reads links finds none
            in another.
        missing: `image` or `text`, which is taken away from every row; empty: neither.
        quiet: no progress.

    Raises: RunError where the fold is not finished, or the backbone's weights are not those of the run.
    """
    run = RunFolder.open(run_path)
    card = registry.card(run.settings.model)
    device = compute_device(run.settings.device)
    target = inputs.targets(dataset, run.resolved.classes)
    asked = np.arange(len(dataset)) if rows is None else rows
    if run.settings.stream:
        streamed = Streamed(dataset, target, device)
        found = streamed.reader(run).inputs([NO_PICTURE], [""])
        check_inputs(run, found)
        network, vocabulary = load_network(run, fold, found)
        return _probabilities(run, network, streamed.source(run, vocabulary, missing=missing), asked, device)
    reads = registry.reads(run.settings.model, run.settings.options)
    texts = inputs.read_texts(dataset, reads, card.may_read)
    found = inputs.read_inputs(
        dataset,
        texts,
        reads,
        card.may_read,
        run.settings,
        target,
        device,
        max_tokens=run.resolved.max_tokens,
        linked=linked_to is not None,
        quiet=quiet,
    )
    check_inputs(run, found)
    network, vocabulary = load_network(run, fold, found)
    linked = np.zeros(0, np.int64) if linked_to is None else linked_to
    vectors = np.zeros((len(vocabulary), run.resolved.word_size), np.float32)
    if found.link_keys is not None and len(linked) and found.reads_words:
        vectors = load_vectors(run.settings.words, vocabulary, run.settings.seed).matrix
    data = inputs.examples(found, vocabulary, vectors, run.resolved.max_words, linked)
    if missing:
        data = data.without(missing)
    return _probabilities(run, network, data, asked, device)


def _probabilities(
    run: RunFolder, network: nn.Module, source: BatchSource, rows: npt.NDArray[np.int64], device: torch.device
) -> npt.NDArray[np.float32]:
    """`[n, 3]`, zero for a sentiment that the run does not know."""
    probabilities = np.zeros((len(rows), len(Label)), np.float32)
    trainer = Trainer(network, source, run.settings, device)
    probabilities[:, run.resolved.classes] = trainer.predict_proba(rows)
    return probabilities


def check_inputs(run: RunFolder, found: inputs.Inputs) -> None:
    """Raises: RunError where something pretrained, or the size of an input, is not as it was in training."""
    resolved = run.resolved
    now = {
        "backbone": found.hashes.get("backbone", ""),
        **inputs.pretrained_hashes(found),
        **inputs.input_sizes(found),
    }
    sizes = {name: getattr(resolved, name) for name in inputs.input_sizes(found)}
    before = {"backbone": resolved.backbone_sha256, **resolved.pretrained_sha256, **sizes}
    for name in sorted(before | now):
        if before.get(name) != now.get(name):
            raise RunError(
                f"{run.path}: {name.replace('_', ' ')} is another one now than in training",
                "Restore what it was trained with, or train again",
            )
