"""Plain text: a row is a line, a paragraph or the whole file, in the column `text`."""

import itertools
from collections.abc import Iterator

from hflm.data.readers.base import NOT_UTF8, BadRow, Columns, Numbered, is_text, numbered_lines
from hflm.data.readers.options import TextOptions


def read_text(file: str, options: TextOptions, columns: Columns) -> Numbered:
    """(number of its first line, row) of each line, paragraph (between blank lines) or document."""
    for number, text in _split(file, options):
        yield number, {"text": text} if is_text(text) else BadRow(file, number, NOT_UTF8, ":")


def _split(file: str, options: TextOptions) -> Iterator[tuple[int, str]]:
    lines = numbered_lines(file, options.encoding, options.encoding_errors, None)
    if options.sample_by == "line":
        for number, line in lines:
            yield number, line if options.keep_linebreaks else line.removesuffix("\n")
    elif options.sample_by == "paragraph":
        for blank, group in itertools.groupby(lines, lambda line: line[1] == "\n"):
            if not blank:
                paragraph = list(group)
                yield paragraph[0][0], "".join(line for _, line in paragraph).removesuffix("\n")
    else:
        yield 1, "".join(line for _, line in lines)
