"""The section `sweep` of a recipe: what it refuses, by file and line, and the values that it stands for."""

import inspect
import json

import pytest
import yaml

from hflm.core import RecipeError
from hflm.recipe import Choices, Range, dump_recipe, find_metric, load_recipe, load_varied_recipe, without_sweep
from hflm.recipe.sweep import PRUNERS, SAMPLERS

BASE = """\
name: base
tokenizer: {train: {vocab_size: 500}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 128}
pretrain: {data: {path: toy, name: stories}, validation: 0.1, args: {max_steps: 6}}
tasks:
  sentiment:
    data: {path: toy, name: sentiment}
    labels: [negative, neutral, positive]
    splits: {train: train, validation: validation, test: test}
finetune: {tasks: [sentiment], args: {max_steps: 8}}
benchmark: {tasks: [sentiment]}
sweep:
"""
LR = "finetune.args.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}"
SWEEP = {"space": "{" + LR + "}", "metric": "eval_loss"}


def write(folder, **changes):
    lines = [f"  {key}: {value}" for key, value in {**SWEEP, **changes}.items() if value is not None]
    (folder / "r.yaml").write_text(BASE + "\n".join(lines) + "\n")
    return str(folder / "r.yaml")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


GOOD = [
    {},
    {"metric": "loss"},
    {"metric": "pretrain.eval_loss"},
    {"metric": "benchmark.sentiment.accuracy", "pruner": "median"},
    {"metric": "[benchmark.sentiment.accuracy, eval_loss]", "sampler": "nsgaii", "direction": "[maximize, minimize]"},
    {"pruner": "{type: hyperband, min_resource: 20}", "sampler": "{type: tpe, n_startup_trials: 5}"},
    {"space": "{finetune.adapter: [null, {type: lora, r: 8}], seed: [1, 2]}"},
    {"space": "{finetune: {args: {learning_rate: [1.0e-3, 2.0e-3]}}}", "sampler": "grid"},
    {"space": "{model.n_head: [2, 4], model.n_embd: {low: 32, high: 64, step: 32}}", "sampler": "cmaes"},
    # Each is refused with the recipe's own value of the other, and allowed with one of the space's.
    {"space": "{model.n_head: [3, 5], model.n_embd: [30, 15]}"},
    {"storage": "postgresql+psycopg://me@host/db", "confirm": "null", "timeout": "60", "study": "mine"},
]


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_a_sweep_loads_and_its_dump_loads_to_the_same(changes, here):
    if changes.get("sampler") == "cmaes":
        changes = {**changes, "space": "{" + LR + ", finetune.args.weight_decay: {low: 0.0, high: 0.1}}"}
    loaded = load_recipe(write(here, **changes))
    (here / "dumped.yaml").write_text(dump_recipe(loaded))
    assert load_recipe("dumped.yaml") == loaded
    assert without_sweep(loaded).sweep is None


