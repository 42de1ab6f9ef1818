"""`hflm sweep` as a user runs it: trials, pruning, shared stages, the report, best.yaml, new seeds; kills of workers."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from postgres import PASSWORD, postgres

from hflm import cli
from hflm.core import MissingExtra, RecipeError, UserError
from hflm.pipeline import RunOptions, run_recipe, sweep_recipe
from hflm.pipeline.shared_stages import common_stages
from hflm.pipeline.sweep_storage import require_optuna
from hflm.recipe import load_recipe, load_varied_recipe

# The values of the learning rate: two that train, one that learns nothing, one with which the loss is not finite.
TINY = """
name: tiny
tokenizer: {train: {vocab_size: 300}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 64}
tasks:
  sentiment:
    data: {path: toy, name: sentiment, size: 40}
    labels: [negative, neutral, positive]
    splits: {train: train, validation: "validation[:20]", test: "test[:20]"}
finetune: {tasks: [sentiment], args: {max_steps: 4, eval_steps: 0.5, save_steps: 2, logging_steps: 1}}
benchmark: {tasks: [sentiment], resamples: 20}
push: {repo_id: you/tiny}
sweep:
  space: {finetune.args.learning_rate: [0.03, 0.01, 1.0e-6, 1.0e+30]}
  metric: eval_loss
  sampler: grid
  pruner: {type: median, n_startup_trials: 2}
  confirm: {best: 1, seeds: 2}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with tiny.yaml and its finished sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(TINY)
    with contextlib.chdir(folder):
        sweep_recipe("tiny.yaml")
    return folder


def results(folder):
    return json.loads((folder / "runs" / "tiny-sweep" / "results.json").read_text())


def test_trials_are_complete_pruned_or_ended_by_their_values(finished):
    trials = results(finished)["trials"]
    assert [each["values"] for each in trials] == [
        {"finetune.args.learning_rate": value} for value in (0.03, 0.01, 1e-6, 1e30)
    ]
    assert [len(each["scores"]) for each in trials] == [1, 1, 0, 0]
    assert [each["ended"] for each in trials[:3]] == [None, None, "pruned at 50 %"]
    assert "finetune: the loss of step" in trials[3]["ended"]
    assert results(finished)["best"] == sorted(("0", "1"), key=lambda slot: trials[int(slot)]["scores"])
    assert not list((finished / "runs/tiny-sweep/trials/0002").glob("**/checkpoint-*"))


def test_trials_are_runs_and_share_the_stages_that_do_not_differ(finished):
    sweep = finished / "runs" / "tiny-sweep"
    first, shared = sweep / "trials" / "0000", sweep / "shared"
    assert {path.name for path in shared.iterdir()} >= {"tokenizer", "stages.json"}
    assert not (shared / "finetune").exists()
    for run in (first, sweep / "trials" / "0001", *(sweep / "confirm").iterdir()):
        assert (run / "tokenizer/tokenizer.json").read_bytes() == (shared / "tokenizer/tokenizer.json").read_bytes()
        assert json.loads((run / "environment.json").read_text())["stages"]["tokenizer"]["entries"]
        assert (run / "model/model.safetensors").is_file() and (run / "run.log").is_file()
        assert "tokenizer: bpe" not in (run / "run.log").read_text()  # it was not trained again
    written = yaml.safe_load((first / "recipe.yaml").read_text())
    assert not {"sweep", "push", "benchmark"} & written.keys()
    assert written["finetune"]["args"]["learning_rate"] == 0.03


