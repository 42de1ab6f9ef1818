"""The key of each stage: a hash of its part of the recipe, the content of its data and the keys of earlier stages."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hflm.inference import Endpoint
from hflm.pipeline.inputs import Inputs
from hflm.recipe import Recipe
from hflm.recipe.section import Section

# A task's keys that change what is measured, not what is trained.
MEASURING = ("limit", "max_new_tokens", "stop", "metrics", "bertscore_model", "language", "shots", "label_end")


def stage_keys(recipe: Recipe, inputs: Inputs, endpoint: Endpoint | None = None) -> dict[str, Any]:
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
    shaping = pretrain and pretrain.model_dump(mode="json", include={"data", "text", "rows", "clean", "validation"})
    tasks = recipe.finetune.tasks if recipe.finetune else ()
    return shaping, [_trained_task(recipe, inputs, name) for name in tasks]


def _trained_task(recipe: Recipe, inputs: Inputs, name: str) -> list[Any]:
    task = recipe.tasks[name]
    kept = {key: value for key, value in _plain(task).items() if key not in MEASURING}
    splits = {"train": task.splits.train, "validation": task.splits.validation}
    return [{**kept, "splits": splits}, inputs.data[f"tasks.{name}.data"].fingerprint]


def _plain(section: Section) -> Mapping[str, Any]:
    return section.model_dump(mode="json", by_alias=True)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
