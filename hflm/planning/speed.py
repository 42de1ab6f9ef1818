"""How fast a stage trains, measured or from a data sheet, and what a run predicts of itself before it trains."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hflm.core import hardware, read_json, read_loss_curves
from hflm.models import architecture
from hflm.planning import cost
from hflm.recipe import Recipe, dump_recipe, stage_batch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rate:
    """Tokens per second of all processes, None where it is not known, and where the number comes from."""

    tokens_per_second: float | None
    source: str


@dataclass(frozen=True)
class Prediction:
    """What a training stage is expected to take in one process; tokens_per_second is of all. None: not known."""

    parameters: int
    tokens_per_second: float | None
    memory_bytes: int


def step_load(
    recipe: Recipe, stage: str, shape: architecture.Shape, processes: int, device: hardware.Device
) -> cost.Load:
    """The Load of the recipe's "pretrain" or "finetune": what its keys mean for one process on a device."""
    section = getattr(recipe, stage)
    args = section.args
    length = section.block_size or min(shape.n_positions, 1024)
    batch = stage_batch(section, length, processes, stage)
    mixed = args.get("bf16") or args.get("fp16")
    if "bf16" not in args and "fp16" not in args:  # as hflm.core.arithmetic chooses
        mixed = device.format != "fp32" and not (device.format == "fp16" and section.on_spike == "rollback")
    return cost.Load(
        batch=batch.per_device,
        length=length,
        accumulation=batch.accumulation,
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


def tokens_per_second(
    recipe: Recipe,
    stage: str,
    shape: architecture.Shape,
    load: cost.Load,
    device: hardware.Device,
    config: Mapping[str, Any],
    earlier_run: bool,
) -> Rate:
    """The Rate of a stage whose model has this Shape and config.json. `earlier_run`: whether the speed of an earlier run of the same training may be taken."""
    run = Path("runs") / recipe.name
    if earlier_run and read_json(run / "environment.json").get("processes") == load.processes:
        measured = read_loss_curves(run / stage / "metrics.jsonl").tokens_per_second
        if measured and _same_training(run / "recipe.yaml", recipe, stage):
            return Rate(measured, f"measured by the earlier run in {run}")
    if not device.gpu:
        return _time_steps(recipe, stage, shape, load, config)
    narrow = load.mixed or load.weight_bytes == 2
    peak = device.bf16_flops if narrow else device.fp32_flops
    if peak is None:
        return Rate(None, f"the peak of {device.name} is not known here")
    name = device.format if narrow and device.format != "fp32" else "bf16" if narrow else "fp32"
    flops = sum(cost.flops_per_token(shape, load).values())
    source = f"assumes {device.share:.0%} of {peak / 1e12:,.3g} TFLOP/s in {name}"
    return Rate(peak * device.share * load.processes / flops, source)


def _time_steps(
    recipe: Recipe, stage: str, shape: architecture.Shape, load: cost.Load, config: Mapping[str, Any]
) -> Rate:
    import torch

    from hflm.core import arithmetic
    from hflm.planning import calibration

    if load.quantization is not None:
        return Rate(None, "the speed of quantized weights on a CPU is not measured")
    chosen = arithmetic.choose(torch.device("cpu"), getattr(recipe, stage).args)
    seconds = calibration.step_seconds(config, shape, load, chosen)
    # Processes of one machine share its cores; those that a launcher started have their part of the threads.
    cores = torch.cpu.get_capabilities()["num_logical_cores"]
    at_once = max(1, min(load.processes, cores // torch.get_num_threads()))
    tokens = load.rows * load.accumulation * at_once
    slow = arithmetic.slow_setting(chosen, torch.device("cpu"))
    return Rate(tokens / seconds, f"measured here on a few steps, in {chosen.autocast}" + (f"; {slow}" if slow else ""))


def _same_training(path: Path, recipe: Recipe, stage: str) -> bool:
    """Whether the run's recipe.yaml has the same model and training as `recipe`."""
    if not path.exists():
        return False
    before, now = (yaml.safe_load(text) for text in (path.read_text(encoding="utf-8"), dump_recipe(recipe)))
    return all(before.get(section) == now.get(section) for section in ("tokenizer", "model", stage))


def predict_stage(
    config: Mapping[str, Any], label_share: float, recipe: Recipe, stage: str, processes: int
) -> Prediction | None:
    """The Prediction of a stage that trains a model with this config.json; so many of its tokens are labels.

    None for an architecture that hflm.models.architecture does not know. On a CPU it takes some seconds.
    """
    shape = architecture.of(config)
    if shape is None:
        return None
    device = hardware.here()
    load = replace(step_load(recipe, stage, shape, processes, device), labelled=label_share)
    rate = tokens_per_second(recipe, stage, shape, load, device, config, earlier_run=False).tokens_per_second
    return Prediction(
        parameters=architecture.total_parameters(shape),
        tokens_per_second=rate and math.floor(rate),
        memory_bytes=cost.peak(shape, load).bytes + (0 if device.gpu else round(hardware.LIBRARIES_BYTES)),
    )


def compare_prediction(
    prediction: Prediction, model: "PreTrainedModel | PeftModel", run: Path, stage: str
) -> dict[str, dict[str, Any]]:
    """{"predicted": {...}, "measured": {...}} after the stage, for environment.json.

    Measured memory is what a GPU's allocator held at the most, or the whole process's resident memory on a CPU.
    """
    measured = Prediction(
        parameters=model.num_parameters(),
        tokens_per_second=read_loss_curves(run / stage / "metrics.jsonl").tokens_per_second,
        memory_bytes=hardware.peak_memory_bytes(),
    )
    return {"predicted": dataclasses.asdict(prediction), "measured": dataclasses.asdict(measured)}


def format_prediction(side: Mapping[str, Any]) -> str:
    """One line of the "predicted" or "measured" part.

    >>> format_prediction({"parameters": 1000, "tokens_per_second": 5200.0, "memory_bytes": 2.5e9})
    '1,000 parameters, 2.50 GB, 5,200 tok/s'
    """
    speed = side["tokens_per_second"]
    words = [f"{side['parameters']:,} parameters", f"{side['memory_bytes'] / 1e9:.2f} GB"]
    return ", ".join([*words, f"{speed:,.0f} tok/s"] if speed else words)
