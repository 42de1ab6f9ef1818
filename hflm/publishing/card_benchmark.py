"""The benchmark in a model card: for each task one table, then samples, then what exactly was measured."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hflm.core import code_block, escape_markdown, markdown_table, read_json_lines, redact, shorten
from hflm.evaluation import (
    Results,
    Score,
    TaskResult,
    describe_clusters,
    format_baselines,
    format_interval,
    format_value,
    unbeaten_baselines,
)
from hflm.recipe import LOWER_IS_BETTER

CONTAMINATION_RULE = (
    "Contaminated are the examples that have N words in a row in common with the training text (lower-cased, without "
    "punctuation; N is the 5th percentile of the task's lengths, 8 to 13, as for GPT-3, arXiv 2005.14165, appendix C); "
    "shorter examples that occur there as a whole document, line or example are counted apart."
)

Sample = tuple[str, dict[str, Any]]  # why a row is shown, and the row


@dataclass(frozen=True)
class TaskSection:
    """A task's part of the card: `blocks` of markdown follow its table."""

    name: str
    table: str
    blocks: list[str]


def contamination_rule(found: Results) -> str:
    return CONTAMINATION_RULE if any(_has_copies(task) for task in found.tasks.values()) else ""


def task_section(name: str, task: TaskResult, shown: list[Sample], listed: Collection[str] = ()) -> TaskSection:
    """A task's part of the card; `listed` are fingerprints of data that the card has elsewhere."""
    headings = ["rows", "n", "metric", "value", "95 % interval", "baselines"]
    blocks = [*_warnings(task), *_contamination(task), *_calibration(task), *_samples(shown), _details(task, listed)]
    return TaskSection(escape_markdown(name), markdown_table(headings, _rows(task)), blocks)


def _warnings(task: TaskResult) -> list[str]:
    """Scores that are no better than a baseline; what the intervals resample."""
    blocks = [f"**{escape_markdown(line[0].upper() + line[1:])}.**" for line in unbeaten_baselines(task)]
    clusters = describe_clusters(task)
    return [*blocks, f"{clusters[0].upper()}{clusters[1:]}."] if clusters else blocks


def _rows(task: TaskResult) -> Iterator[list[str]]:
    """The table's rows: all metrics of all rows, those without contaminated rows, and those of the slices."""
    for metric, score in task.metrics.items():
        yield ["all", f"{task.n:,}", metric, *_numbers(metric, score), format_baselines(task, metric)]
    if task.contamination is not None and _has_copies(task):
        clean = task.contamination.n - task.contamination.contaminated - task.contamination.short_copies
        for metric, score in task.contamination.clean.items():
            yield ["not contaminated", f"{clean:,}", metric, *_numbers(metric, score), ""]
    for each in task.slices:
        yield [f"{each.by}: {each.name}", f"{each.n:,}", each.metric, *_numbers(each.metric, each.score), ""]


def _numbers(metric: str, score: Score) -> list[str]:
    return [format_value(metric, score.value), format_interval(metric, score)]


def _has_copies(task: TaskResult) -> bool:
    found = task.contamination
    return found is not None and found.contaminated + found.short_copies > 0


def _contamination(task: TaskResult) -> list[str]:
    """What was compared, in a sentence."""
    found = task.contamination
    if found is None:
        return []
    corpora = {"pretrain": "the pretraining corpus", "finetune": "the fine-tuning examples"}
    read = " and ".join(corpora[each] for each in found.against)
    if not _has_copies(task):
        return [f"None of the {found.n:,} {found.of} has {found.words} words in a row in common with {read}."]
    short = f" {found.short_copies:,} shorter {found.of} occur there as a whole." if found.short_copies else ""
    return [
        (
            f"{found.contaminated:,} of {found.n:,} {found.of} ({100 * found.fraction:.1f} %) have {found.words} words in a "
            f"row in common with {read}; in {found.near_copies:,} of them such runs hold 40 % of the words or more. Over "
            f"all {found.of} they hold {100 * found.overlap:.1f} % of the words on average.{short}"
        )
    ]


def _calibration(task: TaskResult) -> list[str]:
    if task.calibration is None:
        return []
    return [
        (
            f"Expected calibration error {task.calibration.expected_calibration_error:.3f}: the mean gap between the "
            "model's confidence in its label (a softmax over the labels' log-likelihoods, in equal-width bins) and its "
            "accuracy; 0 to 1, lower is better."
        )
    ]


