"""Text of recipes, data and models on a terminal: shown as it is, without markup or control characters."""

from collections.abc import Sequence
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


def plain_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """A rich table of `plain_text`: headings are broken into words, cells are not; all but the first column are aligned
    to the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=plain_text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        texts = [*heading.split(), *(row[number] for row in rows)]
        widest = max(plain_text(text).cell_len for text in texts)
        table.add_column(heading, justify="right" if number else "left", width=widest)
    for row in rows:
        table.add_row(*map(plain_text, row))
    return table
