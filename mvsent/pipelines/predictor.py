"""What a trained fold says of a dataset it never saw."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.errors import RunError
from mvsent.learn.loop import Trainer
from mvsent.models import registry
from mvsent.models.batch import WORDS
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
    pictures = inputs.read_pictures(dataset, card, run.settings, device, quiet=quiet)
    weights = pictures.backbone.weights_sha256 if pictures.backbone else ""
    if weights != run.resolved.backbone_sha256:
        raise RunError(
            f"{run_path}: was trained on other {run.settings.backbone} weights than those found now",
            "Give the same --weights, or train again",
        )
    network, vocabulary = load_network(run, fold, pictures)
    texts = inputs.read_texts(dataset) if WORDS in card.reads else []
    target = inputs.targets(dataset, run.resolved.classes)
    data = inputs.examples(card, pictures, texts, vocabulary, run.resolved.max_words, target)
    probabilities = np.zeros((len(dataset), len(Label)), np.float32)
    trainer = Trainer(network, data, run.settings, device)
    probabilities[:, run.resolved.classes] = trainer.predict_proba(np.arange(len(dataset)))
    return probabilities
