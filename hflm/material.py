"""Read and check all that a recipe names before anything is trained: task rows, corpus, the tokenizer's text."""

import dataclasses
import itertools
import random
from dataclasses import dataclass

from hflm import data, tasks
from hflm.errors import DataError

STREAMED_TEXTS = 100_000  # documents of a stream that a tokenizer is trained on


@dataclass(frozen=True)
class Material:
    """Rows of one split of a task; `shots` are the solved examples to show before each of them in a benchmark."""

    task: object
    examples: list
    shots: list
    skipped: int
    where: str


@dataclass(frozen=True)
class Corpus:
    """Text to pretrain on: `texts` is a list of strings or a data.Stream, `held_out` a list or None.

    `cleaning` is a clean.Cleaning where a list was cleaned.
    """

    texts: object
    held_out: list | None
    cleaning: object = None


def read_tasks(recipe, todo, say):
    """{(task name, "train" | "validation" | "test"): Material} of every row that the stages in `todo` need."""
    found = {}
    for name, task in recipe.tasks.items():
        learns = recipe.finetune is not None and name in recipe.finetune.tasks
        needed = {
            "train": learns and ("finetune" in todo or _trains_tokenizer(recipe, todo) or _compares(recipe, todo)),
            "validation": learns and "finetune" in todo and task.splits.validation is not None,
            "test": f"benchmark/{name}" in todo,
        }
        for use in (use for use, needs in needed.items() if needs):
            examples, skipped, where = _read(task, use)
            shots = []
            if use == "test":
                _check_metrics(task)
                examples = examples[: task.limit]
                shots = _shots(task, recipe.seed)
            for line in skipped[:10]:
                say(f"left out: {line}")
            found[name, use] = Material(task, examples, shots, len(skipped), where)
            say(f"read {len(examples):,} rows of {where} for {name}")
    return found


def read_corpus(recipe, todo, say):
    """The Corpus that pretraining, the tokenizer or the check for contamination needs, or None where none is to do."""
    stage = recipe.pretrain
    if stage is None or not ("pretrain" in todo or _trains_tokenizer(recipe, todo) or _compares(recipe, todo)):
        return None
    texts, where = data.corpus(stage.data, stage.text, stage.rows, recipe.seed)
    say(f"read {len(texts):,} texts of {where}" if isinstance(texts, list) else f"streams {where}")
    if stage.validation is None:
        texts, _, cleaning = _cleaned(stage, texts)
        return Corpus(texts, None, cleaning=cleaning)
    if not isinstance(stage.validation, float):
        held_out, where = data.corpus((stage.validation,), stage.text, stage.rows, recipe.seed)
        if not isinstance(held_out, list):
            raise DataError(f"pretrain.validation: {where} is a stream. Read it without `streaming`")
        texts, held_out, cleaning = _cleaned(stage, texts, held_out)
        return Corpus(texts, held_out, cleaning=cleaning)
    if not isinstance(texts, list):
        raise DataError("pretrain.validation: a share cannot be held out of a stream. Name a data set there")
    texts, _, cleaning = _cleaned(stage, texts)
    learnt, held_out = data.held_out(texts, stage.validation, stage.rows)
    if not learnt or not held_out:
        raise DataError(f"pretrain.validation: {len(texts):,} texts are too few to hold {stage.validation} of them out")
    return Corpus(learnt, held_out, cleaning=cleaning)


def _cleaned(stage, texts, held_out=None):
    """(texts, held_out, report) as `pretrain.clean` says; a share that is held out is taken of what is clean."""
    if stage.clean is None:
        return texts, held_out, None
    from hflm import clean

    held_out = held_out and clean.normalized(held_out, stage.clean)
    if not isinstance(texts, list):
        cleaned = clean.stream(texts.dataset, texts.column, stage.clean)
        return dataclasses.replace(texts, dataset=cleaned), held_out, None
    texts, report = clean.clean(texts, stage.clean, held_out or ())
    return texts, held_out, report


def tokenizer_texts(recipe, corpus, material):
    """Yield the text that a tokenizer is trained on: its own data, or the corpus and the tasks' training examples."""
    own = recipe.tokenizer.train.data
    if own is not None:
        column = recipe.pretrain.text if recipe.pretrain else "text"
        texts, _ = data.corpus(own, column, "documents", recipe.seed)
        yield from itertools.islice(texts, None if isinstance(texts, list) else STREAMED_TEXTS)
        return
    if corpus is not None:
        # A stream may have no end: its beginning stands for it.
        yield from itertools.islice(corpus.texts, None if isinstance(corpus.texts, list) else STREAMED_TEXTS)
    for (_, use), found in material.items():
        if use == "train":
            yield from (f"{example.prompt} {example.target}" for example in found.examples)


def _trains_tokenizer(recipe, todo):
    return "tokenizer" in todo and recipe.tokenizer.train is not None and recipe.tokenizer.train.data is None


def _compares(recipe, todo):
    """Whether a benchmark that is to do is compared with the training text."""
    return any(stage.startswith("benchmark/") for stage in todo) and recipe.benchmark.contamination


def _read(task, use):
    split = getattr(task.splits, use)
    where = data.where(task.data, split)
    return *tasks.read(task, data.load(task.data, split), where), where


def _check_metrics(task):
    """An encoder or a package that is missing is told before the hours of training."""
    if "bertscore" in (task.metrics or ()):
        from hflm.metrics import bertscore

        bertscore.check(task.bertscore_model)


def _shots(task, seed):
    """`shots` solved examples of the training split, the same ones for every row and every run of a seed."""
    if task.kind == "language_modeling" or not task.shots:
        return []
    examples, _, where = _read(task, "train")
    if len(examples) < task.shots:
        raise DataError(f"{where} has {len(examples)} rows, fewer than the {task.shots} shots")
    return random.Random(seed).sample(examples, task.shots)
