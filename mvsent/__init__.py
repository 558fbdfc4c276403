"""Build image+text sentiment datasets, and train and evaluate models on them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvsent.api import AttendedPairs as AttendedPairs
    from mvsent.api import Pair as Pair
    from mvsent.api import PairDataset as PairDataset
    from mvsent.api import PairSplit as PairSplit
    from mvsent.api import Run as Run
    from mvsent.api import benchmark as benchmark
    from mvsent.api import compare as compare
    from mvsent.api import draw as draw
    from mvsent.api import load as load
    from mvsent.api import open as open
    from mvsent.api import score as score
    from mvsent.api import train as train
else:
    _CLASSES = ("AttendedPairs", "Pair", "PairDataset", "PairSplit", "Run")
    _API = {*_CLASSES, "benchmark", "compare", "draw", "load", "open", "score", "train"}

    def __getattr__(name):
        """The functions of `mvsent.api`, imported when one is first used, so that commands start fast."""
        if name not in _API:
            raise AttributeError(f"module 'mvsent' has no attribute {name!r}")
        import mvsent.api

        return getattr(mvsent.api, name)

    def __dir__():
        return sorted({*globals(), *_API})


__version__ = "0.1.0"
