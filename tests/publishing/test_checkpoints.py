"""Checkpoints on the Hub's branch: sent in the background, brought back whole, with a Hub that fails in between."""

import hashlib
import json
import logging
import os
import socket
import threading

import pytest
from hub import File, Hub, error

from hflm.core import HubError, UserError, logger
from hflm.publishing import BRANCH, CheckpointUploads, Snapshot, Staged, find_checkpoint, remove_branch
from hflm.publishing.checkpoint_files import KNOWN, MANIFEST, parse_snapshot

# The client itself uses what its HTTP library has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "you/tiny"
KEYS = {"pretrain": "k1"}


def staged(folder, step, stage="pretrain", keys=None, **more):
    """A Staged of a few files, one of them large, whose content depends on the step."""
    files = {
        "recipe.yaml": b"name: tiny\n",
        "tokenizer/tokenizer.json": b"{}",
        f"{stage}/metrics.jsonl": b'{"step": 2}\n' * step,
        f"{stage}/checkpoint-{step}/model.safetensors": b"weights" * 1000 + bytes([step]),
        f"{stage}/checkpoint-{step}/optimizer.pt": b"state" * 100 + bytes([step]),
        **more,
    }
    checkpoint = f"{stage}/checkpoint-{step}"
    sums = {
        name.removeprefix(f"{checkpoint}/"): hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name.startswith(checkpoint)
    }
    files[f"{checkpoint}/checksums.json"] = json.dumps(sums).encode()
    target = folder / f"{stage}-{step}"
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    return Staged(target, Snapshot("tiny", stage, step, keys or KEYS, {})), files


@pytest.fixture
def messages(caplog):
    """The hflm log of a test, as text, without the line that says that it waits: it comes before or after the others."""
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="hflm")

    def found():
        logged = [record.getMessage() for record in caplog.records if record.name == "hflm"]
        return [line for line in logged if "waiting for the upload" not in line]

    yield found
    logger.propagate = False


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub() as hub:
        hub.serve_here(monkeypatch, tmp_path / "cache")
        yield hub


def sent(folder, *steps, private=True, **options):
    """Offer checkpoints one after the other, each when the one before has ended; all their files by the last."""
    for step in steps:
        uploads = CheckpointUploads(REPO, private)
        each, files = staged(folder, step, **options)
        uploads.offer(each)
        uploads.close(30)
        assert not each.folder.exists()
    return files


def on_branch(hub, branch=BRANCH):
    files = hub.repositories[REPO].files(branch)
    return {name: content for name, content in files.items() if name != MANIFEST}


@pytest.mark.parametrize("fault", [None, "503", "reset", "cut"])
@pytest.mark.parametrize("xet", [False, True])
def test_each_request_may_fail_once(tmp_path, monkeypatch, messages, fault, xet):
    """Up, replaced by the next one, and down again: the branch holds one commit of the last one's files."""
    with Hub(xet=xet, fail=fault) as hub:
        hub.serve_here(monkeypatch, tmp_path / "cache")
        sent(tmp_path, 2)
        hub.seen.clear()
        files = sent(tmp_path, 4)
        repository = hub.repositories[REPO]
        assert on_branch(hub) == files
        assert [commit.title for commit in repository.history(BRANCH)] == ["tiny: step 4 of pretrain"]
        assert set(repository.branches) == {"main", BRANCH} and repository.private
        assert repository.files("main") == {}
        found = find_checkpoint(REPO)
        assert found.snapshot.progress == (0, 4) and found.snapshot.keys == KEYS
        found.download(found.snapshot.files, tmp_path / "down")
        brought = {path.relative_to(tmp_path / "down").as_posix(): path for path in (tmp_path / "down").rglob("*")}
        assert {name: path.read_bytes() for name, path in brought.items() if path.is_file()} == files
        assert found.recipe().read_bytes() == files["recipe.yaml"]
        if fault:
            assert sum(status == fault for *_, status in hub.log) > 10
    assert sum("is on the Hub" in line for line in messages()) == 2
    assert not any("was not sent" in line for line in messages())


