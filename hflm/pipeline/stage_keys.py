"""What each stage depends on: the recipe's keys, the content of data and models, the results of earlier stages.

A stage runs again when one of these changes. Keys of the recipe that cannot change a stage's result (how often it logs,
where it reports to, how many checkpoints it keeps...) are no part of them.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from hflm.inference import Endpoint
from hflm.pipeline.inputs import Inputs, ResolvedModel
from hflm.recipe import Data, Recipe, metric_task
from hflm.recipe.section import Section
from hflm.recipe.training import FinetuneRecipe, PretrainRecipe

# By name ("pretrain.args.learning_rate", "content of tasks.qa.data"), the values that a stage depends on.
Dependencies = dict[str, Any]

# A task's keys that change what is measured, not what is trained.
MEASURING = ("data", "splits", "limit", "max_new_tokens", "stop", "metrics", "bertscore_model")
MEASURING += ("language", "shots", "label_end", "generation", "cluster")
# An unusable row ends a run or is left out: a run that has finished had none, or left out the same.
CHECKS = ("on_bad_row", "too_long")
# How a data set is read, whatever it holds.
READING = ("num_proc", "keep_in_memory", "verification_mode", "save_infos", "cache_dir", "download_mode")
READING += ("storage_options", "use_threads", "memory_map", "verbose")
# TrainingArguments that change what is logged, saved or evaluated, or how fast, and no weight.
HARMLESS_ARGS = {
    "batch_eval_metrics", "bf16_full_eval", "dataloader_in_order", "dataloader_multiprocessing_context",
    "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout", "debug", "disable_tqdm",
    "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "fp16_full_eval",
    "include_for_metrics", "include_num_input_tokens_seen", "label_names", "log_level", "log_level_replica",
    "log_on_each_node", "logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy",
    "per_device_eval_batch_size", "prediction_loss_only", "project", "report_to",
    "restore_callback_states_from_checkpoint", "run_name", "save_on_each_node", "save_only_model", "save_total_limit",
    "skip_memory_metrics", "torch_empty_cache_steps", "trackio_bucket_id", "trackio_space_id",
    "trackio_static_space_id", "use_cache",
}  # fmt: skip
# These choose the model, or the learning rate, only together with CHOOSING.
EVALUATION_ARGS = {"eval_delay", "eval_on_start", "eval_steps", "eval_strategy", "greater_is_better"}
EVALUATION_ARGS |= {"metric_for_best_model", "save_steps", "save_strategy"}


def stage_dependencies(recipe: Recipe, inputs: Inputs, endpoint: Endpoint | None = None) -> dict[str, Dependencies]:
    """By stage, in their order: tokenizer, pretrain, finetune, model, benchmark/<task>..., push."""
    stages: dict[str, Dependencies] = {}
    base: Dependencies = {"seed": recipe.seed, **_model(recipe, inputs)}
    if endpoint is not None:
        base |= {"base_url": endpoint.base_url, "chat": endpoint.chat}
    if recipe.tokenizer is not None:
        stages["tokenizer"] = _tokenizer(recipe, inputs)
        base |= {"tokenizer": dependencies_key(stages["tokenizer"])}
    if recipe.pretrain is not None:
        stages["pretrain"] = {**base, **_pretrain(recipe, recipe.pretrain, inputs)}
        base = {"pretrain": dependencies_key(stages["pretrain"])}
    if recipe.finetune is not None:
        stages["finetune"] = {"seed": recipe.seed, **base, **_finetune(recipe, recipe.finetune, inputs)}
        base = {"finetune": dependencies_key(stages["finetune"])}
    if recipe.pretrain is not None or recipe.finetune is not None:
        stages["model"] = base
    for name in recipe.benchmark.tasks if recipe.benchmark else ():
        stages[f"benchmark/{name}"] = {"seed": recipe.seed, **base, **_benchmark(recipe, inputs, name)}
    if recipe.push is not None:
        earlier = {stage: dependencies_key(dependencies) for stage, dependencies in stages.items()}
        # Checkpoints are sent while the run trains: the release is the same.
        release = {key: value for key, value in _plain(recipe.push).items() if key != "checkpoints"}
        stages["push"] = {**earlier, **_flat("push", release)}
    return stages


def dependencies_key(dependencies: Dependencies) -> str:
    """The hash of what a stage depends on, as stages.json records it."""
    return hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()[:32]


def describe_changes(before: Dependencies, after: Dependencies) -> str:
    """What differs, in words.

    >>> describe_changes({"seed": 1, "pretrain.args.max_steps": 5}, {"seed": 1, "pretrain.args.max_steps": 9})
    'pretrain.args.max_steps changed from 5 to 9'
    """
    changes = []
    for name in sorted(changed_names(before, after)):
        old, new = before.get(name), after.get(name)
        if name in ("tokenizer", "pretrain", "finetune"):
            changes.append(f"it starts from another {'tokenizer' if name == 'tokenizer' else 'model'}")
        elif name.startswith("content of"):
            changes.append(f"the {name} changed")
        else:
            changes.append(f"{name} changed from {_shown(old)} to {_shown(new)}")
    return ", ".join(changes)


def changed_names(before: Dependencies, after: Dependencies) -> set[str]:
    """The names whose values differ."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _shown(value: Any) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _model(recipe: Recipe, inputs: Inputs) -> Dependencies:
    config = recipe.model.config  # a preset's name and its numbers are the same model
    if recipe.model.from_ is not None:
        return {**_weights("model.from", inputs.model), **_flat("model", {"dtype": recipe.model.dtype})}
    return _flat("model", {**config, "dtype": recipe.model.dtype})


