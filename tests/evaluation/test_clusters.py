"""Rows that share a passage are no independent draws: intervals and tests resample whole clusters."""

import json
from pathlib import Path

import numpy as np
import pytest

from hflm import tasks
from hflm.core import DataError, RecipeError, atomic_write_text, read_json_lines
from hflm.evaluation import BenchmarkSettings, compare_runs, metrics, run_benchmark, unbeaten_baselines, write_results
from hflm.evaluation.metrics.bootstrap import interval, resampled_sums, sum_clusters
from hflm.evaluation.results import Results, Score, TaskResult, describe_clusters, results_table
from hflm.inference import LocalModel
from hflm.pipeline.reading import TaskRows
from hflm.recipe import load_recipe
from hflm.tasks import Qa, Sentiment, Translation

TOY = {"path": "toy", "name": "stories"}


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        (None, [[1, 10], [2, 20], [4, 40]]),
        ([0, 1, 2], [[1, 10], [2, 20], [4, 40]]),
        ([5, 3, 5], [[2, 20], [5, 50]]),
        ([1, 1, 1], [[1, 10], [2, 20], [4, 40]]),  # one cluster cannot be resampled
    ],
)
def test_sums_of_clusters(clusters, expected):
    statistics = np.array([[1.0, 10], [2, 20], [4, 40]])
    found = sum_clusters(statistics, None if clusters is None else np.array(clusters))
    assert found.tolist() == expected


def test_intervals_of_clusters_hold_the_truth_where_those_of_rows_do_not():
    """40 clusters of 10 rows with a correlation of 0.3 within a cluster; the truth is 0. tests/bench has it exactly."""
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 10)
    held = {"rows": 0, "clusters": 0}
    trials = 300
    for trial in range(trials):
        shared = generator.normal(size=(40, 1)) * 0.3**0.5
        values = (shared + generator.normal(size=(40, 10)) * 0.7**0.5).reshape(-1, 1)
        for name, own in (("rows", None), ("clusters", clusters)):
            low, high = interval(resampled_sums(sum_clusters(values, own), 300, trial)[:, 0], values.sum())
            held[name] += low <= 0 <= high
    assert 0.90 < held["clusters"] / trials < 0.98
    assert held["rows"] / trials < 0.80


def questions(passages, each=3):
    return [
        {
            "context": f"The {thing} is in the mill.",
            "question": f"Where is it? {n}",
            "answers": ["mill"],
            "user": f"u{n}",
        }
        for thing in passages
        for n in range(each)
    ]


@pytest.mark.parametrize(
    ("task", "rows", "clusters"),
    [
        (Qa(data=TOY), questions("abcd"), 4),
        (Qa(data=TOY), questions("abcd", 1), None),  # every row has a passage of its own
        (Qa(data=TOY), questions("a"), None),  # all rows share one
        (Qa(data=TOY, cluster="user"), questions("abcd"), 3),
        (Sentiment(data=TOY, labels=["bad", "good"], text="question", label="n"),
         [{**row, "n": 0} for row in questions("abcd")], None),
        (Sentiment(data=TOY, labels=["bad", "good"], text="question", label="n", cluster="context"),
         [{**row, "n": 0} for row in questions("abcd")], 4),
    ],
)  # fmt: skip
def test_a_benchmark_resamples_the_passages_of_questions_and_the_named_column(
    tiny, tokenizer, tmp_path: Path, task, rows, clusters
):
    examples, skipped = tasks.read_examples(task, rows, "rows.jsonl")
    settings = BenchmarkSettings(64, resamples=20, seed=0, key="a", model_revision=None)
    path = tmp_path / "predictions.jsonl"
    material = TaskRows(task, examples, [], len(skipped), "rows.jsonl", "sha256:data")
    result = run_benchmark(LocalModel(tiny.eval(), tokenizer), "task", material, settings, path)
    assert result is not None and result.clusters == clusters
    names = [line.get("cluster") for line in read_json_lines(path)]
    assert len(set(names)) == (clusters or 1) and (None in names) == (clusters is None)
    assert (describe_clusters(result) is None) == (clusters is None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"context": "a", "question": "b", "answers": ["c"]}], "have no column for cluster: user"),
        (
            [{"context": "a", "question": "b", "answers": ["c"], "user": None}],
            "user, the column of the cluster, is empty",
        ),
    ],
)
def test_a_row_without_a_cluster_is_a_bad_row(rows, message):
    with pytest.raises(DataError, match=message):
        tasks.read_examples(Qa(data=TOY, cluster="user"), rows, "rows.jsonl")


