"""Files on this machine: of what kind each is, which of a folder are a split's, what a pattern matches."""

import glob
import re
from pathlib import Path

from hflm.core import BUILDER_BY_SUFFIX, DataError, expand_path
from hflm.data import readers as rows

ALIASES = {"validation": ("validation", "valid", "val", "dev")}


def kind(file):
    """'a/train.jsonl.gz' -> 'json'; None for a file of no known kind."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in rows.COMPRESSED]
    return BUILDER_BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def matches(pattern):
    """The files that a pattern matches, sorted; a path without any wildcard matches itself."""
    return sorted(Path(file) for file in glob.iglob(str(expand_path(pattern)), recursive=True) if Path(file).is_file())


def contents(folder):
    """All files in a folder and the folders in it, sorted, without hidden ones."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(folder).parts))


def split_files(folder, name):
    """The files of one split: `train.jsonl`, `train.csv.gz`, `train-00000-of-00003.parquet`."""
    names = ALIASES.get(name, (name,))
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and kind(file) and re.split(r"-\d|\.", file.name)[0] in names
    )


def check_guessed(folder, name):
    """Raises DataError for a folder without `split_files` of which datasets would read the most frequent kind alone."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    card = folder / "README.md"
    if card.is_file() and re.search(r"(?m)^configs:", card.read_text("utf-8", "replace")):
        return  # the card says which files are read
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(str(folder.resolve())), base_path=str(folder.resolve()))
    except FileNotFoundError:  # no files; datasets says so
        return
    files = [Path(file) for file in found.get(name, ()) if not re.match(r"(?i)(readme|licen[sc]e)\b", Path(file).name)]
    check_kinds(folder, name, [file for file in files if kind(file)])


def check_kinds(path, name, files):
    if len({kind(file) for file in files}) > 1:
        listed = ", ".join(file.name for file in files[:10])
        raise DataError(
            f"{path}: the split '{name}' has files of several kinds: {listed}. Keep one kind there, or name its files: "
            "path: json (or csv, text, parquet, arrow) with data_files"
        )
