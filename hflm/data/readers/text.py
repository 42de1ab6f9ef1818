"""Plain text: a row is a line, a paragraph or the whole file, in the column `text`."""

import itertools
from collections.abc import Iterator

from hflm.data.readers.base import NOT_UTF8, BadRow, Columns, Row, Rows, is_text, line_batches, numbered_lines
from hflm.data.readers.options import TextOptions


def read_text(file: str, options: TextOptions, columns: Columns) -> Rows:
    """Each line, paragraph (between blank lines) or document, at the number of its first line."""
    lines = line_batches(file, options.encoding, options.encoding_errors, None)
    if options.sample_by != "line":
        for number, text in _parts(lines, options.sample_by):
            yield [_row(file, number, text)]
        return
    first = 1
    for batch in lines:
        end = "" if options.keep_linebreaks else "\n"
        yield [_row(file, number, line.removesuffix(end)) for number, line in enumerate(batch, first)]
        first += len(batch)


def _row(file: str, number: int, text: str) -> Row | BadRow:
    return Row.of({"text": text}, (file, ":", number)) if is_text(text) else BadRow(file, number, NOT_UTF8, ":")


def _parts(batches: Iterator[list[str]], sample_by: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each paragraph, or of the whole document."""
    lines = numbered_lines(batches)
    if sample_by == "paragraph":
        for blank, group in itertools.groupby(lines, lambda line: line[1] == "\n"):
            if not blank:
                paragraph = list(group)
                yield paragraph[0][0], "".join(line for _, line in paragraph).removesuffix("\n")
    else:
        yield 1, "".join(line for _, line in lines)
