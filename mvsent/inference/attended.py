"""Attention of a run's network on pairs: class activation, its own attention maps, and their faithfulness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mvsent.curate.images import opened_image, to_rgb
from mvsent.errors import InputError, UsageError
from mvsent.features.vocabulary import tokenize
from mvsent.inference.model import Model
from mvsent.learn.attribution import faithfulness, grad_cam, shuffled, without_regions, without_words
from mvsent.learn.batches import Examples
from mvsent.models.batch import Batch, Output
from mvsent.reasons import Reason, Rejection
from mvsent.report.overlays import Explained, spread
from mvsent.runs.inputs.pictures import MAX_BYTES, MAX_PIXELS, ImageLike, read_picture

CLASS_ACTIVATION = "class activation"
_MAPS = {"spatial": "spatial attention", "regions": "region attention"}
_SHOWN_SIDE = 640  # longer side of a picture as it is shown, in pixels
_BATCH = 32


@dataclass(frozen=True)
class Pick:
    """A pair to explain. `kind` is the reason for its choice, `gold` its label; `text` is cleaned."""

    id: str
    kind: str
    image: ImageLike | None
    text: str
    gold: str = ""


def explain_pairs(model: Model, picks: Sequence[Pick]) -> list[Explained]:
    """Explain pairs by the network of the model's first fold: its answers, attention and class activation.

    Raises: InputError naming a picture that cannot be read; UsageError for a model without attention.
    """
    examples = model.examples([pick.image for pick in picks], [pick.text for pick in picks], cleaned=True)
    explained: list[Explained] = []
    for batch in model.batches(examples, _BATCH):
        output, maps = looked_at(model, batch)
        fusion = output.attention.get("fusion")
        for i in range(len(output.logits)):
            pick = picks[len(explained)]
            words, shades = words_as_read(model, pick.text), {}
            picture = shown_picture(pick.image, model.max_pixels)
            if "words" in output.attention and pick.text.strip():
                weights = output.attention["words"][i, : len(words)]
                shades["semantic attention"] = weights.float().cpu().numpy()
            probabilities = torch.softmax(output.logits[i].float(), dim=0).cpu().tolist()
            shown = maps if picture else {}
            explained.append(
                Explained(
                    id=pick.id,
                    kind=pick.kind,
                    picture=picture,
                    words=words,
                    maps={name: spread(grid[i].float().cpu().numpy()) for name, grid in shown.items()},
                    shades=shades,
                    text_share=None if fusion is None else float(fusion[i, 0]),
                    probabilities=dict(zip(model.classes, probabilities, strict=True)),
                    gold=pick.gold,
                )
            )
    return explained


def looked_at(model: Model, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
    """The network's output, and its maps `[B, H, W]` by name, class activation first.

    Raises: UsageError for a model that has neither maps nor attention over words.
    """
    network = model.network()
    with torch.no_grad():
        output: Output = network(batch)
    maps = {}
    if batch.regions is not None:
        maps[CLASS_ACTIVATION] = grad_cam(network, batch, output.logits.argmax(dim=1))
    maps |= {title: output.attention[key] for key, title in _MAPS.items() if key in output.attention}
    if not maps and "words" not in output.attention:
        raise UsageError(
            f"{model.run.settings.model}: has no attention and reads no regions, so there is nothing to show",
            "mvsent models lists the inputs of each model",
        )
    return output, maps


def words_as_read(model: Model, text: str) -> list[str]:
    """The words, or a transformer's tokens, to which the weights belong."""
    encoder, max_words = model.reader.encoder, model.run.resolved.max_words
    if not text.strip():
        return []
    [text] = model.reader.setup.as_read([text])
    if encoder is not None:
        return encoder.pieces(text, model.reader.setup.max_tokens)
    return tokenize(text)[:max_words] if max_words else text.split()


def shown_picture(image: ImageLike | None, max_pixels: int = MAX_PIXELS) -> Image.Image | None:
    """The picture in RGB, reduced to the size of a page. Raises: InputError if it cannot be read."""
    if image is None:
        return None
    if isinstance(image, Image.Image):
        opened = image
    else:
        data = image if isinstance(image, bytes) else read_picture(Path(image))
        header = opened_image(data, max_pixels=max_pixels, max_bytes=MAX_BYTES)
        if isinstance(header, Rejection):
            raise _bad_picture(image, f"{header.reason}: {header.detail}")
        opened = header
    try:
        small = to_rgb(opened)
        small.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
    except Exception as error:  # hostile data after a valid header
        raise _bad_picture(image, f"{Reason.IMAGE_CORRUPT}: {type(error).__name__}: {error}") from None
    return small


def _bad_picture(image: ImageLike, problem: str) -> InputError:
    name = "picture" if isinstance(image, bytes | Image.Image) else str(image)
    return InputError(f"{name}: {problem}", "Leave it out, or give another")


def measure(model: Model, picks: Sequence[Pick]) -> dict[str, dict[str, float]]:
    """Mean deletion and insertion scores of each order of regions and words, and of random orders, by name.

    Args:
        picks: pairs with a picture and a text.
    """
    examples: Examples = model.examples(
        [pick.image for pick in picks], [pick.text for pick in picks], cleaned=True
    )
    total: dict[str, list[tuple[int, float, float]]] = {}
    for number, batch in enumerate(model.batches(examples, _BATCH)):
        output, maps = looked_at(model, batch)
        orders: dict[str, tuple[Tensor, Callable[[Batch, Tensor], Batch]]] = {
            name: (grid.flatten(1), without_regions)
            for name, grid in maps.items()
            if batch.regions is not None
        }
        if maps and batch.regions is not None:
            orders["regions by chance"] = (
                shuffled(next(iter(maps.values())).flatten(1), number),
                without_regions,
            )
        if "words" in output.attention and (batch.words is not None or batch.word_vectors is not None):
            assert batch.word_mask is not None
            weights = output.attention["words"].masked_fill(~batch.word_mask, -1)
            orders["semantic attention"] = (weights, without_words)
            orders["words by chance"] = (shuffled(weights, number), without_words)
        for name, (importance, without) in orders.items():
            scores = faithfulness(model.network(), batch, importance, without)
            total.setdefault(name, []).append((len(importance), scores.deletion, scores.insertion))
    return {
        name: {"deletion": _mean(parts, 1), "insertion": _mean(parts, 2)} for name, parts in total.items()
    }


def _mean(parts: Sequence[tuple[int, float, float]], column: int) -> float:
    # Weighted by rows, as the last batch may be smaller.
    return sum(part[0] * part[column] for part in parts) / sum(part[0] for part in parts)
