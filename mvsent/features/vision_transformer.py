"""A vision transformer in a folder, CLIP-style or plain, as a backbone: its patches are the regions."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvsent.errors import WeightsError, first_line
from mvsent.features.backbone import HALF, Backbone, Tap, state_sha256
from mvsent.features.hugging_face import half_of, layers_of, load_model

PREPROCESSOR = "preprocessor_config.json"


class Patches(nn.Module):
    """The last states of a vision transformer's patches, as a map."""

    def __init__(self, transformer: nn.Module, side: int) -> None:
        """`side`: patches along an edge of the picture."""
        super().__init__()
        self.transformer, self.side = transformer, side

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised `[B, 3, size, size]` → `[B, hidden, side, side]`, in the picture's order."""
        states: Tensor = self.transformer(pixel_values=pixels).last_hidden_state
        # Class and register tokens precede the patches.
        patches = states[:, states.shape[1] - self.side**2 :]
        return patches.transpose(1, 2).reshape(len(pixels), -1, self.side, self.side)


def load_vision_transformer(folder: Path) -> Backbone:
    """Load the image half of the model in `folder`, in eval mode on the CPU.

    Size, mean and standard deviation come from `preprocessor_config.json`; without it they are the model's
    size and one half. Pictures are squashed to a square, as for every backbone, not cropped.

    Raises: WeightsError if transformers is missing, or the folder holds no such model.
    """
    settings = _preprocessor(folder)
    transformer = half_of(load_model(folder), "vision_model")
    try:
        config: Any = transformer.config
        size = _size(settings) or int(config.image_size)
        mean, std = _normalisation(settings)
        trunk = Patches(transformer, size // int(config.patch_size)).eval()
        name, layers = layers_of(trunk)
        with torch.inference_mode():
            _, channels, *grid = trunk(torch.zeros(1, 3, size, size)).shape
    except Exception as error:  # a model of another kind fails at any of these steps
        raise WeightsError(
            f"{folder}: not a vision transformer ({first_line(error)})",
            "Give the folder of a ViT, or of a CLIP-style model",
        ) from None
    tap = Tap(name, channels, (grid[0], grid[1]), (f"{name}.{len(layers) - 1}",))
    backbone = Backbone(folder.resolve().name, "", trunk, "pretrained", tap, size=size, mean=mean, std=std)
    # Unlike that of a registered backbone, the normalisation is read from a file and may change as well.
    backbone.weights_sha256 = state_sha256(
        trunk.state_dict() | {"mean": backbone.mean, "scale": backbone.scale}
    )
    return backbone


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
