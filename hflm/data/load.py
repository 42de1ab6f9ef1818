"""Load what a recipe's `data:` names, as `datasets.load_dataset` would, with its rough edges mended.

Mended here: a local folder's split is read from the files of that split alone (`train.jsonl`, not also
`train_references.jsonl`); a path may be a glob; a malformed, damaged, empty or inconsistent file is reported by file
and line instead of an Arrow trace; an unknown split or column lists the ones that are there; what lies in the Hugging
Face cache is found without a network.
"""

import glob
import json
import warnings
from pathlib import Path

from hflm.core import BUILDER_BY_SUFFIX, FILE_KINDS, DataError, expand_path, fingerprint_checksums, fingerprint_files
from hflm.data import files as folders
from hflm.data import hub_cache as snapshot
from hflm.data import readers as rows
from hflm.data import splits, toy
from hflm.data.files import split_files

READ_WHOLE = ("parquet", "arrow")  # kinds that datasets cannot read through a decompressor
MOST_ROWS_SHOWN = 10
# Arguments of load_dataset that say how to read, not what.
READING = ("split", "streaming", "num_proc", "keep_in_memory", "verification_mode", "save_infos")


def load(data, split="train"):
    """The rows of one split: a `datasets.Dataset`, or an `IterableDataset` with `streaming: true`.

    `data` is a recipe's Data (path, options); `split` may be a slice such as `train[:2000]`, or `train+validation`.
    Raises DataError: no such folder, file or Hub id; no such split; a file that cannot be parsed.
    """
    import datasets

    _quiet()
    split = data.options.get("split", split)
    loaded = [_toy(data, part) if data.path == "toy" else _part(data, part) for part in splits.parts(split)]
    if len(loaded) == 1:
        return loaded[0]
    try:
        return datasets.concatenate_datasets(loaded)
    except ValueError as error:
        raise DataError(f"{data.path}: {split} do not have the same columns: {rows.reason(error)}") from error


def _part(data, part):
    import datasets

    options = {key: value for key, value in data.options.items() if key != "split"}
    path, options, files = _located(data.path, options, part)
    for file in files:
        _check(file, options)
    try:
        return datasets.load_dataset(path, split=part, **options)
    except (Exception, StopIteration) as error:
        raise _explained(error, data, part, files) from error


def files(data, split):
    """(BuilderConfig, [path or URL]): how datasets would read a split without slices, and from where; for
    hflm.data.readers.

    A data set of the Hub is brought into the cache first, except with `streaming: true` where a network is there.
    Raises DataError as `load` does.
    """
    import datasets

    _quiet()
    options = {key: value for key, value in data.options.items() if key not in READING}
    if of_hub(data) and not data.options.get("streaming") and snapshot.reachable(data.path, options.get("revision")):
        folder, _ = snapshot.fetch(data.path, options)
        path, options, found = str(folder), {**options, "revision": None}, []
    else:
        path, options, found = _located(data.path, options, split)
    try:
        config = datasets.load_dataset_builder(path, **options).config
    except (Exception, StopIteration) as error:
        raise _explained(error, data, split, found) from error
    named = config.data_files or {}
    if split not in named:
        raise DataError(f"{data.path}: no split '{split}'; it has: {', '.join(map(str, named)) or 'no files'}")
    return config, [str(file) for file in named[split]]


def where(data, split):
    """How a data set is named in messages: 'stanfordnlp/sst2 [train]', 'reviews/train.jsonl', 'toy qa [test]'."""
    split = data.options.get("split", split)
    one = len(splits.parts(split)) == 1
    files = split_files(Path(data.path), splits.name(split)) if one and Path(data.path).is_dir() else []
    if len(files) == 1 and "data_files" not in data.options:
        return str(files[0])
    if Path(data.path).is_file():
        return data.path
    return " ".join(filter(None, [data.path, data.options.get("name"), f"[{split}]"]))


def fingerprint(data):
    """'sha256:...' of everything `data` reads: the files' bytes, the toy world's version, or the Hub id and revision.

    A Hub id without `revision` is identified by its name alone, since its content cannot be known without a network.
    """
    if data.path == "toy":
        return fingerprint_checksums([("toy.py", toy.VERSION)], [data.options])
    files = all_files(data)
    return fingerprint_files(files, [data.options] if files else [data.path, data.options])


def _quiet():
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs a traceback of what we tell in one line


def _toy(data, part):
    import datasets

    name, *bounds = splits.bounds(part)
    options = {key: value for key, value in data.options.items() if key not in ("name", "split", "streaming")}
    found = toy.rows(data.options.get("name", "stories"), name, **options)
    found = found[slice(*(splits.row(bound, len(found)) for bound in bounds))]
    dataset = datasets.Dataset.from_list(found)
    return dataset.to_iterable_dataset() if data.options.get("streaming") else dataset


