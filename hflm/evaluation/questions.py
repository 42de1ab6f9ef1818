"""What a task asks of a model, the answers of all processes, and their scores.

The benchmark and the evaluations during training ask and score by this code, so that their numbers are the same.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hflm import tasks
from hflm.core import ModelError
from hflm.evaluation import metrics
from hflm.evaluation.answers import collect_answers
from hflm.inference import Endpoint, LocalModel, TextWindow, request_options, text_windows, turn_windows
from hflm.preprocessing import (
    TruncatedPrompts,
    encode,
    encode_conversations,
    ensure_chat_template,
    fit_for_answer,
    render_chat,
    truncate_prompts,
)
from hflm.recipe import GeneratingTask, LabellingTask, describe_generation
from hflm.tasks import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.evaluation.metrics import Measured
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
class Questions:
    """The prompts of a task as the model gets them: `answer_length` in tokens, `truncated` prompts were cut to fit.

    `turns` are (number of the row, one of the assistant's turns) of conversations whose likelihood is measured.
    """

    task: "Task"
    examples: "list[Example]"
    prompts: list[str]
    choices: tuple[str, ...]
    include_end: bool
    stop: tuple[str, ...]
    answer_length: int
    truncated: int
    decoding: str
    generation: dict[str, Any]
    turns: Sequence[tuple[int, TextWindow]] = ()

    @property
    def prompt_hash(self) -> str:
        return hash_prompts(self.prompts)


@dataclass(frozen=True)
class Passages:
    """Text whose likelihood is measured: (number of the document, one of its windows) of each window."""

    windows: list[tuple[int, TextWindow]]
    documents: int
    decoding: str


def prepare_questions(
    tokenizer: "PreTrainedTokenizerFast | None", rows: BenchmarkRows, context_length: int | None
) -> Questions:
    """The questions of a task. An endpoint has neither a tokenizer nor a known context: its prompts are sent whole.

    Raises DataError for prompts that do not fit.
    """
    task = rows.task
    choices = tasks.choices(task) or ()
    include_end = tokenizer is not None and isinstance(task, LabellingTask) and task.label_end
    max_new_tokens, stop, _ = tasks.task_settings(task)
    generation = (task.generation if isinstance(task, GeneratingTask) else None) or {}
    if tokenizer is None:
        examples, truncated, answer_length = list(rows.examples), 0, max_new_tokens or 0
    else:
        assert context_length is not None, "a local model has a context length"
        fitted, answer_length = fit_rows(tokenizer, rows, context_length)
        examples, truncated = fitted.examples, fitted.cut
    if choices:
        method = "the text begins with one" if tokenizer is None else "log-likelihood"
        decoding = f"{method} of {', '.join(choices)}"
        if include_end:
            decoding += ", each with the end of text"
    else:
        method = describe_generation(generation, transformers=tokenizer is not None)
        decoding = f"{method}, at most {answer_length} tokens, stop {json.dumps(list(stop))}"
    turns: Sequence[tuple[int, TextWindow]] = ()
    if isinstance(task, Chat):
        prompts, decoding = _conversation_prompts(tokenizer, examples, decoding)
        turns = _turns(task, tokenizer, examples, context_length)
    else:
        prompts = [example.prompt for example in tasks.with_shots(task, examples, list(rows.shots))]
    return Questions(
        task, examples, prompts, choices, include_end, stop, answer_length, truncated, decoding, generation, turns
    )


def _conversation_prompts(
    tokenizer: "PreTrainedTokenizerFast | None", examples: "Sequence[Example]", decoding: str
) -> tuple[list[str], str]:
    """(what the model reads of each conversation, how it is asked): an endpoint gets the turns as JSON."""
    earlier = [tasks.conversation(example)[:-1] for example in examples]
    if tokenizer is None:
        asked = [json.dumps(turns, ensure_ascii=False) for turns in earlier]
        return asked, f"{decoding}, by the endpoint's chat template"
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:8]
    return [render_chat(tokenizer, turns) for turns in earlier], f"{decoding}, chat template {template}"


def _turns(
    task: Chat, tokenizer: "PreTrainedTokenizerFast | None", examples: "Sequence[Example]", context_length: int | None
) -> list[tuple[int, TextWindow]]:
    if (
        tokenizer is None
        or context_length is None
        or not set(tasks.task_settings(task).metrics) & set(tasks.LIKELIHOOD)
    ):
        return []
    conversations = encode_conversations(tokenizer, [tasks.conversation(example) for example in examples])
    return [(row, window) for row, each in enumerate(conversations) for window in turn_windows(each, context_length)]


def prepare_passages(tokenizer: "PreTrainedTokenizerFast", rows: BenchmarkRows, context_length: int) -> Passages:
    """The windows of the texts of a language_modeling task."""
    windows = [
        (document, window)
        for document, example in enumerate(rows.examples)
        for window in text_windows(tokenizer, example.target, context_length)
    ]
    decoding = f"log-likelihood in windows of {context_length} tokens that overlap by half"
    return Passages(windows, len(rows.examples), decoding)


def fit_rows(tokenizer: Any, rows: BenchmarkRows, context_length: int) -> "tuple[TruncatedPrompts, int]":
    """The examples whose prompts leave room for shots and answer, and the tokens of the longest answer.

    Raises DataError for prompts that do not fit, unless the task leaves bad rows out.
    """
    if isinstance(rows.task, Chat):
        ensure_chat_template(tokenizer)
        answer_length = min(tasks.task_settings(rows.task).max_new_tokens or 0, context_length // 2)
        room = context_length - answer_length
        return fit_for_answer(rows.task, rows.examples, tokenizer, room, rows.where), answer_length
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


def answer_questions(
    model: LocalModel | Endpoint,
    name: str,
    questions: Questions,
    seed: int = 0,
    folder: Path | None = None,
    key: str = "",
) -> list[Any] | None:
    """The answer to each question: a text, or one log-likelihood a choice. None on processes other than the first.

    seed: of sampled texts. With a `folder` the answers of a benchmark that was stopped, of the same `key`, are taken from there.
    """
    all_seeds = _row_seeds(seed, questions.prompts)
    if isinstance(model, LocalModel) and isinstance(questions.task, Chat):
        model = replace(model, rendered=True)

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
    return collect_answers(name, order, answer, folder, [key, questions.prompt_hash, questions.decoding])


def read_turns(
    model: LocalModel | Endpoint, name: str, questions: Questions, folder: Path | None = None, key: str = ""
) -> np.ndarray | None:
    """(nats, tokens, bytes) of the assistant's turns of each conversation (n, 3); None where no metric needs them, and on
    processes other than the first.
    """
    if not questions.turns or not isinstance(model, LocalModel):
        return None

    def answer(numbers: list[int], done: set[int]) -> Iterator[tuple[list[int], list[float]]]:
        return model.nats([questions.turns[number][1] for number in numbers], done)

    if folder is not None:
        folder = folder / "turns"
        folder.mkdir(parents=True, exist_ok=True)
    order = range(len(questions.turns))
    nats = collect_answers(f"{name}: likelihoods", order, answer, folder, [key, len(order)])
    if nats is None:
        return None
    sums = np.zeros((len(questions.examples), 3))
    for number, (row, window) in enumerate(questions.turns):
        sums[row] += nats[number], window.scored, window.bytes
    return sums


def read_passages(
    model: LocalModel, name: str, passages: Passages, folder: Path | None = None, key: str = ""
) -> list[float] | None:
    """The summed -log p of each window, in nats; otherwise as `answer_questions`."""

    def answer(numbers: list[int], done: set[int]) -> Iterator[tuple[list[int], list[float]]]:
        return model.nats([passages.windows[number][1] for number in numbers], done)

    return collect_answers(name, range(len(passages.windows)), answer, folder, [key, passages.decoding])


def texts_of(questions: Questions, answers: Sequence[Any]) -> list[str]:
    """The answers as texts: of log-likelihoods the most likely choice; no answer to a question is the empty text."""
    texts = [each if isinstance(each, str) else questions.choices[int(np.argmax(each))] for each in answers]
    if questions.task.kind == "qa":
        texts = ["" if text == tasks.UNANSWERABLE else text for text in texts]
    return texts


def measure_texts(
    questions: Questions,
    texts: Sequence[str],
    clusters: Sequence[str] | None = None,
    likelihood: np.ndarray | None = None,
) -> "Measured":
    """The task's metrics of some texts, one a question; `clusters` of questions are resampled as a whole.

    likelihood: what `read_turns` found, for the metrics that need it.
    """
    references = [example.references for example in questions.examples]
    names = tasks.task_settings(questions.task).metrics
    options = tasks.metric_options(questions.task)
    return metrics.measure_all(names, texts, references, likelihood, clusters=clusters, **options)


def passage_sums(passages: Passages, nats: Sequence[float]) -> np.ndarray:
    """(nats, tokens, bytes) of each document; of a single one of each window, the only parts it has: (n, 3)."""
    by_window = passages.documents == 1
    sums = np.zeros((len(passages.windows) if by_window else passages.documents, 3))
    for number, (document, window) in enumerate(passages.windows):
        sums[number if by_window else document] += nats[number], window.scored, window.bytes
    return sums


def hash_prompts(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


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
    endpoint: Endpoint, questions: Questions, prompts: list[str], seeds: list[int], done: set[int]
) -> Iterator[tuple[list[int], list[str]]]:
    waiting = [place for place in range(len(prompts)) if place not in done]
    own = [prompts[place] for place in waiting]
    if questions.choices:
        answers = endpoint.choices(own, questions.choices)
    else:
        options = request_options(questions.generation)
        own_seeds = [seeds[place] for place in waiting] if "temperature" in options else ()
        asked = [json.loads(prompt) for prompt in own] if isinstance(questions.task, Chat) else own
        answers = endpoint.texts(asked, questions.answer_length, questions.stop, options, own_seeds)
    return (([waiting[index]], [text]) for index, text in answers)
