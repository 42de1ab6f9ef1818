"""Text of recipes, data and models on a terminal: shown as it is, without markup or control characters."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hflm.core.markdown import escape_controls
from hflm.core.redaction import mask_tokens

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def plain_text(text: object, style: str = "") -> "Text":
    r"""`text` for a rich console or table, which would take a string with [brackets] for markup.

    >>> plain_text("[red]x[/red]\a").plain
    '[red]x[/red]\\u0007'
    """
    from rich.text import Text

    return Text(escape_controls(mask_tokens(str(text))), style)


def plain_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """A rich table of `plain_text`; the first column is not broken, the others are aligned to the right."""
    from rich.table import Table

    table = Table(title=plain_text(title), title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*map(plain_text, row))
    return table
