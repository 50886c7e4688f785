"""A server that gives out folders as the Hugging Face hub does its repositories, and tells what was asked for."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0" * 40


@dataclass
class ModelHub:
    """``repositories``: name to folder."""

    repositories: dict[str, Path]
    url: str = ""
    downloaded: list[str] = field(default_factory=list)


@contextmanager
def serve_hub(repositories: dict[str, Path]) -> Iterator[ModelHub]:
    hub = ModelHub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ModelHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        for name, folder in self.hub.repositories.items():
            files = sorted(folder.iterdir())
            if self.path.startswith(f"/api/models/{name}/tree/{COMMIT}"):
                tree = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
                self._send(json.dumps(tree).encode(), with_body)
                return
            if self.path.startswith(f"/api/models/{name}"):
                siblings = [{"rfilename": file.name} for file in files]
                self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), with_body)
                return
            file = folder / self.path.rpartition("/")[2]
            if self.path == f"/{name}/resolve/{COMMIT}/{file.name}" and file.is_file():
                if with_body:
                    self.hub.downloaded.append(file.name)
                self._send(file.read_bytes(), with_body)
                return
        self.send_error(404)

    def _send(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass
