"""A Hub on loopback that speaks the real protocol, for tests: the real client pushes to it and pulls from it.

    with Hub(xet=True) as hub:
        ... HF_ENDPOINT=hub.url HF_TOKEN=hub.token ...
        hub.repositories["you/tiny"].files()    # {path: bytes} on main

What it answers was written from huggingface_hub 2.4's own requests; hub_xet.py holds the storage behind Xet. Large
files and Xet live on a second port, as they live on another host than huggingface.co. Requests can be made to fail:
`Hub(fail="503")` fails each request once, `Hub(fail="503", only=3)` the third alone.

    503      the answer is "busy", and nothing was done
    reset    the connection breaks before anything was done
    cut      it was done, but the connection breaks in the middle of the answer
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_xet import Cas, shard_answer

# hflm with all waiting cut short: what it retries after is tested, not how long it waits.
QUICK = "import time; real = time.sleep; time.sleep = lambda s: real(min(s, 0.01)); from hflm.cli import main; main()"
LARGE = (".safetensors", ".bin", ".gguf", ".onnx", ".pt", ".zip")  # what a new repository's .gitattributes names
ATTRIBUTES = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE).encode()


@dataclass(frozen=True)
class File:
    """A file of a commit: its bytes, or the sha256 and size of a large one."""

    content: bytes = b""
    sha256: str | None = None
    length: int = 0

    @property
    def size(self):
        return self.length if self.sha256 else len(self.content)

    @property
    def pointer(self):
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.length}\n".encode()

    @property
    def oid(self):
        """The blob's name in git."""
        stored = self.pointer if self.sha256 else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    tree: dict[str, File]
    title: str
    message: str
    parent: str | None


