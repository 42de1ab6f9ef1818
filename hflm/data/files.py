"""Files on this machine: of what kind each is, what a pattern matches, which of a folder are a split's."""

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hflm.core import BUILDER_BY_SUFFIX, DataError, logger
from hflm.data.hub_cache import METADATA_FILES
from hflm.data.readers.base import COMPRESSED

# A split's names, as datasets knows them.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_NO_DATA = re.compile(r"(?i)(readme|licen[sc]e)\b")
# Of a folder that Dataset.save_to_disk wrote, next to its arrow files.
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")
MOST_NAMES_SHOWN = 10


@dataclass(frozen=True)
class FolderSplits:
    """The data files of a folder by split, and those that belong to none."""

    folder: Path
    splits: Mapping[str, tuple[Path, ...]]
    left_out: tuple[Path, ...]


def file_kind(file: str | Path) -> str | None:
    """'a/train.jsonl.gz' -> 'json'; None for a file of no known kind."""
    suffixes = [suffix.lower() for suffix in Path(file).suffixes if suffix.lower() not in COMPRESSED]
    return BUILDER_BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def match_files(place: Path) -> list[Path]:
    """The files that a path or pattern, with its home expanded, names, sorted.

    Whatever exists is literal, so that brackets and stars in names of files and folders are no pattern.
    """
    if place.is_file():
        return [place]
    parts, root, number = place.parts, Path(), 0
    for number, part in enumerate(parts):
        if not (root / part).exists():
            break
        root /= part
    else:
        return []
    pattern = os.path.join(*parts[number:])
    found = glob.glob(pattern, root_dir=root, recursive=True)
    return sorted(root / name for name in found if (root / name).is_file())


def folder_files(folder: Path) -> list[Path]:
    """All files in a folder and the folders in it, sorted, without hidden ones."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(folder).parts))


def folder_splits(folder: Path, files: Sequence[Path]) -> FolderSplits:
    """The splits of a folder, of which `files` are all files: the files whose name is a split's, or that are in a folder of such a name.

    `train.jsonl`, `dev.csv.gz`, `train-00000-of-00003.parquet`, `test_1.txt` and `validation/a.txt` are splits;
    `the-night-train.txt` is none. A folder without any is the split `train`, all of it. Files right in the folder go
    before those of inner folders.
    """
    files = [
        file
        for file in files
        if file_kind(file) and not _NO_DATA.match(file.name) and file.name not in (*METADATA_FILES, *_SAVED)
    ]
    own = [file for file in files if file.parent == folder]
    for group in (own, files):
        named = {file: split for file in group if (split := _named_split(file.relative_to(folder)))}
        if named:
            splits: dict[str, tuple[Path, ...]] = {}
            for file, split in named.items():
                splits[split] = (*splits.get(split, ()), file)
            return FolderSplits(folder, splits, tuple(file for file in group if file not in named))
    return FolderSplits(folder, {"train": tuple(files)} if files else {}, ())


def split_of_folder(found: FolderSplits, split: str) -> list[Path]:
    """The files of one split of a folder; files of no split are named once. Raises DataError without any."""
    folder = found.folder
    files = list(found.splits.get(_SPLIT_OF.get(split, split), ()))
    if not files:  # a split of any other name, such as holdout.jsonl
        files = [file for file in found.left_out or found.splits.get("train", ()) if _stem(file.name) == split]
    if not files:
        has = "; ".join(f"'{name}' ({list_names(files)})" for name, files in found.splits.items())
        others = f". Of no split: {list_names(found.left_out)}" if found.left_out else ""
        everything = list_names(sorted(folder.iterdir())) or "nothing"
        detail = f"its splits are {has}{others}" if has else f"the folder holds {everything}, no data"
        raise DataError(f"{folder}: no split '{split}'; {detail}")
    if left_out := [file for file in found.left_out if file not in files]:
        _report_left_out(folder, tuple(left_out))
    return files


def check_kinds(path: str | Path, split: str, files: Sequence[str | Path]) -> str:
    """The one kind of some files. Raises DataError for an unknown kind, and for several."""
    kinds = {file: file_kind(file) for file in files}
    unknown = [file for file, kind in kinds.items() if kind is None]
    if unknown:
        raise DataError(f"{unknown[0]}: not a kind of file that can be read; known: {', '.join(BUILDER_BY_SUFFIX)}")
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"{path}: the split '{split}' has files of several kinds: {list_names(files)}. Keep one kind there, or name "
            "its files: path: json (or csv, text, parquet, arrow) with data_files"
        )
    return str(kinds[files[0]])


def card_configs(folder: Path) -> list[dict[str, Any]]:
    """The `configs` in the front matter of a folder's README.md: which files are which split's."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    if not card.is_file():
        return []
    try:
        stated = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError):  # the Hub would not read it either
        return []
    configs = stated.get("configs") if isinstance(stated, dict) else None
    return [each for each in configs if isinstance(each, dict)] if isinstance(configs, list) else []


def list_names(files: Iterable[str | Path]) -> str:
    """'a.txt, b.txt, ... (12 in all)'."""
    names = [Path(file).name for file in files]
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMES_SHOWN else ""
    return ", ".join(names[:MOST_NAMES_SHOWN]) + more


def _named_split(file: Path) -> str | None:
    """The split that a file's name, or the name of a folder it is in, is; None for any other name."""
    for name in (_stem(file.name), *reversed(file.parts[:-1])):
        if name.lower() in _SPLIT_OF:
            return _SPLIT_OF[name.lower()]
    return None


def _stem(name: str) -> str:
    """A file's name without its kind and the number of a shard, which may have the hash that datasets adds.

    'train-00000-of-00003-a1b2c3.parquet', 'train_1.jsonl.gz', 'train.csv' -> 'train'; 'train.de.txt' -> 'train.de'
    """
    suffixes = (*BUILDER_BY_SUFFIX, *COMPRESSED)
    while name.lower().endswith(suffixes):
        name = name.rsplit(".", 1)[0]
    return re.sub(r"[-_.]?\d+(-of-\d+(-[0-9a-f]+)?)?$", "", name)


@cache
def _report_left_out(folder: Path, files: tuple[Path, ...]) -> None:
    logger.warning("%s: not read, since their names are no split's: %s", folder, list_names(files))
