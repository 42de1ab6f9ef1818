"""Markdown that stays what it is meant to be, whatever text a data set or a model puts into it."""

import re
import unicodedata

from hflm.core.redaction import without_tokens

LONGEST_SAMPLE = 300  # characters of a prompt, a prediction or a reference


def inert(text):
    r"""`text` on one line, safe in a markdown table: no markup, no HTML, no new column.

    >>> inert("a|b <script>")
    'a\\|b \\<script\\>'
    """
    return re.sub(r"([\\`*\[\]|~<>&])", r"\\\1", " ".join(without_tokens(str(text)).split()))


def fenced(text, language="text"):
    """`text` as a code block that it cannot leave: the fence is longer than any run of backticks inside."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(headings, rows):
    """A markdown table; every cell is made inert."""
    lines = [headings, ["---"] * len(headings), *([inert(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cut(text):
    """At most LONGEST_SAMPLE characters, start and end (a prompt's question stands last); controls made visible."""
    text = without_tokens(text)
    if len(text) > LONGEST_SAMPLE:
        text = f"{text[:200]} [...] {text[-(LONGEST_SAMPLE - 207) :]}"
    return visible(text)


def visible(text):
    """`text` with its control characters, but for line ends and tabs, written as escapes: a bell as \\u0007."""
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def _escaped(char):
    # Spaces and joiners of other scripts are "not printable" for Python, and belong to the text.
    hidden = unicodedata.category(char) in ("Cc", "Cs") or "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
    return f"\\u{ord(char):04x}" if hidden else char
