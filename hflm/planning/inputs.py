"""What `hflm plan` can learn without running anything: the model's shape, the vocabulary, the lengths of the data.

Whatever cannot be known, or had to be assumed, becomes a line in `notes`.
"""

import itertools
import json
import math
from pathlib import Path

from hflm.core import expand_path
from hflm.data import folder_splits, load_rows, source_files
from hflm.models import architecture as shapes
from hflm.recipe import CONFIG_DEFAULTS

SAMPLED_ROWS = 300  # of a task, to see how much of it is target
TEXT = (".txt", ".jsonl", ".json", ".csv", ".tsv")


def model(recipe, notes):
    """(the content of the model's config.json, its Shape); (None, None) with a note where they cannot be known."""
    if recipe.model.from_ is None:
        config = {**CONFIG_DEFAULTS, **recipe.model.config, "vocab_size": _vocabulary(recipe, notes)}
        return config, shapes.of(config)
    config, why = _config(recipe.model.from_, recipe.model.revision)
    if config is None:
        notes.append(f"model {recipe.model.from_}: {why}, so neither its size nor what it takes can be known")
        return None, None
    shape = shapes.of(config)
    if shape is None:
        notes.append(
            f"model {recipe.model.from_}: memory and time are known for GPT-2 and Llama, not for {config['model_type']}"
        )
    return config, shape


def _config(place, revision):
    """(the content of a model's config.json, None) or (None, why not)."""
    path = expand_path(place)
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


def stored(recipe):
    path = expand_path(recipe.model.from_)
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
    place = expand_path(recipe.tokenizer.from_)
    files = [file for file in (place / "model/tokenizer.json", place / "tokenizer.json") if file.is_file()]
    file = files[0] if files else _cached(str(place), "tokenizer.json")
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


def corpus_tokens(section, shape, notes):
    """Tokens of the pretraining corpus, from the bytes of its local files, or None."""
    from hflm.data import toy

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
    place = expand_path(source.path)
    if place.is_dir():
        inner = place / str(source.options.get("name"))
        files = folder_splits(inner if inner.is_dir() else place).splits.get("train", ())
    else:
        files = source_files(source)
    return files if all(file.suffix in TEXT for file in files) else []


def task_tokens(recipe, section, shape, notes):
    """(tokens of the tasks' training examples, share of them that is target); the share is 1 where none can be read."""
    from hflm import tasks

    total = learnt = 0
    unread = []
    for name in section.tasks:
        task = recipe.tasks[name]
        if task.data.path != "toy" and not expand_path(task.data.path).exists():
            unread.append(name)
            continue
        rows = load_rows(task.data, task.splits.train, tasks.task_columns(task))
        sample = itertools.islice(rows, SAMPLED_ROWS)
        examples, _ = tasks.read_examples(task, sample, name)
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
