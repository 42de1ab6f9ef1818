"""Which stages run again when one key changes, what is set aside, and runs of hflm 0.1."""

import json

import pytest
import yaml

from hflm.core import UserError
from hflm.evaluation import Results, TaskResult, write_results
from hflm.pipeline import resolve_inputs
from hflm.pipeline.legacy_keys import legacy_stage_keys
from hflm.pipeline.schedule import retrained, schedule
from hflm.pipeline.stage_keys import dependencies_key, stage_dependencies
from hflm.pipeline.stage_state import StageState, read_stage_state
from hflm.recipe import dump_recipe, load_recipe

RECIPE = """
name: small
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_positions: 64}
pretrain: {data: {path: toy, name: stories, size: 50}, args: {max_steps: 2}}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}
  qa: {data: {path: toy, name: qa, size: 20}}
  watched: {kind: qa, data: {path: toy, name: qa, size: 20}, splits: {validation: validation}}
finetune: {tasks: [sentiment], args: {max_steps: 2}}
benchmark: {tasks: [sentiment, qa]}
push: {repo_id: somebody/small}
"""
ALL = ["tokenizer", "pretrain", "finetune", "model", "benchmark/sentiment", "benchmark/qa", "push"]


TRAINED = ["pretrain", "finetune", "model", "benchmark/sentiment", "benchmark/qa", "push"]
MEASURED = ["benchmark/sentiment", "benchmark/qa", "push"]


def loaded(tmp_path, *sets, text=RECIPE):
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return load_recipe(str(path), sets)


def dependencies_of(recipe):
    return stage_dependencies(recipe, resolve_inputs(recipe))


def keys(tmp_path, *sets):
    found = dependencies_of(loaded(tmp_path, *sets))
    return {stage: dependencies_key(dependencies) for stage, dependencies in found.items()}


def changed(before, after):
    return [stage for stage in after if before.get(stage) != after[stage]]


def test_stages_are_in_their_order(tmp_path):
    assert list(keys(tmp_path)) == ALL
    assert keys(tmp_path) == keys(tmp_path)


COSMETIC = [
    "name=other",
    "benchmark.batch_tokens=64",
    "pretrain.data.license=mit",
    "pretrain.on_bad_row=skip",
    "tasks.sentiment.on_bad_row=skip",
    "tasks.sentiment.too_long=refuse",
    "pretrain.args.logging_steps=1",
    "pretrain.args.report_to=[tensorboard]",
    "pretrain.args.run_name=x",
    "pretrain.args.save_total_limit=5",
    "pretrain.args.save_steps=1",
    "pretrain.args.save_strategy=epoch",
    "pretrain.args.per_device_eval_batch_size=2",
    "pretrain.args.eval_steps=3",
    "finetune.args.metric_for_best_model=loss",
    "finetune.evaluate={tasks: [watched]}",
    "pretrain.evaluate={tasks: [watched], limit: 3}",
    "pretrain.args.dataloader_num_workers=2",
    "pretrain.args.ddp_timeout=7200",
    "pretrain.on_spike=stop",
    "finetune.args.logging_first_step=true",
    "finetune.args.skip_memory_metrics=false",
    "tasks.sentiment.data.num_proc=2",
    "tokenizer.train.min_frequency=2",
]


