"""`hflm plan`: what a recipe takes, before anything runs, and whether it fits.

Every number is either exact arithmetic (hflm.models.architecture, hflm.planning.cost), measured here and now
(hflm.planning.calibration), or an assumption; the plan's notes say which assumptions it made and what is not known.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hflm.core import UserError, hardware
from hflm.models import architecture
from hflm.planning import cost, inputs, speed
from hflm.planning.cost import Load
from hflm.planning.scale import predicted_loss
from hflm.planning.scaling_law import weights_of
from hflm.recipe import PRESETS, FinetuneRecipe, PretrainRecipe, Recipe, check_steps, stage_batch


@dataclass(frozen=True)
class StagePlan:
    """What one training stage takes. Bytes are of one process; None is what is not known."""

    stage: str
    trained_parameters: int
    tokens_per_step: int
    steps: int | None
    tokens: int | None
    corpus_tokens: int | None
    epochs: float | None
    labelled_share: float
    memory_bytes: dict[str, int]
    peak_bytes: int
    peak_at: str
    available_bytes: float
    fits: bool
    advice: tuple[str, ...]
    flops_per_token: dict[str, float]
    flops: float | None
    tokens_per_second: float | None
    speed_source: str
    seconds: float | None
    price: float | None


@dataclass(frozen=True)
class Plan:
    """What a recipe takes, stage by stage, and the sizes that fit each other."""

    recipe: str
    device: hardware.Device
    processes: int
    parameters: dict[str, int] | None
    total_parameters: int | None
    stages: tuple[StagePlan, ...]
    compute_optimal: dict[str, Any] | None
    notes: tuple[str, ...]
    predicted_loss: dict[str, Any] | None = None  # by the ladder of `hflm scale`


@dataclass(frozen=True)
class _Question:
    """What is asked about a recipe. `asked_device` is the name on the command line, None for the machine at hand."""

    recipe: Recipe
    model: inputs.ModelConfig
    device: hardware.Device
    asked_device: str | None
    processes: int
    price_per_hour: float | None
    corpus_tokens: int | None


def plan_recipe(
    recipe: Recipe,
    device: str | None = None,
    processes: int | None = None,
    price_per_hour: float | None = None,
    corpus_tokens: int | None = None,
    scale: Path | None = None,
) -> Plan:
    """The Plan of a recipe on the machine at hand or on `processes` devices of a name (hflm.core.hardware.DEVICES).

    price_per_hour: of one device. corpus_tokens: of the pretraining corpus, where they cannot be counted. scale: a
    scale.json of `hflm scale`, by default that of a recipe of this name.
    Raises UserError for a device that is not known.
    """
    chosen = hardware.named(device) if device is not None else hardware.here()
    if chosen is None:
        raise UserError(f"--device {device}: not known here. Known: {', '.join(hardware.DEVICES)}")
    processes = processes or recipe.processes or 1
    notes: list[str] = []
    model = inputs.read_model_config(recipe, notes)
    if model is None:
        stored = inputs.stored_parameters(recipe)
        return Plan(recipe.name, chosen, processes, None, stored, (), None, tuple(notes))
    counted = architecture.parameters(model.shape)
    total = sum(counted.values())
    question = _Question(recipe, model, chosen, device, processes, price_per_hour, corpus_tokens)
    stages = [_plan_stage(question, name, notes) for name in ("pretrain", "finetune") if getattr(recipe, name)]
    tokens = next((stage.tokens for stage in stages if stage.stage == "pretrain"), None)
    optimal = _optimal(model.shape, total, tokens)
    predicted = predicted_loss(recipe, weights_of(model.shape), tokens, scale) if recipe.pretrain is not None else None
    return Plan(recipe.name, chosen, processes, counted, total, tuple(stages), optimal, tuple(notes), predicted)


def _plan_stage(question: _Question, name: str, notes: list[str]) -> StagePlan:
    recipe, shape, device = question.recipe, question.model.shape, question.device
    section = getattr(recipe, name)
    load = speed.step_load(recipe, name, shape, question.processes, device)
    if name == "pretrain":
        rows_tokens = question.corpus_tokens or inputs.corpus_tokens(section, shape, notes)
    else:
        rows_tokens, labelled = inputs.task_tokens(recipe, section, shape, notes)
        load = replace(load, labelled=labelled)
    per_step = load.rows * load.accumulation * load.processes
    steps = _steps(section, name, shape, rows_tokens, per_step, notes)
    if rows_tokens is not None:
        batch = stage_batch(section, load.length, load.processes, name)
        drop_last = section.args.get("dataloader_drop_last", False)
        check_steps(math.ceil(rows_tokens / load.length), batch, drop_last, name)
    tokens = steps and steps * per_step
    parts, _ = cost.memory(shape, load)
    peak = cost.peak(shape, load)
    flops = cost.flops_per_token(shape, load)
    rate = speed.tokens_per_second(
        recipe, name, shape, load, device, question.model.config, earlier_run=question.asked_device is None
    )
    seconds = tokens / rate.tokens_per_second if tokens and rate.tokens_per_second else None
    available = device.memory_bytes / (1 if device.gpu else load.processes)
    fits = peak.bytes + hardware.LIBRARIES_BYTES <= available
    price = question.price_per_hour
    return StagePlan(
        stage=name,
        trained_parameters=cost.trained_parameters(shape, load),
        tokens_per_step=per_step,
        steps=steps,
        tokens=tokens,
        corpus_tokens=rows_tokens,
        epochs=tokens / rows_tokens if tokens and rows_tokens else None,
        labelled_share=load.labelled,
        memory_bytes=parts,
        peak_bytes=peak.bytes,
        peak_at=peak.moment,
        available_bytes=available,
        fits=fits,
        advice=() if fits else tuple(_advice(shape, load, available, name)),
        flops_per_token=flops,
        flops=tokens and tokens * sum(flops.values()),
        tokens_per_second=rate.tokens_per_second,
        speed_source=rate.source,
        seconds=seconds,
        price=seconds / 3600 * price * load.processes if seconds and price else None,
    )


def _steps(
    section: PretrainRecipe | FinetuneRecipe,
    stage: str,
    shape: architecture.Shape,
    rows_tokens: int | None,
    per_step: int,
    notes: list[str],
) -> int | None:
    """Optimizer steps of a stage by its tokens or `args`, None with a note where the data's length is not known."""
    if isinstance(section, PretrainRecipe) and (budget := section.token_budget(architecture.total_parameters(shape))):
        return math.ceil(budget / per_step)
    steps = section.args.get("max_steps", -1)
    if steps > 0:
        return steps
    epochs = section.args.get("num_train_epochs", 3)
    if rows_tokens:
        return math.ceil(rows_tokens / per_step * epochs)
    notes.append(f"{stage}: {epochs} epochs of unknown length, so neither tokens nor time can be known")
    return None


