"""Answer a task's examples with a model and score the answers.

Labels are chosen by their log-likelihood after the prompt; everything else is text, greedy or as the task's `generation`
says. Under several processes each
takes every n-th row, by length, and the first one scores.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from hflm import tasks
from hflm.core import ModelError, atomic_write_text
from hflm.evaluation import metrics
from hflm.evaluation.answers import collect_answers
from hflm.evaluation.contamination import Overlap
from hflm.evaluation.metrics.calibration import calibration
from hflm.evaluation.results import Contamination, Score, TaskResult
from hflm.evaluation.slices import MIN_ROWS, score_slices
from hflm.inference import Endpoint, LocalModel, request_options, text_windows
from hflm.preprocessing import TruncatedPrompts, encode, truncate_prompts
from hflm.recipe import GeneratingTask, LabellingTask, describe_generation

if TYPE_CHECKING:
    from hflm.recipe import Task
    from hflm.tasks import Example


class BenchmarkRows(Protocol):
    """The rows of a task: `shots` are solved examples before each prompt, `skipped` counts rows that were left out."""

    @property
    def task(self) -> Any: ...  # the recipe's task, of any kind
    @property
    def examples(self) -> "Sequence[Example]": ...
    @property
    def shots(self) -> "Sequence[Example]": ...
    @property
    def skipped(self) -> int: ...
    @property
    def where(self) -> str: ...
    @property
    def data_fingerprint(self) -> str: ...


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


@dataclass(frozen=True)
class _Questions:
    """The prompts of a task as the model gets them: `answer_length` in tokens, `truncated` prompts were cut to fit."""

    examples: "list[Example]"
    prompts: list[str]
    choices: tuple[str, ...]
    include_end: bool
    stop: tuple[str, ...]
    answer_length: int
    truncated: int
    decoding: str
    generation: dict[str, Any]


def _questions(model: LocalModel | Endpoint, rows: BenchmarkRows, context_length: int | None) -> _Questions:
    task = rows.task
    choices = tasks.choices(task) or ()
    include_end = isinstance(model, LocalModel) and isinstance(task, LabellingTask) and task.label_end
    max_new_tokens, stop, _ = tasks.task_settings(task)
    generation = (task.generation if isinstance(task, GeneratingTask) else None) or {}
    if isinstance(model, Endpoint):  # its tokens and its context are unknown here: prompts are sent whole
        examples, truncated, answer_length = list(rows.examples), 0, max_new_tokens or 0
    else:
        assert context_length is not None, "a local model has a context length"
        fitted, answer_length = fit_rows(model.tokenizer, rows, context_length)
        examples, truncated = fitted.examples, fitted.cut
    if choices:
        method = "the text begins with one" if isinstance(model, Endpoint) else "log-likelihood"
        decoding = f"{method} of {', '.join(choices)}"
        if include_end:
            decoding += ", each with the end of text"
    else:
        method = describe_generation(generation, transformers=isinstance(model, LocalModel))
        decoding = f"{method}, at most {answer_length} tokens, stop {json.dumps(list(stop))}"
    prompts = [example.prompt for example in tasks.with_shots(task, examples, list(rows.shots))]
    return _Questions(examples, prompts, choices, include_end, stop, answer_length, truncated, decoding, generation)


def fit_rows(tokenizer: Any, rows: BenchmarkRows, context_length: int) -> "tuple[TruncatedPrompts, int]":
    """The examples whose prompts leave room for shots and answer, and the tokens of the longest answer.

    Raises DataError for prompts that do not fit, unless the task leaves bad rows out.
    """
    budget, answer_length = _budget(tokenizer, rows, context_length)
    budgets = [budget] * len(rows.examples)
    full = f"the answer and the shots fill the {context_length} tokens of the model. Use fewer shots or max_new_tokens"
    return truncate_prompts(rows.task, rows.examples, tokenizer, budgets, rows.where, full), answer_length


def _budget(tokenizer: Any, rows: BenchmarkRows, context_length: int) -> tuple[int, int]:
    """Tokens of (a prompt without shots, the longest answer)."""
    task, first = rows.task, rows.examples[0]
    max_new_tokens, _, _ = tasks.task_settings(task)
    if choices := tasks.choices(task):
        ids = encode(tokenizer, [f" {choice}" for choice in choices])
        same = [choice for choice, each in zip(choices, ids, strict=True) if ids.count(each) > 1]
        if same:
            raise ModelError(
                f"{rows.where}: the labels {' and '.join(same)} are the same tokens for this tokenizer, so that the model "
                "cannot tell them apart. Choose other labels, or a tokenizer that knows them"
            )
        answer_length = max(map(len, ids))
    else:
        answer_length = min(max_new_tokens or 0, context_length // 2)
    shots = tasks.with_shots(task, [first], list(rows.shots))[0].prompt.removesuffix(first.prompt)
    budget = context_length - answer_length - len(encode(tokenizer, [shots])[0])
    return budget, answer_length


def _measure_rows(
    model: LocalModel | Endpoint, name: str, rows: BenchmarkRows, settings: BenchmarkSettings, partial: Path
) -> _Measured | None:
    """Prompts in, answers and their scores out."""
    questions = _questions(model, rows, settings.context_length)
    all_seeds = _row_seeds(settings.seed, questions.prompts)

    def answer(numbers: list[int], done: set[int]) -> Iterator[tuple[list[int], list[Any]]]:
        own = [questions.prompts[number] for number in numbers]
        seeds = [all_seeds[number] for number in numbers]
        if isinstance(model, LocalModel) and questions.choices:
            return model.likelihoods(own, questions.choices, done, include_end=questions.include_end)
        if isinstance(model, LocalModel):
            options = {"generation": questions.generation, "seeds": seeds}
            return model.texts(own, questions.answer_length, questions.stop, done, **options)
        return _ask_endpoint(model, questions, own, seeds, done)

    order = sorted(range(len(questions.prompts)), key=lambda number: len(questions.prompts[number]))
    key = [settings.key, _hash(questions.prompts), questions.decoding]
    answers = collect_answers(name, order, answer, partial, key)
    if answers is None:
        return None
    if questions.choices and isinstance(model, LocalModel):
        return _score_rows(
            rows.task, questions, [questions.choices[int(np.argmax(each))] for each in answers], answers, settings
        )
    return _score_rows(rows.task, questions, answers, None, settings)


def _row_seeds(seed: int, prompts: Sequence[str]) -> list[int]:
    """The seed of each sampled row, whatever its place, batch and process; below 2**31, which every endpoint takes.

    Rows of the same prompt have different ones.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed} {seen[prompt]} {prompt}".encode("utf-8", "surrogatepass")).digest()
        seeds.append(int.from_bytes(digest[:4]) // 2)
        seen[prompt] += 1
    return seeds


def _ask_endpoint(
    endpoint: Endpoint, questions: _Questions, prompts: list[str], seeds: list[int], done: set[int]
) -> Iterator[tuple[list[int], list[str]]]:
    waiting = [place for place in range(len(prompts)) if place not in done]
    own = [prompts[place] for place in waiting]
    if questions.choices:
        answers = endpoint.choices(own, questions.choices)
    else:
        options = request_options(questions.generation)
        own_seeds = [seeds[place] for place in waiting] if "temperature" in options else ()
        answers = endpoint.texts(own, questions.answer_length, questions.stop, options, own_seeds)
    return (([waiting[index]], [text]) for index, text in answers)


def _score_rows(
    task: "Task",
    questions: _Questions,
    texts: list[str],
    log_likelihoods: list[list[float]] | None,
    settings: BenchmarkSettings,
) -> _Measured:
    if task.kind == "qa":  # the word that stands for "no answer" is scored as the empty answer
        texts = ["" if text == tasks.UNANSWERABLE else text for text in texts]
    examples, names, options = questions.examples, tasks.task_settings(task)[2], tasks.metric_options(task)
    references = [example.references for example in examples]
    clusters = _clusters(examples)
    measured = metrics.measure(names, texts, references, clusters=clusters, **options)
    each = measured.each()
    lines = [
        {
            "id": example.id,
            "prompt": questions.prompts[number],
            "prediction": texts[number],
            "references": list(example.references),
            **_contamination_mark(settings.overlap, number),
            **({"cluster": clusters[number]} if clusters else {}),
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
            metric: score.value
            for metric, score in metrics.score(names, guesses, references, resamples=1, **options).items()
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
        "prompt_hash": _hash(questions.prompts),
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
    windows = [
        (document, window)
        for document, example in enumerate(rows.examples)
        for window in text_windows(model.tokenizer, example.target, settings.context_length)
    ]
    decoding = f"log-likelihood in windows of {settings.context_length} tokens that overlap by half"

    def answer(numbers: list[int], done: set[int]) -> Iterator[tuple[list[int], list[float]]]:
        return model.nats([windows[number][1] for number in numbers], done)

    nats = collect_answers(name, range(len(windows)), answer, partial, [settings.key, decoding])
    if nats is None:
        return None
    # One long text has no other parts to resample than its windows.
    by_window = len(rows.examples) == 1
    sums = np.zeros((len(windows) if by_window else len(rows.examples), 3))
    for number, (document, window) in enumerate(windows):
        sums[number if by_window else document] += nats[number], window.scored, window.bytes
    texts = [window.text for _, window in windows] if by_window else [example.target for example in rows.examples]
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
        "prompt_hash": _hash([]),
        "decoding": decoding,
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


def _hash(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
