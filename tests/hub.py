"""A model hub on localhost."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

COMMIT = "0" * 40  # of every model's main branch


@contextlib.contextmanager
def served(models: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serves folders by their models' names, OWNER/NAME; gives the address and the paths asked for."""
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def _answer(self, *, with_body):
            asked.append(self.path)
            content = self._content()
            self.send_response(404 if content is None else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if with_body and content:
                self.wfile.write(content)

        def _content(self):
            for name, folder in models.items():
                for revision in ("main", COMMIT):
                    if self.path == f"/api/models/{name}/revision/{revision}":
                        files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
                        return json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode()
                    if self.path.startswith(f"/api/models/{name}/tree/{revision}"):
                        return json.dumps([_listed(path) for path in sorted(folder.iterdir())]).encode()
                    head = f"/{name}/resolve/{revision}/"
                    if self.path.startswith(head) and (folder / self.path[len(head) :]).is_file():
                        return (folder / self.path[len(head) :]).read_bytes()
            return None

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def _listed(path: Path) -> dict:
    return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": COMMIT}


def environment(address: str, cache: Path) -> dict[str, str]:
    """What makes huggingface_hub ask there, with a cache of its own."""
    return {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "localhost",
    }