def _weights(name: str, model: ResolvedModel) -> Dependencies:
    """A local model is its files, wherever they are; one of the Hub is its name and revision."""
    if model.fingerprint == model.path:
        return {name: model.path, **_flat(name.removesuffix(".from"), {"revision": model.revision})}
    return {f"content of {name}": model.fingerprint}


def _tokenizer(recipe: Recipe, inputs: Inputs) -> Dependencies:
    assert recipe.tokenizer is not None and inputs.tokenizer is not None
    training = recipe.tokenizer.train
    added = _flat("tokenizer", {"add_tokens": list(recipe.tokenizer.add_tokens or ()) or None})
    if training is None and recipe.tokenizer.from_ is None:
        return {**_weights("model.from", inputs.model), **added}
    if training is None:
        return {**_weights("tokenizer.from", inputs.tokenizer), **added}
    own = {key: value for key, value in _plain(training).items() if key != "data"}
    found = {**_flat("tokenizer.train", own), **added}
    if training.data is not None:
        found |= _mixture("tokenizer.train.data", training.data, inputs)
        found |= _flat("pretrain", {"text": recipe.pretrain.text if recipe.pretrain else None})
        sources = list(training.data)
    else:
        sources = list(recipe.pretrain.data) if recipe.pretrain else []
        if recipe.pretrain is not None:
            found |= _corpus(recipe.pretrain, inputs)
        for name in recipe.finetune.tasks if recipe.finetune else ():
            found |= _trained_task(recipe, inputs, name)
    # The seed draws the order of a mixture, and with it what of a source is repeated.
    return {**found, "seed": recipe.seed} if any(each.weight is not None for each in sources) else found


def _corpus(stage: PretrainRecipe, inputs: Inputs) -> Dependencies:
    """The text that pretraining reads."""
    found = _mixture("pretrain.data", stage.data, inputs)
    found |= _flat("pretrain", {key: _plain(stage).get(key) for key in ("text", "rows", "clean")})
    if stage.validation_sets:
        # Cleaning leaves out what is in the validation data, too.
        return {**found, **_validation_sets(stage, inputs)} if stage.clean else found
    return {**found, **_flat("pretrain", {"validation": stage.validation})}


def _validation_sets(stage: PretrainRecipe, inputs: Inputs) -> Dependencies:
    found: Dependencies = {}
    for key, source in stage.validation_sets.items():
        found |= _data(key, source, inputs)
    return found


def _pretrain(recipe: Recipe, stage: PretrainRecipe, inputs: Inputs) -> Dependencies:
    found = {**_corpus(stage, inputs), **_training("pretrain", stage)}
    found |= _flat("pretrain", {"shuffle_buffer": stage.shuffle_buffer, "tokens": stage.tokens})
    if _chooses_by_evaluation(stage):
        found |= _validation_sets(stage, inputs)
        found |= _choosing_task(recipe, "pretrain", stage, inputs)
    return found


def _finetune(recipe: Recipe, stage: FinetuneRecipe, inputs: Inputs) -> Dependencies:
    found = _training("finetune", stage)
    found |= _flat("finetune", {"tasks": list(stage.tasks)})
    found |= _flat("finetune", {"adapter": stage.adapter, "quantization": stage.quantization})
    for name in stage.tasks:
        found |= _trained_task(recipe, inputs, name)
        if _chooses_by_evaluation(stage):
            found |= _flat(f"tasks.{name}", {"splits": {"validation": recipe.tasks[name].splits.validation}})
    if _chooses_by_evaluation(stage):
        found |= _choosing_task(recipe, "finetune", stage, inputs)
    return found


