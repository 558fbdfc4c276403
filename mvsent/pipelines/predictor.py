"""What a trained fold says of a dataset it never saw."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.errors import RunError
from mvsent.learn.loop import Trainer
from mvsent.models import registry
from mvsent.pairs import Label
from mvsent.pipelines import inputs
from mvsent.pipelines.network import load_network
from mvsent.pipelines.run import RunFolder
from mvsent.shards.reader import Dataset


def predict_dataset(run_path: Path, fold: int, dataset: Dataset, *, quiet: bool) -> npt.NDArray[np.float32]:
    """`[N, 3]` probabilities of every row, by the network of one fold; columns are the labels.

    Raises: RunError where the fold is not finished, or the backbone's weights are not those of the run.
    """
    run = RunFolder.open(run_path)
    card = registry.card(run.settings.model)
    device = inputs.compute_device(run.settings.device)
    target = inputs.targets(dataset, run.resolved.classes)
    reads = registry.reads(run.settings.model, run.settings.options)
    texts = inputs.read_texts(dataset, reads, card.may_read)
    found = inputs.read_inputs(
        dataset, texts, reads, card.may_read, run.settings, target, device, quiet=quiet
    )
    check_inputs(run, found)
    network, vocabulary = load_network(run, fold, found)
    # Links lead to training rows, and these are of another dataset: nothing is linked.
    no_vectors = np.zeros((len(vocabulary), run.resolved.word_size), np.float32)
    data = inputs.examples(found, vocabulary, no_vectors, run.resolved.max_words, np.zeros(0, np.int64))
    probabilities = np.zeros((len(dataset), len(Label)), np.float32)
    trainer = Trainer(network, data, run.settings, device)
    probabilities[:, run.resolved.classes] = trainer.predict_proba(np.arange(len(dataset)))
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
