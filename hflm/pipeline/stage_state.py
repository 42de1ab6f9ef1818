"""Which stages of a run are finished: a stage is, when it ended with the inputs that the recipe names today.

Each stage has a key, the hash of its part of the recipe, the content of its data and the keys of the stages before it.
`stages.json` in the run's folder keeps the keys of the finished ones. Neither torch nor transformers is imported.
"""

import hashlib
import json
import shutil
from pathlib import Path

from hflm.core import atomic_io, fingerprint
from hflm.core.run_files import read_json
from hflm.data import load as data
from hflm.evaluation import results

# A task's keys that change what is measured, not what is learnt.
MEASURING = ("limit", "max_new_tokens", "stop", "metrics", "bertscore_model", "shots")


def keys(recipe, endpoint=None):
    """{stage: key} in the order of the stages: tokenizer, pretrain, finetune, model, benchmark/<task>..., push."""
    found = {}
    chain = [recipe.seed, _plain(recipe.model), fingerprint.of_model(recipe.model.from_)]
    if endpoint is not None:
        chain = [*chain, endpoint.base_url, endpoint.chat]
    if recipe.tokenizer is not None:
        read = _tokenizer_texts(recipe), [data.fingerprint(source) for source in tokenizer_sources(recipe)]
        chain = found["tokenizer"] = _key(
            chain, _plain(recipe.tokenizer), read, fingerprint.of_model(recipe.tokenizer.from_)
        )
    if recipe.pretrain is not None:
        sources = [*recipe.pretrain.data, *_validation_source(recipe.pretrain)]
        chain = found["pretrain"] = _key(chain, _plain(recipe.pretrain), [data.fingerprint(each) for each in sources])
    if recipe.finetune is not None:
        learnt = [_learnt(recipe.tasks[name]) for name in recipe.finetune.tasks]
        chain = found["finetune"] = _key(chain, _plain(recipe.finetune), learnt)
    if recipe.pretrain is not None or recipe.finetune is not None:
        found["model"] = chain  # model/ holds the weights of the last one
    if recipe.benchmark is not None:
        for name in recipe.benchmark.tasks:
            task = recipe.tasks[name]
            measured = [_plain(task), data.fingerprint(task.data), recipe.benchmark.resamples]
            measured.append(recipe.benchmark.contamination)
            if "bertscore" in (task.metrics or ()):
                measured.append(fingerprint.of_model(task.bertscore_model))
            found[f"benchmark/{name}"] = _key(chain, name, measured)
    if recipe.push is not None:
        found["push"] = _key(list(found.values()), _plain(recipe.push))
    return found


def tokenizer_sources(recipe):
    """The Data that a trained tokenizer reads: its own, or those of pretraining and of the fine-tuned tasks."""
    training = recipe.tokenizer.train
    if training is None:
        return ()
    if training.data is not None:
        return training.data
    pretrain = recipe.pretrain.data if recipe.pretrain else ()
    return (*pretrain, *(recipe.tasks[name].data for name in (recipe.finetune.tasks if recipe.finetune else ())))


def _tokenizer_texts(recipe):
    """What of the recipe, beside the data, makes the texts that a trained tokenizer reads."""
    training, pretrain = recipe.tokenizer.train, recipe.pretrain
    if training is None:
        return None
    if training.data is not None:
        return pretrain and pretrain.text
    shaping = pretrain and pretrain.model_dump(mode="json", include={"data", "text", "rows", "clean", "validation"})
    return shaping, [_learnt(recipe.tasks[name]) for name in (recipe.finetune.tasks if recipe.finetune else ())]


def finished(folder):
    """{stage: key} of the stages that ended in `folder` and whose results are there.

    Raises UserError for a results.json that cannot be read.
    """
    scores = Path(folder) / "benchmark" / "results.json"
    measured = results.read(scores).tasks if scores.exists() else {}
    kept = read_json(Path(folder) / "stages.json")
    return {stage: key for stage, key in kept.items() if not stage.startswith("benchmark/") or stage[10:] in measured}


def forget(folder, stage):
    """What a finished stage has left is about to change: until it ends again, it counts as unfinished."""
    kept = finished(folder)
    if kept.pop(stage, None) is not None:
        atomic_io.write_text(Path(folder) / "stages.json", json.dumps(kept, indent=1) + "\n")


def finish(folder, stage, key):
    """Record that a stage has ended; every later stage stays as it was (its key tells whether it still holds)."""
    atomic_io.write_text(Path(folder) / "stages.json", json.dumps({**finished(folder), stage: key}, indent=1) + "\n")


def begin(folder, key):
    """Make a training stage's folder ready for the inputs `key`.

    What another recipe left there is never continued and never lost: it moves to `<folder>.previous`, in place of
    what lay there before. Returns True when something was moved.
    """
    folder = Path(folder)
    mark = folder / "inputs.json"
    moved = folder.exists() and read_json(mark).get("key") != key
    if moved:
        forget(folder.parent, folder.name)
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_io.write_text(mark, json.dumps({"key": key}) + "\n")
    return moved


def set_aside(folder):
    """Rename a folder to `<folder>.previous`, replacing an earlier one."""
    previous = folder.with_name(f"{folder.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    folder.rename(previous)


def _learnt(task):
    kept = {key: value for key, value in _plain(task).items() if key not in MEASURING}
    splits = {"train": task.splits.train, "validation": task.splits.validation}
    return [{**kept, "splits": splits}, data.fingerprint(task.data)]


def _validation_source(pretrain):
    return () if pretrain.validation is None or isinstance(pretrain.validation, float) else (pretrain.validation,)


def _plain(section):
    return section.model_dump(mode="json", by_alias=True)


def _key(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
