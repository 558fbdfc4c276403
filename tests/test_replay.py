"""The stand-in shows what real servers show, does wrong what it is told to, and is the same every time."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr

from mvsent.errors import UsageError
from mvsent.pairs import Label
from mvsent.sources.flickr import FlickrClient, FlickrSettings
from mvsent.standin.damage import bomb
from mvsent.standin.faults import NAMES, Chance, Faults
from mvsent.standin.replay import KEY, OTHER_LOOPBACK, Replay
from mvsent.standin.world import LAST_UPLOAD, MAX_RESULTS, World, draw_jpeg
from tests import programs

TWO = {"happy dog": 1.0, "sad cat": -1.0}
IMAGE = "/images/1/positive-1-64x48.jpg"


def search(server: Replay, **given: Any) -> dict[str, Any]:
    form = {"method": "flickr.photos.search", "api_key": KEY, "text": "happy dog", "per_page": "500"}
    answer: dict[str, Any] = httpx.post(
        server.flickr_endpoint, data=form | {k: str(v) for k, v in given.items()}
    ).json()
    return answer


def photos(server: Replay, **given: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = search(server, **given)["photos"]["photo"]
    return listed


def get_image(faults: Faults, path: str = IMAGE, **given: Any) -> httpx.Response:
    with Replay(faults=faults) as server:
        return httpx.get(server.address + path, timeout=5, **given)


# The world


def test_world_of_a_seed_is_always_the_same() -> None:
    first, second, other = (World(TWO, seed=seed, photos=40) for seed in (1, 1, 2))
    assert first.results("flickr", "happy dog") == second.results("flickr", "happy dog")
    assert first.results("flickr", "happy dog") != other.results("flickr", "happy dog")


def test_order_of_questions_changes_no_answer() -> None:
    first, second = World(TWO, photos=40), World(TWO, photos=40)
    first.results("flickr", "sad cat")
    assert first.results("flickr", "happy dog") == second.results("flickr", "happy dog")


def test_some_photos_are_found_by_searches_of_opposite_sign() -> None:
    world = World(TWO, photos=200)
    happy, sad = ({photo.number for photo in world.results("flickr", query)} for query in TWO)
    assert 5 < len(happy & sad) < 80


def test_same_photo_is_the_same_for_every_search() -> None:
    world = World(TWO, photos=200)
    happy, sad = ({photo.number: photo for photo in world.results("flickr", query)} for query in TWO)
    assert all(happy[number] == sad[number] for number in happy.keys() & sad.keys())


def test_every_quirk_occurs_and_none_without_quirks() -> None:
    odd = {name for photo in World(TWO, photos=1500).results("flickr", "happy dog") for name in photo.odd}
    assert {"no-sizes", "few-sizes", "html", "no-text", "short", "long", "foreign", "tiny", "copy"} <= odd
    plain = World(TWO, photos=300, quirks=0).results("flickr", "happy dog")
    assert not any(photo.odd for photo in plain)
    assert len({photo.number for photo in plain}) == len(plain) == 300


def test_a_world_like_reality_has_titles_with_the_pair_and_owners_of_many_photos() -> None:
    """Whatever else that world has, the photos are those of the plain world."""
    photos = World(TWO, photos=400, like_reality=True).results("flickr", "happy dog")
    own = [photo for photo in photos if not {"one-word", "album"} & photo.odd and photo.number % 10**6 < 400]
    titled = [photo for photo in own if "happy dog" in photo.title.lower()]
    untagged = [photo for photo in own if not {"happy", "dog"} & set(photo.tags)]
    assert len(titled) > 20 and len(untagged) > 20 and set(titled) - set(untagged)
    owner, n_photos = Counter(photo.owner for photo in own).most_common(1)[0]
    texts = {photo.text for photo in own if photo.owner == owner}
    assert n_photos > 20 and len(texts) > 10
    plain = World(TWO, photos=400).results("flickr", "happy dog")
    assert [photo.number for photo in plain] == [photo.number for photo in photos]


def test_mood_of_a_photo_is_the_sign_of_its_search() -> None:
    world = World(TWO, photos=30, quirks=0)
    assert {photo.mood for photo in world.results("flickr", "sad cat")} == {Label.NEGATIVE}


def test_some_photos_have_the_opposite_mood_of_the_words_that_find_them() -> None:
    found = World(TWO, photos=400).results("flickr", "sad cat")
    assert 0.03 < sum(photo.mood == Label.POSITIVE for photo in found) / len(found) < 0.25


# Flickr


def test_windows_are_inclusive_at_both_ends() -> None:
    with Replay(World(TWO, photos=60)) as server:
        dates = sorted({int(photo["dateupload"]) for photo in photos(server)})
        low, high = dates[10], dates[20]
        found = {
            int(photo["dateupload"]) for photo in photos(server, min_upload_date=low, max_upload_date=high)
        }
    assert found == set(dates[10:21])


@pytest.mark.slow
def test_pages_past_the_cap_repeat_the_last_one() -> None:
    with Replay(World({"happy dog": 1.0}, photos=MAX_RESULTS + 700, quirks=0)) as server:
        last, beyond = (photos(server, page=page) for page in (8, 9))
        assert int(search(server)["photos"]["total"]) == MAX_RESULTS + 700
    assert [photo["id"] for photo in last] == [photo["id"] for photo in beyond]


def test_total_is_sometimes_text_and_sometimes_a_number() -> None:
    with Replay(World(TWO, photos=30)) as server:
        kinds = {type(search(server, page=page)["photos"]["total"]) for page in (1, 2)}
    assert kinds == {str, int}


def test_wrong_key_fails_with_code_100_and_http_200() -> None:
    with Replay() as server:
        assert search(server, api_key="wrong")["code"] == 100


def test_signed_call_needs_no_key_in_its_form() -> None:
    with Replay(World(TWO, photos=5)) as server:
        headers = {"Authorization": f'OAuth oauth_consumer_key="{KEY}", oauth_signature="x"'}
        form = {"method": "flickr.photos.search", "text": "happy dog"}
        assert httpx.post(server.flickr_endpoint, data=form, headers=headers).json()["stat"] == "ok"


def test_search_without_words_is_refused() -> None:
    with Replay() as server:
        assert search(server, text="")["code"] == 3


def test_licence_filters() -> None:
    with Replay(World(TWO, photos=80)) as server:
        assert {photo["license"] for photo in photos(server, license="4,5")} == {"4", "5"}


def test_connection_is_kept_alive() -> None:
    with Replay() as server, httpx.Client() as asker:
        for _ in range(3):
            asker.get(server.address + IMAGE)
        address = server.address.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as connection:
            for _ in range(2):
                connection.sendall(f"GET {IMAGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = b""
                while b"\xff\xd9" not in answer:
                    answer += connection.recv(2**16)
                assert answer.startswith(b"HTTP/1.1 200")


# Pictures


@pytest.mark.slow
def test_pictures_that_are_offered_have_the_size_they_promise() -> None:
    with Replay(World(TWO, photos=12)) as server:
        for photo in photos(server):
            for key in [key for key in photo if key.startswith("url_")][:1]:
                image = Image.open(BytesIO(httpx.get(photo[key]).content))
                name = key.removeprefix("url_")
                assert image.size == (int(photo[f"width_{name}"]), int(photo[f"height_{name}"]))


def test_picture_is_the_same_bytes_every_time() -> None:
    first = draw_jpeg(Label.POSITIVE, 1, 64, 48)
    draw_jpeg.cache_clear()
    assert draw_jpeg(Label.POSITIVE, 1, 64, 48) == first != draw_jpeg(Label.NEGATIVE, 1, 64, 48)


def test_copies_have_the_same_bytes_under_another_number() -> None:
    found = World(TWO, photos=1500).results("flickr", "happy dog")
    copy = next(photo for photo in found if "copy" in photo.odd)
    original = next(photo for photo in found if photo.number == copy.picture)
    assert copy.number != original.number and copy.picture == original.picture
    assert (copy.width, copy.height) == (original.width, original.height)


@pytest.mark.parametrize(
    "path", ["/images/x", "/images/1/sad-1-2x2.jpg", "/images/1/negative-x-2x2.jpg", "/nowhere"]
)
def test_unknown_path_is_404(path: str) -> None:
    assert get_image(Faults(), path).status_code == 404


# Faults


def test_passing_fault_passes_after_its_repeats() -> None:
    chance, faults = Chance(), Faults(api_500=1.0, repeats=2)
    assert [chance.fault(faults, "/search", "api_") for _ in range(3)] == ["api_500", "api_500", ""]


def test_lasting_fault_lasts() -> None:
    chance, faults = Chance(), Faults(image_404=0.5, repeats=0)
    for path in map(str, range(20)):
        assert len({chance.fault(faults, path, "image_") for _ in range(4)}) == 1


def test_fault_has_about_its_rate_and_follows_from_the_seed() -> None:
    def spoiled(seed: int) -> list[str]:
        chance = Chance()
        return [
            n for n in map(str, range(1000)) if chance.fault(Faults(image_404=0.1, seed=seed), n, "image_")
        ]

    assert 60 < len(spoiled(0)) < 140
    assert spoiled(0) == spoiled(0) != spoiled(1)


def test_faults_of_searches_spare_pictures() -> None:
    assert Chance().fault(Faults(api_500=1.0), IMAGE, "image_") == ""


@pytest.mark.parametrize("text", ["image_404=0.5", "image-404=0.5", " image-404 =0.5"])
def test_fault_is_given_by_name_and_rate(text: str) -> None:
    assert Faults().with_rates([text]).image_404 == 0.5


@pytest.mark.parametrize("text", ["image-405=1", "image-404", "image-404=often", "=1", "repeats=1.5"])
def test_fault_that_is_none_is_an_error_that_says_which_there_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"Known are: api-429|NAME=NUMBER"):
        Faults().with_rates([text])


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("image_429", 429, "text/plain"),
        ("image_500", 500, "text/html"),
        ("image_404", 404, "text/plain"),
        ("image_svg", 200, "image/svg+xml"),
        ("image_unavailable", 302, "text/plain"),
        ("image_loop", 302, "text/plain"),
        ("image_private", 302, "text/plain"),
        ("image_chain", 302, "text/plain"),
    ],
)
def test_fault_of_a_picture_has_its_status(fault: str, status: int, kind: str) -> None:
    response = get_image(Faults(**{fault: 1.0}))
    assert (response.status_code, response.headers["content-type"]) == (status, kind)


def test_retry_after_is_in_seconds_or_a_date() -> None:
    assert get_image(Faults(image_429_seconds=1.0, retry_after_s=9)).headers["retry-after"] == "9"
    assert get_image(Faults(image_429_date=1.0)).headers["retry-after"].endswith("GMT")


def test_chain_of_redirects_ends_at_the_picture() -> None:
    response = get_image(Faults(image_chain=1.0), follow_redirects=True)
    assert len(response.history) == 3 and response.content == draw_jpeg(Label.POSITIVE, 1, 64, 48)


def test_loop_of_redirects_never_ends() -> None:
    with pytest.raises(httpx.TooManyRedirects):
        get_image(Faults(image_loop=1.0), follow_redirects=True)


def test_placeholder_is_reached_by_a_redirect() -> None:
    response = get_image(Faults(image_unavailable=1.0), follow_redirects=True)
    assert response.url.path.endswith("photo_unavailable.png") and response.content[1:4] == b"PNG"


def test_truncated_picture_is_shorter_than_declared() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        get_image(Faults(image_truncated=1.0))


def test_corrupt_picture_is_declared_honestly() -> None:
    assert len(get_image(Faults(image_corrupt=1.0)).content) == len(draw_jpeg(Label.POSITIVE, 1, 64, 48)) // 2


def test_short_length_ends_the_connection() -> None:
    response = get_image(Faults(image_short_length=1.0))
    assert len(response.content) == int(response.headers["content-length"])
    assert response.headers["connection"] == "close"


def test_html_for_an_image_says_it_is_an_image() -> None:
    response = get_image(Faults(image_html=1.0))
    assert response.headers["content-type"] == "image/jpeg" and b"<html>" in response.content


def test_noai_is_said_in_a_header_beside_the_picture() -> None:
    response = get_image(Faults(image_noai=1.0))
    assert "noai" in response.headers["x-robots-tag"] and response.content[:2] == b"\xff\xd8"


def test_endless_picture_declares_ten_gigabytes_and_sends_them() -> None:
    with (
        Replay(faults=Faults(image_endless=1.0)) as server,
        httpx.stream("GET", server.address + IMAGE) as response,
    ):
        assert int(response.headers["content-length"]) == 10 * 2**30
        received = 0
        for chunk in response.iter_raw():
            received += len(chunk)
            if received > 2**20:
                break
    assert received > 2**20


def test_silent_server_says_nothing_until_it_stops() -> None:
    with Replay(faults=Faults(image_silent=1.0)) as server, pytest.raises(httpx.ReadTimeout):
        httpx.get(server.address + IMAGE, timeout=0.2)


def test_drip_comes_a_byte_at_a_time() -> None:
    with (
        Replay(faults=Faults(image_drip=1.0, drip_s=0.01)) as server,
        httpx.stream("GET", server.address + IMAGE) as response,
    ):
        chunks = response.iter_raw()
        assert [len(next(chunks)) for _ in range(3)] == [1, 1, 1]


@pytest.mark.slow
def test_bomb_is_small_and_valid_and_unpacks_to_900_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(bomb()) < 200_000
    with Image.open(BytesIO(bomb())) as image:
        assert image.size == (30_000, 30_000)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not listen on 127.0.0.2 unasked")
def test_redirect_to_another_loopback_address_is_noticed_if_it_is_followed() -> None:
    with Replay(faults=Faults(image_private=1.0)) as server:
        location = httpx.get(server.address + IMAGE).headers["location"]
        assert location.startswith(f"http://{OTHER_LOOPBACK}:") and not server.trespasses
        httpx.get(location)
        assert [request.path for request in server.trespasses] == [IMAGE]


def test_faults_may_change_while_it_runs() -> None:
    with Replay(faults=Faults(image_404=1.0)) as server:
        assert httpx.get(server.address + IMAGE).status_code == 404
        server.faults = Faults()
        assert httpx.get(server.address + IMAGE).status_code == 200


def test_requests_are_logged_without_keys() -> None:
    with Replay(World(TWO, photos=3)) as server:
        search(server)
        httpx.get(server.flickr_endpoint, params={"api_key": KEY, "method": "flickr.test"})
        form = {"client_id": KEY, "client_secret": server.environment()["GETTY_API_SECRET"]}
        assert httpx.post(server.getty_token_url, data=form).status_code == 200
        logged = json.dumps(server.requests)
    assert len(server.requests) == 3 and "text=happy+dog" in logged
    assert "mvsent-replay" not in logged
    assert server.calls == {"flickr.photos.search": 1, "flickr.test": 1, "getty.token": 1}


def test_stopping_hangs_up_on_those_who_wait() -> None:
    start = time.monotonic()
    with Replay(faults=Faults(image_silent=1.0, silent_s=60)) as server:
        address = server.address.removeprefix("http://").split(":")
        connection = socket.create_connection((address[0], int(address[1])))
        connection.sendall(f"GET {IMAGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while not server.requests:
            pass
    with connection:
        connection.settimeout(10)
        assert connection.recv(1) == b""
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_every_fault_changes_what_is_asked_for_and_nothing_else() -> None:
    """A fault that no route asks for would be silently without effect."""
    form = {"api_key": KEY, "method": "flickr.photos.search", "text": "happy dog"}
    headers = {"Api-Key": KEY, "Authorization": "Bearer x"}
    getty = "/v3/search/images/creative?phrase=joy"
    with Replay(World({"happy dog": 1.0}, photos=2, side=64)) as server, httpx.Client(timeout=5) as asker:

        def said(route: str) -> tuple[object, ...]:
            address = server.address + {"fail": "/services/rest/", "image": IMAGE}.get(route, getty)
            call = ("POST", address, form) if route == "fail" else ("GET", address, None)
            try:
                with asker.stream(*call[:2], data=call[2], headers=headers) as response:
                    start = next(response.iter_raw(20), b"")
            except httpx.HTTPError as error:
                return (type(error),)
            shown = {key: value for key, value in response.headers.items() if key != "date"}
            return (response.status_code, shown, start)

        sound = {route: said(route) for route in ("api", "getty", "fail", "image")}
        for name in NAMES:
            server.faults = Faults(**{name: 1.0}, repeats=10**6, silent_s=0.01, drip_s=0.001)
            for route, usual in sound.items():
                concerned = name.startswith(route) or (name.startswith("api") and route in ("fail", "getty"))
                concerned |= name.startswith("getty") and route == "api"  # the same request
                assert (said(route) != usual) == concerned, (name, route)


# The command


def test_command_prints_the_addresses_for_a_shell_and_ends_at_ctrl_c() -> None:
    command = programs.mvsent("replay", "--photos", "3", "--fault", "image-404=1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        lines = [process.stdout.readline() for _ in range(6)]
        given = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        place = given["MVSENT_FLICKR_ENDPOINT"].split("/")[2]
        assert process.stdout.readline().endswith(f"mvsent fetch asks with --allow-host {place}\n")
        form = {"method": "flickr.photos.search", "api_key": given["FLICKR_API_KEY"], "text": "happy dog"}
        assert httpx.post(given["MVSENT_FLICKR_ENDPOINT"], data=form).json()["stat"] == "ok"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_command_refuses_a_port_that_is_taken() -> None:
    with Replay() as server:
        port = server.address.rpartition(":")[2]
        command = programs.mvsent("replay", "--port", port)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"port {port}" in done.stderr and "Traceback" not in done.stderr


def test_last_day_is_part_of_the_world() -> None:
    dates = [photo.uploaded for photo in World(TWO, photos=300).results("flickr", "happy dog")]
    assert dates == sorted(dates) and dates[-1] <= LAST_UPLOAD


def test_every_fault_and_number_is_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "replay.md").read_text()
    for entry in fields(Faults):
        assert f"`{entry.name.replace('_', '-')}`" in page, entry.name


@pytest.mark.parametrize(
    "text",
    [
        *("image-404=2", "api-500=-0.1", "daily-limit=-1", "image-404=nan", "total-off=inf", "total-off=1.5"),
        *("image-per-s=0", "image-per-s=-1", "image-per-s=nan", "image-per-s=1e-320", "image-per-s=inf"),
        *("drip-s=inf", "silent-s=nan", "image-burst=" + "9" * 400),
    ],
)
def test_rate_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="out of bounds"):
        Faults().with_rates([text])


def test_photo_that_is_gone_is_found_by_a_search_and_not_by_its_number() -> None:
    with Replay(World(TWO, photos=5), faults=Faults(photo_gone=1)) as server:
        settings = FlickrSettings(endpoint=server.flickr_endpoint)
        client = FlickrClient(settings, {"FLICKR_API_KEY": SecretStr(KEY)})
        assert photos(server)
        assert not client.is_public("flickr:10000000001")