def _local(path, options, split):
    """(path, options, files) for load_dataset: a local folder, file or glob becomes a builder and its files."""
    place = expand_path(path)
    if "data_files" in options or "data_dir" in options:
        if not place.exists() and path not in FILE_KINDS and not snapshot.is_hub_id(path):
            raise DataError(f"data.path: no file or folder '{path}'")
        return path, options, []
    matched = [] if place.exists() else folders.matches(path)
    if not place.exists() and not matched:
        if glob.has_magic(path):
            raise DataError(f"data.path: no file matches '{path}'")
        if path not in FILE_KINDS and not snapshot.is_hub_id(path):
            raise DataError(f"data.path: no file or folder '{path}'")
        return path, options, []
    name = options.get("name")
    if place.is_dir() and name is not None:
        if (place / name).is_dir():
            place, options = place / name, {key: value for key, value in options.items() if key != "name"}
        elif not (place / "README.md").is_file() or "config_name" not in (place / "README.md").read_text("utf-8"):
            options = {key: value for key, value in options.items() if key != "name"}
            warnings.warn(
                f"data.name: {name} is ignored, {path} is a local folder without that sub-folder", stacklevel=3
            )
    if matched or place.is_file():
        named = f"'{path}'" if matched else path
        if splits.name(split) != "train":
            raise DataError(
                f"{named} is {'a pattern' if matched else 'one file'}, so it has only the split 'train', not '{split}'. "
                "Name a folder with one file a split, or data_files: {train: ..., test: ...} with path: json (or csv, "
                "text, parquet, arrow)"
            )
        files = matched or [place]
        unknown = [file for file in files if folders.kind(file) is None]
        if unknown:
            raise DataError(f"{unknown[0]}: not a kind of file that can be read; known: {', '.join(BUILDER_BY_SUFFIX)}")
    else:
        files = split_files(place, splits.name(split))
        if not files:
            folders.check_guessed(place, splits.name(split))
            return str(place), options, []
    folders.check_kinds(path, splits.name(split), files)
    builder = folders.kind(files[0])
    if ".tsv" in files[0].suffixes:
        options = {"sep": "\t", **options}
    return builder, {**options, "data_files": {splits.name(split): [str(file) for file in files]}}, files


def check_local(data):
    """Raises DataError where the files of data on this machine are not there, or lie behind an address of the web."""
    named = json.dumps([data.path, data.options.get("data_files"), data.options.get("data_dir")])
    if "://" in named:
        raise DataError("an address of the web cannot be fetched ahead. Download it and name the file")
    if all(file.name in snapshot.BESIDE for file in all_files(data)):
        raise DataError(f"no file or folder '{data.options.get('data_files') or data.path}' with data in it")


def of_hub(data):
    """Whether the data lie on the Hub, under the name `data.path`."""
    return data.path not in ("toy", *FILE_KINDS) and snapshot.is_hub_id(data.path)


def _located(path, options, split):
    """(path, options, local files) for load_dataset.

    A data set of the Hub is named with its commit; without a network it is its folder in the cache, as `hflm fetch` or
    an earlier run left it.
    """
    if path in FILE_KINDS or not snapshot.is_hub_id(path):
        return _local(path, options, split)
    revision = options.get("revision")
    if snapshot.reachable(path, revision):
        return path, {**options, "revision": snapshot.commit(path, revision)}, []
    folder = snapshot.cached(path, revision)
    return (str(folder), {**options, "revision": None}, []) if folder else (path, options, [])


def _check(file, options):
    """What datasets would find late, without saying where, or not at all. Raises DataError."""
    if folders.kind(file) in READ_WHOLE:
        if file.suffix in rows.COMPRESSED:
            raise DataError(f"{file}: a task's {folders.kind(file)} file is compressed inside. Decompress it")
        if not file.stat().st_size:
            raise DataError(f"{file} is empty")
    else:
        rows.check(file, "utf-8" if options.get("encoding") in (None, "utf-8") else None)


def all_files(data):
    """Every local file that `data` may read, with what else lies in its folder, sorted; none for a Hub id."""
    named, folder = data.options.get("data_files") or [], data.options.get("data_dir") or ""
    if data.path not in FILE_KINDS or not (named or folder):
        place = expand_path(data.path)
        if place.is_file():
            return [place]
        if place.is_dir():
            return folders.contents(place)
        if matched := folders.matches(data.path):
            return matched
    elif not named:
        return folders.contents(expand_path(folder))
    flat = named.values() if isinstance(named, dict) else [named] if isinstance(named, str) else named
    flat = [each["path"] if isinstance(each, dict) else each for each in flat]  # [{split: train, path: a.jsonl}]
    patterns = [pattern for entry in flat for pattern in ([entry] if isinstance(entry, str) else entry)]
    return sorted(file for pattern in patterns for file in folders.matches(Path(folder) / pattern))


def _explained(error, data, split, files):
    """A DataError for whatever load_dataset raised."""
    import datasets

    files = files or [file for file in all_files(data) if folders.kind(file)]
    for file in files:
        try:
            _check(file, data.options)
        except DataError as found:
            return found
    bad = [str(line) for file in files if ".jsonl" in file.suffixes for line in rows.bad_lines(file)]
    if bad:
        shown = "\n".join(bad[:MOST_ROWS_SHOWN])
        more = f"\n... and {len(bad) - MOST_ROWS_SHOWN} more" if len(bad) > MOST_ROWS_SHOWN else ""
        return DataError(f"{data.path}: rows that cannot be read:\n{shown}{more}")
    cause = " ".join(str(error.__cause__ or error).split())
    place = expand_path(data.path)
    if isinstance(error, (ConnectionError, datasets.exceptions.DatasetNotFoundError)) or "offline" in cause.lower():
        return DataError(
            f"data.path: '{data.path}' is no local file or folder, and the Hub gave no data set of that name "
            "(no network, or a wrong name). `hflm fetch RECIPE` brings it where there is a network; a local copy is "
            "used with --set ...data.path=FOLDER"
        )
    if place.is_dir():
        listed = ", ".join(sorted(file.name for file in place.iterdir())[:20]) or "nothing"
        return DataError(f"{data.path}: no split '{split}'; the folder holds {listed}. ({cause[:300]})")
    return DataError(f"{where(data, split)}: {cause[:500]}")
