"""Text of recipes, data and models on a terminal: shown as it is, without markup or control characters."""

from typing import TYPE_CHECKING

from hflm.core.markdown import escape_controls
from hflm.core.redaction import mask_tokens

if TYPE_CHECKING:
    from rich.text import Text


def plain_text(text: object, style: str = "") -> "Text":
    r"""`text` for a rich console or table, which would take a string with [brackets] for markup.

    >>> plain_text("[red]x[/red]\a").plain
    '[red]x[/red]\\u0007'
    """
    from rich.text import Text

    return Text(escape_controls(mask_tokens(str(text))), style)
