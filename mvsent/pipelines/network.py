"""The network of a run: built fresh for a fold, saved, and loaded again."""

from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from mvsent.errors import RunError
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.finetune import ThroughPixels
from mvsent.models import registry
from mvsent.models.batch import Sizes
from mvsent.pipelines.inputs import Pictures
from mvsent.pipelines.run import RunFolder
from mvsent.shards.atomic import atomic_write

MODEL = "model.safetensors"
VOCABULARY = "vocabulary.txt"


def build_network(run: RunFolder, pictures: Pictures, vectors: torch.Tensor) -> nn.Module:
    """A fresh network of the run's model, with its backbone in front where that is fine-tuned."""
    backbone, settings = pictures.backbone, run.settings
    channels, grid = (backbone.channels, backbone.grid) if backbone else (1, (1, 1))
    sizes = Sizes(channels, grid, vectors, n_classes=len(run.resolved.classes))
    model = registry.build(settings.model, sizes, settings.options)
    if backbone is None or settings.fine_tune == "none":
        return model
    backbone = deepcopy(backbone)  # every fold tunes its own: a shared one would carry what earlier folds saw
    trained = backbone.last_block_parameters() if settings.fine_tune == "last" else backbone.parameters()
    return ThroughPixels(backbone, model, list(trained))


def save_network(network: nn.Module, path: Path) -> None:
    """Write every weight of `network` to a safetensors file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(state))


def load_network(run: RunFolder, fold: int, pictures: Pictures) -> tuple[nn.Module, Vocabulary]:
    """The trained network of a fold and the vocabulary it reads.

    Raises: RunError where a file is missing or does not fit the run's configuration.
    """
    folder = run.fold(fold)
    for needed in (folder / MODEL, folder / VOCABULARY):
        if not needed.is_file():
            raise RunError(
                f"{needed}: missing", f"Train the fold again: mvsent train --resume --out {run.path}"
            )
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    network = build_network(run, pictures, torch.zeros(len(vocabulary), run.resolved.word_size))
    try:
        network.load_state_dict(load_file(folder / MODEL))
    except (RuntimeError, ValueError, SafetensorError) as error:
        first_line = str(error).splitlines()[0]
        raise RunError(
            f"{folder / MODEL}: does not fit the run's configuration ({first_line})",
            f"Delete {folder} and train that fold again: mvsent train --resume --out {run.path}",
        ) from None
    return network, vocabulary