def _choosing_task(recipe: Recipe, name: str, stage: PretrainRecipe | FinetuneRecipe, inputs: Inputs) -> Dependencies:
    """What the score of a task depends on that chooses the model; nothing where a loss does."""
    metric = stage.args.get("metric_for_best_model")
    task = metric_task(metric, stage.evaluate.tasks) if stage.evaluate and isinstance(metric, str) else None
    if task is None or stage.evaluate is None:
        return {}
    splits = {"validation": recipe.tasks[task].splits.validation}
    if getattr(recipe.tasks[task], "shots", 0):
        splits["train"] = recipe.tasks[task].splits.train
    return {
        **_measured_task(recipe, inputs, task, ("limit", "splits", "cluster")),
        **_flat(f"tasks.{task}", {"splits": splits}),
        **_flat(name, {"evaluate": {"limit": stage.evaluate.limit}}),
    }


def _training(name: str, stage: PretrainRecipe | FinetuneRecipe) -> Dependencies:
    """The keys of a training section that change the weights, apart from its data."""
    chooses = _chooses_by_evaluation(stage)
    # A stream is divided among the workers that read it.
    harmless = HARMLESS_ARGS if _streams(stage) else HARMLESS_ARGS | {"dataloader_num_workers"}
    ignored = harmless if chooses else harmless | EVALUATION_ARGS
    if stage.average_checkpoints is not None:
        ignored -= {"save_steps", "save_strategy"}  # they choose the checkpoints
    args = {key: value for key, value in stage.args.items() if key not in ignored}
    own = {"block_size": stage.block_size, "batch_tokens": stage.batch_tokens, "z_loss": stage.z_loss or None}
    own["average_checkpoints"] = stage.average_checkpoints
    rollback = {"on_spike": "rollback" if stage.on_spike == "rollback" else None}
    early = {"early_stopping": _plain(stage).get("early_stopping")}
    return _flat(name, {**own, **rollback, **early, "args": args})


def _chooses_by_evaluation(stage: PretrainRecipe | FinetuneRecipe) -> bool:
    """Whether the scores of the evaluations choose the weights or the learning rate."""
    plateau = stage.args.get("lr_scheduler_type") == "reduce_lr_on_plateau"
    return bool(stage.args.get("load_best_model_at_end")) or plateau or stage.early_stopping is not None


def _streams(stage: PretrainRecipe | FinetuneRecipe) -> bool:
    return isinstance(stage, PretrainRecipe) and any(each.options.get("streaming") for each in stage.data)


def _trained_task(recipe: Recipe, inputs: Inputs, name: str) -> Dependencies:
    """What makes a task's training examples."""
    task = recipe.tasks[name]
    own = {key: value for key, value in _plain(task).items() if key not in (*MEASURING, *CHECKS)}
    own["splits"] = {"train": task.splits.train}
    return {**_flat(f"tasks.{name}", own), **_data(f"tasks.{name}.data", task.data, inputs)}


def _benchmark(recipe: Recipe, inputs: Inputs, name: str) -> Dependencies:
    benchmark = recipe.benchmark
    assert benchmark is not None
    return {
        **_measured_task(recipe, inputs, name),
        **_flat("model", {"dtype": recipe.model.dtype}),
        # Absent where it is not set, as before this key existed.
        **_flat("benchmark", {"dtype": benchmark.dtype}),
        **_flat("benchmark", {"resamples": benchmark.resamples, "contamination": benchmark.contamination}),
    }


def _measured_task(recipe: Recipe, inputs: Inputs, name: str, without: tuple[str, ...] = ()) -> Dependencies:
    """What the score of a task depends on, apart from the model; `without` some of the task's keys."""
    task = recipe.tasks[name]
    left_out = ("data", "bertscore_model", *CHECKS, *without)
    own = {key: value for key, value in _plain(task).items() if key not in left_out}
    found = {**_flat(f"tasks.{name}", own), **_data(f"tasks.{name}.data", task.data, inputs)}
    if "bertscore" in (own.get("metrics") or ()):
        found |= _weights(f"tasks.{name}.bertscore_model", inputs.encoders[name])
    return found


def _mixture(key: str, sources: tuple[Data, ...], inputs: Inputs) -> Dependencies:
    found: Dependencies = {}
    for number, source in enumerate(sources):
        found |= _data(f"{key}.{number}", source, inputs)
    return found


def _data(key: str, source: Data, inputs: Inputs) -> Dependencies:
    """Local data are their content, wherever they are; those of the Hub are their name and options."""
    content = inputs.data[key].content
    options = {name: value for name, value in _plain(source).items() if name not in ("path", *READING)}
    if content is None:
        return _flat(key, {"path": source.path, **options})
    return {**_flat(key, options), f"content of {key}": content}


def _flat(prefix: str, value: Any) -> Dependencies:
    """{"a": {"b": 1, "c": None}} below `prefix` -> {"prefix.a.b": 1}; what is not set is left out."""
    return dict(_leaves(prefix, value))


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(f"{prefix}.{key}", each)
    elif value is not None:
        yield prefix, value


def _plain(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True)
