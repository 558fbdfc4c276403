"""The network of a fold: built, saved, and loaded."""

import json
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mvsent.errors import RunError, UsageError, first_line
from mvsent.features.backbone import Backbone
from mvsent.features.transformer import TextEncoder
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.finetune import ThroughEncoders
from mvsent.learn.lora import add_lora, merged
from mvsent.models import registry
from mvsent.models.batch import WIDTHS, Sizes, Solved
from mvsent.runs.inputs.input_reader import InputReader
from mvsent.runs.inputs.regions import Regions
from mvsent.runs.inputs.words import Words
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.atomic import atomic_write

MODEL = "model.safetensors"
VOCABULARY = "vocabulary.txt"
TRAINED_PARAMETERS = "trained_parameters"  # in the metadata of a saved network
_MAX_HEADER = 100_000_000  # bytes, as in the safetensors library


def build_network(
    run: RunFolder, reader: InputReader, vectors: torch.Tensor, *, in_training: bool = False
) -> nn.Module:
    """Build a network of the run's model, with the encoders that are trained with it.

    Args:
        vectors: `[V, D]`, those of the vocabulary, if there is one.
        in_training: with the matrices of `--lora`, which a saved network has merged.
    """
    backbone, encoder, settings, resolved = reader.backbone, reader.encoder, run.settings, run.resolved
    channels, grid = (backbone.channels, backbone.grid) if backbone else (1, (1, 1))
    sizes = Sizes(
        channels,
        grid,
        None if encoder else vectors,
        n_classes=len(resolved.classes),
        word_size=encoder.size if encoder else vectors.shape[1],
        labels=tuple(resolved.classes),
        **{name: resolved.width(name) for name in WIDTHS},
    )
    model = registry.build(settings.model, sizes, settings.options)
    regions, words = reader.of(Regions), reader.of(Words)
    trained: list[nn.Parameter] = []
    # Every fold trains its own copies, as shared ones would leak from earlier folds.
    tuned_backbone = deepcopy(regions.backbone) if regions and regions.tuned else None
    tuned_encoder = deepcopy(words.encoder) if words and words.tuned else None
    if tuned_backbone is not None:
        trained += _trained(tuned_backbone, settings.fine_tune, settings.lora if in_training else 0)
    if tuned_encoder is not None:
        trained += _trained(tuned_encoder, settings.fine_tune_words, settings.lora if in_training else 0)
    if not trained:
        return model
    if isinstance(model, Solved):
        raise UsageError(f"{settings.model} is solved, not trained in steps", "Leave --fine-tune out")
    return ThroughEncoders(model, trained, backbone=tuned_backbone, transformer=tuned_encoder)


def _trained(encoder: Backbone | TextEncoder, which: str, rank: int) -> list[nn.Parameter]:
    """The parameters of an encoder that are trained, with LoRA's matrices of this rank if it is not 0."""
    tuned = encoder.last_block_parameters() if which == "last" else [*encoder.parameters()]
    return add_lora(encoder, rank, tuned) if rank else tuned


def save_network(network: nn.Module, path: Path) -> None:
    """Write the weights of `network` to a safetensors file, with the number of trained ones."""
    # safetensors refuses tensors that are not contiguous.
    plain = merged(network).state_dict()
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.items()}
    n_trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    with atomic_write(path) as file:
        file.write(save(state, {TRAINED_PARAMETERS: str(n_trained)}))


def trained_parameters(path: Path) -> int | None:
    """Number of trained parameters of a saved network; None if the file does not state it.

    Raises: RunError if it is not a safetensors file.
    """
    try:
        with path.open("rb") as file:  # reads only the header: eight bytes of length, then JSON
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER)))
        told = header.get("__metadata__", {}).get(TRAINED_PARAMETERS)
        return None if told is None else int(told)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path}: not a saved network ({error})", "Train that fold again") from None


def load_network(run: RunFolder, fold: int, reader: InputReader) -> tuple[nn.Module, Vocabulary]:
    """Load the trained network of a fold and its vocabulary.

    Raises: RunError if a file is missing, or does not fit the run's configuration.
    """
    folder = run.fold(fold)
    for needed in (folder / MODEL, folder / VOCABULARY):
        if not needed.is_file():
            raise RunError(
                f"{needed}: missing", f"Train the fold again: mvsent train --resume --out {run.path}"
            )
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    # Zeros, as the weights that are loaded include the word vectors.
    network = build_network(run, reader, torch.zeros(len(vocabulary), run.resolved.word_size))
    try:
        network.load_state_dict(_finite(load((folder / MODEL).read_bytes())))
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise RunError(
            f"{folder / MODEL}: does not fit the run's configuration ({first_line(error)})",
            f"Delete {folder} and train that fold again: mvsent train --resume --out {run.path}",
        ) from None
    return network, vocabulary


def _finite(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the weights. Raises: ValueError naming one that is not finite."""
    for name, values in state.items():
        if not values.isfinite().all():
            raise ValueError(f"{name} is not finite")
    return state
