"""The keys that hflm 0.1 wrote into stages.json, so that its finished runs stay finished.

They held whole sections of the recipe. `FIELDS` has the keys that the sections had then: what was added later is left
out, so that it changes no key of these.
"""

import hashlib
import json
from typing import Any

from hflm.inference import Endpoint
from hflm.pipeline.inputs import Inputs
from hflm.recipe import Recipe
from hflm.recipe.section import Section

MEASURING = ("limit", "max_new_tokens", "stop", "metrics", "bertscore_model", "shots")
_TASK = "kind data splits limit on_bad_row"
_PROMPTED = f"{_TASK} prompt shots too_long"
_GENERATING = f"{_PROMPTED} max_new_tokens stop metrics bertscore_model"
_LABELLING = f"{_PROMPTED} label labels metrics"
FIELDS = {
    "Data": "path weight text",
    "Splits": "train validation test",
    "Translation": f"{_GENERATING} source target languages",
    "Summarization": f"{_GENERATING} document summary",
    "Qa": f"{_GENERATING} context question answers",
    "Generation": f"{_GENERATING} target",
    "Sentiment": f"{_LABELLING} text",
    "Choice": _LABELLING,
    "LanguageModeling": f"{_TASK} text rows metrics",
    "Length": "min max",
    "Share": "min max",
    "Clean": "normalize characters words letters digits symbols repetition exact_duplicates near_duplicates",
    "PretrainRecipe": "data text rows on_bad_row validation clean block_size shuffle_buffer batch_tokens on_spike "
    "z_loss args",
    "FinetuneRecipe": "tasks adapter quantization block_size batch_tokens on_spike z_loss args",
    "TokenizerTraining": "algorithm vocab_size min_frequency data",
    "TokenizerRecipe": "train from revision",
    "ModelRecipe": "preset from revision dtype",
    "PushRecipe": "repo_id private license",
}


def legacy_stage_keys(recipe: Recipe, inputs: Inputs, endpoint: Endpoint | None = None) -> dict[str, Any]:
    """{stage: key} in the order of the stages: tokenizer, pretrain, finetune, model, benchmark/<task>..., push."""
    keys: dict[str, Any] = {}
    chain: Any = [recipe.seed, _plain(recipe.model), inputs.model.fingerprint]
    if endpoint is not None:
        chain = [*chain, endpoint.base_url, endpoint.chat]
    if recipe.tokenizer is not None and inputs.tokenizer is not None:
        read = _tokenizer_texts(recipe, inputs), [inputs.data[key].fingerprint for key in _tokenizer_sources(recipe)]
        chain = keys["tokenizer"] = _key(chain, _plain(recipe.tokenizer), read, inputs.tokenizer.fingerprint)
    if recipe.pretrain is not None:
        sources = [each.fingerprint for key, each in inputs.data.items() if key.startswith("pretrain.")]
        chain = keys["pretrain"] = _key(chain, _plain(recipe.pretrain), sources)
    if recipe.finetune is not None:
        trained = [_trained_task(recipe, inputs, name) for name in recipe.finetune.tasks]
        chain = keys["finetune"] = _key(chain, _plain(recipe.finetune), trained)
    if recipe.pretrain is not None or recipe.finetune is not None:
        keys["model"] = chain  # model/ holds the weights of the last one
    if recipe.benchmark is not None:
        for name in recipe.benchmark.tasks:
            task = recipe.tasks[name]
            measured = [_plain(task), inputs.data[f"tasks.{name}.data"].fingerprint, recipe.benchmark.resamples]
            measured.append(recipe.benchmark.contamination)
            if "bertscore" in (getattr(task, "metrics", None) or ()):
                measured.append(inputs.encoders[name].fingerprint)
            keys[f"benchmark/{name}"] = _key(chain, name, measured)
    if recipe.push is not None:
        keys["push"] = _key(list(keys.values()), _plain(recipe.push))
    return keys


def _tokenizer_sources(recipe: Recipe) -> list[str]:
    """The keys of the data that a trained tokenizer reads: its own, or that of pretraining and the fine-tuned tasks."""
    assert recipe.tokenizer is not None
    training = recipe.tokenizer.train
    if training is None:
        return []
    if training.data is not None:
        return [f"tokenizer.train.data.{number}" for number in range(len(training.data))]
    pretrain = range(len(recipe.pretrain.data)) if recipe.pretrain else ()
    tasks = recipe.finetune.tasks if recipe.finetune else ()
    return [*(f"pretrain.data.{number}" for number in pretrain), *(f"tasks.{name}.data" for name in tasks)]


def _tokenizer_texts(recipe: Recipe, inputs: Inputs) -> Any:
    """What of the recipe, apart from the data, makes the texts that a trained tokenizer reads."""
    assert recipe.tokenizer is not None
    training, pretrain = recipe.tokenizer.train, recipe.pretrain
    if training is None:
        return None
    if training.data is not None:
        return pretrain and pretrain.text
    shaping = None
    if pretrain is not None:
        names = ("data", "text", "rows", "clean", "validation")
        shaping = {key: value for key, value in _plain(pretrain).items() if key in names}
    tasks = recipe.finetune.tasks if recipe.finetune else ()
    return shaping, [_trained_task(recipe, inputs, name) for name in tasks]


def _trained_task(recipe: Recipe, inputs: Inputs, name: str) -> list[Any]:
    task = recipe.tasks[name]
    kept = {key: value for key, value in _plain(task).items() if key not in MEASURING}
    splits = {"train": task.splits.train, "validation": task.splits.validation}
    return [{**kept, "splits": splits}, inputs.data[f"tasks.{name}.data"].fingerprint]


def _plain(section: Section) -> dict[str, Any]:
    """A section as plain values, of the keys that it had in 0.1 and those that it passes through."""
    known = FIELDS[type(section).__name__].split()
    own = {field.alias or name: getattr(section, name) for name, field in type(section).model_fields.items()}
    kept = {key: value for key, value in own.items() if key in known}
    return {key: _plain_value(value) for key, value in {**kept, **(section.model_extra or {})}.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Section):
        return _plain(value)
    if isinstance(value, dict):
        return {key: _plain_value(each) for key, each in value.items()}
    return [_plain_value(each) for each in value] if isinstance(value, tuple | list) else value


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
