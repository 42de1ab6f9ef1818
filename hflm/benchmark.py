"""Answer a task's examples with a model, in batches, and score the answers.

Rows are sorted by length and share a budget of tokens a batch; prompts are padded on the left. Labels are chosen by
their log-likelihood after the prompt, which is computed once for all labels. Under several processes each takes every
n-th row, and the first one scores.
"""

import hashlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import GenerationConfig, StoppingCriteria

from hflm import metrics, tasks
from hflm.errors import DataError
from hflm.results import TaskResult, write_text
from hflm.tasks.fit import fit
from hflm.tokenizer import encode

MOST_LOGITS = 2**26  # of one batch of text, 256 MB in fp32
STOP_TAIL = 16  # newest tokens that are searched for a stop string at each step


@dataclass(frozen=True)
class Material:
    """A task's rows as they were read: `examples` to answer, solved `shots` to show before each of them."""

    task: object
    examples: list
    shots: list
    skipped: int
    where: str


def benchmark(model, tokenizer, material, context_length, *, batch_tokens, resamples, seed, predictions, name):
    """Run one task; write its predictions, one JSON object a line, to `predictions`; return its TaskResult.

    On processes other than the first the TaskResult is None. Raises DataError for prompts that do not fit.
    """
    started = time.monotonic()
    model.eval()
    # Whatever the model's own generation settings are (a temperature, a repetition penalty), the benchmark is greedy.
    ends = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])})
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    answer = _likelihood if material.task.kind == "language_modeling" else _answers
    with torch.inference_mode():
        return answer(
            model,
            tokenizer,
            material,
            context_length,
            batch_tokens=batch_tokens,
            resamples=resamples,
            seed=seed,
            predictions=predictions,
            name=name,
            started=started,
        )


def generate_texts(model, tokenizer, prompts, max_new_tokens, stop, batch_tokens, progress=None):
    """Greedy continuations of each prompt, cut before the first stop string, without outer white space."""
    ids = encode(tokenizer, prompts)
    texts = [""] * len(prompts)
    for batch in batches([len(prompt) + max_new_tokens for prompt in ids], batch_tokens):
        input_ids, attention_mask = _left_padded(
            [ids[number] for number in batch], tokenizer.pad_token_id, model.device
        )
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stopping_criteria=[StopAt(stop, tokenizer, input_ids.shape[1])] if stop else None,
        )
        for number, row in zip(batch, output[:, input_ids.shape[1] :], strict=True):
            texts[number] = cut_at(tokenizer.decode(row, skip_special_tokens=True), stop).strip()
        if progress is not None:
            progress.update(len(batch))
    return texts


