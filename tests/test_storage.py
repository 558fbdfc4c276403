"""Datasets and runs in object storage: against a real S3 server, a bad network, and storage that refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

import mvsent
from mvsent import storage
from mvsent.cli import options
from mvsent.datasets.export import export
from mvsent.errors import (
    DatasetError,
    MvsentError,
    OutputExistsError,
    SilentStorageError,
    StorageError,
    UsageError,
)
from mvsent.inference.predict import predict_table
from mvsent.pages.explain import explain_run
from mvsent.runs.predictions import read_predictions
from mvsent.runs.run_folder import RunFolder
from mvsent.shards import lease as leases
from mvsent.shards import staging
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import lock_file, locked, staged
from mvsent.shards.writer import DatasetWriter
from mvsent.standin.drawn_mvsa import draw_dataset
from mvsent.standin.replay import Replay
from mvsent.storage import is_remote, located, problem, remove, undoing
from tests import programs
from tests.building import Watched, build, files_of, flickr_settings, kill, small_world, start, still_time
from tests.drawing import draw_pairs, draw_rejected
from tests.object_storage import BadNetwork, environment, forget, run, use


def write(out: Path, pairs: pa.Table, *, overwrite: bool = False, shard_size: int = 25) -> Path:
    with (
        staged(out, overwrite=overwrite) as folder,
        DatasetWriter(folder, out.name, settings={}, shard_size=shard_size) as writer,
    ):
        writer.write(pairs)
        writer.reject(draw_rejected(2))
        writer.finish(pairs.num_rows + 2)
    return out


def names(bucket: Path) -> list[str]:
    return sorted(name.removeprefix("pairs/") for name in bucket.fs.find("pairs"))


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("data/small", Path("data/small")),
        ("file:///srv/a%20b", Path("/srv/a b")),
        (Path("file:///srv/a"), Path("/srv/a")),
        ("file://localhost/srv/a", Path("/srv/a")),
        (Path("file://localhost/srv/a"), Path("/srv/a")),
        ("file:///localhost/a", Path("/localhost/a")),
        ("C:data", Path("C:data")),
        ("s3", Path("s3")),
    ],
)
def test_a_place_on_this_machine_is_a_path(given: str | Path, path: Path) -> None:
    assert located(given) == path and not is_remote(located(given))


@pytest.mark.slow
def test_an_address_survives_being_taken_for_a_path() -> None:
    assert str(located(Path("s3://pairs/a/b"))) == str(located("s3://pairs/a/b")) == "s3://pairs/a/b"
    assert is_remote(located("s3://pairs/a"))


@pytest.mark.parametrize("address", ["ftp://host/a", "http://host/a", "memory://a"])
def test_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="data cannot be stored there"):
        located(address)


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:", "S3://pairs/x", "FILE:///x", "s3://a b/x", "s3://pairs/g*", "s3://pairs/x[1]", "s3://pairs/a?",
     "s3://pairs/a\nb", "s3://pairs/../x", "s3://-/x", "s3:pairs/x", "gs:pairs", "file:o/rel", "file://host/a"],
)  # fmt: skip
def test_an_address_that_is_none_or_a_pattern_of_others_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        located(address)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="contains a user name or a password") as refused:
        located("s3://AKIA:SECRET@pairs/x")
    assert "SECRET" not in str(refused.value)


def test_a_scheme_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(UsageError, match=r'pip install "mvsent\[s3\]"'):
        located("s3://pairs/a")


@pytest.mark.slow
def test_a_dataset_there_is_byte_for_byte_the_one_here(
    bucket: Path, sixty_pairs: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    there, here = write(bucket / "a" / "small", sixty_pairs), write(tmp_path / "small", sixty_pairs)
    files = [path for path in here.rglob("*") if path.is_file()]
    assert names(bucket) == sorted(f"a/small/{path.relative_to(here)}" for path in files)
    for path in files:
        assert (there / str(path.relative_to(here))).read_bytes() == path.read_bytes()
    ours, theirs = Dataset.open(here), Dataset.open(there)
    assert theirs.sha256 == ours.sha256 and theirs.ids == ours.ids
    assert pa.Table.from_batches(theirs.batches(["id", "image", "text"], 7)).equals(
        pa.Table.from_batches(ours.batches(["id", "image", "text"], 7))
    )


@pytest.mark.slow
def test_a_column_is_read_without_the_pictures(
    bucket: Path, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = draw_pairs(40)
    padded = pairs.set_column(
        pairs.column_names.index("image"),
        pairs.schema.field("image"),
        pa.array(
            [{"bytes": os.urandom(400_000), "path": "x.jpg"} for _ in range(40)],
            pairs.schema.field("image").type,
        ),
    )
    write(bucket / "large", padded, shard_size=40)
    received = 0

    class Counting(BadNetwork):
        async def _pump(self, source, sink, limit=None):  # type: ignore[no-untyped-def]
            nonlocal received
            while data := await source.read(65536):
                received += len(data)
                sink.write(data)
                await sink.drain()

    with Counting(s3_address, lambda line: None).running() as address:
        use(address, monkeypatch)
        assert len(Dataset.open(located("s3://pairs/large")).labels) == 40
    assert received < 6_000_000 < 40 * 400_000


@pytest.mark.slow
def test_no_reader_sees_half_a_dataset(bucket: Path, sixty_pairs: pa.Table) -> None:
    out = bucket / "small"
    seen = []
    with staged(out) as folder, DatasetWriter(folder, "small", settings={}, shard_size=25) as writer:
        writer.write(sixty_pairs)
        seen = names(bucket)
        with pytest.raises(DatasetError, match="not a finished dataset"):
            Dataset.open(out)
        writer.finish(60)
    assert any(name.startswith("small/data/shard-") for name in seen)
    assert len(Dataset.open(out)) == 60


@pytest.mark.slow
def test_a_failure_leaves_nothing(bucket: Path, sixty_pairs: pa.Table) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        staged(bucket / "small") as folder,
        DatasetWriter(folder, "small", settings={}, shard_size=25) as writer,
    ):
        writer.write(sixty_pairs)
        raise ZeroDivisionError
    assert names(bucket) == []


@pytest.mark.slow
def test_what_arrives_after_an_interrupt_is_no_obstacle(bucket: Path, sixty_pairs: pa.Table) -> None:
    with pytest.raises(KeyboardInterrupt), staged(bucket / "small"):
        raise KeyboardInterrupt
    (bucket / "small" / "data" / "shard-00000.parquet").write_bytes(b"under way when it was interrupted")
    write(bucket / "small", sixty_pairs)
    assert len(Dataset.open(bucket / "small")) == 60 and ".small.partial" not in names(bucket)


@pytest.mark.slow
def test_what_is_finished_is_replaced_only_when_asked(bucket: Path, sixty_pairs: pa.Table) -> None:
    out = write(bucket / "small", sixty_pairs)
    with pytest.raises(OutputExistsError, match=r"s3://pairs/small: already contains a finished dataset"):
        write(out, sixty_pairs)
    write(out, sixty_pairs.slice(0, 30), overwrite=True)
    assert len(Dataset.open(out)) == 30 and len(names(bucket)) == 6


@pytest.mark.slow
def test_somebody_elses_objects_are_left_alone(bucket: Path, sixty_pairs: pa.Table) -> None:
    (bucket / "small" / "data" / "thesis.txt").write_bytes(b"years of work")
    with pytest.raises(UsageError, match="not part of a dataset"):
        write(bucket / "small", sixty_pairs, overwrite=True)
    assert (bucket / "small" / "data" / "thesis.txt").read_bytes() == b"years of work"


@pytest.mark.slow
def test_two_writers_are_told_apart_wherever_they_run(bucket: Path, sixty_pairs: pa.Table) -> None:
    out = bucket / "small"
    with locked(lock_file(out)), pytest.raises(UsageError, match="another mvsent process is writing here"):
        write(out, sixty_pairs)
    elsewhere = json.dumps({"host": "another-machine", "pid": 1})
    lock_file(out).write_text(elsewhere)
    with pytest.raises(UsageError, match=r"on another-machine holds .*if it died, delete that object"):
        write(out, sixty_pairs)
    assert names(bucket) == [".small.lock"] and lock_file(out).read_text() == elsewhere


@pytest.mark.slow
def test_a_lock_is_known_by_the_answer_of_every_server(
    bucket: Path, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file(bucket / "small").write_text(json.dumps({"host": "another-machine", "pid": 1}))
    with BadNetwork(
        s3_address, lambda line: "taken" if line.startswith("PUT") else None
    ).running() as address:
        use(address, monkeypatch)
        lock = lock_file(located("s3://pairs/small"))
        with pytest.raises(UsageError, match="on another-machine holds"), locked(lock):
            pass
        forget()


@pytest.mark.slow
def test_a_dead_process_of_the_same_number_holds_nothing(bucket: Path) -> None:
    lock = lock_file(bucket / "small")
    lock.write_text(
        json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": "of another container"})
    )
    with locked(lock), pytest.raises(UsageError, match="another mvsent process"), locked(lock):
        pass
    assert names(bucket) == []


@pytest.mark.slow
def test_what_another_process_took_over_meanwhile_stays_its(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, theirs = lock_file(bucket / "small"), json.dumps({"host": "another-machine", "pid": 1})
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    bury = leases._bury

    def too_late(path: Path) -> None:
        lock.write_text(theirs)
        bury(path)

    monkeypatch.setattr(leases, "_bury", too_late)
    with pytest.raises(UsageError, match="on another-machine holds"), locked(lock):
        pass
    assert names(bucket) == [".small.lock"] and lock.read_text() == theirs


def test_a_lock_whose_answer_was_lost_is_ones_own(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(path: Path, data: bytes) -> bool:
        path.write_bytes(data)
        return False  # as it is when the libraries ask once more

    monkeypatch.setattr(leases, "created", lost)
    with locked(lock_file(bucket / "small")):
        pass
    assert names(bucket) == []


def test_a_lock_that_changed_hands_is_not_given_back(bucket: Path) -> None:
    lock = lock_file(bucket / "small")
    with locked(lock):
        lock.write_text("another's")  # after a person had deleted this one
    assert lock.read_text() == "another's"


@pytest.mark.slow
def test_a_lock_that_is_neither_there_nor_free_is_given_up(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "created", lambda path, data: False)
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: None)
    with pytest.raises(StorageError, match="is said to be there"), locked(lock_file(bucket / "small")):
        pass


def test_the_first_error_is_shown_whatever_becomes_of_cleaning_up() -> None:
    def fails(error: BaseException) -> None:
        raise StorageError("cleaning up")

    with pytest.raises(StorageError, match="writing"), undoing(fails):
        raise StorageError("writing")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_not_asked_once_more(bucket: Path, sixty_pairs: pa.Table) -> None:
    asked: list[BaseException] = []
    with pytest.raises(SilentStorageError), undoing(asked.append):
        raise SilentStorageError("no answer")
    assert not asked
    with pytest.raises(SilentStorageError), staged(bucket / "small") as folder:
        (folder / "README.md").write_bytes(b"half")
        raise SilentStorageError("no answer")
    assert names(bucket) == [".small.lock", ".small.partial", "small/README.md"]
    write(bucket / "small", sixty_pairs)  # in the same process, which holds that lock no more
    assert not any(name.startswith(".small") for name in names(bucket))


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hung:  # it takes connections, and never says a word
        use(f"http://127.0.0.1:{hung.getsockname()[1]}", monkeypatch)
        with (
            pytest.raises(SilentStorageError, match=r"a\.lock: no answer"),
            locked(located("s3://pairs/a.lock")),
        ):
            pass
        forget()


def test_everything_under_a_name_is_removed_literally(bucket: Path) -> None:
    for name in ("x/", "x/a[1]", "x/*", "x/a1", "x2/a", "y/a"):
        bucket.fs.pipe_file(f"pairs/{name}", b"")
    remove(bucket / "x")
    assert names(bucket) == ["x2/a", "y/a"]


@pytest.mark.slow
def test_a_folder_that_a_console_made_is_an_empty_one(bucket: Path, sixty_pairs: pa.Table) -> None:
    bucket.fs.pipe_file("pairs/small/", b"")
    write(bucket / "small", sixty_pairs)
    assert len(Dataset.open(bucket / "small")) == 60 and "small/" not in names(bucket)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("Forbidden: https://storage.googleapis.com/…\nno access"), "access denied"),
        (
            type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})("Over quota, 429"),
            "Over quota, 429",
        ),
        (ValueError("Invalid endpoint: notaurl"), "AWS_ENDPOINT_URL is not an address"),
        (ValueError("something else"), None),
        (OSError(28, "No space left on device"), None),
    ],
)
def test_what_the_services_answer_is_told_from_other_errors(error: Exception, said: str | None) -> None:
    known = problem(error, "gs://pairs/a")
    assert (known is None) if said is None else (known is not None and said in str(known))


KILLED = """
import os, signal, sys
from tests.test_storage import located, staged, DatasetWriter, draw_pairs
with staged(located("s3://pairs/small")) as folder, DatasetWriter(folder, "s", settings={}, shard_size=25) as w:
    w.write(draw_pairs(60))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_a_killed_writer_left_is_no_obstacle(bucket: Path, sixty_pairs: pa.Table) -> None:
    died = subprocess.run(programs.python("-c", KILLED), cwd=Path(__file__).parents[1], check=False)
    assert died.returncode == -signal.SIGKILL
    assert ".small.lock" in names(bucket) and "small/data/shard-00001.parquet" in names(bucket)
    write(bucket / "small", sixty_pairs)
    assert len(Dataset.open(bucket / "small")) == 60 and ".small.lock" not in names(bucket)


