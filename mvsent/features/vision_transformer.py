"""A picture encoder in Hugging Face's layout, CLIP-style or plain, as a backbone with patches as regions."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvsent.errors import WeightsError, first_line
from mvsent.features.backbone import HALF, Backbone, Scaling, Tap
from mvsent.features.hugging_face import half_of, layers_of, load_model

PREPROCESSOR = "preprocessor_config.json"


class Patches(nn.Module):
    """The last states of an encoder's patches, as a map."""

    def __init__(self, transformer: nn.Module, side: int) -> None:
        """`side`: patches along an edge of the picture."""
        super().__init__()
        self.transformer, self.side = transformer, side

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised `[B, 3, size, size]` → `[B, hidden, side, side]`, in the picture's order."""
        states: Tensor = self.transformer(pixel_values=pixels).last_hidden_state
        if states.dim() == 4:  # a convolutional network's map
            return states
        # Class and register tokens precede the patches.
        patches = states[:, states.shape[1] - self.side**2 :]
        return patches.transpose(1, 2).reshape(len(pixels), -1, self.side, self.side)


class WholePicture(nn.Module):
    """The vector of the whole picture: a CLIP's in the space of its texts, a SigLIP's pooled one.

    Encoders that were trained without such a vector give their class token, or else the mean of the patches.
    """

    def __init__(self, transformer: nn.Module, side: int, projection: nn.Module | None) -> None:
        """`side`: patches along an edge; `projection`: into the space of texts."""
        super().__init__()
        self.transformer, self.side, self.projection = transformer, side, projection

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised `[B, 3, size, size]` → `[B, D]`."""
        output = self.transformer(pixel_values=pixels)
        vector: Tensor | None = getattr(output, "pooler_output", None)
        if vector is None:
            states: Tensor = output.last_hidden_state
            if states.dim() == 4:
                vector = states.mean(dim=(2, 3))
            else:
                vector = states[:, 0] if states.shape[1] > self.side**2 else states.mean(dim=1)
        vector = vector.flatten(1)
        return vector if self.projection is None else self.projection(vector)


def load_vision_transformer(folder: Path, name: str = "", *, whole: bool = False) -> Backbone:
    """Load the image half of the model in `folder`, in eval mode on the CPU.

    Size, mean and standard deviation come from `preprocessor_config.json`; without it they are the model's
    size and one half. Pictures are squashed to a square, as for every backbone, not cropped.

    Args:
        name: of the backbone; empty: the folder's.
        whole: give the vector of the whole picture instead of the map.

    Raises: WeightsError if transformers is missing, or the folder holds no such model.
    """
    settings = _preprocessor(folder)
    model = load_model(folder)
    transformer = half_of(model, "vision_model")
    try:
        config: Any = transformer.config
        scaling = Scaling(_size(settings) or int(config.image_size), *_normalisation(settings))
        picture = torch.zeros(1, 3, scaling.size, scaling.size)
        with torch.inference_mode():
            states = transformer.eval()(pixel_values=picture).last_hidden_state
        side = _side(states, scaling.size, config)
        projection = getattr(model, "visual_projection", None)
        trunk = (WholePicture(transformer, side, projection) if whole else Patches(transformer, side)).eval()
        layer, layers = layers_of(trunk)
        with torch.inference_mode():
            _, channels, *grid = trunk(picture).shape
    except Exception as error:  # a model of another kind fails at any of these steps
        raise WeightsError(
            f"{folder}: not a vision transformer ({first_line(error)})",
            "Give the folder of a ViT, or of a CLIP-style model",
        ) from None
    tap = Tap(layer, channels, (grid[0], grid[1]) if grid else None, (f"{layer}.{len(layers) - 1}",))
    name = name or folder.resolve().name
    backbone = Backbone(name, "", trunk, "pretrained", tap, scaling=scaling)
    backbone.hash_scaling()
    backbone.projects = projection is not None or hasattr(transformer, "head")
    return backbone


def _side(states: Tensor, size: int, config: Any) -> int:
    """Patches along an edge of the picture, whose states are `[1, S, hidden]`, or a map."""
    if states.dim() == 4:
        return states.shape[2]
    n, side = states.shape[1], size // int(config.patch_size)
    # Swin and others join patches between their layers.
    return side if side * side <= n else math.isqrt(n)


def _preprocessor(folder: Path) -> dict[str, Any]:
    path = folder / PREPROCESSOR
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: not a JSON object", "Restore it, or remove it")
    return settings


def _size(settings: dict[str, Any]) -> int | None:
    """The side of the square pictures that the model was trained on, in pixels.

    >>> _size({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}})
    224
    """
    size = settings.get("crop_size") or settings.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if size else None


def _normalisation(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in 0..1, red green blue."""
    if settings.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (settings.get(name) or HALF for name in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"image_mean and image_std of {PREPROCESSOR} must have three numbers")
    return tuple(map(float, mean)), tuple(map(float, std))
