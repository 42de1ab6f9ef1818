"""`hflm plan`: what a recipe will take, before anything runs, and whether it fits. Imports no torch.

Every number is either exact arithmetic (hflm.shape, hflm.cost), measured here and now, or an assumption; the plan's
notes say which assumptions it made and what cannot be known.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from hflm import cost, hardware, records
from hflm import shape as shapes
from hflm.errors import UserError
from hflm.presets import PRESETS

SAMPLED_ROWS = 300  # of a task, to see how much of it is target
LOCAL = (".txt", ".jsonl", ".json", ".csv", ".tsv")


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


def plan(recipe, device=None, processes=1, price_per_hour=None, corpus_tokens=None):
    """The Plan of a Recipe on the machine at hand or on `processes` devices of a name (hflm.hardware.DEVICES).

    price_per_hour: of one device. corpus_tokens: of the pretraining corpus, where they cannot be counted.
    Raises UserError for a device that is not known.
    """
    chosen = hardware.named(device) if device else hardware.here()
    if chosen is None:
        raise UserError(f"--device {device}: not known here. Known: {', '.join(hardware.DEVICES)}")
    notes = []
    shape = _shape(recipe, notes)
    if shape is None:
        stored = _stored(recipe)
        return Plan(recipe.name, chosen, processes, None, stored, (), None, tuple(notes))
    counted = shapes.parameters(shape)
    total = sum(counted.values())
    stages = []
    for name in ("pretrain", "finetune"):
        if getattr(recipe, name) is not None:
            load = load_of(recipe, name, shape, processes, chosen.gpu)
            stages.append(
                _stage(recipe, name, shape, load, chosen, device, price_per_hour, corpus_tokens, notes)
            )
    tokens = next((stage.tokens for stage in stages if stage.stage == "pretrain"), None)
    return Plan(
        recipe.name, chosen, processes, counted, total, tuple(stages), _optimal(shape, total, tokens), tuple(notes)
    )


def load_of(recipe, stage, shape, processes, gpu, labelled=1.0):
    """The Load of the recipe's "pretrain" or "finetune": what its keys mean for one process."""
    section = getattr(recipe, stage)
    args = section.args
    return cost.Load(
        batch=args.get("per_device_train_batch_size", 8),
        length=section.block_size or min(shape.n_positions, 1024),
        labelled=labelled,
        accumulation=args.get("gradient_accumulation_steps", 1),
        processes=processes,
        sharded=bool(args.get("fsdp")),
        weight_bytes=4 if recipe.model.dtype in (None, "float32") else 2,
        mixed=bool(args.get("bf16") or args.get("fp16")),
        checkpointing=bool(args.get("activation_checkpointing") or args.get("gradient_checkpointing")),
        optim=args.get("optim", "adamw_torch_fused"),
        adapter=section.adapter if stage == "finetune" else None,
        masked=stage == "finetune" or section.rows == "documents",
        gpu=gpu,
    )


def peak(shape, load):
    """(bytes, moment) of the largest memory of a step in one process."""
    moments = cost.memory(shape, load)[1]
    moment = max(moments, key=moments.get)
    return moments[moment], moment


def _stage(recipe, name, shape, load, device, asked, price_per_hour, corpus_tokens, notes):
    rows_tokens, labelled = None, 1.0
    if name == "pretrain":
        rows_tokens = corpus_tokens or _corpus_tokens(section, shape, notes)
    else:
        rows_tokens, labelled = _task_tokens(recipe, section, shape, notes)
        load = replace(load, labelled=labelled)
    per_step = load.rows * load.accumulation * load.processes
    steps = section.args.get("max_steps", -1)
    if steps <= 0:
        passes = section.args.get("num_train_epochs", 3)
        steps = math.ceil(rows_tokens / per_step * passes) if rows_tokens else None
        if steps is None:
            notes.append(f"{name}: {passes} epochs of unknown length, so neither tokens nor time can be known")
    tokens = steps and steps * per_step
    parts, moments = cost.memory(shape, load)
    most, moment = peak(shape, load)
    flops = cost.flops_per_token(shape, load)
    speed, source = _speed(recipe, name, load, device, asked, sum(flops.values()))
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
        advice=() if needed <= available else tuple(_advice(shape, load, available)),
        flops_per_token=flops,
        flops=tokens and tokens * sum(flops.values()),
        tokens_per_second=speed,
        speed_source=source,
        seconds=seconds,
        price=seconds / 3600 * price_per_hour * load.processes if seconds and price_per_hour else None,
    )


def _advice(shape, load, available):
    """Yields each single change with which it would fit."""

    def fits(changed):
        return peak(shape, changed)[0] + hardware.LIBRARIES_BYTES <= available

    def batch(load):
        sizes = [size for size in range(load.batch, 0, -1) if load.batch % size == 0]
        return next((size for size in sizes if fits(replace(load, batch=size, accumulation=2))), None)

    size = batch(load)
    if size is not None:
        steps = load.accumulation * load.batch // size
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
    if load.adapter is None and fits(replace(load, adapter={"type": "lora"})):
        yield "finetune.adapter: {type: lora}"


def _speed(recipe, name, load, device, asked, flops):
    """(tokens per second of all processes, where the number comes from)."""
    run = Path("runs") / recipe.name
    if asked is None and records.read_json(run / "environment.json").get("processes") == load.processes:
        measured = records.learning(run / name / "metrics.jsonl")["speed"]
        if measured:
            return measured, f"measured by the earlier run in {run}"
    quick = load.mixed or load.weight_bytes == 2
    rate = device.bf16_flops if quick else device.fp32_flops
    if rate is None:
        return None, f"the peak of {device.name} is not known here"
    kind = "bf16" if quick else "fp32"
    count = load.processes if device.gpu else 1
    where = f"{rate / 1e12:,.3g} TFLOP/s in {kind}"
    if not device.gpu:
        where += ", measured" if not quick else ", from a measured fp32 rate"
    return rate * device.share * count / flops, f"assumes {device.share:.0%} of {where}"


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


