"""A stand-in for Hugging Face's hub on loopback, for its own client."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that a download takes. `repositories`: id → folder; `gated`: ids."""

    repositories: dict[str, Path]
    gated: set[str]
    asked: list[str]

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None: ...

    def answer(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0].removeprefix("/api/models")
        id = next((id for id in self.repositories if path.startswith(f"/{id}/")), "")
        rest = path.removeprefix(f"/{id}/").split("/", 2)
        if not id:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif id in self.gated:
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest[0] == "revision":
            folder = self.repositories[id]
            names = [{"rfilename": str(p.relative_to(folder))} for p in folder.rglob("*") if p.is_file()]
            about = {"id": id, "sha": COMMIT, "siblings": names, "private": False, "downloads": 0, "tags": []}
            self.send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        elif rest[0] == "tree":
            folder = self.repositories[id]
            entries = [
                {
                    "type": "file",
                    "path": str(p.relative_to(folder)),
                    "size": p.stat().st_size,
                    "oid": "0" * 40,
                }
                for p in folder.rglob("*")
                if p.is_file()
            ]
            self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        elif rest[0] == "resolve" and (self.repositories[id] / rest[2]).is_file():
            data = (self.repositories[id] / rest[2]).read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            self.send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving(
    repositories: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Hub]]:
    """A hub with the repositories, id → folder, within the block; downloads go to `cache`."""
    from huggingface_hub import constants

    kind = type("OneHub", (Hub,), {"repositories": repositories, "gated": set(), "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield kind
        server.shutdown()
