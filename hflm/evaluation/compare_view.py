"""A comparison in the terminal, and as one self-contained HTML page."""

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hflm.core import plain_text, render_html, shorten
from hflm.evaluation import plots
from hflm.evaluation.compare import Comparison
from hflm.evaluation.compare_seeds import SeedComparison, SeedScores
from hflm.evaluation.compare_task import Change, TaskComparison
from hflm.evaluation.results import format_value
from hflm.recipe import LOWER_IS_BETTER

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_END = 160  # characters of a prompt, which ends in its question


def page(comparison: Comparison) -> str:
    """The comparison as an HTML page: no script, no request, and all data escaped."""
    tasks = [
        {
            "name": name,
            "rows": _counts(task),
            "table": list(_lines(task)),
            "picture": base64.b64encode(plots.differences(_plotted(task))).decode(),
            "groups": [
                {"title": f"{title} ({task.main})", "letter": letter, "changes": [_cells(task, c) for c in changes]}
                for title, letter, changes in _groups(task)
            ],
        }
        for name, task in comparison.tasks.items()
    ]
    return render_html(
        "evaluation/compare.html",
        title=f"{' and '.join(comparison.runs.values())} compared",
        runs=comparison.runs,
        notes=comparison.notes,
        method=method(comparison),
        headings=_headings(comparison),
        tasks=tasks,
    )


def show(comparison: Comparison, console: "Console") -> None:
    """Print the comparison to a rich console: the runs, one table, and each task's changed rows."""
    from rich.box import SIMPLE_HEAD
    from rich.padding import Padding
    from rich.table import Table

    def indented(spaces: int, text: str) -> None:
        console.print(Padding(plain_text(text.rstrip()), (0, 0, 0, spaces), expand=False))

    for letter, name in comparison.runs.items():
        console.print(plain_text(f"{letter}  {name}{'  (the reference)' if letter == 'A' else ''}"))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(_headings(comparison)):
        table.add_column(heading, justify="right" if number else "left", no_wrap="interval" in heading, overflow="fold")
    for name, task in comparison.tasks.items():
        table.add_row(plain_text(name, style="bold"))
        for metric, *values in _lines(task):
            table.add_row(plain_text(f"  {metric}"), *map(plain_text, values))
    console.print(table)
    console.print(plain_text(method(comparison)), style="dim")
    for name, task in comparison.tasks.items():
        console.print(plain_text(f"\n{name}: {_counts(task)}"), style="bold")
        for title, letter, changes in _groups(task):
            indented(2, f"{title} ({task.main})")
            for change in changes:
                cells = _cells(task, change)
                indented(4, f"row {_line(cells['id'])}  {_line(cells['prompt'])}")
                if cells["references"]:
                    indented(6, f"expected     {_line(cells['references'])}")
                for run, (score, prediction) in zip(("A", letter), cells["answers"], strict=True):
                    indented(6, f"{run} {score:>9}  {_line(prediction)}")


def method(comparison: Comparison) -> str:
    """One paragraph: what the columns are and how they were computed."""
    text = (
        "Difference: the run's value less the reference's. 95 % interval: paired bootstrap of the rows. p: two-sided "
        f"paired approximate randomisation, {comparison.resamples:,} resamples, seed {comparison.seed}. "
        "(-): lower is better."
    )
    if len(comparison.runs) > 2:
        others = len(comparison.runs) - 1
        text += f" p is for each pair alone; p (Holm) is adjusted for the {others} runs compared with the reference."
    return text


def _headings(comparison: Comparison) -> tuple[str, ...]:
    if len(comparison.runs) == 2:
        return ("metric", "A", "B", "B - A", "95 % interval", "p")
    return ("metric", "runs", "A", "run", "run - A", "95 % interval", "p", "p\n(Holm)")


def _lines(task: TaskComparison) -> Iterator[tuple[str, ...]]:
    """The cells of a task's table, as text: a row for each metric of each pair."""
    for metric in task.pairs[0].metrics:
        for pair in task.pairs:
            value = pair.metrics[metric]
            yield (
                f"{metric} (-)" if metric in LOWER_IS_BETTER else metric,
                *([] if value.p_holm is None else [f"{pair.run} - A"]),
                format_value(metric, value.reference),
                format_value(metric, value.value),
                _signed(metric, value.difference),
                f"{_signed(metric, value.ci95[0])} to {_signed(metric, value.ci95[1])}",
                _p(value.p),
                *([] if value.p_holm is None else [_p(value.p_holm)]),
            )


