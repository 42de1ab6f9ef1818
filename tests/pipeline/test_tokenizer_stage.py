"""The tokenizer's stage: its report in the terminal, environment.json and card, made once; tokens that a recipe adds."""

import contextlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hflm.pipeline import RunOptions, preview_recipe, run_recipe
from hflm.preprocessing import load_tokenizer
from hflm.recipe import load_recipe
from recipes import tiny_recipe

TASKS = """
tasks:
  translation: {data: {path: toy, name: translation, size: 20}, source: english, target: lumo, languages: [English, Lumo]}
  sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}
"""
NEW = f"""
pretrain: {{data: {{path: toy, name: stories, size: 20}}, args: {{max_steps: 1}}}}
{TASKS}
finetune: {{tasks: [translation, sentiment], args: {{max_steps: 1}}}}
"""
SOURCES = ["pretrain.data.0", "translation (English)", "translation (Lumo)", "sentiment"]


def run(*sets):
    run_recipe(load_recipe("small.yaml", sets), "run", RunOptions(predict=False))


def recorded():
    return json.loads(Path("run/environment.json").read_text())["stages"]["tokenizer"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(tiny_recipe("small", NEW))
    return tmp_path


def test_the_report_is_in_the_terminal_the_record_and_the_card_and_is_made_once(work, capsys, monkeypatch):
    run()
    written = capsys.readouterr().err
    report = recorded()["report"]
    assert [source["name"] for source in report["sources"]] == SOURCES
    card = Path("run/README.md").read_text().replace("\\", "")
    for text in (*SOURCES, f"entries, {report['unused']:,} of them unused"):
        assert text in written and text in card
    previewed = preview_recipe(load_recipe("small.yaml"), None, 1, lambda _: None).reports["the recipe's tokenizer"]
    assert [source.name for source in previewed.sources] == SOURCES
    assert previewed.sources[0].tokens == report["sources"][0]["tokens"]

    def again(*_):
        raise AssertionError("the report is made again")

    monkeypatch.setattr("hflm.preprocessing.tokenizer_report.report_tokenizer", again)
    run("finetune.args.max_steps=2")
    assert recorded()["report"] == report
    assert "## Tokenizer" in Path("run/README.md").read_text()


def test_text_of_its_own_is_a_source_of_the_report(work):
    run("tokenizer.train.data={path: toy, name: stories, size: 30}", "pretrain=null")
    assert [source["name"] for source in recorded()["report"]["sources"]] == ["tokenizer.train.data", *SOURCES[1:]]


ADDED = f"""
name: small
model: {{from: base}}
tokenizer: {{add_tokens: [The dog, "<gene>", positive]}}
{TASKS}
finetune: {{tasks: [sentiment], adapter: {{type: lora, r: 2}}, args: {{max_steps: 2, save_steps: 1, learning_rate: 0.1}}}}
benchmark: {{tasks: [sentiment], resamples: 20}}
"""


def test_added_tokens_are_trained_by_an_adapter_and_are_part_of_the_model(work, tiny, tokenizer, capsys):
    for part in (tiny, tokenizer):
        part.save_pretrained("base")
    Path("small.yaml").write_text(ADDED)
    run("tokenizer.add_tokens=['<gene>', positive, a]")
    assert "tokenizer: 'a' of add_tokens are in the vocabulary already" in capsys.readouterr().err
    entries = len(tokenizer)
    made = load_tokenizer("run/model")
    assert [made.convert_tokens_to_ids(token) for token in ("<gene>", "positive")] == [entries, entries + 1]
    rows, base = (
        load_file(f"{folder}/model.safetensors")["transformer.wte.weight"] for folder in ("run/model", "base")
    )
    assert len(rows) == entries + 2 and rows[:entries].equal(base)
    pieces = tokenizer("positive").input_ids
    assert (rows[entries + 1] - base[pieces].mean(0)).abs().max() > 0.01, "the label's row was trained"
    with contextlib.suppress(FileNotFoundError):
        Path("run/finetune/model").rename("run/finetune/gone")
    run()
    assert "it starts from another tokenizer" in capsys.readouterr().err
    assert len(load_tokenizer("run/model")) == entries + 3