@dataclass
class Repository:
    hub: "Hub"
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, tree, title, message=""):
        parent = self.branches.get(branch)
        described = json.dumps([parent, title, message, {path: file.oid for path, file in sorted(tree.items())}])
        oid = hashlib.sha1(described.encode()).hexdigest()
        self.commits[oid] = Commit(oid, tree, title, message, parent)
        self.branches[branch] = oid
        return oid

    def find(self, revision):
        """The Commit of a branch, a tag or an oid; None without one."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def history(self, revision="main"):
        """The Commits of a branch, newest first."""
        found, commit = [], self.find(revision)
        while commit:
            found.append(commit)
            commit = self.commits.get(commit.parent)
        return found

    def files(self, revision="main"):
        """{path: bytes} of a revision, without the .gitattributes that every repository has."""
        tree = self.find(revision).tree
        return {path: self.hub.content(file) for path, file in tree.items() if path != ".gitattributes"}

    def state(self):
        """All that makes a release: its files, how many commits, and what each tag holds."""
        return {
            "private": self.private,
            "files": self.files(),
            "commits": [(commit.title, commit.message) for commit in self.history()],
            "tags": {tag: self.files(tag) for tag in self.tags},
        }


@dataclass
class Request:
    method: str
    path: str  # unquoted, without the query
    query: dict[str, list[str]]
    headers: object
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Answer:
    body: object = b""  # bytes, or what becomes JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def error(status, message, code=None):
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer({"error": message}, status, headers)


class Hub:
    """The Hub of the module's docstring. `token` may write to the namespace "you", `reader` may only read."""

    token = "hf_" + "q" * 34
    reader = "hf_" + "r" * 34
    part_size = 4096  # bytes, of an upload in parts, when `multipart` is asked for

    def __init__(self, xet=False, fail=None, only=None, multipart=False, delay=0.0):
        self.xet, self.fail, self.only, self.multipart, self.delay = xet, fail, only, multipart, delay
        self.repositories = {}
        self.large = {}  # sha256 -> bytes
        self.parts = {}  # (sha256, number) -> bytes
        self.cas = Cas()
        self.log = []  # (method, path, status or kind of fault)
        self.arrived = threading.Event()  # set by the first request
        self.times = []  # of arrival, by time.monotonic
        self.seen = set()  # the requests that have failed once
        self.lock = threading.RLock()
        self.servers = []

    def __enter__(self):
        for _ in range(2):
            server = _Server(("127.0.0.1", 0), _Handler)
            server.hub = self
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            self.servers.append(server)
        self.url, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def environment(self, home, **more):
        """The variables that make a process talk to this Hub and to nothing else; `home` is a folder for its cache."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            **more,
        }

    def serve_here(self, monkeypatch, home, token=None):
        """Make the client in this process talk to this Hub, which it reads from the environment only when it is imported.

        All waiting is cut short.
        """
        from huggingface_hub import close_session, constants

        for name, value in {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(home),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": not self.xet,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", self.token if token is None else token)
        monkeypatch.setenv("NO_PROXY", "*")
        # What an earlier test Hub of the same port was sent is not known here.
        monkeypatch.setenv("HF_XET_CACHE", str(home / "xet"))
        monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
        sleep = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        close_session()

    def lasted(self):
        """Seconds from the first request to the last."""
        return self.times[-1] - self.times[0]

    def asked(self, *words):
        """How many requests so far held all of `words` in "METHOD path"."""
        return sum(all(word in f"{method} {path}" for word in words) for method, path, _ in self.log)

    def content(self, file):
        """The bytes of a File."""
        if file.sha256 is None:
            return file.content
        if file.sha256 in self.large:
            return self.large[file.sha256]
        return self.cas.content(self.cas.by_sha256[file.sha256])

    def fault(self, request):
        """How this request fails, or None."""
        if self.fail is None:
            return None
        key = (request.method, request.path, hashlib.sha1(request.body).hexdigest())
        with self.lock:
            first = key not in self.seen
            self.seen.add(key)
            return self.fail if (first if self.only is None else len(self.log) + 1 == self.only) else None

    def answer(self, request):
        for pattern, methods, function in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and request.method in methods.split():
                groups = match.groupdict()
                if "repo" in groups:  # a Space is kept as spaces/you/name
                    groups["repo"] = groups["repo"].removeprefix("models/")
                with self.lock:
                    return function(self, request, **groups)
        return error(404, f"no such page: {request.method} {request.path}")

    # Who asks, and for what.

    def user(self, request):
        token = (request.headers["Authorization"] or "").removeprefix("Bearer ")
        return {self.token: "write", self.reader: "read"}.get(token)

    def readable(self, request, repo):
        """(Repository, None), or (None, why not)."""
        found = self.repositories.get(repo)
        role = self.user(request)
        if found and (role or not found.private):
            return found, None
        if role is None:
            return None, error(401, "Invalid username or password.", "RepoNotFound")
        return None, error(404, "Repository not found", "RepoNotFound")

    def writable(self, request, repo):
        found, why = self.readable(request, repo)
        if found and self.user(request) != "write":
            return None, error(403, f"you may not write to {repo} with {request.headers['Authorization']}")
        return found, why

    def revision(self, request, repo, revision):
        found, why = self.readable(request, repo)
        if why:
            return None, None, why
        commit = found.find(unquote(revision))
        if commit is None:
            return None, None, error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found, commit, None

    # Accounts and repositories.

    def whoami(self, request):
        role = self.user(request)
        if role is None:
            return error(401, "Invalid username or password.")
        token = {"displayName": "test", "role": role}
        return Answer({"type": "user", "name": "you", "fullname": "You", "orgs": [], "auth": {"accessToken": token}})

    def create(self, request):
        role = self.user(request)
        asked = request.json()
        repo = f"{asked['organization'] or 'you'}/{asked['name']}"
        if role is None:
            return error(401, "Invalid username or password.")
        if repo.split("/")[0] != "you" or role != "write":
            return error(403, f"You don't have the rights to create a model under the namespace {repo.split('/')[0]}")
        if asked.get("type") == "space":
            repo = f"spaces/{repo}"
        url = {"url": f"{self.url}/{repo}"}
        if repo in self.repositories:
            return Answer({"error": "You already created this model repo", **url}, 409)
        found = self.repositories[repo] = Repository(self, asked.get("visibility") == "private")
        found.commit("main", {".gitattributes": File(ATTRIBUTES)}, "initial commit")
        return Answer(url)

    def delete(self, request):
        asked = request.json()
        repo = f"{asked['organization'] or 'you'}/{asked['name']}"
        _, why = self.writable(request, repo)
        return why or (self.repositories.pop(repo), Answer())[1]

    def move(self, request):
        asked = request.json()
        found, why = self.writable(request, asked["fromRepo"])
        if why:
            return why
        if asked["toRepo"] in self.repositories:
            return error(409, "it exists")
        self.repositories[asked["toRepo"]] = found
        del self.repositories[asked["fromRepo"]]
        return Answer()

    def settings(self, request, repo):
        found, why = self.writable(request, repo)
        if why:
            return why
        if "visibility" in request.json():
            found.private = request.json()["visibility"] == "private"
        return Answer({"private": found.private})

    def validate(self, request):
        from huggingface_hub import ModelCard

        text = request.json()["content"]
        if not text.startswith("---\n"):
            return Answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            ModelCard(text)
        except Exception as wrong:  # noqa: BLE001  whatever its parser says of the metadata
            return Answer({"errors": [{"message": str(wrong)}], "warnings": []}, 400)
        return Answer({"errors": [], "warnings": []})

    def info(self, request, repo, revision="main"):
        found, commit, why = self.revision(request, repo, revision)
        if why:
            return why
        siblings = []
        for path, file in commit.tree.items():
            entry = {"rfilename": path}
            if "blobs" in request.query:
                entry |= {"size": file.size, "blobId": file.oid}
                if file.sha256:
                    entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
            siblings.append(entry)
        return Answer(
            {
                "_id": "0" * 24,
                "id": repo,
                "modelId": repo,
                "sha": commit.oid,
                "private": found.private,
                "disabled": False,
                "gated": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    # What is in it.

    def entry(self, path, file):
        entry = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
        if file.sha256:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
            if file.sha256 in self.cas.by_sha256:
                entry["xetHash"] = self.cas.by_sha256[file.sha256]
        return entry

    def folders(self, tree):
        parents = {"/".join(path.split("/")[:depth]) for path in tree for depth in range(1, path.count("/") + 1)}
        return {path: hashlib.sha1(path.encode()).hexdigest() for path in sorted(parents)}

    def tree(self, request, repo, revision, sub=None):
        _, commit, why = self.revision(request, repo, revision)
        if why:
            return why
        start = f"{sub}/" if sub else ""
        deep = request.query.get("recursive", ["false"])[0].lower() == "true"
        inside = [path for path in commit.tree if path.startswith(start)]
        if sub and not inside:
            return error(404, f"{sub} does not exist", "EntryNotFound")
        folders = {path: oid for path, oid in self.folders(inside).items() if path.startswith(start)}
        entries = [{"type": "directory", "path": path, "size": 0, "oid": oid} for path, oid in folders.items()]
        entries += [self.entry(path, commit.tree[path]) for path in inside]
        return Answer([entry for entry in entries if deep or "/" not in entry["path"].removeprefix(start)])

    def paths_info(self, request, repo, revision):
        _, commit, why = self.revision(request, repo, revision)
        if why:
            return why
        paths = parse_qs(request.body.decode())["paths"]
        folders = self.folders(commit.tree)
        found = [self.entry(path, commit.tree[path]) for path in paths if path in commit.tree]
        found += [{"type": "directory", "path": path, "oid": folders[path]} for path in paths if path in folders]
        return Answer(found)

    def refs(self, request, repo):
        found, why = self.readable(request, repo)
        if why:
            return why

        def listed(kind, refs):
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in sorted(refs.items())
            ]

        return Answer({"branches": listed("heads", found.branches), "tags": listed("tags", found.tags), "converts": []})

    def commits(self, request, repo, revision):
        found, _, why = self.revision(request, repo, revision)
        if why:
            return why
        return Answer(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.message,
                    "date": "2030-01-01T00:00:00.000Z",
                    "authors": [{"user": "you"}],
                }
                for commit in found.history(unquote(revision))
            ]
        )

    def branch(self, request, repo, name):
        found, why = self.writable(request, repo)
        if why:
            return why
        if request.method == "DELETE":
            return Answer() if found.branches.pop(name, None) else error(404, "no such branch", "RevisionNotFound")
        if name in found.branches:
            return error(409, "Reference already exists")
        start = found.find((request.json() if request.body else {}).get("startingPoint") or "main")
        if start is None:
            return error(404, "no such starting point", "RevisionNotFound")
        found.branches[name] = start.oid
        return Answer()

    def squash(self, request, repo, branch):
        found, why = self.writable(request, repo)
        if why:
            return why
        head = found.find(unquote(branch))
        if head is None:
            return error(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        del found.branches[unquote(branch)]
        found.commit(unquote(branch), head.tree, request.json()["message"])
        # As on the Hub: the commits that no branch and no tag holds any longer are gone, and large files with them.
        held = {commit.oid for ref in (*found.branches, *found.tags) for commit in found.history(ref)}
        found.commits = {oid: commit for oid, commit in found.commits.items() if oid in held}
        return Answer()

    def tag(self, request, repo, name):
        """POST: `name` is the revision that gets the tag; DELETE: the tag."""
        found, why = self.writable(request, repo)
        if why:
            return why
        if request.method == "DELETE":
            return Answer() if found.tags.pop(name, None) else error(404, "no such tag", "RevisionNotFound")
        tag, commit = request.json()["tag"], found.find(unquote(name))
        if tag in found.tags:
            return error(409, "Tag reference exists already")
        if commit is None:
            return error(404, f"Invalid rev id: {name}", "RevisionNotFound")
        found.tags[tag] = commit.oid
        return Answer()

    # Uploads.

    def preupload(self, request, repo, revision):
        found, why = self.writable(request, repo)
        if why:
            return why
        asked = request.json()["files"]
        if len(asked) > 256:
            return error(413, "at most 256 files a call")
        commit = found.find(unquote(revision))
        if commit is None:
            return error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = []
        for file in asked:
            base64.b64decode(file["sample"], validate=True)
            large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
            old = commit.tree.get(file["path"])
            oid = None
            if old and bool(old.sha256) == large:
                oid = old.sha256 or old.oid
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer({"files": files})

    def lfs_batch(self, request, repo):
        _, why = self.writable(request, repo)
        if why:
            return why
        objects = []
        for asked in request.json()["objects"]:
            sha256, size = asked["oid"], asked["size"]
            found = {"oid": sha256, "size": size}
            if sha256 not in self.large:
                upload = {"href": f"{self.storage}/lfs/{sha256}", "header": {}}
                if self.multipart:
                    numbers = range(1, -(-size // self.part_size) + 1)
                    parts = {str(number): f"{self.storage}/lfs/{sha256}/{number}" for number in numbers}
                    upload = {
                        "href": f"{self.url}/lfs-complete/{sha256}",
                        "header": {"chunk_size": str(self.part_size), **parts},
                    }
                verify = {"href": f"{self.url}/{repo}.git/info/lfs/verify", "header": {}}
                found["actions"] = {"upload": upload, "verify": verify}
            objects.append(found)
        return Answer({"transfer": "multipart" if self.multipart else "basic", "objects": objects})

    def lfs_put(self, request, sha256, part=None):
        if request.headers["Authorization"]:
            return error(400, "the storage wants no token of the Hub")
        if part is not None:
            self.parts[sha256, int(part)] = request.body
            return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
        if hashlib.sha256(request.body).hexdigest() != sha256:
            return error(400, "the content is not what its name says")
        self.large[sha256] = request.body
        return Answer()

    def lfs_complete(self, request, sha256):
        parts = [self.parts[sha256, part["partNumber"]] for part in request.json()["parts"]]
        if hashlib.sha256(b"".join(parts)).hexdigest() != sha256:
            return error(400, "the parts are not the whole")
        self.large[sha256] = b"".join(parts)
        return Answer({})

    def lfs_verify(self, request, repo):
        _, why = self.writable(request, repo)
        asked = request.json()
        return why or (Answer({}) if len(self.large.get(asked["oid"], b"")) == asked["size"] else error(404, "absent"))

    def commit(self, request, repo, revision):
        found, why = self.writable(request, repo)
        if why:
            return why
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines[0]["value"]
        branch = unquote(revision)
        if branch not in found.branches:
            return error(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = found.branches[branch]
        if header.get("parentCommit") not in (None, head):
            return error(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(found.commits[head].tree)
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            match kind:
                case "file":
                    tree[value["path"]] = File(base64.b64decode(value["content"], validate=True))
                case "lfsFile":
                    if value["oid"] not in self.large and value["oid"] not in self.cas.by_sha256:
                        return error(400, f"{value['path']}: its content was never uploaded")
                    tree[value["path"]] = File(sha256=value["oid"], length=value["size"])
                case "deletedFile":
                    if value["path"] not in tree:
                        return error(404, "A file with this name doesn't exist", "EntryNotFound")
                    del tree[value["path"]]
                case "deletedFolder":
                    tree = {path: file for path, file in tree.items() if not path.startswith(value["path"])}
        oid = found.commit(branch, tree, header["summary"], header["description"])
        url = f"{self.url}/{repo}/commit/{oid}"
        return Answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # Downloads.

    def resolve(self, request, repo, revision, path):
        _, commit, why = self.revision(request, repo, revision)
        if why:
            return why
        file = commit.tree.get(unquote(path))
        if file is None:
            return error(404, f"{path} does not exist", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.sha256 is None:
            return ranged(request, file.content, headers)
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        headers["Location"] = f"{self.storage}/lfs/{file.sha256}"
        if self.xet and file.sha256 in self.cas.by_sha256:
            headers["X-Xet-Hash"] = self.cas.by_sha256[file.sha256]
            token = f"{self.url}/api/models/{repo}/xet-read-token/{commit.oid}"
            headers["Link"] = f'<{token}>; rel="xet-auth"'
        return Answer(b"", 302, headers)

    def lfs_get(self, request, sha256):
        file = File(sha256=sha256)
        if sha256 not in self.large and sha256 not in self.cas.by_sha256:
            return error(404, "no such content")
        return ranged(request, self.content(file), {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    # Xet: tokens here, the rest on the storage's port.

    def xet_token(self, request, repo, kind, revision):
        _, why = (self.writable if kind == "write" else self.readable)(request, repo)
        if why or not self.xet:
            return why or error(404, "this Hub has no Xet")
        until = int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": self.storage,
            "X-Xet-Access-Token": f"xet-{kind}",
            "X-Xet-Token-Expiration": str(until),
        }
        return Answer({"casUrl": self.storage, "accessToken": f"xet-{kind}", "exp": until}, headers=headers)

    def xorb_grant(self, request, xorb):
        if request.headers["Authorization"] != "Bearer xet-write":
            return error(401, "no Xet token")
        number = self.cas.grant(xorb, request.json()["length"])
        if number is None:
            return Answer({"was_inserted": False})
        return Answer(
            {"id": number, "method": "PUT", "url": f"{self.storage}/xorb-uploads/{number}", "headers": {}}, 201
        )

    def xorb_put(self, request, number):
        return Answer() if self.cas.receive(number, request.body) else error(400, "not the length that was granted")

    def xorb_commit(self, request, xorb, number):
        return Answer({"was_inserted": True}) if self.cas.commit(xorb, number) else error(404, "nothing was uploaded")

    def xorb_get(self, request, xorb):
        return ranged(request, self.cas.xorbs[xorb], {})

    def shard(self, request):
        if request.headers["Authorization"] != "Bearer xet-write":
            return error(401, "no Xet token")
        try:
            self.cas.add_shard(request.body)
        except (ValueError, KeyError) as wrong:
            return error(400, str(wrong))
        return Answer(shard_answer(), headers={"Content-Type": "application/x-ndjson"})

    def reconstruction(self, request, file):
        if file not in self.cas.files:
            return error(404, "no such file")
        start, end = asked_range(request, self.cas.size(file)) or (0, self.cas.size(file))
        if start >= self.cas.size(file):
            return error(416, "behind the end")
        return Answer(self.cas.reconstruction(file, lambda xorb: f"{self.storage}/xorb/{xorb}", start, end))

    def chunk(self, request, chunk):
        return error(404, "not known")


def asked_range(request, size):
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers["Range"] or "")
    return match and (int(match[1]), min(int(match[2] or size) + 1, size))


def ranged(request, content, headers):
    """All of `content`, or the range that was asked for."""
    asked = asked_range(request, len(content))
    if not asked:
        return Answer(content, 200, headers)
    start, end = asked
    if start >= len(content):
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{len(content)}"})
    return Answer(content[start:end], 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})


REPO, REV = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
KIND = r"(?P<repo>(?:models|spaces)/[^/]+/[^/]+)"
SHA, HASH = r"(?P<sha256>[0-9a-f]{64})", r"[0-9a-f]{64}"
ROUTES = [
    (r"/api/whoami-v2", "GET", Hub.whoami),
    (r"/api/repos/create", "POST", Hub.create),
    (r"/api/repos/delete", "DELETE", Hub.delete),
    (r"/api/repos/move", "POST", Hub.move),
    (r"/api/validate-yaml", "POST", Hub.validate),
    (rf"/api/{KIND}", "GET", Hub.info),
    (rf"/api/{KIND}/revision/{REV}", "GET", Hub.info),
    (rf"/api/{KIND}/settings", "PUT", Hub.settings),
    (rf"/api/{KIND}/preupload/{REV}", "POST", Hub.preupload),
    (rf"/api/{KIND}/commit/{REV}", "POST", Hub.commit),
    (rf"/api/{KIND}/commits/{REV}", "GET", Hub.commits),
    (rf"/api/{KIND}/refs", "GET", Hub.refs),
    (rf"/api/{KIND}/branch/(?P<name>.+)", "POST DELETE", Hub.branch),
    (rf"/api/{KIND}/super-squash/(?P<branch>[^/]+)", "POST", Hub.squash),
    (rf"/api/{KIND}/tag/(?P<name>.+)", "POST DELETE", Hub.tag),
    (rf"/api/{KIND}/tree/{REV}(?:/(?P<sub>.+))?", "GET", Hub.tree),
    (rf"/api/{KIND}/paths-info/{REV}", "POST", Hub.paths_info),
    (rf"/api/{KIND}/xet-(?P<kind>read|write)-token/{REV}", "GET", Hub.xet_token),
    (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "POST", Hub.lfs_batch),
    (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify", "POST", Hub.lfs_verify),
    (rf"/lfs-complete/{SHA}", "POST", Hub.lfs_complete),
    (rf"/lfs/{SHA}(?:/(?P<part>\d+))?", "PUT", Hub.lfs_put),
    (rf"/lfs/{SHA}", "GET HEAD", Hub.lfs_get),
    (rf"/v1/xorb-grants/default/(?P<xorb>{HASH})", "POST", Hub.xorb_grant),
    (r"/xorb-uploads/(?P<number>[\w-]+)", "PUT", Hub.xorb_put),
    (rf"/v1/xorb-commits/default/(?P<xorb>{HASH})/grant/(?P<number>[\w-]+)", "POST", Hub.xorb_commit),
    (rf"/xorb/(?P<xorb>{HASH})", "GET", Hub.xorb_get),
    (r"/v2/shards", "POST", Hub.shard),
    (rf"/v2/reconstructions/(?P<file>{HASH})", "GET", Hub.reconstruction),
    (rf"/v1/chunks/[\w-]+/(?P<chunk>{HASH})", "GET", Hub.chunk),
    (rf"/{REPO}/resolve/{REV}/(?P<path>.+)", "GET HEAD", Hub.resolve),
]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A client that was killed leaves broken connections: they are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        hub = self.server.hub
        parts = urlsplit(self.path)
        # The revision and the file of a path are quoted apart, so that a slash in a branch stays in its part.
        request = Request(self.command, parts.path, parse_qs(parts.query), self.headers, self.read())
        hub.times.append(time.monotonic())
        hub.arrived.set()
        time.sleep(hub.delay)
        kind = hub.fault(request)
        if kind in (None, "cut"):
            answer = hub.answer(request)
        elif kind == "503":
            answer = error(503, "busy")
        with hub.lock:
            hub.log.append((request.method, unquote(request.path), kind or answer.status))
        if kind == "reset":
            return self.reset()
        if not isinstance(answer.body, bytes):
            answer.body = json.dumps(answer.body).encode()
            answer.headers = {"Content-Type": "application/json", **answer.headers}
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer = []
        raw = head + (b"" if self.command == "HEAD" else answer.body)
        if kind == "cut":
            self.wfile.write(raw[: max(len(raw) - max(len(answer.body), 2) // 2 - 1, len(raw) // 2)])
            self.wfile.flush()
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return None
        self.wfile.write(raw)
        return None

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read(self):
        if self.headers["Transfer-Encoding"] == "chunked":
            content = bytearray()
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(content)
        size = int(self.headers["Content-Length"] or 0)
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionError("the client went away in the middle of its request")
        return content

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    def log_message(self, *_):
        pass
