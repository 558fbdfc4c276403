"""`mvsent report`: what stands on the page, what strangers cannot do to it, and how it behaves in a browser."""

import base64
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from selectolax.lexbor import LexborHTMLParser
from typer.testing import CliRunner

from mvsent.cli import app, exit_code
from mvsent.errors import DatasetError, OutputExistsError, RunError, UsageError
from mvsent.pages.report import refuse_unless_ours, report
from mvsent.pages.report_run import confident_mistakes
from mvsent.pairs import LABEL_NAMES, REJECTED_SCHEMA, Label, pair_table
from mvsent.reasons import Reason
from mvsent.report.charts import count_bars, funnel_bars, histogram
from mvsent.report.gallery import MAX_TEXT, shown, stratified, web_link
from mvsent.report.survey import kappa, survey
from mvsent.report.thumbnails import SIDE, thumbnail
from mvsent.runs import evaluate as evaluation
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.manifest import Funnel
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter
from tests.browser import chromium, console, emulate, needs_chromium, requests, source_pages
from tests.drawing import draw_pairs, draw_picture
from tests.run_folder import write_run

HOSTILE = {
    "a script": "<script>document.title = 'owned'</script>",
    "an end of the script": "</script><script>document.title = 'owned'</script>",
    "an end of the style": "</style><img src=x onerror=\"document.title = 'owned'\">",
    "quotes": "\"' onmouseover=\"document.title = 'owned'\" x='",
    "a template": "{{ 7 * 7 }} {% include 'base.html' %}",
    "a comment": "--> <!-- ]]> <![CDATA[",
    "an override": "safe \u202egnp.exe\u202c \u2066isolated",
    "controls": "a\x00b\x07c\x1b[31m",
    "length": "<b>&\"'" * 2000,
}
LINKS = [
    "javascript:document.title='owned'",
    "data:text/html,<script>1</script>",
    "//evil.example/x",
    "ftp://a/b",
]


def rows_of(page: str) -> LexborHTMLParser:
    return LexborHTMLParser(page)


def cards(tree: LexborHTMLParser) -> list[Any]:
    return tree.css(".card")


def write(
    folder: Path, pairs: pa.Table, rejected: list[dict[str, str]] | None = None, **settings: Any
) -> Path:
    """A finished dataset with these dropped rows."""
    dropped = rejected or []
    with DatasetWriter(folder, folder.name, settings=settings, shard_size=25) as writer:
        writer.write(pairs)
        writer.reject(pa.Table.from_pylist(dropped, REJECTED_SCHEMA))
        writer.finish(pairs.num_rows + len(dropped))
    return folder