def _shape(recipe, notes):
    """The Shape of the recipe's model, or None with a note that says why it cannot be known."""
    if recipe.model.from_ is None:
        return shapes.of({**recipe.model.config, "vocab_size": _vocabulary(recipe, notes)})
    config, why = _config(recipe.model.from_, recipe.model.revision)
    if config is None:
        notes.append(f"model {recipe.model.from_}: {why}, so neither its size nor what it takes can be known")
        return None
    shape = shapes.of(config)
    if shape is None:
        notes.append(
            f"model {recipe.model.from_}: memory and time are known for GPT-2 and Llama, not for {config['model_type']}"
        )
    return shape


def _config(place, revision):
    """(the content of a model's config.json, None) or (None, why not)."""
    path = Path(place).expanduser()
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return json.loads((folder / "config.json").read_text(encoding="utf-8")), None
    if path.suffix == ".gguf":
        return None, "a .gguf file is read only when it runs"
    if (path / "adapter_config.json").is_file():
        adapter = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        return _config(adapter.get("base_model_name_or_path") or "", None)
    if path.exists():
        return None, "it holds no config.json"
    file = _cached(place, "config.json", revision)
    if file is None:
        return None, "no such folder, and the Hub's cache does not hold it"
    return json.loads(file.read_text(encoding="utf-8")), None


def _stored(recipe):
    path = Path(recipe.model.from_).expanduser()
    return shapes.stored_parameters(path / "model" if (path / "model").is_dir() else path)


def _cached(repo, file, revision=None):
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _vocabulary(recipe, notes):
    training = recipe.tokenizer.train
    if training is not None:
        notes.append(f"vocabulary: {training.vocab_size:,} entries, if the text gives that many")
        return training.vocab_size
    place = Path(recipe.tokenizer.from_).expanduser()
    folders = [folder for folder in (place / "model", place) if (folder / "tokenizer.json").is_file()]
    file = folders[0] / "tokenizer.json" if folders else _cached(str(place), "tokenizer.json")
    if file is None:
        notes.append(f"vocabulary: 50,257 entries as GPT-2's, since {place} cannot be read here")
        return 50257
    content = json.loads(file.read_text(encoding="utf-8"))
    known = content["model"]["vocab"]
    inside = set(known) if isinstance(known, dict) else {piece for piece, _ in known}
    return len(inside | {token["content"] for token in content["added_tokens"]})


def bytes_per_token(vocab_size):
    """How many bytes of English a token holds, about.

    Fitted on WikiText-2's validation text and byte-level BPE trained on its training text: 2.07 bytes at 512 entries,
    3.04 at 2,048, 3.98 at 8,192, 4.63 at 32,768.
    """
    return min(0.48 * math.log2(vocab_size) - 2.25, 4.6)


def _corpus_tokens(section, shape, notes):
    """Tokens of the pretraining corpus, from the bytes of its local files, or None."""
    from hflm import toy

    total = 0
    for source in section.data:
        options = {key: value for key, value in source.options.items() if key != "split"}
        if source.path == "toy":
            rows = toy.rows(options.pop("name", "stories"), "train", **options)
            total += sum(len(row[section.text].encode()) for row in rows)
            continue
        sizes = [file.stat().st_size for file in _train_files(source)]
        if not sizes:
            notes.append(f"pretrain: the size of {source.path} is not known here. Say it with --corpus-tokens")
            return None
        total += sum(sizes)
    per = bytes_per_token(shape.vocab_size)
    notes.append(f"corpus: {total:,} bytes, at an assumed {per:.2f} bytes a token (English, this vocabulary)")
    return round(total / per)


def _train_files(source):
    """The local files of plain text that a corpus is read from."""
    from hflm import data

    place = Path(source.path).expanduser()
    if place.is_dir():
        inner = place / str(source.options.get("name"))
        files = data._split_files(inner if inner.is_dir() else place, "train")
    else:
        files = data._all_files(source)
    return files if all(file.suffix in LOCAL for file in files) else []


def _task_tokens(recipe, section, shape, notes):
    """(tokens of the tasks' training examples, share of them that is target); the share is 1 where none can be read."""
    from hflm import data, tasks

    total = learnt = 0
    unread = []
    for name in section.tasks:
        task = recipe.tasks[name]
        if task.data.path != "toy" and not Path(task.data.path).expanduser().exists():
            unread.append(name)
            continue
        rows = data.load(task.data, task.splits.train)
        sample = rows.select(range(min(SAMPLED_ROWS, len(rows))))
        examples, _ = tasks.read(task, sample, name)
        prompts = sum(len(example.prompt.encode()) for example in examples)
        targets = sum(len(example.target.encode()) + 1 for example in examples)
        ends = len(examples) * bytes_per_token(shape.vocab_size)  # one end of text an example
        total += (prompts + targets + ends) / len(examples) * len(rows)
        learnt += (targets + ends) / len(examples) * len(rows)
    if unread:
        notes.append(f"finetune: {', '.join(unread)} cannot be read here, so every token is taken as learnt (at most)")
        return None, 1.0
    notes.append(f"finetune: lengths from the first {SAMPLED_ROWS} rows of each task, at an assumed bytes a token")
    return round(total / bytes_per_token(shape.vocab_size)), learnt / total


def as_json(found):
    """The Plan as plain values, each with its unit in its name."""
    return json.dumps(dataclasses.asdict(found), indent=2)