def label_likelihoods(model, tokenizer, prompts, choices, batch_tokens, progress=None):
    """log P(" choice" | prompt) in nats, an array (len(prompts), len(choices)).

    The prompt runs once; all first tokens are read from its last position, and longer choices continue its cache.
    """
    ids = encode(tokenizer, prompts)
    labels = encode(tokenizer, [" " + choice for choice in choices])
    found = np.zeros((len(prompts), len(choices)))
    for batch in batches([len(prompt) + max(map(len, labels)) for prompt in ids], batch_tokens):
        input_ids, mask = _left_padded([ids[number] for number in batch], tokenizer.pad_token_id, model.device)
        # Counted without the padding, as generate() counts.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        first = output.logits[:, -1].float().log_softmax(-1)  # (B, V)
        for column, label in enumerate(labels):
            total = first[:, label[0]]
            if len(label) > 1:
                rest = torch.tensor([label[:-1]], device=model.device).expand(len(batch), -1)
                steps = torch.arange(1, len(label), device=model.device)
                continued = model(
                    input_ids=rest,
                    attention_mask=torch.cat([mask, torch.ones_like(rest)], dim=1),
                    position_ids=positions[:, -1:] + steps,
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
                logs = continued.logits.float().log_softmax(-1)  # (B, len(label) - 1, V)
                for step, token in enumerate(label[1:]):
                    total = total + logs[:, step, token]
                output.past_key_values.crop(input_ids.shape[1])
            found[batch, column] = total.cpu().numpy()
        if progress is not None:
            progress.update(len(batch))
    return found


def text_windows(tokenizer, text, context_length):
    """Cut a text for scoring: a list of (ids, scored, bytes).

    Every token of the text is predicted exactly once, the first one from the begin-of-text token. Windows of
    `context_length` overlap by half, so that all but the first half window have at least half a context before them;
    the last `scored` ids of a window count, and `bytes` are the UTF-8 bytes that they spell.
    """
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [begin, *encoding.ids]
    windows, done, spelt = [], 1, 0
    while done < len(ids):
        end = min(len(ids), done + (context_length - 1 if done == 1 else context_length // 2))
        last = len(text) if end == len(ids) else encoding.offsets[end - 2][1]
        windows.append((ids[max(0, end - context_length) : end], end - done, len(text[spelt:last].encode())))
        done, spelt = end, last
    return windows


def window_nats(model, windows, pad_token_id, batch_tokens, progress=None):
    """The summed -log p, in nats, of the scored tokens of each window: an array (len(windows),)."""
    budget = min(batch_tokens, max(1, MOST_LOGITS // model.config.vocab_size))
    nats = np.zeros(len(windows))
    for batch in batches([len(ids) for ids, _, _ in windows], budget):
        length = max(len(windows[number][0]) for number in batch)
        ids = torch.full((len(batch), length), pad_token_id)
        mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, number in enumerate(batch):
            window, count, _ = windows[number]
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
            scored[row, len(window) - count : len(window)] = 1
        ids, mask, scored = ids.to(model.device), mask.to(model.device), scored.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        nats[batch] = (losses.double() * scored[:, 1:]).sum(1).cpu().numpy()
        if progress is not None:
            progress.update(len(batch))
    return nats


def batches(lengths, budget):
    """Group row numbers, longest first, so that a padded batch holds at most `budget` tokens (or a single row).

    >>> list(batches([2, 9, 3, 8], budget=16))
    [[1], [3, 2], [0]]
    """
    batch, longest = [], 0
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        longest = longest if batch else lengths[number]
        batch.append(number)
    if batch:
        yield batch


def cut_at(text, stop):
    """The text before the first of the stop strings.

    >>> cut_at(" Paris\\nQuestion: ...", ["\\n"])
    ' Paris'
    """
    # A stop string at the very beginning (a model that opens with a line break) would leave nothing to score.
    start = len(text) - len(text.lstrip())
    ends = [end for end in (text.find(mark, start) for mark in stop) if end >= 0]
    return text[: min(ends)] if ends else text


class StopAt(StoppingCriteria):
    """Ends a row when its new text holds a stop string after something that is not white space."""

    def __init__(self, stop, tokenizer, prompt_length):
        self.stop, self.tokenizer, self.prompt_length = stop, tokenizer, prompt_length
        self.begun = None

    def __call__(self, input_ids, scores, **_):
        new = input_ids[:, self.prompt_length :]
        if self.begun is None:
            self.begun = [False] * len(new)
        ended = []
        for row, text in enumerate(self.tokenizer.batch_decode(new[:, -STOP_TAIL:], skip_special_tokens=True)):
            inner = text if self.begun[row] else text.lstrip()
            self.begun[row] = self.begun[row] or bool(inner)
            ended.append(any(mark in inner for mark in self.stop))
        return torch.tensor(ended, device=input_ids.device)


def _answers(model, tokenizer, material, context_length, *, batch_tokens, resamples, seed, predictions, name, started):
    """The four tasks, generation and choice: prompts in, answers and their scores out."""
    task, state = material.task, PartialState()
    choices = tasks.choices(task)
    max_new_tokens, stop, names = tasks.defaults(task)
    if choices:
        answer_length = max(map(len, encode(tokenizer, [" " + choice for choice in choices])))
    else:
        answer_length = min(max_new_tokens, context_length // 2)
    shown = len(encode(tokenizer, [tasks.with_shots(task, material.examples[:1], material.shots)[0].prompt])[0])
    shown -= len(encode(tokenizer, [material.examples[0].prompt])[0])
    room = context_length - answer_length - shown
    examples, truncated = fit(task, material.examples, tokenizer, [room] * len(material.examples), material.where)
    prompts = [example.prompt for example in tasks.with_shots(task, examples, material.shots)]
    own = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))[
        state.process_index :: state.num_processes
    ]
    with _bar(name, len(own), state) as progress:
        if choices:
            found = label_likelihoods(
                model, tokenizer, [prompts[number] for number in own], choices, batch_tokens, progress
            )
            mine = [(number, choices[int(row.argmax())], row.tolist()) for number, row in zip(own, found, strict=True)]
        else:
            texts = generate_texts(
                model, tokenizer, [prompts[number] for number in own], answer_length, stop, batch_tokens, progress
            )
            mine = [(number, text, None) for number, text in zip(own, texts, strict=True)]
    answered = sorted(gather_object(mine))
    if not state.is_main_process:
        return None
    texts = [text for _, text, _ in answered]
    references = [example.references for example in examples]
    if task.kind == "qa":  # the word that stands for "no answer" is scored as the empty answer
        texts = ["" if text == tasks.UNANSWERABLE else text for text in texts]
    scores = metrics.score(names, texts, references, labels=choices, resamples=resamples, seed=seed)
    baselines = {
        baseline: {
            metric: score.value
            for metric, score in metrics.score(names, answers, references, labels=choices, resamples=1).items()
        }
        for baseline, answers in tasks.baselines(task, examples).items()
    }
    each = metrics.per_example(names, texts, references, labels=choices)
    lines = []
    for number, (example, prompt, text) in enumerate(zip(examples, prompts, texts, strict=True)):
        line = {
            "id": example.id,
            "prompt": prompt,
            "prediction": text,
            "references": list(example.references),
            "scores": {metric: values[number] for metric, values in each.items()},
        }
        if choices:
            line["log_likelihoods"] = dict(zip(choices, answered[number][2], strict=True))
        lines.append(line)
    _write_lines(predictions, lines)
    decoding = (
        f"log-likelihood of {', '.join(choices)}"
        if choices
        else f"greedy, at most {answer_length} tokens, stop {json.dumps(list(stop))}"
    )
    return TaskResult(
        kind=task.kind,
        n=len(examples),
        metrics=scores,
        baselines=baselines,
        data=material.where,
        prompt_hash=_hash("\n".join(prompts)),
        decoding=decoding + (f", {len(material.shots)} shots" if material.shots else ""),
        truncated=truncated,
        skipped=material.skipped,
        seconds=time.monotonic() - started,
    )


def _likelihood(
    model, tokenizer, material, context_length, *, batch_tokens, resamples, seed, predictions, name, started
):
    """Language modelling: perplexity and bits per byte of held-out text."""
    state = PartialState()
    windows = [
        (document, *window)
        for document, example in enumerate(material.examples)
        for window in text_windows(tokenizer, example.target, context_length)
    ]
    own = list(range(len(windows)))[state.process_index :: state.num_processes]
    with _bar(name, len(own), state) as progress:
        nats = window_nats(
            model, [windows[number][1:] for number in own], tokenizer.pad_token_id, batch_tokens, progress
        )
    gathered = dict(gather_object(list(zip(own, nats.tolist(), strict=True))))
    if not state.is_main_process:
        return None
    if not all(map(math.isfinite, gathered.values())):
        raise DataError(f"tasks.{name}: the model's likelihoods are not finite numbers: it diverged in training")
    # One long text has no other parts to resample than its windows.
    units = [window[0] if len(material.examples) > 1 else number for number, window in enumerate(windows)]
    sums = np.zeros((max(units) + 1, 3))
    for number, (unit, (_, _, scored, size)) in enumerate(zip(units, windows, strict=True)):
        sums[unit] += gathered[number], scored, size
    scores = metrics.language_modeling(*sums.T, resamples=resamples, seed=seed)
    _write_lines(
        predictions,
        [
            {"id": str(unit), "nats": nats, "tokens": int(tokens), "bytes": int(size)}
            for unit, (nats, tokens, size) in enumerate(sums.tolist())
        ],
    )
    return TaskResult(
        kind="language_modeling",
        n=len(material.examples),
        metrics=scores,
        baselines={},
        data=material.where,
        prompt_hash=_hash(""),
        decoding=f"log-likelihood in windows of {context_length} tokens that overlap by half",
        truncated=0,
        skipped=material.skipped,
        seconds=time.monotonic() - started,
    )


def _left_padded(ids, pad_token_id, device):
    """Lists of ids -> (input_ids, attention_mask), each (B, T) int64."""
    length = max(map(len, ids))
    padded = [[pad_token_id] * (length - len(row)) + row for row in ids]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def _bar(name, total, state):
    shown = state.is_main_process and sys.stderr.isatty()
    return tqdm(total=total, desc=f"benchmark {name}", unit="row", disable=not shown, dynamic_ncols=True)


def _hash(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _write_lines(path, lines):
    os.makedirs(path.parent, exist_ok=True)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
