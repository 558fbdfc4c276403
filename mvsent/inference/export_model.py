"""Export of a fold's network for other programs, checked against PyTorch: `mvsent export-model`."""

import json
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mvsent import __version__
from mvsent.errors import MvsentError, UsageError, did_you_mean
from mvsent.features.backbone import Backbone
from mvsent.features.tweet_words import TWEETS
from mvsent.inference.graphs import FORMS, SEQUENCES, Graph, batch_size_of
from mvsent.inference.model import Model, load
from mvsent.runs.inputs.image_vector import ImageVector
from mvsent.shards.atomic import atomic_write
from mvsent.shards.staging import claimed

SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
TOLERANCE = 1e-4
"""Maximum difference of a probability from PyTorch's."""


@dataclass(frozen=True)
class ExportedModel:
    """The written files, and the largest difference of a probability from PyTorch's."""

    path: Path
    description: Path
    to: str
    fold: int
    difference: float
    n_pairs: int

    def document(self) -> dict[str, Any]:
        """The result as JSON's types."""
        return {
            "path": str(self.path),
            "description": str(self.description),
            "to": self.to,
            "fold": self.fold,
            "parity": {"max_difference": self.difference, "tolerance": TOLERANCE, "pairs": self.n_pairs},
        }

    def words(self) -> str:
        """The result in two lines."""
        return (
            f"fold {self.fold} → {self.path}, described in {self.description}\n"
            f"parity: probabilities of {self.n_pairs} drawn pairs differ by {self.difference:.1e} at most "
            f"(allowed: {TOLERANCE:.0e})"
        )


def export_model(
    run: Path, to: str, out: Path | None = None, *, fold: int | None = None, overwrite: bool = False
) -> ExportedModel:
    """Export the network of a fold (None: the first finished one), with a JSON description beside it.

    The graph maps the network's inputs (feature maps, words …) to probabilities, for any number of pairs and
    words. Before anything is written it is compared with PyTorch on drawn pairs of other sizes than its
    example.

    Raises: UsageError, OutputExistsError; RunError and WeightsError as `load`; MvsentError if the network
        cannot be exported, or gives other answers afterwards.
    """
    if to not in SUFFIX:
        choice = f"Choose from {', '.join(SUFFIX)}"
        raise UsageError(f"--to: unknown {to!r}", did_you_mean(to, SUFFIX) + choice)
    if out is not None and (not out.name or out.is_dir()):
        raise UsageError(f"--out {out}: is a folder", f"Name a file in it that ends in {SUFFIX[to]}")
    needed = ("onnx", "onnxscript", "onnxruntime") if to == "onnx" else ()
    lacking = [name for name in needed if util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"--to onnx: {lacking[0]} is not installed", 'pip install "mvsent[export]"')
    model = load(run, fold, "cpu")
    fold = model.folds[0] if fold is None else fold
    path = out or Path("exports", f"{model.run.path.resolve().name}-fold{fold}{SUFFIX[to]}")
    if path.suffix in (".json", ".txt"):
        raise UsageError(
            f"--out {path}: {path.suffix} is the suffix of a file beside it",
            f"Name one ending in {SUFFIX[to]}",
        )
    about, vocabulary = path.with_suffix(".json"), path.with_suffix(".vocabulary.txt")
    with claimed(path, about, vocabulary, overwrite=overwrite):
        graph = Graph.of(model, fold)
        data, exported = FORMS[to](graph)
        difference = max(float(np.abs(exported(batch) - graph.run(batch)).max()) for batch in graph.trials)
        if not difference <= TOLERANCE:  # not `>`, which NaN would pass
            raise MvsentError(
                f"{model.run.settings.model} as {to} differs from PyTorch by up to {difference:.2g}",
                "Export its weights: --to safetensors",
            )
        n_pairs = sum(len(batch_size_of(batch)) for batch in graph.trials)
        result = ExportedModel(path, about, to, fold, difference, n_pairs)
        with atomic_write(path) as file:
            file.write(data)
        if graph.words:
            with atomic_write(vocabulary) as file:
                file.write(("\n".join(model.vocabulary(fold).words) + "\n").encode())
        with atomic_write(about) as file:
            file.write(json.dumps(description(model, graph, result, vocabulary.name), indent=2).encode())
    return result


def description(model: Model, graph: Graph, done: ExportedModel, vocabulary: str) -> dict[str, Any]:
    """The inputs, outputs and preprocessing of the network, for a program that runs it."""
    run, reader = model.run, model.reader
    about: dict[str, Any] = {
        "model": run.settings.model,
        "run": run.path.resolve().name,
        "fold": done.fold,
        "mvsent": __version__,
        "format": done.to,
        "file": done.path.name,
        "inputs": [_tensor(graph, name) for name in graph.names],
        "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["batch", len(model.classes)]}],
        "classes": list(model.classes),
        "preprocessing": {},
        "parity": done.document()["parity"],
    }
    steps = about["preprocessing"]
    if graph.words:
        steps["words"] = {
            "vocabulary": vocabulary,
            "about": "line n, counted from 0, is word n; 0 is padding, 1 an unknown word or an empty text",
            "tokenizer": "mvsent.features.vocabulary.tokenize",
            "max_words": run.resolved.max_words,
        }
    if reader.encoder is not None:
        name, longest = Path(reader.encoder.name).name, run.resolved.max_tokens
        steps["words"] = {"transformer": name, "sha256": reader.encoder.weights_sha256, "max_words": longest}
    if "words" in steps and run.settings.tokens == TWEETS:
        steps["words"]["texts"] = "mvsent.features.tweet_words.spelled_out"
    if backbone := reader.backbone:
        steps["pictures"] = {"backbone": backbone.name, "tap": backbone.tap, **_pictures(backbone)}
    if vectors := reader.of(ImageVector):
        steps["image_vector"] = {
            "about": "the vectors of the whole picture by these encoders, side by side",
            "encoders": [{"encoder": each.name, **_pictures(each)} for each in vectors.networks],
        }
    return about


def _pictures(network: Backbone) -> dict[str, Any]:
    """The preparation of the pictures that a network reads."""
    return {
        "sha256": network.weights_sha256,
        "side": network.size,
        "resize": "the whole picture to a square, bilinear with antialiasing, nothing cropped",
        "mean": (network.mean / 255).flatten().tolist(),
        "std": (1 / (255 * network.scale)).flatten().tolist(),
        "missing": "zeros",
    }


def _tensor(graph: Graph, name: str) -> dict[str, Any]:
    value: Tensor = getattr(graph.example, name)
    shape: list[int | str] = ["batch", *value.shape[1:]]
    if name in SEQUENCES:
        shape[1] = "words"
    return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}
