"""A run that survives its machine: checkpoints on a Hub on loopback, a lost folder, the same weights in the end."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import yaml
from hub import QUICK, Hub

from hflm.core import HubError, Stopped, UserError, logger
from hflm.pipeline import RunOptions, run_recipe
from hflm.pipeline.hub_checkpoints import offer_checkpoint, restore_run, stage_snapshot
from hflm.pipeline.inputs import resolve_inputs
from hflm.pipeline.stage_keys import stage_dependencies
from hflm.publishing import find_checkpoint
from hflm.recipe import load_recipe
from hflm.training.checkpoints import damage_of, write_checksums
from recipes import tiny_recipe

# The client itself uses what its HTTP library has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
# Killed like a machine: at once, after the first upload that is as far as LOST_AT, while the run goes on.
LOST = """
import os
from hflm.publishing import CheckpointUploads
send = CheckpointUploads._send
def sent(self, staged):
    send(self, staged)
    stage, step = os.environ["LOST_AT"].split()
    if staged.snapshot.stage == stage and staged.snapshot.step >= int(step):
        os.kill(os.getpid(), 9)
if "LOST_AT" in os.environ:
    CheckpointUploads._send = sent
"""
SECTIONS = """
seed: 3
pretrain:
  data: {path: toy, name: stories, size: 60}
  average_checkpoints: 2
  args: {max_steps: 6, per_device_train_batch_size: 4, save_steps: 2, save_total_limit: 1, logging_steps: 2}
tasks:
  sentiment:
    data: {path: toy, name: sentiment, size: 30}
    labels: [negative, neutral, positive]
    splits: {train: train, validation: validation}
finetune:
  tasks: [sentiment]
  adapter: {type: lora, r: 2, lora_dropout: 0.1}
  args:
    {max_steps: 6, per_device_train_batch_size: 4, save_steps: 2, eval_steps: 2, save_total_limit: 1,
     load_best_model_at_end: true}
