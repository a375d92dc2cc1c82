"""A small hub on this machine: enough of the Hugging Face hub's protocol for huggingface_hub to list and download.

    with hub.serve() as server:
        server.add("models", "org/name", {"config.json": b"{}", "model.safetensors": Path("big.safetensors")})
        env = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}

Large files (.safetensors, .bin, .parquet) are LFS files as on the real hub: HEAD answers with a redirect that carries
X-Linked-Etag (sha256) and X-Linked-Size, and the bytes come from another address that honours Range. Other files have
git's hash as ETag. A gated repository answers 401 GatedRepo without a token and 403 with one that has not accepted.
"""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".pth", ".onnx")


class Repo:
    """Files of one commit, by name: bytes or a path."""

    def __init__(self, name, files, gated=False):
        self.name, self.files, self.gated = name, files, gated
        self.etags = {n: _etag(n, f) for n, f in files.items()}
        self.commit = hashlib.sha1(json.dumps([name, self.etags], sort_keys=True).encode()).hexdigest()

    def info(self):
        return {
            "_id": "0",
            "id": self.name,
            "sha": self.commit,
            "private": False,
            "gated": "manual" if self.gated else False,
            "tags": [],
            "siblings": [self.sibling(n) for n in sorted(self.files)],
        }

    def sibling(self, name):
        row = {"rfilename": name, "size": size(self.files[name]), "blobId": git_hash(self.files[name])}
        if name.endswith(LARGE):
            row["lfs"] = {"sha256": self.etags[name], "size": row["size"], "pointerSize": 134}
        return row

    def tree(self):
        rows = [self.sibling(n) for n in sorted(self.files)]
        return [
            {"type": "file", "path": r["rfilename"], "size": r["size"], "oid": r["blobId"]}
            | ({"lfs": {"oid": r["lfs"]["sha256"], "size": r["size"], "pointerSize": 134}} if "lfs" in r else {})
            for r in rows
        ]


class Hub:
    """The server and what it was asked for: `requests` holds (method, path, Range, Authorization)."""

    def __init__(self):
        self.repos, self.requests = {}, []
        self.accepted = {"accepted-token"}
        self.delay_s = 0.0  # after each chunk of a large file
        self.damage = False  # flips a byte of every large file
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def add(self, kind, name, files, gated=False):
        """A new commit of a repository; returns it."""
        self.repos[(kind, name)] = repo = Repo(name, files, gated)
        return repo

    def downloads(self):
        """Names of what was asked for by GET, without the API."""
        return [p for method, p, *_ in self.requests if method == "GET" and not p.startswith("/api/")]


@contextmanager
def serve():
    """A hub on a free port of 127.0.0.1 for the length of a with block."""
    hub = Hub()
    thread = threading.Thread(target=hub.httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.httpd.shutdown()
        hub.httpd.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        headers = (self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        self.hub.requests.append((self.command, path, *headers))
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            return self.api(parts[1], "/".join(parts[2:4]), parts[4:])
        if parts[0] == "blob":
            return self.blob(parts[1], "/".join(parts[2:4]), "/".join(parts[4:]))
        kind = "datasets" if parts[0] == "datasets" else "models"
        rest = parts[1:] if kind == "datasets" else parts
        return self.resolve(kind, "/".join(rest[:2]), rest[3], "/".join(rest[4:]))

    def api(self, kind, name, rest):
        repo = self.hub.repos.get((kind, name))
        if repo is None:
            return self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if len(rest) > 1 and rest[1] not in ("main", repo.commit):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if rest[:1] == ["tree"]:
            return self.send(200, json.dumps(repo.tree()).encode())
        return self.send(200, json.dumps(repo.info()).encode())

    def resolve(self, kind, name, revision, file):
        repo = self.hub.repos.get((kind, name))
        if repo is None:
            return self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo.gated and token not in self.hub.accepted:
            return self.send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
        if revision not in ("main", repo.commit) or file not in repo.files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        common = {"X-Repo-Commit": repo.commit, "ETag": f'"{repo.etags[file]}"', "Accept-Ranges": "bytes"}
        if not file.endswith(LARGE):
            return self.content(repo, file, common)
        linked = {"X-Linked-Etag": f'"{repo.etags[file]}"', "X-Linked-Size": str(size(repo.files[file]))}
        return self.send(302, b"", {**common, **linked, "Location": f"{self.hub.url}/blob/{kind}/{name}/{file}"})

    def blob(self, kind, name, file):
        repo = self.hub.repos[(kind, name)]
        return self.content(repo, file, {"ETag": f'"{repo.etags[file]}"', "Accept-Ranges": "bytes"})

    def content(self, repo, file, headers):
        data = bytearray(read(repo.files[file]))
        if self.hub.damage and file.endswith(LARGE):
            data[-1] ^= 1
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes="):
            return self.send(200, data, headers)
        start = int(asked.removeprefix("bytes=").split("-")[0])
        if start >= len(data):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.send(206, data[start:], {**headers, "Content-Range": span})

    def send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for start in range(0, len(body), 1 << 18):
                self.wfile.write(body[start : start + (1 << 18)])
                if self.hub.delay_s:
                    self.wfile.flush()
                    time.sleep(self.hub.delay_s)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def read(file):
    return file.read_bytes() if isinstance(file, Path) else file


def size(file):
    return file.stat().st_size if isinstance(file, Path) else len(file)


def git_hash(file):
    return hashlib.sha1(b"blob %d\0" % size(file) + read(file)).hexdigest()


def _etag(name, file):
    return hashlib.sha256(read(file)).hexdigest() if name.endswith(LARGE) else git_hash(file)
