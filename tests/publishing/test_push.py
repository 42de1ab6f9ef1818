import fcntl
import json
import os
import pty
import random
import socket
import struct
import subprocess
import sys
import termios

import pytest
import yaml
from hub import QUICK, File, Hub

from hflm.core import UserError, fingerprint_model
from hflm.publishing import make_release, run_files, write_card
from hflm.publishing.push_files import published_content
from hflm.recipe import load_recipe
from recipes import tiny_recipe

TOKEN = Hub.token
RECIPE = """
name: tiny
model: {from: org/base}
tasks: {sentiment: {data: {path: /home/alice/reviews.csv}, labels: [negative, positive]}}
benchmark: {tasks: [sentiment]}
finetune: {tasks: [sentiment]}
push: {repo_id: you/tiny, private: true}
"""
WEIGHTS = random.Random(0).randbytes(90_000) + b"the same again and again " * 8_000
SENT = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "model-00002-of-00002.safetensors",
    "README.md",
    "recipe.yaml",
    "environment.json",
    "benchmark/results.json",
    "plots/learning_curve.png",
}


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "tiny run")


def finished(run):
    """A finished run among the working files of its training."""
    text = {
        "model/config.json": "{}",
        "model/tokenizer.json": "{}",
        "model/model-00002-of-00002.safetensors": "weights",
        "model/README.md": "Trainer's",
        "model/training_args.bin": "pickle",
        "model/pytorch_model.bin": "pickle",
        "model/optimizer.pt": "pickle",
        "model/rng_state_0.pth": "pickle",
        "model/.cache/lock": "",
        "recipe.yaml": RECIPE,
        "environment.json": '{"command": "hflm run /home/alice/tiny.yaml"}',
        "benchmark/results.json": '{"schema_version": 1, "model": "/home/alice/runs/tiny", "tasks": {}}',
        "benchmark/predictions/sentiment.jsonl": "{}",
        "plots/.learning_curve.png.1.tmp": "half",
        "plots/.half.png": "half",
        "finetune/metrics.jsonl": '{"step": 5, "loss": 1.5}',
        "pretrain/checkpoint-1/optimizer.pt": "pickle",
        "tokenizer/tokenizer.json": "{}",
    }
    for name, content in text.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    (run / "model" / "model.safetensors").write_bytes(WEIGHTS)
    write_card(run, load_recipe(str(run / "recipe.yaml")))
    return run


def test_the_model_stands_at_the_root_beside_its_card(run):
    files = run_files(run).sent
    assert set(files) == SENT
    assert files["config.json"] == run / "model" / "config.json"
    assert files["README.md"] == run / "README.md"


def test_symbolic_links_and_files_of_other_kinds_are_named_and_left_out(run, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "id_rsa.json").write_text("private")
    (run / "model" / "notes.json").write_text("private")
    (run / "model" / "vocab.json").symlink_to(secret / "id_rsa.json")
    (run / "model" / "additional_chat_templates").symlink_to(secret)
    (run / "plots" / "linked.png").symlink_to(secret / "id_rsa.json")
    (run / "environment.json").unlink()
    (run / "environment.json").symlink_to(secret / "id_rsa.json")
    os.mkfifo(run / "model" / "tokenizer_config.json")
    files = run_files(run)
    assert set(files.sent) == SENT - {"environment.json"}
    assert {line.split(" (")[0]: line.split(" (")[1] for line in files.left_out} == {
        "model/notes.json": "no file of a model)",
        "model/vocab.json": "a symbolic link)",
        "model/additional_chat_templates": "a symbolic link)",
        "model/tokenizer_config.json": "no regular file, or behind a symbolic link)",
        "plots/linked.png": "a symbolic link)",
        "environment.json": "a symbolic link)",
        **{
            f"model/{name}": "no file of a model)"
            for name in (
                ".cache/lock",
                "README.md",
                "optimizer.pt",
                "pytorch_model.bin",
                "rng_state_0.pth",
                "training_args.bin",
            )
        },
    }


@pytest.mark.parametrize("folder", ["plots", "benchmark", "model"])
def test_nothing_behind_a_linked_folder_is_sent(run, tmp_path, folder):
    (run / folder).rename(tmp_path / "elsewhere")
    (run / folder).symlink_to(tmp_path / "elsewhere")
    if folder == "model":
        with pytest.raises(UserError, match="no finished model"):
            run_files(run)
    else:
        assert not any(name.startswith(folder) for name in run_files(run).sent)


