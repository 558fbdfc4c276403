"""One fold's network as a file that other programs run: ONNX, TorchScript, or its bare weights."""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load as load_state
from safetensors.torch import save as save_state
from torch import Tensor, nn

from mvsent import __version__
from mvsent.errors import MvsentError, UsageError, did_you_mean
from mvsent.inference.model import Model, load
from mvsent.learn.batches import Examples
from mvsent.models.batch import Batch, batch_fields
from mvsent.models.encoders import BiGRUEncoder
from mvsent.models.memory import Memory
from mvsent.shards.atomic import atomic_write
from mvsent.shards.staging import claimed

SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
TOLERANCE = 1e-4
"""How much a probability may differ from PyTorch's."""

_SEQUENCES, _NO_INPUTS = batch_fields("per word"), batch_fields("label")
_FLAGS = ("has_image", "has_text")

Floats = npt.NDArray[np.float32]
Run = Callable[[Batch], Floats]


@dataclass(frozen=True)
class ExportedModel:
    """The files that were written, and how far the probabilities are from PyTorch's at most."""

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
    """Write the network of a fold (None: the first finished one), and beside it a JSON that describes it.

    The graph goes from what the network reads (maps, words …) to probabilities, for any number of pairs and
    words. It is run on drawn pairs of other sizes than it was made with, before anything is written.

    Raises: UsageError, OutputExistsError; RunError and WeightsError as `load`; MvsentError where the network
        cannot be exported, or does not answer the same afterwards.
    """
    if to not in SUFFIX:
        choice = f"Choose from {', '.join(SUFFIX)}"
        raise UsageError(f"--to: unknown {to!r}", did_you_mean(to, SUFFIX) + choice)
    if out is not None and (not out.name or out.is_dir()):
        raise UsageError(f"--out {out}: is a folder", f"Name a file in it that ends in {SUFFIX[to]}")
    _check_packages(to)
    model = load(run, fold, "cpu")
    fold = model.folds[0] if fold is None else fold
    path = out or Path("exports", f"{model.run.path.resolve().name}-fold{fold}{SUFFIX[to]}")
    if path.suffix in (".json", ".txt"):
        raise UsageError(f"--out {path}: the files beside it end so", f"Name one that ends in {SUFFIX[to]}")
    with claimed(path, *_beside(path), overwrite=overwrite):
        return _write(model, fold, to, path)


def _beside(path: Path) -> tuple[Path, Path]:
    """The description and the vocabulary of an exported model."""
    return path.with_suffix(".json"), path.with_suffix(".vocabulary.txt")


def _write(model: Model, fold: int, to: str, path: Path) -> ExportedModel:
    graph = Graph.of(model, fold)
    data, again = _FORMS[to](graph)
    difference = max(float(np.abs(again(batch) - graph.run(batch)).max()) for batch in graph.trials)
    if not difference <= TOLERANCE:
        raise MvsentError(
            f"{model.run.settings.model} as {to} answers otherwise than PyTorch, by up to {difference:.2g}",
            "Export its weights: --to safetensors",
        )
    n_pairs = sum(len(batch_size_of(batch)) for batch in graph.trials)
    about, vocabulary = _beside(path)
    done = ExportedModel(path, about, to, fold, difference, n_pairs)
    with atomic_write(path) as file:
        file.write(data)
    if graph.words:
        with atomic_write(vocabulary) as file:
            file.write(("\n".join(model.vocabulary(fold).words) + "\n").encode())
    with atomic_write(about) as file:
        file.write(json.dumps(description(model, graph, done, vocabulary.name), indent=2).encode())
    return done


