"""The batch of a step: shared out over processes, and the same training on one and on two of them."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from hflm.core import UserError
from hflm.recipe import Batch, check_steps, derive_batch, keep_batch, load_recipe, stage_batch
from recipes import tiny_recipe


@pytest.mark.parametrize(
    ("tokens", "row", "processes", "most", "expected"),
    [
        (16384, 256, 1, 8, Batch(8, 8, 1)),
        (16384, 256, 4, 8, Batch(8, 2, 4)),
        (16384, 256, 64, 8, Batch(1, 1, 64)),
        (16384, 256, 1, 12, Batch(8, 8, 1)),  # 12 does not divide 64 rows
        (256 * 7, 256, 1, 4, Batch(1, 7, 1)),
        (256, 256, 1, 8, Batch(1, 1, 1)),
    ],
)
def test_every_sharing_has_the_same_rows(tokens, row, processes, most, expected):
    batch = derive_batch(tokens, row, processes, most, "pretrain")
    assert batch == expected
    assert batch.rows * row == tokens


@pytest.mark.parametrize("name", ["datatrove", "gpt2-small"])
@pytest.mark.parametrize("processes", [1, 8])
def test_a_shipped_recipe_for_gpus_has_the_same_step_on_one_and_on_eight(name, processes):
    shipped = load_recipe(name)
    batch = stage_batch(shipped.pretrain, 1024, processes, "pretrain")  # rows of GPT-2's context
    assert (batch.rows * 1024, batch.per_device) == (524288, 16)


@pytest.mark.parametrize(
    ("rows", "processes", "most", "expected"),
    [(16, 1, 8, Batch(8, 2, 1)), (16, 4, 8, Batch(4, 1, 4)), (6, 2, 8, Batch(3, 1, 2)), (6, 2, 2, Batch(1, 3, 2))],
)
def test_the_rows_that_a_run_began_with_are_kept(rows, processes, most, expected):
    assert keep_batch(rows, processes, most, "pretrain") == expected


def test_rows_that_the_processes_cannot_divide_are_refused():
    with pytest.raises(
        UserError, match="began with 6 rows a step.* among 4 processes. Start 1, 2, 3, 6, or begin again"
    ):
        keep_batch(6, 4, 8, "pretrain")


@pytest.mark.parametrize(
    ("rows", "batch", "drop_last", "message"),
    [
        (8, Batch(8, 1, 1), True, None),
        (3, Batch(8, 4, 2), False, None),
        (3, Batch(1, 4, 2), True, None),
        (7, Batch(8, 1, 1), True, "pretrain.args.dataloader_drop_last: the data has 7 rows, less than one batch of 8"),
        (8, Batch(8, 1, 2), True, "less than one batch of 16 (8 on each of 2 processes), which is dropped"),
        (0, Batch(8, 1, 1), False, "pretrain: the data has no row to train on"),
    ],
)
def test_data_without_a_step_is_refused(rows, batch, drop_last, message):
    if message is None:
        check_steps(rows, batch, drop_last, "pretrain")
        return
    with pytest.raises(UserError) as error:
        check_steps(rows, batch, drop_last, "pretrain")
    assert message in str(error.value)


FEW = tiny_recipe("few", "pretrain: {data: {path: few.txt}, args: {max_steps: 2, per_device_train_batch_size: 8}}")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_batch_that_is_dropped_is_an_error_before_training(tmp_path, command):
    (tmp_path / "few.txt").write_text("one line\ntwo lines\n")
    (tmp_path / "few.yaml").write_text(FEW)
    hflm = [sys.executable, "-m", "hflm", command, "few.yaml", "--set", "pretrain.args.dataloader_drop_last=true"]
    done = subprocess.run(hflm, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pretrain.args.dataloader_drop_last: the data has 1 rows, less than one batch of 8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("tokens", "steps"), [pytest.param("1300", 3, marks=pytest.mark.slow), ("0.02x", None)])
def test_tokens_say_how_long_to_train(tmp_path, tokens, steps):
    """The plan and the run take the same number of steps, within what rows that are not full leave out."""
    (tmp_path / "few.txt").write_text("The dog saw the cat in the barn.\n" * 400)
    (tmp_path / "few.yaml").write_text(
        FEW.replace("max_steps: 2, ", "").replace("few.txt}", f"few.txt}}, tokens: {tokens}")
    )
    for command in (["plan", "--json"], ["run"]):
        hflm = [sys.executable, "-m", "hflm", *command, "few.yaml"]
        done = subprocess.run(hflm, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if command[0] == "plan":
            [stage] = json.loads(done.stdout)["stages"]
    parameters = json.loads((tmp_path / "runs" / "few" / "environment.json").read_text())["model"]["parameters"]
    wanted = steps or -(-0.02 * parameters // 512)
    trained = json.loads((tmp_path / "runs" / "few" / "environment.json").read_text())["stages"]["pretrain"]["steps"]
    assert abs(stage["steps"] - wanted) <= 1
    assert abs(trained - wanted) <= max(1, 0.1 * wanted)


@pytest.mark.parametrize(
    ("tokens", "row", "processes", "message"),
    [
        (1000, 256, 1, "pretrain.batch_tokens: 1,000 is no multiple of the row of 256 tokens. Take 768 or 1,024"),
        (100, 256, 1, "pretrain.batch_tokens: 100 is no multiple of the row of 256 tokens. Take 256"),
        (1280, 256, 2, "are 5 rows of 256, which cannot be divided evenly among 2 processes. Take 1,024 or 1,536"),
        (256, 256, 2, "are 1 rows of 256, which cannot be divided evenly among 2 processes. Take 512"),
    ],
)
def test_an_impossible_batch_names_the_next_possible_ones(tokens, row, processes, message):
    with pytest.raises(UserError) as error:
        derive_batch(tokens, row, processes, 8, "pretrain")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("batch", "expected"), [(Batch(8, 1, 2), Batch(4, 2, 2)), (Batch(3, 2, 1), Batch(1, 6, 1)), (Batch(1, 4, 1), None)]
)
def test_a_halved_micro_batch_keeps_the_rows_of_a_step(batch, expected):
    assert batch.halved() == expected
    assert expected is None or expected.rows == batch.rows


SAME = """
pretrain:
  data: {path: toy, name: stories, size: 20}
  validation: 0.2
  batch_tokens: 256
  args: {max_steps: 14, per_device_train_batch_size: 2, learning_rate: 3e-3, logging_steps: 1, eval_steps: 7, bf16: false}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 40}, labels: [negative, neutral, positive]}
