"""Which stages run again when one key changes, and what moves aside."""

import pytest
import yaml

from hflm.core import UserError
from hflm.evaluation import Results, TaskResult, write_results
from hflm.pipeline import resolve_inputs
from hflm.pipeline import stage_state as stages
from hflm.pipeline.stage_keys import stage_keys
from hflm.recipe import load_recipe

RECIPE = """
name: small
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_positions: 64}
pretrain: {data: {path: toy, name: stories, size: 50}, args: {max_steps: 2}}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}
  qa: {data: {path: toy, name: qa, size: 20}}
finetune: {tasks: [sentiment], args: {max_steps: 2}}
benchmark: {tasks: [sentiment, qa]}
push: {repo_id: somebody/small}
"""
ALL = ["tokenizer", "pretrain", "finetune", "model", "benchmark/sentiment", "benchmark/qa", "push"]


def keys_of(recipe):
    return stage_keys(recipe, resolve_inputs(recipe))


def keys(tmp_path, *sets):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return keys_of(load_recipe(str(path), sets))


def test_stages_stand_in_their_order(tmp_path):
    assert list(keys(tmp_path)) == ALL
    assert keys(tmp_path) == keys(tmp_path)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("name=other", []),
        ("benchmark.batch_tokens=64", []),
        ("benchmark.resamples=10", ["benchmark/sentiment", "benchmark/qa", "push"]),
        ("tasks.qa.limit=5", ["benchmark/qa", "push"]),
        ("tasks.sentiment.limit=5", ["benchmark/sentiment", "push"]),
        ("tasks.sentiment.shots=2", ["benchmark/sentiment", "push"]),
        ("tasks.sentiment.splits.test=validation", ["benchmark/sentiment", "push"]),
        ("tasks.sentiment.splits.train='train[:10]'", ALL),  # the tokenizer learns from what is learnt
        ("tasks.sentiment.prompt='{{ text }}'", ALL),
        ("finetune.args.learning_rate=1e-3", ALL[2:]),
        ("finetune.adapter={type: lora}", ALL[2:]),
        ("pretrain.args.max_steps=3", ALL[1:]),
        ("pretrain.validation=0.1", ALL),
        ("pretrain.text=story", ALL),
        ("pretrain.clean={normalize: NFC}", ALL),
        ("pretrain.data.license=mit", []),
        ("finetune=null", ["tokenizer", "pretrain", "model", "benchmark/sentiment", "benchmark/qa", "push"]),
        ("model.n_positions=128", ALL),
        ("seed=1", ALL),
        ("tokenizer.train.vocab_size=500", ALL),
        ("pretrain.data.size=60", ALL),
        ("push.private=false", ["push"]),
    ],
)
def test_a_changed_key_repeats_what_depends_on_it(tmp_path, change, again):
    before, after = keys(tmp_path), keys(tmp_path, change)
    assert [stage for stage in after if before[stage] != after[stage]] == again


def test_changed_data_repeats_what_reads_it(tmp_path):
    (tmp_path / "data").mkdir()
    rows = tmp_path / "data" / "train.jsonl"
    rows.write_text('{"text": "a", "label": 0}\n')
    local = f"tasks.sentiment.data={{path: {tmp_path / 'data'}}}"
    before = keys(tmp_path, local)
    assert keys(tmp_path, local) == before
    rows.write_text('{"text": "b", "label": 0}\n')
    after = keys(tmp_path, local)
    assert [stage for stage in after if before[stage] != after[stage]] == [
        "tokenizer", "pretrain", "finetune", "model", "benchmark/sentiment", "benchmark/qa", "push"
    ]  # fmt: skip


def test_a_changed_base_model_repeats_its_stages(tmp_path):
    (tmp_path / "base").mkdir()
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(b"1")
    path = tmp_path / "bench.yaml"
    content = yaml.safe_load(RECIPE)
    content |= {"model": {"from": str(tmp_path / "base")}, "pretrain": None, "tokenizer": None, "finetune": None}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    before = keys_of(load_recipe(str(path)))
    weights.write_bytes(b"2")
    after = keys_of(load_recipe(str(path)))
    assert before.keys() == after.keys()
    assert all(before[stage] != after[stage] for stage in before)


def test_finished_stages_are_remembered(tmp_path):
    assert stages.finished_stages(tmp_path) == {}
    stages.finish(tmp_path, "tokenizer", "a")
    stages.finish(tmp_path, "pretrain", "b")
    stages.finish(tmp_path, "tokenizer", "c")
    assert stages.finished_stages(tmp_path) == {"tokenizer": "c", "pretrain": "b"}


def test_the_same_inputs_continue_in_their_folder(tmp_path):
    assert stages.begin(tmp_path / "pretrain", "a") is None
    (tmp_path / "pretrain" / "checkpoint-1").mkdir()
    assert stages.begin(tmp_path / "pretrain", "a") is None
    assert (tmp_path / "pretrain" / "checkpoint-1").is_dir()


def test_other_inputs_move_the_folder_aside(tmp_path):
    for key in ("a", "b", "c"):
        stages.begin(tmp_path / "pretrain", key)
        (tmp_path / "pretrain" / key).mkdir()
    assert {path.name for path in (tmp_path / "pretrain").iterdir()} == {"inputs.json", "c"}
    assert {path.name for path in (tmp_path / "pretrain.previous").iterdir()} == {"inputs.json", "a"}
    assert {path.name for path in (tmp_path / "pretrain.previous-2").iterdir()} == {"inputs.json", "b"}


def test_another_bertscore_encoder_measures_again_and_trains_nothing(tmp_path):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    qa = ("finetune.tasks=[qa]", "tasks.qa.metrics=[bertscore]", f"tasks.qa.bertscore_model={encoder}")
    plain, before = keys(tmp_path, qa[0]), keys(tmp_path, *qa)
    (encoder / "config.json").write_text("{}")
    after = keys(tmp_path, *qa)
    for first, second in ((plain, before), (before, after)):
        assert [stage for stage in second if first[stage] != second[stage]] == ["benchmark/qa", "push"]


def test_what_was_moved_aside_no_longer_counts_as_finished(tmp_path):
    stages.begin(tmp_path / "finetune", "a")
    stages.finish(tmp_path, "finetune", "a")
    stages.begin(tmp_path / "finetune", "a")
    assert stages.finished_stages(tmp_path) == {"finetune": "a"}
    stages.begin(tmp_path / "finetune", "b")
    assert stages.finished_stages(tmp_path) == {}


def test_a_measured_task_counts_only_while_its_results_are_there(tmp_path):
    stages.finish(tmp_path, "benchmark/qa", "a")
    assert stages.finished_stages(tmp_path) == {}
    scores = tmp_path / "benchmark" / "results.json"
    write_results(Results("run", {"qa": TaskResult("qa", 1, {}, {}, "toy", "", "", 0, 0)}), scores)
    assert stages.finished_stages(tmp_path) == {"benchmark/qa": "a"}
    scores.write_text('{"tasks": {"qa": ')
    with pytest.raises(UserError, match=r"results\.json: not a results\.json"):
        stages.finished_stages(tmp_path)