def test_running_text_has_no_clusters(tmp_path: Path):
    text = "name: a\nmodel: {from: m}\ntasks:\n  t: {kind: language_modeling, data: {path: x}, cluster: user}\n"
    (tmp_path / "r.yaml").write_text(text + "benchmark: {tasks: [t]}\n")
    with pytest.raises(RecipeError, match=r"r.yaml:4  tasks.t.cluster: unknown key"):
        load_recipe(str(tmp_path / "r.yaml"))


def write_run(folder: Path, right: list[bool], cluster_names: list[str] | None) -> Path:
    lines = [
        {
            "id": str(number),
            "prompt": "p",
            "prediction": "good" if fine else "bad",
            "references": ["good"],
            "scores": {},
        }
        for number, fine in enumerate(right)
    ]
    if cluster_names is not None:
        lines = [{**line, "cluster": name} for line, name in zip(lines, cluster_names, strict=True)]
    predictions = "".join(json.dumps(line) + "\n" for line in lines)
    atomic_write_text(folder / "benchmark" / "predictions" / "sentiment.jsonl", predictions)
    texts = [line["prediction"] for line in lines]
    scores = metrics.score(["accuracy"], texts, [("good",)] * len(lines), labels=["good", "bad"], resamples=10)
    result = TaskResult(
        kind="sentiment", n=len(lines), metrics=scores, baselines={}, data="toy", prompt_hash="a", decoding="d",
        truncated=0, skipped=0,
    )  # fmt: skip
    write_results(Results("m", {"sentiment": result}), folder / "benchmark" / "results.json")
    return folder


def test_a_comparison_swaps_whole_clusters(tmp_path: Path):
    """Ten clusters of ten rows, in seven of which the second run alone is right in every row: little evidence."""
    names = [f"c{row // 10}" for row in range(100)]
    first = [row // 10 >= 7 for row in range(100)]
    second = [row // 10 < 7 for row in range(100)]
    found = {}
    for kind, own in (("rows", None), ("clusters", names)):
        runs = [write_run(tmp_path / kind / name, right, own) for name, right in (("a", first), ("b", second))]
        comparison = compare_runs(runs, (), 2_000, 0)
        [pair] = comparison.tasks["sentiment"].pairs
        found[kind] = pair.metrics["accuracy"]
        assert comparison.tasks["sentiment"].clusters == (10 if own else None)
    assert found["rows"].difference == found["clusters"].difference == pytest.approx(0.4)
    assert found["rows"].p < 0.01
    assert 0.2 < found["clusters"].p < 0.5  # of the 1,024 ways to swap, those at least as far from 5 of 10 as 7: 0.34
    width = {kind: each.ci95[1] - each.ci95[0] for kind, each in found.items()}
    assert width["clusters"] > 2 * width["rows"]


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "expected"),
    [
        ("accuracy", 0.51, 0.5, []),
        ("accuracy", 0.5, 0.5, ["accuracy 0.500 is not above the baseline most frequent label, 0.500"]),
        ("accuracy", 0.4, 0.5, ["accuracy 0.400 is not above the baseline most frequent label, 0.500"]),
    ],
)
def test_a_score_that_beats_no_baseline_is_named(metric, value, baseline, expected):
    result = TaskResult(
        kind="sentiment", n=9, metrics={metric: Score(value, (value, value), "")},
        baselines={"most frequent label": {metric: baseline}}, data="toy", prompt_hash="a", decoding="d", truncated=0,
        skipped=0,
    )  # fmt: skip
    assert unbeaten_baselines(result) == expected
    caption = str(results_table(Results("m", {"sent": result})).caption or "")
    assert all(f"sent: {line}" in caption for line in expected) and bool(caption) == bool(expected)


def test_a_translation_has_no_clusters_by_itself():
    row = {"en": "a", "de": "b"}
    task = Translation(data=TOY, source="en", target="de")
    assert [example.cluster for example in tasks.read_examples(task, [row, row], "rows").examples] == [None, None]
