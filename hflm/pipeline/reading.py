"""Read and check all rows and text that a recipe's stages need, before anything is trained."""

import dataclasses
import functools
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hflm import tasks
from hflm.core import DataError
from hflm.data import (
    STREAM_SAMPLE,
    BadRow,
    Documents,
    DocumentStream,
    ResolvedData,
    Sources,
    SourceStats,
    describe_lengths,
    describe_source,
    load_rows,
    read_documents,
    sample_stream,
    split_held_out,
    stream_documents,
    warn_of_lines,
)
from hflm.pipeline.inputs import Inputs
from hflm.recipe import Recipe, Task
from hflm.recipe.training import PretrainRecipe

TRAINING = ("pretrain", "finetune")

Say = Callable[[str], None]


@dataclass(frozen=True)
class TaskRows:
    """Rows of one split of a task; `shots` are the solved examples to show before each of them in a benchmark."""

    task: Any  # the recipe's task, of any kind
    examples: list[tasks.Example]
    shots: list[tasks.Example]
    skipped: int
    where: str
    data_fingerprint: str


# By task name and what the rows are for: "train", "validation" (of fine-tuning), "evaluation" or "test".
RowsByUse = dict[tuple[str, str], TaskRows]


@dataclass(frozen=True)
class Corpus:
    """Text to pretrain on: `texts` is a list of strings or a DocumentStream; `held_out` are the validation texts.

    Those are by the name of their set, "" where there is only one, {} where nothing is evaluated.

    `cleaning` is the report of what cleaned a list. `given` holds what each source gives: over the whole corpus as it
    was cleaned and mixed, or over the beginning of a stream as it was read. `skipped` are the bad rows that were left
    out. `begun`: how many documents of a stream the two cover.
    """

    texts: list[str] | DocumentStream
    held_out: dict[str, list[str]]
    cleaning: Any
    given: tuple[SourceStats, ...]
    skipped: tuple[BadRow, ...]
    begun: int | None


def read_tasks(recipe: Recipe, inputs: Inputs, todo: Collection[str], say: Say) -> dict[tuple[str, str], TaskRows]:
    """The rows of every task that the stages in `todo` need, by task and use."""
    rows = {}
    for name, task in recipe.tasks.items():
        trained = recipe.finetune is not None and name in recipe.finetune.tasks
        needed = {
            "train": trained and ("finetune" in todo or _trains_tokenizer(recipe, todo) or _compares(recipe, todo)),
            "validation": trained and "finetune" in todo and task.splits.validation is not None,
            "evaluation": any(stage in todo and name in evaluated_tasks(recipe, stage) for stage in TRAINING),
            "test": f"benchmark/{name}" in todo,
        }
        for use in (use for use, needs in needed.items() if needs):
            rows[name, use] = found = _task_rows(task, inputs.data[f"tasks.{name}.data"], use, recipe, name, say)
            say(f"read {len(found.examples):,} rows of {found.where} for {name}")
    return rows


def evaluated_tasks(recipe: Recipe, stage: str) -> dict[str, int]:
    """The tasks that each evaluation of a stage measures, and how many rows of each."""
    evaluate = getattr(getattr(recipe, stage), "evaluate", None)
    return {name: evaluate.limit for name in evaluate.tasks} if evaluate is not None else {}


def _task_rows(task: Task, data: ResolvedData, use: str, recipe: Recipe, name: str, say: Say) -> TaskRows:
    examples, skipped, where = _read(task, data, "validation" if use == "evaluation" else use)
    shots = []
    if use in ("test", "evaluation"):
        check_metrics(task)
        limits = [evaluated_tasks(recipe, stage).get(name, 0) for stage in TRAINING]
        examples = examples[: task.limit if use == "test" else max(limits)]
        shots = _shots(task, data, recipe.seed)
    for line in skipped[:10]:
        say(f"left out: {line}")
    return TaskRows(task, examples, shots, len(skipped), where, data.fingerprint)


def read_corpus(recipe: Recipe, inputs: Inputs, todo: Collection[str], say: Say, listed: Path) -> Corpus | None:
    """The Corpus that pretraining, the tokenizer or the check for contamination needs, or None where none is to do.

    With `on_bad_row: skip` a stream appends each row that it leaves out to the file `listed`.
    """
    stage = recipe.pretrain
    if stage is None or not ("pretrain" in todo or _trains_tokenizer(recipe, todo) or _compares(recipe, todo)):
        return None
    sources = _sources(recipe, stage, inputs)
    fraction = stage.validation if isinstance(stage.validation, float) else None
    validation = {key: _validation(recipe, stage, inputs, key) for key in stage.validation_sets}
    held_out = {_set_name(key): _normalized(stage, read.texts) for key, read in validation.items()}
    if sources.streamed:
        say(f"streams {sources}")
        corpus = _streamed(stage, sources, fraction, held_out, open_stream(recipe, inputs, listed))
    else:
        read = read_documents(sources, _cleaner(stage, [text for texts in held_out.values() for text in texts]))
        say(f"read {len(read.texts):,} texts of {sources}: {describe_lengths(read.texts)}")
        if warning := warn_of_lines(sources, read.texts):
            say(f"warning: {warning}")
        texts = read.texts
        if fraction is not None:
            texts, own = split_held_out(texts, fraction, stage.rows)
            if not texts or not own:
                raise _too_few(f"{len(read.texts):,} texts", fraction)
            held_out = {"": own}
        corpus = Corpus(texts, held_out, read.cleaning, read.statistics, read.skipped, None)
    skipped = [row for each in validation.values() for row in each.skipped]
    return dataclasses.replace(corpus, skipped=(*corpus.skipped, *skipped))


