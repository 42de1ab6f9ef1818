"""A Preview in the terminal, and as one self-contained HTML page."""

from typing import TYPE_CHECKING

from hflm.core import escape_controls, plain_table, render_html
from hflm.pipeline.preview import Preview, StagePreview, Token
from hflm.preprocessing import REPORT_HEADINGS, describe_report, report_rows, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SHOWN_TOKENS = 60  # of a row in the terminal; a page shows all
SHOWN_PROMPT = 1500  # characters
LENGTH_HEADINGS = ("source", "texts", "shortest", "median", "longest", "trained on")


def print_preview(preview: Preview, console: "Console") -> None:
    """Print the tokenizer's report, then each stage's rows and lengths, then the benchmark's prompts."""
    from rich.text import Text

    for name, report in preview.reports.items():
        console.print(plain_table(f"Tokenizer: {name}", REPORT_HEADINGS, report_rows(report)))
        console.print(Text(describe_report(report)))
    for stage in preview.stages:
        console.print(plain_table(f"\n{stage.stage}: tokens of a text", LENGTH_HEADINGS, length_rows(stage)))
        console.print(Text(f"{describe_stage(stage)}\n"))
        for number, row in enumerate(stage.rows, 1):
            console.print(Text.assemble((f"row {number} ", "bold"), _line(row)))
            console.print()
    if preview.stages:
        console.print(
            Text("Token and id; | begins a document or example; ~ marks what the loss leaves out.", style="dim")
        )
    for prompt in preview.prompts:
        text = prompt.prompt if len(prompt.prompt) <= SHOWN_PROMPT else f"... {prompt.prompt[-SHOWN_PROMPT:]}"
        cut = "" if prompt.tokens <= prompt.room else f", of which only {prompt.room:,} fit: its longest text is cut"
        console.print(Text(f"\nbenchmark: {prompt.task}, first prompt, {prompt.tokens:,} tokens{cut}", style="bold"))
        console.print(Text(escape_controls(text)))
        console.print(Text(f"-> {escape_controls(' | '.join(prompt.references))}", style="green"))


def preview_page(preview: Preview) -> str:
    """The Preview as an HTML page: no script, no request, all data escaped."""
    stages = [
        {
            "name": stage.stage,
            "facts": describe_stage(stage),
            "lengths": length_rows(stage),
            "rows": [[(visible(token.text), token) for token in row] for row in stage.rows],
        }
        for stage in preview.stages
    ]
    reports = [(name, report_rows(report), describe_report(report)) for name, report in preview.reports.items()]
    return render_html(
        "pipeline/preview.html",
        title=f"What {preview.recipe} trains on",
        reports=reports,
        report_headings=REPORT_HEADINGS,
        length_headings=LENGTH_HEADINGS,
        stages=stages,
        prompts=preview.prompts,
    )


def length_rows(stage: StagePreview) -> list[tuple[str, ...]]:
    """The rows of a stage's table of lengths, below LENGTH_HEADINGS."""
    return [
        (
            each.name,
            f"{each.texts:,}",
            f"{each.shortest:,}",
            f"{each.median:,}",
            f"{each.longest:,}",
            f"{100 * each.trained_fraction:.0f} % of the tokens",
        )
        for each in stage.lengths
    ]


def describe_stage(stage: StagePreview) -> str:
    """The lines below a stage's table."""
    steps = "of unknown length" if stage.steps is None else f"{stage.steps:,} steps"
    epochs = "" if stage.epochs is None else f", {stage.epochs:.2f} passes over the data"
    return f"{stage.packing}\n{steps} of {stage.rows_per_step:,} rows{epochs}"


def _line(row: tuple[Token, ...]) -> "Text":
    from rich.text import Text

    line = Text()
    for token in row[:SHOWN_TOKENS]:
        line.append("| " if token.begins else "", "bold yellow")
        line.append(visible(token.text) if token.trained else f"~{visible(token.text)}", "" if token.trained else "dim")
        line.append(f"{token.id} ", "dim cyan")
    if len(row) > SHOWN_TOKENS:
        line.append(f"... and {len(row) - SHOWN_TOKENS:,} more tokens", "dim")
    return line