def with_columns(pairs: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        place = pairs.column_names.index(name)
        pairs = pairs.set_column(
            place, pairs.schema.field(place), pa.array(values, pairs.schema.field(place).type)
        )
    return pairs


def dropped_rows(
    n: int, reason: Reason = Reason.LABEL_CONFLICT, detail: str = "drawn"
) -> list[dict[str, str]]:
    return [{"id": f"{reason}:{i}", "reason": str(reason), "detail": detail} for i in range(n)]


def queried_pairs(n: int, pages: str) -> pa.Table:
    """Pairs of two queries with licences, scores and a page each under the address `pages`."""
    queries = ["sunny day" if i % 2 else "broken chair" for i in range(n)]
    return with_columns(
        draw_pairs(n),
        query=queries,
        query_sentiment=[1.5 if query == "sunny day" else -0.5 for query in queries],
        license=["CC BY 4.0"] * n,
        page_url=[f"{pages}/{i}" for i in range(n)],
    )


def page_of(path: Path, out: Path, **options: Any) -> str:
    report(path, out, quiet=True, **options)
    return out.read_text(encoding="utf-8")


# What is counted


def test_a_survey_counts_every_column(tmp_path: Path) -> None:
    found = survey(Dataset.open(write(tmp_path / "d", queried_pairs(60, "http://127.0.0.1"))))
    assert found.queries == {"sunny day": 30, "broken chair": 30}
    assert found.sentiments == {"sunny day": 1.5, "broken chair": -0.5}
    assert found.licenses == {"CC BY 4.0": 60}
    assert found.shapes == {"landscape": 60}
    assert found.widths[96] == 60
    assert np.diag(found.modalities).tolist() == [20, 20, 20]


def test_unanimous_rows_are_those_whose_votes_are_all_the_same(tmp_path: Path) -> None:
    votes = [[(2, 2), (2, 0)], [(1, 1), (1, 1)], [(0, 0)], None, [(0, 1), (1, 1), (0, 1)]]
    pairs = pair_table(
        {
            "id": [f"v:{i}" for i in range(5)],
            "label": [0] * 5,
            "votes": [row and [{"text": text, "image": image} for text, image in row] for row in votes],
        }
    )
    found = survey(Dataset.open(write(tmp_path / "d", pairs)))
    assert found.annotators.tolist() == [1, 1, 2, 1]
    assert (found.n_compared, found.n_unanimous) == (3, {"text": 2, "image": 2})


def test_dropped_conflicts_count_as_disagreement_of_the_modalities(tmp_path: Path) -> None:
    rejected = dropped_rows(3, detail="text positive, image negative") + dropped_rows(
        2, Reason.NO_MAJORITY, "text positive, image negative"
    )
    rejected = [{**row, "id": str(i)} for i, row in enumerate(rejected)]
    folder = write(tmp_path / "d", draw_pairs(9), rejected)
    found = survey(Dataset.open(folder))
    assert found.conflicts[Label.POSITIVE, Label.NEGATIVE] == found.conflicts.sum() == 3
    page = page_of(folder, tmp_path / "r.html")
    assert "same label in 75.0\u00a0% of the 9 kept pairs and 3 dropped conflicts" in page


def test_dropped_differences_count_as_disagreement_too(tmp_path: Path) -> None:
    rejected = dropped_rows(3, Reason.LABELS_DIFFER, "text positive, image neutral")
    rejected += dropped_rows(1, detail="text positive, image negative")
    rejected = [{**row, "id": str(i)} for i, row in enumerate(rejected)]
    folder = write(tmp_path / "d", draw_pairs(8), rejected)
    found = survey(Dataset.open(folder))
    assert found.conflicts[Label.POSITIVE, Label.NEUTRAL] == 3
    assert found.conflicts[Label.POSITIVE, Label.NEGATIVE] == 1 == found.conflicts.sum() - 3
    page = page_of(folder, tmp_path / "r.html")
    assert "same label in 66.7\u00a0% of the 8 kept pairs and 4 dropped conflicts" in page
    assert "not included" not in page


def test_conflicts_of_three_annotators_count_by_the_majority_of_their_votes(tmp_path: Path) -> None:
    details = [
        "text positive positive neutral, image negative negative negative",
        "text negative negative negative, image positive neutral positive",
        "text neutral positive negative, image negative negative negative",  # no majority: Dawid-Skene's
        "text neutral neutral positive, image negative negative negative",  # no conflict of majorities
        "two people could not agree",
    ]
    rejected = [{**dropped_rows(1, detail=detail)[0], "id": str(i)} for i, detail in enumerate(details)]
    folder = write(tmp_path / "d", draw_pairs(9), rejected)
    found = survey(Dataset.open(folder))
    assert found.conflicts[Label.POSITIVE, Label.NEGATIVE] == 1
    assert found.conflicts[Label.NEGATIVE, Label.POSITIVE] == 1
    assert found.conflicts.sum() == 2
    page = page_of(folder, tmp_path / "r.html")
    assert "2 dropped conflicts; Cohen’s kappa" in page
    assert "3 further dropped conflicts are not included" in page


def test_kappa_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    text, image = np.random.default_rng(0).integers(0, 3, (2, 200))
    table = np.zeros((3, 3), dtype=np.int64)
    np.add.at(table, (text, image), 1)
    assert kappa(table) == pytest.approx(cohen_kappa_score(text, image))


def test_a_kind_too_many_is_counted_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsent.report.survey.MAX_KINDS", 2)
    pairs = with_columns(draw_pairs(4, images=False), license=["a", "b", "c", "d"])
    found = survey(Dataset.open(write(tmp_path / "d", pairs)))
    assert found.licenses.total() == 4
    assert found.licenses["(others)"] == 2


# What is drawn


def test_each_reason_of_the_funnel_stands_where_its_rows_leave() -> None:
    bars = funnel_bars(Funnel(input=100, kept=50, dropped={"timeout": 20, "label-conflict": 30}))
    assert [(bar.label, bar.start, bar.width) for bar in bars] == [
        ("input", 0, 100),
        ("label-conflict", 70, 30),
        ("timeout", 50, 20),
        ("kept", 0, 50),
    ]


def test_a_label_bar_is_as_wide_as_its_share_of_all_pairs(tmp_path: Path) -> None:
    labels = [Label.POSITIVE] * 3 + [Label.NEGATIVE]
    pairs = pair_table({"id": [f"l:{i}" for i in range(4)], "label": labels})
    tree = rows_of(page_of(write(tmp_path / "d", pairs), tmp_path / "r.html"))
    bars = {kind: tree.css_first(f"rect.{kind}").attributes["width"] for kind in LABEL_NAMES}
    assert bars == {"negative": "25%", "neutral": "0%", "positive": "75%"}
    assert [node.text() for node in tree.css("[aria-labelledby=labels] text:not(.count)")] == list(
        LABEL_NAMES
    )


def test_a_count_of_one_in_a_million_is_still_seen() -> None:
    assert count_bars([("many", 999_999), ("one", 1)], 1_000_000)[1].width > 0


def test_a_histogram_counts_every_value_once() -> None:
    counts = np.bincount([1] * 500 + [7] * 300 + [400])
    drawn = histogram("Words", "words", counts, "")
    assert drawn is not None
    numbers = [int(words.rpartition(" ")[2].replace(",", "")) for *_, words in drawn.bins]
    assert sum(numbers) == 801
    assert numbers[0] == 500
    assert numbers[-1] == 301  # the 400 stands in the last bin, which is open


def test_a_histogram_of_nothing_is_not_drawn() -> None:
    assert histogram("Words", "words", np.zeros(1, dtype=np.int64), "") is None


# What is chosen


def test_a_sample_is_as_even_as_the_strata_allow_and_the_same_for_a_seed() -> None:
    strata = np.array([0] * 1000 + [1] * 5 + [2] * 50)
    chosen = stratified(strata, 60, seed=3)
    assert Counter(strata[chosen].tolist()) == {0: 28, 1: 5, 2: 27}
    assert chosen.tolist() == stratified(strata, 60, seed=3).tolist() == sorted(chosen)
    assert chosen.tolist() != stratified(strata, 60, seed=4).tolist()


def test_a_sample_of_more_than_there_is_is_everything() -> None:
    assert stratified(np.array([0, 0, 1]), 10, seed=0).tolist() == [0, 1, 2]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_thumbnail_is_small_in_pixels_and_bytes(format: str) -> None:
    uri = thumbnail(draw_picture(2, 1, (1200, 300), format), max_bytes=4000)
    encoded = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(encoded)).size == (SIDE, SIDE // 4)
    assert len(encoded) <= 4000


def test_a_thumbnail_that_cannot_be_so_small_is_left_out() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    whole, rough = (thumbnail(stream.getvalue(), limit) for limit in (1_000_000, 5000))
    assert 0 < len(rough) < len(whole)
    assert thumbnail(stream.getvalue(), 10) == ""


@pytest.mark.parametrize("data", [b"", b"<svg onload='x'/>", draw_picture(0, 0)[:300], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_has_no_thumbnail(data: bytes) -> None:
    assert thumbnail(data, 10_000) == ""


# What the page holds


def test_the_page_says_how_many_of_how_many_are_shown(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(60), dropped_rows(30))
    result = report(folder, tmp_path / "r.html", gallery=40, quiet=True)
    tree = rows_of(result.out.read_text())
    labels = Counter(card.attributes.get("data-label") for card in cards(tree))
    assert labels == {"positive": 10, "neutral": 10, "negative": 10, None: 10}
    assert result.counts == {"rows": 60, "shown": 30, "rejected": 30, "rejected_shown": 10}
    assert "30 of 60 pairs" in tree.body.text()
    assert "10 of 30 dropped rows" in tree.body.text()


def test_a_row_is_shown_as_it_stands_in_the_dataset(tmp_path: Path) -> None:
    pairs = queried_pairs(60, "https://example.org")
    texts = dict(zip(pairs["id"].to_pylist(), pairs["text"].to_pylist(), strict=True))
    labels = dict(zip(pairs["id"].to_pylist(), pairs["label"].to_pylist(), strict=True))
    tree = rows_of(page_of(write(tmp_path / "d", pairs), tmp_path / "r.html", gallery=20))
    assert len(cards(tree)) == 20
    for card in cards(tree):
        name = card.css_first(".id").text()
        assert card.css_first("p").text() == texts[name]
        assert card.attributes["data-label"] == LABEL_NAMES[labels[name]]
        assert card.css_first("a").attributes["href"] == f"https://example.org/{name.split(':')[1]}"
        assert card.css_first("a").attributes["rel"] == "noreferrer noopener"


def test_dropped_rows_stand_in_the_gallery_with_reason_and_detail(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "d", draw_pairs(6), dropped_rows(2, Reason.IMAGE_CORRUPT, "cut off in the middle")
    )
    tree = rows_of(page_of(folder, tmp_path / "r.html"))
    dropped = tree.css('.card[data-reason="image-corrupt"]')
    assert [card.css_first(".id").text() for card in dropped] == ["image-corrupt:0", "image-corrupt:1"]
    assert all("cut off in the middle" in card.text() for card in dropped)


def test_a_dataset_without_rows_says_so_and_shows_what_was_dropped(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(1).slice(0, 0), dropped_rows(3))
    tree = rows_of(page_of(folder, tmp_path / "r.html"))
    assert "has no rows" in tree.css_first(".notes").text()
    assert len(cards(tree)) == 3


def test_a_dataset_without_pictures_is_reported(tmp_path: Path) -> None:
    tree = rows_of(page_of(write(tmp_path / "d", draw_pairs(6, images=False)), tmp_path / "r.html"))
    assert len(cards(tree)) == 6
    assert not tree.css("img")
    assert "No picture in this dataset" in tree.body.text()


def test_a_picture_that_broke_does_not_break_the_page(tmp_path: Path) -> None:
    pairs = draw_pairs(3)
    pictures = [{"bytes": b"\xff\xd8 no more", "path": "a.jpg"}, *pairs["image"].to_pylist()[1:]]
    tree = rows_of(page_of(write(tmp_path / "d", with_columns(pairs, image=pictures)), tmp_path / "r.html"))
    assert len(tree.css("img")) == 2
    assert "The picture cannot be shown" in tree.body.text()


def test_the_same_dataset_and_seed_give_the_same_page(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(60))
    pages = [
        page_of(folder, tmp_path / f"{i}.html", gallery=9, seed=seed) for i, seed in enumerate((1, 1, 2))
    ]
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.slow
def test_pictures_share_a_limit_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsent.pages.report.MAX_PICTURE_BYTES", 30 * 3000)
    noise = np.random.default_rng(0).integers(0, 256, (260, 260, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", quality=95)
    n = 30
    pairs = pair_table(
        {
            "id": [f"n:{i}" for i in range(n)],
            "label": [i % 3 for i in range(n)],
            "image": [{"bytes": stream.getvalue(), "path": "n.jpg"}] * n,
        }
    )
    tree = rows_of(page_of(write(tmp_path / "d", pairs), tmp_path / "r.html"))
    sizes = [len(node.attributes["src"] or "") for node in tree.css("img")]
    assert len(sizes) == n
    assert max(sizes) <= 3000 * 4 / 3 + 100


def test_a_page_that_would_be_too_large_has_fewer_cards_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = with_columns(draw_pairs(200, images=False), text=[HOSTILE["length"]] * 200)
    folder = write(tmp_path / "d", pairs)
    monkeypatch.setattr("mvsent.pages.report.MAX_BYTES", 300_000)
    result = report(folder, tmp_path / "r.html", gallery=200, quiet=True)
    assert result.size < 300_000
    assert 20 < result.counts["shown"] < 200
    assert f"{result.counts['shown']} of 200 pairs" in result.out.read_text(encoding="utf-8")


# What strangers cannot do


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on rows in which every text column, link and dropped row is hostile."""
    root = tmp_path_factory.mktemp("hostile")
    texts = list(HOSTILE.values())
    n = len(texts)
    ids = [f"{i}{text[:80]}" for i, text in enumerate(texts)]
    pairs = with_columns(
        draw_pairs(n),
        id=ids,
        text=texts,
        title=texts,
        description=texts,
        query=texts,
        query_sentiment=[0.5] * n,
        source=texts,
        license=texts,
        owner=texts,
        page_url=[LINKS[i % len(LINKS)] for i in range(n)],
        url=[LINKS[i % len(LINKS)] for i in range(n)],
    )
    folder = write(root / "hostile", pairs, dropped_rows(n), **{"<b>key": "<script>1</script>"})
    rejected = [
        {"id": f"r{text}", "reason": text, "detail": text} for text in texts
    ]  # none that we would write
    pq.write_table(pa.Table.from_pylist(rejected, REJECTED_SCHEMA), folder / "rejected.parquet")
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["funnel"]["dropped"] = dict.fromkeys(texts, 1)
    (folder / "dataset.json").write_text(json.dumps(manifest))
    report(folder, root / "r.html", quiet=True)
    return root / "r.html"


def test_hostile_texts_stay_texts(hostile_page: Path) -> None:
    tree = rows_of(hostile_page.read_text(encoding="utf-8"))
    assert len(tree.css("script")) == len(tree.css("style")) == 1
    shown_texts = {card.css_first("p").text() for card in tree.css(".card[data-label]")}
    assert shown_texts >= {HOSTILE[name] for name in ("a script", "quotes", "a template", "a comment")}
    names = {name for node in tree.css("*") for name in node.attributes}
    assert not [name for name in names if name.startswith("on")]
    assert {node.attributes["src"].partition(":")[0] for node in tree.css("img")} == {"data"}


def test_addresses_that_are_no_web_pages_are_dropped(hostile_page: Path) -> None:
    tree = rows_of(hostile_page.read_text(encoding="utf-8"))
    assert {node.attributes["href"][0] for node in tree.css("a")} == {"#"}


def test_long_texts_are_cut_and_say_by_how_much(hostile_page: Path) -> None:
    tree = rows_of(hostile_page.read_text(encoding="utf-8"))
    longest = max((card.css_first("p").text() for card in tree.css(".card[data-label]")), key=len)
    assert longest.endswith(f"… ({len(HOSTILE['length']) - MAX_TEXT:,} more characters)")
    assert max(len(value or "") for node in tree.css("option") for value in node.attributes.values()) < 200


def test_what_turns_the_writing_round_or_steers_is_marked(hostile_page: Path) -> None:
    page = hostile_page.read_text(encoding="utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", page)
    assert "safe �gnp.exe�" in page


def test_lone_surrogates_do_not_stop_a_report() -> None:
    assert shown("a\ud800b") == "a�b"


@pytest.mark.parametrize(
    "address",
    [
        *LINKS,
        "http://",
        "https://u:p@host/",
        "https://a b/",
        "http://[::1",
        "http://x/\u202e",
        "https://x/" + "a" * 3000,
        None,
    ],
)
def test_no_link_leads_there(address: str | None) -> None:
    assert web_link(address) == ""


def test_the_policy_allows_our_style_and_script_alone(hostile_page: Path) -> None:
    tree = rows_of(hostile_page.read_text(encoding="utf-8"))
    policy = tree.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        text = tree.css_first(kind).text()
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


# What is read and written


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "d", draw_pairs(3)), tmp_path / "r.html"
    page_of(folder, out)
    page_of(folder, out)
    out.write_text("<html>mine</html>")
    with pytest.raises(OutputExistsError, match="not a report"):
        report(folder, out, quiet=True)
    assert out.read_text() == "<html>mine</html>"
    assert "mvsent report" in page_of(folder, out, overwrite=True)
    with pytest.raises(OutputExistsError, match="folder"):
        report(folder, tmp_path, quiet=True)


def test_the_dataset_is_left_as_it_was(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(3))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    page_of(folder, tmp_path / "r.html")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_is_neither_dataset_nor_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a dataset nor a run"):
        report(tmp_path, quiet=True)
    with pytest.raises(UsageError, match="no such folder"):
        report(tmp_path / "gone", quiet=True)


def test_dropped_rows_that_cannot_be_read_are_one_message(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(3), dropped_rows(1))
    (folder / "rejected.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match=r"rejected\.parquet: cannot be read"):
        report(folder, tmp_path / "r.html", quiet=True)


def test_the_command_prints_paths_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "d", draw_pairs(9), dropped_rows(2))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", str(folder), "--json", "--quiet", "--gallery", "4"])
    document = json.loads(result.stdout)
    assert document["out"] == str(Path("reports/d.html"))
    assert document["bytes"] == Path("reports/d.html").stat().st_size
    assert (document["rows"], document["shown"], document["rejected_shown"]) == (9, 3, 1)
    words = CliRunner().invoke(app, ["report", str(folder), "--quiet"]).stdout
    assert "9 of 9 pairs and 2 of 2 dropped rows" in words


@pytest.mark.parametrize("n", ["-1", "2001"])
def test_a_gallery_out_of_range_is_bad_usage(
    n: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write(tmp_path / "d", draw_pairs(3)))
    assert exit_code(lambda: app(["report", folder, "--gallery", n], standalone_mode=False)) == 2
    assert "--gallery" in capsys.readouterr().err


# A run


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)


def run_on(folder: Path, path: Path) -> Path:
    """A run of one fold on the dataset in `folder`, whose predictions are of its first rows."""
    dataset = Dataset.open(folder)
    run = write_run(path, n_folds=1, n_rows=30, dataset_sha256=dataset.sha256, dataset=str(folder))
    table_path = run / "fold-0" / "predictions.parquet"
    table = pq.read_table(table_path)
    ids = [f"validation:{i}" for i in range(30)] + dataset.ids[:30]
    labels = [*table["label"].to_pylist()[:30], *dataset.labels[:30].tolist()]
    table = table.set_column(0, "id", pa.array(ids)).set_column(1, "label", pa.array(labels, pa.int8()))
    pq.write_table(table, table_path)
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_a_run_is_evaluated_and_its_surest_errors_come_first(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(60))
    run = run_on(folder, tmp_path / "runs" / "a-run")
    tree = rows_of(page_of(run, tmp_path / "r.html"))
    mistakes = confident_mistakes(RunFolder.open(run))
    assert [card.css_first(".id").text() for card in cards(tree)] == [mistake.id for mistake in mistakes]
    assert all(card.attributes["data-label"] != card.attributes["data-predicted"] for card in cards(tree))
    sure = [max(mistake.y_prob) for mistake in mistakes]
    assert sure == sorted(sure, reverse=True)
    assert len(tree.css(".sheet img[alt]")) == len(evaluation.PICTURES)
    assert "accuracy" in tree.css_first("table").text()


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_a_run_whose_dataset_is_gone_has_a_page_without_pictures_of_rows(tmp_path: Path) -> None:
    tree = rows_of(page_of(write_run(tmp_path / "runs" / "a-run"), tmp_path / "r.html"))
    assert not cards(tree)
    assert "is missing or has changed" in tree.body.text()
    assert [link.text() for link in tree.css("nav a")] == [title.text() for title in tree.css("h2")]


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    "edited",
    [
        lambda document: {**document, "folds": document["folds"][:1]},
        lambda document: {"folds": [{"fold": 0}, {"fold": 1}]},
        lambda document: {**document, "metrics": None},
        lambda document: {**document, "metrics": {}},
        lambda document: {**document, "options": 7},
        lambda document: [document],
    ],
)
def test_an_evaluation_of_fewer_folds_or_edited_is_made_again(edited: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a-run", n_folds=2)
    page_of(run, tmp_path / "r.html")
    document = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(edited(document)))
    page_of(run, tmp_path / "r.html")
    assert json.loads((run / "metrics.json").read_text()) == document


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_an_evaluation_older_than_a_metric_is_shown_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a-run", n_folds=2)
    page_of(run, tmp_path / "r.html")
    document = json.loads((run / "metrics.json").read_text())
    del document["metrics"]["log_loss"], document["majority"]["log_loss"]
    for fold in document["folds"]:
        del fold["metrics"]["log_loss"]
    (run / "metrics.json").write_text(json.dumps(document))
    page = page_of(run, tmp_path / "r.html")
    assert "Brier score" in page and "log loss" not in page
    assert json.loads((run / "metrics.json").read_text()) == document


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_the_newest_run_is_reported_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    none = CliRunner().invoke(app, ["report"])
    assert isinstance(none.exception, RunError) and "holds no run" in str(none.exception)
    write_run(tmp_path / "runs" / "a-run", n_folds=1)
    document = json.loads(CliRunner().invoke(app, ["report", "--json", "-q"]).stdout)
    assert (document["kind"], document["out"]) == ("run", "reports/a-run.html")


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def queried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[tuple[str, str | None]]]]:
    """A report whose rows link to a server on this machine, and the visits to that server."""
    root = tmp_path_factory.mktemp("queried")
    with source_pages() as (address, visits):
        rejected = dropped_rows(4) + dropped_rows(2, Reason.TIMEOUT)
        folder = write(root / "queried", queried_pairs(30, address), rejected)
        report(folder, root / "r.html", quiet=True)
        yield root / "r.html", visits


def visible(browser: Any) -> list[Any]:
    return [card for card in browser.find_elements("css selector", ".card") if card.is_displayed()]


def choose(browser: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", f"select[name={name}]")).select_by_value(value)


def open_page(browser: Any, page: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
    console(browser)
    requests(browser)
    emulate(browser, width, height, scheme)
    browser.get(page.as_uri())


@pytest.mark.slow
@needs_chromium
def test_the_gallery_is_filtered_by_label_query_and_reason(browser: Any, queried: Any) -> None:
    open_page(browser, queried[0])
    count = browser.find_element("css selector", "output")
    assert (len(visible(browser)), count.text) == (36, "All 36 cards")
    choose(browser, "label", "negative")
    assert {card.get_attribute("data-label") for card in visible(browser)} == {"negative"}
    assert count.text == "10 of 36 cards"
    choose(browser, "query", "sunny day")
    assert count.text == "5 of 36 cards"
    browser.find_element("css selector", "button[type=reset]").click()
    assert len(visible(browser)) == 36
    choose(browser, "reason", "timeout")
    assert [card.get_attribute("data-reason") for card in visible(browser)] == ["timeout"] * 2
    assert count.get_attribute("aria-live") == "polite"


@pytest.mark.slow
@needs_chromium
@pytest.mark.usefixtures("few_resamples")
def test_a_run_whose_dataset_is_gone_has_a_page_without_an_error_in_the_console(
    browser: Any, tmp_path: Path
) -> None:
    page_of(write_run(tmp_path / "runs" / "a-run"), tmp_path / "r.html")
    open_page(browser, tmp_path / "r.html")
    assert console(browser) == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.usefixtures("few_resamples")
def test_a_metric_keeps_its_name_where_its_numbers_are_scrolled_to(browser: Any, tmp_path: Path) -> None:
    page_of(write_run(tmp_path / "runs" / "a-run"), tmp_path / "r.html")
    open_page(browser, tmp_path / "r.html", width=375)
    table = browser.find_element("css selector", ".wide")
    browser.execute_script("arguments[0].scrollLeft = 1000", table)
    assert browser.execute_script("return arguments[0].scrollLeft", table) > 0
    name, last = (table.find_element("css selector", f"tbody tr > :{end}-child") for end in ("first", "last"))
    assert name.rect["x"] >= 0
    assert last.rect["x"] + last.rect["width"] <= 375


@pytest.mark.slow
@needs_chromium
def test_words_are_searched_for_in_the_cards(browser: Any, queried: Any) -> None:
    open_page(browser, queried[0])
    browser.find_element("css selector", "input[type=search]").send_keys("NUMBER 17 ")
    assert len(visible(browser)) == 1


@pytest.mark.slow
@needs_chromium
def test_a_link_leads_to_the_source_page_and_does_not_say_from_where(browser: Any, queried: Any) -> None:
    page, visits = queried
    open_page(browser, page)
    link = browser.find_element("css selector", ".card a")
    path = "/" + link.get_attribute("href").rpartition("/")[2]
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", link)
    link.click()
    assert browser.title == "a source page"
    assert (path, None) in visits


@needs_chromium
@pytest.mark.parametrize("name", ["queried", "hostile"])
def test_a_page_asks_for_nothing_and_the_console_stays_empty(
    browser: Any, queried: Any, hostile_page: Path, name: str
) -> None:
    page = queried[0] if name == "queried" else hostile_page
    open_page(browser, page)
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    assert browser.title == f"{name}: report"  # no planted script ran
    asked = [address for address in requests(browser) if not address.startswith("data:")]
    assert asked == [page.as_uri()]
    assert console(browser) == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.usefixtures("few_resamples")
def test_the_page_of_a_run_shows_its_pictures_under_the_policy(browser: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "d", draw_pairs(60))
    page_of(run_on(folder, tmp_path / "runs" / "a-run"), tmp_path / "r.html")
    open_page(browser, tmp_path / "r.html", width=375)
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.sheet img')].map((i) => i.naturalWidth)"
    )
    assert len(widths) == len(evaluation.PICTURES)
    assert min(widths) > 0
    assert console(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == 375


@pytest.mark.slow
@needs_chromium
def test_the_keyboard_reaches_contents_filters_and_links(browser: Any, queried: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, queried[0])
    reached = []
    for _ in range(24):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        element = browser.switch_to.active_element
        outline = element.value_of_css_property("outline-style")
        reached.append((element.tag_name, element.get_attribute("name") or element.text, outline))
    assert reached[0][:2] == ("a", "Skip to the content")
    names = [name for _, name, _ in reached]
    assert {"Funnel", "Gallery", "label", "query", "reason", "Show all"} <= set(names)
    assert {outline for *_, outline in reached} == {"solid"}


@needs_chromium
def test_every_control_and_picture_has_a_name_and_the_page_its_landmarks(browser: Any, queried: Any) -> None:
    open_page(browser, queried[0])
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]
    ]
    roles = {role for role, _ in named}
    assert {"banner", "navigation", "main", "contentinfo", "search", "status"} <= roles
    for role in ("combobox", "searchbox", "button", "image", "link", "region", "heading"):
        assert [name for found, name in named if found == role], role
        assert all(name for found, name in named if found == role), role


@needs_chromium
@pytest.mark.parametrize("name", ["queried", "hostile"])
def test_nothing_is_wider_than_a_phone(browser: Any, queried: Any, hostile_page: Path, name: str) -> None:
    open_page(browser, queried[0] if name == "queried" else hostile_page, width=375)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 375


@pytest.mark.slow
@needs_chromium
def test_dark_mode_is_dark_and_light_mode_is_light(browser: Any, queried: Any) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        open_page(browser, queried[0], scheme=scheme)
        with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
            brightness[scheme] = float(np.asarray(picture.convert("L")).mean())
    assert brightness["light"] > 200
    assert brightness["dark"] < 60


@needs_chromium
def test_printed_from_the_dark_it_is_black_on_white_and_without_filters(browser: Any, queried: Any) -> None:
    open_page(browser, queried[0], scheme="dark")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    try:
        body = browser.find_element("css selector", "body")
        assert body.value_of_css_property("background-color") == "rgba(255, 255, 255, 1)"
        assert not browser.find_element("css selector", ".filters").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@needs_chromium
def test_without_scripts_the_page_shows_everything_and_no_filters(browser: Any, queried: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_page(browser, queried[0], height=9000)  # what is far below is not laid out yet
        shown = browser.execute_cdp_cmd("DOMSnapshot.captureSnapshot", {"computedStyles": ["display"]})
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    words = shown["strings"]
    assert "Show all" in words  # it is in the file
    laid_out = {words[i] for i in shown["documents"][0]["layout"]["text"] if i >= 0}
    assert "Show all" not in laid_out
    assert "drawn:17" in laid_out


def test_the_names_of_the_sections_are_those_of_their_headings(tmp_path: Path) -> None:
    tree = rows_of(page_of(write(tmp_path / "d", queried_pairs(9, "http://127.0.0.1")), tmp_path / "r.html"))
    assert [link.text() for link in tree.css("nav a")] == [title.text() for title in tree.css("h2")]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputExistsError, match="not an ordinary file"):
        refuse_unless_ours(tmp_path / "pipe", b"mark", "report", "page.html")