push: {repo_id: you/tiny, checkpoints: true}
"""
DROPOUT = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}


def command(folder, hub, *arguments, launcher=(), **environment):
    """(exit code, messages) of `hflm run` as a process of its own, on a machine that has nothing but `folder`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    environment = {**clean, **hub.environment(folder / "hf"), **environment}
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(LOST + QUICK)
    ended = subprocess.run(
        [sys.executable, *launcher, "main.py", "run", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert Hub.token not in ended.stdout + ended.stderr
    return ended.returncode, ended.stderr


def run_here(folder, recipe, *sets, **options):
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        run_recipe(load_recipe(str(recipe), sets), folder / "out", RunOptions(**options))


def weights(folder):
    return (folder / "out" / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def messages(caplog):
    logger.propagate = True
    caplog.set_level("INFO", logger="hflm")
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "hflm"]
    logger.propagate = False


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe("tiny", SECTIONS, **DROPOUT))
    return path


@pytest.mark.parametrize(
    "lost_at, sets",
    [
        ("pretrain 4", ["finetune=null", "tasks={}"]),
        pytest.param("pretrain 2", [], marks=pytest.mark.slow),
        pytest.param("finetune 2", [], marks=pytest.mark.slow),
        pytest.param("finetune 4", [], marks=pytest.mark.slow),
    ],
)
def test_a_lost_machine_ends_in_the_same_weights(tmp_path, recipe, monkeypatch, messages, lost_at, sets):
    """Its folder is deleted; the weights are a mean of checkpoints, then those of the best one, with an adapter."""
    whole, machine = tmp_path / "whole", tmp_path / "machine"
    run_here(whole, recipe, "push=null", *sets)
    given = [str(recipe), "--output", str(machine / "out"), *(f"--set={each}" for each in sets)]
    with Hub() as hub:
        code, printed = command(machine, hub, *given, LOST_AT=lost_at)
        assert code == -signal.SIGKILL, printed
        repository = hub.repositories["you/tiny"]
        assert repository.private and len(repository.history("checkpoints")) == 1
        for content in repository.files("checkpoints").values():
            assert str(tmp_path).encode() not in content and Hub.token.encode() not in content
        shutil.rmtree(machine)
        hub.serve_here(monkeypatch, tmp_path / "cache")
        found = find_checkpoint("you/tiny")
        run_here(machine, found.recipe(), from_hub="you/tiny")
        assert f"continues from checkpoint-{found.snapshot.step}" in " ".join(messages())
        assert weights(machine) == weights(whole)
        assert list(repository.branches) == ["main"], "a run that is published leaves no checkpoint behind"
        assert repository.files()["model.safetensors"] == weights(whole)
        assert not (machine / "out" / ".upload").exists()


FIRST = """
pretrain:
  data: {path: corpus.txt}
  args: {max_steps: 4, per_device_train_batch_size: 2, save_steps: 2, logging_steps: 2}
push: {repo_id: you/tiny, checkpoints: true}
"""


@pytest.fixture(scope="module")
def lost_run(tmp_path_factory):
    """(hub, folder): what a run in `folder`/out sent, and left there, before it was lost at the end of its pretraining."""
    folder = tmp_path_factory.mktemp("lost")
    (folder / "corpus.txt").write_text("The dog saw the key in the barn.\n" * 200)
    recipe = tiny_recipe("first", FIRST.replace("corpus.txt", str(folder / "corpus.txt")))
    (folder / "first.yaml").write_text(recipe)
    with Hub() as hub:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="lost"):
            hub.serve_here(patch, folder / "cache")
            patch.setattr("hflm.pipeline.stages.model.Model.run", lost)
            run_here(folder, folder / "first.yaml")
        finished = json.loads((folder / "out" / "stages.json").read_text())
        del finished["pretrain"]  # as before its last step
        (folder / "out" / "stages.json").write_text(json.dumps(finished))
        yield hub, folder


def lost(*_):
    raise RuntimeError("lost")


@pytest.fixture
def work(lost_run, tmp_path, monkeypatch):
    """A copy of its folder, `corpus.txt` and `first.yaml` included."""
    hub, folder = lost_run
    hub.serve_here(monkeypatch, tmp_path / "cache")
    shutil.copytree(folder, tmp_path / "work")
    recipe = (tmp_path / "work" / "first.yaml").read_text()
    (tmp_path / "work" / "first.yaml").write_text(recipe.replace(str(folder), str(tmp_path / "work")))
    return tmp_path / "work"


def restored(work, *sets):
    """`hflm run --from-hub` as far as the first stage."""
    loaded = load_recipe(str(work / "first.yaml"), sets)
    restore_run(find_checkpoint("you/tiny"), work / "out", stage_dependencies(loaded, resolve_inputs(loaded)))