def test_scores_of_other_weights_are_not_sent(run):
    task = {"kind": "sentiment", "n": 2, "metrics": {}, "baselines": {}, "data": "d", "prompt_hash": "", "decoding": "",
            "truncated": 0, "skipped": 0}  # fmt: skip
    tasks = {
        "old": {**task, "model_revision": "sha256:other"},
        "new": {**task, "model_revision": fingerprint_model(run)},
    }
    path = run / "benchmark" / "results.json"
    path.write_text(json.dumps({"schema_version": 1, "model": "m", "tasks": tasks}))
    assert json.loads(published_content("benchmark/results.json", run, path))["tasks"].keys() == {"new"}


@pytest.mark.parametrize("gone", ["README.md", "plots/learning_curve.png", "benchmark/results.json"])
def test_what_a_run_did_not_produce_is_not_sent(run, gone):
    (run / gone).unlink()
    assert set(run_files(run).sent) == SENT - {gone}


def test_a_run_without_a_model_is_refused(run):
    (run / "model" / "config.json").unlink()
    with pytest.raises(UserError, match="no finished model"):
        run_files(run)


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "benchmark/results.json"])
def test_records_are_sent_without_this_machines_folders(run, name):
    sent = published_content(name, run, run / name).decode()
    assert "alice" not in sent and "/home" not in sent
    assert yaml.safe_load(sent).keys() == yaml.safe_load((run / name).read_text()).keys()


def test_the_tag_is_made_of_the_name_and_the_content(run):
    (run / "recipe.yaml").write_text(RECIPE.replace("name: tiny", "name: größe..1"))
    first, again = (make_release(run, load_recipe(str(run / "recipe.yaml"))) for _ in range(2))
    (run / "model" / "tokenizer.json").write_text("{} ")
    changed = make_release(run, load_recipe(str(run / "recipe.yaml")))
    assert first.tag == again.tag != changed.tag
    assert first.tag.startswith("gr-e-1-") and len(first.tag) == len("gr-e-1-12345678")


def started(run, arguments, environment, **options):
    hidden = ("HF_", "HUGGING_FACE", "HTTP", "http", "ALL_PROXY", "all_proxy")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", QUICK, "push", str(run), *arguments]
    return subprocess.run(command, env={**clean, **environment}, timeout=300, text=True, **options)


def pushed(run, hub, *arguments, **environment):
    """`hflm push RUN`: (exit code, stdout, stderr). Nothing that it says holds the token."""
    environment = hub.environment(run.parent / "hf", **environment)
    done = started(run, arguments, environment, capture_output=True)
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def expected(run):
    """What a push of the run puts on the Hub: {path: bytes}."""
    sent = {name: published_content(name, run, path) for name, path in run_files(run).sent.items()}
    return {name: each if isinstance(each, bytes) else each.read_bytes() for name, each in sent.items()}


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


@pytest.mark.parametrize("xet, multipart", [(False, False), (False, True), (True, False)])
def test_a_push_is_one_private_release_and_comes_back_as_it_was(run, xet, multipart):
    with Hub(xet=xet, multipart=multipart) as hub:
        code, printed, messages = pushed(run, hub)
        assert (code, printed) == (0, f"{hub.url}/you/tiny"), messages
        repository = hub.repositories["you/tiny"]
        assert repository.private and repository.files() == expected(run)
        assert [commit.title for commit in repository.history()] == ["tiny: a run of hflm", "initial commit"]
        [(tag, commit)] = repository.tags.items()
        assert commit == repository.branches["main"] and f"tag {tag}" in messages
        assert b"alice" not in b"".join(repository.files().values())

        code = "from huggingface_hub import snapshot_download; print(snapshot_download('you/tiny'))"
        environment = {**os.environ, **hub.environment(run.parent / "elsewhere")}
        place = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip()
        for name, content in expected(run).items():
            with open(f"{place}/{name}", "rb") as file:
                assert file.read() == content
    assert hub.asked("PUT /lfs/") == {(False, False): 2, (False, True): 72, (True, False): 0}[xet, multipart]
    assert bool(hub.asked("/v2/reconstructions")) == xet


