"""A recipe's data, looked up once: local or on the Hub, its files by split, its name in messages, its fingerprint."""

import glob
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hflm.core import FILE_KINDS, DataError, expand_path, fingerprint_checksums, fingerprint_files
from hflm.data import hub_cache, splits, toy
from hflm.data.files import (
    FolderSplits,
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
# Options of load_dataset that say which files.
LOCATING_OPTIONS = ("name", "data_dir", "data_files")
# Options of load_dataset that no reader of a file knows.
LOADING_OPTIONS = (
    *READING_OPTIONS,
    *LOCATING_OPTIONS,
    *("revision", "cache_dir", "download_mode", "storage_options", "columns"),
    *("on_bad_files", "config_name", "default", "version", "description", "drop_labels", "batch_size"),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class SplitFiles:
    """The files or URLs of one split, and how each is read."""

    files: tuple[str, ...]
    options: FileOptions


@dataclass(frozen=True)
class ResolvedData:
    """A data set of a recipe, looked up once: whatever reads it takes its files from here.

    `files` are the local files that it may read, with what else its folder holds, sorted; a Hub id and the toy world
    have none. `splits` divides a folder by the names of its files. `named` has by split each pattern of `data_files`,
    with the files or URLs that it matches. `card_options` are how the folder's card says to read them; the recipe's
    options go before those. `kind` is the kind of file that the recipe states.
    """

    source: Data
    place: Path
    is_hub: bool = False
    files: tuple[Path, ...] = ()
    splits: FolderSplits | None = None
    named: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]] | None = None
    card_options: Mapping[str, Any] = field(default_factory=dict)
    kind: str | None = None

    @cached_property
    def content(self) -> str | None:
        """'sha256:...' of the files' bytes, or of the toy world's version; None for the Hub. Computed when first asked."""
        return self._checksum([]) if self.files or self.source.path == "toy" else None

    @cached_property
    def fingerprint(self) -> str:
        """'sha256:...' of content and options, or of the Hub id and options.

        A Hub id without `revision` is identified by its name alone, since its content cannot be known without a network.
        """
        options = self.source.options
        return self._checksum([self.source.path, options] if self.content is None else [options])

    def _checksum(self, extra: list[Any]) -> str:
        if self.source.path == "toy":
            return fingerprint_checksums([("toy.py", toy.VERSION)], extra)
        return fingerprint_files(self.files, extra)


def resolve_data(data: Data) -> ResolvedData:
    """Look up the files of `data`, once for all that reads them.

    Raises DataError: no such home folder, no such configuration. A missing file or split is found by `local_split`.
    """
    place, named, inner = expand_path(data.path), data.options.get("data_files"), data.options.get("data_dir")
    if data.path == "toy":
        return ResolvedData(data, place)
    if data.path in FILE_KINDS and named:
        matches = _match_named(Path(inner or ""), named)
        local = {Path(file) for split in matches.values() for _, files in split for file in files if _is_local(file)}
        return ResolvedData(data, place, files=tuple(sorted(local)), named=matches, kind=data.path)
    if data.path in FILE_KINDS and inner:
        folder = expand_path(inner)
        files = tuple(folder_files(folder))
        return ResolvedData(data, folder, files=files, splits=folder_splits(folder, files), kind=data.path)
    if place.is_dir():
        return _resolve_folder(data, place)
    is_hub = data.path not in FILE_KINDS and hub_cache.is_repository_name(data.path) and not place.exists()
    return ResolvedData(data, place, is_hub, tuple(match_files(place)))


def resolve_all(sources: Mapping[str, Data]) -> dict[str, ResolvedData]:
    """Resolve the data of a recipe; sources that differ in split, weight or column only are looked up once."""
    found: dict[str, ResolvedData] = {}
    resolved = {}
    for key, source in sources.items():
        place = json.dumps([source.path, *(source.options.get(name) for name in LOCATING_OPTIONS)])
        found[place] = replace(found[place], source=source) if place in found else resolve_data(source)
        resolved[key] = found[place]
    return resolved


def local_split(data: ResolvedData, split: str) -> SplitFiles:
    """The local files (or named URLs) of a split without slices. Raises DataError: no such folder, file or split."""
    if data.named is not None:
        files = _named_files(data.named, split)
    elif data.splits is not None:
        files = _folder_files(data, data.splits, split)
    else:
        files = _single_files(data, split)
    kind = data.kind or check_kinds(data.source.path, split, files)
    archives = [file for file in files if Path(file).suffix.lower() in ARCHIVES]
    if archives:
        raise DataError(f"{archives[0]} is an archive. Unpack it and name the folder or the files")
    options = {**data.card_options, **data.source.options}
    reading = {key: value for key, value in options.items() if key not in LOADING_OPTIONS}
    if kind == "csv" and not {"sep", "delimiter"} & reading.keys() and ".tsv" in Path(files[0]).suffixes:
        reading["sep"] = "\t"
    return SplitFiles(tuple(files), make_options(kind, reading))


