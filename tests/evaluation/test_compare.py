"""Comparing runs: the numbers against texts that are really swapped, rows by id, and what people are shown."""

import doctest
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hflm.core import UserError, atomic_write_text, fingerprint_model
from hflm.evaluation import compare, compare_runs, compare_view, metrics, write_results
from hflm.evaluation.compare_task import MAX_CHANGES, Change
from hflm.evaluation.metrics import paired
from hflm.evaluation.results import Results, TaskResult

LABELS = ["good", "bad"]
METRICS = {
    "sentiment": ("accuracy", "macro_f1", "mcc"),
    "translation": ("bleu", "chrf", "ter"),
    "qa": ("exact_match", "f1"),
}


def row(prediction, references, **more):
    return {"prompt": "Say it:", "prediction": prediction, "references": list(references), "scores": {}, **more}


def write(folder, tasks, model="m", **fields):
    """A run folder as `hflm run` leaves it; `tasks` maps a kind to its lines of predictions."""
    found = {}
    for kind, lines in tasks.items():
        lines = [{"id": str(number), **line} for number, line in enumerate(lines)]
        file = "".join(json.dumps(line) + "\n" for line in lines)
        atomic_write_text(folder / "benchmark" / "predictions" / f"{kind}.jsonl", file)
        if kind == "language_modeling":
            columns = [np.array([line[key] for line in lines]) for key in ("nats", "tokens", "bytes")]
            scores = metrics.language_modeling(*columns, resamples=10)
        else:
            texts, references = [line["prediction"] for line in lines], [tuple(line["references"]) for line in lines]
            scores = metrics.score(METRICS[kind], texts, references, labels=LABELS, resamples=10)
        rest = {"data": "toy", "prompt_hash": "abc", "decoding": "greedy", **fields}
        found[kind] = TaskResult(kind=kind, n=len(lines), metrics=scores, baselines={}, truncated=0, skipped=0, **rest)
    write_results(Results(model, found), folder / "benchmark" / "results.json")
    return folder


def sentiment(expected, guesses):
    words = {"g": "good", "b": "bad"}
    odds = {"log_likelihoods": {"good": -1.0, "bad": -2.0}}
    return [row(words[guess], [words[truth]], **odds) for truth, guess in zip(expected, guesses, strict=True)]


@pytest.fixture
def runs(tmp_path):
    """Two runs: 10 rows of sentiment (7 right, then 8), and 3 of translation."""
    truth = "ggggbbbbgb"
    texts = ["the cat sat on the mat", "a dog runs over the road", "there is nothing here"]
    better = [row(text, [text]) for text in texts]
    worse = [row("a dog runs", better[0]["references"]), *better[1:]]
    return [
        write(tmp_path / "one", {"sentiment": sentiment(truth, "ggbgbbbbbg"), "translation": better}),
        write(tmp_path / "two", {"sentiment": sentiment(truth, "ggggbbbbbg"), "translation": worse}),
    ]


def edit(run, task, change):
    """Rewrite the predictions of a run's task by a function of their lines (dicts)."""
    path = run / "benchmark" / "predictions" / f"{task}.jsonl"
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_values_differences_and_changed_rows(runs):
    found = compare_runs(runs, resamples=2000)
    assert found.runs == {"A": "one", "B": "two"}
    assert list(found.tasks) == ["sentiment", "translation"]
    assert found.notes == ()
    task = found.tasks["sentiment"]
    assert (task.n, task.left_out, task.main) == (10, 0, "accuracy")
    (pair,) = task.pairs
    assert list(pair.metrics) == ["accuracy", "macro_f1", "mcc"]
    accuracy = pair.metrics["accuracy"]
    assert (accuracy.reference, accuracy.value) == (0.7, 0.8)
    assert accuracy.difference == pytest.approx(0.1)
    assert accuracy.ci95 == (0.0, pytest.approx(0.3))
    assert (accuracy.p, accuracy.p_holm) == (1.0, None)  # one changed row is no evidence: either sign is as large
    assert (pair.better, pair.worse, pair.same) == (1, 0, 9)
    assert pair.worsened == ()
    assert pair.improved == (Change("2", ("good",), ("Say it:",) * 2, ("bad", "good"), (0.0, 1.0)),)
    (pair,) = found.tasks["translation"].pairs
    assert pair.metrics["ter"].difference > 0 > pair.metrics["bleu"].difference
    assert [change.id for change in pair.worsened] == ["0"]


