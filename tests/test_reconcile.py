"""`reconcile-mvsa`: from an MVSA folder to a finished dataset, every row accounted for."""

import io
import json
import logging
import struct
import threading
import zipfile
import zlib

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from mvsent.build import reconcile as pipeline
from mvsent.build.reconcile import reconcile
from mvsent.cli import app, exit_code
from mvsent.config import ReconcileSettings
from mvsent.curate.text import clean_text
from mvsent.datasets.stats import dataset_stats
from mvsent.errors import InputError, OutputExistsError, UsageError
from mvsent.pairs import PAIR_SCHEMA, Label
from mvsent.shards.reader import Dataset
from mvsent.workers.engine import READ_AHEAD, map_in_threads

GOOD = "positive,positive"


def encoded(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def picture(seed=0, mode="RGB"):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((60, 50), Image.Resampling.BICUBIC).convert(mode)


def giant_png(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


JPEG = encoded(picture(), "JPEG")


class Folder:
    """An MVSA folder in the making: every row gets a tweet and a JPEG unless told otherwise."""

    def __init__(self, root, n_annotators=1):
        self.root = root
        (root / "data").mkdir(parents=True)
        self.lines = ["\t".join(["ID"] + ["text,image"] * n_annotators)]

    def row(self, *votes, text=b"a fine day", image=JPEG):
        id = str(len(self.lines))
        self.lines.append("\t".join([id, *votes]))
        if text is not None:
            (self.root / "data" / f"{id}.txt").write_bytes(text)
        if image is not None:
            (self.root / "data" / f"{id}.jpg").write_bytes(image)
        (self.root / "labelResultAll.txt").write_bytes("\r\n".join(self.lines).encode() + b"\r\n")
        return self


@pytest.fixture
def mvsa(tmp_path):
    return Folder(tmp_path / "MVSA_Single")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "mvsa-single"


def run(folder, out, *, overwrite=False, workers=2, **flags):
    return reconcile(
        folder.root, out, ReconcileSettings(**flags), overwrite=overwrite, workers=workers, quiet=True
    )


def rows(out):
    return pyarrow.dataset.dataset(out / "data", schema=PAIR_SCHEMA).to_table().to_pylist()


def rejected(out):
    return [
        (row["id"], row["reason"], row["detail"])
        for row in pq.read_table(out / "rejected.parquet").to_pylist()
    ]


def test_a_kept_row_has_every_column_that_mvsa_can_fill(mvsa, out):
    raw = "RT @ana: so  happy &amp; proud…".encode("gb18030") + b"\r\n"
    mvsa.row("neutral,positive", text=raw)
    result = run(mvsa, out)
    (row,) = rows(out)
    assert row["id"] == "mvsa-single:1"
    assert row["image"] == {"bytes": JPEG, "path": "1.jpg"}
    assert row["text"] == "RT @ana: so happy & proud…"
    assert row["description"] == raw.decode("gb18030")
    assert (row["label"], row["text_label"], row["image_label"]) == (2, 1, 2)
    assert row["votes"] == [{"text": 1, "image": 2}]
    assert row["source"] == "mvsa-single"
    assert (row["width"], row["height"]) == (60, 50)
    assert len(row["sha256"]) == 64
    assert row["phash"] is not None
    assert result.folder == out
    assert Dataset.open(out).ids == ["mvsa-single:1"]


def test_three_annotators_make_mvsa_multiple_with_their_agreement(tmp_path, out):
    folder = Folder(tmp_path / "MVSA", n_annotators=3)
    folder.row("positive,neutral", "positive,positive", "neutral,neutral")
    folder.row("negative,negative", "negative,negative", "negative,neutral")
    result = run(folder, out)
    assert result.manifest.name == "mvsa-multiple"
    assert result.manifest.labels == {"negative": 1, "neutral": 0, "positive": 1}
    assert [len(row["votes"]) for row in rows(out)] == [3, 3]
    assert result.manifest.agreement.text == result.agreement["text"] == pytest.approx(0.545, abs=0.001)


def test_one_annotator_agrees_with_nobody(mvsa, out):
    result = run(mvsa.row(GOOD), out)
    assert result.agreement == {"text": None, "image": None}
    assert result.manifest.agreement is None


def test_positive_image_with_negative_text_is_dropped(mvsa, out):
    result = run(mvsa.row(GOOD).row("negative,positive"), out)
    assert result.manifest.funnel.dropped == {"label-conflict": 1}
    assert rejected(out) == [("mvsa-single:2", "label-conflict", "text negative, image positive")]


def test_a_tie_is_dropped_and_its_votes_are_told(tmp_path, out):
    folder = Folder(tmp_path / "MVSA", n_annotators=3).row(GOOD, GOOD, GOOD)
    folder.row("negative,positive", "neutral,positive", "positive,neutral")
    run(folder, out)
    assert rejected(out) == [
        ("mvsa-multiple:2", "no-majority", "text negative neutral positive, image positive positive neutral")
    ]


def test_a_tie_is_neutral_when_asked(tmp_path, out):
    folder = Folder(tmp_path / "MVSA", n_annotators=3)
    folder.row("negative,positive", "neutral,positive", "positive,neutral")
    run(folder, out, ties="neutral")
    assert [(row["text_label"], row["label"]) for row in rows(out)] == [(1, 2)]


def test_dawid_skene_decides_when_asked(tmp_path, out):
    folder = Folder(tmp_path / "MVSA", n_annotators=3)
    for vote in ("positive,positive", "negative,negative", "neutral,neutral"):
        folder.row(vote, vote, vote).row(vote, vote, "neutral,neutral")
    result = run(folder, out, aggregate="dawid-skene")
    assert result.manifest.labels == {"negative": 2, "neutral": 2, "positive": 2}


@pytest.mark.parametrize("words", [("--ties", "neutral"), ("--ties", "drop")])
def test_ties_are_refused_beside_dawid_skene_which_knows_none(mvsa, out, words):
    mvsa.row(GOOD)
    result = command(mvsa.root, "--out", out, "--aggregate", "dawid-skene", *words)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith("--ties: has no effect with --aggregate dawid-skene")
    assert not out.exists()


def test_a_file_of_settings_may_state_the_default_of_ties_beside_dawid_skene(
    mvsa, out, tmp_path, monkeypatch
):
    mvsa.row(GOOD)
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "mvsent.toml"
    settings.write_text('[reconcile-mvsa]\nties = "drop"\n')
    command(mvsa.root, "--out", out, "--aggregate", "dawid-skene", "--quiet")
    assert json.loads((out / "dataset.json").read_text())["settings"]["aggregate"] == "dawid-skene"
    settings.write_text('[reconcile-mvsa]\nties = "neutral"\n')
    result = command(mvsa.root, "--out", out, "--aggregate", "dawid-skene")
    assert str(result.exception).startswith("mvsent.toml [reconcile-mvsa]: ties: has no effect")


# Which pairs are kept, by --pairs


def all_nine(folder):
    """Every pair of labels once: rows 1 (negative, negative), 2 (negative, neutral) … 9 (positive, positive)."""
    for text in Label:
        for image in Label:
            folder.row(f"{text},{image}")
    return folder


@pytest.mark.parametrize(
    ("pairs", "kept", "dropped"),
    [
        ("paper", {1: 0, 2: 0, 4: 0, 5: 1, 6: 2, 8: 2, 9: 2}, {"label-conflict": 2}),
        ("consistent", {1: 0, 5: 1, 9: 2}, {"label-conflict": 2, "labels-differ": 4}),
        ("text", {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 9: 2}, {}),
        ("image", {1: 0, 2: 1, 3: 2, 4: 0, 5: 1, 6: 2, 7: 0, 8: 1, 9: 2}, {}),
    ],
)
def test_pairs_says_which_rows_are_kept_with_which_label(mvsa, tmp_path, pairs, kept, dropped):
    result = run(all_nine(mvsa), tmp_path / "out", pairs=pairs)
    assert {row["id"]: row["label"] for row in rows(result.folder)} == {
        f"mvsa-single:{number}": label for number, label in kept.items()
    }
    assert result.manifest.funnel.dropped == dropped and result.manifest.funnel.adds_up
    assert result.manifest.settings["pairs"] == pairs


def test_the_label_of_one_modality_is_that_of_its_majority(tmp_path, out):
    folder = Folder(tmp_path / "MVSA", n_annotators=3)
    folder.row("negative,positive", "negative,positive", "positive,neutral")
    folder.row("negative,positive", "neutral,positive", "positive,neutral")
    folder.row("negative,positive", "negative,neutral", "positive,negative")
    result = run(folder, out, pairs="text")
    assert [(row["id"], row["label"]) for row in rows(out)] == [
        ("mvsa-multiple:1", 0),
        ("mvsa-multiple:3", 0),
    ]
    assert [reason for _, reason, _ in rejected(out)] == ["no-majority"]
    assert result.manifest.name == "mvsa-multiple-text"


def test_a_dataset_of_other_pairs_has_another_name_and_folder_and_the_same_ids(mvsa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    all_nine(mvsa)
    assert command().exit_code == 0
    printed = command("--pairs", "consistent")
    assert "mvsa-single-consistent → data/mvsa-single-consistent" in printed.stdout
    assert "Table I" not in printed.stdout, "the paper states no counts of these pairs"
    consistent, by_paper = (tmp_path / "data" / name for name in ("mvsa-single-consistent", "mvsa-single"))
    assert set(Dataset.open(consistent).ids) < set(Dataset.open(by_paper).ids)
    assert "| pairs | consistent |" in (consistent / "README.md").read_text()
    said = CliRunner().invoke(app, ["stats"]).stdout.splitlines()
    assert ["pairs", "paper", "consistent"] in [line.split() for line in said]
    assert ["the", "paper's", "1358", "470", "2683", "4511", "strong"] in [line.split() for line in said]
    assert dataset_stats(consistent).document()["pairs"] == "consistent"
    assert dataset_stats(consistent).paper is None


def test_other_pairs_never_get_the_name_of_the_papers(mvsa, out):
    with pytest.raises(UsageError, match=r"--name mvsa-multiple: .* not --pairs text.*mvsa-multiple-text"):
        reconcile(all_nine(mvsa).root, out, ReconcileSettings(pairs="text"), name="mvsa-multiple", quiet=True)
    assert left_behind(out) == []
    named = reconcile(mvsa.root, out, ReconcileSettings(pairs="text"), name="mine", quiet=True)
    assert named.manifest.name == "mine"


def test_an_unknown_rule_for_pairs_is_refused_with_the_nearest(mvsa, out):
    error = command(mvsa.row(GOOD).root, "--pairs", "consistant").exception
    assert isinstance(error, UsageError) and "Did you mean 'consistent'?" in str(error)


BROKEN = {
    "zero bytes": (b"", "image-corrupt"),
    "truncated": (JPEG[: len(JPEG) // 2], "image-corrupt"),
    "HTML in disguise": (b"<!DOCTYPE html><html><body>404</body></html>", "image-not-an-image"),
    "30000x30000 declared": (giant_png(30_000), "image-too-large"),
    "more bytes than allowed": (JPEG + bytes(100_000), "image-too-large"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_picture_is_dropped(mvsa, out, case):
    image, reason = BROKEN[case]
    result = run(mvsa.row(GOOD, image=image).row(GOOD), out, max_bytes=100_000)
    assert result.manifest.funnel.dropped == {reason: 1}
    ((id, _, detail),) = rejected(out)
    assert id == "mvsa-single:1"
    assert detail.startswith("data/1.jpg: ")


UNUSUAL = {
    "CMYK": encoded(picture(mode="CMYK"), "JPEG"),
    "16 bit": encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), "PNG"),
    "palette": encoded(picture(mode="P"), "PNG"),
    "animated": encoded(picture(), "GIF", save_all=True, append_images=[picture(1)]),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_picture_is_kept_byte_for_byte(mvsa, out, case):
    run(mvsa.row(GOOD, image=UNUSUAL[case]), out)
    assert rows(out)[0]["image"]["bytes"] == UNUSUAL[case]


@pytest.mark.parametrize(
    ("files", "reason", "detail"),
    [
        ({"text": None}, "text-missing", "no data/1.txt"),
        ({"text": b" \r\n\xef\xbb\xbf"}, "text-missing", "data/1.txt: nothing in it"),
        ({"text": b"x" * 70_000}, "text-too-long", "data/1.txt: more than 65536 bytes"),
        ({"image": None}, "image-missing", "no data/1.jpg"),
        ({"text": None, "image": None}, "text-missing", "no data/1.txt"),
    ],
)
def test_an_id_without_text_or_image_is_dropped(mvsa, out, files, reason, detail):
    run(mvsa.row(GOOD, **files).row(GOOD), out)
    assert rejected(out) == [("mvsa-single:1", reason, detail)]


def test_a_conflict_comes_before_a_missing_file(mvsa, out):
    run(mvsa.row("negative,positive", text=None, image=None).row(GOOD), out)
    assert [reason for _, reason, _ in rejected(out)] == ["label-conflict"]


def test_rejected_rows_stand_in_the_order_of_the_label_file(mvsa, out):
    mvsa.row(GOOD, image=None).row("negative,positive").row(GOOD).row(GOOD, text=None).row(
        "positive,negative"
    )
    result = run(mvsa, out)
    assert [id.split(":")[1] for id, _, _ in rejected(out)] == ["1", "2", "4", "5"]
    assert result.manifest.funnel.input == 5
    assert result.manifest.funnel.adds_up


def test_labels_only_needs_no_files(mvsa, out):
    mvsa.row("neutral,positive", text=None, image=None).row("negative,positive")
    (mvsa.root / "data").rmdir() if not any((mvsa.root / "data").iterdir()) else None
    run(mvsa, out, labels_only=True)
    (row,) = rows(out)
    assert (row["id"], row["label"], row["text"], row["image"]) == ("mvsa-single:1", 2, None, None)


def zipped(folder, path, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.root.rglob("*")):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder.root).as_posix())
    return path


def varied(folder):
    for seed in range(12):
        folder.row(GOOD, text=f"tweet {seed} …".encode("gb18030"), image=encoded(picture(seed), "JPEG"))
    return folder.row("negative,positive").row(GOOD, image=b"")


def test_a_zip_gives_the_same_dataset_as_the_folder(mvsa, tmp_path):
    archive = zipped(varied(mvsa), tmp_path / "MVSA_Single.zip", top="MVSA_Single/")
    first = run(mvsa, tmp_path / "first").manifest
    second = reconcile(archive, tmp_path / "second", ReconcileSettings(), quiet=True).manifest
    assert first.sha256 == second.sha256
    assert first.funnel == second.funnel
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "MVSA_Single",
        "MVSA_Single.zip",
        "first",
        "second",
    ]


def test_a_damaged_zip_member_costs_its_row_only(mvsa, tmp_path, out):
    archive = zipped(varied(mvsa), tmp_path / "MVSA_Single.zip")
    data = archive.read_bytes()
    third = (mvsa.root / "data" / "3.jpg").read_bytes()
    archive.write_bytes(data.replace(third[-150:-50], bytes(100)))
    reconcile(archive, out, ReconcileSettings(), quiet=True)
    assert ("mvsa-single:3", "image-corrupt") in [(id, reason) for id, reason, _ in rejected(out)]
    assert len(rows(out)) == 11


def test_the_number_of_workers_and_batches_does_not_matter(mvsa, tmp_path, monkeypatch):
    varied(mvsa)
    first = run(mvsa, tmp_path / "first", workers=1).manifest
    monkeypatch.setattr("mvsent.build.parts.BATCH_BYTES", 1)
    second = run(mvsa, tmp_path / "second", workers=5).manifest
    assert first.sha256 == second.sha256


def test_work_is_never_far_ahead_of_its_results():
    started = []
    results = map_in_threads(lambda item: started.append(item) or item, 2, range(1000))
    for result in results:
        assert len(started) <= result + 2 + 2 * READ_AHEAD


def test_an_error_in_a_worker_ends_the_others():
    running = threading.active_count()

    def work(item):
        if item == 3:
            raise OSError("disk on fire")
        return item

    with pytest.raises(OSError, match="disk on fire"):
        list(map_in_threads(work, 3, range(10_000)))
    assert threading.active_count() == running


def left_behind(out):
    return sorted(out.parent.iterdir()) if out.parent.exists() else []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing_behind(mvsa, out, monkeypatch, interruption):
    def interrupted(*_, **__):
        raise interruption

    monkeypatch.setattr(pipeline, "check_image", interrupted)
    with pytest.raises(type(interruption) if isinstance(interruption, OSError) else interruption):
        run(varied(mvsa), out)
    assert left_behind(out) == []


def test_a_bad_label_file_leaves_nothing_behind(mvsa, out):
    with pytest.raises(InputError, match=r"labelResultAll\.txt:2: not two of negative, neutral, positive"):
        run(mvsa.row("positive,happy"), out)
    assert left_behind(out) == []


def test_a_folder_of_which_nothing_is_left_is_refused(mvsa, out):
    mvsa.row(GOOD, text=None).row(GOOD, text=None).row("negative,positive")
    with pytest.raises(InputError, match="none of its 3 rows can be kept: 2 text-missing, 1 label-conflict"):
        run(mvsa, out)
    assert left_behind(out) == []


def test_a_finished_dataset_is_replaced_only_when_asked(mvsa, out):
    run(mvsa.row(GOOD), out)
    mvsa.row(GOOD)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run(mvsa, out)
    assert len(rows(out)) == 1
    run(mvsa, out, overwrite=True)
    assert len(rows(out)) == 2


def test_a_folder_that_is_no_dataset_is_never_replaced(mvsa, out):
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        run(mvsa.row(GOOD), out, overwrite=True)
    assert (out / "thesis.tex").exists()


vote = st.tuples(st.sampled_from(list(Label)), st.sampled_from(list(Label))).map(
    lambda pair: f"{pair[0]},{pair[1]}"
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(votes=st.lists(st.lists(vote, min_size=3, max_size=3), min_size=1, max_size=12))
def test_every_row_is_kept_or_dropped_once(tmp_path_factory, votes):
    tmp_path = tmp_path_factory.mktemp("mvsa")
    folder = Folder(tmp_path / "MVSA", n_annotators=3).row(GOOD, GOOD, GOOD)
    for row in votes:
        folder.row(*row, text=None, image=None)
    result = run(folder, tmp_path / "out", labels_only=True)
    ids = [row["id"] for row in rows(result.folder)] + [id for id, _, _ in rejected(result.folder)]
    assert sorted(ids) == sorted(f"mvsa-multiple:{n + 1}" for n in range(len(votes) + 1))
    assert result.manifest.funnel.input == len(ids)


# The command


def command(*arguments):
    return CliRunner().invoke(app, ["reconcile-mvsa", *map(str, arguments)])


def test_the_command_finds_its_folder_and_prints_funnel_and_table_i(mvsa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mvsa.row("neutral,positive").row("negative,positive").row(GOOD, image=None)
    printed = command()
    assert printed.exit_code == 0
    lines = [line.split() for line in printed.stdout.splitlines()]
    assert ["mvsa-single", "→", "data/mvsa-single"] in lines
    assert ["input", "3"] in lines
    assert ["-", "label-conflict", "1"] in lines
    assert ["-", "image-missing", "1"] in lines
    assert ["positive", "1", "2683"] in lines
    assert ["total", "1", "4511"] in lines
    assert (tmp_path / "data" / "mvsa-single" / "dataset.json").is_file()


def test_json_is_one_document(mvsa, out):
    mvsa.row(GOOD)
    document = json.loads(command(mvsa.root, "--out", out, "--json").stdout)
    assert document["folder"] == str(out)
    assert document["funnel"] == {"input": 1, "kept": 1, "dropped": {}}


def test_settings_come_from_the_file_and_are_kept_in_the_manifest(mvsa, tmp_path, out, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mvsent.toml").write_text('[reconcile-mvsa]\nties = "neutral"\nshard_size = 7\n')
    mvsa.row(GOOD)
    command(mvsa.root, "--out", out, "--ties", "drop", "--quiet")
    kept = json.loads((out / "dataset.json").read_text())["settings"]
    assert (kept["ties"], kept["shard_size"]) == ("drop", 7)


def test_an_unknown_way_to_break_ties_is_refused(mvsa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mvsa.row(GOOD)
    result = command("--ties", "coin")
    assert isinstance(result.exception, UsageError)
    assert "--ties" in str(result.exception)


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (
            lambda root: (root / "labelResultAll.txt").write_text("ID\ttext,image\n1\tgood\n"),
            1,
            "labelResultAll.txt:2: ",
        ),
        (lambda root: (root / "labelResultAll.txt").unlink(), 1, "no labelResultAll.txt in it"),
        (lambda root: root.rename(root.with_name("elsewhere")), 2, "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(mvsa, out, capsys, spoil, code, says):
    spoil(mvsa.row(GOOD).root)
    arguments = ["reconcile-mvsa", str(mvsa.root), "--out", str(out)]
    assert exit_code(lambda: app(arguments, standalone_mode=False)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mvsent: ")
    assert says in line
    assert not out.exists()


def test_help_ends_with_an_example():
    assert "Example: mvsent reconcile-mvsa" in command("--help").stdout


def test_texts_are_clean_and_descriptions_raw(mvsa, out):
    mvsa.row(GOOD, text="Café &lt;3\u200b".encode())
    run(mvsa, out)
    (row,) = rows(out)
    assert row["text"] == clean_text(row["description"]) != row["description"]


def test_nothing_is_logged_when_all_is_well(mvsa, out, caplog):
    with caplog.at_level(logging.INFO, "mvsent"):
        run(mvsa.row(GOOD), out)
    assert caplog.records == []