BAD = [
    ({"space": "{finetune.args.learnin_rate: [1.0e-3, 1.0e-2]}"}, "learnin_rate: unknown key. Did you mean learning_rate?"),
    ({"space": "{fintune.args.learning_rate: [1, 2]}"}, "fintune.args.learning_rate: unknown key. Did you mean finetune?"),
    ({"space": "{push.private: [true, false]}"}, "push cannot be searched: trials are not published"),
    ({"space": "{name: [a, b]}"}, "sweep.space.name: name cannot be searched: the folders of trials are named by hflm"),
    ({"space": "{sweep.trials: [1, 2]}"}, "sweep cannot be searched"),
    ({"space": "{tasks.sentimet.limit: [1, 2]}"}, "there is no task sentimet under `tasks:`. Did you mean sentiment?"),
    ({"space": "{finetune.args.max_steps: [0, 5]}"}, "sweep.space.finetune.args.max_steps: 0 is refused: 0 leaves no step"),
    ({"space": "{finetune.args.max_steps: {low: 5, high: 9, log: true}, model.n_head: [2, 5]}"}, "model.n_head: 5 is refused: n_embd 32"),
    ({"space": "{finetune.args.optim: [adamw, muon]}"}, 'sweep.space.finetune.args.optim: "adamw" is refused: no such value'),
    ({"space": "{}"}, "sweep.space: it is empty"),
    ({"space": "{seed: [1]}"}, "sweep.space.seed: a list of at least two values, got 1"),
    ({"space": "{seed: [1, 2, 1]}"}, "1 is listed twice"),
    ({"space": "{seed: 3}"}, "sweep.space.seed: expected a list of values or a range such as"),
    ({"space": "{seed: {low: 3}}"}, "sweep.space.seed: a range needs high"),
    ({"space": "{seed: {low: 3, hgh: 4}}"}, "sweep.space.seed.hgh: unknown key. Did you mean high?"),
    ({"space": "{seed: {low: 5, high: 4}}"}, "sweep.space.seed.high: must be above low 5, got 4"),
    ({"space": "{seed: {low: 0, high: 4, log: true}}"}, "sweep.space.seed.low: a logarithmic range is above 0"),
    ({"space": "{seed: {low: 1, high: 4, log: true, step: 1}}"}, "a logarithmic range has no step"),
    ({"space": "{seed: {low: 1, high: 10, step: 4}}"}, "sweep.space.seed.high: is no number of steps of 4 from 1. Set 9"),
    ({"metric": "benchmark.sentiment.acuracy"}, "'benchmark.sentiment.acuracy'. Did you mean benchmark"),
    ({"metric": "eval_los"}, "no stage produces the metric 'eval_los'. Did you mean eval_loss?"),
    ({"metric": "benchmark.qa.f1"}, "no stage produces the metric 'benchmark.qa.f1'"),
    ({"metric": "[eval_loss, eval_loss]"}, "sweep.metric.1: 'eval_loss' is listed twice"),
    ({"metric": "[eval_loss]"}, "sweep.metric: one metric, or a list of two; got 1"),
    ({"direction": "maximize"}, "sweep.direction: the best eval_loss is the lowest. Set minimize, or remove it"),
    ({"direction": "[minimize, minimize]"}, "sweep.direction: one metric has one direction"),
    ({"metric": "[eval_loss, benchmark.sentiment.accuracy]", "direction": "minimize"}, "two metrics have a list of two"),
    ({"metric": "[eval_loss, benchmark.sentiment.accuracy]", "pruner": "median"}, "Optuna prunes by one metric only"),
    ({"sampler": "tpee"}, "sweep.sampler: there is no sampler 'tpee'. Did you mean tpe?"),
    ({"sampler": "{n_startup_trials: 3}"}, "sweep.sampler: which one? Add type: one of tpe, random, grid"),
    ({"sampler": "{type: tpe, n_startup: 3}"}, "sweep.sampler.n_startup: unknown key. Did you mean n_startup_trials?"),
    ({"sampler": "{type: tpe, seed: 3}"}, "sweep.sampler.seed: hflm derives it from the recipe's `seed`"),
    ({"sampler": "{type: random, n: 3}"}, "sweep.sampler.n: unknown key. random has no options"),
    ({"sampler": "nsgaii"}, "nsgaii is for two metrics"),
    ({"sampler": "cmaes"}, "cmaes searches two ranges or more"),
    ({"sampler": "grid"}, "a grid needs a step, or a list of values"),
    ({"sampler": "grid", "space": "{seed: [1, 2]}", "trials": "3"}, "sweep.trials: the grid has 2 points"),
    ({"pruner": "{type: median, n_startup_trials: soon}"}, "sweep.pruner.n_startup_trials: expected a whole number"),
    ({"trials": "0"}, "sweep.trials: must be above 0"),
    ({"confirm": "{seeds: 1}"}, "sweep.confirm.seeds: must be at least 2"),
    ({"trails": "3"}, "sweep.trails: unknown key. Did you mean trials?"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda each: str(each)[:50])
def test_what_is_wrong_has_its_line(changes, message, here):
    with pytest.raises(RecipeError) as raised:
        load_recipe(write(here, **changes))
    assert message in str(raised.value)
    keys = [*{**SWEEP, **changes}]
    lines = {BASE.count("\n") + 1 + keys.index(key) for key in (*changes.keys() & keys, "space")}
    assert {problem.line for problem in raised.value.problems} <= lines


def test_nothing_to_prune_by(here):
    path = write(here, metric="benchmark.sentiment.accuracy", pruner="median")
    text = (here / "r.yaml").read_text().replace("validation: validation, ", "")
    (here / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match="sweep.pruner: nothing is evaluated in `finetune`"):
        load_recipe(path)


def test_values_and_metrics_that_a_sweep_stands_for(here):
    space = "{finetune.adapter: [null, {type: lora, r: 8}], seed: {low: 1, high: 7, step: 3}, " + LR + "}"
    loaded = load_recipe(write(here, space=space))
    assert loaded.sweep is not None
    assert loaded.sweep.dimensions == {
        "finetune.adapter": Choices((None, {"type": "lora", "r": 8})),
        "seed": Range(1, 7, False, 3),
        "finetune.args.learning_rate": Range(1e-4, 1e-2, True, None),
    }
    assert list(loaded.sweep.dimensions["finetune.adapter"].labels) == ["null", '{"r": 8, "type": "lora"}']
    assert loaded.sweep.dimensions["seed"].grid == (1, 4, 7)
    assert Range(0.0, 0.3, False, 0.1).grid == (0.0, 0.1, 0.2, 0.3)
    assert Range(1, 3, False, None).grid == (1, 2, 3)
    assert Range(1, 3, True, None).grid is None
    assert loaded.sweep.directions == ("minimize",)
    assert loaded.sweep.trial_count == 20


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("eval_loss", ("finetune", None, "eval_loss", "eval_loss")),
        ("pretrain.loss", ("pretrain", None, "eval_loss", "eval_loss")),
        ("benchmark.sentiment.mcc", ("benchmark", "sentiment", "mcc", "eval_sentiment_mcc")),
        ("eval_sentiment_accuracy", ("finetune", None, "eval_sentiment_accuracy", "eval_sentiment_accuracy")),
        ("benchmark.sentiment.bleu", None),
        ("accuracy", None),
    ],
)
def test_the_metric_that_a_name_stands_for(written, found):
    raw = yaml.safe_load(BASE)
    raw["finetune"]["evaluate"] = {"tasks": ["sentiment"]}

    def at(*path):
        value = raw
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    metric = find_metric(at, written)
    assert (metric and (metric.stage, metric.task, metric.name, metric.evaluated)) == found


