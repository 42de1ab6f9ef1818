"""Training survives what happens to it: damaged checkpoints, SIGTERM, wrong arguments."""

import json
import os
import signal
from functools import partial

import pytest
import torch
from conftest import TEXTS
from transformers import TrainerCallback

from hflm import checkpoints, pack, progress, train
from hflm import model as models
from hflm.errors import Stopped, UserError

ARGS = {"max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 2}


@pytest.fixture
def fit(tokenizer, tmp_path):
    """Train a fresh tiny model (with dropout, so that random states matter) in a folder; returns (model, Trained)."""
    packed = pack.pack_documents(TEXTS, tokenizer, 48)

    def run(folder="run", eval_rows=None, batch_tokens=None, on_spike="ignore", **args):
        torch.manual_seed(0)
        model = models.build({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 48}, tokenizer)
        trained = train.train(
            models.mend_loss(model),
            packed.rows,
            tmp_path / folder,
            {**ARGS, **args},
            stage="pretrain",
            seed=0,
            collate=partial(pack.collate, pad_token_id=tokenizer.pad_token_id),
            eval_rows=packed.rows[:2] if eval_rows else None,
            tokens_per_row=packed.tokens_per_row,
            row_tokens=48,
            batch_tokens=batch_tokens,
            on_spike=on_spike,
        )
        return model, trained

    return run


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_hold_loss_speed_and_validation(fit, tmp_path):
    _, trained = fit(eval_rows=True, eval_steps=4)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if "eval_loss" in line] == [4, 8]
    assert all(line["tokens_per_second"] > 0 for line in lines if "loss" in line)
    assert trained.steps == 8
    assert trained.loss == lines[-2]["loss"]
    assert trained.eval_loss == lines[-1]["eval_loss"]
    assert lines[0]["loss"] > trained.loss


def test_old_checkpoints_go_and_the_newest_are_sealed(fit, tmp_path):
    fit(save_total_limit=2)
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-6", "checkpoint-8"]
    assert checkpoints.newest_sound(tmp_path / "run").name == "checkpoint-8"


@pytest.fixture
def stop_at(monkeypatch):
    """SIGTERM while the given step is computed, as a scheduler sends it."""

    def install(step):
        class Killer(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == step:
                    os.kill(os.getpid(), signal.SIGTERM)

        plain = train._Trainer

        def trainer(*args, callbacks, **kwargs):
            return plain(*args, callbacks=[*callbacks, Killer()], **kwargs)

        monkeypatch.setattr(train, "_Trainer", trainer)

    yield install
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_saves_and_the_resumed_run_ends_in_the_same_weights(fit, stop_at, monkeypatch, tmp_path):
    whole, _ = fit("whole")
    with monkeypatch.context():
        stop_at(2)
        with pytest.raises(Stopped, match="the same command continues"):
            fit("stopped")
    monkeypatch.undo()
    assert checkpoints.newest_sound(tmp_path / "stopped").name == "checkpoint-3"
    resumed, trained = fit("stopped")
    assert trained.steps == 8
    assert torch.equal(weights(whole), weights(resumed))
    assert [line["step"] for line in metrics(tmp_path / "stopped") if "loss" in line] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "checksums.json").unlink(), "not written to its end"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "model.safetensors has changed"),
        (lambda folder: (folder / "checksums.json").write_text('{"model.sa'), "not written to its end"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(fit, tmp_path, damage, reason):
    whole, _ = fit("whole")
    fit()
    damage(tmp_path / "run" / "checkpoint-8")
    with pytest.warns(UserWarning, match=reason):
        assert checkpoints.newest_sound(tmp_path / "run").name == "checkpoint-6"
    with pytest.warns(UserWarning, match=reason):
        resumed, _ = fit()
    assert torch.equal(weights(whole), weights(resumed))


def test_no_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint-old").mkdir()
    assert checkpoints.newest_sound(tmp_path) is None
    assert checkpoints.newest_sound(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lr_scheduler_type": "cosinus"}, "cosinus"),
        ({"optim": "adamm"}, "adamm"),
        ({"eval_strategy": "steps"}, "no validation data"),
        ({"fp16": True, "bf16": True}, "fp16 and bf16"),
    ],
)
def test_arguments_that_transformers_refuses_are_one_line(fit, args, message):
    with pytest.raises(UserError, match=message) as error:
        fit(**args)
    assert str(error.value).startswith("pretrain.args")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (4000, "1:06:40"), (59.7, "1:00")])
def test_clock(seconds, text):
    assert progress.clock(seconds) == text
