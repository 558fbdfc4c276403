"""All inputs of a model, read from a dataset or from pairs in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mvsent.errors import RunError
from mvsent.features.backbone import Backbone
from mvsent.features.transformer import TextEncoder
from mvsent.learn.batches import Examples, Rows
from mvsent.models.batch import WIDTHS
from mvsent.runs.inputs.anp_scores import AnpScores
from mvsent.runs.inputs.kind import Input, OfFold, Reading, kinds
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Regions
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.inputs.words import Unnumbered, Words

AnInput = TypeVar("AnInput", bound=Input)


class InputReader:
    """Reads the inputs of a model; the pretrained networks that they need are loaded once.

    Attributes:
        setup: the settings, the dataset, and the networks that inputs share.
        inputs: the inputs that the model reads.
    """

    def __init__(self, setup: Setup) -> None:
        """Load the networks of every input.

        Raises: UsageError, WeightsError or InputError naming a missing option, package or file; RunError if
            pretrained weights have changed since the run of `setup` was trained.
        """
        self.setup = setup
        known = kinds()
        wanted = {known[name] for name in setup.needed | setup.optional}
        # A class may read several inputs, and is then made once.
        made = (kind.make(setup) for kind in dict.fromkeys(known.values()) if kind in wanted)
        self.inputs = [each for each in made if each]
        if setup.run:
            resolved = setup.run.resolved
            before = {"backbone": resolved.backbone_sha256, **resolved.pretrained_sha256}
            self._compare(before, {"backbone": "", **self.hashes})  # empty in a run without pictures

    def of(self, kind: type[AnInput]) -> AnInput | None:
        """The input of a kind; None if the model does not read it."""
        return next((each for each in self.inputs if isinstance(each, kind)), None)

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each pretrained network and of each file, by name."""
        return {name: sha256 for each in self.inputs for name, sha256 in each.hashes.items()}

    @property
    def columns(self) -> list[str]:
        """Columns of a dataset that are read."""
        return list(dict.fromkeys(name for each in self.inputs for name in each.columns))

    @property
    def sides(self) -> list[int]:
        """Sides in pixels of the squares that networks read."""
        return sorted({network.size for each in self.inputs for network in each.networks})

    @property
    def backbone(self) -> Backbone | None:
        """The network of `--backbone`; None if nothing is read through it."""
        regions, scores = self.of(Regions), self.of(AnpScores)
        return regions.backbone if regions else scores.backbone if scores else None

    @property
    def encoder(self) -> TextEncoder | None:
        """The transformer that words are read through; None without one."""
        words = self.of(Words)
        return words.encoder if words else None

    @property
    def numbers_words(self) -> bool:
        """Whether each fold needs a vocabulary."""
        words = self.of(Words)
        return words is not None and words.encoder is None

    def read(self, pairs: Pairs) -> "Inputs":
        """The inputs of `pairs`, computed or from the cache.

        Raises: DatasetError or InputError if a row lacks an input; RunError if an input has another width
            than when the run of `setup` was trained.
        """
        readings = {name: each for kind in self.inputs for name, each in kind.read(pairs).items()}
        inputs = Inputs(pairs.target, {**readings, **pairs.flags})
        if self.setup.run:
            before = {name: self.setup.run.resolved.width(name) for name in WIDTHS}
            self._compare(before, inputs.widths)
        return inputs

    def _compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        assert self.setup.run is not None
        for name in sorted(before | now):
            if before.get(name) != now.get(name):
                raise RunError(
                    f"{self.setup.run.path}: {name.replace('_', ' ')} has changed since training",
                    "Restore what it was trained with, or train again",
                )


@dataclass(frozen=True)
class Inputs:
    """The inputs of `N` pairs, before any fold.

    Attributes:
        target: `[N]` int64, index into the run's classes.
        readings: by field of `Batch`, or by any name if one makes several fields.
    """

    target: npt.NDArray[np.int64]
    readings: Mapping[str, Reading]

    @property
    def widths(self) -> dict[str, int]:
        """Features of each input that is one vector a row, by field of `Sizes`; 0 if not read."""
        arrays = {name: each for name, each in self.readings.items() if isinstance(each, np.ndarray)}
        return {name: arrays[of].shape[1] if of in arrays else 0 for name, of in WIDTHS.items()}

    def texts(self, rows: Rows) -> Iterator[str]:
        """The texts of `rows` whose words a vocabulary numbers."""
        for reading in self.readings.values():
            if isinstance(reading, Unnumbered):
                yield from (reading.texts[row] for row in rows)

    def source(self, fold: OfFold, missing: str = "") -> Examples:
        """All pairs as a fold's network reads them, without the modality that is `missing`."""
        columns = {name: each(fold) if callable(each) else each for name, each in self.readings.items()}
        examples = Examples(self.target, columns)
        return examples.without(missing) if missing else examples