class Held(Hub):
    """Answers no request for a commit before `release` is set."""

    def __init__(self, **options):
        super().__init__(**options)
        self.release, self.reached = threading.Event(), threading.Event()

    def answer(self, request):
        if "/commit/" in request.path:
            self.reached.set()
            assert self.release.wait(30)
        return super().answer(request)


def test_the_newest_is_sent_next_and_nobody_waits(tmp_path, monkeypatch, messages):
    with Held() as hub:
        hub.serve_here(monkeypatch, tmp_path / "cache")
        uploads = CheckpointUploads(REPO)
        offered = {step: staged(tmp_path, step) for step in (2, 4, 6)}
        uploads.offer(offered[2][0])
        assert hub.reached.wait(30)
        uploads.offer(offered[4][0])  # while the first is under way
        uploads.offer(offered[6][0])
        assert not offered[4][0].folder.exists()
        assert messages()[-1] == "checkpoints: step 4 of pretrain is not sent, step 6 of pretrain is newer"
        hub.release.set()
        uploads.close(30)
        assert on_branch(hub) == offered[6][1]
        assert hub.asked("POST", "/commit/") == 2


def test_the_end_of_a_run_waits_only_so_long(tmp_path, monkeypatch, messages):
    with Held() as hub:
        hub.serve_here(monkeypatch, tmp_path / "cache")
        uploads = CheckpointUploads(REPO)
        uploads.offer(staged(tmp_path, 2)[0])
        assert hub.reached.wait(30)
        uploads.close(0.01)
        assert "step 2 of pretrain was not sent to you/tiny in time" in messages()[-1]
        hub.release.set()
        uploads._thread.join(30)
        assert not uploads._thread.is_alive()
        assert hub.asked("super-squash") == 0, "nothing is asked after the end"


