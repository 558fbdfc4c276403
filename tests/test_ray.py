"""What Ray's workers make is what this process makes, also where one of them, or the driver, is killed."""

import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from mvsent.build import assemble as build_assemble
from mvsent.build.assemble import is_enough, wanted_parts
from mvsent.build.from_table import build_table
from mvsent.build.parts import part_path
from mvsent.build.reconcile import reconcile
from mvsent.build.table_cells import read_plan
from mvsent.config import BuildSettings, ReconcileSettings
from mvsent.datasets.validate import validate
from mvsent.errors import EngineError, InputError, UsageError
from mvsent.features.cache import cached_maps
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.sources import flickr_dump
from mvsent.sources.dump_files import plan_parts
from mvsent.sources.mvsa import open_mvsa
from mvsent.sources.table import TableSettings
from mvsent.standin.drawn_dump import DumpDrawing, draw_dump
from mvsent.standin.drawn_mvsa import draw_dataset
from mvsent.standin.replay import Replay
from mvsent.workers import ray_cluster, ray_engine
from mvsent.workers.engine import LOCAL, LocalEngine, choose
from mvsent.workers.ray_engine import RayEngine
from tests.building import (
    EPOCH,
    SENTIMENTS,
    Watched,
    build,
    files_of,
    flickr_settings,
    kill,
    small_world,
    start,
)
from tests.conftest import write_dataset
from tests.drawing import draw_picture
from tests.fault_server import answer, serving
from tests.tables import drawn_rows, write_csv
from tests.test_cli import typed

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SECONDS = 120
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray with two cores that all tests share; its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="CRITICAL",
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def engine(cluster: str) -> RayEngine:
    return RayEngine(cluster)


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay(small_world(photos=14)) as running:
        running.requests = Watched()
        yield running


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture(scope="module")
def settings(replay: Replay, tmp_path_factory: pytest.TempPathFactory) -> BuildSettings:
    return flickr_settings(replay, tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def undisturbed(settings: BuildSettings, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a build by the local engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        return files_of(build(tmp_path_factory.mktemp("undisturbed") / "flickr", settings).folder)


def watched(replay: Replay, on_picture: Callable[[int], object]) -> None:
    """Call `on_picture` with the number of each request for a picture from now on."""
    requests, n_pictures = replay.requests, 0
    assert isinstance(requests, Watched)

    def look(n: int) -> None:
        nonlocal n_pictures
        if requests[-1].path.startswith("/images/"):
            n_pictures += 1
            on_picture(n_pictures)

    requests.clear()
    requests.count_anew(look)


def workers_at(task: str) -> list[int]:
    """Processes of our Ray that are at a task of this name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
            raylet = Path("/proc", _parent(process))
            is_ours = _parent(raylet) == str(os.getpid())
        except OSError:
            continue
        if is_ours and title.startswith(f"ray::{task}".encode()):
            found.append(int(process.name))
    return found


def _parent(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[1]


# Mapping


def triple(folder: Path, n: int) -> int:
    """Three times `n`; each call leaves a mark in `folder`, the first with 3 dies, and any with 50 fails."""
    first = not list(folder.glob(f"{n}-*"))
    (folder / f"{n}-{os.getpid()}").touch()
    if n == 3 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 50:
        raise InputError("50 is too much", "Take less")
    return 3 * n


def test_results_come_in_order_and_a_killed_workers_are_made_again(engine: RayEngine, tmp_path: Path) -> None:
    found = list(engine.map(partial(map, partial(triple, tmp_path)), range(20), chunk=2))
    assert found == [3 * n for n in range(20)]
    assert len(list(tmp_path.glob("3-*"))) == 2


def test_an_error_of_ours_is_raised_as_it_is_and_not_tried_again(engine: RayEngine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^50 is too much\. Take less$"):
        list(engine.map(partial(map, partial(triple, tmp_path)), [50]))
    assert len(list(tmp_path.glob("50-*"))) == 1


def unpack(n: int) -> None:
    raise ModuleNotFoundError("No module named 'einops'")


def test_a_package_that_a_worker_lacks_is_one_line(engine: RayEngine) -> None:
    with pytest.raises(
        EngineError, match=r"a worker of the Ray cluster lacks a package \(No module named 'ein"
    ):
        list(engine.map(partial(map, unpack), [1]))


def die(n: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_kills_every_worker_is_one_line(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "RETRIES", 0)
    with pytest.raises(EngineError, match="the Ray cluster gave up: WorkerCrashedError"):
        list(engine.map(partial(map, die), [1]))


class Counted(Sequence[int]):
    """Numbers that count how many of them were taken."""

    n_taken = 0

    def __len__(self) -> int:
        return 100

    def __getitem__(self, rows: Any) -> Any:
        self.n_taken += 1
        return range(100)[rows]


def test_few_items_are_under_way_at_once(engine: RayEngine) -> None:
    items = Counted()
    for n, _ in enumerate(engine.map(partial(map, abs), items)):
        assert items.n_taken <= n + 2 + 2 * ray_engine.PER_WORKER


def count_up(folder: Path, name: str) -> list[int]:
    """Add a line to the item's log, and to its done file after the third."""
    with (folder / f"{name}.log").open("a") as log:
        log.write("x\n")
    n_lines = len((folder / f"{name}.log").read_text().splitlines())
    if n_lines == 3:
        (folder / f"{name}.log").rename(folder / f"{name}.done")
    return [n_lines]


def names_of(name: str) -> tuple[str, str]:
    return f"{name}.log", f"{name}.done"


def completed(engine: Any, folder: Path, names: str) -> list[int]:
    """Results of `count_up` on each of the names."""
    return sorted(engine.as_completed(count_up, names, folder=folder, files=names_of, on_wait=lambda: None))


@pytest.mark.parametrize("others", ["local", "ray"])
def test_files_go_to_the_worker_and_come_back(others: str, engine: RayEngine, tmp_path: Path) -> None:
    use = {"ray": engine, "local": LOCAL}
    assert completed(engine, tmp_path, "ab") == [1, 1]
    assert completed(use[others], tmp_path, "ab") == [2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "b.log"}
    assert completed(engine, tmp_path, "a") == [3]
    assert {path.name for path in tmp_path.iterdir()} == {"a.done", "b.log"}
    assert (tmp_path / "a.done").read_text() == "x\nx\nx\n"


# Builds


def test_a_build_whose_worker_is_killed_in_the_middle_is_the_local_engines(
    replay: Replay, settings: BuildSettings, undisturbed: Files, engine: RayEngine, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(n: int) -> None:
        if n in (10, 40):
            victims = workers_at("fetch_partition")[:1]
            killed.extend(victims)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)

    watched(replay, kill_one)
    out = build(tmp_path / "flickr", settings, engine=engine).folder
    watched(replay, lambda n: None)
    assert len(set(killed)) == 2
    assert files_of(out) == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flickr"]
    # A worker that is killed before it has begun may leave an empty folder.
    assert list(Path(tempfile.gettempdir()).glob("mvsent-part-*/files")) == []


def driver(out: Path, settings: BuildSettings, engine: Any) -> Any:
    """A child process that builds.

    Nothing that it is given may import ray, as this module does: Ray reads how to authenticate at import, and
    the child has our environment only after that.
    """
    return start(partial(build, out, settings, engine=engine))


def test_a_dump_gives_the_local_engines_dataset(
    engine: RayEngine, replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = DumpDrawing(SENTIMENTS, 0.05, replay.flickr_endpoint.partition("/services")[0])
    dump = draw_dump(tmp_path / "dump.tsv", drawing, 300)
    monkeypatch.setattr(flickr_dump, "plan_parts", partial(plan_parts, part_bytes=30_000))
    settings = flickr_settings(replay, tmp_path, dumps=[str(dump)])
    by_ray = build(tmp_path / "ray" / "flickr", settings, engine=engine).folder
    assert files_of(by_ray) == files_of(build(tmp_path / "local" / "flickr", settings).folder)


@pytest.mark.parametrize("first, then", [("ray", "local"), ("local", "ray")])
def test_a_build_whose_driver_is_killed_goes_on_with_either_engine(
    first: str,
    then: str,
    replay: Replay,
    settings: BuildSettings,
    undisturbed: Files,
    engine: RayEngine,
    tmp_path: Path,
) -> None:
    use = {"ray": engine, "local": LOCAL}
    victim: list[Any] = []
    watched(replay, lambda n: n >= 30 and victim and kill(victim[0]))
    victim.append(driver(tmp_path / "flickr", settings, use[first]))
    victim[0].join(SECONDS)
    assert victim[0].exitcode in (-signal.SIGKILL, 255)
    watched(replay, lambda n: None)
    assert files_of(build(tmp_path / "flickr", settings, engine=use[then]).folder) == undisturbed


def test_ctrl_c_keeps_what_was_fetched(
    replay: Replay,
    settings: BuildSettings,
    undisturbed: Files,
    engine: RayEngine,
    tmp_path: Path,
) -> None:
    out = tmp_path / "flickr"
    process: list[Any] = []
    watched(replay, lambda n: n == 20 and process and os.kill(process[0].pid, signal.SIGINT))
    slow = settings.model_copy(update={"images_per_second": 20.0})
    process.append(driver(out, slow, engine))
    process[0].join(SECONDS)
    assert process[0].exitcode == 130
    asked = [request.path for request in replay.requests]
    assert sum(path.startswith("/images/") for path in asked) < 50
    replay.requests.clear()
    assert files_of(build(out, settings).folder) == undisturbed
    assert [path for path, n in Counter(asked + [r.path for r in replay.requests]).items() if n > 1] == []


def test_no_more_pairs_than_wanted_and_the_same_ones(
    replay: Replay, engine: RayEngine, tmp_path: Path
) -> None:
    few = flickr_settings(replay, tmp_path, max_pairs=20, shard_size=8)
    local = build(tmp_path / "local" / "flickr", few).folder
    spread = build(tmp_path / "ray" / "flickr", few, engine=engine).folder
    assert files_of(spread) == files_of(local)


def test_a_hosts_limit_holds_for_all_workers_together(
    replay: Replay, engine: RayEngine, undisturbed: Files, tmp_path: Path
) -> None:
    slow = flickr_settings(replay, tmp_path, images_per_second=25, concurrency=16)
    watched(replay, lambda n: None)
    build(tmp_path / "flickr", slow, engine=engine)
    times = sorted(request.time for request in replay.requests if request.path.startswith("/images/"))
    assert len(times) > 50
    assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 25 + 2


def test_parts_beyond_a_missing_one_or_beyond_max_pairs_are_no_part_of_the_dataset(
    replay: Replay, settings: BuildSettings, tmp_path: Path
) -> None:
    out = tmp_path / "flickr"
    victim: list[Any] = []
    watched(replay, lambda n: n >= 60 and victim and kill(victim[0]))
    victim.append(start(partial(build, out, settings)))
    victim[0].join(SECONDS)
    watched(replay, lambda n: None)
    parts = out / "parts"
    assert part_path(parts, 2).exists()
    assert len(wanted_parts(parts, settings)) >= 3
    few = settings.model_copy(update={"max_pairs": 1})
    assert wanted_parts(parts, few) == [part_path(parts, 0)]
    part_path(parts, 1).unlink()
    assert wanted_parts(parts, settings) == [part_path(parts, 0)]
    assert not is_enough(parts, settings.model_copy(update={"max_pairs": 17}))


def test_keys_are_read_only_of_parts_that_may_hold_enough(
    settings: BuildSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"id": ["a", "b"]}), part_path(tmp_path, 0))
    monkeypatch.setattr(build_assemble, "n_kept", lambda parts, settings: 2)
    assert is_enough(tmp_path, settings.model_copy(update={"max_pairs": 2}))
    monkeypatch.delattr(build_assemble, "n_kept")
    assert not is_enough(tmp_path, settings.model_copy(update={"max_pairs": 3}))


# Other stages


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "MVSA_Drawn"
    draw_dataset(folder, n_rows=80, seed=0)
    return folder


def test_reconciled_rows_are_the_local_engines(
    drawn: Path, engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(drawn.parent)
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", drawn))
    local = reconcile(drawn, tmp_path / "local", ReconcileSettings(), name="drawn", quiet=True)
    for root in (Path(drawn.name), zipped):
        spread = reconcile(
            root, tmp_path / root.stem, ReconcileSettings(), name="drawn", engine=engine, quiet=True
        )
        assert files_of(spread.folder) == files_of(local.folder)


def test_a_table_gives_the_local_engines_bytes(engine: RayEngine, tmp_path: Path) -> None:
    """Paths, addresses, and pictures in the table itself."""
    with serving() as server:
        rows = drawn_rows(tmp_path, 40)
        for row in rows[::2]:
            row["image"] = server.url(f"/{row['image']}", answer(body=(tmp_path / row["image"]).read_bytes()))
        write_csv(tmp_path / "pairs.csv", rows)
        held = [{**row, "id": "p", "image": draw_picture(1, 50 + n)} for n, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(held), tmp_path / "pairs.parquet", row_group_size=7)
        given = TableSettings(
            allow_hosts=("{}:{}".format(*server.place),), images_per_second=0, id="line", shard_size=16
        )
        plan = read_plan([tmp_path / "pairs.csv", tmp_path / "pairs.parquet"], given, "mine")
        local = build_table(plan, tmp_path / "local" / "mine", quiet=True).folder
        ours = build_table(plan, tmp_path / "ray" / "mine", engine=engine, quiet=True).folder
    assert files_of(ours) == files_of(local)
    assert Manifest.load(ours).funnel.kept == 80


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path, drawn: Path) -> None:
    root = Path(shutil.copytree(drawn, tmp_path / "MVSA"))
    with open_mvsa(root) as mvsa:
        sent = pickle.dumps(mvsa)
    (root / "labelResultAll.txt").unlink()
    with pytest.raises(InputError, match=r"MVSA.*: not found on "):
        pickle.loads(sent)
    shutil.rmtree(root)
    with pytest.raises(InputError, match=r"MVSA.*: not found on "):
        pickle.loads(sent)


def test_what_is_found_wrong_is_what_the_local_engine_finds(
    make_dataset: Callable[..., Path], sixty_pairs: Any, engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(sixty_pairs)
    assert validate(folder, engine=engine, quiet=True).document() == validate(folder, quiet=True).document()
    shard = folder / "data" / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    monkeypatch.chdir(folder.parent)
    here = Path(folder.name)
    local = validate(here, quiet=True)
    assert not local.clean
    assert validate(here, engine=engine, quiet=True).document() == local.document()


class Journey(LocalEngine):
    """An engine whose workers are this process, but everything is pickled on its way to them."""

    def map(self, work: Any, items: Any, **given: Any) -> Iterator[Any]:
        work, items = pickle.loads(pickle.dumps((work, items)))
        return (pickle.loads(pickle.dumps(result)) for result in work(items))


def test_a_remote_dataset_is_opened_by_the_worker_itself(bucket: Path, sixty_pairs: Any) -> None:
    folder = write_dataset(bucket / "drawn", sixty_pairs)
    assert (
        validate(folder, engine=Journey(), quiet=True).document() == validate(folder, quiet=True).document()
    )


class TinyBackbone(nn.Module):
    """Stands in for a `Backbone`: four channels on a 2×2 grid."""

    name, tap, size, shape, weights_sha256 = "tiny", "", 16, (4, 2, 2), "0"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 4, 1))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.trunk(pixels.float())


