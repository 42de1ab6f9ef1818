"""What `hflm validate` finds without loading anything: files, splits, columns and models that are not on this machine.

Nothing is looked for on the Hub, so that names of repositories pass. Neither torch nor datasets is imported.
"""

from collections.abc import Iterator

from hflm import tasks
from hflm.core import DataError, expand_path
from hflm.data import Row, first_rows, is_hub_id, resolve_data
from hflm.recipe import Data, Recipe, Task

MODEL_FILES = ("config.json", "model/config.json", "adapter_config.json", "adapter/adapter_config.json")
TOKENIZER_FILES = ("tokenizer.json", "model/tokenizer.json", "tokenizer_config.json", "vocab.json")
KeyPath = tuple[str | int, ...]
UNTRAINED = "the recipe trains nothing, so that there is no model to benchmark. Name one by `from:`, or add `pretrain:`"


def measures_nothing(recipe: Recipe) -> bool:
    """Whether there is a benchmark, and neither a model to load nor training that makes one."""
    trains = recipe.pretrain is not None or recipe.finetune is not None
    return recipe.benchmark is not None and recipe.model.from_ is None and not trains


def find_missing_inputs(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Yields (key path, message) for each file, split, column or local model that is named and is not there."""
    if measures_nothing(recipe):
        yield ("model",), UNTRAINED
    yield from _missing_model(("model", "from"), recipe.model.from_, MODEL_FILES)
    training = recipe.tokenizer.train if recipe.tokenizer else None
    if recipe.tokenizer is not None:
        yield from _missing_model(("tokenizer", "from"), recipe.tokenizer.from_, TOKENIZER_FILES)
    stage = recipe.pretrain
    text = stage.text if stage else "text"
    if training is not None:
        yield from _missing_texts(("tokenizer", "train", "data"), training.data or (), text)
    if stage is not None:
        yield from _missing_texts(("pretrain", "data"), stage.data, text)
        for key, source in stage.validation_sets.items():
            yield from _missing_text(tuple(key.split(".")), source, text)
    for name, task in recipe.tasks.items():
        problem = _task_problem(task, _used_splits(recipe, name, task))
        if problem is not None:
            yield ("tasks", name, "data"), problem
        encoder = getattr(task, "bertscore_model", None)
        yield from _missing_model(("tasks", name, "bertscore_model"), encoder, MODEL_FILES)


def _missing_model(key: KeyPath, path: str | None, files: tuple[str, ...]) -> Iterator[tuple[KeyPath, str]]:
    if path is None or is_hub_id(path):
        return
    try:
        place = expand_path(path)
    except DataError as error:
        yield key, str(error)
        return
    if not place.exists():
        yield key, f"no file or folder '{path}', and no repository of the Hub can have this name"
    elif place.is_dir() and not any((place / file).is_file() for file in files) and not list(place.glob("*.gguf")):
        yield key, f"the folder '{path}' holds none of {', '.join(files)}"


def _missing_texts(key: KeyPath, sources: tuple[Data, ...], column: str) -> Iterator[tuple[KeyPath, str]]:
    for number, source in enumerate(sources):
        yield from _missing_text((*key, number), source, column)


def _missing_text(key: KeyPath, source: Data, column: str) -> Iterator[tuple[KeyPath, str]]:
    if _is_remote(source):
        return
    column = source.text or column
    try:
        rows = first_rows(resolve_data(source))
    except DataError as error:
        yield key, str(error)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows and column not in names:
        yield key, f"the rows have no column {column}. Their columns are: {', '.join(map(str, names))}. Set `text`"


def _used_splits(recipe: Recipe, name: str, task: Task) -> list[str]:
    """The splits of a task that the recipe reads."""
    tuned = recipe.finetune is not None and name in recipe.finetune.tasks
    measured = recipe.benchmark is not None and name in recipe.benchmark.tasks
    stages = [stage for stage in (recipe.pretrain, recipe.finetune) if stage is not None]
    evaluated = any(stage.evaluate is not None and name in stage.evaluate.tasks for stage in stages)
    shots = (measured or evaluated) and getattr(task, "shots", 0) > 0
    used = [
        task.splits.train if tuned or shots else None,
        task.splits.validation if tuned or evaluated else None,
        task.splits.test if measured else None,
    ]
    return [split for split in dict.fromkeys(used) if split is not None]


def _task_problem(task: Task, splits: list[str]) -> str | None:
    """The first problem of the splits that are read."""
    if _is_remote(task.data) or not splits:
        return None
    try:
        data = resolve_data(task.data)
        return next(filter(None, (_column_problem(task, split, first_rows(data, split)) for split in splits)), None)
    except DataError as error:
        return str(error)


def _column_problem(task: Task, split: str, rows: list[Row]) -> str | None:
    columns = {name for row in rows for name in row}
    columns |= {name for row in rows if isinstance(row.get("translation"), dict) for name in row["translation"]}
    for key, names in tasks.named_columns(task).items():
        missing = [name for name in names if name not in columns]
        if rows and missing:
            listed = ", ".join(sorted(map(str, columns)))
            return f"the rows of {split} have no column for {key}: {', '.join(missing)}. Their columns are: {listed}"
    return None


def _is_remote(source: Data) -> bool:
    """Whether some of the data are behind an address of the web, which is not asked."""
    return "://" in source.path or "://" in str(source.options.get("data_files"))