@pytest.mark.parametrize("xet", [False, True])
@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_each_request_may_fail_once(run, fault, xet):
    with Hub(xet=xet) as clean:
        pushed(run, clean)
    with Hub(xet=xet, fail=fault) as hub:
        code, _, messages = pushed(run, hub)
        assert code == 0, messages
        assert hub.repositories["you/tiny"].state() == clean.repositories["you/tiny"].state()
    # Each request of a clean push was made, and failed.
    assert {request[:2] for request in clean.log if "grant" not in request[1] and "/commit/" not in request[1]} <= {
        request[:2] for request in hub.log if request[2] == fault
    }


def test_an_unchanged_run_makes_no_commit(run, hub):
    pushed(run, hub)
    before = hub.repositories["you/tiny"].state()
    code, printed, messages = pushed(run, hub)
    assert (code, printed) == (0, f"{hub.url}/you/tiny")
    assert "unchanged, no commit was made" in messages and "released" not in messages
    assert hub.repositories["you/tiny"].state() == before
    assert hub.asked("PUT /lfs/") == 2  # both files of weights, once


def test_a_changed_run_is_a_second_release_without_leftovers(run, hub):
    pushed(run, hub)
    repository = hub.repositories["you/tiny"]
    repository.commit("main", {**repository.find("main").tree, "NOTES.md": File(b"by hand")}, "notes")
    (run / "plots" / "learning_curve.png").unlink()
    (run / "model" / "tokenizer.json").unlink()
    (run / "model" / "config.json").write_text('{"changed": true}')
    (run / "model" / "model.safetensors").rename(run / "model" / "model-00001-of-00001.safetensors")
    code, _, messages = pushed(run, hub)
    assert code == 0 and "released" in messages
    assert repository.files() == {**expected(run), "NOTES.md": b"by hand"}
    assert len(repository.history()) == 4 and len(repository.tags) == 2
    first, second = repository.tags
    assert "model.safetensors" in repository.files(first) and "model.safetensors" not in repository.files(second)


def test_a_lost_tag_is_made_up_for(run, hub):
    pushed(run, hub)
    repository = hub.repositories["you/tiny"]
    before, tags = len(repository.history()), dict(repository.tags)
    repository.tags.clear()  # as when the push was killed between the commit and its tag
    assert pushed(run, hub)[0] == 0
    assert repository.tags == tags and len(repository.history()) == before


def test_somebody_elses_commit_in_between_is_kept(run):
    class Busy(Hub):
        def commit(self, request, repo, revision):
            found = self.repositories[repo]
            if len(found.history()) == 1:
                found.commit("main", {**found.find("main").tree, "NOTES.md": File(b"by hand")}, "notes")
            return super().commit(request, repo, revision)

    import hub as module

    routes = [(path, methods, Busy.commit if call is Hub.commit else call) for path, methods, call in module.ROUTES]
    with Busy() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROUTES", routes)
        assert pushed(run, hub)[0] == 0
        assert hub.repositories["you/tiny"].files() == {**expected(run), "NOTES.md": b"by hand"}
        assert ("POST", "/api/models/you/tiny/commit/main", 412) in hub.log


def test_more_than_250_files_are_still_one_commit(run, hub):
    for number in range(300):
        (run / "model" / f"model-{number:05}-of-00300.safetensors").write_text(str(number))
    assert pushed(run, hub)[0] == 0
    assert len(hub.repositories["you/tiny"].files()) == 300 + len(SENT)
    assert hub.asked("/commit/") == 1 and hub.asked("/preupload/") == 2


@pytest.mark.parametrize(
    "asked, there, code, message",
    [
        ("true", False, 2, "you/tiny is a public repository, and the recipe says push.private: true. Nothing was sent"),
        ("false", True, 0, "you/tiny stays private"),
        ("false", False, 0, "(public)"),
        ("false", None, 0, "(public)"),
    ],
)
def test_who_may_see_it(run, hub, asked, there, code, message):
    (run / "recipe.yaml").write_text(RECIPE.replace("private: true", f"private: {asked}"))
    if there is not None:
        (run / "recipe.yaml").write_text(RECIPE.replace("private: true", f"private: {str(there).lower()}"))
        pushed(run, hub)
        (run / "recipe.yaml").write_text(RECIPE.replace("private: true", f"private: {asked}"))
    commits = hub.asked("/commit/")
    (run / "model" / "config.json").write_text('{"changed": true}')
    ended, _, messages = pushed(run, hub)
    assert ended == code and message in messages
    assert hub.repositories["you/tiny"].private == bool(there)
    assert hub.asked("/commit/") - commits == (code == 0)