def test_the_same_seed_gives_the_same_comparison(runs):
    first = compare_runs(runs, resamples=200, seed=3)
    assert compare_runs(runs, resamples=200, seed=3) == first
    assert compare_runs(runs, ["translation"], resamples=200, seed=4).tasks != first.tasks


def texts_that_differ():
    source = random.Random(5)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "over", "there"]
    references = [" ".join(source.choices(words, k=6)) for _ in range(8)]
    spoilt = [
        [
            " ".join(source.choice(words) if source.random() < share else word for word in text.split())
            for text in references
        ]
        for share in (0.2, 0.5)
    ]
    return "translation", *spoilt, references


def labels_that_differ():
    return "sentiment", ["good"] * 6 + ["bad"] * 3, ["good", "bad", "bad"] * 3, ["good"] * 7 + ["bad"] * 2


@pytest.mark.parametrize("case", [texts_that_differ, labels_that_differ])
def test_p_is_the_share_of_all_swaps_of_texts_that_differ_as_much(tmp_path, case):
    kind, first, second, references = case()
    names, references = METRICS[kind], [(text,) for text in references]
    runs = [
        write(tmp_path / str(number), {kind: [row(text, refs) for text, refs in zip(texts, references, strict=True)]})
        for number, texts in enumerate((first, second))
    ]
    (pair,) = compare_runs(runs, resamples=20_000).tasks[kind].pairs

    def distances(left, right):
        read = [metrics.measure(names, texts, references) for texts in (left, right)]
        found = {}
        for metric, *arrays in zip(read[0].metrics, *(each.statistics for each in read), strict=True):
            for name in metric.NAMES:
                values = [metric.aggregate(array.sum(axis=0, keepdims=True))[name][0] for array in arrays]
                found[name] = abs(values[0] - values[1])
        return found

    real = distances(first, second)
    as_large = dict.fromkeys(names, 0)
    for swaps in itertools.product([False, True], repeat=len(first)):
        left = [b if swap else a for a, b, swap in zip(first, second, swaps, strict=True)]
        right = [a if swap else b for a, b, swap in zip(first, second, swaps, strict=True)]
        shuffled = distances(left, right)
        for name in names:
            as_large[name] += shuffled[name] >= real[name] - 1e-9
    exact = {name: count / 2 ** len(first) for name, count in as_large.items()}
    assert min(exact.values()) < 0.9
    assert {name: pair.metrics[name].p for name in names} == pytest.approx(exact, abs=0.015)


