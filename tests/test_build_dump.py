"""`build-flickr --from`: a dataset of the rows of a metadata dump that contain a pair."""

import bz2
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mvsent.build import search
from mvsent.build.match_dump import count_matches
from mvsent.cli import app
from mvsent.errors import InputError, Interrupted, MvsentError, UsageError
from mvsent.shards.reader import Dataset
from mvsent.sources import dump_reader, flickr, flickr_dump
from mvsent.sources.dump_files import find_files, plan_parts
from mvsent.sources.dump_reader import read_part
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.flickr_rows import ANY_NAME, YFCC100M
from mvsent.standin.drawn_dump import DumpDrawing, draw_dump, draw_lines
from mvsent.standin.replay import Replay
from mvsent.workers.engine import LOCAL
from tests.building import (
    SENTIMENTS,
    files_of,
    flickr_settings,
    small_world,
    start,
    still_time,
)

N_ROWS = 400


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay(small_world()) as running:
        yield running


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    still_time(monkeypatch)


@pytest.fixture
def drawing(replay: Replay) -> DumpDrawing:
    return DumpDrawing(SENTIMENTS, pair_share=0.05, pictures=replay.flickr_endpoint.partition("/services")[0])


@pytest.fixture
def dump(drawing: DumpDrawing, tmp_path: Path) -> Path:
    return draw_dump(tmp_path / "yfcc100m_dataset-0.bz2", drawing, N_ROWS)


def build(replay: Replay, out: Path, *files: Path, **given: Any) -> search.BuildResult:
    engine, overwrite = given.pop("engine", LOCAL), given.pop("overwrite", False)
    settings = flickr_settings(replay, files[0].parent, dumps=[str(file) for file in files], **given)
    return search.build(
        flickr.SOURCE, out, settings, {}, workers=1, engine=engine, overwrite=overwrite, quiet=True
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    columns = ["id", "text", "label", "query", "title", "tags", "license", "owner", "posted_at", "page_url"]
    table = pa.concat_tables(
        [pq.read_table(shard, columns=columns) for shard in sorted(folder.glob("data/*"))]
    )
    return table.to_pylist()


def test_the_rows_with_a_pair_become_pairs_without_a_key(replay: Replay, dump: Path, tmp_path: Path) -> None:
    result = build(replay, tmp_path / "out", dump)
    rows, notes = rows_of(tmp_path / "out"), result.manifest.notes
    assert isinstance(notes, dict)
    assert len(rows) > 10
    assert result.manifest.funnel.adds_up
    for row in rows:
        adjective, noun = row["query"].split()
        everything = f"{row['title']} {' '.join(row['tags'])}".lower()
        assert adjective in everything and noun in everything
        assert row["label"] == (2 if SENTIMENTS[row["query"]] > 0 else 0)
        assert row["license"].startswith("CC BY")
        assert row["owner"].startswith("person ")
        assert row["page_url"].startswith("http://www.flickr.com/photos/")
    assert notes["dump"]["files"][0]["name"] == dump.name
    assert notes["dump"]["files"][0]["size"] == dump.stat().st_size
    assert "locally" in notes["dump"]["matched"]
    assert sum(notes["dump"]["rows_with_query"].values()) >= notes["dump"]["rows"]["matched"] >= len(rows)
    assert notes["dump"]["rows"]["rows"] == N_ROWS


def test_duckdb_finds_the_same_rows_by_a_pair_in_the_title(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path
) -> None:
    dump = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    build(replay, tmp_path / "out", dump, match=["title"], per_query=0)
    names = ", ".join(f"'{name}': 'VARCHAR'" for name in YFCC100M[0])
    pairs = " or ".join(
        f"regexp_matches(lower(title), '(^|[^a-z]){pair}(s|es)?($|[^a-z])')" for pair in SENTIMENTS
    )
    found = duckdb.sql(
        f"select 'flickr:' || photoid from (select photoid, marker, replace(title, '+', ' ') title from "
        f"read_csv('{dump}', delim='\t', quote='', header=false, columns={{{names}}})) where {pairs}"
    ).fetchall()
    kept = {row["id"] for row in rows_of(tmp_path / "out")}
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet")["id"].to_pylist()
    assert {id for (id,) in found} == kept | set(rejected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "bz2", "gz", "25 columns", "parquet", "csv", "several", "ranges"])
