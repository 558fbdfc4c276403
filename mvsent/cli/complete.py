"""What the shell offers at TAB. The names are copies, so that none waits for torch; a test compares them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvsent.setting import Setting

MODELS = (
    *("ahrm", "amgn", "bdmla", "comn", "dmaf", "dmlanet", "dmlanet-plus", "early-concat", "early-rmnn"),
    *("fenet", "hdf", "hsan", "image-only", "joint-cross-modal", "late-rmnn", "logistic", "multisentinet"),
    *("sentibank", "text-only"),
)
PROTOCOLS = (
    *("paper-5x", "kfold-5", "kfold-10"),
    *("grouped-paper-5x", "grouped-kfold-5", "grouped-kfold-10"),
)
BACKBONES = ("efficientnet_lite0", "inception_v3", "resnet50")
PICTURES = ("roc", "prc", "confusion", "curves")
DATASET_FORMATS = ("webdataset", "imagefolder", "csv", "label-studio", "croissant")
NEAR_DUPLICATES = ("drop", "keep")
CONFLICT_RULES = ("first", "drop", "majority")
MODEL_FORMATS = ("onnx", "torchscript", "safetensors")

_NAMES = {"models": MODELS, "protocols": PROTOCOLS, "backbones": BACKBONES}

Complete = Callable[[str], list[str]]


def one_of(names: Sequence[str]) -> Complete:
    """Completes an option that takes one of `names`.

    >>> one_of(MODELS)("dml")
    ['dmlanet', 'dmlanet-plus']
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def some_of(names: Sequence[str]) -> Complete:
    """Completes an option that takes several of `names`, as a,b.

    >>> some_of(PICTURES)("roc,c")
    ['roc,confusion', 'roc,curves']
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [before + comma + name for name in names if name.startswith(last) and name not in taken]

    return complete


def of_setting(stated: "Setting") -> Complete | None:
    """Completes the option of a setting; None if its values cannot be listed."""
    names = stated.choices or _NAMES.get(stated.completion, ())
    if not names:
        return None
    return some_of(names) if stated.takes_several else one_of(names)
