"""What a stage's arguments become: intervals from the length of a run, refusals before anything starts."""

import pytest

from hflm.core import UserError
from hflm.core.arithmetic import Arithmetic
from hflm.recipe.library_options import REFUSED
from hflm.training.arguments import (
    StageArguments,
    StageSettings,
    set_batch,
    set_intervals,
    set_steps,
    training_arguments,
)

FP32 = Arithmetic("fp32", "fp32", False, 1, "a test")


def arguments(tmp_path, **args):
    return training_arguments(tmp_path, args, FP32, StageSettings("pretrain", 0, 64, 60.0), evaluates=True)


@pytest.mark.parametrize(
    ("args", "epoch_rows", "eval_rows", "logging_steps", "eval_steps"),
    [
        ({"max_steps": 9}, None, 2, 1, 1),  # few steps: each is logged
        ({"max_steps": 10}, None, 2, 10, 1),
        ({"max_steps": 1000}, None, 100, 10, 100),  # cheap: ten evaluations
        ({"max_steps": 1000}, None, 800, 10, 334),  # 3 of 800 rows are 0.1 of the FLOPs of 8,000 rows
        ({"max_steps": 1000}, None, 80_000, 10, 1000),  # even one is more than a tenth: only at the end
        ({"num_train_epochs": 2}, 400, 8, 10, 10),  # 50 steps an epoch
        ({"num_train_epochs": 2, "logging_steps": 7, "eval_steps": 5}, 400, 8, 7, 5),  # the recipe's own
        ({"max_steps": 5, "gradient_accumulation_steps": 4}, None, 10_000, 1, 5),
    ],
)
def test_intervals(tmp_path, args, epoch_rows, eval_rows, logging_steps, eval_steps):
    made = arguments(tmp_path, **args)
    set_intervals(made, args, epoch_rows, eval_rows)
    assert (made.logging_steps, made.eval_steps) == (logging_steps, eval_steps)


def test_choosing_the_best_checkpoint_keeps_its_evaluations(tmp_path):
    args = {"max_steps": 100, "load_best_model_at_end": True, "save_steps": 0.1, "save_strategy": "steps"}
    made = arguments(tmp_path, **args)
    set_intervals(made, args, None, 80_000)
    assert made.eval_steps == 0.1


@pytest.mark.parametrize(("micro_rows", "per_device", "accumulation"), [(None, 8, 2), (4, 4, 4), (3, 2, 8), (1, 1, 16)])
def test_an_earlier_out_of_memory_keeps_the_batch(tmp_path, micro_rows, per_device, accumulation):
    made = arguments(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    batch = set_batch(made, StageSettings("pretrain", 0, 64, 60.0), micro_rows)
    assert (batch.per_device, batch.accumulation, batch.rows) == (per_device, accumulation, 16)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (per_device, accumulation)


@pytest.mark.parametrize(
    ("batch_tokens", "step_rows", "rows"),
    [(None, None, 16), (None, 16, 16), (None, 4, 4), (128, 4, 2), (128, None, 2)],
)
def test_a_continued_run_keeps_the_rows_of_its_steps(tmp_path, batch_tokens, step_rows, rows):
    made = arguments(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    batch = set_batch(made, StageSettings("pretrain", 0, 64, 60.0, batch_tokens), step_rows=step_rows)
    assert batch.rows == made.per_device_train_batch_size * made.gradient_accumulation_steps == rows


def test_tokens_are_steps_of_the_batch(tmp_path):
    made = arguments(tmp_path, per_device_train_batch_size=8)
    stage = StageSettings("pretrain", 0, 64, 60.0, tokens=10_000)
    set_steps(made, stage, set_batch(made, stage))
    assert made.max_steps == 21  # 20.8 of 480 tokens


def test_fsdp_on_one_process_says_how_to_start_several(tmp_path):
    with pytest.raises(UserError, match="pretrain.args.fsdp: .*one was started. Use `accelerate launch"):
        arguments(tmp_path, fsdp=True)


@pytest.mark.parametrize(
    "name",
    [
        "auto_find_batch_size",
        "enable_jit_checkpoint",
        "ignore_data_skip",
        "save_only_model",
        "average_tokens_across_devices",
    ],
)
def test_arguments_that_break_a_promise_are_refused_and_still_exist(name):
    assert name in REFUSED["TrainingArguments"]
    assert hasattr(StageArguments(output_dir="unused"), name)


def test_dataparallel_is_never_chosen(tmp_path, monkeypatch):
    """StageArguments overrides the public property that Trainer asks before it wraps a model."""
    made = arguments(tmp_path)
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", property(lambda self: 4))
    assert made.n_gpu == 1
