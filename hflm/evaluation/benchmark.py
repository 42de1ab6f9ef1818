"""Answer a task's examples with a model and score the answers.

Labels are chosen by their log-likelihood after the prompt; everything else is greedy text. Under several processes each
takes every n-th row, by length, and the first one scores. Answers are kept as they come: a benchmark that was stopped
goes on where it was.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from hflm import tasks
from hflm.core import atomic_write_text, read_json_lines
from hflm.data import data_fingerprint
from hflm.evaluation import metrics, slices
from hflm.evaluation.contamination import Overlap
from hflm.evaluation.metrics.calibration import calibration
from hflm.evaluation.results import Contamination, TaskResult
from hflm.inference import local as answer
from hflm.inference.endpoint import Endpoint
from hflm.preprocessing import encode, truncate_prompts


@dataclass(frozen=True)
class Setting:
    """How rows are answered and scored: context in tokens, bootstrap resamples and their seed.

    `context_length` is None for an endpoint. `key` stands for all that the answers depend on: kept answers of another key are not used.
    `model_revision` is a Hub commit or the fingerprint of the model's files. `overlap` is the contamination.Overlap of
    the rows with the training text, where that is known.
    """

    context_length: int | None
    resamples: int
    seed: int
    key: str
    model_revision: str | None
    overlap: Overlap | None = None


def benchmark(asked, name, material, setting, predictions):
    """Measure one task; write its predictions, one JSON object a line, to `predictions`; return its TaskResult.

    `asked` is an answer.Local or an Endpoint, `material` holds the task, its examples and shots. On processes other
    than the first the result is None. Raises DataError for prompts that do not fit, ModelError for likelihoods that
    are not finite, EndpointError where an endpoint fails; what was answered until then is kept.
    """
    measure = _text if material.task.kind == "language_modeling" else _rows
    with torch.inference_mode():
        found = measure(asked, name, material, setting, predictions.with_suffix(".partial"))
    if found is None:
        return None
    lines, result = found
    atomic_write_text(predictions, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    shutil.rmtree(predictions.with_suffix(".partial"))
    return TaskResult(
        kind=material.task.kind,
        n=len(material.examples),
        data=material.where,
        data_fingerprint=data_fingerprint(material.task.data),
        model_revision=setting.model_revision,
        shots=len(material.shots),
        skipped=material.skipped,
        **result,
    )


def _rows(asked, name, material, setting, kept):
    """Prompts in, answers and their scores out: (lines of predictions, fields of TaskResult)."""
    task, shots = material.task, material.shots
    choices = tasks.choices(task)
    max_new_tokens, stop, names = tasks.defaults(task)
    remote = isinstance(asked, Endpoint)
    if remote:  # its tokens and context are not known here: prompts are sent whole
        examples, truncated, answer_length = material.examples, 0, max_new_tokens
    else:
        examples, truncated, answer_length = _fitted(asked.tokenizer, material, setting.context_length)
    prompts = [example.prompt for example in tasks.with_shots(task, examples, shots)]
    if choices:
        decoding = f"{'the text begins with one' if remote else 'log-likelihood'} of {', '.join(choices)}"
    else:
        decoding = f"greedy, at most {answer_length} tokens, stop {json.dumps(list(stop))}"

    def answers(numbers, done):
        own = [prompts[number] for number in numbers]
        if remote:
            waiting = [place for place in range(len(own)) if place not in done]
            asking = [own[place] for place in waiting]
            found = asked.choices(asking, choices) if choices else asked.texts(asking, answer_length, stop)
            return (([waiting[index]], [text]) for index, text in found)
        return asked.likelihoods(own, choices, done) if choices else asked.texts(own, answer_length, stop, done)

    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found = _answered(name, order, answers, kept, [setting.key, _hash(prompts), decoding])
    if found is None:
        return None
    likelihoods = found if choices and not remote else None
    texts = [choices[int(np.argmax(each))] for each in likelihoods] if likelihoods else found
    if task.kind == "qa":  # the word that stands for "no answer" is scored as the empty answer
        texts = ["" if text == tasks.UNANSWERABLE else text for text in texts]
    references = [example.references for example in examples]
    scoring = tasks.scoring(task)
    measured = metrics.measure(names, texts, references, **scoring)
    bootstrap = {"resamples": setting.resamples, "seed": setting.seed}
    each = measured.each()
    lines = [
        {
            "id": example.id,
            "prompt": prompts[number],
            "prediction": texts[number],
            "references": list(example.references),
            **_mark(setting.overlap, number),
            "scores": {metric: values[number] for metric, values in each.items()},
            **({"log_likelihoods": dict(zip(choices, likelihoods[number], strict=True))} if likelihoods else {}),
        }
        for number, example in enumerate(examples)
    ]
    baselines = {
        baseline: metrics.score(names, guesses, references, resamples=1, **scoring)
        for baseline, guesses in tasks.baselines(task, examples).items()
    }
    scores = measured.scores(**bootstrap)
    return lines, {
        "metrics": scores,
        "contamination": _contamination(setting.overlap, scores, lambda rows: measured.scores(rows, **bootstrap)),
        "slices": slices.slices(task, examples, measured, [len(prompt) for prompt in prompts], **bootstrap),
        "calibration": likelihoods
        and calibration(likelihoods, [text in right for text, right in zip(texts, references, strict=True)]),
        "baselines": {
            baseline: {metric: score.value for metric, score in found.items()} for baseline, found in baselines.items()
        },
        "prompt_hash": _hash(prompts),
        "decoding": decoding,
        "truncated": truncated,
    }


def _fitted(tokenizer, material, context_length):
    """Examples that leave room for shots and answer: (examples, how many were cut, tokens of the longest answer)."""
    task, first = material.task, material.examples[0]
    max_new_tokens, _, _ = tasks.defaults(task)
    if choices := tasks.choices(task):
        answer_length = max(map(len, encode(tokenizer, [" " + choice for choice in choices])))
    else:
        answer_length = min(max_new_tokens, context_length // 2)
    before = tasks.with_shots(task, [first], material.shots)[0].prompt.removesuffix(first.prompt)
    room = context_length - answer_length - len(encode(tokenizer, [before])[0])
    rooms = [room] * len(material.examples)
    return *truncate_prompts(task, material.examples, tokenizer, rooms, material.where), answer_length


def _text(asked, name, material, setting, kept):
    """Perplexity and bits per byte of held-out text: (lines of predictions, fields of TaskResult)."""
    windows = [
        (document, window)
        for document, example in enumerate(material.examples)
        for window in answer.text_windows(asked.tokenizer, example.target, setting.context_length)
    ]
    decoding = f"log-likelihood in windows of {setting.context_length} tokens that overlap by half"

    def answers(numbers, done):
        return asked.nats([windows[number][1] for number in numbers], done)

    nats = _answered(name, range(len(windows)), answers, kept, [setting.key, decoding])
    if nats is None:
        return None
    # One long text has no other parts to resample than its windows.
    alone = len(material.examples) == 1
    sums = np.zeros((len(windows) if alone else len(material.examples), 3))
    for number, (document, (_, scored, size)) in enumerate(windows):
        sums[number if alone else document] += nats[number], scored, size
    lines = [
        {
            "id": str(unit),
            "nats": total,
            "tokens": int(tokens),
            "bytes": int(size),
            **_mark(setting.overlap, 0 if alone else unit),
        }
        for unit, (total, tokens, size) in enumerate(sums.tolist())
    ]

    wanted = tasks.defaults(material.task)[2]

    def scores_of(rows):
        scores = metrics.language_modeling(*sums[rows].T, resamples=setting.resamples, seed=setting.seed)
        return {metric: scores[metric] for metric in wanted}

    scores = scores_of(slice(None))
    return lines, {
        "metrics": scores,
        "contamination": _contamination(setting.overlap, scores, scores_of),
        "baselines": {},
        "prompt_hash": _hash([]),
        "decoding": decoding,
        "truncated": 0,
    }


def _mark(overlap, number):
    """What a line of predictions says of its row; windows of a running text are not its lines."""
    return {} if overlap is None or overlap.lines else {"contaminated": bool(overlap.contaminated[number])}


def _contamination(overlap, scores, scores_of):
    """The results' Contamination; `scores_of(rows)` scores the rows of those numbers alone."""
    if overlap is None:
        return None
    clean = np.flatnonzero(~overlap.contaminated)
    if overlap.lines or len(clean) < slices.FEWEST_ROWS:
        without = {}
    else:
        without = scores if len(clean) == len(overlap.contaminated) else scores_of(clean)
    return Contamination(
        of="lines" if overlap.lines else "examples",
        n=len(overlap.contaminated),
        words=overlap.n,
        contaminated=int(overlap.contaminated.sum()),
        near_copies=overlap.near_copies,
        overlap=float(overlap.shares.mean()),
        against=overlap.against,
        clean=without,
    )


