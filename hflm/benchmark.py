"""Answer a task's examples with a model and score the answers.

Labels are chosen by their log-likelihood after the prompt; everything else is greedy text. Under several processes each
takes every n-th row, by length, and the first one scores.
"""

import hashlib
import json
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from hflm import answer, metrics, tasks
from hflm.results import TaskResult, write_text
from hflm.tasks.fit import fit
from hflm.tokenizer import encode


@dataclass(frozen=True)
class Setting:
    """How rows are answered and scored: tokens a batch, context in tokens, bootstrap resamples and their seed."""

    context_length: int
    batch_tokens: int
    resamples: int
    seed: int


def benchmark(model, tokenizer, name, material, setting, predictions):
    """Measure one task; write its predictions, one JSON object a line, to `predictions`; return its TaskResult.

    `material` holds the task, its examples and shots. On processes other than the first the result is None.
    Raises DataError for prompts that do not fit, ModelError for likelihoods that are not finite.
    """
    started = time.monotonic()
    answer.prepare(model, tokenizer)
    measure = _text if material.task.kind == "language_modeling" else _rows
    with torch.inference_mode():
        found = measure(model, tokenizer, name, material, setting)
    if found is None:
        return None
    lines, result = found
    write_text(predictions, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return TaskResult(
        kind=material.task.kind,
        n=len(material.examples),
        data=material.where,
        skipped=material.skipped,
        seconds=time.monotonic() - started,
        **result,
    )


def _rows(model, tokenizer, name, material, setting):
    """Prompts in, answers and their scores out: (lines of predictions, fields of TaskResult)."""
    task, shots = material.task, material.shots
    choices = tasks.choices(task)
    max_new_tokens, stop, names = tasks.defaults(task)
    if choices:
        answer_length = max(map(len, encode(tokenizer, [" " + choice for choice in choices])))
    else:
        answer_length = min(max_new_tokens, setting.context_length // 2)
    before = tasks.with_shots(task, [material.examples[0]], shots)[0].prompt.removesuffix(material.examples[0].prompt)
    room = setting.context_length - answer_length - len(encode(tokenizer, [before])[0])
    examples, truncated = fit(task, material.examples, tokenizer, [room] * len(material.examples), material.where)
    prompts = [example.prompt for example in tasks.with_shots(task, examples, shots)]

    own = _share(sorted(range(len(prompts)), key=lambda number: len(prompts[number])))
    asked = [prompts[number] for number in own]
    with _bar(name, len(own)) as progress:
        if choices:
            found = answer.label_likelihoods(model, tokenizer, asked, choices, setting.batch_tokens, progress).tolist()
        else:
            found = answer.generate_texts(model, tokenizer, asked, answer_length, stop, setting.batch_tokens, progress)
    answered = dict(gather_object(list(zip(own, found, strict=True))))
    if not PartialState().is_main_process:
        return None
    found = [answered[number] for number in range(len(prompts))]
    texts = [choices[int(np.argmax(each))] for each in found] if choices else found
    if task.kind == "qa":  # the word that stands for "no answer" is scored as the empty answer
        texts = ["" if text == tasks.UNANSWERABLE else text for text in texts]
    references = [example.references for example in examples]
    scores = metrics.score(names, texts, references, labels=choices, resamples=setting.resamples, seed=setting.seed)
    each = metrics.per_example(names, texts, references, labels=choices)
    lines = [
        {
            "id": example.id,
            "prompt": prompts[number],
            "prediction": texts[number],
            "references": list(example.references),
            "scores": {metric: values[number] for metric, values in each.items()},
            **({"log_likelihoods": dict(zip(choices, found[number], strict=True))} if choices else {}),
        }
        for number, example in enumerate(examples)
    ]
    baselines = {
        baseline: metrics.score(names, guesses, references, labels=choices, resamples=1)
        for baseline, guesses in tasks.baselines(task, examples).items()
    }
    decoding = (
        f"log-likelihood of {', '.join(choices)}"
        if choices
        else f"greedy, at most {answer_length} tokens, stop {json.dumps(list(stop))}"
    )
    return lines, {
        "metrics": scores,
        "baselines": {
            baseline: {metric: score.value for metric, score in found.items()} for baseline, found in baselines.items()
        },
        "prompt_hash": _hash(prompts),
        "decoding": f"{decoding}, {len(shots)} shots" if shots else decoding,
        "truncated": truncated,
    }


def _text(model, tokenizer, name, material, setting):
    """Perplexity and bits per byte of held-out text: (lines of predictions, fields of TaskResult)."""
    windows = [
        (document, window)
        for document, example in enumerate(material.examples)
        for window in answer.text_windows(tokenizer, example.target, setting.context_length)
    ]
    own = _share(range(len(windows)))
    with _bar(name, len(own)) as progress:
        mine = [windows[number][1] for number in own]
        found = answer.window_nats(model, mine, tokenizer.pad_token_id, setting.batch_tokens, progress).tolist()
    nats = dict(gather_object(list(zip(own, found, strict=True))))
    if not PartialState().is_main_process:
        return None
    # One long text has no other parts to resample than its windows.
    alone = len(material.examples) == 1
    sums = np.zeros((len(windows) if alone else len(material.examples), 3))
    for number, (document, (_, scored, size)) in enumerate(windows):
        sums[number if alone else document] += nats[number], scored, size
    lines = [
        {"id": str(unit), "nats": total, "tokens": int(tokens), "bytes": int(size)}
        for unit, (total, tokens, size) in enumerate(sums.tolist())
    ]
    return lines, {
        "metrics": metrics.language_modeling(*sums.T, resamples=setting.resamples, seed=setting.seed),
        "baselines": {},
        "prompt_hash": _hash([]),
        "decoding": f"log-likelihood in windows of {setting.context_length} tokens that overlap by half",
        "truncated": 0,
    }


def _share(numbers):
    """This process's part of the row numbers."""
    state = PartialState()
    return list(numbers)[state.process_index :: state.num_processes]


def _bar(name, total):
    watched = PartialState().is_main_process and sys.stderr.isatty()
    return tqdm(total=total, desc=f"benchmark {name}", unit="row", disable=not watched, dynamic_ncols=True)


def _hash(prompts):
    return hashlib.sha256("\n".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