@pytest.mark.parametrize(
    "token, private, offline, message",
    [
        ("", True, False, "no Hub token. Log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong" * 4, True, False, "The Hub does not know this token: log in with `hf auth login`"),
        (Hub.reader, True, False, "Check that the token may write to you/tiny"),
        (None, True, True, "HF_HUB_OFFLINE is set. Unset it, or set push.checkpoints: false"),
        (None, True, False, "you/tiny is a public repository, and the recipe says push.private: true"),
    ],
)
def test_what_fails_is_a_warning(tmp_path, hub, monkeypatch, messages, token, private, offline, message):
    if token is None and not offline:
        sent(tmp_path, 2, private=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if offline:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sent(tmp_path, 4, private=private)
    assert messages()[-1].startswith("checkpoints: step 4 of pretrain was not sent to you/tiny: ")
    assert message in messages()[-1]
    assert messages()[-1].endswith("Training goes on; the next checkpoint is sent in its place")
    assert not any("hf_" in line for line in messages())


def test_a_hub_that_does_not_answer_fails_nothing(tmp_path, hub, monkeypatch, messages):
    uploads = CheckpointUploads(REPO)
    with socket.socket() as closed, pytest.MonkeyPatch.context() as patch:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        patch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        uploads.offer(staged(tmp_path, 2)[0])
        with uploads._changed:
            assert uploads._changed.wait_for(lambda: uploads._pending is None, 60)
    assert "refused" in messages()[-1] and "Training goes on" in messages()[-1]
    each, files = staged(tmp_path, 4)
    uploads.offer(each)
    uploads.close(30)
    assert on_branch(hub) == files


def test_a_checkpoint_that_has_changed_is_not_sent(tmp_path, hub, messages):
    each, _ = staged(tmp_path, 2)
    (each.folder / "pretrain" / "checkpoint-2" / "model.safetensors").write_bytes(b"other")
    uploads = CheckpointUploads(REPO)
    uploads.offer(each)
    uploads.close(30)
    assert "pretrain/checkpoint-2/model.safetensors has changed since it was written" in messages()[-1]
    assert hub.log == []


@pytest.mark.parametrize(
    "there, kept",
    [
        ({"step": 2}, None),  # continued from it
        ({"step": 9}, "checkpoints-pretrain-9-"),  # started anew, without --from-hub
        ({"step": 2, "keys": {"pretrain": "other"}}, "checkpoints-pretrain-2-"),  # another recipe
        ({"step": 2, "stage": "finetune", "keys": {"pretrain": "k1", "finetune": "k2"}}, "checkpoints-finetune-2-"),
    ],
)
def test_a_checkpoint_that_the_run_does_not_continue_is_kept(tmp_path, hub, messages, there, kept):
    options = dict(there)
    other = sent(tmp_path, options.pop("step"), **options)
    files = sent(tmp_path, 4)
    assert on_branch(hub) == files
    branches = [name for name in hub.repositories[REPO].branches if name not in ("main", BRANCH)]
    if kept is None:
        assert branches == []
        return
    [branch] = branches
    assert branch.startswith(kept) and on_branch(hub, branch) == other
    assert any(f"`hflm run --from-hub {REPO}@{branch}` continues from it" in line for line in messages())
    found = find_checkpoint(f"{REPO}@{branch}")
    assert found.snapshot.step == there["step"]


def test_a_published_run_removes_its_branch_and_no_other(tmp_path, hub, messages):
    remove_branch(REPO, KEYS)  # there is not even a repository
    sent(tmp_path, 2)
    remove_branch(REPO, {"pretrain": "another"})
    assert BRANCH in hub.repositories[REPO].branches and "is of another run and stays" in messages()[-1]
    remove_branch(REPO, {**KEYS, "finetune": "k2"})
    assert list(hub.repositories[REPO].branches) == ["main"]
    remove_branch(REPO, KEYS)
    assert "is deleted" in messages()[-1]


def changed(hub, **files):
    """Commit files to the branch by hand."""
    repository = hub.repositories[REPO]
    tree = repository.find(BRANCH).tree
    repository.commit(BRANCH, {**tree, **{name: File(content) for name, content in files.items()}}, "by hand")


def manifest(hub, **changes):
    content = json.loads(hub.repositories[REPO].files(BRANCH)[MANIFEST])
    return json.dumps({**content, **changes}).encode()


def strange(name):
    return lambda hub: changed(hub, **{MANIFEST: manifest(hub, files={name: "0" * 64})})


@pytest.mark.parametrize(
    "prepare, place, message",
    [
        (None, "you/none", "you/none: there is no such repository on the Hub, or this token may not read it"),
        (None, f"{REPO}@other", f"{REPO}: it has no branch other"),
        (None, f"{REPO}@main", f"{REPO} (main): the branch holds no checkpoint of hflm's"),
        (None, "tiny", "--from-hub tiny: expected namespace/name, as on the Hub, or namespace/name@branch"),
        (lambda hub: changed(hub, **{MANIFEST: b"{"}), REPO, f"its {MANIFEST} is damaged"),
        (lambda hub: changed(hub, **{MANIFEST: b"[]"}), REPO, f"its {MANIFEST} is damaged"),
        (
            lambda hub: changed(hub, **{MANIFEST: manifest(hub, step="2")}),
            REPO,
            f"its {MANIFEST} is damaged (a value of another type)",
        ),
        (
            lambda hub: changed(hub, **{MANIFEST: manifest(hub, format=2, hflm="9.9", more=1)}),
            REPO,
            "its checkpoint was written by hflm 9.9, which is newer than this one. Update hflm",
        ),
        (strange("../evil.json"), REPO, "it lists '../evil.json', which is no file of a checkpoint"),
        (strange("pretrain/checkpoint-2/training_args.bin"), REPO, "is no file of a checkpoint"),
    ],
)
def test_what_cannot_be_continued_from_is_refused(tmp_path, hub, prepare, place, message):
    sent(tmp_path, 2)
    if prepare is not None:
        prepare(hub)
    with pytest.raises(UserError) as refused:
        find_checkpoint(place)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "token, message",
    [
        ("", "it is private and there is no token here: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong" * 4, "this token may not read it"),
    ],
)
def test_a_private_checkpoint_needs_a_token(tmp_path, hub, monkeypatch, token, message):
    sent(tmp_path, 2)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as refused:
        find_checkpoint(REPO)
    assert message in str(refused.value)