def _answered(name, order, answers, kept, key):
    """The answer to each of the rows in `order`, by row number; None on processes other than the first.

    `answers(numbers, done)` yields (places in numbers, answers) by batches. Each batch becomes a line of this process's
    file in the folder `kept`; what an earlier, stopped benchmark of the same key left there is not asked again.
    """
    state = PartialState()
    own = list(order)[state.process_index :: state.num_processes]
    earlier = {}
    for path in sorted(kept.glob("*.jsonl")):
        lines = read_json_lines(path)
        if lines and lines[0] == key:
            earlier |= {number: found for numbers, answered in lines[1:] for number, found in zip(numbers, answered)}
    state.wait_for_everyone()
    found = {number: earlier[number] for number in own if number in earlier}
    path = kept / f"{state.process_index}.jsonl"
    # Written anew, so that a line which a kill left torn does not spoil the next one.
    atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in (key, [list(found), list(found.values())])))
    done = {place for place, number in enumerate(own) if number in found}
    with _bar(name, len(own), len(found)) as progress, open(path, "a", encoding="utf-8") as file:
        for places, batch in answers(own, done):
            numbers = [own[place] for place in places]
            file.write(json.dumps([numbers, batch]) + "\n")
            file.flush()
            found |= dict(zip(numbers, batch, strict=True))
            progress.update(len(batch))
    everything = dict(gather_object(list(found.items())))
    return [everything[number] for number in range(len(everything))] if state.is_main_process else None


def _bar(name, total, done):
    watched = PartialState().is_main_process and sys.stderr.isatty()
    return tqdm(
        total=total, initial=done, desc=f"benchmark {name}", unit="row", disable=not watched, dynamic_ncols=True
    )


def _hash(prompts):
    return hashlib.sha256("\n".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
