import dataclasses
import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from hflm.core import UserError
from hflm.evaluation import results
from hflm.evaluation.results import Bin, Calibration, Contamination, Results, Score, Slice, TaskResult

SENTIMENT = TaskResult(
    kind="sentiment",
    n=872,
    metrics={"mcc": Score(0.66, (0.6, 0.7), "s1"), "accuracy": Score(0.83, (0.8, 0.85), "s2")},
    baselines={"majority": {"accuracy": 0.51}, "random": {"accuracy": 0.49, "mcc": 0.0}},
    data="stanfordnlp/sst2 [validation]",
    prompt_hash="abc",
    decoding="label scoring",
    truncated=1,
    skipped=2,
    shots=5,
    data_fingerprint="sha256:aa",
    model_revision="abc123",
    calibration=Calibration(0.07, (Bin(0.4, 0.6, 300, 0.55, 0.5), Bin(0.8, 1.0, 572, 0.9, 1.0))),
    slices=(Slice("label", "negative", 428, "accuracy", Score(0.8, (0.7, 0.9), "s2")),),
    contamination=Contamination(
        of="examples",
        n=872,
        words=8,
        contaminated=87,
        near_copies=40,
        overlap=0.06,
        against=("pretrain", "finetune"),
        clean={"mcc": Score(0.6, (0.5, 0.7), "s1"), "accuracy": Score(0.8, (0.7, 0.9), "s2")},
    ),
)
RESULTS = Results("runs/quickstart", {"sentiment": SENTIMENT})


def changed(**fields):
    return json.dumps({**json.loads(json.dumps({"schema_version": 1, **dataclasses.asdict(RESULTS)})), **fields})


def test_what_is_written_is_read_back_equal(tmp_path):
    results.write_results(RESULTS, tmp_path / "benchmark" / "results.json")
    assert results.read_results(tmp_path / "benchmark" / "results.json") == RESULTS


def test_the_file_has_the_documented_shape(tmp_path):
    results.write_results(RESULTS, tmp_path / "results.json")
    shape = json.loads((tmp_path / "results.json").read_text())
    assert list(shape) == ["schema_version", "model", "tasks"]
    assert shape["schema_version"] == 1
    task = shape["tasks"]["sentiment"]
    assert task["n"] == 872
    assert task["metrics"]["accuracy"] == {"value": 0.83, "ci95": [0.8, 0.85], "signature": "s2"}
    assert task["baselines"]["majority"] == {"accuracy": 0.51}


def test_a_file_from_before_calibration_and_slices_is_read(tmp_path):
    shape = json.loads(changed())
    later = ("shots", "data_fingerprint", "model_revision", "calibration", "slices", "contamination")
    for field in later:
        del shape["tasks"]["sentiment"][field]
    (tmp_path / "results.json").write_text(json.dumps(shape))
    task = results.read_results(tmp_path / "results.json").tasks["sentiment"]
    assert [getattr(task, field) for field in later] == [0, None, None, None, (), None]
    assert task.metrics == SENTIMENT.metrics


@pytest.mark.parametrize("value, ci95", [(float("nan"), (0, 1)), (float("inf"), (0, 1)), (1.0, (0, float("nan")))])
def test_a_number_that_is_none_is_refused_and_leaves_the_old_file(tmp_path, value, ci95):
    path = tmp_path / "results.json"
    results.write_results(RESULTS, path)
    broken = dataclasses.replace(SENTIMENT, metrics={"perplexity": Score(value, ci95, "")})
    with pytest.raises(ValueError, match="sentiment: perplexity is not a finite number"):
        results.write_results(Results("m", {"sentiment": broken}), path)
    assert results.read_results(path) == RESULTS


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not a results.json"),
        ("[]", "no schema_version"),
        ('{"model": "m", "tasks": {}}', "no schema_version"),
        (changed(schema_version=2), "schema_version is 2, this hflm reads 1"),
        (changed(schema_version="1"), "schema_version is '1'"),
        ('{"schema_version": 1, "model": "m"}', "tasks: Field required"),
        (changed(tasks={"qa": {"kind": "qa"}}), "tasks.qa.n: Field required"),
        (changed(tasks=[]), "not a results.json"),
        (changed().replace("0.83", "NaN"), "NaN is not a JSON number"),
        (changed().replace("0.83", '"high"'), "unable to parse string as a number"),
        (
            changed().replace("expected_calibration_error", "error"),
            "calibration.expected_calibration_error: Field required",
        ),
        (changed().replace('"by"', '"for"'), "slices.0.by: Field required"),
    ],
)
def test_a_file_that_is_no_results_names_itself_and_the_reason(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        results.read_results(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(UserError, match="no such file.*hflm bench"):
        results.read_results(tmp_path / "results.json")


@pytest.mark.parametrize(
    "kind, metrics, main",
    [
        ("sentiment", ["mcc", "macro_f1", "accuracy"], ("accuracy", "macro_f1")),
        ("translation", ["ter", "chrf"], ("chrf",)),
        ("generation", ["rougeL", "bleu"], ("rougeL",)),
        ("qa", ["bleu"], ("bleu",)),
        ("qa", [], ()),
    ],
)
def test_main_metrics(kind, metrics, main):
    scores = {metric: Score(0.0, (0.0, 0.0), "") for metric in metrics}
    assert dataclasses.replace(SENTIMENT, kind=kind, metrics=scores).main() == main


def test_the_terminal_table_shows_interval_and_baselines_beside_the_value():
    console = Console(width=120, file=io.StringIO())
    console.print(results.results_table(Results("m", {"[red]mood": SENTIMENT})))
    line = next(line for line in console.file.getvalue().splitlines() if "mood" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "[red]mood",
        "872",
        "accuracy",
        "0.830",
        "0.800 to 0.850",
        "majority 0.510, random 0.490",
    ]


def test_the_terminal_shows_what_is_contaminated_below_the_table():
    console = Console(width=80, file=io.StringIO())
    console.print(results.results_table(RESULTS))
    assert "sentiment: 10.0 % of 872 examples; clean: accuracy 0.800" in console.file.getvalue()
    checked = dataclasses.replace(SENTIMENT.contamination, contaminated=0)
    console = Console(width=80, file=io.StringIO())
    console.print(results.results_table(Results("m", {"mood": dataclasses.replace(SENTIMENT, contamination=checked)})))
    assert "ontaminated" not in console.file.getvalue()


def test_reading_results_is_light():
    heavy = (
        "import hflm.evaluation.results, sys\n"
        "print([m for m in ('torch', 'numpy', 'rich', 'yaml') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "[]"


@pytest.mark.parametrize(
    "kind, metrics, shown",
    [
        ("sentiment", ["accuracy", "macro_f1", "mcc"], ("accuracy", "macro_f1")),
        ("sentiment", ["mcc"], ("mcc",)),
        ("sentiment", ["mcc", "accuracy"], ("accuracy", "mcc")),
        ("translation", ["ter", "bleu", "chrf"], ("bleu", "chrf")),
        ("translation", ["ter", "bleu"], ("bleu", "ter")),
        ("generation", ["exact_match", "rouge2"], ("exact_match", "rouge2")),
        ("of another version", ["a", "b"], ("a", "b")),
    ],
)
def test_metrics_that_the_recipe_chose_are_in_the_table_and_the_plot(kind, metrics, shown):
    scores = {name: Score(1.0, (1.0, 1.0), "") for name in metrics}
    assert dataclasses.replace(SENTIMENT, kind=kind, metrics=scores).shown() == shown