def test_every_kind_of_dump_gives_the_same_pairs(
    kind: str,
    replay: Replay,
    drawing: DumpDrawing,
    dump: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build(replay, tmp_path / "bz2", dump)
    plain = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    files = [plain]
    if kind in ("bz2", "gz"):
        files = [draw_dump(tmp_path / f"other.{kind}", drawing, N_ROWS)]
    elif kind == "25 columns":
        files = [draw_dump(tmp_path / "wide.tsv", DumpDrawing(**{**vars(drawing), "columns": 25}), N_ROWS)]
    elif kind in ("parquet", "csv"):
        table = arrow_csv.read_csv(
            plain,
            arrow_csv.ReadOptions(column_names=list(YFCC100M[0])),
            arrow_csv.ParseOptions(delimiter="\t", quote_char=False),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(YFCC100M[0], pa.string())),
        )
        files = [tmp_path / f"dump.{kind}"]
        if kind == "parquet":
            pq.write_table(table, files[0], row_group_size=64)
        else:
            arrow_csv.write_csv(table, files[0])
    elif kind == "several":
        lines = list(draw_lines(drawing, N_ROWS))
        files = [tmp_path / "part-0.tsv", tmp_path / "part-1.tsv"]
        files[0].write_text("".join(lines[:150]))
        files[1].write_text("".join(lines[150:]))
    elif kind == "ranges":
        monkeypatch.setattr(flickr_dump, "plan_parts", partial(plan_parts, part_bytes=10_000))
    build(replay, tmp_path / "out", *files)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "bz2")


