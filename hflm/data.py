"""Load what a recipe's `data:` names, as `datasets.load_dataset` would, with its rough edges mended.

Mended here: a local folder's split is read from the files of that split alone (`train.jsonl`, not also
`train_references.jsonl`); a malformed, empty or inconsistent file is reported by file and line instead of an Arrow
trace; an unknown split or column lists the ones that are there.
"""

import codecs
import hashlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from hflm import toy
from hflm.errors import DataError

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
ALIASES = {"validation": ("validation", "valid", "val", "dev")}
MOST_ROWS_SHOWN = 10


def load(data, split="train"):
    """The rows of one split: a `datasets.Dataset`, or an `IterableDataset` with `streaming: true`.

    `data` is a recipe's Data (path, options); `split` may be a slice such as `train[:2000]`.
    Raises DataError: no such folder, file or Hub id; no such split; a file that cannot be parsed.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs a traceback of what we tell in one line
    split = data.options.get("split", split)
    if data.path == "toy":
        return _toy(data, split)
    options = {key: value for key, value in data.options.items() if key != "split"}
    path, options, files = _local(data.path, options, split)
    try:
        return datasets.load_dataset(path, split=split, **options)
    except (Exception, StopIteration) as error:
        raise _explained(error, data, split, files) from error


def where(data, split):
    """How a data set is named in messages: 'stanfordnlp/sst2 [train]', 'reviews/train.jsonl', 'toy qa [test]'."""
    split = data.options.get("split", split)
    name = split_name(split)
    files = _split_files(Path(data.path), name) if Path(data.path).is_dir() else []
    if len(files) == 1 and "data_files" not in data.options:
        return str(files[0])
    if Path(data.path).is_file():
        return data.path
    return " ".join(filter(None, [data.path, data.options.get("name"), f"[{split}]"]))


def fingerprint(data):
    """'sha256:...' of everything `data` reads: the files' bytes, the toy world's source, or the Hub id and revision.

    A Hub id without `revision` is identified by its name alone, since its content cannot be known without a network.
    """
    if data.path == "toy":
        files = [Path(toy.__file__)]
    else:
        files = _all_files(data)
    return files_fingerprint(files, [data.options] if files else [data.path, data.options])


def files_fingerprint(files, beside=()):
    """'sha256:...' of the files' names and bytes, wherever they lie, and of `beside`, a JSON value."""
    digest = hashlib.sha256(json.dumps(beside, sort_keys=True).encode())
    for file in files:
        with open(file, "rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
    return f"sha256:{digest.hexdigest()}"


def texts(dataset, column, rows, where):
    """Yield the documents of a text data set, as strings.

    `rows: documents` gives each non-empty row; `rows: lines` gives the rows as one running text, in pieces of about
    64 kB that end at line ends, so that `"".join(...)` is the text with every row closed by one newline.
    Raises DataError for a column that is not there or a row that is no text.
    """
    if dataset.column_names is not None and column not in dataset.column_names:
        raise DataError(f"{where}: no column '{column}'; it has: {', '.join(dataset.column_names)}")
    piece, size = [], 0
    for number, row in enumerate(dataset, 1):
        text = row.get(column)
        if not isinstance(text, str):
            raise DataError(f"{where}, row {number}: column '{column}' holds {text!r}, not text")
        if rows == "documents":
            if text.strip():
                yield text
            continue
        piece.append(text.removesuffix("\n") + "\n")
        size += len(text)
        if size > 1 << 16:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def corpus(sources, column, rows, seed):
    """Documents of all `sources` (a tuple of Data), mixed by their weights: a list of strings, or a stream of them.

    Without weights the sources follow each other; with weights each next document comes from a source drawn in
    proportion, until every source has been read once (`datasets.interleave_datasets`, `all_exhausted`).
    """
    import datasets

    loaded = [load(data) for data in sources]
    named = ", ".join(where(data, "train") for data in sources)
    for data, dataset in zip(sources, loaded, strict=True):
        if dataset.column_names is not None and column not in dataset.column_names:
            columns = ", ".join(dataset.column_names)
            raise DataError(f"{where(data, 'train')}: no column '{column}'; it has: {columns}")
    if len(loaded) > 1:
        loaded = [dataset.select_columns([column]) for dataset in loaded]
    if sources[0].weight is None:
        mixed = datasets.concatenate_datasets(loaded)
    else:
        total = sum(data.weight for data in sources)
        shares = [data.weight / total for data in sources]
        mixed = datasets.interleave_datasets(loaded, shares, seed=seed, stopping_strategy="all_exhausted")
    if isinstance(mixed, datasets.IterableDataset):
        if rows == "lines":
            raise DataError(f"{named}: a stream is read by documents. Remove `rows: lines` or `streaming`")
        return Stream(mixed, column, named), named
    documents = list(texts(mixed, column, rows, named))
    if not documents:
        raise DataError(f"{named}: no text in column '{column}'")
    return documents, named


@dataclass(frozen=True)
class Stream:
    """The documents of a streamed data set, read anew each time it is iterated."""

    dataset: object
    column: str
    where: str

    def __iter__(self):
        return texts(self.dataset, self.column, "documents", self.where)


def held_out(documents, share, rows):
    """Split documents into (train, validation).

    By the hash of each document, so that adding data never moves one from validation to train; a running text
    (`rows: lines`) is cut once, near its end.
    """
    if rows == "lines":
        cut = max(1, round(len(documents) * share))
        return documents[:-cut], documents[-cut:]
    train, validation = [], []
    for document in documents:
        draw = int.from_bytes(hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
        (validation if draw < share else train).append(document)
    return train, validation


def split_name(split):
    """'train[:2000]' -> 'train'."""
    return re.match(r"[^\[+]*", split).group()


def _toy(data, split):
    import datasets

    options = {key: value for key, value in data.options.items() if key not in ("name", "split")}
    rows = toy.rows(data.options.get("name", "stories"), split_name(split), **options)
    piece = re.fullmatch(r"\w+\[(\d*):(\d*)\]", split)
    if piece:
        rows = rows[slice(*(int(end) if end else None for end in piece.groups()))]
    return datasets.Dataset.from_list(rows)


def _builder(file):
    """'a/train.jsonl.gz' -> 'json'; None for a file of no known kind."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    return BUILDERS.get(suffixes[-1]) if suffixes else None


def _split_files(folder, name):
    """The files of one split: `train.jsonl`, `train.csv.gz`, `train-00000-of-00003.parquet`."""
    names = ALIASES.get(name, (name,))
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and _builder(file) and re.split(r"-\d|\.", file.name)[0] in names
    )


def _local(path, options, split):
    """(path, options, files) for load_dataset: a local folder or file becomes a builder and its files."""
    place = Path(path).expanduser()
    if "data_files" in options or "data_dir" in options or not place.exists():
        if not place.exists() and path not in ("json", "csv", "text", "parquet", "arrow") and not _looks_like_hub(path):
            raise DataError(f"data.path: no file or folder '{path}'")
        return path, options, []
    name = options.get("name")
    if place.is_dir() and name is not None:
        options = {key: value for key, value in options.items() if key not in ("name", "split")}
        if (place / name).is_dir():
            place = place / name
        else:
            warnings.warn(
                f"data.name: {name} is ignored, {path} is a local folder without that sub-folder", stacklevel=3
            )
    if place.is_file():
        if split_name(split) != "train":
            raise DataError(
                f"{path} is one file, so it has only the split 'train', not '{split}'. Name a folder with one file a "
                "split, or data_files: {train: ..., test: ...} with path: json (or csv, text, parquet)"
            )
        if _builder(place) is None:
            raise DataError(f"{path}: not a kind of file that can be read; known: {', '.join(BUILDERS)}")
        files = [place]
    else:
        files = _split_files(place, split_name(split))
        if not files:
            return str(place), options, []
    for file in files:
        if not file.stat().st_size:
            raise DataError(f"{file} is empty")
        if not options.get("streaming") and file.suffix in (".jsonl", ".json", ".csv", ".tsv", ".txt"):
            _check_utf8(file, options.get("encoding"))
    if len({_builder(file) for file in files}) > 1:
        listed = ", ".join(file.name for file in files)
        raise DataError(f"{place}: the split '{split_name(split)}' has files of several kinds: {listed}")
    builder = _builder(files[0])
    if ".tsv" in files[0].suffixes:
        options = {"sep": "\t", **options}
    return builder, {**options, "data_files": {split_name(split): [str(file) for file in files]}}, files


def _looks_like_hub(path):
    return re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", path) is not None


def _all_files(data):
    """Every local file that `data` may read, sorted; none for a Hub id."""
    place = Path(data.path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file() and _builder(file))
    named = data.options.get("data_files", [])
    flat = named.values() if isinstance(named, dict) else [named]
    patterns = [pattern for entry in flat for pattern in ([entry] if isinstance(entry, str) else entry)]
    return sorted(file for pattern in patterns for file in _glob(pattern))


def _glob(pattern):
    import glob

    return [
        Path(found) for found in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(found).is_file()
    ]


def _explained(error, data, split, files):
    """A DataError for whatever load_dataset raised."""
    import datasets

    files = files or [file for file in _all_files(data) if _builder(file)]
    rows = [line for file in files if _builder(file) == "json" for line in _bad_json_lines(file)]
    if rows:
        shown = "\n".join(rows[:MOST_ROWS_SHOWN])
        more = f"\n... and {len(rows) - MOST_ROWS_SHOWN} more" if len(rows) > MOST_ROWS_SHOWN else ""
        return DataError(f"{data.path}: rows that cannot be read:\n{shown}{more}")
    cause = " ".join(str(error.__cause__ or error).split())
    for file in files:
        if not file.stat().st_size:
            return DataError(f"{file} is empty")
    place = Path(data.path).expanduser()
    if isinstance(error, (ConnectionError, datasets.exceptions.DatasetNotFoundError)) or "offline" in cause.lower():
        return DataError(
            f"data.path: '{data.path}' is no local file or folder, and the Hub gave no data set of that name "
            f"(no network, or a wrong name). A local copy is used with --set ...data.path=FOLDER"
        )
    if place.is_dir():
        listed = ", ".join(sorted(file.name for file in place.iterdir())[:20]) or "nothing"
        return DataError(f"{data.path}: no split '{split}'; the folder holds {listed}. ({cause[:300]})")
    return DataError(f"{where(data, split)}: {cause[:500]}")


def _bad_json_lines(file):
    """'file:17 ...' for every line that is no JSON object."""
    if file.suffix != ".jsonl":
        return []
    bad = []
    with open(file, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                bad.append(f"{file}:{number} is not JSON: {error.msg} at column {error.colno}")
                continue
            if not isinstance(row, dict):
                bad.append(f"{file}:{number} is {type(row).__name__}, not a JSON object with columns")
    return bad


def _check_utf8(file, encoding):
    """datasets finds bytes that are no text only when it comes to the row, and then without saying where."""
    if encoding not in (None, "utf-8"):
        return
    decoder, lines = codecs.getincrementaldecoder("utf-8")(), 1
    with open(file, "rb") as opened:
        while chunk := opened.read(1 << 22):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                lines += error.object.count(b"\n", 0, error.start)
                raise DataError(f"{file}:{lines} is not valid UTF-8. Save the file as UTF-8") from None
            lines += chunk.count(b"\n")