@pytest.mark.parametrize(
    "change, message, aside",
    [
        (
            lambda out: None,
            "continues from step 4 of pretrain, which is here; you/tiny (checkpoints) has step 4",
            False,
        ),
        (shutil.rmtree, "continues from step 4 of pretrain, which came from you/tiny (checkpoints)", False),
        (
            lambda out: shutil.rmtree(out / "pretrain" / "checkpoint-4"),
            "out: what was there is not as far; it is now in ",
            True,
        ),
        (
            lambda out: (out / "pretrain" / "checkpoint-4" / "optimizer.pt").write_text("damaged"),
            "out: what was there is not as far; it is now in ",
            True,
        ),
        (
            lambda out: (out / "pretrain" / "inputs.json").write_text('{"key": "of another run"}'),
            "out: what was there is not as far; it is now in ",
            True,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*checkpoint-4 is not used")
def test_the_further_one_is_continued_and_nothing_is_lost(work, messages, change, message, aside):
    change(work / "out")
    shutil.copytree(work / "out", work / "before") if (work / "out").exists() else (work / "before").mkdir()
    restored(work)
    assert any(message in line for line in messages())
    assert damage_of(work / "out" / "pretrain" / "checkpoint-4") is None
    assert (work / "out" / "tokenizer" / "tokenizer.json").is_file()
    assert not (work / ".out.from-hub").exists()
    found = list(work.glob("out.previous*"))
    assert len(found) == aside
    for each in found:
        assert contents(each) == contents(work / "before")


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "sets, change",
    [
        (["pretrain.args.learning_rate=0.01"], "pretrain: pretrain.args.learning_rate changed from "),
        (["seed=5"], "pretrain: seed changed from 42 to 5"),
        (
            ["pretrain=null", "tokenizer.train.data=[{path: toy, name: stories, size: 20}]"],
            "this recipe has no pretrain",
        ),
        ([], "the content of pretrain.data.0 changed"),
    ],
)
def test_another_recipe_or_other_data_are_refused(work, lost_run, sets, change):
    if not sets:
        (work / "corpus.txt").write_text("Another text.\n" * 200)
    if "pretrain=null" in sets:
        sets = [*sets, "tasks={qa: {data: {path: toy, name: qa, size: 20}}}", "finetune={tasks: [qa]}"]
    shutil.rmtree(work / "out")
    asked = len(lost_run[0].log)
    with pytest.raises(UserError) as refused:
        restored(work, *sets)
    assert "belongs to another recipe or other data. " in str(refused.value) and change in str(refused.value)
    assert "Nothing was changed here" in str(refused.value)
    assert not (work / "out").exists()
    assert not any("optimizer.pt" in path for _, path, _ in lost_run[0].log[asked:]), (
        "before anything large is asked for"
    )


def test_a_checkpoint_goes_without_pickles_and_folders_of_this_machine(work):
    run, target = work / "out", work / "staged"
    checkpoint = run / "pretrain" / "checkpoint-2"
    assert (checkpoint / "training_args.bin").is_file()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["best_model_checkpoint"] = "/home/alice/runs/out/pretrain/checkpoint-2"
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / "checksums.json").unlink()
    write_checksums(checkpoint)
    snapshot = stage_snapshot(run, "first", "pretrain", [checkpoint], target)
    assert (snapshot.stage, snapshot.step, list(snapshot.keys)) == ("pretrain", 2, ["pretrain"])
    recorded = contents(run)["recipe.yaml"]
    shutil.rmtree(run)  # as the rotation does: the links hold
    staged = target / "pretrain" / "checkpoint-2"
    assert damage_of(staged) is None
    assert not (staged / "training_args.bin").exists() and (staged / "rng_state.pth").is_file()
    assert json.loads((staged / "trainer_state.json").read_text())["best_model_checkpoint"] == "checkpoint-2"
    assert b"/corpus.txt" in recorded
    assert yaml.safe_load((target / "recipe.yaml").read_text())["pretrain"]["data"][0]["path"] == "corpus.txt"
    names = {"recipe.yaml", "environment.json", "stages.json", "stage_inputs.json", "tokenizer", "pretrain"}
    assert {path.name for path in target.iterdir()} == names
    for name, content in contents(target).items():
        assert b"/corpus.txt" not in content and b"/home/alice" not in content, name


def test_a_checkpoint_in_parts_is_a_warning(tmp_path, messages):
    checkpoint = tmp_path / "pretrain" / "checkpoint-2"
    (checkpoint / "optimizer_0").mkdir(parents=True)
    (checkpoint / "optimizer_0" / "__0_0.distcp").write_text("")
    (tmp_path / "recipe.yaml").write_text("name: tiny")
    write_checksums(checkpoint)

    class Running:
        uploads, folder = object(), tmp_path
        recipe = load_recipe("quickstart")

    offer_checkpoint(Running(), "pretrain", [checkpoint])
    assert (
        "checkpoint-2 of pretrain is not sent to the Hub: it is in parts (optimizer_0/__0_0.distcp)" in messages()[-1]
    )
    assert "fsdp_state_dict_type: FULL_STATE_DICT. Training goes on" in messages()[-1]
    assert not any((tmp_path / ".upload").iterdir())


def test_a_hub_that_is_down_costs_no_training(tmp_path, lost_run, monkeypatch, messages):
    """The run ends with its model; only the publication at its end fails, as without checkpoints."""
    hub, folder = lost_run
    hub.serve_here(monkeypatch, tmp_path / "cache")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(HubError, match="The push to you/tiny failed"):
            run_here(tmp_path, folder / "first.yaml")
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert any("of pretrain was not sent to you/tiny: " in line for line in messages())
    assert not (tmp_path / "out" / ".upload").exists()


@pytest.mark.parametrize("options", [{"fresh": True}, {"extend": True}, {"dry_run": True}])
def test_from_hub_continues_a_run_as_it_was(tmp_path, recipe, options):
    with pytest.raises(UserError, match="it goes with none of --fresh, --extend and --dry-run"):
        run_recipe(load_recipe(str(recipe)), tmp_path / "out", RunOptions(from_hub="you/tiny", **options))


def test_a_folder_of_something_else_is_refused_before_the_hub_is_asked(tmp_path, recipe):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="exists already and is no run of hflm's"):
        run_recipe(load_recipe(str(recipe)), tmp_path / "out", RunOptions(from_hub="you/tiny"))


