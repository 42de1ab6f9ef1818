"""The rows of one split of a recipe's data.

Local files are read by hflm.data.readers, row by row and each time anew, so that a row is what the file says, memory
stays small, and what is read is what was fingerprinted. Data sets of the Hub are loaded by `datasets`, with their
declared features, at one commit for all of a run; those in the Hugging Face cache are found without a network.
"""

import itertools
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hflm.core import DataError, progress
from hflm.data import hub_cache, splits, toy
from hflm.data.readers import BadRow, Row, make_options, read_rows
from hflm.data.readers.base import error_reason
from hflm.data.readers.options import OPTIONS
from hflm.data.source import READING_OPTIONS, ResolvedData, SplitFiles, describe_source, local_split
from hflm.recipe import Data


@dataclass(frozen=True)
class ToyRows:
    """The generated rows of one split of a toy data set."""

    name: str
    split: str
    options: dict[str, Any]

    def __iter__(self) -> Iterator[Row]:
        for number, values in enumerate(toy.rows(self.name, self.split, **self.options), 1):
            row = Row(values)
            row.at = (f"toy {self.name} [{self.split}]", ", row ", number)
            yield row


@dataclass(frozen=True)
class FileRows:
    """The rows of some files, one after the other; `columns` as in `read_rows`."""

    source: SplitFiles
    columns: Collection[str] | None

    def __iter__(self) -> Iterator[Row | BadRow]:
        for file in self.source.files:
            yield from read_rows(file, self.source.options, self.columns)


@dataclass(frozen=True)
class LocalRows:
    """Rows of local files or of the toy world: a Row or a BadRow each, read anew whenever they are iterated.

    `parts` are (rows, begin, end) of each part of the split, the bounds as in `splits.split_bounds`.
    """

    name: str
    parts: tuple[tuple[Iterable[Row | BadRow], str, str], ...]

    def __iter__(self) -> Iterator[Row | BadRow]:
        rows = itertools.chain.from_iterable(_slice(*part) for part in self.parts)
        return progress(rows, f"reading {self.name}", "rows", step=1000)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def load_rows(data: ResolvedData, split: str = "train", columns: Collection[str] | None = None) -> Any:
    """The rows of one split: LocalRows, or of the Hub a datasets.Dataset (an IterableDataset with `streaming: true`).

    `split` may be a slice such as `train[:2000]`, or `train+validation`; `columns` are the ones that will be used, as
    in `read_rows`. Raises DataError: no such folder, file or Hub id; no such split. What is wrong with single rows is
    found when they are iterated.
    """
    split = data.source.options.get("split", split)
    if data.is_hub:
        return _load_from_hub(data, split)
    bounds = [splits.split_bounds(part) for part in splits.split_parts(split)]
    parts = tuple((_local_rows(data, name, columns), begin, end) for name, begin, end in bounds)
    return LocalRows(describe_source(data, split), parts)


def first_rows(data: ResolvedData, split: str = "train", count: int = 100) -> list[Row]:
    """The first good rows of a split, whatever its slice; none for a data set of the Hub.

    Raises DataError: no such folder, file or split.
    """
    if data.is_hub:
        return []
    names = [splits.split_name(part) for part in splits.split_parts(data.source.options.get("split", split))]
    parts = [_local_rows(data, name, None) for name in names]
    rows = itertools.islice(itertools.chain.from_iterable(parts), count)
    return [row for row in rows if isinstance(row, Row)]


def _local_rows(data: ResolvedData, split: str, columns: Collection[str] | None) -> ToyRows | FileRows:
    return toy_rows(data, split) if data.source.path == "toy" else FileRows(local_split(data, split), columns)


def toy_rows(data: ResolvedData, split: str) -> ToyRows:
    options = {key: value for key, value in data.source.options.items() if key not in ("name", "split", "streaming")}
    return ToyRows(data.source.options.get("name", "stories"), split, options)


def split_files(data: ResolvedData, split: str) -> SplitFiles:
    """The files or URLs of a split without slices, local or of the Hub, for hflm.data.readers.

    A data set of the Hub is downloaded into the cache first, except with `streaming: true` and a network.
    Raises DataError as `load_rows` does.
    """
    return _hub_split_files(data, split) if data.is_hub else local_split(data, split)