def test_a_dry_run_lists_everything_and_asks_nothing(run, hub):
    code, printed, messages = pushed(run, hub, "--dry-run", HF_TOKEN="")
    assert (code, messages, hub.log) == (0, "", [])
    first, *files, last = printed.splitlines()
    assert first.startswith("you/tiny (private), tag tiny-") and ": 9 files, " in first
    assert {line.split()[-1] for line in files if not line.startswith("left out: ")} == SENT
    assert "left out: model/optimizer.pt (no file of a model)" in files
    assert "290 kB  model.safetensors" in printed and last == "A dry run: nothing was sent or asked."


def test_a_space_beside_the_model(run, hub):
    pytest.importorskip("gradio")
    code, printed, messages = pushed(run, hub, "--space")
    assert (code, printed) == (0, f"{hub.url}/spaces/you/tiny"), messages
    model, space = hub.repositories["you/tiny"], hub.repositories["spaces/you/tiny"]
    assert space.private and "model.safetensors" in model.files()
    assert {"app.py", "README.md", "requirements.txt", "hflm/demo/session.py"} <= space.files().keys()
    commits = len(space.commits)
    assert pushed(run, hub, "--space")[0] == 0
    assert len(space.commits) == commits, "an unchanged Space makes no commit"
    code, printed, _ = pushed(run, hub, "--space", "--dry-run")
    assert (code, "the Space you/tiny:" in printed, "app.py" in printed) == (0, True, True)