def test_a_run_that_is_stopped_sends_its_last_checkpoint(tmp_path, lost_run, monkeypatch):
    """SIGTERM saves a checkpoint at the next step, and the process waits for its upload."""
    from hflm.publishing import CheckpointUploads

    _, folder = lost_run
    offer = CheckpointUploads.offer

    def stopping(uploads, staged):
        offer(uploads, staged)
        if staged.snapshot.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with Hub() as hub:
        hub.serve_here(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(CheckpointUploads, "offer", stopping)
        with pytest.raises(Stopped):
            run_here(tmp_path, folder / "first.yaml")
        assert find_checkpoint("you/tiny").snapshot.step == 3


@pytest.mark.slow
def test_two_processes_lose_their_machine(tmp_path):
    """The first process sends and brings back; a stream keeps its place."""
    recipe = tmp_path / "tiny.yaml"
    sections = yaml.safe_load(SECTIONS)
    pretrain = {**sections["pretrain"], "average_checkpoints": None}
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"text": "The dog saw key {n}."}}\n' for n in range(900)))
    pretrain["data"] = {"path": str(tmp_path / "corpus.jsonl"), "streaming": True}
    sections = {"seed": 3, "pretrain": pretrain, "push": sections["push"]}
    recipe.write_text(tiny_recipe("tiny", yaml.safe_dump(sections), **DROPOUT))
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    threads = {"OMP_NUM_THREADS": "1"}
    with Hub() as hub:
        whole, machine = tmp_path / "whole", tmp_path / "machine"
        code, printed = command(whole, hub, str(recipe), "--output", "out", launcher=launcher, **threads)
        assert code == 0, printed[-3000:]
        lost_at = {"LOST_AT": "pretrain 2"}
        code, printed = command(machine, hub, str(recipe), "--output", "out", launcher=launcher, **threads, **lost_at)
        assert code != 0 and "SIGKILL" in printed, printed[-3000:]
        shutil.rmtree(machine)
        machine.mkdir()
        shutil.copy(tmp_path / "corpus.jsonl", machine)  # the recipe there names it without its folder
        code, printed = command(machine, hub, "--from-hub", "you/tiny", "--output", "out", launcher=launcher, **threads)
        assert code == 0, printed[-3000:]
        assert printed.count("which came from you/tiny") == 1
        assert weights(machine) == weights(whole)