def test_features_are_the_local_engines(small_dataset: Path, engine: RayEngine, tmp_path: Path) -> None:
    dataset, backbone = Dataset.open(small_dataset), TinyBackbone()
    local = cached_maps(dataset, backbone, cache_dir=tmp_path / "local", quiet=True)  # type: ignore[arg-type]
    spread = cached_maps(
        dataset,
        backbone,  # type: ignore[arg-type]
        cache_dir=tmp_path / "ray",
        engine=engine,
        quiet=True,
    )
    assert np.array_equal(spread, local)


# What can be wrong before anything is done


def test_a_head_that_nobody_is_at_is_one_line(small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    code, said = typed("validate", str(small_dataset), "--engine", "ray", "--ray-address", "127.0.0.1:1")
    assert (code, said.count("\n")) == (1, 0)
    assert said.startswith("mvsent: the Ray cluster at 127.0.0.1:1 is unreachable (Connection refused). ")


@pytest.mark.parametrize("found_by", ["RAY_ADDRESS", "Ray"])
def test_auto_where_nobody_is_any_more_is_one_line(
    found_by: str, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    if found_by == "Ray":
        services = ray._private.services
        monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda auto: "127.0.0.1:1")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, said = typed("validate", str(small_dataset), "--engine", "ray", "--ray-address", "auto")
    assert (code, said.count("\n")) == (1, 0)
    assert said.startswith("mvsent: the Ray cluster at 127.0.0.1:1 is unreachable (Connection refused). ")


def test_auto_on_a_machine_of_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(auto: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray._private.services, "canonicalize_bootstrap_address", find)
    with pytest.raises(EngineError, match=r"the Ray cluster of this machine is unreachable \(Could not find"):
        RayEngine("auto").__enter__()


def test_a_head_that_is_something_else_is_one_line(
    small_dataset: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    address = replay.address.removeprefix("http://")
    code, said = typed("validate", str(small_dataset), "--engine", "ray", "--ray-address", address)
    assert (code, said.count("\n")) == (1, 0)
    assert "the server there is not a Ray head" in said


def test_another_version_on_the_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1"
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        UsageError, match=r"has other versions than this Python \(Version mismatch: .*2\.9\.0"
    ):
        RayEngine("local").__enter__()


def test_another_mvsent_on_a_node_is_one_line(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"has another mvsent \(.*, here 99\.0\)"), engine:
        ray_cluster._refuse_other_versions()


def test_another_mvsent_on_a_node_that_joined_late_is_one_line(
    engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"the Ray node [0-9.]+ has another mvsent \(.*, here 99\.0\)"):
        list(engine.map(partial(map, abs), [1]))


def test_a_node_that_joins_late_gets_work(monkeypatch: pytest.MonkeyPatch, engine: RayEngine) -> None:
    with engine:
        tasks = ray_engine._Tasks(abs, "abs")
        before = tasks.at_once
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 6.0})
        assert (before, tasks.at_once) == (2 * ray_engine.PER_WORKER, 6 * ray_engine.PER_WORKER)


