"""The end of a stage's training: the model is saved, whole or not at all, and what was done is summed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from hflm.core import atomic_folder, logger
from hflm.training import checkpoint_format, checkpoints
from hflm.training.best_model import Kept, has_stopped
from hflm.training.stage_trainer import StageTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Trained:
    """What one stage did; `loss` is the mean over the steps of a log line, in nats per label.

    The losses are those at `kept_step`, whose weights are the stage's model: the last step, or with
    load_best_model_at_end the best one, for the reason in `kept`. `stopped_early`: before the last step, because the
    evaluations were no longer better. Where checkpoints are averaged, `averaged` are their steps and `eval_loss` is that
    of the mean (None for a sharded model).

    `speed` is hflm.training.metrics_log's medians; `skipped` are the steps (from 1) whose batch a rollback left out.
    """

    steps: int
    kept_step: int
    kept: Kept | None
    stopped_early: bool
    tokens: int
    seconds: float
    loss: float | None
    eval_loss: float | None
    speed: dict[str, Any]
    skipped: tuple[int, ...]
    arithmetic: dict[str, Any]
    averaged: tuple[int, ...] = ()


def finish(
    trainer: StageTrainer,
    save_to: Path | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    averaged: Sequence[int],
) -> dict[str, Any]:
    """Save the model; what a Trained says of the steps and their losses."""
    folder = trainer.guard.folder
    if save_to is not None:
        _save_trained(trainer, save_to, tokenizer, [folder / f"checkpoint-{step}" for step in averaged])
        trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        checkpoint_format.remove_translated(folder)
    outcome = _outcome(trainer)
    if save_to is not None and averaged:
        outcome["eval_loss"] = _loss_of_saved(trainer, save_to)
        steps = ", ".join(map(str, averaged))
        logger.info(f"{trainer.guard.stage}: the weights are the mean of the checkpoints of steps {steps}")
    return outcome


def _outcome(trainer: StageTrainer) -> dict[str, Any]:
    """What a Trained says of the steps and their losses."""
    state, kept = trainer.state, trainer.best.kept if trainer.best else None
    history = [entry for entry in state.log_history if kept is None or entry.get("step", 0) <= kept.step]
    if kept is not None:
        best = f"its {kept.metric} {kept.value:.4g} is the best"
        logger.info(f"{trainer.guard.stage}: the model of step {kept.step:,} is kept: {best}")
    return {
        "steps": state.global_step,
        "kept_step": kept.step if kept else state.global_step,
        "kept": kept,
        "stopped_early": has_stopped(trainer.early) and state.global_step < state.max_steps,
        "loss": next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
        "eval_loss": next((entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry), None),
    }


def _loss_of_saved(trainer: StageTrainer, folder: Path) -> float | None:
    """The evaluation loss of the weights in `folder`; None without validation data, and for a sharded model."""
    if not trainer.validation or trainer.is_fsdp_enabled:
        return None
    model = trainer.accelerator.unwrap_model(trainer.model)
    for file in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(load_file(file), strict=False)  # tied weights are saved once
    return trainer.evaluation_losses()["eval_loss"]


def _save_trained(
    trainer: StageTrainer, folder: Path, tokenizer: "PreTrainedTokenizerBase | None", averaged: Sequence[Path]
) -> None:
    """Write the trained weights, or the mean of the `averaged` checkpoints, so that `folder` appears complete or not at
    all. Every process takes part.
    """
    if not trainer.is_world_process_zero():
        trainer.save_model(str(folder))  # parts of a sharded model are gathered; only the first process writes
        return
    try:
        with atomic_folder(folder) as partial:
            trainer.save_model(str(partial))
            (partial / "training_args.bin").unlink()  # a pickle, which nobody should load
            if averaged:
                checkpoints.average_weights(averaged, partial)
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
    except Exception as error:
        failed = checkpoints.write_error(folder, error)
        if failed is None:
            raise
        raise failed from error
