"""What a crash, a full disk, an interrupt or a second process leaves of a dataset: all of it, or nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mvsent.errors import OutputExistsError, UsageError
from mvsent.pairs import PAIR_SCHEMA
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import staged
from mvsent.shards.writer import DatasetWriter
from tests.conftest import write_dataset
from tests.drawing import draw_pairs

REPOSITORY = Path(__file__).parents[1]


def run_python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, **options)


def build(out: Path, pairs: pa.Table, *, overwrite: bool = False) -> Manifest:
    with staged(out, overwrite=overwrite) as folder:
        write_dataset(folder, pairs, name="drawn", n_rejected=2)
    return Manifest.load(out)


def left_beside(out: Path) -> set[str]:
    return {path.name for path in out.parent.iterdir()} - {out.name}


# Builds again and again in children that kill themselves at their first, second, ... step that shows on the
# disk, and prints after which steps a child died; ends with the first child that lived to the end.
KILLED = """
import os, pathlib, signal, sys
import pandas  # which pyarrow would import in every child
from tests.conftest import write_dataset
from tests.drawing import draw_pairs
from mvsent.shards.staging import staged

parent, old = pathlib.Path(sys.argv[1]), sys.argv[2] == "old"

def build(out, n, overwrite):
    with staged(out, overwrite=overwrite) as folder:
        write_dataset(folder, draw_pairs(n, images=False), name="drawn", n_rejected=2)

def dying_at(step):
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        if event in WATCHED or (event == "open" and arguments[1] and "w" in arguments[1]):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    return watch

WATCHED = {"os.rename", "os.mkdir", "os.remove", "shutil.rmtree", "os.rmdir"}
for step in range(1, 1000):
    out = parent / str(step) / "drawn"
    child = os.fork()
    if child == 0:
        if old:
            build(out, 30, False)
        sys.addaudithook(dying_at(step))
        build(out, 60, old)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(step, os.WIFSIGNALED(status) and os.WTERMSIG(status), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


@pytest.fixture(scope="module", params=["new", "old"])
def killed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, list[Path]]:
    """Whether there was an older dataset, and the outputs of builds that died at one step each."""
    parent = tmp_path_factory.mktemp("killed")
    result = run_python(KILLED, parent, request.param)
    assert result.returncode == 0, result.stderr
    deaths = [line.split() for line in result.stdout.splitlines()]
    assert [signal for _, signal in deaths] == ["9"] * (len(deaths) - 1) + ["False"]
    assert len(deaths) > 20
    return request.param == "old", [parent / step / "drawn" for step, _ in deaths[:-1]]


@pytest.mark.slow
def test_a_killed_build_never_looks_finished(killed: tuple[bool, list[Path]]) -> None:
    had_old, outs = killed
    found = []
    for out in outs:
        if (out / "dataset.json").exists():
            rows = Dataset.open(out).table(PAIR_SCHEMA.names)  # whatever is there is whole
            found.append(len(rows))
            assert len(rows) in ({30, 60} if had_old else {60})
    assert found.count(60) < len(outs) / 3  # most died before the end


@pytest.mark.slow
def test_after_a_kill_the_same_command_succeeds(killed: tuple[bool, list[Path]], tmp_path: Path) -> None:
    had_old, outs = killed
    pairs = draw_pairs(60, images=False)
    expected = build(tmp_path / "drawn", pairs).sha256
    for out in outs:
        if had_old:
            with pytest.raises(OutputExistsError):  # the old dataset is never lost
                build(out, pairs)
        assert build(out, pairs, overwrite=True).sha256 == expected
        assert left_beside(out) == set()


