"""`hflm plan`: what a recipe will take, before anything runs, and whether it fits.

The speed of the machine at hand is measured (hflm.planning.calibration), which imports torch; for a named device nothing
does.

Every number is either exact arithmetic (hflm.models.architecture, hflm.planning.cost), measured here and now, or an
assumption; the plan's notes say which assumptions it made and what cannot be known.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from hflm.core import UserError, hardware, read_json, read_loss_curves
from hflm.models import architecture as shapes
from hflm.planning import cost
from hflm.planning import inputs as plan_source
from hflm.recipe import PRESETS, Batch, derive_batch, dump_recipe


@dataclass(frozen=True)
class StagePlan:
    """What one training stage takes. Bytes are of one process; None is what cannot be known."""

    stage: str
    trained_parameters: int
    tokens_per_step: int
    steps: int | None
    tokens: int | None
    corpus_tokens: int | None
    epochs: float | None
    labelled_share: float
    memory_bytes: dict
    peak_bytes: int
    peak_at: str
    available_bytes: float
    fits: bool
    advice: tuple
    flops_per_token: dict
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
    parameters: dict | None
    total_parameters: int | None
    stages: tuple
    compute_optimal: dict | None
    notes: tuple


def plan(recipe, device=None, processes=None, price_per_hour=None, corpus_tokens=None):
    """The Plan of a Recipe on the machine at hand or on `processes` devices of a name (hflm.core.hardware.DEVICES).

    price_per_hour: of one device. corpus_tokens: of the pretraining corpus, where they cannot be counted.
    Raises UserError for a device that is not known.
    """
    chosen = hardware.named(device) if device is not None else hardware.here()
    if chosen is None:
        raise UserError(f"--device {device}: not known here. Known: {', '.join(hardware.DEVICES)}")
    processes = processes or recipe.processes or 1
    notes = []
    config, shape = plan_source.model(recipe, notes)
    if shape is None:
        stored = plan_source.stored(recipe)
        return Plan(recipe.name, chosen, processes, None, stored, (), None, tuple(notes))
    counted = shapes.parameters(shape)
    total = sum(counted.values())
    stages = []
    for name in ("pretrain", "finetune"):
        if getattr(recipe, name) is not None:
            load = load_of(recipe, name, shape, processes, chosen)
            stages.append(
                _stage(recipe, name, shape, load, chosen, device, price_per_hour, corpus_tokens, notes, config)
            )
    tokens = next((stage.tokens for stage in stages if stage.stage == "pretrain"), None)
    return Plan(
        recipe.name, chosen, processes, counted, total, tuple(stages), _optimal(shape, total, tokens), tuple(notes)
    )


def load_of(recipe, stage, shape, processes, device, labelled=1.0):
    """The Load of the recipe's "pretrain" or "finetune": what its keys mean for one process on a Device."""
    section = getattr(recipe, stage)
    args = section.args
    length = section.block_size or min(shape.n_positions, 1024)
    batch = args.get("per_device_train_batch_size", 8)
    shared = Batch(batch, args.get("gradient_accumulation_steps", 1), processes)
    if section.batch_tokens is not None:
        shared = derive_batch(section.batch_tokens, length, processes, batch, stage)
    mixed = args.get("bf16") or args.get("fp16")
    if "bf16" not in args and "fp16" not in args:  # as hflm.core.arithmetic chooses
        mixed = device.format != "fp32" and not (device.format == "fp16" and section.on_spike == "rollback")
    return cost.Load(
        batch=shared.per_device,
        length=length,
        labelled=labelled,
        accumulation=shared.accumulation,
        processes=processes,
        sharded=bool(args.get("fsdp")),
        weight_bytes=4 if recipe.model.dtype in (None, "float32") else 2,
        mixed=bool(mixed),
        checkpointing=bool(args.get("activation_checkpointing") or args.get("gradient_checkpointing")),
        optim=args.get("optim", "adamw_torch_fused"),
        orthogonalization=device.format,
        adapter=section.adapter if stage == "finetune" else None,
        quantization=section.quantization if stage == "finetune" else None,
        masked=stage == "finetune" or section.rows == "documents",
        gpu=device.gpu,
    )


