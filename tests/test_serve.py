"""`mvsent serve`: the endpoint over real sockets, its limits and refusals, and the page in Chromium."""

import base64
import contextlib
import http.client
import io
import json
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mvsent.config import TrainSettings
from mvsent.errors import InputError, UsageError
from mvsent.inference.attended import shown_picture
from mvsent.inference.model import Model, load
from mvsent.runs.train import train
from mvsent.serve import server
from mvsent.serve.application import application
from mvsent.serve.gate import Limits
from tests import programs
from tests.browser import chromium, console, emulate, needs_chromium, requests
from tests.serving import begun, behind_a_gate, until_closed

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> \x00 \u202e'
JSON = "application/json"


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TrainSettings(
        dataset=str(small_dataset), model="dmlanet", weights="random", words="random",
        text_vector="none", lexicon="none", epochs=1, batch_size=16, threads=1, folds=[0, 1],
    )  # fmt: skip
    return train(settings, out=tmp_path_factory.mktemp("serve") / "run", quiet=True).run


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return load(run, device="cpu", max_pixels=Limits.pixels)


@contextlib.contextmanager
def serving(model: Model, limits: Limits) -> Iterator[int]:
    """The port of a server that answers as `mvsent serve` does."""
    with ThreadPoolExecutor(1) as worker, behind_a_gate(application(model, limits, worker), limits) as found:
        yield found.port


@pytest.fixture(scope="module")
def port(model: Model) -> Iterator[int]:
    with serving(model, Limits()) as found:
        yield found