@dataclass(frozen=True)
class Graph:
    """A network with tensors instead of a `Batch`.

    Attributes:
        network: as trained.
        names: of the tensors that it takes, in order.
        example: a batch to trace it with.
        trials: batches of other sizes to compare it on.
    """

    network: nn.Module
    names: list[str]
    example: Batch
    trials: list[Batch]

    @classmethod
    def of(cls, model: Model, fold: int) -> "Graph":
        """The network of a fold, with drawn pairs."""
        network, pairs = model.network(fold), drawn_pairs(model, fold)
        one = pairs.batch(np.arange(8))
        flagged = _reads_flags(network, one)
        names = [
            f.name for f in fields(Batch) if getattr(one, f.name) is not None and f.name not in _NO_INPUTS
        ]
        names = [name for name in names if flagged or name not in _FLAGS]
        if not flagged:
            kept = {name: column for name, column in pairs.columns.items() if name not in _FLAGS}
            pairs = replace(pairs, columns=kept)
        rows = [np.arange(8, 24), np.arange(1), np.arange(3, 24, 4)]
        return cls(network, names, pairs.batch(np.arange(3, 8)), [pairs.batch(each) for each in rows])

    @property
    def words(self) -> bool:
        """Whether a vocabulary numbers the words."""
        return "words" in self.names

    def tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the graph takes of a batch."""
        return tuple(getattr(batch, name) for name in self.names)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Floats:
        """The probabilities as PyTorch has them."""
        answered: Floats = torch.softmax(self.network(batch).logits.float(), dim=1).numpy()
        return answered

    def module(self) -> nn.Module:
        """A copy that takes `names` one by one, without what cannot be exported but has an equal."""
        return _OfTensors(exportable(copy.deepcopy(self.network)), self.names).eval().requires_grad_(False)


class _OfTensors(nn.Module):
    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Probabilities `[B, n_classes]`."""
        batch = Batch(**dict(zip(self.names, tensors, strict=True)))
        return torch.softmax(self.network(batch).logits.float(), dim=1)


def exportable(network: nn.Module) -> nn.Module:
    """The network with parts of it replaced, in place, by such as give the same and can be exported."""
    for name, module in list(network.named_modules()):
        if isinstance(module, BiGRUEncoder):
            network.set_submodule(name, UnpackedBiGRU(module))
        if isinstance(module, Memory):
            module.__class__ = MemoryByProducts
        # A number that decides which way the graph goes has to be known when it is made.
        for key, value in list(module.named_buffers(recurse=False)):
            if value.dim() == 0 and value.dtype in (torch.float32, torch.bool):
                delattr(module, key)
                setattr(module, key, value.item())
    return network


class UnpackedBiGRU(nn.Module):
    """What a `BiGRUEncoder` computes, in evaluation, without packed sequences.

    The backward direction reads each sequence turned around, its padding still at the end.
    """

    def __init__(self, encoder: BiGRUEncoder) -> None:
        super().__init__()
        self.ahead, self.back = _direction(encoder.gru, ""), _direction(encoder.gru, "_reverse")

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """`[B, S, D]`, `[B, S]` with the real items first → `[B, S, 2 · hidden]`, zero on padding."""
        lengths = mask.sum(dim=1, keepdim=True)  # [B, 1]
        places = torch.arange(items.shape[1], device=items.device).unsqueeze(0)
        turned = torch.where(places < lengths, lengths - 1 - places, places)  # [B, S], its own inverse
        back = _placed(self.back(_placed(items, turned))[0], turned)
        return torch.cat([self.ahead(items)[0], back], dim=2) * mask.unsqueeze(-1)


class MemoryByProducts(Memory):
    """A `Memory` that computes distances by products, since ONNX has no distances."""

    def _kernel(self, x: Tensor) -> Tensor:
        keys = self.keys.float()
        products = x @ keys.T
        squared = (x * x).sum(dim=1, keepdim=True) + (keys * keys).sum(dim=1) - 2 * products
        return torch.exp(-self.width / max(1, x.shape[1]) * squared.clamp_min(0))


def _placed(items: Tensor, places: Tensor) -> Tensor:
    return items.gather(1, places.unsqueeze(-1).expand(-1, -1, items.shape[2]))


def _direction(gru: nn.GRU, suffix: str) -> nn.GRU:
    one = nn.GRU(gru.input_size, gru.hidden_size, batch_first=True)
    one.load_state_dict({name: getattr(gru, name + suffix) for name in one.state_dict()})
    return one


def _onnx(graph: Graph) -> tuple[bytes, Run]:
    import onnxruntime

    any_number = torch.export.Dim.DYNAMIC
    shapes = [dict.fromkeys((0, 1) if name in _SEQUENCES else (0,), any_number) for name in graph.names]
    with _quiet(), _fresh_recurrence(), torch.no_grad(), _told(graph, "onnx"):
        program = torch.onnx.export(
            graph.module(),
            graph.tensors(graph.example),
            dynamic_shapes={"tensors": tuple(shapes)},
            input_names=graph.names,
            output_names=["probabilities"],
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        data: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}

    def again(batch: Batch) -> Floats:
        given = zip(graph.names, graph.tensors(batch), strict=True)
        with _told(graph, "onnx"):
            answered: Floats = session.run(None, {name: v.numpy() for name, v in given if name in taken})[0]
        return answered

    return data, again