def _advice(shape: architecture.Shape, load: Load, available: float, stage: str) -> Iterator[str]:
    """Yields each single change with which it would fit."""

    def fits(changed: Load) -> bool:
        return cost.peak(shape, changed).bytes + hardware.LIBRARIES_BYTES <= available

    def batch(load: Load) -> int | None:
        sizes = [size for size in range(load.batch, 0, -1) if load.batch % size == 0]
        return next((size for size in sizes if fits(replace(load, batch=size, accumulation=2))), None)

    size = batch(load)
    if size is not None:
        steps = load.accumulation * load.batch // size  # with batch_tokens it follows by itself
        yield f"per_device_train_batch_size: {size} with gradient_accumulation_steps: {steps} (the same global batch)"
    checkpointed = replace(load, checkpointing=True)
    if not load.checkpointing:
        if fits(checkpointed):
            yield "activation_checkpointing: true (about a third more time)"
        elif size is None and batch(checkpointed) is not None:
            yield f"activation_checkpointing: true with per_device_train_batch_size: {batch(checkpointed)}"
    if load.optim not in ("adafactor",) and fits(replace(load, optim="adamw_8bit")):
        yield "optim: adamw_8bit (needs the quant extra)"
    for processes in (2, 4, 8, 16, 32, 64):
        if processes > load.processes and fits(replace(load, sharded=True, processes=processes)):
            yield f"fsdp: full_shard on {processes} processes"
            break
    if stage == "finetune" and load.adapter is None and fits(replace(load, adapter={"type": "lora"})):
        yield "finetune.adapter: {type: lora}"


def _optimal(shape: architecture.Shape, total: int, tokens: int | None) -> dict[str, Any]:
    """Hoffmann et al. 2022's sizes: see cost.compute_optimal_tokens."""
    sizes_for: dict[str, Any] = {"tokens_for_the_model": cost.compute_optimal_tokens(total)}
    if tokens:
        wanted = cost.compute_optimal_parameters(tokens)
        sizes = {}
        alike = {name: size for name, size in PRESETS.items() if size.get("model_type", "gpt2") == shape.family}
        for name, size in (alike or PRESETS).items():
            preset = architecture.of({**size, "vocab_size": shape.vocab_size})
            assert preset is not None  # presets are of known architectures
            sizes[name] = architecture.total_parameters(preset)
        nearest = min(sizes, key=lambda name: abs(math.log(sizes[name] / wanted)))
        sizes_for |= {"tokens": tokens, "parameters_for_the_tokens": round(wanted), "nearest_preset": nearest}
    return sizes_for
