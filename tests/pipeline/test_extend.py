"""`hflm run --extend`: a stage goes on for longer or with another learning rate, and its earlier steps are kept."""

import contextlib
import json
import re
import shutil

import pytest

from hflm.core import UserError, read_json, read_json_lines
from hflm.pipeline import RunOptions, run_folder, run_recipe
from hflm.pipeline.extension import DEFAULT_TYPE
from hflm.recipe import load_recipe
from hflm.training import divergence
from hflm.training.arguments import DEFAULTS

RECIPE = """
name: long
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 64}
pretrain:
  data: {path: toy, name: stories, size: 60}
  args:
    max_steps: 10
    per_device_train_batch_size: 2
    learning_rate: 0.01
    lr_scheduler_type: constant
    logging_steps: 1
    save_steps: 5
"""
LONGER = "pretrain.args.max_steps=20"
WSD = (
    "pretrain.args.lr_scheduler_type=warmup_stable_decay",
    "pretrain.args.lr_scheduler_kwargs={num_decay_steps: 4}",
    "pretrain.args.warmup_steps=2",
)


def run(folder, *sets, **options):
    with contextlib.chdir(folder):
        run_recipe(load_recipe("long.yaml", sets), "run", RunOptions(**options))


def weights(folder):
    return (folder / "run" / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the recipe and its finished run of 10 steps."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "long.yaml").write_text(RECIPE)
    run(folder)
    return folder


@pytest.fixture
def work(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of a run of 20 steps."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "long.yaml").write_text(RECIPE)
    run(folder, LONGER)
    return weights(folder)


def contents(folder):
    """Each file of the folder with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_after(monkeypatch, step):
    """Let training end as if it were killed, at the end of a step."""
    judged = divergence.Guard.on_step_end

    def on_step_end(self, args, state, control, **more):
        judged(self, args, state, control, **more)
        if state.global_step == step:
            raise SystemExit("killed")

    monkeypatch.setattr(divergence.Guard, "on_step_end", on_step_end)


def test_an_extended_run_has_the_weights_of_an_undisturbed_one(work, undisturbed, capsys):
    before = weights(work)
    run(work, LONGER, extend=True)
    assert "continues from checkpoint-10" in capsys.readouterr().err
    assert weights(work) == undisturbed
    assert (work / "run" / "pretrain.previous" / "model" / "model.safetensors").read_bytes() == before
    steps = [entry["step"] for entry in read_json_lines(work / "run" / "pretrain" / "metrics.jsonl") if "loss" in entry]
    assert steps == list(range(1, 21))
    run(work, LONGER)
    assert "finished, and nothing in the recipe or its data has changed" in capsys.readouterr().err


@pytest.mark.parametrize("again", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_extension_that_was_killed_continues_by_either_command(work, undisturbed, monkeypatch, again):
    with monkeypatch.context() as patch:
        kill_after(patch, 13)
        with pytest.raises(SystemExit):
            run(work, LONGER, extend=True)
    run(work, LONGER, extend=again)
    assert weights(work) == undisturbed
    assert len(list((work / "run").glob("pretrain.previous*"))) == 1


def test_a_run_that_was_stopped_can_be_extended_too(tmp_path, undisturbed, monkeypatch):
    (tmp_path / "long.yaml").write_text(RECIPE)
    with monkeypatch.context() as patch:
        kill_after(patch, 7)
        with pytest.raises(SystemExit):
            run(tmp_path)
    run(tmp_path, LONGER, extend=True)
    assert weights(tmp_path) == undisturbed


def test_more_epochs_go_on_where_the_first_one_ended(tmp_path):
    weights_of = []
    for name, extends in (("extended", True), ("whole", False)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "long.yaml").write_text(
            RECIPE.replace("max_steps: 10", "num_train_epochs: 1").replace("size: 60", "size: 12")
        )
        if extends:
            run(folder)
        run(folder, "pretrain.args.num_train_epochs=2", extend=extends)
        weights_of.append(weights(folder))
    assert weights_of[0] == weights_of[1]


def test_warmup_stable_decay_goes_on_from_before_its_decay(tmp_path):
    keep = "pretrain.args.save_total_limit=5"
    for name in ("extended", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "long.yaml").write_text(RECIPE)
    run(tmp_path / "extended", *WSD, keep)
    run(tmp_path / "extended", *WSD, keep, LONGER, extend=True)
    run(tmp_path / "whole", *WSD, LONGER)
    assert weights(tmp_path / "extended") == weights(tmp_path / "whole")
    aside = tmp_path / "extended" / "run" / "pretrain.previous"
    assert {path.name for path in aside.iterdir()} == {"checkpoint-10", "model", "metrics.jsonl"}
    described = read_json(tmp_path / "extended" / "run" / "environment.json")
    assert [each["steps"] for each in described["stages"]["pretrain"]["extended"]] == [5]


def test_another_learning_rate_is_that_of_the_further_steps_and_the_card_says_so(work, monkeypatch):
    changed = (LONGER, "pretrain.args.learning_rate=0.002")
    with monkeypatch.context() as patch:
        kill_after(patch, 12)  # the checkpoint that is loaded again has the earlier rate
        with pytest.raises(SystemExit):
            run(work, *changed, extend=True)
    run(work, *changed)
    rates = {
        entry["step"]: entry["learning_rate"]
        for entry in read_json_lines(work / "run" / "pretrain" / "metrics.jsonl")
        if "learning_rate" in entry
    }
    assert rates == {step: 0.01 if step <= 10 else 0.002 for step in range(1, 21)}
    settings = {
        "pretrain.args.learning_rate": 0.01,
        "pretrain.args.lr_scheduler_type": "constant",
        "pretrain.args.max_steps": 10,
    }
    described = read_json(work / "run" / "environment.json")["stages"]["pretrain"]
    assert described["extended"] == [{"steps": 10, "settings": settings}] and described["steps"] == 20
    card = (work / "run" / "README.md").read_text().replace("\\", "")
    assert "Pretrain was extended: up to step 10 with args.learning_rate 0.01" in card
    assert "learning_rate: 0.002" in card


def test_a_cosine_is_extended_by_a_schedule_of_its_own_for_the_further_steps(tmp_path):
    (tmp_path / "long.yaml").write_text(RECIPE)
    cosine = "pretrain.args.lr_scheduler_type=cosine"
    run(tmp_path, cosine)
    with pytest.raises(UserError, match=r"the schedule cosine would have been another one.*lr_scheduler_type=constant"):
        run(tmp_path, cosine, LONGER, extend=True)
    run(tmp_path, LONGER, "pretrain.args.learning_rate=0.001", extend=True)
    last = read_json_lines(tmp_path / "run" / "pretrain" / "metrics.jsonl")[-1]
    assert (last["step"], last["learning_rate"]) == (20, 0.001)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.n_layer=2"], "pretrain cannot be extended: model.n_layer changed from 1 to 2. Only its length"),
        (["tokenizer.train.vocab_size=450"], "it starts from another tokenizer"),
        (["pretrain.data.size=70"], "pretrain.data.0.size changed from 60 to 70, it starts from another tokenizer"),
        (["pretrain.args.per_device_train_batch_size=4"], "pretrain.args.per_device_train_batch_size changed from 2"),
        (["seed=3"], "seed changed from"),
        (["pretrain.args.max_steps=8"], "10 steps have been taken, and the recipe asks for 8"),
        (["pretrain.args.learning_rate=0.1"], "10 steps have been taken, and the recipe asks for 10. Raise"),
        (["pretrain.args.lr_scheduler_type=linear", "pretrain.args.max_steps=10"], "10 steps have been taken"),
    ],
)
def test_what_cannot_be_extended_is_named_and_changes_nothing(work, changes, message):
    before = contents(work)
    sets = changes if any("max_steps" in change or "rate" in change for change in changes) else [LONGER, *changes]
    with pytest.raises(UserError, match=re.escape(message)):
        run(work, *sets, extend=True)
    assert contents(work) == before


def test_no_checkpoint_before_the_decay_is_an_error_that_says_what_to_keep(tmp_path):
    (tmp_path / "long.yaml").write_text(RECIPE)
    late = (*WSD, "pretrain.args.save_steps=10")
    run(tmp_path, *late)
    with pytest.raises(
        UserError, match=r"\(steps 10\).*before the decay \(keep more of them by pretrain.args.save_total"
    ):
        run(tmp_path, *late, LONGER, extend=True)
    run(tmp_path, *late)  # it is still the finished run
    assert not list((tmp_path / "run").glob("pretrain.previous*"))


def test_the_dry_run_and_the_announcement_name_the_extension(work, capsys):
    run(work, LONGER, dry_run=True)
    run(work, LONGER, dry_run=True, extend=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pretrain")]
    assert lines == [
        "pretrain: runs, although it is finished: pretrain.args.max_steps changed from 10 to 20",
        "pretrain: is extended, pretrain.args.max_steps changed from 10 to 20",
    ]
    with pytest.raises(UserError, match="--fresh starts anew and --extend goes on"):
        run(work, fresh=True, extend=True)
    run(work, LONGER, yes=True)
    assert "(--extend trains on from its last checkpoint instead)" in capsys.readouterr().err
    assert json.loads((work / "run" / "environment.json").read_text())["stages"]["pretrain"].get("extended") is None


TUNED = """
tasks: {sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}}
finetune: {tasks: [sentiment], args: {max_steps: 4, lr_scheduler_type: constant, save_steps: 2}}
"""


@pytest.mark.slow
def test_fine_tuning_starts_again_from_an_extended_model_and_can_be_extended_itself(tmp_path, capsys):
    (tmp_path / "long.yaml").write_text(RECIPE + TUNED)
    own = "tokenizer.train.data={path: toy, name: stories, size: 60}"
    run(tmp_path, own)
    run(tmp_path, own, "finetune.args.max_steps=6", extend=True)
    steps = read_json(tmp_path / "run" / "environment.json")["stages"]["finetune"]
    assert steps["steps"] == 6 and steps["extended"][0]["steps"] == 4
    capsys.readouterr()
    run(tmp_path, own, "finetune.args.max_steps=6", LONGER, extend=True)
    written = capsys.readouterr().err
    assert "pretrain: is extended" in written and "finetune: it is finished and would be trained again" in written
    described = read_json(tmp_path / "run" / "environment.json")["stages"]
    assert described["finetune"].get("extended") is None and described["pretrain"]["extended"]


def test_what_another_run_has_finished_meanwhile_is_not_done_again(work, monkeypatch, capsys):
    """The other one ends between the first look at the folder and the moment at which its lock is free."""
    first = run_folder.locked_folder

    def late(folder):
        monkeypatch.setattr("hflm.pipeline.run.locked_folder", first)
        run(work, "pretrain.args.max_steps=3", yes=True)
        return first(folder)

    monkeypatch.setattr("hflm.pipeline.run.locked_folder", late)
    run(work, "pretrain.args.max_steps=3", yes=True)
    assert "finished, and nothing in the recipe or its data has changed" in capsys.readouterr().err
    assert len(list((work / "run").glob("pretrain.previous*"))) == 1


def test_a_fresh_run_leaves_the_folder_of_a_running_one_where_it_is(work):
    with run_folder.locked_folder(work / "run"), pytest.raises(UserError, match="another run is writing there"):
        run(work, fresh=True)
    assert (work / "run" / "stages.json").is_file() and not (work / "run.previous").exists()
    run(work, fresh=True)
    assert (work / "run.previous" / "stages.json").is_file()
    assert not (work / "run.previous" / ".lock").exists() and not (work / "run" / ".lock").exists()


def test_the_default_schedule_is_the_trainings():
    assert DEFAULTS["lr_scheduler_type"] == DEFAULT_TYPE