def peak(shape, load):
    """(bytes, moment) of the largest memory of a step in one process."""
    moments = cost.memory(shape, load)[1]
    moment = max(moments, key=moments.get)
    return moments[moment], moment


def _stage(recipe, name, shape, load, device, asked, price_per_hour, corpus_tokens, notes, config):
    section = getattr(recipe, name)
    if name == "pretrain":
        rows_tokens = corpus_tokens or plan_source.corpus_tokens(section, shape, notes)
    else:
        rows_tokens, labelled = plan_source.task_tokens(recipe, section, shape, notes)
        load = replace(load, labelled=labelled)
    per_step = load.rows * load.accumulation * load.processes
    steps = section.args.get("max_steps", -1)
    if steps <= 0:
        passes = section.args.get("num_train_epochs", 3)
        steps = math.ceil(rows_tokens / per_step * passes) if rows_tokens else None
        if steps is None:
            notes.append(f"{name}: {passes} epochs of unknown length, so neither tokens nor time can be known")
    tokens = steps and steps * per_step
    parts, _ = cost.memory(shape, load)
    most, moment = peak(shape, load)
    flops = cost.flops_per_token(shape, load)
    speed, source = _speed(recipe, name, load, device, asked, sum(flops.values()), config)
    seconds = tokens / speed if tokens and speed else None
    available = device.memory_bytes / (1 if device.gpu else load.processes)
    needed = most + hardware.LIBRARIES_BYTES
    trained = sum(shapes.parameters(shape).values())
    if load.adapter is not None:
        trained = shapes.adapter_parameters(shape, load.adapter)
    return StagePlan(
        stage=name,
        trained_parameters=trained,
        tokens_per_step=per_step,
        steps=steps,
        tokens=tokens,
        corpus_tokens=rows_tokens,
        epochs=tokens / rows_tokens if tokens and rows_tokens else None,
        labelled_share=load.labelled,
        memory_bytes=parts,
        peak_bytes=most,
        peak_at=moment,
        available_bytes=available,
        fits=needed <= available,
        advice=() if needed <= available else tuple(_advice(shape, load, available, name)),
        flops_per_token=flops,
        flops=tokens and tokens * sum(flops.values()),
        tokens_per_second=speed,
        speed_source=source,
        seconds=seconds,
        price=seconds / 3600 * price_per_hour * load.processes if seconds and price_per_hour else None,
    )


def _advice(shape, load, available, stage):
    """Yields each single change with which it would fit."""

    def fits(changed):
        return peak(shape, changed)[0] + hardware.LIBRARIES_BYTES <= available

    def batch(load):
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


def _speed(recipe, name, load, device, asked, flops, config):
    """(tokens per second of all processes, where the number comes from)."""
    run = Path("runs") / recipe.name
    if asked is None and read_json(run / "environment.json").get("processes") == load.processes:
        measured = read_loss_curves(run / name / "metrics.jsonl").tokens_per_second
        if measured and _trained_alike(run / "recipe.yaml", recipe, name):
            return measured, f"measured by the earlier run in {run}"
    if not device.gpu:
        return _measured_speed(recipe, name, load, config)
    quick = load.mixed or load.weight_bytes == 2
    rate = device.bf16_flops if quick else device.fp32_flops
    if rate is None:
        return None, f"the peak of {device.name} is not known here"
    kind = (device.format if device.format != "fp32" else "bf16") if quick else "fp32"
    where = f"{rate / 1e12:,.3g} TFLOP/s in {kind}"
    return rate * device.share * load.processes / flops, f"assumes {device.share:.0%} of {where}"


