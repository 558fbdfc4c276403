"""Dawid-Skene: labels from annotators who err differently, instead of a plain majority."""

import warnings

import numpy as np

from mvsent.curate.labels import IMAGE, MISSING, TEXT, Decisions, Labels, from_modalities
from mvsent.errors import UsageError


def dawid_skene(votes: Labels) -> Labels:
    """[N, K] votes → [N]: the most probable label under the Dawid-Skene model, `MISSING` where nobody voted.

    Column k of `votes` is taken to be one annotator throughout, whose confusion matrix is estimated.
    Nothing is random, and equal probabilities (the only ties left) go to the lower label.

    Reference: Dawid & Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM
    algorithm".

    Raises: UsageError when crowd-kit is not installed.
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
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, about how crowd-kit calls it
        found = DawidSkene(n_iter=100).fit_predict(answers)
    label = np.full(len(votes), MISSING, dtype=np.int8)
    label[found.index.to_numpy(dtype=np.int64)] = found.to_numpy(dtype=np.int8)
    return label


def decide_by_dawid_skene(votes: Labels) -> Decisions:
    """[N, K, 2] votes → one decision per tweet: Dawid-Skene per modality, then the paper's rule."""
    return from_modalities(dawid_skene(votes[:, :, TEXT]), dawid_skene(votes[:, :, IMAGE]))
