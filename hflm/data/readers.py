"""The texts in one file, row by row, and what is wrong with each row that is none.

`datasets` reads files in batches: one bad row ends them all, without the file's name and often without the row's
number, a truncated `.zst` ends in silence, and a csv's text "NA" becomes a missing value. A corpus may be read for
days, so it is read here by rows, at several hundred MB/s. The options are those of datasets' builders.
"""

import bz2
import gzip
import io
import itertools
import json
import lzma
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hflm.core import DataError

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
DECOMPRESS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
# What a damaged archive or file raises, beside the OSErrors that say so in words.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError)
NOT_UTF8 = "is not valid UTF-8. Save the file as UTF-8, or name its `encoding`"


@dataclass(frozen=True)
class Bad:
    """A row that is no text, or with `rest` all of a file from there on; `row` counts from 1, None before the first.

    `source` is the key of the recipe that names the file's data, such as pretrain.data.0.

    >>> str(Bad("a.jsonl", 3, "is not JSON", ":")), str(Bad("a.parquet", 3, "holds no text"))
    ('a.jsonl:3 is not JSON', 'a.parquet, row 3 holds no text')
    """

    file: str
    row: int | None
    reason: str
    mark: str = ", row "
    rest: bool = False
    source: str | None = None

    def __str__(self):
        return f"{self.file}{'' if self.row is None else f'{self.mark}{self.row}'} {self.reason}"


def read(file, config, column):
    """Yield each row's text of column `column`, or a Bad. `file` is a path or a URL that datasets opens.

    `config` is the BuilderConfig that datasets made of the recipe's options: Text-, Json-, Csv-, Parquet- or
    ArrowConfig. Raises DataError for options that cannot be followed here, and where a network fails.
    """
    from huggingface_hub.errors import HTTPError
    from pyarrow import ArrowException

    from hflm.data import table_readers as tables  # it reads by means of this room

    kind = type(config).__name__
    reader = {
        "TextConfig": _text,
        "JsonConfig": _json,
        "CsvConfig": tables.read_csv,
        "ParquetConfig": tables.read_parquet,
        "ArrowConfig": tables.read_arrow,
    }.get(kind)
    if reader is None:
        raise DataError(
            f"{file}: text is read from txt, json, csv, tsv, parquet and arrow files, not by datasets' {kind}"
        )
    last = None
    try:
        if Path(file).is_file() and not Path(file).stat().st_size:
            yield Bad(file, None, "is empty", rest=True)
            return
        for last, found in reader(file, config, column):
            yield found
    except (*DAMAGE, ArrowException) as error:
        yield Bad(file, last, f"cannot be read on from here: {reason(error)}", _mark(kind), rest=True)
    except FileNotFoundError:
        yield Bad(file, None, "is not there (any more)", rest=True)
    except (OSError, HTTPError) as error:
        # A network that fails is not a bad row: nothing is skipped for it.
        if not Path(file).is_file():
            raise DataError(f"{file}: {reason(error)}") from error
        yield Bad(file, last, f"cannot be read on from here: {reason(error)}", _mark(kind), rest=True)


@contextmanager
def opened(file):
    """The bytes of a local file or URL, decompressed as its name says. Truncated archives raise when they end."""
    if Path(file).is_file():
        whole = open(file, "rb")  # noqa: SIM115 - closed below
    else:
        from datasets.utils.file_utils import xopen  # retries what a network breaks

        whole = xopen(str(file), "rb")
    with whole as raw:
        suffix = Path(str(file).split("?")[0]).suffix
        if suffix == ".zst":
            import pyarrow as pa  # zstandard's own reader takes a truncated file for a whole one

            with io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), 1 << 20) as plain:
                yield plain
        elif suffix in DECOMPRESS:
            with DECOMPRESS[suffix](raw) as plain:
                yield plain
        else:
            yield raw


def check(file, encoding="utf-8"):
    """Read a file to its end. Raises DataError for bytes that are no text, a damaged archive and an empty file."""
    last, whole = 0, None
    try:
        with opened(file) as raw:
            for last, line in enumerate(raw, 1):
                whole = encoding is None or _text_of(line, encoding) is not None
                if not whole:
                    break
    except (*DAMAGE, OSError) as error:
        raise DataError(f"{file}:{last + 1} cannot be read on from here: {reason(error)}") from error
    if whole is None:
        raise DataError(f"{file} is empty")
    if not whole:
        raise DataError(f"{file}:{last} {NOT_UTF8}")


