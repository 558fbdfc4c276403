"""What simple features are worth on the same folds: logistic regressions beside a run's network.

    python -m benchmarks.logistic DATASET [PROTOCOL]

prints accuracy and weighted F1 (mean over folds) of a logistic regression on the mean backbone map, the
mean word vector, TF-IDF words, and all three. Its strength is chosen on the validation rows.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from mvsent.features.backbones import load_backbone
from mvsent.features.cache import cached_maps
from mvsent.features.vectors import load_vectors
from mvsent.features.vocabulary import Vocabulary, tokenize
from mvsent.pipelines.split import ensure_split
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN, VALIDATION

STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def main(folder: Path, protocol: str) -> None:
    """Print one line for each kind of features."""
    dataset = Dataset.open(folder)
    split = ensure_split(dataset, protocol, 0, None)
    texts = dataset.table(["text"])["text"].to_pylist()
    maps = cached_maps(dataset, load_backbone("efficientnet_lite0"))
    pictures = np.stack([np.asarray(row, np.float32).mean(axis=(1, 2)) for row in maps])
    words = mean_vectors(texts)
    for name in ("pictures", "words", "tf-idf", "all"):
        scores = []
        for fold in range(split.n_folds):
            rows = [split.rows(fold, role) for role in (TRAIN, VALIDATION, TEST)]
            scores.append(score(features(name, pictures, words, texts, rows[0]), dataset.labels, rows))
        accuracy, f1 = np.mean(scores, axis=0)
        print(f"{name:10s} accuracy {accuracy:.4f}  weighted F1 {f1:.4f}", flush=True)


def mean_vectors(texts: list[str]) -> np.ndarray:
    """[N, 50]: the mean GloVe vector of each text's words."""
    vocabulary = Vocabulary.build(texts)
    matrix = load_vectors("auto", vocabulary, 0).matrix
    numbers = {word: i for i, word in enumerate(vocabulary.words)}
    return np.stack([matrix[[numbers[w] for w in tokenize(t)] or [0]].mean(axis=0) for t in texts])


def features(name: str, pictures: np.ndarray, words: np.ndarray, texts: list[str], train: np.ndarray):
    """The scaled features of every row; what is learned of them is learned from the training rows."""
    if name in ("pictures", "words"):
        dense = pictures if name == "pictures" else words
        return StandardScaler().fit(dense[train]).transform(dense)
    tfidf = TfidfVectorizer(tokenizer=tokenize, token_pattern=None, min_df=2, sublinear_tf=True)
    terms = tfidf.fit([texts[i] for i in train]).transform(texts)
    if name == "tf-idf":
        return MaxAbsScaler().fit(terms[train]).transform(terms)
    parts = [features(other, pictures, words, texts, train) for other in ("pictures", "words", "tf-idf")]
    return sparse.hstack(parts, format="csr")


def score(x, labels: np.ndarray, rows: list[np.ndarray]) -> tuple[float, float]:
    """Accuracy and weighted F1 on the test rows, at the strength that is best on the validation rows."""
    train, validation, test = rows
    models = [LogisticRegression(C=c, max_iter=300).fit(x[train], labels[train]) for c in STRENGTHS]
    best = max(models, key=lambda m: accuracy_score(labels[validation], m.predict(x[validation])))
    predicted = best.predict(x[test])
    return accuracy_score(labels[test], predicted), f1_score(labels[test], predicted, average="weighted")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "paper-5x")
