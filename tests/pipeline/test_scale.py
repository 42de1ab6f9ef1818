"""`hflm scale` from the recipe to scale.json, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
name: ladder
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_layer: 2, n_embd: 160, n_head: 4, n_positions: 32}
tasks: {}
pretrain:
  data: {path: toy, name: stories, size: 60}
  validation: 0.2
  args: {max_steps: 160, per_device_train_batch_size: 4, warmup_steps: 16, save_strategy: "no", bf16: false}
"""


def hflm(*arguments, cwd, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "hflm", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
        **options,
    )


def finished(*arguments, cwd):
    process = hflm(*arguments, cwd=cwd)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.slow
def test_a_ladder_that_was_killed_continues_and_plan_reads_what_it_says(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    first = hflm("scale", "r.yaml", cwd=tmp_path)
    points = tmp_path / "runs/ladder-scale/points"

    def ended() -> list[Path]:
        """The weights of the points whose training is recorded as finished."""
        states = {path.parent: json.loads(path.read_text()) for path in points.glob("*/stages.json")}
        return [run / "pretrain/model/model.safetensors" for run, state in states.items() if "pretrain" in state]

    while len(ended()) < 2 and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    written = {path: path.stat().st_mtime_ns for path in ended()}
    assert written
    code, out, err = finished("scale", "r.yaml", cwd=tmp_path)
    assert code == 0, err
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())  # none is trained again
    folder = tmp_path / "runs/ladder-scale"
    scale = json.loads((folder / "scale.json").read_text())
    assert len(scale["runs"]) == 11 and len(list(points.iterdir())) == 11
    assert scale["own"]["loss_ci95"][0] <= scale["own"]["loss"] * 1.2
    assert "This recipe, N = " in out and "expected loss" in out and "bits per byte" in out
    assert {path.name for path in (folder / "plots").iterdir()} == {"law.png", "split.png"}
    assert "plots/law.png" in (folder / "README.md").read_text()
    # The tokenizer is trained once, and a long warm-up is as long a part of a short point.
    assert sum("tokenizer: bpe" in path.read_text() for path in points.glob("*/run.log")) == 1
    shortest = next(points.glob("*-steps20"))
    assert "warmup_steps: 2\n" in (shortest / "recipe.yaml").read_text()
    code, out, err = finished("plan", "r.yaml", "--device", "a100", "--json", cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["predicted_loss"]["loss"] == pytest.approx(scale["own"]["loss"])
    code, out, _ = finished("plan", "r.yaml", "--device", "a100", "--set", "pretrain.args.max_steps=1600", cwd=tmp_path)
    assert "expected validation loss" in out
    code, out, _ = finished("plan", "r.yaml", "--device", "a100", "--set", "pretrain.data.size=50", cwd=tmp_path)
    assert code == 0 and "expected validation loss" not in out
    (folder / "scale.json").rename(tmp_path / "moved.json")
    asked = "plan", "r.yaml", "--device", "a100", "--scale", "moved.json"
    code, out, err = finished(*asked, cwd=tmp_path)
    assert code == 0 and "by moved.json" in out, err
    code, out, err = finished(*asked, "--set", "pretrain.data.size=50", cwd=tmp_path)
    assert code == 2 and "its law does not hold here" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "1", "--flops", "1"], "Use one of them"),
        (["--set", "pretrain.validation=null"], "pretrain.validation is missing"),
        (["--set", "model={from: gpt2}", "--set", "tokenizer=null"], "it pretrains no new model"),
        (["--flops", "1000"], "the budget is too small: the smallest ladder of this recipe takes about "),
        (["--minutes", "0.001"], "the budget is too small: the smallest ladder of this recipe takes about "),
        (["--output", "taken"], "is no ladder of hflm's"),
        (["--device", "nosuch"], "--device nosuch: not known here. Known: "),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(tmp_path, arguments, message):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    code, _, err = finished("scale", "r.yaml", *arguments, cwd=tmp_path)
    assert (code, "Traceback" in err) == (2, False)
    assert message in err
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml", "taken"}
