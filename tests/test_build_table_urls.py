"""Pictures at addresses: fetched with the checks of every build, once each, and again from where a kill left off."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mvsent.build.from_table import build_table
from mvsent.build.search import BuildResult
from mvsent.build.table_cells import read_plan
from mvsent.errors import InputError, Interrupted, UsageError
from mvsent.shards.reader import Dataset
from mvsent.sources.table import TableSettings
from mvsent.workers.engine import LOCAL, Engine
from tests.building import EPOCH, die_at_step, files_of, kill, start
from tests.drawing import draw_picture
from tests.fault_server import FaultServer, answer, redirect, serving
from tests.tables import LABELS, TEXTS, built, column, draw_files, rejected, write_csv

N_ROWS = 48
SECONDS = 120


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as running:
        yield running


def addresses(server: FaultServer, n: int = N_ROWS) -> list[str]:
    """The addresses of `n` pictures."""
    return [
        server.url(f"/{number}.jpg", answer(body=draw_picture(2 - number % 3, number))) for number in range(n)
    ]


def table(folder: Path, places: list[str]) -> Path:
    """A CSV of pairs whose pictures are at these places."""
    rows = [
        {"id": n, "url": place, "text": f"{TEXTS[n % 3]} {n}", "label": LABELS[n % 3]}
        for n, place in enumerate(places)
    ]
    return write_csv(folder / "pairs.csv", rows)


def host(server: FaultServer) -> str:
    return "{}:{}".format(*server.place)


def run(csv: Path, out: Path, server: FaultServer, engine: Engine = LOCAL, **given: Any) -> BuildResult:
    """Build the table, with partitions of 16 rows, two downloads at once and the server as allowed host."""
    settings = TableSettings(
        **{
            "allow_hosts": (host(server),),
            "images_per_second": 0,
            "concurrency": 2,
            "shard_size": 16,
            **given,
        }
    )
    return build_table(read_plan([csv], settings, "mine"), out, workers=1, engine=engine, quiet=True)


@pytest.mark.slow
def test_addresses_are_fetched_and_recorded_beside_files(server: FaultServer, tmp_path: Path) -> None:
    places = addresses(server, 3)
    moved = server.url("/moved", redirect(places[0].replace("/0.jpg", "/again.jpg")))
    server.url("/again.jpg", answer(body=draw_picture(1, 77)))
    [file] = draw_files(tmp_path, 1)
    dataset = built(
        table(tmp_path, [*places, file, moved]), "--allow-host", host(server), out=tmp_path / "out"
    )
    assert column(dataset, "url") == [*places, None, moved]
    pictures = [image["bytes"] for image in column(dataset, "image")]
    assert pictures == [draw_picture(2 - n % 3, n) for n in range(3)] + [
        (tmp_path / file).read_bytes(),
        draw_picture(1, 77),
    ]
    assert [image["path"] for image in column(dataset, "image")] == [f"{n}.jpg" for n in range(5)]


@pytest.mark.slow
def test_pictures_that_cannot_be_fetched_are_dropped_with_reasons(
    server: FaultServer, tmp_path: Path
) -> None:
    places = [
        *addresses(server, 1),
        server.url("/gone", answer("404 Not Found")),
        server.url("/page", answer(body=b"<html>")),
        server.url("/forbidden", answer(body=b"", X_Robots_Tag="noai")),
        server.url("/inside", redirect("http://10.0.0.1/a.jpg")),
    ]
    dataset = built(table(tmp_path, places), "--allow-host", host(server), out=tmp_path / "out")
    assert {id: reason for id, reason, _ in rejected(dataset)} == {
        "table:1": "http-404",
        "table:2": "image-not-an-image",
        "table:3": "robots-noai",
        "table:4": "blocked-host",
    }


def test_a_private_address_is_not_asked(server: FaultServer, tmp_path: Path) -> None:
    csv = table(tmp_path, [*addresses(server, 2), "http://169.254.169.254/latest/meta-data"])
    with pytest.raises(
        InputError, match=r"none of the 3 rows can be kept: 3 blocked-host.* --allow-host HOST:PORT"
    ):
        built(csv, out=tmp_path / "out")
    assert server.requests == [] and not (tmp_path / "out").exists()


def test_two_rows_with_one_address_are_two_pairs(server: FaultServer, tmp_path: Path) -> None:
    [place] = addresses(server, 1)
    result = run(table(tmp_path, [place, place]), tmp_path / "out", server)
    assert result.manifest.funnel.kept == 2


def test_ctrl_c_ends_a_build_which_then_continues(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    csv = table(tmp_path, addresses(server))
    undisturbed = files_of(run(csv, tmp_path / "undisturbed", server).folder)
    server.requests.clear()
    stopped = threading.Event()

    def stop_at(peer: Any, then: Callable[[Any], None] = server.answers["/20.jpg"][0]) -> None:
        stopped.set()
        then(peer)

    server.answers["/20.jpg"] = [stop_at]
    with monkeypatch.context() as patched:
        patched.setattr("mvsent.build.known_rows.interruptible", lambda: _yielding(stopped))
        with pytest.raises(Interrupted):
            run(csv, tmp_path / "out", server)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert files_of(run(csv, tmp_path / "out", server).folder) == undisturbed
    assert len(server.requests) == N_ROWS


class _yielding:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["table", "settings"])
def test_a_build_that_was_begun_with_another_table_or_other_settings_is_not_continued(
    changed: str, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = addresses(server, 20)
    csv, out = table(tmp_path, places), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("mvsent.build.known_rows._assemble", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(csv, out, server)
    given: dict[str, Any] = {"min_words": 2} if changed == "settings" else {}
    if changed == "table":
        table(tmp_path, places[:19])
    with pytest.raises(UsageError, match=rf"was begun with other {changed}.*--overwrite"):
        run(csv, out, server, **given)
    settings = TableSettings(allow_hosts=(host(server),), images_per_second=0, shard_size=16, **given)
    anew = build_table(read_plan([csv], settings, "mine"), out, overwrite=True, quiet=True)
    assert anew.manifest.funnel.kept == 20 - (changed == "table")


# Kills


def exit_code(process: Any) -> int | None:
    process.join(SECONDS)
    code: int | None = process.exitcode
    return code


def spooled(out: Path) -> list[tuple[str, int]]:
    """The pictures that are saved, in spools and parts."""
    return sorted((path.name, path.stat().st_size) for path in out.glob("parts/part-*"))


@pytest.mark.slow
def test_killed_at_many_requests_it_ends_with_the_same_bytes_and_fetches_little_twice(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    places = addresses(server)
    places[5] = draw_files(tmp_path, 1)[0]  # one picture is a file
    csv, out = table(tmp_path, places), tmp_path / "out"
    undisturbed = files_of(run(csv, tmp_path / "undisturbed", server).folder)
    server.requests.clear()
    n_killed, code, take = 0, None, server.take
    while code != 0:
        victim: list[Any] = []
        before = spooled(out)

        def kill_after_progress(head: str, victim: list[Any] = victim, before: Any = before) -> Any:
            if victim and spooled(out) != before:
                kill(victim[0])
            return take(head)

        server.take = kill_after_progress  # type: ignore[method-assign]
        victim.append(start(partial(run, csv, out, server_like(server))))
        code = exit_code(victim[0])
        server.take = take  # type: ignore[method-assign]
        assert code in (0, -9, 255)
        n_killed += code != 0
    assert n_killed >= 10
    assert files_of(out) == undisturbed
    assert len(server.requests) <= N_ROWS + 3 * n_killed


@pytest.mark.slow
def test_killed_at_each_step_of_its_end_it_leaves_the_old_dataset_or_the_new_one(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    csv = table(tmp_path, addresses(server, 20))
    place = server_like(server)
    old = files_of(run(csv, tmp_path / "a" / "mine", server, max_pairs=4).folder)
    new = files_of(run(csv, tmp_path / "b" / "mine", server).folder)
    for step in range(100):
        out = tmp_path / f"step-{step}" / "mine"
        run(csv, out, server, max_pairs=4)
        overwrite = partial(_overwrite, csv, out, place)
        code = exit_code(start(overwrite, partial(die_at_step, step, out)))
        if code != 0:
            assert not out.exists() or files_of(out) in (old, new)
            assert exit_code(start(overwrite)) == 0
        assert files_of(out) == new
        assert [path.name for path in out.parent.iterdir()] == ["mine"]
        if code == 0:
            assert step >= 2
            return
    raise AssertionError("it never came to an end")


@pytest.mark.slow
def test_a_build_killed_before_the_swap_is_not_taken_for_another_one(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv, out = table(tmp_path, addresses(server, 20)), tmp_path / "data" / "mine"
    run(csv, out, server, max_pairs=4)
    overwrite = partial(_overwrite, csv, out, server_like(server))
    assert exit_code(start(overwrite, partial(die_at_step, 0, out))) == -9
    assert (out.with_name(".mine.crawl") / "dataset.json").exists()
    settings = TableSettings(allow_hosts=(host(server),), images_per_second=0, max_pairs=3)
    other = build_table(read_plan([csv], settings, "mine"), out, overwrite=True, quiet=True)
    assert other.manifest.funnel.kept == 3
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def _overwrite(csv: Path, out: Path, server: Any) -> None:
    settings = TableSettings(allow_hosts=(host(server),), images_per_second=0, concurrency=2, shard_size=16)
    build_table(read_plan([csv], settings, "mine"), out, overwrite=True, workers=1, quiet=True)


class _Place:
    """The address of a server, which unlike the server can be sent to another process."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place


def server_like(server: FaultServer) -> Any:
    return _Place(server.place)


def test_the_dataset_says_where_its_pairs_come_from(server: FaultServer, tmp_path: Path) -> None:
    folder = run(table(tmp_path, addresses(server, 3)), tmp_path / "out", server).folder
    assert Dataset.open(folder).manifest.settings["image"] == "url"
    assert set(column(Dataset.open(folder), "source")) == {"mine"}