def _torchscript(graph: Graph) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad(), _told(graph, "torchscript"):
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            graph.module(), graph.tensors(graph.example), check_trace=False
        )
        torch.jit.save(traced, buffer)
        read = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]

    def again(batch: Batch) -> Floats:
        with _told(graph, "torchscript"), torch.inference_mode():
            answered: Floats = read(*graph.tensors(batch)).numpy()
        return answered

    return buffer.getvalue(), again


def _safetensors(graph: Graph) -> tuple[bytes, Run]:
    data = save_state({name: value.contiguous() for name, value in graph.network.state_dict().items()})
    network = copy.deepcopy(graph.network)
    network.load_state_dict(load_state(data))
    return data, replace(graph, network=network).run


_FORMS: dict[str, Callable[[Graph], tuple[bytes, Run]]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "safetensors": _safetensors,
}


@contextmanager
def _told(graph: Graph, to: str) -> Iterator[None]:
    """Raises: MvsentError where what is done in the block fails, however it does."""
    try:
        yield
    except Exception as error:  # exporters fail in as many ways as there are operators
        said = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise MvsentError(
            f"this model cannot be exported to {to} ({said})",
            "Export its weights: --to safetensors",
        ) from None


@contextmanager
def _fresh_recurrence() -> Iterator[None]:
    """Within the block the exporter finds its own rule for recurrent layers, which knows no fixed length.

    PyTorch 2.14 keeps for each operator which rule was chosen last, and does not forget it when the exporter
    brings another: every export but the first of a process would have the length of its example.
    """
    operators = torch.ops.aten.lstm.input, torch.ops.aten.gru.input
    for operator in operators:
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator in operators:
            operator._dispatch_cache.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block no warning, no log and no printed line: exporters are talkative."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def drawn_pairs(model: Model, fold: int) -> Examples:
    """24 pairs of noise and of words that the network knows, of all lengths; some lack a modality.

    The first is a single word; so that rows 0 to 7 have fewer words than those after them.
    """
    random = np.random.default_rng(0)
    known = model.vocabulary(fold).words[2:] or ["good", "bad", "day", "street"]
    longest = max(model.run.resolved.max_words, 12)
    lengths = [1, 2, 3, 5, 4, 7, 6, 7, *random.integers(8, longest + 1, 16)]
    texts: list[str | None] = [" ".join(random.choice(known, n)) for n in lengths]
    images: list[Image.Image | None] = [
        Image.fromarray(random.integers(0, 256, (32, 32, 3)).astype(np.uint8)) for _ in lengths
    ]
    for row in (5, 12, 19):
        texts[row], images[row - 1] = None, None
    return model.examples(images, texts, fold=fold, cleaned=True)


def _reads_flags(network: nn.Module, batch: Batch) -> bool:
    """Whether the network asks what is missing, or only sees that there is nothing."""
    assert batch.has_image is not None and batch.has_text is not None
    other = replace(batch, has_image=~batch.has_image, has_text=~batch.has_text)
    with torch.inference_mode():
        return not torch.equal(network(batch).logits, network(other).logits)


def batch_size_of(batch: Batch) -> Tensor:
    """Any tensor of the batch that has a row for each pair."""
    assert batch.target is not None
    return batch.target


def description(model: Model, graph: Graph, done: ExportedModel, vocabulary: str) -> dict[str, Any]:
    """What another program has to know to ask the network."""
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
            "about": "line n, counted from 0, is word n: 0 pads, 1 is every unknown word, and an empty text",
            "tokenizer": "mvsent.features.vocabulary.tokenize",
            "max_words": run.resolved.max_words,
        }
    if reader.encoder is not None:
        name, longest = Path(reader.encoder.name).name, run.resolved.max_tokens
        steps["words"] = {"transformer": name, "sha256": reader.encoder.weights_sha256, "max_words": longest}
    if backbone := reader.backbone:
        std = (1 / (255 * backbone.scale)).flatten().tolist()
        steps["pictures"] = {
            "backbone": backbone.name,
            "tap": backbone.tap,
            "sha256": backbone.weights_sha256,
            "side": backbone.size,
            "resize": "the whole picture to a square, bilinear with antialiasing, nothing cropped",
            "mean": (backbone.mean / 255).flatten().tolist(),
            "std": std,
            "missing": "zeros",
        }
    return about


def _tensor(graph: Graph, name: str) -> dict[str, Any]:
    value: Tensor = getattr(graph.example, name)
    shape: list[int | str] = ["batch", *value.shape[1:]]
    if name in _SEQUENCES:
        shape[1] = "words"
    return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}


def _check_packages(to: str) -> None:
    if to != "onnx":
        return
    from importlib import util

    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"--to onnx: {lacking[0]} is not installed", 'pip install "mvsent[export]"')