finetune:
  tasks: [sentiment]
  batch_tokens: 128
  args: {max_steps: 8, learning_rate: 3e-3, optim: muon, logging_steps: 1, bf16: false}
"""


def run_on(processes, folder):
    """Each process has one thread, as torchrun gives it: sums over another number of threads differ in the last bits."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    ended = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else ()), "-m", "hflm", "run", "same.yaml", "--output", "run"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def logged(folder, stage):
    lines = map(json.loads, (folder / "run" / stage / "metrics.jsonl").read_text().splitlines())
    keys = ("loss", "grad_norm", "eval_loss")  # AdamW and Muon forgive a gradient of a wrong scale, its norm does not
    return [line[key] for line in lines for key in keys if key in line]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """AdamW and Muon, more than an epoch, rows that are no multiple of a step, different numbers of labels a rank."""
    logs = {}
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        (tmp_path / str(processes) / "same.yaml").write_text(
            tiny_recipe("same", SAME, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)
        )
        logs[processes] = run_on(processes, tmp_path / str(processes))
    assert "pretrain: 2 rows x 2 accumulated x 1 process x 64 tokens = 256 tokens a step" in logs[1]
    assert "pretrain: 2 rows x 1 accumulated x 2 processes x 64 tokens = 256 tokens a step" in logs[2]
    for stage in ("pretrain", "finetune"):
        one, two = (logged(tmp_path / str(processes), stage) for processes in (1, 2))
        assert len(one) >= 16
        # Sums in another order differ by about 1e-7 a step; the optimizer and later steps make more of it.
        assert one == pytest.approx(two, rel=1e-4)
        one, two = (load_file(tmp_path / str(n) / "run" / stage / "model" / "model.safetensors") for n in (1, 2))
        for name, weight in one.items():
            near = (weight - two[name]).abs()
            if name.endswith("c_attn.bias"):
                # A softmax does not change with the keys' bias: its gradient is rounding alone, which AdamW scales up.
                near = near.reshape(3, 32)[[0, 2]]
            # Muon's products may run in bf16, of three digits; a step moves a weight by up to 3e-3.
            assert near.max() < 1e-3, (stage, name, near.max())
            assert near.mean() < 1e-4, (stage, name, near.mean())
