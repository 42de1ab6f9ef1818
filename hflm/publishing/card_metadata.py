"""What of a run the Hub reads by machine: the card's front matter with its model-index, and .eval_results/."""

from typing import TYPE_CHECKING

import yaml

from hflm.core import atomic_write_text, redact
from hflm.evaluation import format_interval
from hflm.publishing.run_record import RunRecord

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

# The Hub's names for what a task and a metric are; everything else goes under our own name.
HUB_TASKS = {
    "translation": "translation",
    "summarization": "summarization",
    "sentiment": "text-classification",
    "choice": "text-classification",
    "qa": "question-answering",
}
HUB_METRICS = {"macro_f1": "f1", "mcc": "matthews_correlation"}


def card_data(record: RunRecord) -> "ModelCardData":
    """The card's front matter: every score of every task is in its model-index."""
    from huggingface_hub import ModelCardData

    recipe, scores = record.recipe, _scores(record)
    base, trained = recipe.model.from_, record.training_data()
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["hflm", record.config.get("model_type", "gpt2")],
        datasets=list(dict.fromkeys(data.path for data in trained if data.path in record.hub_ids)) or None,
        base_model=base if base and trained and base in record.hub_ids else None,
        license=recipe.push.license if recipe.push else None,
        model_name=recipe.name if scores else None,
        eval_results=scores or None,
    )


def _scores(record: RunRecord) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    scores = []
    for name, task in record.results.tasks.items():
        asked = record.recipe.tasks.get(name)
        options = asked.data.options if asked else {}
        for metric, score in task.metrics.items():
            scores.append(
                EvalResult(
                    task_type=HUB_TASKS.get(task.kind, "text-generation"),
                    task_name=name,
                    dataset_type=record.display_name(asked.data.path) if asked else "unknown",
                    dataset_name=redact(task.data),
                    dataset_config=options.get("name"),
                    dataset_split=asked.splits.test if asked else None,
                    dataset_revision=options.get("revision"),
                    metric_type="rouge" if metric.startswith("rouge") else HUB_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=score.value,
                )
            )
    return scores


def write_leaderboard(record: RunRecord) -> None:
    """Write each task's main metric in the form that the Hub's leaderboards read: scores on data sets of the Hub only.

    The form (huggingface.co/docs/hub/eval-results) has a data set, a task in it and a value; the metric and its
    interval are in the notes.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries, path = [], record.run / ".eval_results" / "hflm.yaml"
    for name, task in record.results.tasks.items():
        asked = record.recipe.tasks.get(name)
        if asked is None or asked.data.path not in record.hub_ids:
            continue
        metric, options = task.main()[0], asked.data.options
        score = task.metrics[metric]
        entries.append(
            EvalResultEntry(
                dataset_id=asked.data.path,
                task_id=options.get("name") or "default",
                value=score.value,
                dataset_revision=options.get("revision"),
                date=record.environment.get("created"),
                notes=(
                    f"{metric} on {task.n} rows of {asked.splits.test}, 95 % interval "
                    f"{format_interval(metric, score)}; {task.shots} shots, {task.decoding}"
                ),
            )
        )
    if entries:
        atomic_write_text(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    else:
        path.unlink(missing_ok=True)
