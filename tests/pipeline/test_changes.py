"""Changes of a recipe that change the weights, one after the other: announced with the reason, nothing is lost."""

from pathlib import Path

import pytest

from hflm.pipeline import RunOptions, run_recipe
from hflm.recipe import load_recipe
from recipes import tiny_recipe

STAGES = """
pretrain:
  data: {path: toy, name: stories, size: 30}
  args: {max_steps: 2, learning_rate: 0.001, save_steps: 1}
tasks: {sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive], limit: 4}}
benchmark: {tasks: [sentiment], resamples: 20, contamination: false}
"""
# (change, why pretraining runs again); each is made on top of those before it.
CHANGES = [
    ("seed=7", "seed changed from 42 to 7"),
    ("pretrain.args.learning_rate=0.002", "pretrain.args.learning_rate changed from 0.001 to 0.002"),
    ("pretrain.args.max_steps=3", "pretrain.args.max_steps changed from 2 to 3"),  # the schedule is a cosine
    ("model.n_layer=2", "model.n_layer changed from 1 to 2"),
    ("pretrain.data.size=31", "pretrain.data.0.size changed from 30 to 31"),
    ("tokenizer.train.vocab_size=450", "it starts from another tokenizer"),
]


def contents(folder: Path) -> dict[str, bytes]:
    """Each file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Runs the recipe with changes in the same folder."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(tiny_recipe("small", STAGES))
    return lambda changes: run_recipe(load_recipe("small.yaml", changes), "run", RunOptions(predict=False))


def test_what_changes_the_weights_is_announced_and_the_earlier_results_are_kept(changed, capsys):
    changed([])
    kept: dict[str, dict[str, bytes]] = {}
    for number, (_, reason) in enumerate(CHANGES, 1):
        results = {name: contents(Path("run") / name) for name in ("pretrain", "benchmark")}
        tokenizer = Path("run/tokenizer/tokenizer.json").read_bytes()
        capsys.readouterr()
        changed([change for change, _ in CHANGES[:number]])
        lines = capsys.readouterr().err.splitlines()
        end = ".previous" if number == 1 else f".previous-{number}"
        again = "pretrain: it is finished and would be trained again: "
        [line] = [line for line in lines if line.startswith(again)]
        assert line.endswith(f"The finished pretrain moves to run/pretrain{end}") and reason in line
        kept |= {f"{name}{end}": found for name, found in results.items()}
        assert {name: contents(Path("run") / name) for name in kept} == kept, reason
        # The tokenizer of a model is beside its weights, too.
        assert Path("run", f"pretrain{end}", "model", "tokenizer.json").read_bytes() == tokenizer
        assert contents(Path("run/model")) == contents(Path("run/pretrain/model"))
    assert len(kept) == 2 * len(CHANGES)