@pytest.mark.slow
def test_ranges_of_any_size_read_each_line_once(drawing: DumpDrawing, tmp_path: Path) -> None:
    file = find_files([str(draw_dump(tmp_path / "dump.tsv", drawing, 60))])
    expected = [line.split("\t")[0].encode() for line in draw_lines(drawing, 60)]
    for part_bytes in (1, 7, 100, 333, 1000, 10**6):
        parts = plan_parts(file, YFCC100M, ANY_NAME, lambda *_: None, part_bytes)
        read = [
            id
            for part in parts
            for rows in read_part(part, ["photoid"])
            for id in rows.table["photoid"].to_pylist()
        ]
        assert read == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_find_the_same_in_the_same_order(
    workers: int, replay: Replay, drawing: DumpDrawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    build(replay, tmp_path / "whole", dump)
    monkeypatch.setattr(flickr_dump, "plan_parts", partial(plan_parts, part_bytes=20_000))
    settings = flickr_settings(replay, tmp_path, dumps=[str(dump)])
    search.build(flickr.SOURCE, tmp_path / "parts", settings, {}, workers=workers, quiet=True)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_licences_and_dates_filter_as_in_the_crawl(replay: Replay, dump: Path, tmp_path: Path) -> None:
    build(replay, tmp_path / "by", dump, license="4,5", since="2010-01-01")
    rows = rows_of(tmp_path / "by")
    assert rows
    assert {row["license"] for row in rows} <= {"CC BY 2.0", "CC BY-SA 2.0"}
    assert min(row["posted_at"] for row in rows).year >= 2010


def test_per_query_and_max_pairs_hold(replay: Replay, dump: Path, tmp_path: Path) -> None:
    few = build(replay, tmp_path / "few", dump, per_query=2)
    assert few.manifest.funnel.input <= 2 * len(SENTIMENTS)
    assert build(replay, tmp_path / "max", dump, max_pairs=5).manifest.funnel.kept == 5


def test_a_photo_of_both_signs_is_known_as_one_though_a_pair_is_full(replay: Replay, tmp_path: Path) -> None:
    line = next(draw_lines(DumpDrawing(SENTIMENTS, pictures="http://127.0.0.1:1"), 1)).split("\t")
    rows = [["1", "happy+dog"], ["2", "happy+dog%2C+dead+tree"], ["3", "dead+tree"]]
    text = "".join(
        "\t".join([id, *line[1:6], title, *line[7:8], "", *line[9:-1], "0\n"]) for id, title in rows
    )
    dump = tmp_path / "dump.tsv"
    dump.write_text(text)
    with pytest.raises(MvsentError):  # no pictures, but candidates
        build(replay, tmp_path / "out", dump, per_query=1)
    with sqlite3.connect(tmp_path / "out" / "crawl.sqlite") as crawl:
        both = crawl.execute("SELECT count(*) FROM sightings WHERE candidate = 2").fetchone()
    assert both == (2,)


@pytest.mark.slow
def test_videos_and_lines_with_other_columns_are_dropped_with_a_reason(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path
) -> None:
    lines = list(draw_lines(drawing, N_ROWS))
    fields = lines[3].split("\t")
    fields[6], fields[-1] = "Happy+dog", "1\n"
    video = "\t".join(fields)
    fields[0], fields[-1] = "", "0\n"
    no_id = "\t".join(fields)
    (tmp_path / "dump.tsv").write_text("".join([*lines, video, no_id, "1\tonly\tfour\tcolumns\n"]))
    build(replay, tmp_path / "out", tmp_path / "dump.tsv")
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    reasons = [row["reason"] for row in rejected]
    assert "video" in reasons
    unusable = [row for row in rejected if row["reason"] == "row-unusable"]
    assert ["dump gives this photo no id" in row["detail"] for row in unusable].count(True) == 1
    assert any("4 columns instead of 23" in row["detail"] and "dump.tsv" in row["detail"] for row in unusable)


def test_hostile_cells_break_nothing(replay: Replay, drawing: DumpDrawing, tmp_path: Path) -> None:
    lines = list(draw_lines(drawing, 100))
    fields = lines[0].split("\t")
    odd = [
        b"Happy+dog%00%ED%A0%80\0\xed\xa0\x80",
        b"Happy+dog+" + b"x" * 2**20,
        b"%",
        b"Happy+dog%C",
        b"\xff\xfe",
    ]
    with (tmp_path / "dump.tsv").open("wb") as file:
        file.writelines(line.encode() for line in lines)
        for number, title in enumerate(odd):
            cells = [cell.encode() for cell in fields]
            cells[0], cells[6], cells[8], cells[-1] = str(number + 1).encode(), title, b"a,b%00", b"0\n"
            cells[14] = f"{drawing.pictures}/images/1/positive-{number + 500}-160x120.jpg".encode()
            file.write(b"\t".join(cells))
    build(replay, tmp_path / "out", tmp_path / "dump.tsv", repeated_texts="keep")
    titles = {row["id"]: row["title"] for row in rows_of(tmp_path / "out")}
    assert titles["flickr:1"].startswith("Happy dog") and "\0" not in titles["flickr:1"]
    assert len(titles["flickr:2"]) > 2**20
    assert titles["flickr:4"] == "Happy dog%C"


def test_a_line_without_end_is_one_unusable_row(
    drawing: DumpDrawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_reader, "MAX_LINE_BYTES", 5000)
    monkeypatch.setattr(dump_reader, "BLOCK_BYTES", 1000)
    lines = list(draw_lines(drawing, 30))
    path = tmp_path / "dump.tsv"
    path.write_text("".join([*lines[:10], "x" * 20_000 + "\n", *lines[10:]]))
    (part,) = plan_parts(find_files([str(path)]), YFCC100M, ANY_NAME, lambda *_: None)
    tables = list(read_part(part, ["photoid"]))
    ids = [id.decode() for rows in tables for id in rows.table["photoid"].to_pylist()]
    assert ids == [line.split("\t")[0] for line in lines]
    assert [why for rows in tables for _, why in rows.unusable] == ["a line of more than 5000 bytes"]


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


@pytest.mark.slow
def test_a_truncated_bzip2_keeps_what_was_read_and_exits_with_3(
    replay: Replay, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        line.encode()
        for line in draw_lines(
            DumpDrawing(SENTIMENTS, 0.05, str(replay.flickr_endpoint).partition("/services")[0]), N_ROWS
        )
    ]
    whole = bz2.compress(b"".join(lines[:200])) + bz2.compress(b"".join(lines[200:]))
    dump.write_bytes(whole[:-20])
    lexicon = flickr_settings(replay, tmp_path).anps
    monkeypatch.setenv("MVSENT_FLICKR_ENDPOINT", replay.flickr_endpoint)
    monkeypatch.delenv("FLICKR_API_KEY", raising=False)
    out = tmp_path / "out"
    result = run(
        "build-flickr", "--from", str(dump), "--anps", lexicon, "--language", "any", "--out", str(out), "-q"
    )
    assert isinstance(result.exception, MvsentError), result.output
    assert result.exception.exit_code == 3
    assert str(result.exception).startswith(f"{dump.name}: the bzip2 data breaks off (")
    assert "after" in str(result.exception) and "bytes of whole lines" in str(result.exception)
    n_read = Dataset.open(out).manifest.notes["dump"]["rows"]["rows"]  # type: ignore[index,call-overload]
    assert 200 <= n_read < N_ROWS
    assert "kept" in result.output
    words = ("build-flickr", "--from", str(dump), "--anps", lexicon, "--dry-run", "-q")
    dry = run(*words)
    assert isinstance(dry.exception, MvsentError) and dry.exception.exit_code == 3
    assert "photos with a pair" in dry.output and "breaks off" in str(dry.exception)
    strict = run(*words[:-2], "--language", "el", "--out", str(tmp_path / "none"), "-q")
    assert "can be kept" in str(strict.exception) and "breaks off" in str(strict.exception)


@pytest.mark.slow
def test_a_dry_run_counts_and_writes_nothing(replay: Replay, dump: Path, tmp_path: Path) -> None:
    lexicon = flickr_settings(replay, tmp_path).anps
    before = sorted(tmp_path.rglob("*"))
    words = ("build-flickr", "--from", str(tmp_path / "yfcc*.bz2"), "--anps", lexicon, "--dry-run", "-q")
    shown = run(*words)
    assert shown.exit_code == 0, shown.output
    assert "photos with a pair" in shown.output and "happy dog" in shown.output
    plan = json.loads(run(*words, "--json").output)
    assert sorted(tmp_path.rglob("*")) == before
    built = build(replay, tmp_path / "out", dump).manifest.notes
    assert isinstance(built, dict)
    counted = {pair: n for pair, n in plan["candidates_per_pair"].items() if n}
    assert counted == built["dump"]["rows_with_query"]
    assert plan["rows"]["rows"] == N_ROWS


@pytest.mark.slow
def test_several_files_follow_one_option_as_a_shell_writes_them(
    dump: Path, replay: Replay, tmp_path: Path
) -> None:
    shutil.copy(dump, tmp_path / "b.bz2")
    lexicon = flickr_settings(replay, tmp_path).anps
    shown = run(
        "build-flickr",
        "--from",
        str(dump),
        str(tmp_path / "b.bz2"),
        "--anps",
        lexicon,
        "--dry-run",
        "--json",
        "-q",
    )
    assert json.loads(shown.output)["rows"]["rows"] == 2 * N_ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,c\n1,2,3\n", "not a dump: its first line has 1 tab-separated columns"),
        (b"", "is empty"),
        (b"BZh9 no bzip2 at all", "the bzip2 data breaks off"),
        (b"PAR1 no Parquet", "not readable as Parquet"),
        (b"id,title,tags\n1,a,b\n", "has no column of download URL"),
        (b"photoid\ttitle\n" * 3, "not a dump: its first line has 2 tab-separated columns"),
        (b"id,url,secret\n1,http://a.org/1.jpg,x\n", "has no column of tags or title"),
    ],
)
def test_a_file_of_another_kind_is_one_line(
    content: bytes, message: str, replay: Replay, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        build(replay, tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_a_file_whose_lines_are_mostly_no_rows_is_refused(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path
) -> None:
    (tmp_path / "dump.tsv").write_text(next(draw_lines(drawing, 1)) + "a\tb\n" * 500)
    with pytest.raises(InputError, match="most rows are not those of a dump"):
        build(replay, tmp_path / "out", tmp_path / "dump.tsv")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": pa.array([1, 2])}, "the column of title has the type int64, not text"),
        ({"tags": pa.array([[1], [2]])}, "the column of tags has the type list<"),
        ({"marker": pa.array([0.5, 1.5])}, "the column of marker has the type double, not text or a number"),
    ],
)
def test_parquet_of_the_wrong_types_is_one_line(
    columns: dict[str, pa.Array], message: str, replay: Replay, tmp_path: Path
) -> None:
    plain = {
        "photoid": pa.array([1, 2]),
        "title": pa.array(["happy dog", "b"]),
        "url": pa.array(["http://a.org/1.jpg"] * 2),
    }
    pq.write_table(pa.table({**plain, **columns}), tmp_path / "dump.parquet")
    with pytest.raises(InputError, match=message):
        build(replay, tmp_path / "out", tmp_path / "dump.parquet")


