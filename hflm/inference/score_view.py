"""A scored text as a coloured strip in the terminal, and as one self-contained HTML page.

The colours are ColorBrewer's YlOrRd (safe for the colour-blind): the less likely a token, the darker.
"""

import base64
from typing import TYPE_CHECKING

from markupsafe import Markup

from hflm.core import display_name, escape_controls, plain_text, render_html
from hflm.inference.score import Score, Token

if TYPE_CHECKING:
    from rich.console import Console

# (least p, legend, background, letters)
SHADES = (
    (0.5, "p at least 0.5", "#FFFFB2", "#000000"),
    (0.1, "0.1", "#FECC5C", "#000000"),
    (0.01, "0.01", "#FD8D3C", "#000000"),
    (0.001, "0.001", "#E31A1C", "#FFFFFF"),
    (0.0, "less", "#800026", "#FFFFFF"),
)
MAX_ROWS = 60  # of a longer text the least likely tokens are shown
HEADINGS = ("token", "log p", "p", "rank", "most likely")

STYLE = """\
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.strip { font-size: 17px; line-height: 1.9; }
.strip span, .legend span { padding: .15rem 0; border-radius: 3px; }
.strip span { border-right: 1px solid #fff; }
.strip span:hover { outline: 2px solid #222; }
.legend span { padding: .15rem .5rem; }
""" + "\n".join(
    f".s{number} {{ background: {background}; color: {letters}; }}"
    for number, (_, _, background, letters) in enumerate(SHADES)
)


def page(score: Score, model: str, picture: bytes | None = None) -> str:
    """The score as an HTML page: no script, no request, all data escaped. `picture` is a PNG to show below it."""
    return render_html(
        "inference/score.html",
        title=f"What {display_name(model)} expects",
        style=Markup(STYLE),
        body=Markup(body(score, picture)),
    )


def body(score: Score, picture: bytes | None = None) -> str:
    """The HTML below the page's title, without the STYLE that it needs; all data is escaped."""
    title, rows = _table(score)
    return render_html(
        "inference/score_body.html",
        summary=summary(score),
        shades=SHADES,
        tokens=[
            {"text": _visible(token.text), "shade": _shade(token.p), "title": _hint(token)} for token in score.tokens
        ],
        title=title,
        headings=HEADINGS,
        rows=rows,
        picture=picture and base64.b64encode(picture).decode(),
    )


def show(score: Score, console: "Console") -> None:
    """Print the score to a rich console: the strip, a table of tokens, and the sums."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def shaded(text: str, number: int) -> tuple[str, str]:
        _, _, background, letters = SHADES[number]
        return text, f"{letters} on {background}"

    console.print(Text.assemble(*(shaded(_visible(token.text), _shade(token.p)) for token in score.tokens)))
    if console.color_system:
        legend = (part for number, shade in enumerate(SHADES) for part in (shaded(f" {shade[1]} ", number), " "))
        console.print(Text.assemble("\n", *legend))
    title, rows = _table(score)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="dim")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if 0 < number < 4 else "left", overflow="fold")
    for cells in rows:
        table.add_row(*map(plain_text, cells))
    console.print(table)
    console.print(plain_text(summary(score)))


def summary(score: Score) -> str:
    """One line: log P(text), perplexity and bits per byte."""
    count = len(score.tokens)
    return (
        f"log P(text) = {score.log_p:,.3f} nats: {count:,} token{'s' * (count > 1)}, "
        f"perplexity {score.perplexity:,.2f} per token, {score.bits_per_byte:.3f} bits per byte"
    )


def _table(score: Score) -> tuple[str, list[tuple[str, ...]]]:
    """(title of the table, its rows as text)."""
    tokens, title = list(score.tokens), "Token by token"
    if len(tokens) > MAX_ROWS:
        tokens = sorted(tokens, key=lambda token: token.log_p)[:MAX_ROWS]
        title = f"The {MAX_ROWS} least likely of {len(score.tokens):,} tokens"
    return title, [
        (_quoted(token.text), f"{token.log_p:.3f}", _p(token.p), f"{token.rank:,}", _expected(token)[0])
        for token in tokens
    ]


def _hint(token: Token) -> str:
    return "\n".join((f"{_quoted(token.text)}: p {_p(token.p)}, rank {token.rank:,}", "expected:", *_expected(token)))


def _expected(token: Token) -> list[str]:
    return [f"{_quoted(text)} {_p(p)}" for text, p in token.top]


def _shade(p: float) -> int:
    return next(number for number, (least, *_) in enumerate(SHADES) if p >= least)


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _visible(text: str) -> str:
    """The token with its line ends marked and its control characters visible."""
    return escape_controls(text).replace("\n", "\u21b5\n").replace("\t", "\u21e5")


def _quoted(text: str) -> str:
    return f"'{_visible(text).replace(chr(10), '')}'"