def test_a_file_is_whole_or_not_there(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), atomic_write(bucket / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert names(bucket) == []
    with atomic_write(bucket / "a") as file:
        file.write(b"whole")
    assert (bucket / "a").read_bytes() == b"whole" and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["throttle", "drop"])
def test_a_bad_network_only_takes_longer(
    fate: str, bucket: Path, s3_address: str, sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0

    def every_fifth(line: str) -> str | None:
        nonlocal counted
        counted += 1
        return fate if counted % 5 == 0 and not line.startswith("DELETE") else None

    with BadNetwork(s3_address, every_fifth).running() as address:
        use(address, monkeypatch)
        out = write(located("s3://pairs/small"), sixty_pairs)
        rows = pa.Table.from_batches(Dataset.open(out).batches(["id", "image"], 9))
        forget()
    assert counted > 10
    assert rows.equals(sixty_pairs.select(["id", "image"]))


REFUSALS = {
    "deny": "access denied",
    "expired": "expired",
    "full": "QuotaExceeded",
}


@pytest.mark.slow
@pytest.mark.parametrize("fate", REFUSALS)
def test_storage_that_refuses_in_the_middle_is_one_line_and_leaves_no_dataset(
    fate: str, bucket: Path, s3_address: str, sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_shard(line: str) -> str | None:
        return fate if line.startswith("PUT") and "shard-00001" in line else None

    with BadNetwork(s3_address, second_shard).running() as address:
        use(address, monkeypatch)
        with pytest.raises(StorageError, match=REFUSALS[fate]) as refused:
            write(located("s3://pairs/small"), sixty_pairs)
        forget()
    assert "shard-00001" in str(refused.value) and "\n" not in str(refused.value)
    assert environment("")["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)
    use(s3_address, monkeypatch)
    assert names(located("s3://pairs")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["stats", "s3://pairs/none"], {}, "s3://pairs/none: no such folder"),
        (["stats", "s3://no-such-bucket/a"], {}, "s3://no-such-bucket/a: no such bucket"),
        (["reconcile-mvsa", "s3://pairs/MVSA.zip"], {}, "must be on this machine"),
        (["stats", "s3://pairs/a"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "no answer"),
        (["refresh", "s3://pairs/a"], {"FLICKR_API_KEY": "x"}, "must be on this machine"),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    words: list[str], more: dict[str, str], said: str, bucket: Path
) -> None:
    ended = run(*words, **more)
    assert ended.returncode in (1, 2) and said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_bucket_as_a_whole_is_nothing_to_write(bucket: Path, sixty_pairs: pa.Table) -> None:
    with pytest.raises(UsageError, match="Name a place in it: --out s3://pairs/NAME"):
        options._folder("s3://pairs")
    with pytest.raises(UsageError, match="Name a folder in it: --out s3://pairs/NAME"):
        write(bucket, sixty_pairs)


def test_a_run_in_a_bucket_that_is_not_there_is_not_said_to_lack_a_file(bucket: Path) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        RunFolder.open(located("s3://no-such-bucket/a"))


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_not_made(bucket: Path, sixty_pairs: pa.Table) -> None:
    with pytest.raises(MvsentError, match="no such bucket"):
        write(located("s3://no-such-bucket/small"), sixty_pairs)
    assert not located("s3://no-such-bucket").exists()


@pytest.mark.slow
def test_an_altered_shard_is_noticed(bucket: Path, sixty_pairs: pa.Table) -> None:
    out = write(bucket / "small", sixty_pairs)
    shard = out / "data" / "shard-00001.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(DatasetError, match=r"altered: .* bytes, the manifest says"):
        Dataset.open(out)
    shard.write_bytes(data[:4000] + bytes([data[4000] ^ 1]) + data[4001:])
    with pytest.raises(DatasetError, match="not a readable shard"):
        list(Dataset.open(out).batches(["id", "image", "text"], 50))
    shard.unlink()
    with pytest.raises(DatasetError, match="no such object"):
        Dataset.open(out)


@pytest.mark.slow
def test_an_export_goes_between_there_and_here(
    bucket: Path, sixty_pairs: pa.Table, small_dataset: Path, tmp_path: Path
) -> None:
    there = write(bucket / "small", sixty_pairs)
    assert export(there, "csv", tmp_path / "csv", quiet=True).rows == 60
    assert export(small_dataset, "csv", bucket / "csv", quiet=True).rows == 60
    assert "csv/export.json" in names(bucket) and len(names(bucket)) == 7 + 62
    with pytest.raises(UsageError, match="inside or around it"):
        export(there, "csv", there / "csv", quiet=True)


@pytest.mark.slow
def test_what_a_killed_export_left_is_no_obstacle_and_others_files_are(
    bucket: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bucket / "tars"
    with monkeypatch.context() as patched, pytest.raises(SilentStorageError):
        patched.setattr(staging, "put", silent)  # as a killed process, it removes nothing
        export(small_dataset, "webdataset", out, shard_rows=30, quiet=True)
    assert len(names(bucket)) == 4 and set(names(bucket)) > {".tars.lock", ".tars.partial"}
    (out / "thesis.txt").write_bytes(b"years of work")
    with pytest.raises(UsageError, match=r"contains thesis\.txt, which is not part of a dataset export"):
        export(small_dataset, "webdataset", out, shard_rows=30, quiet=True)
    (out / "thesis.txt").unlink()
    export(small_dataset, "webdataset", out, shard_rows=30, quiet=True)
    assert len(names(bucket)) == 3 and "tars/export.json" in names(bucket)


@pytest.mark.slow
def test_a_replaced_export_stays_until_the_new_one_is_sent(
    bucket: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise ZeroDivisionError

    export(small_dataset, "webdataset", bucket / "tars", quiet=True)
    before = names(bucket)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr("mvsent.datasets.export.sizes", fails)
        export(small_dataset, "webdataset", bucket / "tars", overwrite=True, quiet=True)
    assert names(bucket) == before
    with monkeypatch.context() as patched, pytest.raises(SilentStorageError):
        patched.setattr(staging, "remove", silent)
        export(small_dataset, "webdataset", bucket / "tars", overwrite=True, quiet=True)
    assert "tars/export.json" not in names(bucket)  # killed while the old one went
    export(small_dataset, "webdataset", bucket / "tars", quiet=True)
    assert names(bucket) == before


def silent(*arguments: object) -> None:
    raise SilentStorageError("no answer")


def test_a_readme_alone_is_not_what_mvsent_left(bucket: Path, sixty_pairs: pa.Table) -> None:
    (bucket / "small" / "README.md").write_bytes(b"my project")
    with pytest.raises(UsageError, match=r"contains README\.md"):
        write(bucket / "small", sixty_pairs)
    assert names(bucket) == ["small/README.md"]


@pytest.mark.slow
def test_the_commands_take_addresses(bucket: Path, sixty_pairs: pa.Table, tmp_path: Path) -> None:
    write(bucket / "small", sixty_pairs)
    for words, said in [
        (["stats", "s3://pairs/small"], "images"),
        (["validate", "s3://pairs/small"], "clean (60 rows, 60 pictures, 3 shards, 0 splits)"),
        (["split", "s3://pairs/small"], "validation"),
        (["export", "s3://pairs/small", "--to", "webdataset", "--out", "s3://pairs/tars"], "60 pairs"),
        (["report", "s3://pairs/small", "--out", "s3://pairs/small.html"], "60 of 60 pairs"),
        (["validate", "s3://pairs/small"], "1 split)"),
    ]:
        ended = run(*words)
        assert ended.returncode == 0 and said in ended.stdout, (words, ended.stdout, ended.stderr)
    assert {
        "tars/export.json",
        "tars/small-000000.tar",
        "small.html",
        "small/splits/paper-5x.parquet",
    } <= set(names(bucket))


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay(small_world(photos=10)) as running:
        running.requests = Watched()
        yield running


@pytest.mark.slow
def test_a_build_there_is_killed_continued_and_the_one_here(
    replay: Replay, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still_time(monkeypatch)
    monkeypatch.chdir(tmp_path)
    settings = flickr_settings(replay, tmp_path)
    build(tmp_path / "here", settings)
    out, victims = bucket / "flickr", []

    def kill_once(n: int) -> None:
        parts = list((tmp_path / "data").glob(".flickr-*.crawl/parts/part-00001.spool"))
        if parts and victims:
            kill(victims[0])

    replay.requests.count_anew(kill_once)
    victims.append(start(partial(build, out, settings)))
    victims[0].join(120)
    replay.requests.count_anew(lambda n: None)
    assert victims[0].exitcode in (-signal.SIGKILL, 255) and ".flickr.lock" in names(bucket)
    assert not any(name.startswith("flickr/") for name in names(bucket))
    build(out, settings)
    assert {name: (out / name).read_bytes() for name in files_of(tmp_path / "here")} == files_of(
        tmp_path / "here"
    )
    assert not list((tmp_path / "data").iterdir()) and ".flickr.lock" not in names(bucket)


@pytest.mark.slow
def test_a_reconciliation_there_is_the_one_here(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    root = tmp_path / "MVSA"
    draw_dataset(root, n_rows=40, seed=1)
    for out in ("here", "s3://pairs/there"):
        ended = run("reconcile-mvsa", str(root), "--out", out if out != "here" else str(tmp_path / out))
        assert ended.returncode == 0, ended.stderr
    here = files_of(tmp_path / "here")
    assert {name: (bucket / "there" / name).read_bytes() for name in here} == here


TRAIN = (
    "--stream",
    "--weights",
    "random",
    "--words",
    "random",
    "--epochs",
    "2",
    "--folds",
    "0",
    "--threads",
    "1",
)


@pytest.mark.slow
def test_a_training_from_there_to_there_is_killed_continued_and_the_one_here(
    bucket: Path, sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    here, there = write(tmp_path / "small", sixty_pairs), write(bucket / "small", sixty_pairs)
    assert run("train", str(here), *TRAIN, "--out", str(tmp_path / "run")).returncode == 0
    command = programs.mvsent("train", str(there), *TRAIN, "--out", "s3://pairs/run")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 0" in line:  # its checkpoint is saved
                break
        os.kill(programs.pid(process.pid), signal.SIGKILL)
    assert "run/fold-0/checkpoint.pt" in names(bucket) and "run/fold-0/predictions.parquet" not in names(
        bucket
    )
    resumed = run("train", "--resume", "--out", "s3://pairs/run")
    assert resumed.returncode == 0, resumed.stderr
    classes = [0, 1, 2]
    ours = read_predictions(tmp_path / "run" / "fold-0" / "predictions.parquet", classes)["test"]
    theirs = read_predictions(bucket / "run" / "fold-0" / "predictions.parquet", classes)["test"]
    assert theirs.ids == ours.ids and (theirs.y_prob == ours.y_prob).all()
    assert mvsent.load("s3://pairs/run").predict(texts=["fine"]).errors == [""]
    explain_run(located("s3://pairs/run"), n=1, measured=0)
    answered = predict_table(located("s3://pairs/run"), there, out=tmp_path / "answers.csv", quiet=True)
    assert answered.rows == 60 and not answered.failed
    assert "run/explain/explain.json" in names(bucket)
