"""Slices of tasks, on rows whose scores are worked by hand."""

import doctest
import importlib
from types import SimpleNamespace

import pytest

from hflm.evaluation import metrics
from hflm.evaluation.slices import score_slices
from hflm.tasks import Example

LABELS = ("negative", "positive")


def examples(*references):
    return [Example(str(row), "p", one[0], one, {}) for row, one in enumerate(references)]


def sliced(kind, names, predictions, references, lengths, labels=None):
    """{(by, name): (n, value)}, and the slices."""
    task = SimpleNamespace(kind=kind, labels=labels)
    measured = metrics.measure(names, predictions, references, labels=labels)
    found = score_slices(task, examples(*references), measured, lengths, resamples=50)
    return {(each.by, each.name): (each.n, each.score.value) for each in found}, found


def test_by_label_and_length():
    # 16 negative rows with 12 right, 24 positive with 6 right; the prompts have 1 to 40 characters.
    references = [("negative",)] * 16 + [("positive",)] * 24
    predictions = ["negative"] * 12 + ["positive"] * 10 + ["negative"] * 18
    table, found = sliced("sentiment", ["mcc", "accuracy"], predictions, references, list(range(1, 41)), LABELS)
    assert table == {
        ("label", "negative"): (16, 12 / 16),
        ("label", "positive"): (24, 6 / 24),
        ("prompt length", "1 to 10 characters"): (10, 1.0),
        ("prompt length", "11 to 20 characters"): (10, 6 / 10),  # 2 negative, 4 positive right
        ("prompt length", "21 to 30 characters"): (10, 2 / 10),
        ("prompt length", "31 to 40 characters"): (10, 0.0),
    }
    assert all(each.metric == "accuracy" for each in found)
    low, high = found[0].score.ci95
    assert 0.4 < low < 0.75 < high <= 1.0


@pytest.mark.parametrize(
    "unanswerable, seen",
    [
        (9, {("answer", "answerable"): (31, 100.0)}),
        (12, {("answer", "answerable"): (28, 100.0), ("answer", "unanswerable"): (12, 0.0)}),
        (0, {}),
        (40, {}),
    ],
)
def test_by_answer(unanswerable, seen):
    references = [("",)] * unanswerable + [("Paris", "in Paris")] * (40 - unanswerable)
    table, _ = sliced("qa", ["exact_match", "f1"], ["Paris"] * 40, references, [7] * 40)
    assert table == seen


@pytest.mark.parametrize(
    "lengths, seen",
    [
        ([5] * 40, []),  # no quartiles
        ([5] * 30 + [9] * 10, [("5 to 5 characters", 30), ("9 to 9 characters", 10)]),
        ([5] * 31 + [9] * 9, [("5 to 5 characters", 31)]),
        ([*range(1000, 1036)], []),  # 9 rows each
    ],
)
def test_ties_and_small_parts(lengths, seen):
    count = len(lengths)
    _, found = sliced("translation", ["chrf"], ["a b"] * count, [("a b",)] * count, lengths)
    assert [(each.name, each.n) for each in found] == seen


def test_a_label_alone_has_no_macro_f1():
    references = [("negative",)] * 20 + [("positive",)] * 20
    table, _ = sliced("choice", ["macro_f1"], ["positive"] * 40, references, [1] * 20 + [2] * 20, LABELS)
    assert [by for by, _ in table] == ["prompt length"] * 2


def test_a_corpus_metric_is_the_metric_of_the_part():
    predictions = [f"the {word} sat on the mat" for word in ["cat", "dog", "fox"]] * 14
    references = [(f"a {word} sat on a mat today",) for word in ["cat", "fox", "dog"]] * 14
    lengths = [1] * 21 + [2] * 21
    _, found = sliced("translation", ["bleu", "chrf"], predictions, references, lengths)
    for each, rows in zip(found, [slice(0, 21), slice(21, 42)], strict=True):
        assert each.score == metrics.score(["bleu"], predictions[rows], references[rows], resamples=50)["bleu"]


def test_a_part_is_scored_with_the_tokenizer_of_the_whole():
    # By itself the second half is English, and would be cut into words.
    predictions, references = (
        ["他在北京工作"] * 20 + ["a cat sat here now"] * 20,
        [("他在北京上班",)] * 20 + [("a cat",)] * 20,
    )
    _, found = sliced("translation", ["bleu"], predictions, references, [1] * 20 + [2] * 20)
    assert ["tok:zh" in each.score.signature for each in found] == [True, True]


def test_the_documentation_is_right():
    for module in ("hflm.evaluation.metrics.calibration", "hflm.evaluation.results"):
        found = doctest.testmod(importlib.import_module(module))
        assert found.attempted and not found.failed