def _samples(shown: list[Sample]) -> list[str]:
    blocks = []
    if any("log_likelihoods" in row for _, row in shown):
        blocks.append("The margin is the log-likelihood of the right label less that of the best other, in nats.")
    for reason, row in shown:
        references = row.get("references") or []
        parts = [("PROMPT", row.get("prompt")), ("PREDICTION", row.get("prediction"))]
        parts += [("REFERENCE", reference) for reference in references[:3]]
        text = "\n\n".join(f"{heading}\n{shorten(str(part))}" for heading, part in parts if part is not None)
        blocks += [f"{reason}:", code_block(text)]
    return blocks


def _details(task: TaskResult, listed: Collection[str]) -> str:
    """What exactly was measured, on one line."""
    details = [escape_markdown(redact(task.data)), f"decoding {escape_markdown(task.decoding)}"]
    details += [f"shots: {task.shots}"] * bool(task.shots)
    details += [f"prompts cut to fit: {task.truncated:,}"] * bool(task.truncated)
    details += [f"unusable rows left out: {task.skipped:,}"] * bool(task.skipped)
    details += [f"prompt {escape_markdown(task.prompt_hash)}"] * bool(task.prompt_hash)
    if task.data_fingerprint and task.data_fingerprint not in listed:
        details.append(f"data {escape_markdown(task.data_fingerprint)}")
    signatures = dict.fromkeys(score.signature for score in task.metrics.values() if score.signature)
    details += [f"signature {escape_markdown(signature)}" for signature in signatures]
    return f"Measured: {'; '.join(details)}."


def prompts(run: Path, name: str) -> list[str]:
    """The prompts of a task's predictions."""
    rows = read_json_lines(run / "benchmark" / "predictions" / f"{name}.jsonl")
    return [row["prompt"] for row in rows if row.get("prompt")]


def samples(run: Path, name: str, task: TaskResult) -> list[Sample]:
    """Rows of a task's predictions, with the reason: the first, the two best and the two worst.

    By the main metrics of each row; a choice among labels by its margin: how many nats the right label is likelier
    than the best of the others. Fewer than four rows have one best and one worst.
    """
    rows = [row for row in read_json_lines(run / "benchmark" / "predictions" / f"{name}.jsonl") if "prompt" in row]
    if not rows:
        return []
    metrics = [metric for metric in task.main() if all(metric in row.get("scores", {}) for row in rows)]
    margins = [_margin(row) for row in rows] if all("log_likelihoods" in row for row in rows) else None
    ranks = [_rank(row, metrics) for row in rows] if margins is None else [[margin] for margin in margins]
    reasons = _extremes(ranks) if metrics or margins else {0: ["First"]}
    shown = []
    for index, reason in reasons.items():
        values = [f"{metric} {format_value(metric, rows[index]['scores'][metric])}" for metric in metrics]
        values += [f"margin {margins[index]:.2f}"] if margins else []
        title = f"{' and '.join(reason).capitalize()} row"
        shown.append((f"{title} ({', '.join(values)})" if values else title, rows[index]))
    return shown


def _extremes(ranks: list[list[float]]) -> dict[int, list[str]]:
    """{index of a row: reasons to show it}. Among equal rows one that is not shown yet comes first."""
    reasons = {0: ["First"]}
    count = 2 if len(ranks) > 3 else 1
    best = sorted(range(len(ranks)), key=lambda index: (ranks[index], index not in reasons), reverse=True)[:count]
    rest = sorted(set(range(len(ranks))) - set(best)) or best
    worst = sorted(rest, key=lambda index: (ranks[index], index in reasons))[:count]
    for reason, indices in (("best", best), ("worst", worst)):
        for index in indices:
            reasons.setdefault(index, []).append(reason)
    return reasons


def _rank(row: dict[str, Any], metrics: list[str]) -> list[float]:
    scores = row.get("scores", {})
    return [-scores[metric] if metric in LOWER_IS_BETTER else scores[metric] for metric in metrics]


def _margin(row: dict[str, Any]) -> float:
    likelihoods, [right, *_] = row["log_likelihoods"], row["references"]
    return likelihoods[right] - max(value for label, value in likelihoods.items() if label != right)
