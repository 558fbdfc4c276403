"""Dawid-Skene: labels from annotators with different error rates, instead of a plain majority."""

import warnings

import numpy as np

from mvsent.curate.labels import IMAGE, MISSING, TEXT, Decisions, Labels, from_modalities
from mvsent.errors import UsageError


def dawid_skene(votes: Labels) -> Labels:
    """The most probable label under the Dawid-Skene model: votes [N, K] → [N]; `MISSING` without votes.

    Column k of `votes` is assumed to be one annotator, whose confusion matrix is estimated. The result is
    deterministic; labels of equal probability resolve to the lower one.

    Reference: Dawid & Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM
    algorithm".

    Raises: UsageError if crowd-kit is not installed.
    """
    try:
        import pandas as pd
        from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise UsageError(
            f"--aggregate dawid-skene needs the package crowd-kit ({error})",
            "Install it: pip install 'mvsent[dawid-skene]'",
        ) from None
    task, worker = np.nonzero(votes != MISSING)
    answers = pd.DataFrame({"task": task, "worker": worker, "label": votes[task, worker].astype(np.int64)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas complains about crowd-kit's calls
        fitted = DawidSkene(n_iter=100).fit_predict(answers)
    label = np.full(len(votes), MISSING, dtype=np.int8)
    label[fitted.index.to_numpy(dtype=np.int64)] = fitted.to_numpy(dtype=np.int8)
    return label


def decide_by_dawid_skene(votes: Labels) -> Decisions:
    """Decide each tweet from votes [N, K, 2]: Dawid-Skene per modality, then the paper's rule."""
    return from_modalities(dawid_skene(votes[:, :, TEXT]), dawid_skene(votes[:, :, IMAGE]))