def describe_source(data: ResolvedData, split: str) -> str:
    """How a data set is named in messages: 'stanfordnlp/sst2 [train]', 'reviews/train.jsonl', 'toy qa [test]'."""
    source, split = data.source, data.source.options.get("split", split)
    if data.files == (data.place,):
        return source.path
    parts = splits.split_parts(split)
    if len(parts) == 1 and data.splits is not None:
        files = data.splits.splits.get(splits.split_name(split), ())
        if len(files) == 1:
            return str(files[0])
    return " ".join(filter(None, [source.path, source.options.get("name"), f"[{split}]"]))


def check_local(data: ResolvedData) -> None:
    """Raises DataError where files of `data` are missing on this machine, or behind an address of the web."""
    path, options = data.source.path, data.source.options
    if "://" in json.dumps([path, options.get("data_files"), options.get("data_dir")]):
        raise DataError("an address of the web cannot be fetched ahead. Download it and name the file")
    if all(file.name in hub_cache.METADATA_FILES for file in data.files):
        raise DataError(f"no file or folder '{options.get('data_files') or path}' with data in it")


def _resolve_folder(data: Data, place: Path) -> ResolvedData:
    folder, configs, name = place, card_configs(place), data.options.get("name")
    if name is not None and (folder / name).is_dir():
        folder, configs = folder / name, card_configs(folder / name)
    elif name is not None and not configs:
        warnings.warn(
            f"data.name: {name} is ignored, {data.path} is a local folder without that sub-folder", stacklevel=5
        )
    named, inner, card_options = data.options.get("data_files"), data.options.get("data_dir"), {}
    if configs and not named and not inner:
        card_options = _chosen_config(data.path, configs, name)
        named, inner = card_options.get("data_files"), card_options.get("data_dir")
    folder, files = folder / (inner or ""), tuple(folder_files(place))
    if named:
        return ResolvedData(data, place, files=files, named=_match_named(folder, named), card_options=card_options)
    splits = folder_splits(folder, files if folder == place else folder_files(folder))
    return ResolvedData(data, place, files=files, splits=splits, card_options=card_options)


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


def _match_named(folder: Path, named: Any) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """By split, each pattern of `data_files` and the files that it matches in `folder`; URLs stay as they are."""
    return {
        split: [(os.path.join(folder, pattern), _matches(folder, pattern)) for pattern in patterns]
        for split, patterns in _by_split(named).items()
    }


def _matches(folder: Path, pattern: str) -> tuple[str, ...]:
    return tuple(map(str, match_files(expand_path(folder / pattern)))) if _is_local(pattern) else (pattern,)


def _is_local(file: str) -> bool:
    return "://" not in file


def _named_files(named: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]], split: str) -> list[str]:
    """The files of a split that `data_files` names."""
    if split not in named:
        raise DataError(f"data_files: no split '{split}'; it names: {', '.join(named)}")
    for pattern, files in named[split]:
        if not files:
            raise DataError(f"data_files: no file matches '{pattern}'")
    return list(dict.fromkeys(file for _, files in named[split] for file in files))


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


def _folder_files(data: ResolvedData, splits: FolderSplits, split: str) -> list[str]:
    """The files of a split in a folder: all of the kind that the recipe states, if it does."""
    if not splits.folder.is_dir():
        raise DataError(f"data_dir: no folder '{splits.folder}'")
    files = split_of_folder(splits, split)
    other = [file for file in files if data.kind and check_kinds(splits.folder, split, [file]) != data.kind]
    if other:
        raise DataError(
            f"data_dir: {splits.folder} holds {list_names(other)} besides files of {data.kind}. Name the files: data_files"
        )
    return [str(file) for file in files]


def _single_files(data: ResolvedData, split: str) -> list[str]:
    """The file, or the files of a pattern, that `path` names: all of them are the split 'train'."""
    path = data.source.path
    if path in FILE_KINDS:
        raise DataError(
            f"data.path: '{path}' is a kind of file, and no folder of that name is here. Name the files as well: "
            "data_files or data_dir"
        )
    if not data.files:
        pattern = glob.has_magic(path)
        raise DataError(f"data.path: {'no file matches' if pattern else 'no file or folder'} '{path}'")
    if split != "train":
        named_as = f"{path} is one file" if data.files == (data.place,) else f"'{path}' is a pattern"
        raise DataError(
            f"{named_as}, so it has only the split 'train', not '{split}'. Name a folder with one file a split, or "
            "data_files: {train: ..., test: ...} with path: json (or csv, text, parquet, arrow)"
        )
    return [str(file) for file in data.files]