def _slice(rows: Iterable[Row | BadRow], begin: str, end: str) -> Iterator[Row | BadRow]:
    length = sum(1 for _ in rows) if splits.needs_length(begin, end) else None
    return itertools.islice(rows, splits.bound_to_row(begin, length), splits.bound_to_row(end, length))


def _load_from_hub(data: ResolvedData, split: str) -> Any:
    import datasets

    path, options = _hub_location(data.source)
    options.pop("split", None)
    try:
        with _quiet_datasets():
            loaded = [datasets.load_dataset(path, split=part, **options) for part in splits.split_parts(split)]
    except (Exception, StopIteration) as error:
        raise _hub_error(error, data, split) from error
    if len(loaded) == 1:
        return loaded[0]
    try:
        return datasets.concatenate_datasets(loaded)
    except ValueError as error:
        raise DataError(f"{data.source.path}: {split} do not have the same columns: {error_reason(error)}") from error


def _hub_split_files(data: ResolvedData, split: str) -> SplitFiles:
    import datasets

    source = data.source
    streamed = source.options.get("streaming")
    options = {key: value for key, value in source.options.items() if key not in READING_OPTIONS}
    if not streamed and hub_cache.is_reachable(source.path, options.get("revision")):
        folder, _ = hub_cache.fetch_dataset(source.path, options)
        path, options = str(folder), {**options, "revision": None}
    else:
        path, options = _hub_location(source)
        options = {key: value for key, value in options.items() if key not in READING_OPTIONS}
    try:
        with _quiet_datasets():
            config = datasets.load_dataset_builder(path, **options).config
    except (Exception, StopIteration) as error:
        raise _hub_error(error, data, split) from error
    files = config.data_files or {}
    if split not in files:
        raise DataError(f"{source.path}: no split '{split}'; it has: {', '.join(map(str, files)) or 'no files'}")
    kind = type(config).__name__.removesuffix("Config").lower()
    if kind not in OPTIONS:
        raise DataError(
            f"{source.path}: text is read from txt, json, csv, tsv, parquet and arrow files, not from {kind}"
        )
    plain = vars(type(config)())
    named = ("name", "version", "data_dir", "data_files", "description", "features")
    changed = {key: value for key, value in vars(config).items() if key not in named and value != plain.get(key)}
    return SplitFiles(tuple(str(file) for file in files[split]), make_options(kind, changed))


def _hub_location(data: Data) -> tuple[str, dict[str, Any]]:
    """(path, options) for `datasets`: the Hub id at its commit, or without a network its folder in the cache."""
    revision = data.options.get("revision")
    if hub_cache.is_reachable(data.path, revision):
        return data.path, {**data.options, "revision": hub_cache.resolve_commit(data.path, revision)}
    folder = hub_cache.cached_folder(data.path, revision)
    return (str(folder), {**data.options, "revision": None}) if folder else (data.path, dict(data.options))


def _hub_error(error: BaseException, data: ResolvedData, split: str) -> DataError:
    """A DataError for whatever `datasets` raised."""
    from datasets import exceptions

    cause = " ".join(str(error.__cause__ or error).split())[:500]
    if isinstance(error, PermissionError | NotADirectoryError):
        return unusable_cache(error)
    unknown = isinstance(error, ConnectionError | exceptions.DatasetNotFoundError)
    if unknown or "offline" in cause.lower():
        return DataError(
            f"data.path: '{data.source.path}' is no local file or folder, and the Hub gave no data set of that name "
            "(no network, or a wrong name). `hflm fetch RECIPE` brings it where there is a network; a local copy is "
            "used with --set ...data.path=FOLDER"
        )
    return DataError(f"{describe_source(data, split)}: {cause}")


def unusable_cache(error: OSError) -> DataError:
    from datasets import config

    return DataError(
        f"the cache of datasets, {config.HF_DATASETS_CACHE}, cannot be used: {error_reason(error)}. Set HF_HOME to a "
        "folder that can be written"
    )


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """No log of `datasets` while it loads, as it logs a traceback of what a DataError says, and bars in a terminal only."""
    import datasets

    verbosity, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if bars and not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
