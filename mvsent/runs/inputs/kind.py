"""Kinds of model inputs: their interface, their registry, and the parts that differ from fold to fold."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import mvsent.runs.inputs
from mvsent.features.backbone import Backbone
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import InputColumn
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup


@dataclass(frozen=True)
class OfFold:
    """The parts of a fold that an input may know.

    Attributes:
        vocabulary: of the fold's training texts; empty unless words are numbered.
        vectors: `[V, D]` float32 of the vocabulary's words.
        train: the fold's training rows, to which others may be linked.
    """

    vocabulary: Vocabulary
    vectors: npt.NDArray[np.float32]
    train: npt.NDArray[np.int64]


Reading = npt.NDArray[Any] | InputColumn | Callable[[OfFold], InputColumn]
"""An input of `N` pairs: values `[N, …]` of one field of `Batch`, or a column of several fields."""


class Input(ABC):
    """A kind of input of one training or run: made once, then read from any pairs.

    Attributes:
        columns: columns of a dataset that it reads.
        backbone: the network that pictures go through, if there is only one.
        hashes: of everything pretrained, or read from a file, by name; a run checks them.
        needs_all_rows: the option, as typed, that requires all rows at once; empty without such an option.
    """

    columns: tuple[str, ...] = ()
    backbone: Backbone | None = None
    needs_all_rows = ""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    @property
    def networks(self) -> Sequence[Backbone]:
        """The networks that pictures go through."""
        return [self.backbone] if self.backbone else []

    @classmethod
    @abstractmethod
    def make(cls, setup: Setup) -> "Input | None":
        """The input for a model that reads it; None if the settings leave it out.

        Raises: UsageError, WeightsError or InputError naming what is missing and a substitute.
        """

    @abstractmethod
    def read(self, pairs: Pairs) -> Mapping[str, Reading]:
        """The input of `pairs`: by field of `Batch`, or by any name if it makes several."""


Kind = TypeVar("Kind", bound=type[Input])
_KINDS: dict[str, type[Input]] = {}


def register(*names: str) -> Callable[[Kind], Kind]:
    """Class decorator: the class reads the inputs called `names`, constants of `models.batch`."""

    def add(kind: Kind) -> Kind:
        _KINDS.update(dict.fromkeys(names, kind))
        return kind

    return add


def kinds() -> dict[str, type[Input]]:
    """Name of each input → the class that reads it."""
    # A class registers itself when its module is imported.
    for module in iter_modules(mvsent.runs.inputs.__path__):
        import_module(f"mvsent.runs.inputs.{module.name}")
    return _KINDS