@pytest.mark.parametrize("change", COSMETIC)
def test_what_cannot_change_a_result_runs_nothing_again(tmp_path, change):
    # num_proc is an option of local files.
    rows = tmp_path / "rows" / "train.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"text": "a", "label": 0}\n')
    local = f"tasks.sentiment.data={{path: {rows.parent}}}"
    assert changed(keys(tmp_path, local), keys(tmp_path, local, change)) == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("benchmark.resamples=10", MEASURED),
        ("tasks.qa.limit=5", ["benchmark/qa", "push"]),
        ("tasks.sentiment.limit=5", ["benchmark/sentiment", "push"]),
        ("tasks.sentiment.shots=2", ["benchmark/sentiment", "push"]),
        ("tasks.qa.generation={num_beams: 5}", ["benchmark/qa", "push"]),
        ("tasks.sentiment.splits.test=validation", ["benchmark/sentiment", "push"]),
        ("tasks.sentiment.splits.train='train[:10]'", ALL),  # the tokenizer is trained on it, too
        ("tasks.sentiment.splits.validation=validation", ["benchmark/sentiment", "push"]),
        ("tasks.sentiment.prompt='{{ text }}'", ALL),
        ("finetune.args.learning_rate=1e-3", TRAINED[1:]),
        ("finetune.adapter={type: lora}", TRAINED[1:]),
        ("pretrain.args.max_steps=3", TRAINED),
        ("pretrain.on_spike=rollback", TRAINED),
        ("pretrain.z_loss=1e-4", TRAINED),
        ("pretrain.average_checkpoints=2", TRAINED),
        ("pretrain.args.label_smoothing_factor=0.1", TRAINED),
        ("pretrain.validation=0.1", ALL),
        ("pretrain.text=story", ALL),
        ("pretrain.clean={normalize: NFC}", ALL),
        ("finetune=null", ["tokenizer", "pretrain", "model", *MEASURED]),
        ("model.n_positions=128", TRAINED),
        ("seed=1", TRAINED),
        ("tokenizer.train.vocab_size=500", ALL),
        ("tokenizer.add_tokens=[hydroxychloroquine]", ALL),
        ("pretrain.data.size=60", ALL),
        ("push.private=false", ["push"]),
        ("push.checkpoints=true", []),
    ],
)
def test_a_changed_key_repeats_what_depends_on_it(tmp_path, change, again):
    assert changed(keys(tmp_path), keys(tmp_path, change)) == again


VALIDATED = "tasks.sentiment.splits.validation=validation"
BEST = "finetune.args={max_steps: 2, eval_steps: 1, save_steps: 1, load_best_model_at_end: true}"


@pytest.mark.parametrize(
    "change", [BEST, "finetune.args.greater_is_better=false", "tasks.sentiment.splits.validation='validation[:5]'"]
)
def test_evaluations_count_where_they_choose_the_model(tmp_path, change):
    before = (VALIDATED,) if change == BEST else (VALIDATED, BEST)
    assert "finetune" in changed(keys(tmp_path, *before), keys(tmp_path, *before, change))


def test_the_interval_of_checkpoints_counts_where_they_are_averaged(tmp_path):
    averaged = "pretrain.average_checkpoints=2"
    assert changed(keys(tmp_path), keys(tmp_path, "pretrain.args.save_steps=7")) == []
    assert changed(keys(tmp_path, averaged), keys(tmp_path, averaged, "pretrain.args.save_steps=7")) == TRAINED


BY_TASK = BEST.replace("}", ", metric_for_best_model: watched_f1}")
WATCHED = (VALIDATED, BY_TASK, "finetune.evaluate={tasks: [watched, sentiment]}")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("finetune.evaluate.limit=9", True),
        ("finetune.early_stopping={patience: 2}", True),
        ("tasks.watched.splits.validation='validation[:5]'", True),
        ("tasks.watched.max_new_tokens=3", True),
        ("tasks.watched.data.size=15", True),
        ("tasks.watched.splits.test=train", False),
        ("tasks.watched.limit=9", False),
        ("finetune.evaluate.tasks=[watched]", False),
        ("pretrain.evaluate={tasks: [watched]}", False),
    ],
)
def test_what_chooses_the_model_is_the_score_of_one_task(tmp_path, change, again):
    assert ("finetune" in changed(keys(tmp_path, *WATCHED), keys(tmp_path, *WATCHED, change))) is again


SETS = "pretrain.validation={a: {path: toy, name: stories, size: 9}, b: {path: toy, name: qa, size: 9, text: context}}"
BEST_PRETRAINED = BEST.replace("finetune", "pretrain").replace("}", ", metric_for_best_model: a_loss}")


@pytest.mark.parametrize(("best", "again"), [((), False), ((BEST_PRETRAINED,), True)])
def test_validation_sets_count_where_they_choose_the_model(tmp_path, best, again):
    before = keys(tmp_path, SETS, *best)
    after = keys(tmp_path, SETS, *best, "pretrain.validation.a.size=10")
    assert ("pretrain" in changed(before, after)) is again


def test_data_that_moved_are_the_same_data(tmp_path):
    rows = tmp_path / "here" / "train.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"text": "a", "label": 0}\n')
    before = keys(tmp_path, f"tasks.sentiment.data={{path: {rows.parent}}}")
    rows.parent.rename(tmp_path / "there")
    assert keys(tmp_path, f"tasks.sentiment.data={{path: {tmp_path / 'there'}}}") == before