def test_the_report_has_tables_plots_and_new_seeds(finished):
    sweep = finished / "runs" / "tiny-sweep"
    text = (sweep / "README.md").read_text()
    assert "4 trials: 2 complete, 2 pruned or ended early" in text
    for name in ("history", "parallel_coordinates", "slices", "confirmation"):
        assert f"plots/{name}.png" in text
        assert (sweep / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    best = results(finished)["best"][0]
    [confirmed] = results(finished)["confirmed"][best]
    assert confirmed["n"] == 2 and confirmed["low"] < confirmed["mean"] < confirmed["high"]
    assert {path.name for path in (sweep / "confirm").iterdir()} == {f"{best}-seed-43", f"{best}-seed-44"}
    assert "1e+30" in text and "## Trials that could not be trained" in text


def test_the_best_recipe_gives_the_best_score_again(finished):
    best = load_recipe(str(finished / "runs/tiny-sweep/best.yaml"))
    assert (best.name, best.sweep) == ("tiny-best", None)
    assert best.push is not None and best.benchmark is not None
    run_recipe(best, finished / "best", RunOptions(last="finetune"))
    recorded = json.loads((finished / "best/environment.json").read_text())["stages"]["finetune"]
    found = results(finished)
    assert [recorded["final_eval_loss"]] == found["trials"][int(found["best"][0])]["scores"]


def test_a_finished_sweep_runs_nothing_again_and_another_recipe_is_refused(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    before = results(finished)
    monkeypatch.setattr("hflm.pipeline.sweep_trial.run_recipe", lambda *_, **__: pytest.fail("a trial was run again"))
    sweep_recipe("tiny.yaml")
    assert results(finished) == before
    assert "4 of them have ended" in capsys.readouterr().err
    with pytest.raises(UserError, match="made by another recipe: finetune.args.max_steps changed from 4 to 5"):
        sweep_recipe("tiny.yaml", ["finetune.args.max_steps=5"])
    assert results(finished) == before


def test_what_differs_between_trials_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def common(*values):
        return common_stages([load_varied_recipe("tiny.yaml", [], each) for each in values])

    assert common({}, {"finetune.args.learning_rate": 0.1}) == ("tokenizer",)
    assert common({}, {"tokenizer.train.vocab_size": 301}) == ()
    assert common({}, {"benchmark.resamples": 30}) == ("tokenizer", "finetune", "model")
    assert common({}, {"seed": 7}) == ("tokenizer",)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["sweep=null"], r"tiny.yaml: it has no section `sweep`. Add one with `space` and `metric`"),
        (["sweep.space.name=[a, b]"], "name cannot be searched"),
        (["sweep.storage=postgresql+psycopg://me:pw1@127.0.0.1:9/x"], r"me:\(hidden\)@127.0.0.1:9/x cannot be used"),
    ],
)
def test_bad_input_is_one_message(sets, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    with pytest.raises((UserError, RecipeError), match=message) as raised:
        sweep_recipe("tiny.yaml", sets)
    assert "pw1" not in str(raised.value)


def test_the_command_line_hides_a_password_and_exits_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    storage = "sweep.storage=postgresql+psycopg://me:pw1@127.0.0.1:9/x"
    monkeypatch.setattr(sys, "argv", ["hflm", "sweep", "tiny.yaml", "--set", storage])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 2
    assert "pw1" not in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"pw1" in path.read_bytes()]


def test_a_folder_that_is_no_sweep_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="mine exists already and is no sweep"):
        sweep_recipe("tiny.yaml", output="mine")


def test_without_optuna_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"hflm sweep needs an optional package: uv sync --extra sweep"):
        require_optuna()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_workers_killed_six_times_finish_every_trial_once(kind, tmp_path):
    """kill -9 at random moments, of one worker or, at last, of both: the study ends as if nothing had happened."""
    space = "{finetune.args.learning_rate: {low: 1.0e-3, high: 1.0e-1, log: true}}"
    changed = yaml.safe_load(TINY)
    changed["sweep"] = {"space": yaml.safe_load(space), "metric": "eval_loss", "trials": 8, "confirm": None}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(changed))
    draw = random.Random(3)
    with postgres() if kind == "postgresql" else contextlib.nullcontext(None) as url:
        sets = ["--set", f"sweep.storage={url}"] if url else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}

        def start():
            command = [sys.executable, "-m", "hflm", "sweep", "tiny.yaml", *sets]
            with open(tmp_path / "log", "ab") as log:
                return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)

        workers = [start(), start()]
        for kill in range(6):
            began = (tmp_path / "log").read_text().count("trial ")
            while (tmp_path / "log").read_text().count("trial ") < began + 2:
                assert any(worker.poll() is None for worker in workers), (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 1.5))  # at any point of a trial
            for victim in workers if kill == 5 else [draw.choice(workers)]:
                victim.send_signal(signal.SIGKILL)
                victim.wait()
            workers = [worker if worker.poll() is None else start() for worker in workers]
        assert [worker.wait(300) for worker in workers] == [0, 0], (tmp_path / "log").read_text()[-3000:]
    found = results(tmp_path)
    assert [each["slot"] for each in found["trials"]] == [str(number) for number in range(8)]
    assert all(len(each["scores"]) == 1 for each in found["trials"])
    assert PASSWORD not in (tmp_path / "log").read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    for each in found["trials"]:
        run = tmp_path / "runs/tiny-sweep" / each["folder"]
        metrics = [json.loads(line) for line in Path(run / "finetune/metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in metrics if "loss" in line]
        assert steps == [1, 2, 3, 4], "a step was logged twice, or lost"
