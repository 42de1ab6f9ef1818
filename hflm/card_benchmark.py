"""The benchmark in a model card: all scores side by side, then each task with its calibration, slices and samples."""

from hflm import results
from hflm.markdown import cut, fenced, inert, table
from hflm.public import public


def section(found, samples):
    """Markdown blocks for `found` (Results); `samples` are {task name: records.samples}. Empty without tasks."""
    if not found.tasks:
        return []
    rows = [
        [name, f"{task.n:,}", metric, *_numbers(metric, score), results.beside(task, metric)]
        for name, task in found.tasks.items()
        for metric, score in task.metrics.items()
    ]
    pictures = ["![Main metrics with 95 % intervals, baselines as marks](plots/benchmark.png)"]
    if any(task.calibration for task in found.tasks.values()):
        pictures.append("![Accuracy by confidence; on the diagonal they are equal](plots/reliability.png)")
    return [
        "## Benchmark",
        table(["task", "n", "metric", "value", "95 % interval", "baselines"], rows),
        *pictures,
        *(block for name, task in found.tasks.items() for block in _task(name, task, samples[name])),
    ]


def _task(name, task, samples):
    return [f"### {inert(name)}", _facts(task), *_calibration(task), *_slices(task), *_samples(samples)]


def _numbers(metric, score):
    return [results.number(metric, score.value), results.interval(metric, score)]


def _facts(task):
    """What exactly was measured, on one line."""
    facts = [inert(public(task.data)), f"decoding {inert(task.decoding)}"]
    facts += [f"shots: {task.shots}"] * bool(task.shots)
    facts += [f"prompts cut to fit: {task.truncated:,}"] * bool(task.truncated)
    facts += [f"unusable rows left out: {task.skipped:,}"] * bool(task.skipped)
    facts += [f"prompt {inert(task.prompt_hash)}"] * bool(task.prompt_hash)
    facts += [f"data {inert(task.data_fingerprint)}"] * bool(task.data_fingerprint)
    facts += [f"model {inert(task.model_revision)}"] * bool(task.model_revision)
    signatures = dict.fromkeys(score.signature for score in task.metrics.values() if score.signature)
    facts += [f"signature {inert(signature)}" for signature in signatures]
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
    return [table(["by", "slice", "n", "metric", "value", "95 % interval"], rows)] if rows else []


def _samples(samples):
    blocks = []
    for why, row in samples:
        references = row.get("references") or []
        parts = [("PROMPT", row.get("prompt")), ("PREDICTION", row.get("prediction"))]
        parts += [("REFERENCE", reference) for reference in references[:3]]
        text = "\n\n".join(f"{heading}\n{cut(str(part))}" for heading, part in parts if part is not None)
        blocks += [f"{why}:", fenced(text)]
    if any("log_likelihoods" in row for _, row in samples):
        blocks.insert(0, "The margin is the log-likelihood of the right label less that of the best other, in nats.")
    return blocks
