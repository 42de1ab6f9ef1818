"""Read and check all that a recipe names before anything is trained: task rows, corpus, the tokenizer's text."""

import dataclasses
import functools
import itertools
import random
from dataclasses import dataclass

from hflm import tasks
from hflm.core.errors import DataError
from hflm.data import corpus as corpora
from hflm.data import load as data

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
    """Text to pretrain on: `texts` is a list of strings or a corpus.Stream, `held_out` a list or None.

    `cleaning` is a CleaningReport where a list was cleaned. `given` tells what each source gives: over the whole corpus
    as it was cleaned and mixed, or over the beginning of a stream as it was read. `skipped` are the bad rows that were
    left out. `begun`: how many documents of a stream the two cover.
    """

    texts: object
    held_out: list | None
    cleaning: object
    given: tuple
    skipped: tuple
    begun: int | None


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


def read_corpus(recipe, todo, say, listed):
    """The Corpus that pretraining, the tokenizer or the check for contamination needs, or None where none is to do.

    With `on_bad_row: skip` a stream appends each row that it leaves out to the file `listed`.
    """
    stage = recipe.pretrain
    if stage is None or not ("pretrain" in todo or _trains_tokenizer(recipe, todo) or _compares(recipe, todo)):
        return None
    sources = corpora.Sources(stage.data, "pretrain.data", stage.text, stage.rows, recipe.seed, stage.on_bad_row)
    share = stage.validation if isinstance(stage.validation, float) else None
    beside = None
    if stage.validation is not None and share is None:
        where = corpora.Sources(
            (stage.validation,), "pretrain.validation", stage.text, stage.rows, recipe.seed, stage.on_bad_row
        )
        if where.streamed:
            raise DataError(f"pretrain.validation: {where} is a stream. Read it without `streaming`")
        beside = corpora.read(where)
    held_out = beside and _normalized(stage, beside.texts)
    if sources.streamed:
        begun = corpora.sample(sources, share)
        texts, given, skipped, cleaning = corpora.stream(sources, listed, share), begun.given, begun.skipped, None
        counted = sum(each.documents for each in given)
        say(f"streams {sources}")
        if stage.clean is not None:
            from hflm.data.cleaning import clean_stream

            texts = dataclasses.replace(texts, dataset=clean_stream(texts.dataset, stage.clean))
        if share is not None:
            held_out = _cleaner(stage)(begun.texts)[1] if stage.clean and begun.texts else begun.texts
    else:
        whole = corpora.read(sources, _cleaner(stage, held_out or ()))
        texts, given, skipped, cleaning, counted = whole.texts, whole.given, whole.skipped, whole.cleaning, None
        say(f"read {len(texts):,} texts of {sources}")
        if share is not None:
            texts, held_out = corpora.held_out(texts, share, stage.rows)
    if share is not None and (not texts or not held_out):
        seen = f"the first {corpora.STREAM_SAMPLE:,} documents" if sources.streamed else f"{len(whole.texts):,} texts"
        raise DataError(f"pretrain.validation: {seen} are too few to hold {share} of them out")
    if beside is not None:
        skipped = (*skipped, *beside.skipped)
    return Corpus(texts, held_out, cleaning, given, skipped, counted)


def _cleaner(stage, held_out=()):
    """What cleans a list of texts as `pretrain.clean` says (select_documents), or None."""
    if stage.clean is None:
        return None
    from hflm.data.cleaning import select_documents

    return functools.partial(select_documents, section=stage.clean, held_out=held_out)


def _normalized(stage, texts):
    if stage.clean is None:
        return texts
    from hflm.data.cleaning import normalize_texts

    return normalize_texts(texts, stage.clean)


def tokenizer_texts(recipe, corpus, material, listed):
    """Yield the text that a tokenizer is trained on: its own data, or the corpus and the tasks' training examples."""
    own = recipe.tokenizer.train.data
    if own is not None:
        stage = recipe.pretrain
        sources = corpora.Sources(own, "tokenizer.train.data", stage.text if stage else "text", seed=recipe.seed)
        if sources.streamed:
            yield from itertools.islice(corpora.stream(sources, listed), STREAMED_TEXTS)
        else:
            yield from corpora.read(sources).texts
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
        from hflm.evaluation.metrics import bertscore

        bertscore.check(task.bertscore_model)


def _shots(task, seed):
    """`shots` solved examples of the training split, the same ones for every row and every run of a seed."""
    if task.kind == "language_modeling" or not task.shots:
        return []
    examples, _, where = _read(task, "train")
    if len(examples) < task.shots:
        raise DataError(f"{where} has {len(examples)} rows, fewer than the {task.shots} shots")
    return random.Random(seed).sample(examples, task.shots)