def test_changed_data_repeats_what_reads_it(tmp_path):
    (tmp_path / "data").mkdir()
    rows = tmp_path / "data" / "train.jsonl"
    rows.write_text('{"text": "a", "label": 0}\n')
    local = f"tasks.sentiment.data={{path: {tmp_path / 'data'}}}"
    before = keys(tmp_path, local)
    assert keys(tmp_path, local) == before
    rows.write_text('{"text": "b", "label": 0}\n')
    after = keys(tmp_path, local)
    assert changed(before, after) == ALL


def test_a_changed_base_model_repeats_its_stages(tmp_path):
    (tmp_path / "base").mkdir()
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(b"1")
    content = yaml.safe_load(RECIPE)
    content |= {"model": {"from": str(tmp_path / "base")}, "pretrain": None, "tokenizer": None, "finetune": None}
    text = yaml.safe_dump({key: value for key, value in content.items() if value is not None})
    before = dependencies_of(loaded(tmp_path, text=text))
    weights.write_bytes(b"2")
    after = dependencies_of(loaded(tmp_path, text=text))
    assert before.keys() == after.keys()
    assert all(before[stage] != after[stage] for stage in before)


ONE, TWO, THREE = {"seed": 1}, {"seed": 2}, {"seed": 3}


def test_finished_stages_are_remembered(tmp_path):
    state = read_stage_state(tmp_path)
    assert not state.is_finished("tokenizer", ONE)
    for stage, dependencies in (("tokenizer", ONE), ("pretrain", TWO), ("tokenizer", THREE)):
        state.finish(stage, dependencies)
    again = read_stage_state(tmp_path)
    assert again.is_finished("tokenizer", THREE) and again.is_finished("pretrain", TWO)
    assert not again.is_finished("tokenizer", ONE)
    assert again.changes("tokenizer", ONE) == "seed changed from 3 to 1"


def test_the_same_inputs_continue_in_their_folder(tmp_path):
    state = StageState(tmp_path)
    assert state.begin("pretrain", ONE) is None
    (tmp_path / "pretrain" / "checkpoint-1").mkdir()
    assert state.begin("pretrain", ONE) is None
    assert (tmp_path / "pretrain" / "checkpoint-1").is_dir()


def test_other_inputs_set_the_folder_aside_and_nothing_is_deleted(tmp_path):
    state = StageState(tmp_path)
    for name, dependencies in (("a", ONE), ("b", TWO), ("c", THREE)):
        state.begin("pretrain", dependencies)
        (tmp_path / "pretrain" / name).mkdir()
    for folder, name in (("pretrain.previous", "a"), ("pretrain.previous-2", "b"), ("pretrain", "c")):
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"inputs.json", name}


def test_another_bertscore_encoder_measures_again_and_trains_nothing(tmp_path):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    qa = ("finetune.tasks=[qa]", "tasks.qa.metrics=[bertscore]", f"tasks.qa.bertscore_model={encoder}")
    plain, before = keys(tmp_path, qa[0]), keys(tmp_path, *qa)
    (encoder / "config.json").write_text("{}")
    after = keys(tmp_path, *qa)
    for first, second in ((plain, before), (before, after)):
        assert [stage for stage in second if first[stage] != second[stage]] == ["benchmark/qa", "push"]


def test_what_was_set_aside_no_longer_counts_as_finished(tmp_path):
    state = StageState(tmp_path)
    state.begin("finetune", ONE)
    state.finish("finetune", ONE)
    state.begin("finetune", ONE)
    assert read_stage_state(tmp_path).is_finished("finetune", ONE)
    state.begin("finetune", TWO)
    assert read_stage_state(tmp_path).keys == {}


def test_a_measured_task_counts_only_while_its_results_exist(tmp_path):
    StageState(tmp_path).finish("benchmark/qa", ONE)
    assert read_stage_state(tmp_path).keys == {}
    scores = tmp_path / "benchmark" / "results.json"
    write_results(Results("run", {"qa": TaskResult("qa", 1, {}, {}, "toy", "", "", 0, 0)}), scores)
    assert read_stage_state(tmp_path).is_finished("benchmark/qa", ONE)
    scores.write_text('{"tasks": {"qa": ')
    with pytest.raises(UserError, match=r"results\.json: not a results\.json"):
        read_stage_state(tmp_path)