def test_lists_of_tags_and_numbers_and_times_in_parquet_are_read(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path
) -> None:
    url = f"{drawing.pictures}/images/1/positive-5-160x120.jpg"
    table = pa.table(
        {
            "Photo_ID": pa.array([7], pa.int64()),
            "title": ["Tea & co"],
            "description": ["a walk with my own happy little dog today"],
            "tags": pa.array([["Happy", "dog", "new york"]], pa.large_list(pa.string())),
            "url": [url],
            "license": [4],
            "date_uploaded": pa.array([1_300_000_000], pa.timestamp("s")),
            "marker": [False],
        }
    )
    pq.write_table(table, tmp_path / "dump.parquet")
    build(replay, tmp_path / "out", tmp_path / "dump.parquet")
    (row,) = rows_of(tmp_path / "out")
    assert (row["id"], row["title"], row["tags"]) == ("flickr:7", "Tea & co", ["Happy", "dog", "new york"])
    assert row["license"] == "CC BY 2.0"
    assert row["posted_at"].timestamp() == 1_300_000_000


def test_a_pattern_without_a_file_and_match_without_a_dump_are_refused(
    replay: Replay, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, message in (
        (tmp_path / "none-*.bz2", "no such file"),
        (tmp_path, "a folder. Name the files in it"),
        (tmp_path / "pipe", "not an ordinary file"),
        (Path("/dev/zero"), "not an ordinary file"),
    ):
        with pytest.raises(UsageError, match=message):
            build(replay, tmp_path / "out", place)
    with pytest.raises(UsageError, match="--match"):
        flickr.SOURCE.dump(FlickrSettings(match=("title",)), [])


# Stopping and continuing


def interrupted(
    replay: Replay, out: Path, *files: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Begin a build that is interrupted as its scan begins part `after`; the parts that were scanned."""
    scanned: list[int] = []
    scan = flickr_dump.scan_part

    def watched(rules: Any, part: Any) -> Any:
        if part.index == after:
            os.kill(os.getpid(), signal.SIGINT)
        scanned.append(part.index)
        yield from scan(rules, part)

    with monkeypatch.context() as patch:
        patch.setattr(flickr_dump, "scan_part", watched)
        with suppress(Interrupted):
            build(replay, out, *files)
    return scanned


@pytest.mark.slow
def test_a_stopped_scan_continues_without_the_parts_that_are_done(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    monkeypatch.setattr(flickr_dump, "plan_parts", partial(plan_parts, part_bytes=40_000))
    build(replay, tmp_path / "whole", dump)
    out = tmp_path / "out"
    first = interrupted(replay, out, dump, after=2, monkeypatch=monkeypatch)
    second = interrupted(replay, out, dump, after=-1, monkeypatch=monkeypatch)
    assert first == [0, 1, 2]
    assert second[0] >= 2 and not set(second) & {0, 1}
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_changed_or_other_files_are_refused_on_resume(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    monkeypatch.setattr(flickr_dump, "plan_parts", partial(plan_parts, part_bytes=40_000))
    out = tmp_path / "out"
    interrupted(replay, out, dump, after=2, monkeypatch=monkeypatch)
    other = Path(shutil.copy(dump, tmp_path / "other.tsv"))
    with pytest.raises(UsageError, match="begun with other files"):
        build(replay, out, other)
    with pytest.raises(UsageError, match="begun with --from"):
        search.build(
            flickr.SOURCE, out, flickr_settings(replay, tmp_path), {"FLICKR_API_KEY": _key()}, quiet=True
        )
    dump.write_text(dump.read_text() + next(draw_lines(drawing, 1)))
    with pytest.raises(UsageError, match="changed since this build was begun"):
        build(replay, out, dump)
    assert build(replay, out, dump, overwrite=True).manifest.funnel.kept


def _key() -> Any:
    from pydantic import SecretStr

    return SecretStr("key")


@pytest.mark.slow
def test_killed_at_each_step_it_ends_with_the_same_bytes(
    replay: Replay, drawing: DumpDrawing, tmp_path: Path
) -> None:
    dump = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    build_it = partial(_in_parts, flickr_settings(replay, tmp_path, dumps=[str(dump)]))
    build_it(tmp_path / "whole" / "flickr")
    expected = files_of(tmp_path / "whole" / "flickr")
    out, step, codes = tmp_path / "killed" / "flickr", 0, list[int]()
    out.parent.mkdir()
    while not codes or codes[-1] != 0:
        # Each run dies a little later than the one before, and continues what that left.
        process = start(partial(build_it, out), partial(die_at_file, step, out))
        process.join(120)
        codes.append(process.exitcode)
        assert codes[-1] in (0, -signal.SIGKILL, 255)
        step += 1
        assert step < 60
    assert len(codes) >= 5
    assert files_of(out) == expected


def die_at_file(step: int, out: Path) -> None:
    """From here on this process kills itself before it renames or removes file number `step` in `out`."""
    n_left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_left
        if event in ("os.rename", "os.remove") and str(arguments[0]).startswith(str(out)):
            n_left -= 1
            if n_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _in_parts(settings: FlickrSettings, out: Path) -> None:
    flickr_dump.plan_parts = partial(plan_parts, part_bytes=40_000)  # type: ignore[assignment]
    try:
        search.build(flickr.SOURCE, out, settings, {}, workers=1, quiet=True)
    finally:
        flickr_dump.plan_parts = plan_parts  # type: ignore[assignment]


@pytest.mark.slow
def test_a_scan_in_processes_stops_when_asked(
    drawing: DumpDrawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = draw_dump(tmp_path / "dump.tsv", drawing, N_ROWS)
    monkeypatch.setattr(flickr_dump, "plan_parts", partial(plan_parts, part_bytes=40_000))
    settings = FlickrSettings(dumps=[str(dump)])
    opened = flickr.SOURCE.dump(settings, flickr.SOURCE.words(settings))
    assert opened

    def stop() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        count_matches(opened, LOCAL, stop, workers=2, quiet=True)
