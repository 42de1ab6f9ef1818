"""What `hflm plan` can find out without running anything: the model's shape, the vocabulary, the lengths of the data.

What cannot be known, or had to be assumed, becomes a line in `notes`.
"""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hflm.core import ModelError, expand_path
from hflm.data import load_rows, resolve_data
from hflm.models import ADAPTER_CONFIG, adapter_base, architecture
from hflm.recipe import CONFIG_DEFAULTS, Data, FinetuneRecipe, PretrainRecipe, Recipe, Task
from hflm.tasks import Chat, Example, conversation, read_examples, task_columns

SAMPLED_ROWS = 300  # of a task, to see how much of it is target
TEXT = (".txt", ".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class ModelConfig:
    """The content of a model's config.json, and its Shape."""

    config: dict[str, Any]
    shape: architecture.Shape


def read_model_config(recipe: Recipe, notes: list[str]) -> ModelConfig | None:
    """The ModelConfig of the recipe's model, or None with a note that says why it is not known."""
    if recipe.model.from_ is None:
        own = recipe.model.config
        defaults = CONFIG_DEFAULTS[own.get("model_type", "gpt2")]
        config = {**defaults, **own, "vocab_size": _vocabulary(recipe, notes)}
    else:
        config, why = _config(recipe.model.from_, recipe.model.revision)
        if config is None:
            notes.append(f"model {recipe.model.from_}: {why}, so neither its size nor what it takes can be known")
            return None
    shape = architecture.of(config)
    if shape is None:
        kind = config["model_type"]
        notes.append(f"model {recipe.model.from_}: memory and time are known for GPT-2 and Llama, not for {kind}")
        return None
    return ModelConfig(config, shape)


def _config(place: str, revision: str | None) -> tuple[dict[str, Any] | None, str | None]:
    """(the content of a model's config.json, None) or (None, why not)."""
    path = expand_path(place)
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return json.loads((folder / "config.json").read_text(encoding="utf-8")), None
    if path.suffix == ".gguf":
        return None, "a .gguf file is read only when it runs"
    if (path / ADAPTER_CONFIG).is_file():
        try:
            base = adapter_base(path)
        except ModelError as error:
            return None, str(error)
        return _config(base.path, base.revision)
    if path.exists():
        return None, "it holds no config.json"
    file = _cached(place, "config.json", revision)
    if file is None:
        return None, "no such folder, and the Hub's cache does not hold it"
    return json.loads(file.read_text(encoding="utf-8")), None


def stored_parameters(recipe: Recipe) -> int | None:
    """Parameters by the headers of a local model's files, or None."""
    path = expand_path(recipe.model.from_ or "")
    return architecture.stored_parameters(path / "model" if (path / "model").is_dir() else path)


def _cached(repo: str, file: str, revision: str | None = None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(repo, file, revision=revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _vocabulary(recipe: Recipe, notes: list[str]) -> int:
    assert recipe.tokenizer is not None, "a new model has one"
    training, added = recipe.tokenizer.train, len(recipe.tokenizer.add_tokens or ())
    if training is not None:
        notes.append(f"vocabulary: {training.vocab_size:,} entries, if the text gives that many")
        return training.vocab_size + added
    place = expand_path(recipe.tokenizer.from_ or "")
    files = [file for file in (place / "model/tokenizer.json", place / "tokenizer.json") if file.is_file()]
    file = files[0] if files else _cached(str(place), "tokenizer.json")
    if file is None:
        notes.append(f"vocabulary: 50,257 entries as GPT-2's, since {place} cannot be read here")
        return 50257 + added
    content = json.loads(file.read_text(encoding="utf-8"))
    known = content["model"]["vocab"]
    inside = set(known) if isinstance(known, dict) else {piece for piece, _ in known}
    return len(inside | {token["content"] for token in content["added_tokens"]}) + added


def bytes_per_token(vocab_size: int) -> float:
    """How many bytes of English a token holds, about.

    Fitted on WikiText-2's validation text and byte-level BPE trained on its training text: 2.07 bytes at 512 entries,
    3.04 at 2,048, 3.98 at 8,192, 4.63 at 32,768.
    """
    return min(0.48 * math.log2(vocab_size) - 2.25, 4.6)


def corpus_tokens(section: PretrainRecipe, shape: architecture.Shape, notes: list[str]) -> int | None:
    """Tokens of the pretraining corpus, from the bytes of its local files, or None."""
    total = 0
    for source in section.data:
        size = _text_bytes(source, "train", section.text)
        if size is None:
            notes.append(f"pretrain: the size of {source.path} is not known here. Say it with --corpus-tokens")
            return None
        total += size
    per = bytes_per_token(shape.vocab_size)
    notes.append(f"corpus: {total:,} bytes, at an assumed {per:.2f} bytes a token (English, this vocabulary)")
    return round(total / per)


def validation_tokens(section: PretrainRecipe, shape: architecture.Shape, corpus: int | None) -> int:
    """Tokens that an evaluation of pretraining reads, as far as they are known: from the bytes of local files."""
    if isinstance(section.validation, float):
        return round(section.validation * (corpus or 0))
    sizes = [_text_bytes(source, "validation", section.text) or 0 for source in section.validation_sets.values()]
    return round(sum(sizes) / bytes_per_token(shape.vocab_size))


def _text_bytes(source: Data, split: str, column: str) -> int | None:
    """Bytes of a split of the toy world, or of the local files of plain text that a source is read from."""
    from hflm.data import toy

    if source.path == "toy":
        options = {key: value for key, value in source.options.items() if key != "split"}
        rows = toy.rows(options.pop("name", "stories"), split, **options)
        return sum(len(row[column].encode()) for row in rows)
    data = resolve_data(source)
    files = data.files if data.splits is None else data.splits.splits.get(split, ())
    sizes = [file.stat().st_size for file in files if file.suffix in TEXT]
    return sum(sizes) if len(sizes) == len(files) > 0 else None


def task_tokens(
    recipe: Recipe, section: FinetuneRecipe, shape: architecture.Shape, notes: list[str]
) -> tuple[int | None, float]:
    """(tokens of the tasks' training examples, fraction of them that is target); the fraction is 1 where none can be read."""
    total = target = 0
    unread = []
    for name in section.tasks:
        task = recipe.tasks[name]
        data = resolve_data(task.data)
        if not data.files and task.data.path != "toy":
            unread.append(name)
            continue
        assert task.splits.train is not None, "the recipe checks it for a task of finetune"
        rows = load_rows(data, task.splits.train, task_columns(task))
        sample = itertools.islice(rows, SAMPLED_ROWS)
        examples, _ = read_examples(task, sample, name)
        inputs = sum(len(example.prompt.encode()) + len(example.target.encode()) + 1 for example in examples)
        learned = [_learned_texts(task, example) for example in examples]
        targets = sum(len(text.encode()) + 1 for texts in learned for text in texts)
        ends = sum(map(len, learned)) * bytes_per_token(shape.vocab_size)  # each text has its end token
        total += (inputs + ends) / len(examples) * len(rows)
        target += (targets + ends) / len(examples) * len(rows)
    if unread:
        notes.append(
            f"finetune: {', '.join(unread)} cannot be read here, so every token is counted as a label, which is the most"
        )
        return None, 1.0
    notes.append(f"finetune: lengths from the first {SAMPLED_ROWS} rows of each task, at an assumed bytes a token")
    return round(total / bytes_per_token(shape.vocab_size)), target / total


def _learned_texts(task: Task, example: Example) -> list[str]:
    """What an example trains on: its target; of a conversation every turn of the assistant."""
    if not isinstance(task, Chat):
        return [example.target]
    return [turn["content"] for turn in conversation(example) if turn["role"] == "assistant"]
