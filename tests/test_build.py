"""Whole builds against the stand-in: what comes out, what is asked, what goes wrong, and what is left behind."""

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from mvsent.build.crawl_progress import StageProgress
from mvsent.build.dry_run import plan, render_plan
from mvsent.build.refresh import NotAnswered
from mvsent.build.refresh import refresh as run_refresh
from mvsent.build.search import BuildResult
from mvsent.build.spool import Spool
from mvsent.cli import app
from mvsent.curate.images import ImageFacts
from mvsent.datasets.validate import validate
from mvsent.errors import DatasetError, InputError, OutputExistsError, UsageError
from mvsent.fetch import Dropped, Fetched
from mvsent.pairs import pair_table
from mvsent.reasons import Reason
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import lock_file, locked
from mvsent.shards.writer import DatasetWriter
from mvsent.sources import flickr as flickr_source
from mvsent.sources import getty as getty_source
from mvsent.sources import registry
from mvsent.sources.crawl.failures import AccessRevoked, BadKey, DailyLimit, RequestRefused
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.getty import GettySettings
from mvsent.sources.keys import read_keys
from mvsent.standin.faults import Faults
from mvsent.standin.replay import KEY, Replay
from tests import programs
from tests.building import (
    SENTIMENTS,
    Watched,
    build,
    files_of,
    flickr_settings,
    getty_settings,
    refresh,
    small_world,
    start_build,
    write_lexicon,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture
def replay() -> Iterator[Replay]:
    with Replay(small_world()) as running:
        yield running


def flickr(replay: Replay, folder: Path, *, overwrite: bool = False, **given: Any) -> BuildResult:
    return build(folder / "flickr", flickr_settings(replay, folder, **given), overwrite=overwrite)


def getty(replay: Replay, folder: Path, **given: Any) -> BuildResult:
    return build(folder / "getty", getty_settings(replay, folder, **given))


def rejected(folder: Path) -> dict[str, str]:
    table = pq.read_table(folder / "rejected.parquet")
    return dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))


@pytest.mark.slow
def test_flickr_becomes_a_valid_dataset_whose_funnel_adds_up(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path)
    dataset = Dataset.open(result.folder)
    rows = dataset.table(
        ["id", "label", "query", "query_sentiment", "source", "license", "text", "posted_at"]
    )
    assert validate(result.folder, quiet=True).problems == []
    assert result.manifest.funnel.adds_up
    assert len(set(dataset.ids) | rejected(result.folder).keys()) == result.manifest.funnel.input
    assert set(dataset.classes) == {0, 2}
    for row in rows.to_pylist():
        assert row["label"] == (2 if SENTIMENTS[row["query"]] > 0 else 0)
        assert row["query_sentiment"] == SENTIMENTS[row["query"]]
        assert row["source"] == "flickr" and row["license"] and row["text"] and row["posted_at"]
    assert not (result.folder / "parts").exists()


@pytest.mark.slow
def test_getty_becomes_a_valid_dataset_whose_funnel_adds_up(replay: Replay, tmp_path: Path) -> None:
    result = getty(replay, tmp_path)
    assert validate(result.folder, quiet=True).problems == []
    assert result.manifest.funnel.adds_up
    assert result.manifest.name == "getty"
    assert replay.calls["getty.token"] == 1


@pytest.mark.slow
def test_the_cards_count_licences_and_state_the_terms(replay: Replay, tmp_path: Path) -> None:
    card = (flickr(replay, tmp_path).folder / "README.md").read_text()
    assert "uses the Flickr API but is not endorsed or certified by SmugMug, Inc." in " ".join(card.split())
    assert "## Licences" in card and "CC BY" in card
    assert "machine-learning use" in (getty(replay, tmp_path).folder / "README.md").read_text()


@pytest.mark.slow
def test_one_call_a_query_where_a_page_holds_it_all(replay: Replay, tmp_path: Path) -> None:
    flickr(replay, tmp_path)
    assert replay.calls["flickr.photos.search"] == len(SENTIMENTS)