# Made by hflm 0.1: the keys of this recipe, as it wrote them.
RICH = """
name: rich
seed: 7
tokenizer: {train: {algorithm: wordpiece, vocab_size: 600}}
model: {preset: gpt2-nano, n_positions: 64, resid_pdrop: 0.1}
pretrain:
  data:
    - {path: toy, name: stories, size: 50, weight: 2}
    - {path: toy, name: qa, size: 20, weight: 1, text: context, license: mit}
  validation: 0.1
  clean: {normalize: NFC, words: {min: 3}}
  args: {max_steps: 2, logging_steps: 1}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive], shots: 2}
  qa: {data: {path: toy, name: qa, size: 20}, max_new_tokens: 8}
  pairs: {kind: translation, data: {path: toy, name: translation, size: 20}, source: english, target: lumo}
  sums: {kind: summarization, data: {path: toy, name: summarization, size: 20}, limit: 7}
  more: {kind: generation, data: {path: toy, name: qa, size: 20}, prompt: "{{ question }}", target: context}
  pick:
    kind: choice
    data: {path: toy, name: sentiment, size: 20}
    prompt: "{{ text }}"
    labels: [negative, neutral, positive]
  held: {kind: language_modeling, data: {path: toy, name: stories, size: 20}}
finetune: {tasks: [sentiment, qa, pairs], adapter: {type: lora, r: 2}, args: {max_steps: 2}}
benchmark: {tasks: [sentiment, qa, pairs, sums, more, pick, held]}
push: {repo_id: somebody/rich}
"""
LEGACY = {
    "tokenizer": "c3056f0c46fd32cef3e0e68031e8fef5",
    "pretrain": "b06ad1f9aa54c904c26cd2c6511a939d",
    "finetune": "714c5f09440f157561cb6026f62b8ab7",
    "model": "714c5f09440f157561cb6026f62b8ab7",
    "benchmark/sentiment": "8bdbef0a97159888ab52364cc6cc8075",
    "benchmark/qa": "5baba43c3f52ae37206b1935520ed003",
    "benchmark/pairs": "5b53bf2054a09905bd2a5f5c7cd6d339",
    "benchmark/sums": "3ade66ec5489b5aa72de5070c93be937",
    "benchmark/more": "0c60a8fb7c27c8d863fb8bba1727fef6",
    "benchmark/pick": "649b1c72d8cbca3e2df4941a793461d1",
    "benchmark/held": "2a6f328078a0b889c70df71b670635a9",
    "push": "dbc48368bc2ae88ca70dbe6232f9feb9",
}


# The keys of today. A changed one trains finished runs again: change it only where other weights or scores follow.
SMALL_KEYS = {
    "tokenizer": "49b75b29a2bdb88b64494ccb203b0f52",
    "pretrain": "b6be6435498940fc06dac829cf22880f",
    "finetune": "4e73c8f87e3407fe7ab2de8a240b98f7",
    "model": "18d2aed840a2b3887e8d21470d867200",
    "benchmark/sentiment": "cb21d5eada5726652eb2976296f503ed",
    "benchmark/qa": "f6868c549e3a97a947580504cd9585a2",
    "push": "32262ac10d77b4630929872992b38d10",
}
RICH_KEYS = {
    "tokenizer": "abd6efa0373757dd3fb3c6af69aec38e",
    "pretrain": "5bdf0cefa4d0ad482443913a46c4281e",
    "finetune": "406475cabae5839162ec3b39508ea826",
    "model": "18320a337be0e029d74e1d2042e5f45c",
    "benchmark/sentiment": "0c6b08008e4a81c4432d387c7ba58ac5",
    "benchmark/qa": "576a4663e27499fc238c57f90e9304a6",
    "benchmark/pairs": "23b78f32a15326bf4b2997f7ba222b08",
    "benchmark/sums": "147f5f84b45bbde9825083287c34f0f0",
    "benchmark/more": "50c4548557e772897246039cccc8f8b2",
    "benchmark/pick": "51c626901948cd30c92deacb0e56a453",
    "benchmark/held": "e2e6d1c1e15e3fc757f53b43078559f1",
    "push": "f888d4a90b5c5e89fcc9cfe2977097e4",
}


