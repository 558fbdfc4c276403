"""Dawid-Skene: better than a majority where annotators differ, the same where they do not."""

import sys

import numpy as np
import pytest

from mvsent.curate.aggregate import dawid_skene, decide_by_dawid_skene
from mvsent.curate.labels import MISSING, majority
from mvsent.errors import UsageError


def test_without_crowd_kit_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "crowdkit.aggregation", None)
    with pytest.raises(UsageError, match=r"pip install 'mvsent\[dawid-skene\]'"):
        dawid_skene(np.array([[2, 2]], dtype=np.int8))


@pytest.fixture
def simulated():
    """Labels, and the votes of one expert among four who guess half of the time."""
    pytest.importorskip("crowdkit")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300).astype(np.int8)
    guesses = rng.integers(0, 3, (300, 5)).astype(np.int8)
    right = rng.random((300, 5)) < [0.95, 0.4, 0.4, 0.4, 0.4]
    return labels, np.where(right, labels[:, None], guesses).astype(np.int8)


@pytest.mark.slow
def test_dawid_skene_finds_the_expert(simulated):
    labels, votes = simulated
    assert (dawid_skene(votes) == labels).mean() > (majority(votes, "neutral") == labels).mean() + 0.05


def test_dawid_skene_is_deterministic(simulated):
    _, votes = simulated
    assert dawid_skene(votes).tolist() == dawid_skene(votes.copy()).tolist()


def test_one_annotator_is_taken_at_their_word(simulated):
    labels, _ = simulated
    assert dawid_skene(labels[:, None]).tolist() == labels.tolist()


def test_a_row_without_votes_stays_without_label(simulated):
    _, votes = simulated
    votes[7] = MISSING
    found = decide_by_dawid_skene(np.stack([votes, votes], axis=2))
    assert (found.label == MISSING).nonzero()[0].tolist() == [7]