def test_where_to_may_be_named_later(run, hub):
    recipe = RECIPE.replace("push:", "# push:")
    (run / "recipe.yaml").write_text(recipe)
    (run / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    (run / "benchmark" / "results.json").unlink()
    code, _, messages = pushed(run, hub)
    assert code == 2 and messages.endswith(f"Say where to: hflm push '{run}' --repo-id YOU/tiny")
    code, _, messages = pushed(run, hub, "--repo-id", "nowhere")
    assert code == 2 and "push.repo_id: expected namespace/name" in messages
    assert (run / "recipe.yaml").read_text() == recipe
    code, printed, messages = pushed(run, hub, "--repo-id", "you/other", "--public")
    assert (code, printed) == (0, f"{hub.url}/you/other"), messages
    assert not hub.repositories["you/other"].private
    assert b'"you/other"' in hub.repositories["you/other"].files()["README.md"]
    assert "unchanged" in pushed(run, hub)[2]  # the run remembers


@pytest.mark.parametrize(
    "environment, code, reason",
    [
        ({"HF_ENDPOINT": "closed"}, 1, "refused"),
        ({"HF_HUB_OFFLINE": "1"}, 2, "HF_HUB_OFFLINE is set. Unset it to push"),
        ({"HF_TOKEN": ""}, 2, "no Hub token. Log in with `hf auth login`, or set HF_TOKEN"),
        ({"HF_TOKEN": "hf_wrong" * 4}, 2, "The Hub does not know this token: log in with `hf auth login`"),
        ({"HF_TOKEN": Hub.reader}, 2, "Check that the token may write to you/tiny"),
        ({"HF_TOKEN": TOKEN + "\x7f\n\xe9"}, 2, "failed"),  # no header can hold it: the client's message would quote it
    ],
)
def test_a_failed_push_keeps_the_run_and_says_how_to_retry(run, hub, environment, code, reason):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    if environment.get("HF_ENDPOINT"):
        environment = {"HF_ENDPOINT": closed_port()}
    environment = {"HF_TOKEN": TOKEN} | environment
    ended = started(run, [], hub.environment(run.parent / "hf", **environment), capture_output=True)
    printed = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == code
    assert printed.startswith("The push to you/tiny failed: ") and reason in printed
    assert printed.endswith(f"The run is complete in {run}; hflm push '{run}' retries.")
    assert "Traceback" not in ended.stderr and "hf_" not in ended.stderr and hub.repositories == {}
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def closed_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_refused_card_is_reported_before_anything_is_sent(run, hub):
    pushed(run, hub, "--dry-run")  # its card is written, and left alone as long as it is current
    _, _, body = (run / "README.md").read_text().split("---\n", 2)
    (run / "README.md").write_text("---\nmodel-index: [{name: x, results: [{task: 1}]}]\n---\n" + body)
    code, _, messages = pushed(run, hub)
    assert code == 2 and "Invalid metadata in README.md" in messages
    assert hub.asked("PUT") == 0 and len(hub.repositories["you/tiny"].history()) == 1


def test_a_file_with_the_token_is_not_sent(run, hub):
    (run / "model" / "tokenizer.json").write_text(f'{{"added": "{TOKEN}"}}')
    code, _, messages = pushed(run, hub)
    assert code == 2 and messages.startswith("tokenizer.json holds your Hub token. Nothing was sent.")
    assert hub.log == []


@pytest.mark.parametrize("xet", [False, True])
def test_uploads_show_progress_on_a_terminal(run, xet):
    with Hub(xet=xet) as hub:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        started(run, [], hub.environment(run.parent / "hf"), stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            os.close(ours)
    assert b"100%" in shown and b"290k" in shown


def test_transformers_loads_what_was_pushed(run, tiny, tokenizer):
    import torch

    from hflm.models import save_pretrained

    save_pretrained(run / "model", tiny, tokenizer)
    with Hub(xet=True) as hub:
        assert pushed(run, hub)[0] == 0
        code = (
            "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            "tokenizer = AutoTokenizer.from_pretrained('you/tiny')\n"
            "model = AutoModelForCausalLM.from_pretrained('you/tiny').eval()\n"
            "ids = tokenizer('The dog saw the key', return_tensors='pt').input_ids\n"
            "print(ids.tolist(), model(ids).logits.double().sum().item())"
        )
        environment = {**os.environ, **hub.environment(run.parent / "elsewhere")}
        printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    ids = tokenizer("The dog saw the key", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = tiny.eval()(ids).logits.double().sum().item()
    listed, total = printed.rsplit(" ", 1)
    assert json.loads(listed) == ids.tolist() and float(total) == pytest.approx(logits, rel=1e-5)
    assert hub.asked("/v2/reconstructions") == 1


WHOLE = """
pretrain:
  data: {path: toy, name: stories, size: 20}
  args: {max_steps: 2, per_device_train_batch_size: 2}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}
benchmark: {tasks: [sentiment], resamples: 20}
push: {repo_id: you/tiny}
"""


@pytest.mark.slow
def test_two_processes_push_once_and_no_file_holds_the_token(tmp_path):
    """Refused first: nobody hangs, the run is whole, and the same command then pushes what was left to push."""
    (tmp_path / "tiny.yaml").write_text(tiny_recipe("tiny", WHOLE))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "hflm"]
    home = tmp_path / "hf"
    printed = []

    def ran(hub, *command, **environment):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **hub.environment(home), **environment}
        arguments = [sys.executable, *command, "run", "tiny.yaml", "--output", "out"]
        ended = subprocess.run(arguments, cwd=tmp_path, env=environment, timeout=600, capture_output=True, text=True)
        printed.append(ended.stdout + ended.stderr)
        return ended.returncode, ended.stderr

    with Hub(xet=True) as hub:
        code, messages = ran(hub, *launcher, HF_TOKEN=Hub.reader)
        assert code == 1 and messages.count("The push to you/tiny failed: ") == 1, messages[-3000:]
        assert "2 processes on cpu" in messages and "hflm push out retries" in messages
        record = (tmp_path / "out" / "environment.json").read_bytes()
        assert (tmp_path / "out" / "README.md").is_file() and hub.repositories == {}
        code, messages = ran(hub, "-m", "hflm")
        assert code == 0 and "pretrain" not in messages, messages[-3000:]
        assert (tmp_path / "out" / "environment.json").read_bytes() == record
        repository = hub.repositories["you/tiny"]
        assert repository.private and len(repository.history()) == 2 and len(repository.tags) == 1
        assert {
            *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
            *("README.md", "recipe.yaml", "environment.json", "benchmark/results.json"),
            *("plots/benchmark.png", "plots/reliability.png"),
        } <= set(repository.files())
        code, messages = ran(hub, "-m", "hflm")
        assert code == 0 and "nothing in the recipe or its data has changed" in messages
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        for content in [*written, *repository.files().values(), *(text.encode() for text in printed)]:
            assert Hub.token.encode() not in content and Hub.reader.encode() not in content
    assert len(written) > 20 and len(hub.cas.xorbs) == 1
