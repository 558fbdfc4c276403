"""What a run says of new pairs: from Python, from tables, folders and pipes, and of hostile ones."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

import mvsent
from mvsent.cli import app, exit_code
from mvsent.config import TrainSettings
from mvsent.errors import InputError, MvsentError, OutputExistsError, RunError, UsageError
from mvsent.inference.model import Answers, Model
from mvsent.inference.pair_tables import ANSWER_COLUMNS, PairRow, PairTable, open_table
from mvsent.inference.predict import judge, predict_pair, predict_table
from mvsent.runs.inputs import pictures as decoding
from mvsent.runs.predictions import read_predictions
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import train
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import lock_file, locked
from tests import programs
from tests.drawing import draw_pairs, draw_picture
from tests.run_folder import write_run
from tests.tiny_models import write_bert

ROW = ["label", "p_negative", "p_neutral", "p_positive"]


def trained(out: Path, dataset: Path, **settings: Any) -> Path:
    chosen = {"weights": "random", "words": "random", "epochs": 1, "batch_size": 16, "threads": 1}
    return train(TrainSettings(dataset=str(dataset), **(chosen | settings)), out=out, quiet=True).run


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "run", small_dataset, folds=[0, 1])


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return mvsent.load(run, fold=1)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(draw_picture(2, 7))
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def saved(run: Path, fold: int) -> dict[str, np.ndarray]:
    test = read_predictions(RunFolder.open(run).fold(fold) / "predictions.parquet", [0, 1, 2])["test"]
    return dict(zip(test.ids, test.y_prob, strict=True))


@pytest.mark.slow
def test_a_dataset_gets_the_probabilities_that_the_fold_saved(
    run: Path, small_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.parquet"
    result = predict_table(run, small_dataset, out=out, fold=1, batch_size=7, quiet=True)
    assert (result.rows, result.failed) == (60, 0)
    table = pq.read_table(out)
    assert table["id"].to_pylist() == Dataset.open(small_dataset).ids
    assert table["given_label"].to_pylist() == Dataset.open(small_dataset).labels.tolist()
    answers = {row["id"]: [row[name] for name in ROW[1:]] for row in table.to_pylist()}
    for id, wanted in saved(run, 1).items():
        assert np.abs(np.array(answers[id]) - wanted).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "hsan"},
        {"model": "dmlanet-plus", "text_vector": "none"},
        {"model": "sentibank"},
        {"model": "image-only"},
        {"model": "logistic", "text_vector": "none"},
        {"words": "BERT"},
        {"words": "BERT", "fine_tune_words": "last", "fine_tune": "last"},
    ],
    ids=lambda settings: " ".join(settings.values()),
)
def test_so_does_a_run_of_another_kind(small_dataset: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    if settings.get("words") == "BERT":
        settings = settings | {"words": str(write_bert(tmp_path / "bert"))}
    run = trained(tmp_path / "run", small_dataset, folds=[1], **settings)
    predict_table(run, small_dataset, out=tmp_path / "answers.parquet", quiet=True)
    answers = {row["id"]: row for row in pq.read_table(tmp_path / "answers.parquet").to_pylist()}
    for id, wanted in saved(run, 1).items():
        assert np.abs(np.array([answers[id][name] for name in ROW[1:]]) - wanted).max() < 1e-4


@pytest.mark.slow
def test_without_a_fold_the_probabilities_of_all_are_averaged(run: Path, picture: Path) -> None:
    one_by_one = [mvsent.load(run, fold).predict([picture], ["so good"]).probabilities for fold in (0, 1)]
    together = mvsent.load(run).predict([picture], ["so good"]).probabilities
    assert np.abs(together - np.mean(one_by_one, axis=0)).max() < 1e-6
    assert np.abs(one_by_one[0] - one_by_one[1]).max() > 1e-4


@pytest.mark.slow
def test_a_path_its_bytes_and_the_decoded_picture_get_one_answer(model: Model, picture: Path) -> None:
    data = picture.read_bytes()
    with Image.open(io.BytesIO(data)) as decoded:
        answers = model.predict([picture, str(picture), data, decoded], ["good day"] * 4)
    assert answers.errors == [""] * 4 and answers.missing == [""] * 4
    assert np.abs(answers.probabilities - answers.probabilities[0]).max() < 1e-5
    assert answers.classes == model.classes == ("negative", "neutral", "positive")
    assert answers.labels[0] == model.classes[answers.probabilities[0].argmax()]


def test_a_missing_modality_is_marked_and_the_rest_is_judged(model: Model, picture: Path) -> None:
    answers = model.predict([picture, None, picture, None], [None, "good", " ", ""])
    assert answers.missing == ["text", "image", "text", "image,text"]
    assert answers.errors == ["", "", "", "neither a picture nor a text"]
    assert np.isfinite(answers.probabilities[:3]).all() and np.isnan(answers.probabilities[3]).all()
    assert answers.labels[3] == ""
    assert np.array_equal(answers.probabilities[0], answers.probabilities[2]), "a blank text is a missing one"


def test_either_list_may_be_left_out(model: Model, picture: Path) -> None:
    assert model.predict(texts=["good"]).missing == ["image"]
    assert model.predict([picture]).missing == ["text"]
    assert len(model.predict([], [])) == 0


@pytest.mark.parametrize(
    ("images", "texts"), [(None, None), (["a.jpg"], ["a", "b"]), ("a.jpg", None), (None, "good")]
)
def test_lists_that_do_not_fit_are_refused(model: Model, images: Any, texts: Any) -> None:
    with pytest.raises(UsageError):
        model.predict(images, texts)


def test_an_answer_does_not_depend_on_the_others_in_the_batch(model: Model, picture: Path) -> None:
    alone = model.predict([picture], ["sad broken day"]).probabilities[0]
    among = model.predict(
        [None, b"no picture", picture, picture], ["word " * 30, "x", "sad broken day", None], batch_size=3
    )
    assert np.abs(among.probabilities[2] - alone).max() < 1e-5


def test_examples_are_what_the_network_reads(model: Model, picture: Path) -> None:
    examples = model.examples([picture, None], ["so good", "sad"], fold=1)
    batch = next(model.batches(examples))
    assert batch.has_image.tolist() == [True, False] and batch.regions[1].abs().sum() == 0
    logits = model.network(1)(batch).logits
    wanted = model.predict([picture, None], ["so good", "sad"]).probabilities
    assert np.abs(logits.softmax(dim=1).numpy() - wanted).max() < 1e-5
    with pytest.raises(InputError, match=r"picture 2: image-not-an-image"):
        model.examples([picture, b"<html>"], None)
    with pytest.raises(UsageError, match="fold 0 is not loaded"):
        model.network(0)


def bomb() -> bytes:
    """A PNG of few bytes that says it has 400 million pixels."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b"", "image-corrupt: the file is empty"),
        (lambda: b"I am a text file\n", "image-not-an-image"),
        (lambda: draw_picture(1, 1)[:400], "image-corrupt"),
        (lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "image-corrupt"),
        (bomb, "image-too-large"),
        (lambda: b"\xff\xd8" + b"\0" * decoding.MAX_BYTES, "image-too-large: more than"),
        (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image-not-an-image"),
    ],
    ids=["empty", "text", "cut off", "half a header", "bomb", "too big", "svg"],
)
def test_a_bad_picture_is_an_error_of_its_row(
    run: Path, tmp_path: Path, picture: Path, make: Callable[[], bytes], said: str
) -> None:
    (tmp_path / "bad.jpg").write_bytes(make())
    table, out = tmp_path / "pairs.csv", tmp_path / "answers.csv"
    table.write_text("image,text\na.jpg,good\nbad.jpg,good\n,fine\n")
    result = predict_table(run, table, out=out, fold=0, quiet=True)
    assert (result.rows, result.failed) == (3, 1)
    first, bad, last = rows_of(out)
    assert bad["error"].startswith(said) and [bad[name] for name in ROW] == [""] * 4
    assert first["label"] and last["label"] and not first["error"] and last["missing"] == "image"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.jpg", "no such file"),
        (".", "not a file"),
        ("pipe", "not a file"),
        ("https://example.org/a.jpg", "nothing is downloaded"),
        ("file:///etc/hostname", "nothing is downloaded"),
        ("a\0.jpg", "image-missing"),
        ("n" * 300 + ".jpg", "image-missing"),
    ],
)
def test_a_path_that_is_no_file_is_an_error_of_its_row(
    run: Path, tmp_path: Path, path: str, said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    table, out = tmp_path / "pairs.jsonl", tmp_path / "answers.jsonl"
    table.write_text(json.dumps({"image": path, "n": 1}) + "\n")
    assert predict_table(run, table, out=out, fold=0, quiet=True).failed == 1
    found = json.loads(out.read_text())
    assert said in found["error"] and found["n"] == 1 and found["p_negative"] is None


@pytest.mark.slow
def test_a_link_to_a_picture_is_followed(run: Path, tmp_path: Path, picture: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(picture)
    (tmp_path / "pairs.csv").write_text("image\nlink.jpg\n")
    assert (
        predict_table(run, tmp_path / "pairs.csv", out=tmp_path / "out.csv", fold=0, quiet=True).failed == 0
    )


@pytest.mark.slow
def test_a_csv_table_comes_back_with_answers(run: Path, tmp_path: Path, picture: Path) -> None:
    table, out = tmp_path / "pairs.csv", tmp_path / "answers.csv"
    table.write_bytes(
        '\ufeffid,text,image,label,note\n7,"good, so ""good""",a.jpg,x,=1+1\n8,traurig ☹,,y,\n'.encode()
    )
    predict_table(run, table, out=out, fold=0, quiet=True)
    rows = rows_of(out)
    assert list(rows[0]) == ["id", "text", "image", "given_label", "note", *ANSWER_COLUMNS]
    assert [row["id"] for row in rows] == ["7", "8"]
    assert (
        rows[0]["text"] == 'good, so "good"' and rows[0]["note"] == "=1+1" and rows[0]["given_label"] == "x"
    )
    assert sum(float(rows[0][name]) for name in ROW[1:]) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_parquet_table_keeps_its_types_and_loses_its_pictures(
    run: Path, tmp_path: Path, picture: Path
) -> None:
    data = picture.read_bytes()
    table = pa.table(
        {
            "n": pa.array([1, 2, 3], pa.int16()),
            "image": [{"bytes": data, "path": "x"}, None, {"bytes": b"no", "path": "y"}],
            "text": ["good", "bad", "x"],
            "tags": [["a"], [], None],
        }
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    predict_table(run, tmp_path / "pairs.parquet", out=tmp_path / "answers.parquet", fold=0, quiet=True)
    found = pq.read_table(tmp_path / "answers.parquet")
    assert found.column_names == ["n", "text", "tags", *ANSWER_COLUMNS]
    assert found.schema.field("n").type == pa.int16() and found["tags"].to_pylist() == [["a"], [], None]
    assert found.schema.field("p_neutral").type == pa.float32()
    assert found["missing"].to_pylist() == ["", "image", ""]
    assert [bool(error) for error in found["error"].to_pylist()] == [False, False, True]


@pytest.mark.slow
def test_a_folder_of_pictures_is_read_with_the_texts_beside_them(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "sub/c.jpeg"):
        (folder / name).write_bytes(draw_picture(0, 3))
    (folder / "b.txt").write_text("so sad\n")
    (folder / "a.txt").write_bytes(b"happy\xa1\xad")  # GB18030, as some of MVSA's are
    (folder / "notes.txt").write_text("no picture of that name")
    out = tmp_path / "answers.csv"
    assert predict_table(run, folder, out=out, fold=0, quiet=True).failed == 0
    rows = rows_of(out)
    assert [(row["image"], row["text"], row["missing"]) for row in rows] == [
        ("a.PNG", "happy…", ""),
        ("b.jpg", "so sad", ""),
        ("sub/c.jpeg", "", "text"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no picture"):
        predict_table(run, tmp_path / "empty", quiet=True)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_name_of_out_says_how_it_is_written(run: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"text": "good", "n": {"a": 1}}\n\n{"text": "sad \\ud83d", "n": 2}\n'
    )
    out = tmp_path / f"answers.{kind}"
    assert predict_table(run, tmp_path / "pairs.jsonl", out=out, fold=0, quiet=True).rows == 2
    found = {
        "csv": rows_of,
        "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        "parquet": lambda path: pq.read_table(path).to_pylist(),
    }[kind](out)
    assert [row["n"] for row in found] == ([{"a": 1}, 2] if kind == "jsonl" else ['{"a": 1}', "2"])
    assert all(row["label"] for row in found)


BROKEN = {
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"image,text\n", "has no rows"),
    "nothing.jsonl": (b"\n\n", "has no rows"),
    "strange.csv": (b"foto,words\na,b\n", "neither a column image nor a column text, only: foto, words"),
    "twice.csv": (b"text,text\na,b\n", "two columns text"),
    "clash.csv": (b"text,label,given_label\na,b,c\n", "two columns label and given_label"),
    "wide.csv": (b"text,a\nx,1\ny,2,3\n", "line 3: has 3 cells, the header has 2"),
    "quote.csv": (b'text\n"never closed\n', "not CSV"),
    "latin.csv": ("text\nschön\n".encode("latin-1"), "line 2: not UTF-8"),
    "utf16.csv": ("text\ngood\n".encode("utf-16"), "line 1: not UTF-8"),
    "line.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "nan.jsonl": (b'{"text": "a", "n": NaN}\n', "NaN is not JSON"),
    "deep.jsonl": (b'{"text": ' + b"[" * 100_000 + b"\n", "line 1: not JSON"),
    "again.jsonl": (b'{"text": "a", "text": "b"}\n', "line 1: not JSON (an object has a key twice"),
    "twice.jsonl": (b'{"text": "a", "label": 1, "given_label": 2}\n', "has both label and given_label"),
    "list.jsonl": (b'["text"]\n', "line 1: not a JSON object"),
    "none.jsonl": (b'{"txt": "a"}\n', "has neither image nor text"),
    "fake.parquet": (b"PAR1 no", "not a Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_one_clear_line_and_writes_nothing(run: Path, tmp_path: Path, name: str) -> None:
    content, said = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError) as raised:
        predict_table(run, tmp_path / name, out=out, fold=0, quiet=True)
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert not out.exists() and sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.slow
def test_cells_of_another_type_are_errors_of_their_rows(run: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    table.write_text('{"text": 7}\n{"image": ["a"], "text": "b"}\n{"text": "good"}\n')
    assert predict_table(run, table, out=out, fold=0, quiet=True).failed == 2
    errors = [json.loads(line)["error"] for line in out.read_text().splitlines()]
    assert errors == ["text is not a string but int", "image is not a path but list", ""]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_lone_carriage_return_ends_no_row(kind: str, run: Path, tmp_path: Path) -> None:
    table, out = tmp_path / f"pairs.{kind}", tmp_path / "out.csv"
    cells = {
        "csv": b'text,note\nhappy,"x\ry"\nsad,z\n',
        "jsonl": b'{"text":"a","note":"x\\ry"}\n{"text":"b","note":"z"}\n',
    }
    table.write_bytes(cells[kind])
    predict_table(run, table, out=out, fold=0, quiet=True)
    assert [row["note"] for row in rows_of(out)] == ["x\ry", "z"]


@pytest.mark.slow
def test_a_scheduler_s_end_is_one_line(run: Path) -> None:
    command = programs.mvsent("predict", str(run), "-", "--fold", "0")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write('{"text": "fine"}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["label"]  # it waits for more
        process.terminate()
        assert process.wait() == 130
        last = process.stderr.read().strip().splitlines()[-1]
    assert last == "mvsent: interrupted. The same command begins anew"


@pytest.mark.slow
def test_a_terminal_shows_strangers_escapes_and_does_not_obey_them(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_bytes("text,note\nfine,\x1b]0;mine\x07 żółw\n".encode())
    command = shlex.join(programs.mvsent("predict", str(run), str(table), "--fold", "0", "-q"))
    shown = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, check=False).stdout
    assert "\\x1b]0;mine\\x07 żółw" in shown.decode() and b"\x1b" not in shown


def test_answers_that_nobody_would_get_are_not_made(run: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text\nfine\n")
    command = (
        shlex.join(programs.mvsent("predict", str(run), f"{tmp_path}/pairs.csv", "--fold", "0")) + " >&-"
    )
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith("mvsent: stdout is closed")


def test_a_row_with_a_key_of_its_own_needs_jsonl(run: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"text": "a"}\n{"text": "b", "shop": 1}\n')
    with pytest.raises(InputError, match="a row has 'shop', which the first row lacks"):
        predict_table(run, tmp_path / "pairs.jsonl", out=tmp_path / "out.csv", fold=0, quiet=True)
    assert not (tmp_path / "out.csv").exists()


def test_answers_have_one_writer_who_finds_what_another_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, out = tmp_path / "pairs.csv", tmp_path / "out.csv"
    table.write_text("text\ngood\n")
    with locked(lock_file(out)), pytest.raises(UsageError, match="another mvsent process"):
        predict_table(run, table, out=out, fold=0, quiet=True)

    def finish_elsewhere(source: Path, kind: str) -> PairTable:
        out.write_text("another's")
        return open_table(source, kind)

    monkeypatch.setattr("mvsent.inference.predict.open_table", finish_elsewhere)
    with pytest.raises(OutputExistsError, match="already exists"):
        predict_table(run, table, out=out, fold=0, quiet=True)
    assert out.read_text() == "another's" and len(list(tmp_path.iterdir())) == 2


def test_what_is_there_is_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "pairs.csv", tmp_path / "out.csv"
    table.write_text("text\ngood\n")
    out.write_text("mine")
    with pytest.raises(OutputExistsError, match="already exists"):
        predict_table(run, table, out=out, quiet=True)
    with pytest.raises(UsageError, match="is the input itself"):
        predict_table(run, table, out=table, overwrite=True, quiet=True)
    predict_table(run, table, out=out, overwrite=True, fold=0, quiet=True)
    assert len(rows_of(out)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pairs.txt"], "unknown kind of input"),
        (["gone.csv"], "no such file"),
        (["pairs.csv", "--text", "x"], "a pair of their own"),
        ([], "neither a picture nor a text"),
        (["--text", "  "], "neither a picture nor a text"),
        (["pairs.csv", "--format", "xml"], "unknown 'xml'"),
        (["pairs.csv", "--format", "parquet"], "needs a file"),
        (["pairs.csv", "--json"], "the answers themselves go to stdout"),
        (["pairs.csv", "--out", "a.csv", "--format", "jsonl"], "means csv"),
        (["--text", "x", "--fold", "4"], "fold 4"),
        (["--image", "gone.jpg"], "gone.jpg"),
        (["--text", "x", "--device", "abacus"], "abacus"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("text\ngood\n")
    found = CliRunner().invoke(app, ["predict", str(run), *words])
    assert isinstance(found.exception, MvsentError) and said in str(found.exception)


RAW = "so  happy\u200b &amp; a good\n cafe\u0301 day"
CLEAN = "so happy & a good café day"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_text_of_a_table_is_judged_as_a_dataset_would_have_it_and_comes_back_as_it_came(
    run: Path, model: Model, tmp_path: Path, kind: str
) -> None:
    as_it_is, clean = (model.predict(texts=[text], cleaned=True).probabilities for text in (RAW, CLEAN))
    assert abs(as_it_is - clean).max() > 1e-6, "the network cannot tell them apart: this proves nothing"
    table, out = tmp_path / f"pairs.{kind}", tmp_path / "answers.jsonl"
    if kind == "parquet":
        pq.write_table(pa.table({"text": [RAW, CLEAN]}), table)
    elif kind == "jsonl":
        table.write_text("".join(json.dumps({"text": text}) + "\n" for text in (RAW, CLEAN)))
    else:
        table.write_text(f'text\n"{RAW}"\n{CLEAN}\n', encoding="utf-8")
    predict_table(run, table, out=out, fold=1, quiet=True)
    raw_row, clean_row = map(json.loads, out.read_text().splitlines())
    assert [raw_row["text"], clean_row["text"]] == [RAW, CLEAN]
    for name in ROW[1:]:
        assert raw_row[name] == pytest.approx(clean_row[name], abs=1e-6)


@pytest.mark.slow
def test_a_typed_text_is_cleaned_too(run: Path, model: Model) -> None:
    assert predict_pair(run, None, RAW) == predict_pair(run, None, CLEAN)
    assert (model.predict(texts=[RAW]).probabilities == model.predict(texts=[CLEAN]).probabilities).all()
    with pytest.raises(UsageError, match="neither a picture nor a text"):
        predict_pair(run, None, "\u200b \ud83d")


def test_a_dataset_s_texts_are_clean_and_not_cleaned_again(make_dataset: Callable[..., Path]) -> None:
    pairs = draw_pairs(12)
    text = "write &lt;b&gt; for bold"  # of a tweet with &amp;lt;b&amp;gt;
    at = pairs.schema.get_field_index("text")
    pairs = pairs.set_column(at, pairs.schema.field(at), pa.array([text] * 12, pairs.schema.field(at).type))
    counting = Counting()
    table = open_table(make_dataset(pairs))
    for _ in judge(counting, table, 10, eager=False):
        pass
    assert counting.texts == [text] * 12


@pytest.mark.slow
def test_one_pair_is_a_line_or_json(run: Path, picture: Path) -> None:
    found = CliRunner().invoke(
        app, ["predict", str(run), "--image", str(picture), "--text", "so good", "--json"]
    )
    answer = json.loads(found.stdout)
    assert answer == predict_pair(run, picture, "so good")
    assert answer["label"] in mvsent.load(run).classes and answer["error"] == ""
    line = CliRunner().invoke(app, ["predict", str(run), "--text", "so good"])
    assert "(without image)" in line.stdout and line.exit_code == 0


def test_a_row_with_an_error_ends_with_3(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("text,image\ngood,\ngood,gone.jpg\n")
    words = ["predict", str(run), str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "o.csv")]
    assert exit_code(lambda: app(words, prog_name="mvsent", standalone_mode=False)) == 3
    said = capsys.readouterr().out
    assert "2 rows" in said and "1 with an error" in said


class Producer:
    """`mvsent predict RUN -`, asked a line at a time."""

    def __init__(self, run: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            programs.mvsent("predict", str(run), "-", "--fold", "0", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.limit = Timer(120, self.process.kill)  # one that never answers would be waited for without end
        self.limit.start()

    def ask(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode()

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=60)
        self.limit.cancel()
        return self.process.returncode, out.decode(), said(error)


def said(error: bytes) -> str:
    """What was said on stderr, but for the note that these tests have a random backbone."""
    return "".join(line for line in error.decode().splitlines(keepends=True) if "RANDOM" not in line)


def test_a_pipe_answers_before_the_next_row_comes(run: Path) -> None:
    producer = Producer(run)
    try:
        for text in ("good", "bad"):
            answer = json.loads(producer.ask(json.dumps({"text": text})))
            assert answer["text"] == text and answer["label"]
    finally:
        code, rest, error = producer.end()
    assert (code, rest, error) == (0, "", "")


def test_a_pipe_of_csv_that_breaks_off_keeps_what_was_answered(run: Path) -> None:
    producer = Producer(run, "--format", "csv")
    assert producer.ask("text,n\ngood,1").startswith("text,n,label")
    assert producer.process.stdout.readline().startswith(b"good,1,")
    assert producer.process.stdin
    producer.process.stdin.write(b"bad\n")
    code, rest, error = producer.end()
    assert (code, rest) == (1, "")
    assert "stdin, line 3: has 1 cells, the header has 2" in error and error.count("\n") == 1


def test_a_reader_that_goes_away_ends_the_program(run: Path, tmp_path: Path) -> None:
    lines = "".join('{"text": "good"}\n' for _ in range(3000))
    (tmp_path / "many.jsonl").write_text(lines)
    command = shlex.join(programs.mvsent("predict", str(run), str(tmp_path / "many.jsonl"), "--fold", "0"))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 141 and said(done.stderr) == "" and done.stdout.count(b"\n") == 1


class Counting:
    """A model that answers nothing, and says how far the input has been read when it is asked."""

    def __init__(self) -> None:
        self.read = 0
        self.texts: list[str] = []

    def decode(self, image: object) -> decoding.Picture:
        return decoding.NO_PICTURE

    def answer(self, pictures: list[Any], texts: list[str]) -> Answers:
        n = len(texts)
        self.texts += texts
        return Answers(("negative",), np.ones((n, 1), np.float32), [""] * n, [""] * n)

    def rows(self, n: int) -> Iterator[PairRow]:
        for number in range(n):
            self.read += 1
            yield PairRow({"n": number}, text="x")


def test_only_a_few_batches_are_read_ahead() -> None:
    counting, done = Counting(), 0
    for rows, _ in judge(counting, PairTable("t", "csv", counting.rows(1000)), 10, eager=False):
        assert [row.values["n"] for row in rows] == list(range(done, done + 10))
        done += len(rows)
        assert counting.read <= done + 3 * 10
    assert done == 1000


def test_who_wants_no_more_ends_the_reading() -> None:
    counting = Counting()
    answers = judge(counting, PairTable("t", "csv", counting.rows(10**9)), 10, eager=False)
    next(answers)
    answers.close()
    assert counting.read < 100


def test_a_run_without_what_it_needs_says_so(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        mvsent.load(tmp_path)
    unfinished = write_run(tmp_path / "unfinished", finished=[])
    with pytest.raises(RunError, match="no fold is finished"):
        mvsent.load(unfinished)
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", str(run), str(copied)], check=True)
    config = copied / "config.toml"
    sha256 = RunFolder.open(run).resolved.backbone_sha256
    config.write_text(config.read_text().replace(sha256, "0" * 64))
    with pytest.raises(RunError, match="backbone has changed since training"):
        mvsent.load(copied)
    config.write_text(config.read_text().replace("0" * 64, sha256))
    (copied / "fold-0" / "vocabulary.txt").unlink()
    with pytest.raises(RunError, match=r"vocabulary\.txt: missing"):
        mvsent.load(copied)


def test_scores_that_are_known_by_id_are_not_known_of_new_pairs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", model="sentibank", anps="scores.parquet")
    with pytest.raises(RunError, match="has none for new pictures"):
        mvsent.load(run)


def test_a_folder_with_a_manifest_is_a_dataset(small_dataset: Path) -> None:
    table = open_table(small_dataset)
    assert table.kind == "parquet" and next(table.rows).values["id"] == "drawn:0"


PAGE = (Path(__file__).parents[1] / "docs" / "predict.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(run: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page's commands are typed in."""
    for name, target in (("runs/dmlanet-mvsa-single-paper-5x-s0", run), ("data/mvsa-single", small_dataset)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    (tmp_path / "pictures").mkdir()
    for name in ("cat.jpg", "pictures/a.jpg"):
        (tmp_path / name).write_bytes(draw_picture(2, 7))
    (tmp_path / "pairs.csv").write_text("image,text\ncat.jpg,so good\n,bad\n")
    (tmp_path / "pairs.jsonl").write_text('{"text": "so good"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for block in blocks("bash") for line in block.splitlines()])
def test_every_command_of_the_page_runs_as_typed(
    desk: Path, command: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if "--to onnx" in command:
        pytest.importorskip("onnxscript")
    program = tmp_path_factory.mktemp("bin") / "mvsent"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(programs.mvsent())} "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    before = set(desk.iterdir())
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert ("--out" in command) == bool(set(desk.iterdir()) - before)


def test_the_pages_python_runs_as_typed(desk: Path) -> None:
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["answers"].missing == ["", "image"] and names["answers"].errors == ["", ""]


def test_the_page_lists_the_columns_and_the_models_that_stay() -> None:
    assert all(f"`{name}`" in PAGE for name in ANSWER_COLUMNS)


@pytest.mark.parametrize(
    "edited",
    [
        {"n_folds": 2_000_000_000},
        {"word_size": 1_000_000_000},
        *({"classes": classes} for classes in ([2, 1, 0], [0, 0, 1], [0, 1, 7], [])),
    ],
)
def test_an_edited_configuration_is_one_line(edited: dict[str, Any], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=[0])
    config = tomllib.loads((folder / "config.toml").read_text())
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    RunFolder.open(folder)
    config["resolved"] |= edited
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    with pytest.raises(RunError, match="not the configuration of a run"):
        RunFolder.open(folder)
