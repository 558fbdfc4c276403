"""Names that the shell offers at TAB. Lists of modules that import torch are copied; a test compares."""

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvsent.setting import Setting

PROTOCOLS = (
    *("paper-5x", "kfold-5", "kfold-10"),
    *("grouped-paper-5x", "grouped-kfold-5", "grouped-kfold-10"),
    *("grouped-near-paper-5x", "grouped-near-kfold-5", "grouped-near-kfold-10"),
)
BACKBONES = (
    *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    *("inception_v3", "resnet50"),
)
ROLES = ("train", "validation", "test")
PICTURES = ("roc", "prc", "confusion", "curves")
DATASET_FORMATS = ("webdataset", "imagefolder", "csv", "label-studio", "croissant")
MODEL_FORMATS = ("onnx", "torchscript", "safetensors")

Complete = Callable[[str], list[str]]


def models() -> Sequence[str]:
    """The names of the models, read from their files.

    >>> models()[:3]
    ['ahrm', 'amgn', 'bdmla']
    """
    texts = (file.read_text(encoding="utf-8") for file in files("mvsent.models").iterdir() if file.is_file())
    return sorted(re.findall(r'@register\(\s*\w+\(\s*(?:name=)?"([^"]+)"', "\n".join(texts)))


Names = Sequence[str] | Callable[[], Sequence[str]]
_NAMES: dict[str, Names] = {"models": models, "protocols": PROTOCOLS, "backbones": BACKBONES}


def _listed(names: Names) -> Sequence[str]:
    return names() if callable(names) else names


def one_of(names: Names) -> Complete:
    """Completes an option that takes one of `names`.

    >>> one_of(models)("dml")
    ['dmlanet', 'dmlanet-plus']
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in _listed(names) if name.startswith(incomplete)]

    return complete


def some_of(names: Names) -> Complete:
    """Completes an option that takes several of `names`, as a,b.

    >>> some_of(PICTURES)("roc,c")
    ['roc,confusion', 'roc,curves']
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [
            before + comma + name for name in _listed(names) if name.startswith(last) and name not in taken
        ]

    return complete


def of_setting(stated: "Setting") -> Complete | None:
    """Completes the option of a setting; None if its values cannot be listed."""
    names = stated.choices or _NAMES.get(stated.completion, ())
    if not names:
        return None
    return some_of(names) if stated.takes_several else one_of(names)