def streams_corpus(stage: PretrainRecipe) -> bool:
    """Whether the corpus is read as a stream."""
    return any(source.options.get("streaming") for source in stage.data)


def open_stream(recipe: Recipe, inputs: Inputs, listed: Path) -> DocumentStream:
    """The cleaned stream of a corpus, which every process reads for itself."""
    stage = recipe.pretrain
    assert stage is not None
    fraction = stage.validation if isinstance(stage.validation, float) else None
    stream = stream_documents(_sources(recipe, stage, inputs), listed, fraction)
    if stage.clean is None:
        return stream
    from hflm.data.cleaning import clean_stream

    return dataclasses.replace(stream, dataset=clean_stream(stream.dataset, stage.clean))


def _sources(recipe: Recipe, stage: PretrainRecipe, inputs: Inputs) -> Sources:
    data = inputs.sources("pretrain.data")
    return Sources(data, "pretrain.data", stage.text, stage.rows, recipe.seed, stage.on_bad_row)


def _streamed(
    stage: PretrainRecipe,
    sources: Sources,
    fraction: float | None,
    held_out: dict[str, list[str]],
    texts: DocumentStream,
) -> Corpus:
    begun = sample_stream(sources, fraction)
    if fraction is not None:
        cleaner = _cleaner(stage)
        held_out = {"": cleaner(begun.texts)[1] if cleaner and begun.texts else begun.texts}
        if not held_out[""]:
            raise _too_few(f"the first {STREAM_SAMPLE:,} documents", fraction)
    documents = sum(each.documents for each in begun.statistics)
    return Corpus(texts, held_out, None, begun.statistics, begun.skipped, documents)


def _validation(recipe: Recipe, stage: PretrainRecipe, inputs: Inputs, key: str) -> Documents:
    """The data set that `pretrain.validation` names, or one of several."""
    sources = Sources((inputs.data[key],), key, stage.text, stage.rows, recipe.seed, stage.on_bad_row)
    if sources.streamed:
        raise DataError(f"{key}: {sources} is a stream. Read it without `streaming`")
    return read_documents(sources)


def _set_name(key: str) -> str:
    """`pretrain.validation.wiki` -> wiki, `pretrain.validation` -> ""."""
    return key.removeprefix("pretrain.validation").removeprefix(".")


def _too_few(seen: str, fraction: float) -> DataError:
    return DataError(f"pretrain.validation: {seen} are too few to hold {fraction} of them out")


def _cleaner(stage: PretrainRecipe, held_out: Sequence[str] = ()) -> Callable | None:
    """What cleans a list of texts as `pretrain.clean` says, or None."""
    if stage.clean is None:
        return None
    from hflm.data.cleaning import select_documents

    return functools.partial(select_documents, section=stage.clean, held_out=held_out)


def _normalized(stage: PretrainRecipe, texts: list[str]) -> list[str]:
    if stage.clean is None:
        return texts
    from hflm.data.cleaning import normalize_texts

    return normalize_texts(texts, stage.clean)


def _trains_tokenizer(recipe: Recipe, todo: Collection[str]) -> bool:
    training = recipe.tokenizer.train if recipe.tokenizer else None
    return "tokenizer" in todo and training is not None and training.data is None


def _compares(recipe: Recipe, todo: Collection[str]) -> bool:
    """Whether a benchmark that is to do is compared with the training text."""
    benchmark = recipe.benchmark
    return benchmark is not None and benchmark.contamination and any(name.startswith("benchmark/") for name in todo)


def _read(task: Task, data: ResolvedData, use: str) -> tuple[list[tasks.Example], list[str], str]:
    split = getattr(task.splits, use)
    where = describe_source(data, split)
    examples, skipped = tasks.read_examples(task, load_rows(data, split, tasks.task_columns(task)), where)
    return examples, skipped, where


def check_metrics(task: Any) -> None:
    """Report an encoder or a package that is missing before the hours of training."""
    if "bertscore" in (task.metrics or ()):
        from hflm.evaluation.metrics import bertscore

        bertscore.check(task.bertscore_model)


def _shots(task: Any, data: ResolvedData, seed: int) -> list[tasks.Example]:
    """`shots` solved examples of the training split, the same ones for every row and every run of a seed."""
    if task.kind == "language_modeling" or not task.shots:
        return []
    examples, _, where = _read(task, data, "train")
    if len(examples) < task.shots:
        raise DataError(f"{where} has {len(examples)} rows, fewer than the {task.shots} shots")
    return random.Random(seed).sample(examples, task.shots)