FULL_DISK = """
import pathlib, resource, sys
from mvsent.cli import exit_code
from tests.test_staging import build
from tests.drawing import draw_pairs

pairs = draw_pairs(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.exit(exit_code(lambda: build(pathlib.Path(sys.argv[1]), pairs)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "file"), [(20_000, "data/shard-0000"), (1_000, "data/shard-0000")])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, limit: int, file: str) -> None:
    result = run_python(FULL_DISK, tmp_path / "drawn", limit)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"mvsent: {tmp_path}/.drawn.partial/{file}")
    assert "File too large" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows_at_once", [1, 60])
def test_a_disk_that_fills_up_while_rows_stream_leaves_nothing(
    tmp_path: Path, sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        staged(tmp_path / "drawn") as folder,
        DatasetWriter(folder, "drawn", settings={}, shard_size=25) as writer,
    ):
        monkeypatch.setattr(os, "fsync", full)
        for start in range(0, 60, rows_at_once):
            writer.write(sixty_pairs.slice(start, rows_at_once))
    assert str(caught.value.filename).endswith("data/shard-00000.parquet")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_removes_the_half_written_folder(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        staged(tmp_path / "drawn") as folder,
        DatasetWriter(folder, "drawn", settings={}, shard_size=25) as writer,
    ):
        writer.write(sixty_pairs)
        assert len(list((folder / "data").glob("shard-*.parquet"))) == 2
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_process_on_the_same_output_is_refused(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    holding = "import sys, pathlib\nfrom mvsent.shards.staging import staged\n"
    holding += "with staged(pathlib.Path(sys.argv[1])): print('holding', flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path / "drawn")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "holding\n"
        with pytest.raises(UsageError, match="another mvsent process is writing here"):
            build(tmp_path / "drawn", sixty_pairs)
        assert ".drawn.partial" in left_beside(tmp_path / "drawn")  # the other one's work is untouched
        other.kill()
    assert build(tmp_path / "drawn", sixty_pairs).funnel.kept == 60
    assert left_beside(tmp_path / "drawn") == set()


def test_a_finished_dataset_is_not_overwritten_unasked(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    first = build(tmp_path / "drawn", sixty_pairs)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        build(tmp_path / "drawn", sixty_pairs.slice(0, 30))
    assert Manifest.load(tmp_path / "drawn") == first
    assert build(tmp_path / "drawn", sixty_pairs.slice(0, 30), overwrite=True).funnel.kept == 30


def test_a_failed_overwrite_keeps_the_old_dataset(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    first = build(tmp_path / "drawn", sixty_pairs)
    with pytest.raises(RuntimeError), staged(tmp_path / "drawn", overwrite=True):
        raise RuntimeError
    assert Manifest.load(tmp_path / "drawn") == first
    assert left_beside(tmp_path / "drawn") == set()


@pytest.mark.parametrize("name", ["thesis.tex", "data/thesis.tex", "splits/thesis.tex"])
def test_files_that_are_no_datasets_are_never_deleted(
    tmp_path: Path, sixty_pairs: pa.Table, name: str
) -> None:
    out = tmp_path / "drawn"
    build(out, sixty_pairs)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    with pytest.raises(UsageError, match=f"contains {name}, which is not part of a dataset"):
        build(out, sixty_pairs, overwrite=True)
    assert (out / name).read_text() == "years of work"


def test_a_folder_of_other_things_is_refused(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"contains notes.txt"):
        build(tmp_path / "drawn", sixty_pairs, overwrite=True)


def test_an_empty_folder_and_a_missing_parent_are_no_obstacle(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    (tmp_path / "drawn").mkdir()
    assert build(tmp_path / "drawn", sixty_pairs).funnel.kept == 60
    assert build(tmp_path / "a" / "b" / "drawn", sixty_pairs).funnel.kept == 60


def test_a_file_in_the_way_is_refused(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    (tmp_path / "drawn").touch()
    with pytest.raises(UsageError, match="is a file"):
        build(tmp_path / "drawn", sixty_pairs)


def refused(out: Path, message: str) -> None:
    """`out` is refused before the block runs."""
    with pytest.raises(UsageError, match=message), staged(out, overwrite=True):
        pytest.fail("the work began")


def test_a_folder_that_cannot_be_renamed_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(Path("/"), "cannot be replaced")
    monkeypatch.chdir(tmp_path)
    refused(Path(), "cannot be replaced")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "disk")
    refused(tmp_path / "disk", f"is a mount point.*--out {tmp_path}/disk/NAME")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["nowhere", "empty", "drawn"])
def test_a_link_that_leads_to_no_dataset_is_refused_before_the_work(tmp_path: Path, target: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "drawn").symlink_to(target)
    refused(tmp_path / "drawn", f"is a link to {target}, which is not a dataset")


def test_a_link_to_a_dataset_is_replaced_and_not_followed(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    first = build(tmp_path / "real", sixty_pairs)
    (tmp_path / "drawn").symlink_to("real")
    assert build(tmp_path / "drawn", sixty_pairs.slice(0, 30), overwrite=True).funnel.kept == 30
    assert Manifest.load(tmp_path / "real") == first


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    refused(tmp_path / "notes" / "drawn", "/notes: is a file, not a folder")
    refused(tmp_path / "notes" / "a" / "drawn", "/notes: is a file, not a folder")


@pytest.mark.parametrize("length", [250, 300])
def test_too_long_a_name_is_an_error_that_names_it(tmp_path: Path, length: int) -> None:
    with pytest.raises(OSError, match="File name too long") as caught, staged(tmp_path / ("n" * length)):
        pytest.fail("the work began")
    assert "n" * length in os.fspath(caught.value.filename)