def _measured_speed(recipe, name, load, config):
    """Tokens per second of this machine's CPU, by steps timed here and now."""
    import torch

    from hflm.core import arithmetic
    from hflm.planning import calibration

    if load.quantization is not None:
        return None, "the speed of quantized weights on a CPU is not measured"
    section = getattr(recipe, name)
    chosen = arithmetic.choose(torch.device("cpu"), section.args)
    seconds = calibration.step_seconds(config, load, chosen)
    # Processes of one machine share its cores; those that a launcher started have their part of the threads.
    cores = torch.cpu.get_capabilities()["num_logical_cores"]
    at_once = max(1, min(load.processes, cores // torch.get_num_threads()))
    speed = load.rows * load.accumulation * at_once / seconds
    return speed, f"measured here by a few steps, in {chosen.autocast}"


def _trained_alike(path, recipe, stage):
    """Whether the run's recipe.yaml has the same model and training as `recipe`."""
    if not path.exists():
        return False
    before, now = (yaml.safe_load(text) for text in (path.read_text(encoding="utf-8"), dump_recipe(recipe)))
    return all(before.get(section) == now.get(section) for section in ("tokenizer", "model", stage))


def _optimal(shape, total, tokens):
    """Hoffmann et al. 2022's sizes: see cost.compute_optimal_tokens."""
    found = {"tokens_for_the_model": cost.compute_optimal_tokens(total)}
    if tokens:
        wanted = cost.compute_optimal_parameters(tokens)
        sizes = {
            name: sum(shapes.parameters(shapes.of({**size, "vocab_size": shape.vocab_size})).values())
            for name, size in PRESETS.items()
        }
        nearest = min(sizes, key=lambda name: abs(math.log(sizes[name] / wanted)))
        found |= {"tokens": tokens, "parameters_for_the_tokens": round(wanted), "nearest_preset": nearest}
    return found


@dataclass(frozen=True)
class Prediction:
    """What a training stage is expected to take in one process; tokens_per_second is of all. None: not known."""

    parameters: int
    tokens_per_second: float | None
    memory_bytes: int


def predict(model_config, rows, recipe, stage, processes):
    """The Prediction of a stage that trains a model of config.json's content `model_config` on packed `rows`.

    None for an architecture that hflm.models.architecture does not know.
    """
    shape = shapes.of(model_config)
    if shape is None:
        return None
    device = hardware.here()
    load = load_of(recipe, stage, shape, processes, device)
    if stage == "finetune":
        sample = [rows[number]["labels"] >= 0 for number in range(min(plan_source.SAMPLED_ROWS, len(rows)))]
        load = replace(load, labelled=sum(map(sum, sample)) / sum(map(len, sample)))
    flops = sum(cost.flops_per_token(shape, load).values())
    speed, _ = _speed(recipe, stage, load, device, device.name, flops, model_config)
    libraries = 0 if device.gpu else hardware.LIBRARIES_BYTES
    return Prediction(
        parameters=sum(shapes.parameters(shape).values()),
        tokens_per_second=speed and round(speed),
        memory_bytes=round(peak(shape, load)[0] + libraries),
    )


def compare_prediction(prediction, model, run, stage):
    """{"predicted": {...}, "measured": {...}} after the stage, for environment.json.

    Measured memory is what a GPU's allocator held at the most, or the whole process's resident memory on a CPU.
    """
    return {
        "predicted": dataclasses.asdict(prediction),
        "measured": {
            "parameters": model.num_parameters(),
            "tokens_per_second": read_loss_curves(run / stage / "metrics.jsonl").tokens_per_second,
            "memory_bytes": hardware.peak_memory_bytes(),
        },
    }


def format_prediction(side):
    """One line of the "predicted" or "measured" part.

    >>> format_prediction({"parameters": 1000, "tokens_per_second": 5200.0, "memory_bytes": 2.5e9})
    '1,000 parameters, 2.50 GB, 5,200 tok/s'
    """
    speed = side["tokens_per_second"]
    words = [f"{side['parameters']:,} parameters", f"{side['memory_bytes'] / 1e9:.2f} GB"]
    return ", ".join([*words, f"{speed:,.0f} tok/s"] if speed else words)


def as_json(found):
    """The Plan as plain values, each with its unit in its name."""
    return json.dumps(dataclasses.asdict(found), indent=2)