def test_p_of_a_mean_is_scipys_permutation_test():
    from scipy.stats import permutation_test

    generator = np.random.default_rng(0)
    first, second = generator.random((2, 12))
    exact = permutation_test(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue

    class Mean:
        NAMES = ("mean",)

        def aggregate(self, sums):
            return {"mean": sums[:, 0] / sums[:, 1]}

    arrays = [[np.column_stack([values, np.ones(12)])] for values in (first, second)]
    assert paired.p_values([Mean()], *arrays, 50_000, 0)["mean"] == pytest.approx(exact, abs=0.01)


def test_a_run_that_answers_the_same_does_not_differ(runs, tmp_path):
    found = compare_runs(
        [runs[0], write(tmp_path / "x", {"sentiment": sentiment("ggggbbbbgb", "ggbgbbbbbg")})], resamples=100
    )
    (pair,) = found.tasks["sentiment"].pairs
    assert {(each.difference, each.ci95, each.p) for each in pair.metrics.values()} == {(0.0, (0.0, 0.0), 1.0)}
    assert (pair.better, pair.worse, pair.same, pair.improved, pair.worsened) == (0, 0, 10, (), ())


def test_text_that_costs_half_a_bit_more_a_byte_does_so_in_every_resample(tmp_path):
    lines = [{"nats": 100.0 + number, "tokens": 50, "bytes": 200} for number in range(10)]
    dearer = [{**line, "nats": line["nats"] + 0.5 * np.log(2) * line["bytes"]} for line in lines]
    runs = [write(tmp_path / name, {"language_modeling": rows}) for name, rows in (("a", lines), ("b", dearer))]
    task = compare_runs(runs).tasks["language_modeling"]
    (pair,) = task.pairs
    bits = pair.metrics["bits_per_byte"]
    assert (bits.difference, *bits.ci95) == pytest.approx((0.5, 0.5, 0.5))
    assert bits.p == pytest.approx(2 / 2**10, abs=0.001)  # all ten one way, or all the other
    assert (task.main, pair.better, pair.worse) == ("perplexity", 0, 10)
    assert len(pair.worsened) == MAX_CHANGES


def test_holm_is_for_more_than_two_runs(runs, tmp_path):
    third = write(tmp_path / "three", {"sentiment": sentiment("ggggbbbbgb", "bbbbgggbbg")})
    task = compare_runs([*runs, third], resamples=100).tasks["sentiment"]
    assert [pair.run for pair in task.pairs] == ["B", "C"]
    for name in METRICS["sentiment"]:
        p = [pair.metrics[name].p for pair in task.pairs]
        assert [pair.metrics[name].p_holm for pair in task.pairs] == paired.holm(p)


def test_holms_adjustment():
    assert doctest.testmod(paired).attempted
    assert doctest.testmod(paired).failed == 0
    assert paired.holm([0.6, 0.7]) == [1, 1]
    assert paired.holm([0.02]) == [0.02]


def test_rows_are_paired_by_id_whatever_their_order(runs):
    before = compare_runs(runs, resamples=200).tasks["sentiment"]
    edit(runs[1], "sentiment", lambda lines: lines[::-1])
    assert compare_runs(runs, resamples=200).tasks["sentiment"] == before


def test_equal_ids_are_paired_by_their_position(runs):
    before = compare_runs(runs, resamples=200).tasks["sentiment"]
    for run in runs:
        edit(run, "sentiment", lambda lines: [{**line, "id": str(n // 2)} for n, line in enumerate(lines)])
    edit(runs[1], "sentiment", lambda lines: lines[4:] + lines[:4])
    after = compare_runs(runs, resamples=200).tasks["sentiment"]
    assert after.pairs[0].metrics == before.pairs[0].metrics


def test_rows_that_not_all_runs_have_are_left_out_and_noted(runs):
    edit(runs[1], "sentiment", lambda lines: [*lines[1:], {**lines[0], "id": "new"}])
    note = "sentiment: 2 rows are left out, not every run has them; 9 are compared"
    with pytest.warns(UserWarning, match=note):
        found = compare_runs(runs, resamples=100)
    assert (found.tasks["sentiment"].n, found.tasks["sentiment"].left_out, found.notes) == (9, 2, (note,))
    assert found.tasks["sentiment"].pairs[0].metrics["accuracy"].reference == pytest.approx(6 / 9)


@pytest.mark.parametrize(
    "fields, note",
    [
        ({"prompt_hash": "other"}, "sentiment: the prompts differ"),
        ({"decoding": "5 shots"}, "sentiment: decoding differs: A greedy, B 5 shots"),
        ({"data": "/home/alice/rows.jsonl"}, "sentiment: data differs: A toy, B rows.jsonl"),
    ],
)
def test_what_else_differs_is_noted_and_allowed(runs, tmp_path, fields, note):
    other = write(tmp_path / "other", {"sentiment": sentiment("ggggbbbbgb", "ggggbbbbbg")}, **fields)
    with pytest.warns(UserWarning, match=re.escape(note)):
        assert compare_runs([runs[0], other], resamples=100).notes == (note,)


@pytest.mark.parametrize(
    "old, new, note",
    [
        ('"signature": "scikit', '"signature": "another', "accuracy was computed in different ways"),
        ('"value": 0.8', '"value": 0.9', "the predictions of B give accuracy 0.800, but its results.json has 0.900"),
    ],
)
def test_results_that_were_made_otherwise_are_noted(runs, old, new, note):
    path = runs[1] / "benchmark" / "results.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.warns(UserWarning, match=note):
        found = compare_runs(runs, resamples=100)
    assert found.tasks["sentiment"].pairs[0].metrics["accuracy"].value == 0.8


def test_runs_of_two_tokenizers_are_ranked_by_bits_per_byte_and_show_their_text(tmp_path):
    # Per token B is better on both rows; per byte, which the tokenizer does not change, it is worse on the first.
    texts = ["A first text.", "Another one."]
    ours = [
        {"nats": 20.0, "tokens": 4, "bytes": 13, "text": texts[0]},
        {"nats": 20.0, "tokens": 4, "bytes": 12, "text": texts[1]},
    ]
    theirs = [{**ours[0], "nats": 30.0, "tokens": 8}, {**ours[1], "nats": 10.0, "tokens": 8}]
    runs = [write(tmp_path / name, {"language_modeling": lines}) for name, lines in (("a", ours), ("b", theirs))]
    with pytest.warns(UserWarning, match="the tokenizers differ, and perplexity is per token: rows are ranked by bits"):
        found = compare_runs(runs, resamples=100)
    task = found.tasks["language_modeling"]
    (pair,) = task.pairs
    assert (task.main, pair.better, pair.worse) == ("bits_per_byte", 1, 1)
    assert list(pair.metrics) == ["bits_per_byte", "perplexity"]
    assert [change.prompts for change in (*pair.improved, *pair.worsened)] == [(text, text) for text in reversed(texts)]
    console = Console(width=120, file=io.StringIO())
    compare_view.show(found, console)
    assert "row 0  A first text." in console.file.getvalue()
    assert "Another one." in compare_view.page(found)


BROKEN = [
    ("{", "not JSON"),
    ("", "not JSON"),
    ("[]", "it is not a JSON object"),
    ('{"id": 3}', "id cannot be 3"),
    ('{"id": "3"}', "prompt is missing"),
    ('{"id": "3", "prompt": "", "prediction": null}', "prediction cannot be null"),
    ('{"id": "3", "prompt": "", "prediction": ""}', "references must be a list of texts"),
    ('{"id": "3", "prompt": "", "prediction": "", "references": []}', "references must be a list of texts"),
    ('{"id": "3", "prompt": "", "prediction": "", "references": [1]}', "references must be a list of texts"),
    ('{"id": "3", "prompt": "", "prediction": "", "references": ["a"], "log_likelihoods": 1}', "must be an object"),
]


@pytest.mark.parametrize("line, words", BROKEN)
def test_a_malformed_line_names_file_and_line(runs, line, words):
    path = runs[1] / "benchmark" / "predictions" / "sentiment.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    with pytest.raises(UserError) as error:
        compare_runs(runs, resamples=100)
    assert str(error.value).startswith(f"{path}:4: ") and words in str(error.value)


@pytest.mark.parametrize("line", [{"nats": float("nan")}, {"tokens": 0}, {"bytes": -1}])
def test_a_malformed_line_of_text_names_file_and_line(tmp_path, line):
    lines = [{"nats": 9.0, "tokens": 5, "bytes": 20}] * 2
    runs = [write(tmp_path / name, {"language_modeling": lines}) for name in "ab"]
    edit(runs[1], "language_modeling", lambda lines: [lines[0], {**lines[1], **line}])
    with pytest.raises(UserError, match="language_modeling.jsonl:2: not a line of predictions: nats must be finite"):
        compare_runs(runs, resamples=100)


def missing_predictions(runs):
    (runs[1] / "benchmark" / "predictions" / "translation.jsonl").unlink()
    return runs


def not_utf8(runs):
    (runs[1] / "benchmark" / "predictions" / "translation.jsonl").write_bytes(b"\xff")
    return runs


def other_references(runs):
    edit(runs[1], "translation", lambda lines: [*lines[:2], {**lines[2], "references": ["something else"]}])
    return runs


def no_shared_row(runs):
    for task in METRICS:
        if task != "qa":
            edit(runs[1], task, lambda lines: [{**line, "id": f"x{line['id']}"} for line in lines])
    return runs


def no_shared_task(runs):
    return [write(runs[0].parent / "qa", {"qa": [row("a", ["a"])]}), runs[0]]


def other_text(runs):
    lines = [[{"nats": 9.0, "tokens": 5, "bytes": size}] for size in (20, 21)]
    return [write(runs[0].parent / str(n), {"language_modeling": rows}) for n, rows in enumerate(lines)]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda runs: runs[:1], "takes 2 to 26 run folders, not 1"),
        (lambda runs: [runs[0], runs[1], runs[0].parent / "." / "one"], "one is given twice"),
        (lambda runs: [runs[0], runs[0].parent], "results.json: no such file. A benchmark"),
        (lambda runs: [Path("x"), runs[0], Path("y")], "y/benchmark/results.json: no such file. A benchmark"),
        (lambda runs: [Path("x"), runs[0], Path("y")], "x/benchmark/results.json: no such file. A benchmark"),
        (no_shared_task, "the runs have no task in common. Their tasks are\n  qa: qa\n  one: sentiment, translation"),
        (missing_predictions, "translation.jsonl: no such file. Run the benchmark again"),
        (not_utf8, "translation.jsonl: cannot be read: 'utf-8'"),
        (
            other_references,
            'translation, id 2: references are ["there is nothing here"] in A and ["something else"] in B: the runs '
            + "answered different rows, so they cannot be paired. Name the other tasks with --task.",
        ),
        (other_text, "language_modeling, id 0: bytes are 20 in A and 21 in B: the runs scored other text"),
    ],
)
def test_what_cannot_be_compared(runs, change, words):
    with pytest.raises(UserError) as error:
        compare_runs(change(runs), resamples=100)
    assert words in str(error.value)


def test_runs_without_a_common_row(runs):
    with (
        pytest.warns(UserWarning, match="not compared, the runs have no row in common"),
        pytest.raises(UserError, match="nothing"),
    ):
        compare_runs(no_shared_row(runs), resamples=100)


def test_an_unknown_task_says_which_there_are(runs):
    with pytest.raises(UserError, match="task qa is not in every run. Tasks of all runs: sentiment, translation."):
        compare_runs(runs, ["qa"])


def test_runs_of_the_same_name_have_distinct_names(tmp_path):
    rows = sentiment("gb", "gg")
    runs = [write(tmp_path / path, {"sentiment": rows}) for path in ("a/run", "b/run")]
    assert compare_runs(runs, resamples=100).runs == {"A": "a/run", "B": "b/run"}


HOSTILE = "</td><script>alert(1)</script><img src=http://evil/x> {{ 7*7 }} & \u202e"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def hostile(tmp_path):
    reference = [row("a", [HOSTILE], prompt=HOSTILE), row("b", ["b"])]
    other = [row(HOSTILE, [HOSTILE], prompt=HOSTILE), row("c", ["b"])]
    runs = [write(tmp_path / "<b>one", {"qa": reference}), write(tmp_path / "[red]two", {"qa": other})]
    return compare_runs(runs, resamples=100)


def test_the_page_asks_for_nothing_and_shows_texts_as_texts(hostile):
    page = compare_view.page(hostile)
    found = Page(page)
    assert found.tags.isdisjoint({"script", "link", "iframe", "object", "form", "a", "b"})
    assert [link.split(",")[0] for link in found.links] == ["data:image/png;base64"]
    assert not re.search(r"url\(|@import", page)
    text = "".join(found.text)
    assert text.count(HOSTILE.replace("\u202e", "\\u202e")) == 3  # prompt, reference and B's prediction, once each
    assert "<b>one and [red]two compared" in text


def test_the_terminal_shows_names_and_texts_without_markup(hostile):
    console = Console(width=200, file=io.StringIO())
    compare_view.show(hostile, console)
    lines = console.file.getvalue().splitlines()
    assert lines[:2] == ["A  <b>one  (the reference)", "B  [red]two"]
    assert f"      B     100.0  {HOSTILE}".replace("\u202e", "\\u202e") in [line.rstrip() for line in lines]
    cells = next(line for line in lines if "exact_match" in line).split()
    assert cells == ["exact_match", "50.0", "50.0", "+0.0", "-100.0", "to", "+100.0", "1.000"]


def test_the_table_of_two_runs_fits_a_terminal(runs):
    console = Console(width=80, file=io.StringIO())
    compare_view.show(compare_runs(runs, resamples=100), console)
    line = next(line for line in console.file.getvalue().splitlines() if "accuracy  " in line)
    assert line.split()[:4] == ["accuracy", "0.700", "0.800", "+0.100"]
    assert "+0.000 to +" in line


def test_pictures_of_many_runs_and_units(runs, tmp_path):
    third = write(tmp_path / "three", {"sentiment": sentiment("ggggbbbbgb", "bbbbgggbbg")})
    found = compare_runs([*runs, third], resamples=100)
    page = compare_view.page(found)
    assert page.count("data:image/png;base64,iVBOR") == 1
    assert "p\n(Holm)" in page and "adjusted for the 2 runs" in page


def hflm(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(Path(compare.__file__).parents[2]), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "hflm", "compare", *arguments], cwd=cwd, capture_output=True, text=True, env=environment
    )


def test_the_command_prints_json_and_writes_the_page(runs):
    done = hflm(
        "one", "two", "--task", "sentiment", "--json", "--html", "out/a.html", "--resamples", "500", cwd=runs[0].parent
    )
    assert (done.returncode, done.stderr) == (0, "")
    shape = json.loads(done.stdout)
    assert shape["runs"] == {"A": "one", "B": "two"}
    assert list(shape["tasks"]) == ["sentiment"]
    accuracy = shape["tasks"]["sentiment"]["pairs"][0]["metrics"]["accuracy"]
    assert (accuracy["reference"], accuracy["value"], accuracy["p"]) == (0.7, 0.8, 1.0)
    assert (shape["resamples"], shape["seed"]) == (500, 0)
    assert (runs[0].parent / "out" / "a.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["one"], "hflm compare takes 2 to 26 run folders, not 1."),
        ([], "Missing argument"),
        (["one", "none"], "results.json: no such file"),
        (["one", "two", "--resamples", "5"], "Invalid value for '--resamples'"),
    ],
)
def test_the_command_says_what_to_change_without_a_traceback(runs, arguments, words):
    done = hflm(*arguments, cwd=runs[0].parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and "Traceback" not in done.stderr


def give_a_model(run, measured):
    """Weights in a run's model/; its tasks were measured on these, on others ("sha256:other") or on unknown ones."""
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    path = run / "benchmark" / "results.json"
    shape = json.loads(path.read_text())
    for name, weights in measured.items():
        shape["tasks"][name]["model_revision"] = fingerprint_model(run) if weights == "own" else weights
    path.write_text(json.dumps(shape))


def test_scores_of_other_weights_are_not_compared(runs):
    give_a_model(runs[0], {"sentiment": "own", "translation": "sha256:other"})
    give_a_model(runs[1], {"sentiment": "own", "translation": None})
    with pytest.warns(UserWarning, match="one: its scores of translation are of other weights .* left out"):
        comparison = compare_runs(runs, resamples=100)
    assert list(comparison.tasks) == ["sentiment"] and "translation" in comparison.notes[0]
    with pytest.raises(UserError, match=r"of other weights than those in its model/. To compare the run, measure them"):
        compare_runs(runs, ["translation"], resamples=100)


def test_a_run_whose_scores_are_all_of_other_weights_is_refused(runs):
    give_a_model(runs[1], {"sentiment": "sha256:other", "translation": "sha256:other"})
    with pytest.raises(UserError, match="two: its scores of sentiment, translation are of other weights"):
        compare_runs(runs, resamples=100)


def test_an_earlier_run_that_did_not_record_its_weights_is_compared(runs):
    give_a_model(runs[1], {"sentiment": None, "translation": None})
    assert list(compare_runs(runs, resamples=100).tasks) == ["sentiment", "translation"]