def test_a_hub_that_keeps_failing_is_no_mistake_of_the_user(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(Hub, "answer", lambda *_: error(503, "busy"))
    with pytest.raises(HubError, match=r"could not be read: busy \(503, GET .*\. The same command tries again"):
        find_checkpoint(REPO)


def test_a_damaged_download_is_noticed(tmp_path, hub):
    sent(tmp_path, 2)
    found = find_checkpoint(REPO)
    name = "pretrain/checkpoint-2/model.safetensors"
    content = hub.large[found.snapshot.files[name]]
    hub.large[found.snapshot.files[name]] = b"W" + content[1:]
    down = tmp_path / "down"
    with pytest.raises(UserError, match=f"{name} is damaged, its content is not what was sent. Nothing was changed"):
        found.download(found.snapshot.files, down)
    assert not (down / name).exists()
    hub.large[found.snapshot.files[name]] = content
    found.download(found.snapshot.files, down)  # and what was complete is not asked for again
    assert (down / name).read_bytes() == content
    asked = len(hub.log)
    found.download(found.snapshot.files, down)
    assert len(hub.log) == asked


def test_a_pickle_that_would_run_something_is_refused(tmp_path, hub):
    import torch

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state": Evil()}, tmp_path / "evil.pt")
    evil = {"pretrain/checkpoint-2/optimizer.pt": (tmp_path / "evil.pt").read_bytes()}
    sent(tmp_path, 2, **evil)
    found = find_checkpoint(REPO)
    found.download(found.snapshot.files, tmp_path / "down")
    with pytest.raises(UserError, match=r"checkpoint-2/optimizer.pt is refused: it calls \w+.mkdir. It was not loaded"):
        found.check_content(tmp_path / "down")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, known",
    [
        ("pretrain/checkpoint-10/rng_state_1.pth", True),
        ("pretrain/checkpoint-10/stream-0.json", True),
        ("finetune/checkpoint-10/adapter_model.safetensors", True),
        ("finetune/checkpoint-10/pytorch_model_fsdp.bin", True),
        ("pretrain/model/model-00001-of-00002.safetensors", True),
        ("tokenizer/merges.txt", True),
        ("skipped_rows.jsonl", True),
        ("pretrain/checkpoint-10/training_args.bin", False),
        ("pretrain/checkpoint-10/pytorch_model.bin", False),
        ("pretrain/checkpoint-10/modeling_evil.py", False),
        ("pretrain/checkpoint-10/../../recipe.yaml", False),
        ("pretrain/checkpoint-10/optimizer_0/__0_0.distcp", False),
        ("benchmark/checkpoint-10/optimizer.pt", False),
        ("/etc/recipe.yaml", False),
        ("recipe.yaml\n", False),
        (".lock", False),
    ],
)
def test_only_files_of_known_kinds_come_back(name, known):
    assert bool(KNOWN.fullmatch(name)) is known


def test_a_snapshot_reads_back():
    one = Snapshot("tiny", "finetune", 20, {"pretrain": "a", "finetune": "b"}, {"recipe.yaml": "0" * 64})
    assert parse_snapshot(one.to_json(), REPO) == one
    assert str(Snapshot("tiny", "pretrain", 2000, KEYS, {})) == "step 2,000 of pretrain"