@pytest.fixture(scope="module")
def picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def multipart(**fields: str | bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form; bytes are a file."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in fields.items():
        file = '; filename="a.jpg"' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def asked(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def predicted(port: int, **fields: str | bytes) -> tuple[int, dict[str, Any]]:
    status, _, body = asked(port, "POST", "/api/predict", *multipart(**fields))
    return status, json.loads(body)


@pytest.mark.slow
def test_answers_are_those_of_the_model(port: int, model: Model, picture: bytes) -> None:
    for fields in ({"image": picture, "text": "so good"}, {"text": "so bad"}, {"image": picture}):
        status, found = predicted(port, **fields)
        expected = model.predict([fields.get("image")], [fields.get("text")])  # type: ignore[list-item]
        assert status == 200, found
        assert found["label"] == expected.labels[0]
        assert found["missing"] == expected.missing[0]
        assert list(found["probabilities"]) == list(expected.classes)
        given = list(found["probabilities"].values())
        np.testing.assert_allclose(given, expected.probabilities[0], atol=1e-6)


@pytest.mark.slow
def test_what_was_looked_at_comes_when_it_is_asked_for(port: int, picture: bytes) -> None:
    _, bare = predicted(port, image=picture, text="so good")
    assert (bare["maps"], bare["words"], bare["shades"]) == ({}, [], {})
    status, found = predicted(port, image=picture, text="so good", explain="true")
    assert status == 200, found
    assert found["words"] == ["so", "good"]
    assert [len(weights) for weights in found["shades"].values()] == [2]
    assert "class activation" in found["maps"]
    for uri in [found["picture"], *found["maps"].values()]:
        kind, data = uri.split(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (80, 60)
    assert "2 folds" in found["note"]


def test_a_missing_modality_is_explained_by_the_other(port: int, picture: bytes) -> None:
    _, text_only = predicted(port, text="so good", explain="true")
    assert (text_only["missing"], text_only["maps"]) == ("image", {})
    assert text_only["words"] == ["so", "good"]
    _, image_only = predicted(port, image=picture, explain="true")
    assert (image_only["missing"], image_only["words"]) == ("text", [])
    assert image_only["maps"]


def test_a_model_that_has_nothing_to_show_says_so_and_answers(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise UsageError("bare: has no attention")

    monkeypatch.setattr("mvsent.serve.answer.explain_pairs", nothing)
    status, found = predicted(port, text="so good", explain="true")
    assert (status, found["note"], found["maps"]) == (200, "bare: has no attention", {})
    assert found["label"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "neither a picture nor a text"),
        ({"text": " \n"}, "neither a picture nor a text"),
        ({"image": b"this is a text", "text": "good"}, "image-not-an-image"),
        ({"image": b"\xff\xd8\xff broken", "text": "good"}, "image-corrupt"),
        ({"image": b"", "text": "good"}, "the file is empty"),
        ({"image": "no file", "text": "good"}, "image:"),
        ({"text": "a" * 10_001}, "longer than 10,000 characters"),
        ({"text": "good", "explain": "perhaps"}, "explain:"),
    ],
)
def test_what_cannot_be_judged_gets_one_clear_line(
    port: int, fields: dict[str, str | bytes], said: str
) -> None:
    status, found = predicted(port, **fields)
    assert status == 422
    assert list(found) == ["error"]
    assert said in found["error"]
    assert "\n" not in found["error"]
    assert ".py" not in found["error"]


@pytest.fixture(scope="module")
def large() -> bytes:
    """A picture that `mvsent predict` takes and the page does not."""
    stream = io.BytesIO()
    Image.new("1", (5_001, 5_000)).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(port: int, large: bytes) -> None:
    status, found = predicted(port, image=large, text="good")
    assert status == 422
    assert "image-too-large: 5001x5000 pixels" in found["error"]


def test_no_more_pixels_are_shown_than_are_read(model: Model, large: bytes) -> None:
    with pytest.raises(InputError, match="image-too-large"):
        shown_picture(large, model.max_pixels)
    assert shown_picture(large) is not None


@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_upload_of_100_megabytes_is_refused(port: int, is_chunked: bool) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    if not is_chunked:
        headers["Content-Length"] = str(100 * 2**20)
    body = (b"a" * 2**20 for _ in range(100))
    status, _, answer = asked(port, "POST", "/api/predict", body, headers)
    assert status == 413
    assert json.loads(answer) == {"error": "the request is larger than 16,777,216 bytes"}


@pytest.mark.parametrize(
    "body", [b"--y\r\nnonsense", b"--x\r\n\x00: bad\r\n\r\ngood\r\n--x--\r\n", b"\r\n" * 99]
)
def test_a_broken_form_is_refused_and_the_log_stays_empty(
    port: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, answer = asked(port, "POST", "/api/predict", body, headers)
    assert status in {400, 422}
    assert list(json.loads(answer)) == ["error"]
    assert b"Traceback" not in answer
    assert caplog.messages == []


@pytest.mark.parametrize("kind", [JSON, "text/plain", "multipart/mixed; boundary=x", "", "\xff"])
def test_what_is_no_form_is_told_so(port: int, kind: str) -> None:
    status, _, answer = asked(port, "POST", "/api/predict", b'{"text": "good"}', {"Content-Type": kind})
    assert status == 415
    assert "send multipart/form-data" in json.loads(answer)["error"]


def test_a_form_of_any_kind_and_spelling_is_one(port: int) -> None:
    headers = {"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=utf-8"}
    assert asked(port, "POST", "/api/predict", b"text=so+good", headers)[0] == 200


@pytest.mark.slow
def test_each_of_200_requests_at_once_is_answered_or_told_to_come_back(port: int, picture: bytes) -> None:
    body, headers = multipart(image=picture, text="so good", explain="true")
    together = threading.Barrier(200)

    def ask(_: int) -> tuple[int, str | None]:
        together.wait(60)
        status, told, answer = asked(port, "POST", "/api/predict", body, headers)
        assert json.loads(answer)
        return status, told.get("retry-after")

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(ask, range(200)))
    statuses = [status for status, _ in found]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 1
    assert all((status == 503) == (again is not None) for status, again in found)
    assert predicted(port, text="good")[0] == 200, "it goes on as before"


class Stuck:
    """A model that answers when it is let go."""

    def __init__(self, model: Model) -> None:
        self.model, self.asked, self.go = model, threading.Event(), threading.Event()
        self.run, self.folds, self.classes = model.run, model.folds, model.classes

    def predict(self, *pair: Any) -> Any:
        self.asked.set()
        assert self.go.wait(60)
        return self.model.predict(*pair)


def test_one_request_too_many_is_told_to_come_back(model: Model) -> None:
    stuck = Stuck(model)
    with serving(stuck, Limits(under_way=1)) as port, ThreadPoolExecutor(1) as pool:  # type: ignore[arg-type]
        first = pool.submit(predicted, port, text="good")
        assert stuck.asked.wait(60)
        try:
            assert predicted(port, text="good") == (503, {"error": "too many requests at once; try again"})
            assert asked(port, "GET", "/healthz")[0] == 200
        finally:
            stuck.go.set()
        assert first.result()[0] == 200
        assert predicted(port, text="good")[0] == 200


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_not_waited_for(model: Model) -> None:
    stuck = Stuck(model)
    with serving(stuck, Limits(seconds=0.2)) as port:  # type: ignore[arg-type]
        try:
            assert predicted(port, text="good") == (504, {"error": "no answer within 0.2 s"})
        finally:
            stuck.go.set()


@pytest.mark.slow
def test_a_request_that_never_ends_gives_its_place_back(model: Model) -> None:
    with serving(model, Limits(body_seconds=0.2, under_way=1)) as port:
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            head = f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode() + b"a")
            assert b"408" in connection.recv(1000)
        assert asked(port, "GET", "/healthz")[0] == 200


def test_a_name_that_was_made_to_point_here_gets_nothing(port: int) -> None:
    body, headers = multipart(text="good")
    for host in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example"):
        for method, path in (("GET", "/"), ("POST", "/api/predict")):
            status, _, answer = asked(port, method, path, body, {**headers, "Host": host})
            assert (status, list(json.loads(answer))) == (400, ["error"])
    assert asked(port, "GET", "/healthz", headers={"Host": f"localhost:{port}"})[0] == 200


def test_a_page_of_another_site_may_not_ask(port: int) -> None:
    body, headers = multipart(text="good")
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
        assert asked(port, "POST", "/api/predict", body, {**headers, "Origin": origin})[0] == 403
    own = {**headers, "Origin": f"http://127.0.0.1:{port}"}
    assert asked(port, "POST", "/api/predict", body, own)[0] == 200


def test_every_answer_has_the_policy_and_none_lets_others_in(port: int) -> None:
    found = [
        asked(port, "GET", "/"), asked(port, "GET", "/static/serve.js"), asked(port, "GET", "/nowhere"),
        asked(port, "GET", "/", headers={"Host": "evil.example"}),
        asked(port, "POST", "/api/predict", *multipart(text="good")),
    ]  # fmt: skip
    for _, headers, _ in found:
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert not {"set-cookie", "access-control-allow-origin", "server"} & set(headers)


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/redoc",
        "/static/../server.py",
        "/static/%2e%2e%2fserver.py",
        "/static/x",
        "/healthz/",
        "/static/serve.js/",
        "/static/%00",
        "/static/%ff",
        "//etc/passwd",
    ],
)
def test_there_is_no_other_page(port: int, path: str) -> None:
    status, _, body = asked(port, "GET", path)
    assert status == 404
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/static/serve.js", "/openapi.json"])
def test_the_head_of_a_page_is_had_alone(port: int, path: str) -> None:
    (whole, has, body), (status, found, nothing) = (asked(port, how, path) for how in ("GET", "HEAD"))
    assert (whole, status, nothing) == (200, 200, b"")
    assert found["content-length"] == has["content-length"] == str(len(body))


