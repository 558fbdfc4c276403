"""Build image+text sentiment datasets, and train and evaluate models on them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from mvsent.inference.model import Model

__version__ = "0.1.0"


def load(run: "str | os.PathLike[str]", fold: int | None = None, device: str = "auto") -> "Model":
    """The model of a run folder, ready to answer: `load(RUN).predict(images, texts)`.

    Args:
        run: the folder, as `mvsent train` wrote it.
        fold: whose network; None: those of all finished folds, whose probabilities are averaged.
        device: cpu, cuda, cuda:N, or auto, the first CUDA device, else the CPU.

    Raises:
        RunError: no run, no finished fold, or something pretrained is not what it was in training.
        UsageError: no such fold or device. WeightsError: something pretrained is not here.
    """
    from mvsent.inference.model import load as load_model

    return load_model(run, fold, device)
