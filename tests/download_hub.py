"""The part of the Hub's HTTP surface that a download needs, on loopback: one commit of data sets and models."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """`repos` maps ("datasets" or "models", id) to {path: bytes}; `sha` is the commit of all of them."""

    daemon_threads = True

    def __init__(self, repos):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.sha, self.asked = repos, SHA, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer(parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()))

    def answer(self, form=None):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[0] == "api" and parts[1] in ("datasets", "models"):
            self.api(parts[1], "/".join(parts[2:4]), parts[4:], form)
            return
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        self.file(kind, "/".join(parts[:2]), parts[2:])

    def api(self, kind, repo, rest, form):
        files = self.server.repos.get((kind, repo))
        if files is None:
            self.fail("RepoNotFound")
            return
        what = rest[0] if rest else "revision"
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files.items()
        ]
        if what == "revision":
            siblings = [{"rfilename": path} for path in files]
            self.send({"id": repo, "sha": self.server.sha, "private": False, "siblings": siblings, "tags": []})
        elif what == "tree":
            below = "".join(f"{part}/" for part in rest[2:])
            folders = sorted({entry["path"].rsplit("/", 1)[0] for entry in entries if "/" in entry["path"]})
            entries += [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in folders]
            found = [entry for entry in entries if entry["path"].startswith(below)]
            self.send(found) if found else self.fail("EntryNotFound")
        elif what == "paths-info":
            self.send([entry for entry in entries if entry["path"] in form.get("paths", [])])
        else:
            self.fail("EntryNotFound")

    def file(self, kind, repo, rest):
        files = self.server.repos.get((kind, repo))
        if files is None or not rest or rest[0] != "resolve":
            self.fail("RepoNotFound")
            return
        content = files.get("/".join(rest[2:]))
        if content is None:
            self.fail("EntryNotFound")
            return
        begin, end = 0, len(content) - 1
        if self.headers.get("Range"):
            begin, end = (int(bound or end) for bound in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[begin : end + 1]
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("X-Repo-Commit", self.server.sha)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Range", f"bytes {begin}-{end}/{len(content)}")
        self.finish_with(part)

    def send(self, value):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.finish_with(json.dumps(value).encode())

    def fail(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code}: {self.path}")
        self.finish_with(b'{"error": "not found"}')

    def finish_with(self, body):
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
