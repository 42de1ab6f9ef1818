"""Scores of tasks while a model trains, by the benchmark's own code."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hflm import tasks
from hflm.evaluation import metrics
from hflm.evaluation.questions import (
    BenchmarkRows,
    Passages,
    Questions,
    answer_questions,
    measure_texts,
    passage_sums,
    prepare_passages,
    prepare_questions,
    read_passages,
    read_turns,
    texts_of,
)
from hflm.evaluation.results import main_metrics
from hflm.inference import LocalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TrainingScores:
    """Measures tasks with a model in training: all processes answer, the first scores, all get the scores.

    The prompts are prepared once. `rows` is how many examples are answered, `main` the best known metric of each task.
    `seed` is that of sampled texts. Raises DataError for prompts that do not fit.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        rows: Mapping[str, BenchmarkRows],
        context_length: int,
        batch_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.batch_tokens, self.seed = tokenizer, batch_tokens, seed
        self._asked: dict[str, Questions | Passages] = {
            name: (prepare_passages if each.task.kind == "language_modeling" else prepare_questions)(
                tokenizer, each, context_length
            )
            for name, each in rows.items()
        }
        self._metrics = {name: tasks.task_settings(each.task).metrics for name, each in rows.items()}
        self.rows = sum(len(each.examples) for each in rows.values())
        self.main = tuple(
            f"{name}_{main_metrics(each.task.kind, self._metrics[name])[0]}" for name, each in rows.items()
        )

    def __call__(self, model: Any) -> dict[str, float]:
        """{"sentiment_accuracy": 0.83, ...} of a model in eval mode, the same on every process."""
        asked = LocalModel(model, self.tokenizer, self.batch_tokens, widens=False)
        # Not inference_mode: a tensor that a module keeps would be of no use in training.
        with torch.no_grad():
            measured = {name: self._measure(asked, name) for name in self._asked}
        scores = {f"{name}_{metric}": value for name, values in measured.items() for metric, value in values.items()}
        state = PartialState()
        return broadcast_object_list([scores])[0] if state.num_processes > 1 else scores

    def _measure(self, model: LocalModel, name: str) -> dict[str, float]:
        """The scores of a task; {} on processes other than the first."""
        asked = self._asked[name]
        if isinstance(asked, Passages):
            nats = read_passages(model, name, asked)
            if nats is None:
                return {}
            scores = metrics.language_modeling(*passage_sums(asked, nats).T, resamples=1)
        else:
            answers = answer_questions(model, name, asked, self.seed)
            likelihood = read_turns(model, name, asked)
            if answers is None:
                return {}
            scores = measure_texts(asked, texts_of(asked, answers), likelihood=likelihood).scores(resamples=1)
        return {metric: scores[metric].value for metric in self._metrics[name]}
