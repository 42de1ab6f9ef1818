"""The options that hflm passes through to transformers, peft and datasets: their names, types and what hflm refuses.

names.json is generated from the installed libraries by tests/names.py, so that a recipe is checked in milliseconds,
without importing them. A type is a union such as `int|null`; what is no type in it is a literal (`no|steps|epoch`).
"""

import difflib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NAMES: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
VERSIONS = NAMES.pop("versions")  # of the libraries whose names these are
LIBRARY = {
    "TrainingArguments": "transformers",
    "GPT2Config": "transformers",
    "LlamaConfig": "transformers",
    "Qwen3Config": "transformers",
    "BitsAndBytesConfig": "transformers",
    "LoraConfig": "peft",
}

TYPES: dict[str, tuple[Any, str, str]] = {  # a type of names.json -> Python types, in messages, in JSON Schema
    "int": (int, "a whole number", "integer"),
    "float": ((int, float), "a number", "number"),
    "bool": (bool, "true or false", "boolean"),
    "str": (str, "text", "string"),
    "list": (list, "a list", "array"),
    "dict": (dict, "keys and values", "object"),
    "null": (type(None), "null", "null"),
}

_SEED = "hflm sets it from the recipe's `seed`. Set that"
_PUSH = "hflm publishes at the end of a run. Use a `push:` section (checkpoints: true in it sends them, too)"
_STAGE = "hflm sets it from the recipe's sections. Remove it"
_HUB = "hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision push_to_hub"
_PEFT = "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode"
_CONFIG = {  # of a new model
    **dict.fromkeys(
        ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"),
        "it comes from the tokenizer (tokenizer.train.vocab_size, or tokenizer.from). Remove it",
    ),
    **dict.fromkeys(("architectures", "transformers_version"), "transformers writes it by itself. Remove it"),
}
REFUSED: dict[str, dict[str, str]] = {
    "TrainingArguments": {
        "output_dir": "hflm sets it: a run's folder is runs/<name>, or --output. Remove it",
        "resume_from_checkpoint": "hflm continues an unfinished run by itself; --fresh starts anew. Remove it",
        "seed": _SEED,
        "data_seed": _SEED,
        "remove_unused_columns": "hflm sets it: its data sets hold only what the model reads. Remove it",
        # What would break a promise of hflm's.
        "auto_find_batch_size": "it shrinks the batch of a step. hflm splits a batch that does not fit. Remove it",
        "enable_jit_checkpoint": "hflm saves a checkpoint on SIGTERM by itself, at a step that all ranks agree on. Remove it",
        "ignore_data_skip": "a resumed run would train on rows that it has seen. Remove it",
        "restore_callback_states_from_checkpoint": "hflm restores what a resumed stage needs. Remove it",
        "save_only_model": "a checkpoint without the optimizer could not be resumed. Remove it",
        "average_tokens_across_devices": "without it processes with fewer labels would count more. Remove it",
        **dict.fromkeys(("do_train", "do_eval", "do_predict"), _STAGE),
        **dict.fromkeys(
            [*_HUB.split(), "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token"], _PUSH
        ),
        # Names that older releases of transformers had.
        "evaluation_strategy": "transformers renamed it. Use eval_strategy",
        "warmup_ratio": "transformers removed it. Use warmup_steps: below 1 it is the ratio",
        "no_cuda": "transformers renamed it. Use use_cpu",
        "use_mps_device": "transformers removed it: a Mac's GPU is found by itself. Remove it",
        "group_by_length": "transformers removed it. Use train_sampling_strategy: group_by_length",
        "logging_dir": "transformers removed it: metrics.jsonl is in the run's folder. Remove it",
        "overwrite_output_dir": "transformers removed it. Use hflm run --fresh",
        "save_safetensors": "transformers removed it: weights are always safetensors. Remove it",
        "per_gpu_train_batch_size": "transformers renamed it. Use per_device_train_batch_size",
        "per_gpu_eval_batch_size": "transformers renamed it. Use per_device_eval_batch_size",
    },
    "GPT2Config": _CONFIG,
    "LlamaConfig": _CONFIG,
    "Qwen3Config": _CONFIG,
    "LoraConfig": {
        **dict.fromkeys(_PEFT.split(), "hflm sets it. Remove it"),
        "alora_invocation_tokens": "such an adapter cannot be merged into a model. Remove it",
        **dict.fromkeys(
            ("trainable_token_indices", "ensure_weight_tying"),
            "it is for the tied embeddings, which no adapter of hflm's may touch. Remove it",
        ),
    },
    "BitsAndBytesConfig": {},
    "load_dataset": {
        **dict.fromkeys(
            ("token", "use_auth_token"),
            "secrets don't belong in a recipe. Remove it; log in with `hf auth login`, or set HF_TOKEN",
        ),
        "trust_remote_code": "hflm never runs code from a data set. Remove it",
    },
    "GenerationConfig": {},
}


