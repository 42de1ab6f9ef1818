"""Markdown in which text of a data set or a model stays text."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from hflm.core.redaction import mask_tokens

LONGEST_SAMPLE = 300  # characters of a prompt, a prediction or a reference


def escape_markdown(text: object) -> str:
    r"""`text` on one line, safe in a markdown table: no markup, no HTML, no new column, no control characters.

    >>> escape_markdown("a|b <script>")
    'a\\|b \\<script\\>'
    """
    line = escape_controls(" ".join(mask_tokens(str(text)).split()))
    return re.sub(r"([\\`*\[\]|~<>&])", r"\\\1", line)


def code_block(text: str, language: str = "text") -> str:
    """`text` as a code block that it cannot end: the fence is longer than any run of backticks inside."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def markdown_table(headings: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A markdown table; every cell is escaped."""
    lines = [headings, ["---"] * len(headings), *([escape_markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shorten(text: str) -> str:
    """At most LONGEST_SAMPLE characters, start and end (the question of a prompt is at its end), controls escaped."""
    text = mask_tokens(text)
    if len(text) > LONGEST_SAMPLE:
        text = f"{text[:200]} [...] {text[-(LONGEST_SAMPLE - 207) :]}"
    return escape_controls(text)


def escape_controls(text: str) -> str:
    """`text` with its control characters, except line ends and tabs, written as escapes: a bell as \\u0007."""
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    # Spaces and joiners of other scripts are "not printable" for Python, and belong to the text.
    hidden = unicodedata.category(char) in ("Cc", "Cs") or "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
    return f"\\u{ord(char):04x}" if hidden else char