def test_a_cluster_that_shrinks_goes_on(
    monkeypatch: pytest.MonkeyPatch, engine: RayEngine, tmp_path: Path
) -> None:
    cores = chain([3.0], repeat(1.0))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": next(cores)})
    assert completed(engine, tmp_path, "abcdefghijkl") == [1] * 12


def sleep(*_: Any) -> list[int]:
    time.sleep(5)
    return []


@pytest.mark.parametrize("in_order", [True, False])
def test_a_head_that_goes_away_ends_what_waits_for_it(
    in_order: bool, monkeypatch: pytest.MonkeyPatch, engine: RayEngine, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster, "WATCH_S", 0.0)
    monkeypatch.setattr(ray_cluster, "_lost", [])
    ray_cluster._watch("127.0.0.1:1", threading.Event())
    unordered = partial(engine.as_completed, folder=tmp_path, files=names_of, on_wait=lambda: None)
    waiting = engine.map(sleep, [1]) if in_order else unordered(sleep, ["a"])
    with pytest.raises(EngineError, match=r"at 127\.0\.0\.1:1 is unreachable \(Connection refused\)"):
        list(waiting)


def test_a_token_that_is_missing_or_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> None:
        os.write(2, b"W gcs_client.cc: Unauthenticated: InvalidAuthToken\n")
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match="requires its token"):
        RayEngine("local").__enter__()


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "ray://head:10001",
        "head:",
        "head:port",
        "head:99999",
        "head:²",
        "a..b:6379",
        "a" * 64 + ":6379",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a Ray cluster's head"):
        choose("ray", address)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "mvsent\[ray\]"'):
        choose("ray")


@pytest.mark.parametrize("cause", ["ImportError('no GLIBC_2.99')", "AttributeError('no bool8 in numpy')"])
def test_a_package_that_is_broken_says_why(
    cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text(f"raise {cause}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EngineError, match=r"the installed Ray cannot be imported \(no [Gb]"):
        choose("ray")


def test_an_address_without_ray_and_an_unknown_engine_are_refused(small_dataset: Path) -> None:
    assert typed("validate", str(small_dataset), "--ray-address", "head:6379")[0] == 2
    assert typed("validate", str(small_dataset), "--engine", "spark")[0] == 2
