"""Banded search for near perceptual hashes: it finds what comparing all pairs finds, whatever the bands."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bench_near
from mvsent.config import MAX_DISTANCE
from mvsent.curate import near
from mvsent.curate.near import near_pairs

Hashes = npt.NDArray[np.uint64]


def all_pairs(hashes: Hashes, distance: int) -> list[list[int]]:
    first, second = np.triu_indices(len(hashes), 1)
    is_near = np.bitwise_count(hashes[first] ^ hashes[second]) <= distance
    return np.stack([first[is_near], second[is_near]], axis=1).tolist()


bits = st.lists(st.integers(0, 63), max_size=10)
families = st.lists(st.tuples(st.sampled_from([0, 2**64 - 1, 0x0F1E2D3C4B5A6978]), bits), max_size=40)


def hashes_of(family: list[tuple[int, list[int]]]) -> Hashes:
    """Few bases, each with some bits flipped, so that many are near one another; all different."""
    found = [base ^ sum(1 << bit for bit in set(flipped)) for base, flipped in family]
    return np.array(list(dict.fromkeys(found)), dtype=np.uint64)


@given(families, st.integers(1, MAX_DISTANCE))
def test_the_banded_search_finds_what_comparing_all_pairs_finds(
    family: list[tuple[int, list[int]]], distance: int
) -> None:
    hashes = hashes_of(family)
    assert near_pairs(hashes, distance).tolist() == all_pairs(hashes, distance)


@pytest.mark.slow
@given(families, st.integers(1, 5), st.integers(1, 4), st.integers(1, 9))
def test_it_finds_the_same_in_however_many_bands_two_have_to_agree_and_however_it_is_cut(
    family: list[tuple[int, list[int]]], distance: int, agreeing: int, chunk: int
) -> None:
    hashes = hashes_of(family)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_agreeing", lambda n_hashes, distance: min(agreeing, distance))
        patch.setattr(near, "_CHUNK", chunk)
        assert near_pairs(hashes, distance).tolist() == all_pairs(hashes, distance)


def test_a_pair_that_agrees_in_many_bands_is_found_once() -> None:
    assert near_pairs(np.array([7, 6], np.uint64), MAX_DISTANCE).tolist() == [[0, 1]]


def test_one_bit_too_many_is_not_near() -> None:
    hashes = np.array([0, 0b1_1111], np.uint64)
    assert near_pairs(hashes, 4).tolist() == []
    assert near_pairs(hashes, 5).tolist() == [[0, 1]]


@pytest.mark.parametrize("distance", [-1, MAX_DISTANCE + 1])
def test_other_distances_are_refused(distance: int) -> None:
    with pytest.raises(ValueError, match="distance"):
        near_pairs(np.array([1, 2], np.uint64), distance)


@pytest.mark.parametrize("n_hashes", [0, 1])
def test_less_than_two_hashes_have_no_pair(n_hashes: int) -> None:
    assert near_pairs(np.arange(n_hashes, dtype=np.uint64), 4).shape == (0, 2)


def test_the_benchmark_plants_neighbours_up_to_the_distance_and_all_are_found() -> None:
    hashes, originals, planted = bench_near.simulated(20_000)
    apart = np.bitwise_count(hashes[originals] ^ hashes[planted])
    assert np.bincount(apart).tolist() == [0, 50, 50, 50, 50]
    found = bench_near.measured(20_000)
    assert found["found"] == found["planted"] == 200


@pytest.mark.slow
def test_the_benchmark_plants_cut_captions_and_all_are_found() -> None:
    found = bench_near.measured_texts(2000)
    assert found["found"] == found["planted"] == 20
