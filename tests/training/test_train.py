"""Training survives what happens to it: damaged checkpoints, SIGTERM, wrong arguments."""

import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import TEXTS
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from hflm.core import Stopped, TrainingError, UserError
from hflm.models import add_adapter, build_model, patch_loss
from hflm.preprocessing import collate, pack_documents
from hflm.recipe import require_trackers, trackers, unknown_tracker
from hflm.training import ValidationSet, checkpoints
from hflm.training import divergence as guards
from hflm.training import metrics_log as progress
from hflm.training import trainer as train
from hflm.training.muon import MuonFactory

ARGS = {"max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 2}


@pytest.fixture
def fit(tokenizer, tmp_path):
    """Train a fresh tiny model (with dropout, so that random states matter) in a folder; returns (model, Trained)."""
    packed = pack_documents(TEXTS, tokenizer, 48)

    def run(
        folder="run",
        eval_rows=None,
        batch_tokens=None,
        on_spike="ignore",
        dropout=0.1,
        average=None,
        save=False,
        **args,
    ):
        torch.manual_seed(0)
        drops = {f"{place}_pdrop": dropout for place in ("attn", "embd", "resid")}
        model = build_model({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 48, **drops}, tokenizer)
        trained = train.train_model(
            patch_loss(model, label_smoothing=args.get("label_smoothing_factor", 0.0)),
            train.TrainingData(
                packed.rows,
                partial(collate, pad_token_id=tokenizer.pad_token_id),
                {"": ValidationSet(packed.rows[:2])} if eval_rows else {},
            ),
            tmp_path / folder,
            {**ARGS, **args},
            train.StageSettings("pretrain", 0, 48, packed.tokens_per_row, batch_tokens, on_spike, average),
            save_to=tmp_path / folder / "model" if save else None,
        )
        return model, trained

    return run


def test_the_losses_are_those_of_the_best_model_where_that_is_kept(fit, tmp_path):
    options = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}  # the worst
    _, trained = fit(eval_rows=True, eval_steps=2, save_steps=2, logging_steps=2, learning_rate=0.1, **options)
    by_step = {line["step"]: line["eval_loss"] for line in metrics(tmp_path / "run") if "eval_loss" in line}
    worst = max(by_step, key=by_step.get)
    assert worst < trained.steps == 8
    assert (trained.kept_step, trained.eval_loss) == (worst, by_step[worst])
    [loss] = [line["loss"] for line in metrics(tmp_path / "run") if line["step"] == worst and "loss" in line]
    assert trained.loss == loss


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
    assert checkpoints.newest_valid_checkpoint(tmp_path / "run").name == "checkpoint-8"


def saved(folder):
    """{name: weights} of a saved model."""
    return load_file(folder / "model.safetensors")


def test_the_mean_of_the_last_checkpoints_is_the_model(fit, tmp_path):
    _, trained = fit(eval_rows=2, average=3, save=True, max_steps=7, save_total_limit=1)
    run = tmp_path / "run"
    assert trained.averaged == (4, 6, 7)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6", "checkpoint-7"]
    parts = [saved(run / f"checkpoint-{step}") for step in trained.averaged]
    for name, mean in saved(run / "model").items():
        exact = sum(part[name].double() for part in parts) / 3
        torch.testing.assert_close(mean, exact.float(), rtol=0, atol=0)
        assert not torch.equal(mean, parts[-1][name])
    logged = [line["eval_loss"] for line in metrics(run) if "eval_loss" in line]
    assert trained.eval_loss != logged[-1] and abs(trained.eval_loss - logged[-1]) < 1


