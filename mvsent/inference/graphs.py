"""The network of a fold as a graph for other programs: ONNX, TorchScript, or its bare weights."""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load as load_state
from safetensors.torch import save as save_state
from torch import Tensor, nn

from mvsent.errors import MvsentError, first_line
from mvsent.inference.model import Model
from mvsent.learn.batches import Examples
from mvsent.models.batch import Batch, batch_fields
from mvsent.models.encoders import BiGRUEncoder
from mvsent.models.memory import Memory

SEQUENCES, _NO_INPUTS = batch_fields("per word"), batch_fields("label")
_FLAGS = ("has_image", "has_text")

Floats = npt.NDArray[np.float32]
Run = Callable[[Batch], Floats]


@dataclass(frozen=True)
class Graph:
    """A network that takes tensors instead of a `Batch`.

    Attributes:
        network: the trained network.
        names: names of the tensors that it takes, in order.
        example: the batch to trace it with.
        trials: batches of other sizes for comparison.
    """

    network: nn.Module
    names: list[str]
    example: Batch
    trials: list[Batch]

    @classmethod
    def of(cls, model: Model, fold: int) -> "Graph":
        """The graph of a fold's network, with drawn pairs."""
        network, pairs = model.network(fold), drawn_pairs(model, fold)
        one = pairs.batch(np.arange(8))
        flagged = reads_flags(network, one)
        names = [
            f.name for f in fields(Batch) if getattr(one, f.name) is not None and f.name not in _NO_INPUTS
        ]
        names = [name for name in names if flagged or name not in _FLAGS]
        if not flagged:
            kept = {name: column for name, column in pairs.columns.items() if name not in _FLAGS}
            pairs = replace(pairs, columns=kept)
        rows = [np.arange(8, 24), np.arange(1), np.arange(3, 24, 4)]
        # The example has several pairs, as torch.export takes a size of 1 for a constant.
        return cls(network, names, pairs.batch(np.arange(3, 8)), [pairs.batch(each) for each in rows])

    @property
    def words(self) -> bool:
        """Whether a vocabulary numbers the words."""
        return "words" in self.names

    def tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tensors of a batch that the graph takes."""
        return tuple(getattr(batch, name) for name in self.names)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Floats:
        """The probabilities by PyTorch."""
        answered: Floats = torch.softmax(self.network(batch).logits.float(), dim=1).numpy()
        return answered

    def module(self) -> nn.Module:
        """A copy that takes `names` one by one, with equivalents of layers that cannot be exported."""
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
    """Replace parts of the network, in place, by equivalents that can be exported."""
    for name, module in list(network.named_modules()):
        if isinstance(module, BiGRUEncoder):
            network.set_submodule(name, UnpackedBiGRU(module))
        if isinstance(module, Memory):
            module.__class__ = MemoryByProducts  # a new one would lack the solved buffers
        # A number that controls the flow of the graph must be a constant when the graph is made.
        for key, value in list(module.named_buffers(recurse=False)):
            if value.dim() == 0 and value.dtype in (torch.float32, torch.bool):
                delattr(module, key)
                setattr(module, key, value.item())
    return network


class UnpackedBiGRU(nn.Module):
    """A `BiGRUEncoder` for evaluation, without packed sequences.

    The backward direction reads each sequence reversed, with its padding still at the end.
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
    """A `Memory` that computes distances by products, as ONNX has no operator for distances."""

    def _kernel(self, x: Tensor) -> Tensor:
        root = self.factor.sqrt()
        x, keys = x * root, self.keys.float() * root
        products = x @ keys.T
        # Rounding can make the smallest distances negative, hence the clamp.
        squared = (x * x).sum(dim=1, keepdim=True) + (keys * keys).sum(dim=1) - 2 * products
        return torch.exp(-squared.clamp_min(0))


def _placed(items: Tensor, places: Tensor) -> Tensor:
    return items.gather(1, places.unsqueeze(-1).expand(-1, -1, items.shape[2]))


def _direction(gru: nn.GRU, suffix: str) -> nn.GRU:
    one = nn.GRU(gru.input_size, gru.hidden_size, batch_first=True)
    one.load_state_dict({name: getattr(gru, name + suffix) for name in one.state_dict()})
    return one


def _onnx(graph: Graph) -> tuple[bytes, Run]:
    import onnxruntime

    any_number = torch.export.Dim.DYNAMIC
    shapes = [dict.fromkeys((0, 1) if name in SEQUENCES else (0,), any_number) for name in graph.names]
    with _quiet(), _fresh_recurrence(), torch.no_grad(), _refusal("onnx"):
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
    taken = {each.name for each in session.get_inputs()}  # the exporter drops unused inputs

    def again(batch: Batch) -> Floats:
        given = zip(graph.names, graph.tensors(batch), strict=True)
        with _refusal("onnx"):
            answered: Floats = session.run(None, {name: v.numpy() for name, v in given if name in taken})[0]
        return answered

    return data, again


def _torchscript(graph: Graph) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad(), _refusal("torchscript"):
        # The trials compare the graph on other sizes, which check_trace does not.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            graph.module(), graph.tensors(graph.example), check_trace=False
        )
        torch.jit.save(traced, buffer)
        read = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]

    def again(batch: Batch) -> Floats:
        with _refusal("torchscript"), torch.inference_mode():
            answered: Floats = read(*graph.tensors(batch)).numpy()
        return answered

    return buffer.getvalue(), again


def _safetensors(graph: Graph) -> tuple[bytes, Run]:
    # safetensors refuses tensors that are not contiguous.
    data = save_state({name: value.contiguous() for name, value in graph.network.state_dict().items()})
    network = copy.deepcopy(graph.network)
    network.load_state_dict(load_state(data))
    return data, replace(graph, network=network).run


FORMS: dict[str, Callable[[Graph], tuple[bytes, Run]]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "safetensors": _safetensors,
}


@contextmanager
def _refusal(to: str) -> Iterator[None]:
    """Turn any exception of the block into MvsentError."""
    try:
        yield
    except Exception as error:  # exporters raise exceptions of many kinds
        raise MvsentError(
            f"this model cannot be exported to {to} ({first_line(error.__cause__ or error)})",
            "Export its weights: --to safetensors",
        ) from None


@contextmanager
def _fresh_recurrence() -> Iterator[None]:
    """Let the exporter use its own rule for recurrent layers, which allows any length, within the block.

    PyTorch 2.14 caches the rule chosen last for each operator, and keeps it when the exporter brings another:
    every export in a process except the first would have the fixed length of its example.
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
    """Suppress the warnings, log lines and output of exporters within the block."""
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
    """Draw 24 pairs of noise and of known words, of all lengths; some lack a modality.

    Rows 0 to 7 have fewer words than the following ones; the first is a single word.
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
        texts[row], images[row - 1] = None, None  # of neighbours: no pair lacks both
    return model.examples(images, texts, fold=fold, cleaned=True)


def reads_flags(network: nn.Module, batch: Batch) -> bool:
    """Whether the network reads the flags of missing modalities, or only sees empty inputs."""
    assert batch.has_image is not None and batch.has_text is not None
    other = replace(batch, has_image=~batch.has_image, has_text=~batch.has_text)
    with torch.inference_mode():
        return not torch.equal(network(batch).logits, network(other).logits)


def batch_size_of(batch: Batch) -> Tensor:
    """A tensor with a row for each pair of the batch."""
    assert batch.target is not None
    return batch.target
