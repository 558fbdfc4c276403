"""Builds whose picture hosts, or APIs, fail as a whole: what they say, and what the same command does then."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mvsent.build.fill_pictures import fill_pictures
from mvsent.config import FetchSettings
from mvsent.errors import AllFailed, InputError, Refusing
from mvsent.shards.reader import Dataset
from mvsent.sources.crawl.candidate import Query, Window
from mvsent.sources.crawl.failures import SourceFailure
from mvsent.sources.flickr import LOGIN, FlickrClient, FlickrSettings
from mvsent.standin.faults import Faults
from mvsent.standin.replay import Replay
from tests.building import KEYS, build, files_of, flickr_settings, small_world, still_time
from tests.fault_server import answer, serving


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    still_time(monkeypatch)
    monkeypatch.setattr("mvsent.fetch.client.backoff", lambda attempt, *, base_s: 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_build_whose_pictures_all_failed_asks_for_them_again(overwrite: bool, tmp_path: Path) -> None:
    with Replay(small_world(6)) as replay:
        settings = flickr_settings(replay, tmp_path)
        expected = files_of(build(tmp_path / "undisturbed", settings).folder)
        replay.faults = Faults(image_500=1.0, repeats=10**6)
        for _ in range(2):
            with pytest.raises(AllFailed) as caught:
                build(tmp_path / "out", settings, overwrite=overwrite)
            assert caught.value.exit_code == 3
            said = r"all (\d+) pictures that were asked for failed; the first: 127.0.0.1: HTTP 500. The same"
            match = re.match(said, str(caught.value))
            assert match and int(match[1]) > 10
        replay.faults = Faults()
        assert files_of(build(tmp_path / "out", settings, overwrite=overwrite).folder) == expected


def test_a_build_whose_pictures_are_gone_is_told_to_widen_its_filters(tmp_path: Path) -> None:
    faults = Faults(image_500=0.5, repeats=10**6, image_404=1.0)
    with (
        Replay(small_world(6, quirks=0), faults=faults) as replay,
        pytest.raises(InputError, match="Widen the filters"),
    ):
        build(tmp_path / "out", flickr_settings(replay, tmp_path))


@pytest.mark.slow
def test_a_build_that_a_host_refuses_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with Replay(small_world(6)) as replay:
        settings = flickr_settings(replay, tmp_path, patience=0)
        expected = files_of(build(tmp_path / "undisturbed", settings).folder)
        replay.faults = Faults(image_burst=10, image_per_s=0.001)
        with pytest.raises(Refusing, match="has refused a request"):
            build(tmp_path / "out", settings)
        replay.faults = Faults()
        n_before = replay.calls["image"]
        assert files_of(build(tmp_path / "out", settings).folder) == expected
        assert replay.calls["image"] - n_before < len(Dataset.open(tmp_path / "out"))


def test_a_signature_that_a_server_repeats_is_in_no_message() -> None:
    """It is no secret that is known beforehand."""
    keys = {**KEYS, **{key.name: SecretStr(f"secret-{key.name}") for key in LOGIN}}
    with serving() as server:

        def echo(peer: Any) -> None:
            head = server.heads[-1]
            header = next(line for line in head.splitlines() if line.lower().startswith("authorization"))
            problem = {"stat": "fail", "code": 96, "message": f"Invalid signature in {header}"}
            answer(body=json.dumps(problem).encode())(peer)

        settings = FlickrSettings(endpoint=server.url("/services/rest/", echo))
        with pytest.raises(SourceFailure) as caught:
            FlickrClient(settings, keys).search(Query(1, "happy dog", "happy", 1.0), Window(1, 0, 0))
        signature = re.search(r'oauth_signature="([^"]+)"', server.heads[-1])
    assert signature and signature[1] not in str(caught.value)
    assert re.search(r"(?i)Invalid signature in Authorization: \[key\]$", caught.value.what)


def test_pictures_of_a_host_that_fails_are_asked_for_again_later(tmp_path: Path) -> None:
    with Replay(small_world(10, quirks=0)) as replay:
        listed = build(
            tmp_path / "listed", flickr_settings(replay, tmp_path, metadata_only=True, max_pairs=5)
        ).folder
        given = FetchSettings(allow_hosts=(replay.address.removeprefix("http://"),), images_per_second=0)
        replay.faults = Faults(image_500=1.0, repeats=10**6)
        with pytest.raises(AllFailed, match=r"all 5 pictures .* HTTP 500\. The same command asks"):
            fill_pictures(listed, given, tmp_path / "filled", quiet=True)
        replay.faults = Faults()
        assert len(Dataset.open(fill_pictures(listed, given, tmp_path / "filled", quiet=True).folder)) == 5