def test_a_recipe_with_values_in_place_has_no_sweep_and_keeps_a_presets_own_settings(here):
    path = write(here, space="{model.preset: [gpt2-nano, gpt2-micro], " + LR + "}")
    values = {"model.preset": "gpt2-micro", "finetune.args.learning_rate": 1e-05, "finetune.args.optim": "muon"}
    varied = load_varied_recipe(path, ["name=one"], values)
    assert (varied.sweep, varied.name, varied.model.preset) == (None, "one", "gpt2-micro")
    assert varied.finetune is not None and varied.finetune.args == {
        "max_steps": 8,
        "learning_rate": 1e-05,
        "optim": "muon",
    }


def test_the_options_are_those_of_optunas_classes():
    from optuna import pruners, samplers

    classes = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "cmaes": samplers.CmaEsSampler,
        "nsgaii": samplers.NSGAIISampler,
        "median": pruners.MedianPruner,
        "hyperband": pruners.HyperbandPruner,
    }
    for name, options in {**SAMPLERS, **PRUNERS}.items():
        assert options.keys() <= (inspect.signature(classes[name]).parameters.keys() if name in classes else set())


def test_a_sweep_may_be_set_on_the_command_line(here):
    loaded = load_recipe(write(here), ["sweep.space.seed=[1, 2]", f"sweep.sampler={json.dumps({'type': 'random'})}"])
    assert loaded.sweep is not None
    assert list(loaded.sweep.dimensions) == ["finetune.args.learning_rate", "seed"]
    assert loaded.sweep.sampler == {"type": "random"}
