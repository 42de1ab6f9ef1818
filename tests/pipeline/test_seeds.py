"""`hflm run --seeds`, and recipes compared over several seeds."""

import json
import sys

import pytest

from hflm import cli
from hflm.core import UserError
from hflm.evaluation import compare_seeds, seed_difference, seed_runs, spread
from hflm.pipeline import RunOptions, run_with_seeds
from hflm.recipe import load_recipe

TINY = """
name: tiny
tokenizer: {train: {vocab_size: 300}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 64}
tasks:
  sentiment:
    data: {path: toy, name: sentiment, size: 40}
    labels: [negative, neutral, positive]
    splits: {train: train, test: "test[:20]"}
finetune: {tasks: [sentiment], args: {max_steps: 4, learning_rate: 0.01}}
benchmark: {tasks: [sentiment], resamples: 20, contamination: false}
push: {repo_id: you/tiny}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of a recipe, and two of the same with fewer steps."""
    folder = tmp_path_factory.mktemp("seeds")
    (folder / "tiny.yaml").write_text(TINY)
    for name, steps in (("a", 4), ("b", 1)):
        recipe = load_recipe(str(folder / "tiny.yaml"), [f"finetune.args.max_steps={steps}"])
        run_with_seeds(recipe, 2, folder / name)
    return folder


def test_runs_of_each_seed_and_a_summary(folder):
    assert {path.name for path in (folder / "a").iterdir()} == {"seed-42", "seed-43", "seeds.json", "README.md"}
    runs = seed_runs(folder / "a")
    assert [load_recipe(str(run / "recipe.yaml")).seed for run in runs] == [42, 43]
    assert all((run / "README.md").is_file() for run in runs)
    assert load_recipe(str(runs[0] / "recipe.yaml")).push is None
    summary = json.loads((folder / "a" / "seeds.json").read_text())
    assert summary["seeds"] == [42, 43]
    accuracies = [
        json.loads((run / "benchmark/results.json").read_text())["tasks"]["sentiment"]["metrics"]["accuracy"]["value"]
        for run in runs
    ]
    assert summary["scores"]["sentiment accuracy"]["values"] == accuracies
    assert summary["scores"]["sentiment accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert summary["scores"]["finetune final_loss"]["sd"] > 0
    assert "| sentiment accuracy |" in (folder / "a" / "README.md").read_text()


def test_the_tokenizer_is_trained_once(folder):
    first, second = seed_runs(folder / "a")
    assert "tokenizer: bpe" in (first / "run.log").read_text()
    assert "tokenizer: bpe" not in (second / "run.log").read_text()
    assert (first / "tokenizer/tokenizer.json").read_bytes() == (second / "tokenizer/tokenizer.json").read_bytes()


def test_finished_seeds_are_not_trained_again(folder, monkeypatch):
    def fail(*_, **__):
        pytest.fail("it was trained again")

    monkeypatch.setattr("hflm.pipeline.run.process_setup.start", fail)
    run_with_seeds(load_recipe(str(folder / "tiny.yaml")), 2, folder / "a")
    run_with_seeds(load_recipe(str(folder / "tiny.yaml")), 2, folder / "a", RunOptions(dry_run=True))


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds no runs of several seeds"):
        run_with_seeds(load_recipe(str(folder / "tiny.yaml")), 2, tmp_path)


def test_recipes_are_compared_over_their_seeds(folder):
    found = compare_seeds([folder / "a", folder / "b", folder / "b" / "seed-42"])
    assert list(found.groups) == ["A", "B", "C"]
    scores = found.tasks["sentiment"]["accuracy"]
    assert found.rows == {"sentiment": 20}
    assert [scores.spreads[letter].n for letter in "ABC"] == [2, 2, 1]
    assert scores.by_seed["B"].difference == pytest.approx(scores.spreads["B"].mean - scores.spreads["A"].mean)
    low, high = scores.by_row["B"]
    assert low <= scores.by_seed["B"].difference <= high
    assert scores.by_seed["C"].ci95 is None  # one seed says nothing about the luck of training


def test_the_command_line_shows_both_intervals(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["hflm", "compare", str(folder / "a"), str(folder / "b"), "--resamples", "100"])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 0
    printed = capsys.readouterr().out
    assert "by seeds" in printed and "by rows" in printed and "accuracy" in printed


@pytest.mark.parametrize(
    ("values", "mean", "sd", "ci95"),
    [
        ([0.5], 0.5, None, None),
        ([0.5, 0.7], 0.6, 0.1414214, (-0.6706205, 1.8706205)),
        # Student's t with two degrees of freedom: 4.302653 * 1 / sqrt(3)
        ([1.0, 2.0, 3.0], 2.0, 1.0, (-0.4841377, 4.4841377)),
    ],
)
def test_the_spread_of_some_scores(values, mean, sd, ci95):
    found = spread(values)
    assert found.mean == pytest.approx(mean)
    assert found.sd == (None if sd is None else pytest.approx(sd, rel=1e-5))
    assert found.ci95 == (None if ci95 is None else pytest.approx(ci95, rel=1e-5))


def test_a_difference_is_judged_against_the_spread_of_the_seeds():
    clear, lucky = (
        seed_difference([0.50, 0.51, 0.49], [0.70, 0.71, 0.69]),
        seed_difference([0.4, 0.6, 0.5], [0.7, 0.45, 0.5]),
    )
    assert clear.ci95 is not None and clear.ci95[0] > 0 and clear.p is not None and clear.p < 0.001
    assert lucky.ci95 is not None and lucky.ci95[0] < 0 < lucky.ci95[1] and lucky.p is not None and lucky.p > 0.3
    assert seed_difference([0.5], [0.6, 0.7]).ci95 is None
    assert seed_difference([0.5, 0.5], [0.6, 0.6]).p is None