def test_the_endpoint_is_described(port: int) -> None:
    status, headers, body = asked(port, "GET", "/openapi.json")
    assert (status, headers["content-type"]) == (200, JSON)
    answers = json.loads(body)["paths"]["/api/predict"]["post"]["responses"]
    assert {"200", "400", "413", "422", "503", "504"} <= set(answers)
    assert json.loads(asked(port, "GET", "/healthz")[2]) == {"status": "ok"}


def test_hostile_text_is_judged_as_text(port: int, model: Model) -> None:
    status, found = predicted(port, text=HOSTILE, explain="true")
    assert status == 200
    assert found["label"] == model.predict(texts=[HOSTILE]).labels[0]


def test_a_defect_leaks_nothing(model: Model) -> None:
    class Broken(Stuck):
        def predict(self, *pair: Any) -> Any:
            raise RuntimeError("/secret/path")

    with serving(Broken(model), Limits()) as port:  # type: ignore[arg-type]
        status, found = predicted(port, text="good")
    assert (status, found) == (500, {"error": "the server failed; its log says why"})


def test_a_port_in_use_a_host_that_is_none_and_a_missing_extra_are_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = pytest.raises(UsageError, match=r"^127\.0\.0\.1:.*in use.*--port")
    with server.bound("127.0.0.1", 0) as taken, in_use:
        server.serve(run, port=taken.getsockname()[1])
    with pytest.raises(UsageError, match="--host: is empty"):
        server.serve(run, host="")
    with pytest.raises(UsageError, match="no such address"):
        server.serve(run, host="not a host")
    with pytest.raises(UsageError, match=r"^--host 192\.0\.2\.1: .*Leave it out"):  # nobody's
        server.serve(run, host="192.0.2.1")
    monkeypatch.setattr(server, "_NEEDS", ("no_such_library",))
    with pytest.raises(UsageError, match=r"mvsent\[serve\]"):
        server.serve(run)