def _text_of(line, encoding):
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None


def lines_of(file, config, newline):
    """(number, line) with its line end; bytes that are no text are kept as lone surrogates, which no text holds."""
    errors = getattr(config, "encoding_errors", None)
    encoding = "utf-8-sig" if config.encoding in (None, "utf-8") else config.encoding
    errors = "surrogateescape" if errors in (None, "strict") else errors
    try:
        with opened(file) as raw, io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline=newline) as text:
            yield from enumerate(text, 1)
    except LookupError as error:
        raise DataError(f"{file}: `encoding` or `encoding_errors`: {error}. Name one that Python has") from error


def valid(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(file, config, column):
    check_names(file, ["text"], column)
    for number, text in _text_rows(file, config):
        yield number, text if valid(text) else Bad(file, number, NOT_UTF8, ":")


def _text_rows(file, config):
    """(number of its first line, text) of each line, paragraph (between blank lines) or document."""
    lines = lines_of(file, config, None)
    if config.sample_by == "line":
        for number, line in lines:
            yield number, line if config.keep_linebreaks else line.removesuffix("\n")
    elif config.sample_by == "paragraph":
        for blank, paragraph in itertools.groupby(lines, lambda line: line[1] == "\n"):
            if not blank:
                paragraph = list(paragraph)
                yield paragraph[0][0], "".join(line for _, line in paragraph).removesuffix("\n")
    else:
        yield 1, "".join(line for _, line in lines)


def _json(file, config, column):
    if config.field is not None or _begins_with_a_list(file):
        found, mark = _json_whole(file, config), ", row "
    else:
        found, mark = _json_lines(lines_of(file, config, "\n"), file), ":"
    for number, row in found:
        yield number, row if isinstance(row, Bad) else _cell(file, number, row, column, mark)


def bad_lines(file):
    """Each line of a local jsonl file that is no JSON object, as a Bad."""
    with (
        opened(file) as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as text,
    ):
        for _, row in _json_lines(enumerate(text, 1), str(file)):
            if isinstance(row, Bad):
                yield row


def _json_lines(lines, file):
    for number, line in lines:
        if line.isspace():
            continue
        if not valid(line):
            yield number, Bad(file, number, NOT_UTF8, ":")
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, Bad(file, number, f"is not JSON: {error.msg} at column {error.colno}", ":")
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in a list in a list ...
            yield number, Bad(file, number, f"is not JSON that can be read: {reason(error)}", ":")
        else:
            yield number, row if isinstance(row, dict) else _no_object(file, number, row, ":")


def _json_whole(file, config):
    """A file that is one list of rows, or holds it under `field`."""
    text = "".join(line for _, line in lines_of(file, config, "\n"))
    if not valid(text):
        raise UnicodeError(NOT_UTF8)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        yield error.lineno, Bad(file, error.lineno, f"is not JSON: {error.msg} at column {error.colno}", ":", rest=True)
        return
    if config.field is not None:
        rows = rows.get(config.field) if isinstance(rows, dict) else None
    if not isinstance(rows, list):
        yield None, Bad(file, None, f"holds no list of rows under the field {config.field!r}", rest=True)
        return
    for number, row in enumerate(rows, 1):
        yield number, row if isinstance(row, dict) else _no_object(file, number, row, ", row ")


def _no_object(file, number, row, mark):
    return Bad(file, number, f"is {type(row).__name__}, not a JSON object with columns", mark)


def _begins_with_a_list(file):
    with opened(file) as raw:
        return raw.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _cell(file, number, row, column, mark):
    if column not in row:
        return Bad(file, number, f"has no column '{column}'; it has: {', '.join(row)}", mark)
    return checked(file, number, row[column], column, mark)


def checked(file, number, value, column, mark=", row "):
    if not isinstance(value, str):
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
        return Bad(file, number, f"column '{column}' holds {shown}, not text", mark)
    if not valid(value):
        return Bad(file, number, f"column '{column}' holds half of a surrogate pair, which is no text", mark)
    return value


def _mark(kind):
    return ", row " if kind in ("ParquetConfig", "ArrowConfig") else ":"


def reason(error):
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_names(file, names, column):
    if column not in names:
        raise DataError(f"{file}: no column '{column}'; it has: {', '.join(names)}")