@pytest.mark.slow
def test_no_picture_is_fetched_for_a_candidate_that_its_words_drop(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path)
    by_words = {
        "text-missing",
        "text-too-short",
        "text-too-long",
        "duplicate-query-conflict",
        "image-missing",
    }
    n_dropped = sum(reason in by_words for reason in rejected(result.folder).values())
    assert replay.calls["image"] == result.manifest.funnel.input - n_dropped


def command(folder: Path, *arguments: str, key: str = KEY, **environment: str) -> Any:
    env = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    env |= {"FLICKR_API_KEY": key} if key else {}
    return subprocess.run(
        programs.mvsent(*arguments),
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_builds_without_arguments_and_prints_the_funnel(replay: Replay, tmp_path: Path) -> None:
    lexicon = write_lexicon(tmp_path / "lexicon.tsv")
    (tmp_path / "mvsent.toml").write_text(f'[build-flickr]\nanps = "{lexicon}"\nimages_per_second = 0\n')
    done = command(tmp_path, "build-flickr", MVSENT_FLICKR_ENDPOINT=replay.flickr_endpoint)
    assert done.returncode == 0, done.stderr
    assert "paper, Table I" in done.stdout and "kept" in done.stdout
    assert Manifest.load(tmp_path / "data" / "flickr").funnel.adds_up
    assert KEY not in done.stdout + done.stderr


def cli(*arguments: str, env: dict[str, str | None] | None = None) -> Any:
    return CliRunner().invoke(app, arguments, env=env, standalone_mode=False)


def test_a_dry_run_asks_nothing_writes_nothing_and_needs_no_key(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--endpoint", replay.flickr_endpoint, "--dry-run", "--json"]
    plan = json.loads(cli("build-flickr", *given, env={"FLICKR_API_KEY": None}).stdout)
    assert (plan["n_queries"], plan["n_positive"], plan["n_calls"]) == (1200, 738, 1200)
    assert plan["search_hours"] == pytest.approx(1 / 3)
    assert json.loads(cli("build-getty", "--dry-run", "--json").stdout)["n_calls"] == 101 * 100
    assert "20 min" in cli("build-flickr", "--dry-run").stdout
    assert not replay.requests and not list(tmp_path.iterdir())


def test_a_dry_run_without_pictures_has_no_time_to_fetch_and_little_disk(tmp_path: Path) -> None:
    """Nor do smaller pictures take as much disk as large ones."""
    source, folder = flickr_source.SOURCE, tmp_path / "none"
    full, listed, small = (
        plan(source, flickr_source.FlickrSettings(**given), folder)
        for given in ({}, {"metadata_only": True}, {"size": 512})
    )
    assert listed.fetch_hours == listed.paper_fetch_hours == 0 and (full.fetch_hours or 0) > 8
    assert (listed.dataset_gb or 1) < (full.dataset_gb or 0) / 100
    assert small.dataset_gb == pytest.approx((full.dataset_gb or 0) / 4)
    said = render_plan(listed.document())
    assert "none are fetched" in said and "a second" not in said


def test_a_dry_run_does_not_promise_a_maximum_of_calls(tmp_path: Path) -> None:
    """Calls are repeated after failures, and windows of a large query overlap."""
    said = render_plan(
        plan(flickr_source.SOURCE, flickr_source.FlickrSettings(), tmp_path / "none").document()
    )
    assert "calls of the API, without repeats" in said and "upper bounds" not in said
    assert "calls at" not in said and "50% of the candidates that are kept, roughly" in said


def test_no_key_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLICKR_API_KEY", raising=False)
    with pytest.raises(UsageError, match=r"No FLICKR_API_KEY is set\. Get one at https://www\.flickr"):
        read_keys(flickr_source.SOURCE.keys)


def test_a_key_file_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nFLICKR_API_KEY=abc\nGETTY_API_KEY='def'\n")
    file.chmod(0o600)
    assert read_keys(getty_source.SOURCE.keys, file) == {"GETTY_API_KEY": SecretStr("def")}
    assert not caplog.records
    file.chmod(0o644)
    assert read_keys(flickr_source.SOURCE.keys, file) == {"FLICKR_API_KEY": SecretStr("abc")}
    assert "chmod 600" in caplog.text and "abc" not in caplog.text


@pytest.mark.slow
def test_a_wrong_key_ends_the_build_at_once(replay: Replay, tmp_path: Path) -> None:
    with pytest.raises(BadKey) as failure:
        build(tmp_path / "flickr", flickr_settings(replay, tmp_path), key="other")
    assert failure.value.exit_code == 2
    assert replay.calls["flickr.photos.search"] == 1
    assert flickr(replay, tmp_path).manifest.funnel.adds_up


@pytest.mark.slow
def test_the_daily_limit_ends_the_build_for_today_and_tomorrow_it_goes_on(
    replay: Replay, tmp_path: Path
) -> None:
    replay.faults = Faults(daily_limit=2)
    with pytest.raises(DailyLimit) as failure:
        getty(replay, tmp_path)
    assert failure.value.exit_code == 3
    replay.faults = Faults()
    assert getty(replay, tmp_path).manifest.funnel.adds_up
    assert replay.calls["getty.search"] == len(SENTIMENTS) + 1


@pytest.mark.slow
def test_pictures_that_cannot_be_had_have_a_reason_each(replay: Replay, tmp_path: Path) -> None:
    replay.faults = Faults(
        image_404=0.1, image_html=0.1, image_svg=0.1, image_corrupt=0.1, image_noai=0.1, image_private=0.1
    )
    result = flickr(replay, tmp_path)
    found = set(result.manifest.funnel.dropped)
    assert result.manifest.funnel.adds_up
    assert found >= {"http-404", "image-not-an-image", "image-corrupt", "robots-noai", "blocked-host"}
    assert replay.trespasses == []


def test_a_lexicon_with_a_mistake_is_named_with_its_line(replay: Replay, tmp_path: Path) -> None:
    lexicon = tmp_path / "mine.tsv"
    lexicon.write_text("word\tsentiment\nhappy dog\tvery\n")
    settings = flickr_settings(replay, tmp_path, anps=str(lexicon))
    with pytest.raises(InputError, match=r"mine\.tsv:2"):
        build(tmp_path / "flickr", settings)


def test_a_second_process_on_the_same_folder_is_refused(replay: Replay, tmp_path: Path) -> None:
    with locked(lock_file(tmp_path / "flickr")), pytest.raises(UsageError, match="another mvsent process"):
        flickr(replay, tmp_path)
    assert not replay.requests


def test_somebody_elses_folder_is_left_alone(replay: Replay, tmp_path: Path) -> None:
    (tmp_path / "flickr").mkdir()
    (tmp_path / "flickr" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        flickr(replay, tmp_path, overwrite=True)
    assert (tmp_path / "flickr" / "thesis.tex").exists()


@pytest.mark.slow
def test_a_finished_dataset_is_replaced_only_when_asked_and_only_by_a_finished_one(
    replay: Replay, tmp_path: Path
) -> None:
    before = files_of(flickr(replay, tmp_path).folder)
    with pytest.raises(OutputExistsError):
        flickr(replay, tmp_path, per_query=5)
    with pytest.raises(BadKey):
        settings = flickr_settings(replay, tmp_path, per_query=5)
        build(tmp_path / "flickr", settings, key="x", overwrite=True)
    assert files_of(tmp_path / "flickr") == before
    result = flickr(replay, tmp_path, per_query=5, overwrite=True)
    assert result.manifest.settings["per_query"] == 5
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["notes.txt", "models/network.bin", "data/notes.txt"])
def test_a_finished_dataset_with_files_of_others_is_not_replaced_and_nothing_is_asked(
    replay: Replay, tmp_path: Path, name: str
) -> None:
    work = flickr(replay, tmp_path).folder / name
    work.parent.mkdir(exist_ok=True)
    work.write_text("years of work")
    replay.requests.clear()
    with pytest.raises(UsageError, match=f"contains {Path(name).parts[0]}"):
        flickr(replay, tmp_path, overwrite=True)
    with pytest.raises(UsageError, match=f"contains {Path(name).parts[0]}"):
        refresh(tmp_path / "flickr", replay.flickr_endpoint)
    assert work.read_text() == "years of work"
    assert not replay.requests


@pytest.mark.slow
def test_a_folder_that_cannot_be_renamed_is_built_in_but_not_replaced_and_nothing_is_asked(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "flickr")
    assert flickr(replay, tmp_path).manifest.funnel.adds_up
    replay.requests.clear()
    with pytest.raises(UsageError, match="is a mount point"):
        flickr(replay, tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is a mount point"):
        refresh(tmp_path / "flickr", replay.flickr_endpoint)
    assert not replay.requests


def test_a_place_where_no_folder_can_be_is_refused_by_name(replay: Replay, tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(UsageError, match=r"notes: is a file, not a folder\. Name another --out"):
        build(tmp_path / "notes" / "flickr", flickr_settings(replay, tmp_path))
    with pytest.raises(UsageError, match="/: cannot be replaced"):
        build(Path("/"), flickr_settings(replay, tmp_path))
    assert not replay.requests


def test_an_unfinished_crawl_of_other_settings_goes_on_only_as_it_began(
    replay: Replay, tmp_path: Path
) -> None:
    replay.faults = Faults(revoked_after=2)
    with pytest.raises(AccessRevoked):
        flickr(replay, tmp_path)
    replay.faults = Faults()
    with pytest.raises(UsageError, match="per_query was 500 and is 3"):
        flickr(replay, tmp_path, per_query=3)
    assert flickr(replay, tmp_path, per_query=3, overwrite=True).manifest.settings["per_query"] == 3


def test_a_crawl_of_another_version_is_refused(replay: Replay, tmp_path: Path) -> None:
    (tmp_path / "flickr").mkdir()
    with sqlite3.connect(tmp_path / "flickr" / "crawl.sqlite") as db:
        db.execute("CREATE TABLE old (x)")
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(Exception, match="another version of mvsent"):
        flickr(replay, tmp_path)


@pytest.mark.slow
def test_at_most_so_many_pairs_spread_over_the_queries(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path, max_pairs=10)
    assert result.manifest.funnel.kept == 10
    assert result.manifest.funnel.adds_up
    assert result.manifest.funnel.dropped["over-max-pairs"] > 0
    assert len(set(Dataset.open(result.folder).table(["query"])["query"].to_pylist())) >= 4
    assert replay.calls["image"] < 40


@pytest.mark.slow
def test_weak_words_are_not_searched_for(replay: Replay, tmp_path: Path) -> None:
    flickr(replay, tmp_path, min_sentiment=1.0)
    assert replay.calls["flickr.photos.search"] == sum(abs(s) >= 1 for s in SENTIMENTS.values())


def test_only_uploads_between_the_dates_are_found(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path, since="2012-01-01", until="2015-12-31")
    posted = Dataset.open(result.folder).table(["posted_at"])["posted_at"].to_pylist()
    assert {moment.year for moment in posted} <= {2012, 2013, 2014, 2015}
    assert result.manifest.settings["until"] == "2015-12-31T23:59:59+00:00"


def test_only_the_wanted_licences_are_found(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path, license="4,5")
    found = set(Dataset.open(result.folder).table(["license"])["license"].to_pylist())
    assert found <= {"CC BY 2.0", "CC BY-SA 2.0"}


def test_masked_texts_do_not_hold_the_query(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path, mask_query=True)
    for row in Dataset.open(result.folder).table(["text", "query"]).to_pylist():
        assert row["query"] not in row["text"].lower()


@pytest.mark.slow
def test_titles_and_tags_can_be_part_of_the_text(replay: Replay, tmp_path: Path) -> None:
    settings = flickr_settings(replay, tmp_path, text_fields="title,tags")
    result = build(tmp_path / "flickr", settings)
    for row in Dataset.open(result.folder).table(["text", "tags"]).to_pylist():
        assert row["text"].endswith(" ".join(row["tags"]))


@pytest.mark.slow
def test_conflicting_queries_can_be_decided_by_the_first(replay: Replay, tmp_path: Path) -> None:
    given = {"require_query": ("none",)}  # photos of another query contain the words of that one alone
    assert "duplicate-query-conflict" in flickr(replay, tmp_path, **given).manifest.funnel.dropped
    result = flickr(replay, tmp_path, query_conflict="first", overwrite=True, **given)
    assert "duplicate-query-conflict" not in result.manifest.funnel.dropped


@pytest.mark.slow
def test_pictures_that_look_alike_are_dropped_when_asked(replay: Replay, tmp_path: Path) -> None:
    kept = flickr(replay, tmp_path).manifest.funnel.kept
    result = flickr(replay, tmp_path, near_duplicates="drop", overwrite=True)
    phashes = [bits for bits in Dataset.open(result.folder).table(["phash"])["phash"].to_pylist() if bits]
    assert len(set(phashes)) == len(phashes)
    assert result.manifest.funnel.kept <= kept


@pytest.mark.parametrize(
    "endpoint", ["ftp://x.org/", "http://user:geheim@x.org/", "http://x.org/?key=geheim", "nonsense"]
)
def test_an_endpoint_that_is_none_is_refused_without_repeating_it(tmp_path: Path, endpoint: str) -> None:
    settings = FlickrSettings(endpoint=endpoint)
    with pytest.raises(UsageError) as failure:
        build(tmp_path / "flickr", settings)
    assert "geheim" not in str(failure.value)


def test_a_password_in_the_address_of_the_token_is_refused_without_repeating_it(tmp_path: Path) -> None:
    settings = GettySettings(token_url="http://user:geheim@x.org/token")
    with pytest.raises(UsageError, match="--token-url: holds a name, a password") as failure:
        build(tmp_path / "getty", settings)
    assert "geheim" not in str(failure.value) and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_last_day_that_a_calendar_has_can_be_searched(replay: Replay, tmp_path: Path) -> None:
    result = flickr(replay, tmp_path, until=date.max)
    assert result.manifest.settings["until"] == "9999-12-31T23:59:59+00:00"


def test_a_pipe_is_no_key_file_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(UsageError, match="keys: not a regular file"):
        read_keys(flickr_source.SOURCE.keys, tmp_path / "keys")


def test_nothing_found_is_an_error_and_not_an_empty_dataset(replay: Replay, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 0 candidates of 6 queries"):
        flickr(replay, tmp_path, license="16")


@pytest.mark.slow
def test_ctrl_c_finishes_what_is_under_way_and_the_same_command_continues(tmp_path: Path) -> None:
    with Replay(small_world()) as replay:
        replay.requests = requests = Watched()
        settings = flickr_settings(replay, tmp_path)
        victims: list[Any] = []
        n_searches = len(SENTIMENTS)
        requests.count_anew(
            lambda n: n == n_searches + 10 and victims and os.kill(victims[0].pid, signal.SIGINT)
        )
        victims.append(start_build(tmp_path / "flickr", settings))
        victims[0].join(120)
        assert victims[0].exitcode == 130
        assert not (tmp_path / "flickr" / "dataset.json").exists()
        requests.count_anew(lambda n: None)
        result = build(tmp_path / "flickr", settings)
        paths = [request.path for request in requests if request.path.startswith("/images/")]
        assert len(paths) == len(set(paths))
        assert result.manifest.funnel.adds_up


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line_and_the_same_command_continues(replay: Replay, tmp_path: Path) -> None:
    lexicon = write_lexicon(tmp_path / "lexicon.tsv")
    given = ["build-flickr", "--anps", str(lexicon), "--language", "any", "--images-per-second", "0", "-q"]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY));"
        "from mvsent.cli import main; sys.argv[0] = 'mvsent'; main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FLICKR_API_KEY": KEY}
    env |= {"MVSENT_FLICKR_ENDPOINT": replay.flickr_endpoint}
    done = subprocess.run(
        programs.python("-c", limited, *given),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "run the same command again" in done.stderr
    settings = FlickrSettings(
        anps=str(lexicon), endpoint=replay.flickr_endpoint, language="any", images_per_second=0
    )
    result = build(tmp_path / "data" / "flickr", settings)
    assert result.manifest.funnel.adds_up


@pytest.mark.slow
def test_refresh_writes_a_version_without_what_is_gone(replay: Replay, tmp_path: Path) -> None:
    folder = flickr(replay, tmp_path).folder
    before = Dataset.open(folder)
    gone = before.ids[::5]
    replay.removed.update(id.removeprefix("flickr:") for id in gone)
    result = refresh(folder, replay.flickr_endpoint)
    after = Dataset.open(folder)
    assert result.removed == gone
    assert after.ids == [id for id in before.ids if id not in set(gone)]
    assert after.manifest.funnel.adds_up
    assert after.manifest.funnel.dropped["taken-down"] == len(gone)
    assert validate(folder, quiet=True).problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flickr", "lexicon.tsv"]


@pytest.mark.slow
def test_refresh_asks_no_photo_twice_and_leaves_the_dataset_until_it_is_done(
    replay: Replay, tmp_path: Path
) -> None:
    folder = flickr(replay, tmp_path).folder
    before = files_of(folder)
    n_photos = len(Dataset.open(folder))
    replay.removed.add(Dataset.open(folder).ids[0].removeprefix("flickr:"))
    replay.faults = Faults(revoked_after=10)
    with pytest.raises(AccessRevoked):
        refresh(folder, replay.flickr_endpoint)
    assert files_of(folder) == before
    replay.faults = Faults()
    refresh(folder, replay.flickr_endpoint)
    assert replay.calls["flickr.photos.getInfo"] == n_photos + 1
    assert len(Dataset.open(folder)) == n_photos - 1


def of_flickr(folder: Path, n: int) -> Path:
    """A dataset of `n` pairs of Flickr, without pictures."""
    ids = [f"flickr:{number}" for number in range(1, n + 1)]
    with DatasetWriter(folder, "flickr", settings={}, shard_size=1000) as writer:
        writer.write(pair_table({"id": ids, "text": ids, "label": [2] * n}))
        writer.finish(n)
    return folder


def test_refresh_asks_again_about_photos_of_which_flickr_refused_to_speak(tmp_path: Path) -> None:
    asked, said = list[str](), {"flickr:1": False, "flickr:2": None, "flickr:3": True}

    def is_public(id: str) -> bool:
        asked.append(id)
        public = said.get(id, True)
        if public is None:
            raise RequestRefused("code 7: something else")
        return public

    folder = of_flickr(tmp_path / "set", 4)
    source = replace(registry.searched("flickr"), still_public=lambda settings, keys: is_public)
    first = run_refresh(Dataset.open(folder), source, FlickrSettings(), {}, quiet=True)
    assert (first.removed, first.refused) == (["flickr:1"], ["flickr:2"])
    assert first.refusal == "code 7: something else"
    asked.clear()
    said["flickr:2"] = False
    again = run_refresh(Dataset.open(folder), source, FlickrSettings(), {}, quiet=True)
    assert (again.removed, again.refused, asked) == (["flickr:2"], [], ["flickr:2"])
    assert Dataset.open(folder).ids == ["flickr:3", "flickr:4"]


def test_refresh_stops_when_flickr_refuses_one_photo_after_the_other(tmp_path: Path) -> None:
    asked = list[str]()

    def refuse(id: str) -> bool:
        asked.append(id)
        raise RequestRefused("code 7: something else")

    folder = of_flickr(tmp_path / "set", 59)
    source = replace(registry.searched("flickr"), still_public=lambda settings, keys: refuse)
    with pytest.raises(NotAnswered, match=r"code 7: something else\. The same command continues") as end:
        run_refresh(Dataset.open(folder), source, FlickrSettings(), {}, quiet=True)
    assert len(asked) == 20 and end.value.exit_code == 3


@pytest.mark.slow
def test_a_spoilt_memory_of_a_refresh_is_named_with_what_to_do(replay: Replay, tmp_path: Path) -> None:
    folder = flickr(replay, tmp_path).folder
    memory = tmp_path / ".flickr.refresh.sqlite"
    memory.write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(
        DatasetError, match=r"\.flickr\.refresh\.sqlite: .*\. Delete it, then run the same"
    ) as end:
        refresh(folder, replay.flickr_endpoint)
    assert "--overwrite" not in str(end.value)
    memory.unlink()
    assert refresh(folder, replay.flickr_endpoint).removed == []


def test_refresh_of_what_is_not_flickrs_is_refused(replay: Replay, tmp_path: Path) -> None:
    folder = getty(replay, tmp_path).folder
    with pytest.raises(
        UsageError, match=r"Getty cannot be asked whether .* Only a dataset of build-flickr can be refreshed"
    ):
        refresh(folder, replay.flickr_endpoint)


@pytest.mark.parametrize("quota", ["-5", "0", "9" * 20])
def test_refresh_takes_the_quotas_that_a_build_takes(quota: str) -> None:
    refusal = cli("refresh", "--quota-per-hour", quota).exception
    assert "than or equal to" in str(refusal)


def outcome(number: int) -> Fetched:
    facts = ImageFacts(4, 3, "JPEG", "ab", None)
    return Fetched(f"flickr:{number}", bytes([number]) * 50, facts, "https://x.org/")


@pytest.mark.parametrize("cut", [1, 20, 60, 130])
def test_a_spool_that_was_cut_off_loses_only_its_last_record(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "part.spool"
    with Spool(path) as spool:
        spool.add(outcome(1))
        spool.add(Dropped("flickr:2", Reason.TIMEOUT, "slow"))
        spool.add(outcome(3))
    path.write_bytes(path.read_bytes()[:-cut])
    with Spool(path) as spool:
        assert spool.get("flickr:1") == outcome(1)
        assert spool.get("flickr:2") == Dropped("flickr:2", Reason.TIMEOUT, "slow")
        assert "flickr:3" not in spool
        spool.add(outcome(3))
    with Spool(path) as spool:
        assert spool.get("flickr:3") == outcome(3)


def test_a_spool_that_ends_in_zeros_after_a_power_cut_loses_none_of_its_records(tmp_path: Path) -> None:
    path = tmp_path / "part.spool"
    with Spool(path) as spool:
        spool.add(outcome(1))
    path.write_bytes(path.read_bytes() + bytes(4096))
    with Spool(path) as spool:
        assert spool.get("flickr:1") == outcome(1)
        spool.add(outcome(2))
    with Spool(path) as spool:
        assert spool.get("flickr:2") == outcome(2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--since", "2021-01-01", "--until", "2020-01-01"], "is after --until"),
        (["--language", "xx"], "--language: should be any or one of"),
        (["--license", "cc-bye"], "--license: should be numbers and names of licences, and 'cc-bye' is none"),
        (["--license", "٤"], "--license: should be numbers and names of licences"),
        (["--since", "0"], "--since: should be a day as 2020-12-31"),
        (["--since", "2030"], "--since: should be a day as 2020-12-31"),
        (["--until", "2020-13-01"], "--until: should be a day as 2020-12-31"),
        (["--until", "0001-01-01"], "--since 2004-02-10 is after --until 0001-01-01"),
        (["--images-per-second", "inf"], "--images-per-second: "),
        (
            ["--images-per-second", "1e-9"],
            "--images-per-second: should be 0, for no limit, or at least 0.001",
        ),
        (["--quota-per-hour", "9" * 20], "--quota-per-hour: "),
    ],
)
def test_a_dry_run_refuses_what_the_build_would_refuse(flags: list[str], said: str) -> None:
    refusal = cli("build-flickr", "--dry-run", *flags).exception
    assert isinstance(refusal, UsageError) and said in str(refusal)


def test_an_unfinished_build_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "crawl.sqlite").touch()
    with pytest.raises(DatasetError, match="continues by the same command"):
        Dataset.open(tmp_path)


@pytest.mark.slow
def test_the_card_says_that_labels_are_weak_and_how_the_dataset_was_made(
    replay: Replay, tmp_path: Path
) -> None:
    build(tmp_path / "flickr", flickr_settings(replay, tmp_path))
    page = (tmp_path / "flickr" / "README.md").read_text()
    assert "Labels are weak" in page and "There were 6 queries" in page
    assert "| lexicon_sha256 |" in page and "| query_conflict | drop |" in page


def test_a_stage_leaves_a_trace_where_nobody_sees_a_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mvsent.build.crawl_progress.LOG_EVERY_S", 0.0)
    caplog.set_level("INFO", "mvsent")
    with StageProgress("fetch", 10, 0, "candidates", quiet=True) as stage:
        stage.to(4, "3 pictures")
    assert "fetch: 4 of 10 candidates, 3 pictures" in caplog.text