def _signed(metric: str, value: float) -> str:
    return f"{'-' if value < 0 else '+'}{format_value(metric, abs(value))}"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _counts(task: TaskComparison) -> str:
    left_out = f", {task.left_out:,} left out" if task.left_out else ""
    counts = [
        f"{pair.run} is better on {pair.better:,}, worse on {pair.worse:,}, equal on {pair.same:,}"
        for pair in task.pairs
    ]
    clusters = f" in {task.clusters:,} clusters" if task.clusters else ""
    return f"{task.n:,} rows{clusters}{left_out}; by {task.main}, {'; '.join(counts)}"


def _groups(task: TaskComparison) -> Iterator[tuple[str, str, tuple[Change, ...]]]:
    for pair in task.pairs:
        for title, changes in (("most improved", pair.improved), ("most worsened", pair.worsened)):
            if changes:
                yield f"{pair.run}, {title}", pair.run, changes


def _plotted(task: TaskComparison) -> dict[str, dict[str, tuple[float, tuple[float, float]]]]:
    return {
        f"{pair.run} - A": {metric: (value.difference, value.ci95) for metric, value in pair.metrics.items()}
        for pair in task.pairs
    }


def _cells(task: TaskComparison, change: Change) -> dict[str, Any]:
    """A changed row's texts, short and with control characters visible."""
    prompts = [prompt if len(prompt) <= SHOWN_END else f"[...] {prompt[-SHOWN_END:]}" for prompt in change.prompts]
    return {
        "id": shorten(change.id),
        "prompt": shorten("\n\n".join(dict.fromkeys(prompts))),
        "references": shorten("\n".join(dict.fromkeys(change.references))),
        "answers": [
            (format_value(task.main, score), shorten(prediction))
            for score, prediction in zip(change.scores, change.predictions, strict=True)
        ],
    }


def _line(text: str) -> str:
    return " ".join(text.split())


def show_seeds(comparison: SeedComparison, console: "Console") -> None:
    """Print a comparison over seeds to a rich console: the groups, one table, and how to read it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for letter, name in comparison.groups.items():
        console.print(Text(f"{letter}  {name}{'  (the reference)' if letter == 'A' else ''}"))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(("metric", "run", "seeds", "mean", "sd", "less A", "by seeds", "by rows", "p")):
        table.add_column(heading, justify="right" if number > 1 else "left", no_wrap=heading.startswith("by"))
    for task, found in comparison.tasks.items():
        table.add_row(Text(f"{task} (n = {comparison.rows[task]:,})", style="bold"))
        for metric, scores in found.items():
            for letter in scores.spreads:
                table.add_row(*map(Text, _seed_cells(metric, letter, scores)))
    console.print(table)
    console.print(Text(SEED_METHOD), style="dim")


SEED_METHOD = (
    "sd: standard deviation over the seeds. less A: the mean less the reference's. by seeds: its 95 % interval by Welch's "
    "t-test, the luck of training on these rows; p is of that test. by rows: its 95 % interval by the paired bootstrap of the "
    "rows, all seeds together. (-): lower is better."
)


def _seed_cells(metric: str, letter: str, scores: SeedScores) -> tuple[str, ...]:
    """The cells of one group's row: the first is the metric's name, in the reference's row alone."""
    own = scores.spreads[letter]
    sd = "" if own.sd is None else format_value(metric, own.sd)
    cells = ("" if letter in scores.by_seed else f"  {metric}{' (-)' if metric in LOWER_IS_BETTER else ''}", letter)
    cells += (str(own.n), format_value(metric, own.mean), sd)
    if letter not in scores.by_seed:
        return (*cells, "", "", "", "")
    found = scores.by_seed[letter]
    by_seeds = "" if found.ci95 is None else f"{_signed(metric, found.ci95[0])} to {_signed(metric, found.ci95[1])}"
    low, high = scores.by_row[letter]
    by_rows = f"{_signed(metric, low)} to {_signed(metric, high)}"
    return (*cells, _signed(metric, found.difference), by_seeds, by_rows, "" if found.p is None else _p(found.p))
