"""A recipe's data: whether it is local or on the Hub, its files, its name in messages, its fingerprint."""

import glob
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hflm.core import FILE_KINDS, DataError, expand_path, fingerprint_checksums, fingerprint_files
from hflm.data import hub_cache, splits, toy
from hflm.data.files import (
    card_configs,
    check_kinds,
    folder_files,
    folder_splits,
    list_names,
    match_files,
    split_of_folder,
)
from hflm.data.readers import FileOptions, make_options
from hflm.recipe import Data

# Options of load_dataset that say how to read, not what.
READING_OPTIONS = ("split", "streaming", "num_proc", "keep_in_memory", "verification_mode", "save_infos")
# Options of load_dataset that no reader of a file knows.
LOADING_OPTIONS = (
    *READING_OPTIONS,
    *("name", "data_dir", "data_files", "revision", "cache_dir", "download_mode", "storage_options", "columns"),
    *("on_bad_files", "config_name", "default", "version", "description", "drop_labels", "batch_size"),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class SplitFiles:
    """The files or URLs of one split, and how each is read."""

    files: tuple[str, ...]
    options: FileOptions


def is_hub_source(data: Data) -> bool:
    """Whether the data are on the Hub, under the name `data.path`."""
    return data.path not in ("toy", *FILE_KINDS) and hub_cache.is_hub_id(data.path)


def local_split(data: Data, split: str) -> SplitFiles:
    """The local files (or named URLs) of a split without slices. Raises DataError: no such folder, file or split."""
    options = data.options
    place, named, inner = expand_path(data.path), options.get("data_files"), options.get("data_dir")
    if data.path in FILE_KINDS and (named or inner):
        files = (
            _named_files(Path(inner or ""), named, split) if named else _of_kind(Path(inner or ""), split, data.path)
        )
        return _split_files(data.path, files, options)
    if place.is_dir():
        return _folder_split(data.path, place, options, split)
    if data.path in FILE_KINDS:
        raise DataError(
            f"data.path: '{data.path}' is a kind of file, and no folder of that name is here. Name the files as well: "
            "data_files or data_dir"
        )
    files = [str(file) for file in match_files(data.path)]
    if not files:
        pattern = glob.has_magic(data.path)
        raise DataError(f"data.path: {'no file matches' if pattern else 'no file or folder'} '{data.path}'")
    if split != "train":
        named_as = f"{data.path} is one file" if place.is_file() else f"'{data.path}' is a pattern"
        raise DataError(
            f"{named_as}, so it has only the split 'train', not '{split}'. Name a folder with one file a split, or "
            "data_files: {train: ..., test: ...} with path: json (or csv, text, parquet, arrow)"
        )
    return _split_files(check_kinds(data.path, split, files), files, options)


def describe_source(data: Data, split: str) -> str:
    """How a data set is named in messages: 'stanfordnlp/sst2 [train]', 'reviews/train.jsonl', 'toy qa [test]'."""
    split = data.options.get("split", split)
    parts, place = splits.split_parts(split), Path(data.path)
    if len(parts) == 1 and place.is_dir() and "data_files" not in data.options:
        name = splits.split_name(split)
        files = next((files for key, files in folder_splits(place).splits.items() if key == name), ())
        if len(files) == 1:
            return str(files[0])
    if place.is_file():
        return data.path
    return " ".join(filter(None, [data.path, data.options.get("name"), f"[{split}]"]))


def data_fingerprint(data: Data) -> str:
    """'sha256:...' of everything `data` reads: the files' bytes, the toy world's version, or the Hub id and revision.

    A Hub id without `revision` is identified by its name alone, since its content cannot be known without a network.
    """
    if data.path == "toy":
        return fingerprint_checksums([("toy.py", toy.VERSION)], [data.options])
    files = source_files(data)
    return fingerprint_files(files, [data.options] if files else [data.path, data.options])


def source_files(data: Data) -> list[Path]:
    """Every local file that `data` may read, with what else its folder holds, sorted; none for a Hub id."""
    named, folder = data.options.get("data_files") or [], data.options.get("data_dir") or ""
    if data.path not in FILE_KINDS or not (named or folder):
        place = expand_path(data.path)
        return folder_files(place) if place.is_dir() else match_files(data.path)
    if not named:
        return folder_files(expand_path(folder))
    patterns = [pattern for each in _by_split(named).values() for pattern in each]
    return sorted({file for pattern in patterns for file in match_files(Path(folder) / pattern)})


def check_local(data: Data) -> None:
    """Raises DataError where files of `data` are missing on this machine, or behind an address of the web."""
    named = json.dumps([data.path, data.options.get("data_files"), data.options.get("data_dir")])
    if "://" in named:
        raise DataError("an address of the web cannot be fetched ahead. Download it and name the file")
    if all(file.name in hub_cache.METADATA_FILES for file in source_files(data)):
        raise DataError(f"no file or folder '{data.options.get('data_files') or data.path}' with data in it")


def _folder_split(path: str, folder: Path, options: Mapping[str, Any], split: str) -> SplitFiles:
    configs, name = card_configs(folder), options.get("name")
    if name is not None and (folder / name).is_dir():
        folder, configs = folder / name, card_configs(folder / name)
    elif name is not None and not configs:
        warnings.warn(f"data.name: {name} is ignored, {path} is a local folder without that sub-folder", stacklevel=5)
    named, inner = options.get("data_files"), options.get("data_dir")
    if configs and not named and not inner:
        config = _chosen_config(path, configs, name)
        named, inner = config.get("data_files"), config.get("data_dir")
        options = {**{key: value for key, value in config.items() if key not in LOADING_OPTIONS}, **options}
    folder = folder / (inner or "")
    files = _named_files(folder, named, split) if named else [str(file) for file in split_of_folder(folder, split)]
    return _split_files(check_kinds(path, split, files), files, options)


def _chosen_config(path: str, configs: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    names = [str(config.get("config_name", "default")) for config in configs]
    wanted = name or next((str(each["config_name"]) for each in configs if each.get("default")), None)
    if wanted is None:
        wanted = names[0] if len(names) == 1 else "default"
    if wanted not in names:
        raise DataError(
            f"{path}: its README.md names the configurations {', '.join(names)}. Set data.name to one of them"
        )
    return configs[names.index(wanted)]


def _named_files(folder: Path, named: Any, split: str) -> list[str]:
    """The files of a split that `data_files` names, relative to `folder`; URLs stay as they are."""
    patterns = _by_split(named)
    if split not in patterns:
        raise DataError(f"data_files: no split '{split}'; it names: {', '.join(patterns)}")
    files: list[str] = []
    for pattern in patterns[split]:
        found = [pattern] if "://" in pattern else [str(file) for file in match_files(folder / pattern)]
        if not found:
            raise DataError(f"data_files: no file matches '{os.path.join(folder, pattern)}'")
        files += found
    return list(dict.fromkeys(files))


def _by_split(named: Any) -> dict[str, list[str]]:
    """`data_files` in any of the forms that datasets takes -> {split: [patterns]}.

    >>> _by_split("a.csv"), _by_split([{"split": "test", "path": ["b.csv"]}])
    ({'train': ['a.csv']}, {'test': ['b.csv']})
    """
    if isinstance(named, dict):
        return {str(split): [each] if isinstance(each, str) else list(each) for split, each in named.items()}
    if isinstance(named, list) and named and isinstance(named[0], dict):
        return _by_split({each.get("split", "train"): each["path"] for each in named})
    return {"train": [named] if isinstance(named, str) else list(named)}


def _of_kind(folder: Path, split: str, kind: str) -> list[str]:
    """The files of a split in a folder of files of one kind."""
    folder = expand_path(folder)
    if not folder.is_dir():
        raise DataError(f"data_dir: no folder '{folder}'")
    files = split_of_folder(folder, split)
    other = [file for file in files if check_kinds(folder, split, [file]) != kind]
    if other:
        raise DataError(
            f"data_dir: {folder} holds {list_names(other)} besides files of {kind}. Name the files: data_files"
        )
    return [str(file) for file in files]


def _split_files(kind: str, files: list[str], options: Mapping[str, Any]) -> SplitFiles:
    archives = [file for file in files if Path(file).suffix.lower() in ARCHIVES]
    if archives:
        raise DataError(f"{archives[0]} is an archive. Unpack it and name the folder or the files")
    reading = {key: value for key, value in options.items() if key not in LOADING_OPTIONS}
    if kind == "csv" and not {"sep", "delimiter"} & reading.keys() and ".tsv" in Path(files[0]).suffixes:
        reading["sep"] = "\t"
    return SplitFiles(tuple(files), make_options(kind, reading))