def suggest(word: object, names: Iterable[str]) -> str:
    """A closing sentence that names the nearest of `names`, or all of them when they are few.

    >>> suggest("n_layr", ["n_layer", "n_head"]), suggest("zzz", ["a", "b"])
    (' Did you mean n_layer?', ' Allowed: a, b')
    """
    names, written = list(names), str(word).replace("-", "_")
    inside = [name for name in names if len(written) > 2 and written.lower() in name.lower()]
    near = (
        difflib.get_close_matches(written, names, n=1, cutoff=0.75)
        or inside
        or difflib.get_close_matches(written, names, n=1)
    )
    if near:
        return f" Did you mean {' or '.join(near[:3])}?"
    return f" Allowed: {', '.join(names)}" if 0 < len(names) <= 30 else ""


def show(value: object) -> str:
    """A value in a message, as YAML writes it.

    >>> show("a"), show(True), show(None), show([1])
    ("'a'", 'true', 'null', 'a list')
    """
    match value:
        case None | bool():
            return json.dumps(value)
        case dict():
            return "keys and values"
        case list() | tuple():
            return "a list"
        case str() if len(value) > 60:
            return repr(value[:60] + "...")
    return repr(value)


def mismatch(union: str, value: Any) -> str | None:
    """The message for a value that is not of type `union`, or None.

    >>> mismatch("int|null", "abc"), mismatch("no|steps", "step"), mismatch("float", 1)
    ("expected a whole number or null, got 'abc'", "expected one of no, steps; got 'step'. Did you mean steps?", None)
    """
    kinds = [kind for kind in union.split("|") if kind in TYPES]
    literals = [kind for kind in union.split("|") if kind not in TYPES]
    if isinstance(value, bool):
        fits = "bool" in kinds
    else:
        fits = any(isinstance(value, TYPES[kind][0]) for kind in kinds) or value in literals
    if fits and isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    if fits:
        return None
    if literals and isinstance(value, str):
        hint = suggest(value, literals)
        if len(literals) > 12:
            return f"no such value: {show(value)}.{hint or ' Its values: ' + ', '.join(literals)}"
        return f"expected one of {', '.join(literals)}; got {show(value)}{'.' + hint if 'Did' in hint else ''}"
    expected = [TYPES[kind][1] for kind in kinds if not (kind == "int" and "float" in kinds)]
    expected += [f"one of {', '.join(literals)}"] if literals else []
    quotes = ". Put it in quotes" if "str" in kinds and isinstance(value, int | float) else ""
    return f"expected {' or '.join(expected)}, got {show(value)}{quotes}"


def problems(
    options: dict[str, Any], group: str, names: dict[str, str] | None = None, own_keys: Iterable[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yields (name, message) for each option of a library that is unknown, refused or of a wrong type.

    group: a key of names.json; names: {name: type} to allow instead of all the group's; own_keys: the section's own,
    which an unknown name may have been meant as.
    """
    names = NAMES[group] if names is None else names
    allowed = [*own_keys, *(name for name in names if name not in REFUSED[group])]
    for name, value in options.items():
        if name in REFUSED[group]:
            yield name, REFUSED[group][name]
        elif name not in names:
            hint = suggest(name, allowed)
            library = f" of {LIBRARY[group]}.{group}" if group in LIBRARY else ""
            yield name, f"unknown key{'' if hint else library}.{hint}"
        elif text := mismatch(names[name], value):
            yield name, text


def schema(names: dict[str, str], without: Iterable[str] = ()) -> dict[str, Any]:
    """JSON Schema properties of {name: type}."""
    properties: dict[str, Any] = {}
    for name, union in names.items():
        kinds = [TYPES[kind][2] for kind in union.split("|") if kind in TYPES]
        literals = [kind for kind in union.split("|") if kind not in TYPES]
        choices = [{"type": kind} for kind in kinds] + ([{"enum": literals}] if literals else [])
        properties[name] = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return {name: value for name, value in properties.items() if name not in without}