def test_the_mean_is_the_same_where_a_signal_saved_a_checkpoint_between(fit, stop_at, monkeypatch, tmp_path):
    fit("whole", average=3, save=True)
    for step in (2, 4):
        with monkeypatch.context():
            stop_at(step)
            with pytest.raises(Stopped):
                fit("stopped", average=3, save=True)
        monkeypatch.undo()
    assert (tmp_path / "stopped" / "checkpoint-5").exists()
    fit("stopped", average=3, save=True)
    one, other = (saved(tmp_path / folder / "model") for folder in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_too_few_checkpoints_to_average_are_found_before_training(fit, tmp_path):
    with pytest.raises(
        UserError, match=r"average_checkpoints: 5, but only 4 .* in 8 steps. Set .*save_steps to at most 1"
    ):
        fit(average=5, save=True)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    _, trained = fit(average=2, save=True, max_steps=-1, num_train_epochs=3, save_strategy="epoch")
    per_epoch = trained.steps // 3
    assert trained.averaged == (2 * per_epoch, 3 * per_epoch)


def test_a_damaged_checkpoint_is_not_averaged(fit, tmp_path):
    fit(average=3, save=True)
    (tmp_path / "run" / "checkpoint-4" / "model.safetensors").write_bytes(b"torn")
    shutil.rmtree(tmp_path / "run" / "model")
    with pytest.raises(
        TrainingError, match="checkpoint-4 belongs to the checkpoints to average, but model.safetensors"
    ):
        fit(average=3, save=True)
    assert not (tmp_path / "run" / "model").exists()


def test_labels_are_smoothed_in_training_and_not_in_evaluation(fit, tmp_path):
    """By the model's own loss alone: Trainer would take it from the logits of all positions."""
    frozen = {"eval_rows": 2, "dropout": 0, "max_steps": 1, "logging_steps": 1, "learning_rate": 1e-12}
    fit("plain", **frozen)
    fit("smooth", **frozen, label_smoothing_factor=0.5)
    plain, smooth = (
        {key: value for line in metrics(tmp_path / folder) for key, value in line.items() if key.endswith("loss")}
        for folder in ("plain", "smooth")
    )
    assert plain["eval_loss"] == pytest.approx(smooth["eval_loss"], abs=1e-6)
    assert plain["loss"] != smooth["loss"]


@pytest.fixture
def stop_at(monkeypatch):
    """A signal while the given step is computed: SIGTERM as a scheduler sends it, SIGINT as Ctrl-C does."""

    def install(step, number=signal.SIGTERM):
        class Killer(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == step:
                    os.kill(os.getpid(), number)

        plain = train.StageTrainer

        def trainer(*args, callbacks, **kwargs):
            return plain(*args, callbacks=[*callbacks, Killer()], **kwargs)

        monkeypatch.setattr(train, "StageTrainer", trainer)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    yield install
    found = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, before)
    assert found == (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_resumed_run_ends_in_the_same_weights(
    fit, stop_at, monkeypatch, tmp_path, number, exit_code
):
    whole, _ = fit("whole")
    with monkeypatch.context():
        stop_at(2, number)
        with pytest.raises(Stopped, match=f"stopped by {number.name}.*the same command continues") as stopped:
            fit("stopped")
    assert stopped.value.exit_code == exit_code
    monkeypatch.undo()
    assert checkpoints.newest_valid_checkpoint(tmp_path / "stopped").name == "checkpoint-3"
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
        assert checkpoints.newest_valid_checkpoint(tmp_path / "run").name == "checkpoint-6"
    with pytest.warns(UserWarning, match=reason):
        resumed, _ = fit()
    assert torch.equal(weights(whole), weights(resumed))


def test_no_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint-old").mkdir()
    assert checkpoints.newest_valid_checkpoint(tmp_path) is None
    assert checkpoints.newest_valid_checkpoint(tmp_path / "nothing") is None


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


@pytest.fixture
def at_step(monkeypatch):
    """Run `action(trainer, inputs)` when the forward pass of a step (from 1) begins; what it returns is the loss."""

    def install(step, action):
        class Disturbed(train.StageTrainer):
            def compute_loss(self, model, inputs, **options):
                if self.state.global_step + 1 == step:
                    disturbed = action(self, inputs)
                    if disturbed is not None:
                        return super().compute_loss(model, inputs, **options) * disturbed
                return super().compute_loss(model, inputs, **options)

        monkeypatch.setattr(train, "StageTrainer", Disturbed)

    return install


@pytest.mark.parametrize("on_spike", ["stop", "ignore"])
def test_a_loss_that_is_not_finite_stops_with_its_step_rows_and_checkpoint(fit, at_step, tmp_path, on_spike):
    at_step(3, lambda *_: float("nan"))
    with pytest.raises(TrainingError) as error:
        fit(on_spike=on_spike)
    assert re.match(r"pretrain: the loss of step 3 is nan \(packed rows \d+, \d+\)", str(error.value))
    assert "The last valid checkpoint is checkpoint-2" in str(error.value)
    assert "on_spike: rollback" in str(error.value)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_rows_that_are_named_are_those_of_the_batch(fit, at_step):
    seen = {}
    at_step(5, lambda trainer, inputs: seen.update(ids=inputs["input_ids"], rows=trainer.train_dataset) or float("inf"))
    with pytest.raises(TrainingError, match="step 5 is inf") as error:
        fit(per_device_train_batch_size=3, max_steps=20)
    [named] = re.findall(r"packed rows ([\d, ]+)\)", str(error.value))
    for row, ids in zip(named.split(", "), seen["ids"].tolist(), strict=True):
        expected = seen["rows"][int(row)]["input_ids"].tolist()
        assert ids[: len(expected)] == expected


def test_a_rollback_leaves_the_batch_out_and_ends_as_if_it_had_not_been_there(fit, at_step, monkeypatch, tmp_path):
    at_step(6, lambda *_: float("nan"))
    rolled, trained = fit("rolled", on_spike="rollback", save_steps=4)
    assert trained.skipped == (6,)
    assert trained.steps == 8
    assert [line["step"] for line in metrics(tmp_path / "rolled") if "loss" in line] == [2, 4, 6, 8]
    assert torch.isfinite(weights(rolled)).all()
    monkeypatch.undo()
    (tmp_path / "noted").mkdir()
    (tmp_path / "noted" / "skipped.json").write_text('{"6": {}}')
    noted, _ = fit("noted", save_steps=4)
    assert torch.equal(weights(rolled), weights(noted))
    whole, _ = fit("whole", save_steps=4)
    assert not torch.equal(weights(rolled), weights(whole))


def test_a_rollback_needs_a_checkpoint(fit, at_step):
    at_step(2, lambda *_: float("nan"))
    with pytest.raises(TrainingError, match="step 2 is nan.*no checkpoint to go back to"):
        fit(on_spike="rollback", save_steps=4)


def test_rollbacks_are_bounded(fit, monkeypatch):
    class AlwaysAfterFour(train.StageTrainer):
        def compute_loss(self, *args, **options):
            return super().compute_loss(*args, **options) * (float("nan") if self.state.global_step >= 4 else 1)

    monkeypatch.setattr(train, "StageTrainer", AlwaysAfterFour)
    with pytest.raises(TrainingError, match="step 8 is nan.*went back 3 times already"):
        fit(on_spike="rollback", save_steps=4)


def test_weights_that_are_not_finite_are_never_a_valid_checkpoint(fit, tmp_path, monkeypatch):
    class Broken(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            if state.global_step == 4:
                model.transformer.ln_f.weight.data[0] = float("nan")

    plain = train.StageTrainer
    monkeypatch.setattr(
        train,
        "StageTrainer",
        lambda *args, callbacks, **options: plain(*args, callbacks=[*callbacks, Broken()], **options),
    )
    with pytest.raises(
        TrainingError, match="step 4 left weights that are not finite.*valid checkpoint is checkpoint-2"
    ):
        fit()
    assert checkpoints.newest_valid_checkpoint(tmp_path / "run").name == "checkpoint-2"


@pytest.mark.parametrize(
    ("loss", "recent", "spike"),
    [
        (9.0, [4.0] * 31, False),  # too few to tell
        (9.0, [4.0] * 32, True),
        (4.9, [4.0] * 64, False),
        (5.1, [4.0] * 64, True),
        (2.5, [0.01, 0.9, 0.02, 1.1, 0.5] * 12, False),  # small batches jump
        (8.0, [0.01, 0.9, 0.02, 1.1, 0.5] * 12, True),
    ],
)
def test_what_a_spike_is(loss, recent, spike):
    assert guards.is_spike(loss, recent) is spike


def test_a_spike_is_reported_or_stops_as_the_recipe_says(fit, at_step, caplog):
    caplog.set_level("INFO", "hflm")
    at_step(40, lambda *_: 3.0)
    few = {"max_steps": 44, "save_steps": 20, "learning_rate": 1e-4}
    fit("reported", **few)
    reported = [line for line in caplog.messages if "the loss of step 40 is" in line]
    assert len(reported) == 1 and "the median of the 39 before" in reported[0]
    with pytest.raises(TrainingError, match="the loss of step 40 is .*packed rows"):
        fit("stopped", on_spike="stop", **few)
    _, trained = fit("rolled", on_spike="rollback", **few)
    assert trained.skipped == (40,)


def out_of_memory_above(rows, seen):
    def action(trainer, inputs):
        seen.append(len(inputs["input_ids"]))
        if seen[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    return action


@pytest.mark.parametrize("step", [1, 3])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(fit, at_step, monkeypatch, caplog, tmp_path, step):
    caplog.set_level("INFO", "hflm")
    seen = []
    at_step(step, out_of_memory_above(1, seen))
    same = {"per_device_train_batch_size": 4, "save_strategy": "no", "dropout": 0.0, "bf16": False}
    halved, trained = fit("halved", **same)
    assert seen[:3] == [4, 2, 1] and set(seen[3:]) == {1}
    assert "out of memory" in caplog.text
    assert trained.steps == 8
    monkeypatch.undo()
    whole, _ = fit("whole", **same)
    torch.testing.assert_close(weights(halved), weights(whole), atol=1e-4, rtol=1e-3)
    assert json.loads((tmp_path / "halved" / "micro_batch.json").read_text()) == {"rows": 1}


def test_out_of_memory_with_a_single_row_says_what_helps(fit, at_step):
    at_step(1, out_of_memory_above(0, []))
    with pytest.raises(TrainingError, match="out of memory .*which a smaller micro-batch cannot help.*block_size"):
        fit(per_device_train_batch_size=2)


@pytest.mark.parametrize(
    ("batch_tokens", "message"),
    [
        (50, "50 is no multiple of the row of 48 tokens. Take 48 or 96"),
        (48 * 100, "a step takes 100 rows, the data has 7. Lower it"),
    ],
)
def test_a_batch_that_the_data_cannot_fill_is_refused(fit, batch_tokens, message):
    with pytest.raises(UserError, match=f"pretrain.batch_tokens: {message}"):
        fit(batch_tokens=batch_tokens)


def test_a_step_of_batch_tokens_is_whole_in_every_epoch(fit, at_step, tmp_path):
    """Seven rows, four a step: one step an epoch, the other three rows wait for the next order."""
    fit(batch_tokens=4 * 48, max_steps=-1, num_train_epochs=3)
    assert [line["tokens"] for line in metrics(tmp_path / "run") if "loss" in line][-1] > 0
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (3, 3.0)


def test_the_warmup_stable_decay_schedule_takes_its_options_from_the_recipe(fit, tmp_path):
    fit(
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": 2, "decay_type": "linear", "min_lr_ratio": 0.1},
        warmup_steps=2,
        logging_steps=1,
    )
    rates = [line["learning_rate"] for line in metrics(tmp_path / "run") if "loss" in line]
    assert rates == pytest.approx([1e-3, 5.5e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 5.5e-3], rel=1e-3)


def test_speed_is_written_beside_the_loss(fit, tmp_path):
    model, trained = fit(bf16=False)
    line = metrics(tmp_path / "run")[-1]
    n, wpe = model.num_parameters(), model.transformer.wpe.weight.numel()
    assert line["flops_per_second"] == pytest.approx(
        line["tokens_per_second"] * (6 * (n - wpe) + 12 * 16 * 48), rel=0.01
    )
    assert 0 < line["mfu"] < 1
    assert trained.speed["mfu"] == pytest.approx(
        trained.speed["flops_per_second"] / trained.speed["peak_flops_per_second"], abs=1e-4
    )
    assert "measured, fp32" in trained.speed["peak_source"]


@pytest.mark.parametrize(("peak", "fraction"), [(4e11, {"mfu": 0.25}), (1e11, {"mfu": 1.0}), (5e10, {})])
def test_no_fraction_of_a_peak_that_was_exceeded(tmp_path, peak, fraction):
    """As where other programs used the CPU while it was measured."""
    log = progress.MetricsLog("pretrain", tmp_path, tokens_per_row=64, flops_per_token=1e8)
    log.peak, log.speeds = progress.Peak(peak, "measured"), [1000.0]
    assert {key: value for key, value in log.speed.items() if key == "mfu"} == fraction


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(fit, at_step, monkeypatch, tmp_path):
    """A file that may grow no further fails a write as a full disk does."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(4, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1])))
    try:
        with pytest.raises(TrainingError, match="checkpoint-4 cannot be written.*checkpoint-2 is intact. Free space"):
            fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    whole, _ = fit("whole")
    resumed, _ = fit()
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("free", "cause"), [(4096, "no space is left on the disk"), (10**9, "[enforce fail at inline_container.cc:671] .")]
)
def test_a_full_disk_is_called_one_where_torch_speaks_of_positions(tmp_path, monkeypatch, free, cause):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    error = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 19968 vs 19856")
    (tmp_path / "checkpoint-5").mkdir()
    failed = checkpoints.write_error(tmp_path / "checkpoint-5", error)
    assert f"checkpoint-5 cannot be written: {cause}" in str(failed) and not (tmp_path / "checkpoint-5").exists()


def test_a_tracker_gets_what_is_logged(fit, tmp_path):
    from tensorboardX import SummaryWriter  # noqa: F401  a development dependency, which transformers takes too

    fit(report_to="tensorboard")
    [events] = (tmp_path / "run").rglob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
    assert len(metrics(tmp_path / "run")) == 4


@pytest.mark.parametrize("report_to", ["no_such_package", ["tensorboard", "no_such_package"]])
def test_a_tracker_that_is_not_installed_names_what_to_install(monkeypatch, report_to):
    monkeypatch.setitem(trackers.PACKAGES, "no_such_package", ("no_such_package",))
    with pytest.raises(
        UserError, match=r"finetune.args.report_to: no_such_package is not.*uv pip install no_such_package"
    ):
        require_trackers(report_to, "finetune")


def test_every_tracker_of_transformers_is_known():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert trackers.PACKAGES.keys() == INTEGRATION_TO_CALLBACK.keys()
    for fine in (None, "none", "all", "wandb", ["mlflow", "trackio"]):
        assert unknown_tracker(fine) is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is tuned")
@pytest.mark.parametrize("spare", [True, False])
def test_freed_memory_goes_back_to_the_system_only_when_it_is_spared(spare):
    rounds = (
        "import resource, numpy\nfrom hflm.core import hardware\n"
        f"hardware.tune_malloc(spare={spare})\n"
        "for _ in range(9):\n"
        "    blocks = [numpy.ones(3_000_000, 'u1') for _ in range(20)]\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    ended = subprocess.run([sys.executable, "-c", rounds], capture_output=True, text=True, check=True)
    faults = [int(line) for line in ended.stdout.split()]
    per_round = (faults[-1] - faults[3]) / 5
    assert per_round > 10_000 if spare else per_round < 100


@pytest.mark.parametrize(
    ("rows", "steps", "tokens"),
    [(9, 6, 27), (9, 1, 8), (9, 2, 9), (9, 3, 17), (16, 4, 32), (None, 6, 48)],
)
def test_the_last_step_of_an_epoch_takes_what_is_left(tmp_path, rows, steps, tokens):
    log = progress.MetricsLog("pretrain", tmp_path, 1.0, 1.0, rows)
    batch = SimpleNamespace(per_device_train_batch_size=4, gradient_accumulation_steps=2, world_size=1)
    assert log.tokens_at(steps, batch) == tokens


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_flops_count_the_output_layer_only_where_there_are_labels(tokenizer, adapter, tied):
    """Against the profiler's counts of two trained batches, of which more and fewer tokens are labels."""
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 16, "n_positions": 64, "tie_word_embeddings": tied}
    model = patch_loss(build_model({**sizes, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}, tokenizer))
    if adapter:
        model = add_adapter(model, {"type": "lora", "r": 1})
    ids = torch.arange(128).reshape(2, 64) % len(tokenizer)
    expected, counted = [], []
    for first in (48, 16):
        labels = ids.where(torch.arange(64) >= first, torch.tensor(-100))
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        flops = counter.get_total_flops()
        if not adapter:  # torch does not count addmm_, by which the loss sums the output layer's gradient
            flops += 2 * int((labels != -100).sum()) * 16 * len(tokenizer)
        counted.append(flops / ids.numel())
        expected.append(progress.flops_per_token(model, 64, 1 - first / 64))
    assert expected[1] - expected[0] == pytest.approx(counted[1] - counted[0])
    assert expected == pytest.approx(counted, rel=0.15)  # the fused attention's second computation is no part of it


def test_muon_trains_an_adapter(tokenizer):
    torch.manual_seed(0)
    model = build_model({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 48}, tokenizer)
    model = add_adapter(model, {"type": "lora", "r": 2})
    options = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "dtype": torch.float32}
    optimizer = MuonFactory()(model, weight_decay=0.0, **options)
    [matrices] = optimizer.param_groups
    before = [parameter.clone() for parameter in matrices["params"]]
    for parameter in matrices["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(not torch.equal(was, now) for was, now in zip(before, matrices["params"], strict=True))


def test_a_dropped_last_batch_is_not_counted(fit, tokenizer):
    packed = pack_documents(TEXTS, tokenizer, 48)
    size = next(size for size in (2, 3, 5) if len(packed.rows) % size)
    steps = 2 * (len(packed.rows) // size) + 1
    _, trained = fit(max_steps=steps, per_device_train_batch_size=size, dataloader_drop_last=True)
    assert trained.tokens == round(steps * size * packed.tokens_per_row)
