"""A stand-in for the Hugging Face hub: one process, memory only, on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """Repositories by name: files of the main branch, and of each tag."""

    def __init__(self) -> None:
        self.main: dict[str, Files] = {}
        self.tags: dict[str, dict[str, Files]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.url = ""

    def files(self, repo: str, revision: str) -> Files | None:
        """Those of a branch, a tag, or a commit (which is the hash of the files)."""
        known = {"main": self.main.get(repo, {}), **self.tags.get(repo, {})}
        known |= {commit(files): files for files in list(known.values())}
        return known.get(revision)


def commit(files: Files) -> str:
    text = repr(sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items()))
    return hashlib.sha1(text.encode()).hexdigest()


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            hub.asked.append(f"{self.command} {self.path}")

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self) -> None:
            path, body = unquote(urlsplit(self.path).path), self.body()
            if path == "/api/repos/create":
                asked = json.loads(body)
                repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.main.setdefault(repo, {})
                hub.private[repo] = (
                    bool(asked.get("private")) or asked.get("visibility") == "private"
                )
                return self.answer({"url": f"{hub.url}/{repo}"})
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|tag)/(.+)", path)
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if found is None or found[1] not in hub.main:
                return self.answer({"error": f"unknown: {path}"}, 404)
            repo, action = found[1], found[2]
            if action == "preupload":
                files = json.loads(body)["files"]
                kept = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
                return self.answer({"files": kept})
            if action == "tag":
                files = dict(hub.files(repo, found[3]) or {})
                hub.tags.setdefault(repo, {})[json.loads(body)["tag"]] = files
                return self.answer({})
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    value = item["value"]
                    hub.main[repo][value["path"]] = base64.b64decode(value["content"])
            oid = commit(hub.main[repo])
            url = f"{hub.url}/{repo}/commit/{oid}"
            return self.answer({"commitUrl": url, "commitOid": oid, "success": True})

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path == "/api/whoami-v2":
                return self.answer({"name": "lab", "type": "user", "orgs": []})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", path):
                repo = found[1]
                tags = hub.tags.get(repo, {})
                oid = {name: commit(files) for name, files in tags.items()}
                return self.answer(
                    {
                        "branches": [self.ref("heads", "main", commit(hub.main[repo]))],
                        "tags": [self.ref("tags", name, value) for name, value in oid.items()],
                        "converts": [],
                    }
                )
            rule = r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?"
            if found := re.fullmatch(rule, path):
                repo, kind, revision = found[1], found[2], found[3] or "main"
                files = hub.files(repo, revision)
                if files is None:
                    code = {"X_Error_Code": "RevisionNotFound"}
                    return self.answer({"error": "no such revision"}, 404, **code)
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in files.items()
                ]
                siblings = [{"rfilename": name} for name in files]
                about = {"_id": "1", "id": repo, "modelId": repo, "sha": commit(files)}
                about |= {"siblings": siblings, "private": hub.private.get(repo, True), "tags": []}
                return self.answer(tree if kind == "tree" else about)
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                files = hub.files(found[1], found[2]) or {}
                if found[3] in files:
                    data = files[found[3]]
                    return self.answer(
                        data,
                        ETag=f'"{hashlib.sha1(data).hexdigest()}"',
                        X_Repo_Commit=commit(files),
                        Accept_Ranges="bytes",
                    )
            return self.answer({"error": f"unknown: {path}"}, 404)

        do_HEAD = do_GET

        @staticmethod
        def ref(kind: str, name: str, oid: str) -> dict[str, str]:
            return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}

    return Handler


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that listens on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
