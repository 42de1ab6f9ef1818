"""Answer a task's examples with a model and score the answers.

Labels are chosen by their log-likelihood after the prompt; everything else is text, greedy or as the task's `generation`
says. Under several processes each
takes every n-th row, by length, and the first one scores.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hflm import tasks
from hflm.core import atomic_write_text
from hflm.evaluation import metrics
from hflm.evaluation.contamination import Overlap
from hflm.evaluation.metrics.calibration import calibration
from hflm.evaluation.questions import (
    BenchmarkRows,
    Questions,
    answer_questions,
    hash_prompts,
    measure_texts,
    passage_sums,
    prepare_passages,
    prepare_questions,
    read_passages,
    read_turns,
    texts_of,
)
from hflm.evaluation.results import Contamination, Score, TaskResult
from hflm.evaluation.slices import MIN_ROWS, score_slices
from hflm.inference import Endpoint, LocalModel

if TYPE_CHECKING:
    from hflm.tasks import Example


@dataclass(frozen=True)
class BenchmarkSettings:
    """How rows are answered and scored: context in tokens, bootstrap resamples and their seed.

    `context_length` is None for an endpoint. `key` stands for all that the answers depend on: kept answers of another
    key are not used. `model_revision` is a Hub commit or the fingerprint of the model's files. `overlap` is the Overlap
    of the rows with the training text, where that is known.
    """

    context_length: int | None
    resamples: int
    seed: int
    key: str
    model_revision: str | None
    overlap: Overlap | None = None

    def bootstrap(self) -> dict[str, int]:
        return {"resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class _Measured:
    """The lines of a task's predictions, and the fields of its TaskResult that depend on the answers."""

    lines: list[dict[str, Any]]
    fields: dict[str, Any]


def run_benchmark(
    model: LocalModel | Endpoint, name: str, rows: BenchmarkRows, settings: BenchmarkSettings, predictions: Path
) -> TaskResult | None:
    """Measure one task; write its predictions, one JSON object a line, to `predictions`; return its TaskResult.

    On processes other than the first the result is None. Raises DataError for prompts that do not fit, ModelError for
    likelihoods that are not finite, EndpointError where an endpoint fails; the answers until then are kept.
    """
    partial = predictions.with_suffix(".partial")
    with torch.inference_mode():
        if rows.task.kind == "language_modeling":
            assert isinstance(model, LocalModel), "the pipeline refuses language modelling over an endpoint"
            measured = _measure_text(model, name, rows, settings, partial)
        else:
            measured = _measure_rows(model, name, rows, settings, partial)
    if measured is None:
        return None
    atomic_write_text(predictions, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in measured.lines))
    shutil.rmtree(partial)
    return TaskResult(
        kind=rows.task.kind,
        n=len(rows.examples),
        data=rows.where,
        data_fingerprint=rows.data_fingerprint,
        model_revision=settings.model_revision,
        shots=len(rows.shots),
        skipped=rows.skipped,
        **measured.fields,
    )


def _measure_rows(
    model: LocalModel | Endpoint, name: str, rows: BenchmarkRows, settings: BenchmarkSettings, partial: Path
) -> _Measured | None:
    """Prompts in, answers and their scores out."""
    tokenizer = model.tokenizer if isinstance(model, LocalModel) else None
    questions = prepare_questions(tokenizer, rows, settings.context_length)
    answers = answer_questions(model, name, questions, settings.seed, partial, settings.key)
    likelihood = read_turns(model, name, questions, partial, settings.key)
    if answers is None:
        return None
    log_likelihoods = answers if questions.choices and isinstance(model, LocalModel) else None
    return _score_rows(questions, texts_of(questions, answers), log_likelihoods, settings, likelihood)


