"""`--tokens tweets`: a run reads its texts spelled out, in training and whenever it is used."""

import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from mvsent.config import TrainSettings
from mvsent.inference.attended import words_as_read
from mvsent.inference.export_model import export_model
from mvsent.inference.model import load
from mvsent.runs.predictor import DatasetPredictor
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import train
from mvsent.shards.reader import Dataset
from tests.conftest import write_dataset
from tests.drawing import draw_pairs
from tests.tiny_models import write_bert

pytest.importorskip("wordsegment")
pytestmark = pytest.mark.slow

TAGS = ("#badday", "#justanotherday", "#BestDayEver")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pairs whose texts end in a hashtag and an emoticon of their label."""
    pairs = draw_pairs(60, prefix="tagged")
    at = pairs.schema.get_field_index("text")
    texts = [
        f"{text} {TAGS[label]} :-))"
        for text, label in zip(pairs["text"].to_pylist(), pairs["label"].to_pylist(), strict=True)
    ]
    pairs = pairs.set_column(at, pairs.schema.field(at), pa.array(texts, pairs.schema.field(at).type))
    return write_dataset(tmp_path_factory.mktemp("data") / "tagged", pairs)


def settings(dataset: Path, **changes: object) -> TrainSettings:
    quick = {
        "model": "text-only",
        "words": "random",
        "tokens": "tweets",
        "epochs": 1,
        "batch_size": 16,
        "folds": [0],
        "options": {"hidden": 8},
        "threads": 1,
    }
    return TrainSettings(dataset=str(dataset), **{**quick, **changes})


@pytest.fixture(scope="module")
def run(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(tagged), out=tmp_path_factory.mktemp("runs") / "run", quiet=True).run


def words_of(run: Path) -> set[str]:
    return set((run / "fold-0" / "vocabulary.txt").read_text().split())


def judged(run: Path, dataset: Path) -> np.ndarray:
    return DatasetPredictor(RunFolder.open(run), Dataset.open(dataset), quiet=True).predict(0)


def test_the_vocabulary_has_the_words_of_hashtags(run: Path, tagged: Path, tmp_path: Path) -> None:
    plain = train(settings(tagged, tokens="plain"), out=tmp_path / "plain", quiet=True).run
    assert {"just", "another", "ever", ":)"} <= words_of(run)
    assert not {"badday", "justanotherday", ":-)"} & words_of(run)
    assert {"badday", "justanotherday", "best"} <= words_of(plain)
    assert not {"just", "another"} & words_of(plain)


def test_a_run_states_its_rules_and_judges_as_in_training(run: Path, tagged: Path) -> None:
    assert 'tokens = "tweets"' in (run / "config.toml").read_text()
    saved, ids = pq.read_table(run / "fold-0" / "predictions.parquet"), Dataset.open(tagged).ids
    rows = [ids.index(id) for id in saved["id"].to_pylist()]
    assert judged(run, tagged)[rows, 2] == pytest.approx(saved["p_positive"].to_numpy(), abs=1e-5)


def test_a_text_alone_is_read_as_those_of_a_dataset(run: Path, tagged: Path) -> None:
    [text] = [each["text"] for each in Dataset.open(tagged).table(["text"]).slice(2, 1).to_pylist()]
    model = load(run)
    assert model.predict(texts=[text]).probabilities[0] == pytest.approx(judged(run, tagged)[2], abs=1e-5)
    same = model.predict(texts=["#justanotherday :-))", "just another day :)"]).probabilities
    assert same[0] == pytest.approx(same[1])
    assert words_as_read(model, "#justanotherday :-))") == ["just", "another", "day", ":)"]


def test_a_streamed_run_has_the_same_words_and_answers(run: Path, tagged: Path, tmp_path: Path) -> None:
    streamed = train(settings(tagged, stream=True), out=tmp_path / "streamed", quiet=True).run
    assert words_of(streamed) == words_of(run)
    opened = Dataset.open(tagged)
    rows = np.arange(len(opened))
    again = DatasetPredictor(RunFolder.open(streamed), opened, quiet=True).predict(0, rows)
    assert again == pytest.approx(
        np.stack(
            [
                load(streamed).predict(texts=[t]).probabilities[0]
                for t in opened.table(["text"])["text"].to_pylist()
            ]
        ),
        abs=1e-5,
    )


def test_a_run_of_a_version_without_the_setting_reads_texts_as_they_are(tagged: Path, tmp_path: Path) -> None:
    plain = train(settings(tagged, tokens="plain"), out=tmp_path / "plain", quiet=True).run
    before, config = judged(plain, tagged), tomllib.loads((plain / "config.toml").read_text())
    del config["train"]["tokens"]
    (plain / "config.toml").write_text(tomli_w.dumps(config))
    assert (judged(plain, tagged) == before).all()


def test_an_exported_model_names_the_rules_of_its_texts(run: Path, tmp_path: Path) -> None:
    export_model(run, "safetensors", tmp_path / "model.safetensors")
    described = (tmp_path / "model.json").read_text()
    assert '"texts": "mvsent.features.tweet_words.spelled_out"' in described


def test_an_encoder_reads_the_words_of_hashtags(tagged: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_bert(tmp_path / "bert")
    run = train(settings(tagged, words=str(tmp_path / "bert")), out=tmp_path / "run", quiet=True).run
    same = load(run).predict(texts=["#badday so", "bad day so"]).probabilities
    assert same[0] == pytest.approx(same[1])
