"""The benchmark in a model card: all scores side by side, then each task with its calibration, slices and samples."""

from hflm.core import code_block, escape_markdown, markdown_table, read_json_lines, redact, shorten
from hflm.evaluation import LOWER_IS_BETTER, format_baselines, format_interval, format_value

RULE = (
    "Contaminated are the examples that have N words in a row in common with the training text (lower-cased, without "
    "punctuation; N is the 5th percentile of the task's lengths, 8 to 13, as for GPT-3, arXiv 2005.14165, appendix C); "
    "a shorter example when it is there as a whole document, line or example. The clean ones are the rest."
)


def section(found, samples):
    """Markdown blocks for `found` (Results); `samples` are {task name: what `samples` returns}. Empty without tasks."""
    if not found.tasks:
        return []
    headings = ["task", "n", "metric", "value", "95 % interval", "baselines"]
    rows = [
        [name, f"{task.n:,}", metric, *_numbers(metric, score), format_baselines(task, metric)]
        for name, task in found.tasks.items()
        for metric, score in task.metrics.items()
    ]
    checked = any(task.contamination for task in found.tasks.values())
    if checked:
        headings += ["contaminated", "on the clean ones"]
        more = [_clean(task.contamination, metric) for task in found.tasks.values() for metric in task.metrics]
        rows = [[*row, *cells] for row, cells in zip(rows, more, strict=True)]
    pictures = ["![Main metrics with 95 % intervals, baselines as marks](plots/benchmark.png)"]
    if any(task.calibration for task in found.tasks.values()):
        pictures.append("![Accuracy by confidence; on the diagonal they are equal](plots/reliability.png)")
    return [
        "## Benchmark",
        markdown_table(headings, rows),
        *([RULE] if checked else []),
        *pictures,
        *(block for name, task in found.tasks.items() for block in _task(name, task, samples[name])),
    ]


def _task(name, task, samples):
    return [
        f"### {escape_markdown(name)}",
        _facts(task),
        *_contamination(task),
        *_calibration(task),
        *_slices(task),
        *_samples(samples),
    ]


def _numbers(metric, score):
    return [format_value(metric, score.value), format_interval(metric, score)]


def _clean(contamination, metric):
    """The cells of one metric: the share that is contaminated, and the score without those."""
    if contamination is None:
        return ["not checked", ""]
    score = contamination.clean.get(metric)
    value = "" if score is None else "{} ({})".format(*_numbers(metric, score))
    return [f"{100 * contamination.fraction:.1f} %", value]


def _contamination(task):
    """What was compared, in a sentence."""
    if task.contamination is None:
        return []
    found = task.contamination
    read = " and ".join(
        {"pretrain": "the pretraining corpus", "finetune": "the fine-tuning examples"}[each] for each in found.against
    )
    share = (
        f"{found.contaminated:,} of {found.n:,} {found.of} have {found.words} words in a row in common with {read}; "
        f"in {found.near_copies:,} of them such runs hold 40 % of the words or more. Over all {found.of} they hold "
        f"{100 * found.overlap:.1f} % of the words on average."
    )
    return [share]


def _facts(task):
    """What exactly was measured, on one line."""
    facts = [escape_markdown(redact(task.data)), f"decoding {escape_markdown(task.decoding)}"]
    facts += [f"shots: {task.shots}"] * bool(task.shots)
    facts += [f"prompts cut to fit: {task.truncated:,}"] * bool(task.truncated)
    facts += [f"unusable rows left out: {task.skipped:,}"] * bool(task.skipped)
    facts += [f"prompt {escape_markdown(task.prompt_hash)}"] * bool(task.prompt_hash)
    facts += [f"data {escape_markdown(task.data_fingerprint)}"] * bool(task.data_fingerprint)
    facts += [f"model {escape_markdown(task.model_revision)}"] * bool(task.model_revision)
    signatures = dict.fromkeys(score.signature for score in task.metrics.values() if score.signature)
    facts += [f"signature {escape_markdown(signature)}" for signature in signatures]
    return "; ".join(facts)


def _calibration(task):
    if not task.calibration:
        return []
    error = task.calibration.expected_calibration_error
    meaning = (
        "the mean gap between the model's confidence in its label (a softmax over the labels' log-likelihoods, in "
        "equal-width bins) and its accuracy; 0 to 1, lower is better"
    )
    return [f"Expected calibration error {error:.3f}: {meaning}."]


def _slices(task):
    rows = [
        [each.by, each.name, f"{each.n:,}", each.metric, *_numbers(each.metric, each.score)] for each in task.slices
    ]
    return [markdown_table(["by", "slice", "n", "metric", "value", "95 % interval"], rows)] if rows else []


def _samples(samples):
    blocks = []
    for why, row in samples:
        references = row.get("references") or []
        parts = [("PROMPT", row.get("prompt")), ("PREDICTION", row.get("prediction"))]
        parts += [("REFERENCE", reference) for reference in references[:3]]
        text = "\n\n".join(f"{heading}\n{shorten(str(part))}" for heading, part in parts if part is not None)
        blocks += [f"{why}:", code_block(text)]
    if any("log_likelihoods" in row for _, row in samples):
        blocks.insert(0, "The margin is the log-likelihood of the right label less that of the best other, in nats.")
    return blocks


def samples(run, name, task):
    """Rows of a task's predictions, as (why it is shown, row): the first, the two best and the two worst.

    By the main metrics of each row; a choice among labels by its margin: how many nats the right label is likelier
    than the best of the others. Fewer than four rows have one best and one worst.
    """
    rows = [row for row in read_json_lines(run / "benchmark" / "predictions" / f"{name}.jsonl") if "prompt" in row]
    if not rows:
        return []
    metrics = [metric for metric in task.main() if all(metric in row.get("scores", {}) for row in rows)]
    margins = [_margin(row) for row in rows] if all("log_likelihoods" in row for row in rows) else None
    chosen = {0: ["First"]}
    if metrics or margins:

        def rank(index):
            if margins:
                return [margins[index]]
            scores = rows[index]["scores"]
            return [-scores[metric] if metric in LOWER_IS_BETTER else scores[metric] for metric in metrics]

        count = 2 if len(rows) > 3 else 1
        # Among equals a row that is not shown yet says more.
        best = sorted(range(len(rows)), key=lambda index: (rank(index), index not in chosen), reverse=True)[:count]
        rest = sorted(set(range(len(rows))) - set(best)) or best
        worst = sorted(rest, key=lambda index: (rank(index), index in chosen))[:count]
        for index in best:
            chosen.setdefault(index, []).append("best")
        for index in worst:
            chosen.setdefault(index, []).append("worst")
    shown = []
    for index, why in chosen.items():
        values = [f"{metric} {format_value(metric, rows[index]['scores'][metric])}" for metric in metrics]
        values += [f"margin {margins[index]:.2f}"] if margins else []
        title = f"{' and '.join(why).capitalize()} row"
        shown.append((f"{title} ({', '.join(values)})" if values else title, rows[index]))
    return shown


def _margin(row):
    likelihoods, [right, *_] = row["log_likelihoods"], row["references"]
    return likelihoods[right] - max(value for label, value in likelihoods.items() if label != right)
