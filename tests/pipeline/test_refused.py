"""A run that is refused leaves everything as it was: no new folder, no changed file."""

import shutil
from pathlib import Path

import pytest

from hflm.core import UserError
from hflm.pipeline import benchmark_model, run_recipe, run_with_seeds, sweep_recipe
from hflm.recipe import load_recipe
from recipes import tiny_recipe

LABELS = "labels: [negative, neutral, positive]"
TUNED = f"""
name: tuned
model: {{from: base}}
tasks: {{sentiment: {{data: {{path: toy, name: sentiment, size: 20}}, {LABELS}}}}}
finetune: {{tasks: [sentiment], args: {{max_steps: 2}}}}
benchmark: {{tasks: [sentiment], resamples: 20}}
"""
SWEEP = """
sweep: {space: {finetune.args.learning_rate: [0.001, 0.002]}, metric: benchmark.sentiment.accuracy, confirm: null}
"""


def contents(folder: Path) -> dict[str, bytes | None]:
    """Each file of a folder with its bytes, each folder with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def work(tmp_path, monkeypatch, tiny, tokenizer):
    """A folder with base/, a model; weightless/, the same without its weights; damaged/, with others; recipes."""
    monkeypatch.chdir(tmp_path)
    for part in (tiny, tokenizer):
        part.save_pretrained("base")
    for name in ("weightless", "damaged"):
        shutil.copytree("base", name)
        Path(name, "model.safetensors").unlink()
    Path("damaged", "model.safetensors").write_bytes(b"\0" * 64)
    Path("rows.jsonl").write_text('{"text": "It rains."}\n{"text": \n')
    Path("tuned.yaml").write_text(TUNED)
    Path("tiny.yaml").write_text(
        tiny_recipe("tiny", "pretrain: {data: {path: toy, name: stories, size: 20}, args: {max_steps: 1}}\n")
    )
    return tmp_path


def bench(model):
    return lambda: benchmark_model(model, load_recipe("tuned.yaml"))


def run(recipe, *sets):
    return lambda: run_recipe(load_recipe(recipe, sets))


REFUSED = {
    "bench of a folder without weights": (bench("weightless"), "model 'weightless' cannot be loaded"),
    "bench of damaged weights": (bench("damaged"), "model 'damaged' cannot be loaded"),
    "bench of an unknown model": (bench("nobody/nothing"), "model 'nobody/nothing' cannot be loaded"),
    "a run from a model without weights": (run("tuned.yaml", "model.from=weightless"), "cannot be loaded"),
    "several seeds": (
        lambda: run_with_seeds(load_recipe("tuned.yaml", ["model.from=weightless"]), 2),
        "cannot be loaded",
    ),
    "an unknown tokenizer": (
        run("tiny.yaml", "tokenizer={from: nobody/nothing}"),
        "tokenizer 'nobody/nothing' cannot be loaded",
    ),
    "bad rows of the tokenizer's text": (
        run("tiny.yaml", "tokenizer.train.data={path: rows.jsonl}"),
        "rows.jsonl:2 is not JSON",
    ),
    "rows that are too long": (
        run("tuned.yaml", "tasks.sentiment.too_long=refuse", "tasks.sentiment.prompt='{{ text * 40 }}'"),
        "longer than the",
    ),
}


@pytest.mark.parametrize(("refused", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_no_folder(work, refused, message):
    before = contents(work)
    with pytest.raises(UserError, match=message):
        refused()
    assert contents(work) == before


def test_a_finished_run_stays_as_it_is_where_its_changed_recipe_is_refused(work):
    run_recipe(load_recipe("tuned.yaml"))
    before = contents(work)
    for sets in (
        ["model.from=damaged"],
        ["tasks.sentiment.too_long=refuse", "tasks.sentiment.prompt='{{ text * 40 }}'"],
        ["benchmark.resamples=30", "tasks.sentiment.metrics=[accuracy]", "model.from=nobody/nothing"],
    ):
        with pytest.raises(UserError):
            run_recipe(load_recipe("tuned.yaml", sets))
        assert contents(work) == before, sets


def test_a_sweep_from_a_model_that_cannot_be_loaded_can_be_corrected(work):
    Path("sweep.yaml").write_text(TUNED + SWEEP)
    before = contents(work)
    with pytest.raises(UserError, match="model 'weightless' cannot be loaded"):
        sweep_recipe("sweep.yaml", ["model.from=weightless"])
    assert contents(work) == before