def test_an_open_address_is_called_by_address_and_a_closed_one_is_not() -> None:
    with server.bound("0.0.0.0", 0) as listening:
        assert "*" in server.names("0.0.0.0", listening)
        assert server.is_open(listening)
    with server.bound("127.0.0.1", 0) as listening:
        assert "*" not in server.names("127.0.0.1", listening)
        assert not server.is_open(listening)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_first_answers_who_has_begun_to_ask(
    run: Path, tmp_path: Path, large: bytes, number: signal.Signals
) -> None:
    command = programs.mvsent("serve", str(run), "--port", "0", "--device", "cpu")
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().split(":")[2].split("/")[0])
            assert predicted(port, image=large)[0] == 422, "the limits are the page's"
            body, headers = multipart(text="so good")
            with begun(port, len(body), f"Content-Type: {headers['Content-Type']}\r\n") as connection:
                process.send_signal(number)
                until_closed(port)
                connection.sendall(body)
                assert b" 200 OK" in connection.recv(1000)
            printed, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, printed) == (0, "")
    assert said == "efficientnet_lite0 has RANDOM weights: its features say nothing about pictures\n"


@pytest.mark.slow
def test_no_run_is_one_line(tmp_path: Path) -> None:
    command = programs.mvsent("serve", "--port", "0")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "mvsent: runs: holds no run. Make one with: mvsent train\n"


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "dropped.jpg", {type: "image/jpeg"}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
"""


@pytest.mark.slow
@needs_chromium
def test_a_person_drops_a_picture_types_a_text_and_sees_the_answer(
    port: int, model: Model, picture: bytes, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium(tmp_path / "home") as driver:
        emulate(driver, 390, scheme="dark")
        driver.get(f"http://127.0.0.1:{port}/")

        def of(name: str) -> Any:
            return driver.find_element(By.ID, name)

        def ask() -> str:
            of("ask").send_keys(Keys.ENTER)
            WebDriverWait(driver, 30).until(lambda _: of("ask").get_attribute("aria-disabled") is None)
            return str(of("status").text)

        assert "neither a picture nor a text" in ask()
        assert not of("answer").is_displayed()
        console(driver)  # a browser logs every refusal

        driver.execute_script(DROP, base64.b64encode(picture).decode())
        assert of("preview").is_displayed()
        of("text").send_keys('so good <script>alert("x")</script>')
        expected = model.predict([picture], ['so good <script>alert("x")</script>'])
        assert f"It feels {expected.labels[0]}" in ask()
        assert [
            meter.get_attribute("aria-label") for meter in driver.find_elements(By.TAG_NAME, "meter")
        ] == list(expected.classes)
        shown = driver.find_elements(By.CSS_SELECTOR, "#layers img")
        assert len(shown) >= 2
        assert all(image.get_property("naturalWidth") > 0 for image in shown)
        assert of("shades").text.startswith("so good <")
        captions = [caption.text for caption in driver.find_elements(By.CSS_SELECTOR, "#layers figcaption")]
        assert captions[0] == "picture"
        assert all(caption.endswith("(bright: more, dark: less)") for caption in captions[1:])
        assert "mvsent explain" in of("worth").text
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")

        of("text").send_keys("!")
        assert not of("answer").is_displayed(), "the answer is not to what the form now holds"
        assert of("status").text == ""
        ask()
        of("remove").click()
        assert not of("answer").is_displayed()

        (tmp_path / "note.txt").write_text("no picture")
        of("image").send_keys(str(tmp_path / "note.txt"))
        WebDriverWait(driver, 30).until(lambda _: of("unseen").is_displayed())
        assert of("unseen").text == "This file is not a picture."
        assert not of("preview").is_displayed()
        of("remove").click()
        path = tmp_path / "chosen.jpg"
        path.write_bytes(picture)
        of("image").send_keys(str(path))
        of("text").clear()
        assert of("preview").is_displayed() and not of("unseen").is_displayed()
        assert "judged without text" in ask()
        assert console(driver) == []
        own = (f"http://127.0.0.1:{port}/", "data:", f"blob:http://127.0.0.1:{port}/")
        assert [url for url in requests(driver) if url.startswith("http") and not url.startswith(own)] == []
