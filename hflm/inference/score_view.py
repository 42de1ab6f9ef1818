"""A scored text as people see it: a coloured strip in the terminal, and one HTML page that needs nothing else.

The colours are ColorBrewer's YlOrRd (safe for the colour-blind): the less likely a token, the darker.
"""

import base64

from markupsafe import Markup

from hflm.core import display_name, escape_controls, render_html

# (least p, what the legend says, background, letters)
SHADES = (
    (0.5, "p at least 0.5", "#FFFFB2", "#000000"),
    (0.1, "0.1", "#FECC5C", "#000000"),
    (0.01, "0.01", "#FD8D3C", "#000000"),
    (0.001, "0.001", "#E31A1C", "#FFFFFF"),
    (0.0, "less", "#800026", "#FFFFFF"),
)
LONGEST_TABLE = 60  # rows; of a longer text the least likely tokens are shown
HEADINGS = ("token", "log p", "p", "rank", "most likely there")

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


def page(score, model, picture=None):
    """The score as an HTML page, one text: no script, no request, all data escaped. `picture`: PNG bytes to show too."""
    return render_html(
        "inference/score.html",
        title=f"What {display_name(model)} expects",
        style=Markup(STYLE),
        body=Markup(body(score, picture)),
    )


def body(score, picture=None):
    """What stands under the page's title, without the STYLE that it needs: one text of HTML, all data escaped."""
    told, rows = _rows(score)
    return render_html(
        "inference/score_body.html",
        summary=summary(score),
        shades=SHADES,
        tokens=[
            {"text": _seen(token.text), "shade": _shade(token.p), "title": _title(token)} for token in score.tokens
        ],
        told=told,
        headings=HEADINGS,
        rows=rows,
        picture=picture and base64.b64encode(picture).decode(),
    )


def show(score, console):
    """Print the score to a rich console: the strip, a table of tokens, and the sums."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def shaded(text, number):
        _, _, background, letters = SHADES[number]
        return text, f"{letters} on {background}"

    console.print(Text.assemble(*(shaded(_seen(token.text), _shade(token.p)) for token in score.tokens)))
    if console.color_system:
        legend = (piece for number, shade in enumerate(SHADES) for piece in (shaded(f" {shade[1]} ", number), " "))
        console.print(Text.assemble("\n", *legend))
    told, rows = _rows(score)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=told, title_justify="left", title_style="dim")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if 0 < number < 4 else "left", overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(Text(summary(score)))


def summary(score):
    """One line: the sum and what follows from it."""
    count = len(score.tokens)
    return (
        f"log P(text) = {score.log_p:,.3f} nats: {count:,} token{'s' * (count > 1)}, "
        f"perplexity {score.perplexity:,.2f} per token, {score.bits_per_byte:.3f} bits per byte"
    )


def _rows(score):
    """(what the table holds, its rows as text)."""
    tokens, told = score.tokens, "Token by token"
    if len(tokens) > LONGEST_TABLE:
        tokens = sorted(tokens, key=lambda token: token.log_p)[:LONGEST_TABLE]
        told = f"The {LONGEST_TABLE} least likely of {len(score.tokens):,} tokens"
    return told, [
        (_quoted(token.text), f"{token.log_p:.3f}", _p(token.p), f"{token.rank:,}", _expected(token)[0])
        for token in tokens
    ]


def _title(token):
    return "\n".join((f"{_quoted(token.text)}: p {_p(token.p)}, rank {token.rank:,}", "expected:", *_expected(token)))


def _expected(token):
    return [f"{_quoted(text)} {_p(p)}" for text, p in token.top]


def _shade(p):
    return next(number for number, (least, *_) in enumerate(SHADES) if p >= least)


def _p(p):
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _seen(text):
    """The token with its line ends marked and its control characters visible."""
    return escape_controls(text).replace("\n", "\u21b5\n").replace("\t", "\u21e5")


def _quoted(text):
    return f"'{_seen(text).replace(chr(10), '')}'"