def without_benchmark(keys):
    return {stage: key for stage, key in keys.items() if not stage.startswith("benchmark/")}


@pytest.fixture
def toy_world(monkeypatch):
    """The toy world's version in hflm 0.1, which is part of its keys."""
    monkeypatch.setattr("hflm.data.toy.VERSION", "0940799505e748de49a33bcc20cbbe7aff3144e36ac0b7b6ae3ab6db1348b739")


@pytest.mark.parametrize(("text", "expected"), [(RECIPE, SMALL_KEYS), (RICH, RICH_KEYS)], ids=["small", "rich"])
def test_the_keys_of_finished_runs_stay_as_they_are(tmp_path, toy_world, text, expected):
    """Also where a recipe gets a new key: its default must leave the keys of recipes without it unchanged."""
    found = dependencies_of(loaded(tmp_path, text=text))
    assert {stage: dependencies_key(dependencies) for stage, dependencies in found.items()} == expected


def test_the_keys_of_an_earlier_version_are_computed_as_it_did(tmp_path, toy_world):
    recipe = loaded(tmp_path, text=RICH)
    assert legacy_stage_keys(recipe, resolve_inputs(recipe)) == LEGACY


@pytest.fixture
def legacy_run(tmp_path, toy_world):
    """A finished run of hflm 0.1, as far as its stages are looked at."""
    folder = tmp_path / "run"
    for stage in ("pretrain", "finetune"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "inputs.json").write_text(json.dumps({"key": LEGACY[stage]}))
    (folder / "recipe.yaml").write_text(dump_recipe(loaded(tmp_path, text=RICH)))
    (folder / "stages.json").write_text(json.dumps(without_benchmark(LEGACY)))
    return folder


@pytest.mark.parametrize("migrated", [False, True])
@pytest.mark.parametrize("sets", [(), ("pretrain.args.logging_steps=5", "pretrain.args.report_to=[tensorboard]")])
def test_stages_finished_by_an_earlier_version_stay_finished(tmp_path, legacy_run, sets, migrated):
    if migrated:
        read_stage_state(legacy_run).migrate()
        (legacy_run / "recipe.yaml").unlink()
    state, today = read_stage_state(legacy_run), dependencies_of(loaded(tmp_path, *sets, text=RICH))
    scheduled = schedule(without_benchmark(today), state)
    assert not [each.stage for each in scheduled if each.due], list(map(str, scheduled))
    assert state.is_begun("pretrain", today["pretrain"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("pretrain.args.max_steps=3", "pretrain.args.max_steps changed from 2 to 3"),
        ("pretrain.args.learning_rate=0.5", "pretrain.args.learning_rate changed from"),
        ("pretrain.z_loss=0.1", "pretrain.z_loss changed from unset to 0.1"),
        ("model.n_layer=1", "model.n_layer changed from"),
        ("tokenizer.train.vocab_size=700", "it starts from another tokenizer"),
        ("pretrain.data=[{path: toy, name: stories, size: 60}]", "pretrain.data.0.size changed from 50 to 60"),
    ],
)
def test_what_would_be_trained_again_is_announced_with_its_reason(tmp_path, legacy_run, change, reason):
    state, today = read_stage_state(legacy_run), dependencies_of(loaded(tmp_path, change, text=RICH))
    lines = retrained(schedule(today, state), state, today)
    assert lines[0].startswith("pretrain: it is finished and would be trained again: ") and reason in lines[0]
    assert lines[0].endswith(str(legacy_run / "pretrain.previous"))
    assert lines[1].startswith("finetune: ") and "it starts from another model" in lines[1]


def test_an_unfinished_stage_of_an_earlier_version_is_continued(tmp_path, legacy_run):
    (legacy_run / "stages.json").write_text(json.dumps({"tokenizer": LEGACY["tokenizer"]}))
    today = dependencies_of(loaded(tmp_path, text=RICH))
    state = read_stage_state(legacy_run)
    state.migrate()
    (legacy_run / "recipe.yaml").unlink()
    assert read_stage_state(legacy_run).begin("pretrain", today["pretrain"]) is None
