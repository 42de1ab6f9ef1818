import base64
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from hflm import push
from hflm.errors import UserError

TOKEN = "hf_" + "q" * 34
RECIPE = """
name: tiny
model: {from: org/base}
tasks: {sentiment: {data: {path: /home/alice/reviews.csv}, labels: [negative, positive]}}
benchmark: {tasks: [sentiment]}
push: {repo_id: you/tiny, private: true}
"""
SENT = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "sub/shard.safetensors",
    "README.md",
    "recipe.yaml",
    "environment.json",
    "benchmark/results.json",
    "plots/learning_curve.png",
}


@pytest.fixture
def run(tmp_path):
    """A finished run among the working files of its training."""
    run = tmp_path / "tiny run"
    text = {
        "model/config.json": "{}",
        "model/tokenizer.json": "{}",
        "model/model.safetensors": "weights",
        "model/sub/shard.safetensors": "weights",
        "model/README.md": "Trainer's",
        "model/training_args.bin": "pickle",
        "model/optimizer.pt": "pickle",
        "model/rng_state_0.pth": "pickle",
        "model/.cache/lock": "",
        "README.md": "---\ntags: [hflm]\n---\n# ours",
        "recipe.yaml": RECIPE,
        "environment.json": '{"command": "hflm run /home/alice/tiny.yaml"}',
        "benchmark/results.json": '{"model": "/home/alice/runs/tiny"}',
        "benchmark/predictions/sentiment.jsonl": "{}",
        "plots/learning_curve.png": "png",
        "plots/.learning_curve.png.1.tmp": "half",
        "pretrain/metrics.jsonl": "{}",
        "pretrain/checkpoint-1/optimizer.pt": "pickle",
        "tokenizer/tokenizer.json": "{}",
    }
    for name, content in text.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    return run


def test_the_model_stands_at_the_root_beside_its_card(run):
    files = push.files(run)
    assert set(files) == SENT
    assert files["config.json"] == run / "model" / "config.json"
    assert files["README.md"] == run / "README.md"


@pytest.mark.parametrize("gone", ["README.md", "plots/learning_curve.png", "benchmark/results.json"])
def test_what_a_run_did_not_produce_is_not_sent(run, gone):
    (run / gone).unlink()
    assert set(push.files(run)) == SENT - {gone}


def test_a_run_without_a_model_is_refused(run):
    (run / "model" / "config.json").unlink()
    with pytest.raises(UserError, match="no finished model"):
        push.files(run)


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "benchmark/results.json"])
def test_records_are_sent_without_this_machines_folders(run, name):
    sent = push.content(name, run / name).decode()
    assert "alice" not in sent and "/home" not in sent
    assert yaml.safe_load(sent).keys() == yaml.safe_load((run / name).read_text()).keys()


def pushed(run, **environment):
    """`hflm push RUN`: (exit code, what it said)."""
    hidden = ("HF_", "HUGGING_FACE", "HTTP", "http", "ALL_PROXY", "all_proxy")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment = {**clean, "HF_HOME": str(run / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", **environment}
    arguments = [sys.executable, "-m", "hflm", "push", str(run)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
    return done.returncode, (done.stderr if done.returncode else done.stdout).strip()


def closed_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "environment, reason",
    [
        ({"HF_TOKEN": TOKEN}, "refused"),
        ({"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({}, "no Hub token"),
        ({"HF_TOKEN": TOKEN + "\x7f\n\xe9"}, "failed"),  # a header cannot hold it: the client's message would quote it
    ],
)
def test_a_failed_push_keeps_the_run_and_says_how_to_retry(run, environment, reason):
    code, said = pushed(run, HF_ENDPOINT=closed_port(), **environment)
    assert code == 2
    assert said.startswith("The push to you/tiny failed: ") and reason in said
    assert said.endswith(f"The run is complete in {run}; hflm push '{run}' retries.")
    assert len(said.splitlines()) == 1


def test_without_a_push_section_it_says_what_to_add(run):
    (run / "recipe.yaml").write_text(RECIPE.replace("push:", "# push:"))
    code, said = pushed(run, HF_TOKEN=TOKEN)
    assert code == 2 and "no `push:` section" in said and "repo_id: you/tiny" in said


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one push of small files meets. `log` collects (path, body); `refuse` answers 403."""

    refuse = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        self.server.log.append((self.path, body))
        status, answer = 200, {}
        if self.server.refuse:
            status, answer = 403, {"error": f"{self.headers['Authorization']} may not write here"}
        elif self.path == "/api/repos/create":
            answer = {"url": f"http://127.0.0.1:{self.server.server_port}/you/tiny"}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        elif "/commit/" in self.path:
            answer = {"commitUrl": "http://127.0.0.1/you/tiny/commit/" + "a" * 40, "commitOid": "a" * 40}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.log, server.refuse = [], False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_push_is_one_private_repository_and_one_commit(run, hub):
    code, said = pushed(run, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_TOKEN=TOKEN)
    assert (code, said) == (0, f"http://127.0.0.1:{hub.server_port}/you/tiny")
    created = [json.loads(body) for path, body in hub.log if path == "/api/repos/create"]
    assert [(repo["organization"], repo["name"], repo["visibility"]) for repo in created] == [
        ("you", "tiny", "private")
    ]
    commits = [body for path, body in hub.log if "/commit/" in path]
    assert len(commits) == 1
    lines = [json.loads(line) for line in commits[0].splitlines()]
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    assert set(sent) == SENT
    assert sent["README.md"] == (run / "README.md").read_bytes()
    assert b"alice" not in b"".join(sent.values())


def test_a_refusal_says_what_to_check_and_hides_the_token(run, hub):
    hub.refuse = True
    code, said = pushed(run, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_TOKEN=TOKEN)
    assert code == 2 and "403" in said and "Check that the token may write there" in said
