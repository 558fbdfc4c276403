"""Dawid-Skene: better than a majority where annotators differ, run to convergence, and the same as crowd-kit's."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsent.curate import aggregate
from mvsent.curate.aggregate import dawid_skene, decide_by_dawid_skene
from mvsent.curate.labels import MISSING, Labels, majority

BIASED = [[[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.15, 0.35, 0.5]]] * 3
"""[K, true, said] of three annotators who are often wrong, so that the estimate moves for long."""


def drawn(n_rows: int, errors: list[list[list[float]]], seed: int = 0) -> tuple[Labels, Labels]:
    """Labels [N], and the votes [N, K] of annotators with these errors."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n_rows, p=[0.1, 0.3, 0.6]).astype(np.int8)
    votes = [[rng.choice(3, p=of_one[label]) for of_one in errors] for label in labels]
    return labels, np.array(votes, np.int8)


@pytest.fixture
def simulated() -> tuple[Labels, Labels]:
    """Labels, and the votes of one expert among four who guess half of the time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300).astype(np.int8)
    guesses = rng.integers(0, 3, (300, 5)).astype(np.int8)
    right = rng.random((300, 5)) < [0.95, 0.4, 0.4, 0.4, 0.4]
    return labels, np.where(right, labels[:, None], guesses).astype(np.int8)


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
    assert dawid_skene(np.full((3, 2), MISSING)).tolist() == [MISSING] * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # pandas complains about crowd-kit's calls
def test_the_estimate_after_as_many_steps_is_that_of_crowd_kit():
    """It counts one step less, as it begins with the estimate of the annotators."""
    pd = pytest.importorskip("pandas")
    crowdkit = pytest.importorskip("crowdkit.aggregation")
    rng = np.random.default_rng(1)
    _, votes = drawn(300, BIASED)
    votes[rng.random(votes.shape) < 0.2] = MISSING
    task, worker = np.nonzero(votes != MISSING)
    table = pd.DataFrame({"task": task, "worker": worker, "label": votes[task, worker].astype(np.int64)})
    fitted = crowdkit.DawidSkene(n_iter=25, tol=-1.0).fit(table)
    expected = fitted.probas_.sort_index()[[0, 1, 2]].to_numpy()
    voted = votes[(votes != MISSING).any(axis=1)]
    kinds, kind, counts = np.unique(voted, axis=0, return_inverse=True, return_counts=True)
    found, _ = aggregate._estimate(kinds, counts.astype(float), 25)
    assert found[kind.ravel()] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_it_runs_until_no_label_moves_any_more(caplog):
    """A hundred steps, as many as crowd-kit takes, decide otherwise for hundreds of these rows."""
    _, votes = drawn(3000, BIASED)
    with caplog.at_level(logging.WARNING):
        converged = dawid_skene(votes)
    assert not caplog.records
    assert (dawid_skene(votes, max_steps=50_000) == converged).all()
    assert (dawid_skene(votes, max_steps=100) != converged).sum() > 100


def test_an_estimate_that_does_not_converge_says_so_and_of_which_votes(caplog):
    _, votes = drawn(500, BIASED)
    dawid_skene(votes, "image", max_steps=5)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "dawid-skene, image: not converged after 5 steps" in record.getMessage()
    assert "some labels depend on where it stopped" in record.getMessage()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_neither_the_order_of_rows_nor_a_further_copy_of_all_changes_a_label(rows, random):
    votes = np.array(rows, np.int8)
    order = random.sample(range(len(votes)), len(votes))
    once = dawid_skene(votes)
    assert dawid_skene(votes[order]).tolist() == once[order].tolist()
    assert dawid_skene(np.tile(votes, (3, 1))).tolist() == np.tile(once, 3).tolist()
    assert ((once == MISSING) == (votes == MISSING).all(axis=1)).all()