def _score_rows(
    questions: Questions,
    texts: list[str],
    log_likelihoods: list[list[float]] | None,
    settings: BenchmarkSettings,
    likelihood: np.ndarray | None,
) -> _Measured:
    task, examples = questions.task, questions.examples
    references = [example.references for example in examples]
    clusters = _clusters(examples)
    measured = measure_texts(questions, texts, clusters, likelihood)
    numbers = () if likelihood is None else likelihood.tolist()
    each = measured.each()
    lines = [
        {
            "id": example.id,
            "prompt": questions.prompts[number],
            "prediction": texts[number],
            "references": list(example.references),
            **_contamination_mark(settings.overlap, number),
            **({"cluster": clusters[number]} if clusters else {}),
            **(dict(zip(("nats", "tokens", "bytes"), numbers[number], strict=True)) if numbers else {}),
            "scores": {metric: values[number] for metric, values in each.items()},
            **(
                {"log_likelihoods": dict(zip(questions.choices, log_likelihoods[number], strict=True))}
                if log_likelihoods
                else {}
            ),
        }
        for number, example in enumerate(examples)
    ]
    baselines = {
        baseline: {
            metric: score.value for metric, score in measure_texts(questions, guesses).scores(resamples=1).items()
        }
        for baseline, guesses in tasks.baseline_predictions(task, examples).items()
    }
    bootstrap = settings.bootstrap()
    scores = measured.scores(**bootstrap)
    right = [text in accepted for text, accepted in zip(texts, references, strict=True)]
    fields = {
        "metrics": scores,
        "contamination": _contamination(settings.overlap, scores, lambda part: measured.scores(part, **bootstrap)),
        "slices": score_slices(task, examples, measured, [len(prompt) for prompt in questions.prompts], **bootstrap),
        "calibration": calibration(log_likelihoods, right) if log_likelihoods else None,
        "baselines": baselines,
        "prompt_hash": questions.prompt_hash,
        "decoding": questions.decoding,
        "truncated": questions.truncated,
        "clusters": len(set(clusters)) if clusters else None,
    }
    return _Measured(lines, fields)


def _clusters(examples: "Sequence[Example]") -> list[str] | None:
    """The cluster of each example; None where no two share one, or all do."""
    clusters = [example.cluster for example in examples if example.cluster is not None]
    return clusters if len(clusters) == len(examples) and 1 < len(set(clusters)) < len(clusters) else None


def _measure_text(
    model: LocalModel, name: str, rows: BenchmarkRows, settings: BenchmarkSettings, partial: Path
) -> _Measured | None:
    """Perplexity and bits per byte of held-out text."""
    assert settings.context_length is not None, "a local model has a context length"
    passages = prepare_passages(model.tokenizer, rows, settings.context_length)
    nats = read_passages(model, name, passages, partial, settings.key)
    if nats is None:
        return None
    sums, by_window = passage_sums(passages, nats), passages.documents == 1
    texts = [window.text for _, window in passages.windows] if by_window else [each.target for each in rows.examples]
    lines = [
        {
            "id": str(unit),
            "text": texts[unit],
            "nats": total,
            "tokens": int(tokens),
            "bytes": int(size),
            **_contamination_mark(settings.overlap, 0 if by_window else unit),
        }
        for unit, (total, tokens, size) in enumerate(sums.tolist())
    ]

    def scores_of(part: np.ndarray | slice) -> dict[str, Score]:
        scores = metrics.language_modeling(*sums[part].T, **settings.bootstrap())
        return {metric: scores[metric] for metric in tasks.task_settings(rows.task)[2]}

    scores = scores_of(slice(None))
    fields = {
        "metrics": scores,
        "contamination": _contamination(settings.overlap, scores, scores_of),
        "baselines": {},
        "prompt_hash": hash_prompts([]),
        "decoding": passages.decoding,
        "truncated": 0,
    }
    return _Measured(lines, fields)


def _contamination_mark(overlap: Overlap | None, number: int) -> dict[str, bool]:
    """The keys of a row's line of predictions; windows of a running text are not its lines."""
    if overlap is None or overlap.lines:
        return {}
    short_copy = {"short_copy": True} if overlap.short_copies[number] else {}
    return {"contaminated": bool(overlap.contaminated[number]), **short_copy}


def _contamination(
    overlap: Overlap | None, scores: Mapping[str, Score], scores_of: Callable[[np.ndarray], dict[str, Score]]
) -> Contamination | None:
    """The results' Contamination; `scores_of(rows)` scores the rows of those numbers alone."""
    if overlap is None:
        return None
    clean = np.flatnonzero(~(overlap.contaminated | overlap.short_copies))
    if overlap.lines or len(clean) < MIN_ROWS:
        clean_scores = {}
    else:
        clean_scores = dict(scores) if len(clean) == len(overlap.contaminated) else scores_of(clean)
    return Contamination(
        of="lines" if overlap.lines else "examples",
        n=len(overlap.contaminated),
        words=overlap.n,
        contaminated=int(overlap.contaminated.sum()),
        near_copies=overlap.near_copies,
        overlap=float(overlap.fractions.mean()),
        against=overlap.against,
        clean=clean_scores,
        short_copies=int(overlap.short_copies.sum()),
    )
