"""The base of all metrics here: an evaluate.Metric that is a function of per-example statistics, summed.

BLEU sums n-gram counts, ROUGE sums F scores, MCC sums cells of the confusion matrix. So a bootstrap resample needs no
second look at the texts: its value is `aggregate(weights @ statistics)`.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hflm.core import DataError

References = tuple[str, ...]  # the accepted texts of an example
Values = dict[str, np.ndarray]  # by the metric's name
TEXTS = [
    datasets.Features(predictions=datasets.Value("string"), references=datasets.List(datasets.Value("string"))),
    datasets.Features(predictions=datasets.Value("string"), references=datasets.Value("string")),
]


class SummedMetric(evaluate.Metric):
    """Subclasses give NAMES, DESCRIPTION, `statistics` and `aggregate`, and set `signature` in `statistics`.

    `compute(predictions=[...], references=[...])` takes one reference an example or a list of them, of any number,
    and returns {name: value}. It keeps its inputs in memory and needs neither a network nor a folder: a run of many
    processes gathers its predictions first and computes once.
    """

    NAMES: tuple[str, ...] = ()
    DESCRIPTION = ""
    FEATURES: "datasets.Features | list[datasets.Features]" = TEXTS

    def __init__(self, **options: Any) -> None:
        super().__init__(keep_in_memory=True, **options)
        self.signature = ""

    def statistics(self, predictions: Sequence[str], references: Sequence[References]) -> np.ndarray:
        """A float array (n examples, k) for n predictions and n tuples of references."""
        raise NotImplementedError

    def aggregate(self, sums: np.ndarray) -> Values:
        """{name: values (R,)} for R sums of statistics (R, k)."""
        raise NotImplementedError

    def each(self, statistics: np.ndarray) -> Values:
        """{name: values (n,)}, each example alone."""
        return self.aggregate(statistics)

    def compute(self, **columns: Any) -> dict[str, float]:
        """{name: value} of these columns, or of the examples that were added before; DataError if there are none."""
        if self.writer is None and not columns:
            raise DataError("there are no predictions to score")
        return super().compute(**columns) or {}

    def add_batch(self, **columns: Any) -> None:
        """Add examples; DataError if there are none."""
        if not any(len(column) for column in columns.values()):
            raise DataError("there are no predictions to score")
        super().add_batch(**columns)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.DESCRIPTION, citation="", inputs_description="", features=self.FEATURES
        )

    def _build_data_dir(self) -> str:
        # Private in evaluate 0.4.6, which makes a folder in the user's cache even with `keep_in_memory`; no option
        # prevents that. The test of `compute` looks for the folder.
        return self._data_dir_root

    def _compute(self, predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
        references = [(one,) if isinstance(one, str) else tuple(one) for one in references]
        sums = self.statistics(predictions, references).sum(axis=0, keepdims=True)
        return {name: float(values[0]) for name, values in self.aggregate(sums).items()}
