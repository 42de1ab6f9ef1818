"""`hflm preview`: the rows that it shows are those that a run trains on, and no model is needed for it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hflm.core import UserError
from hflm.pipeline import preview_page, preview_recipe, print_preview
from hflm.pipeline.preview_view import visible
from hflm.preprocessing import pack_documents, report_tokenizer, train_tokenizer
from hflm.recipe import load_recipe

RECIPE = """
name: small
tokenizer: {train: {algorithm: bpe, vocab_size: 300}}
model: {preset: gpt2-nano, n_positions: 64}
pretrain:
  data: {path: toy, name: stories, size: 60}
  block_size: 32
  args: {per_device_train_batch_size: 4, PRETRAIN}
tasks:
  sentiment:
    data: {path: toy, name: sentiment, size: 20}
    labels: [negative, neutral, positive]
    shots: 1
  rows:
    kind: generation
    data: {path: rows.jsonl}
    splits: {train: "train[:2]", test: "train[2:]"}
    prompt: "{{ q }} ="
    target: a
finetune: {tasks: [sentiment, rows], args: {num_train_epochs: 2, per_device_train_batch_size: 2}}
benchmark: {tasks: [sentiment, rows]}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lines = [{"q": f"<b>{number} + 1</b>", "a": number + 1} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def load(pretrain: str = "max_steps: 3"):
        (tmp_path / "small.yaml").write_text(RECIPE.replace("PRETRAIN", pretrain))
        return load_recipe("small.yaml")

    return load


def test_what_is_shown_is_what_is_trained(recipe):
    found = preview_recipe(recipe(), None, 2, lambda _: None)
    pretrain, finetune = found.stages
    assert [stage.stage for stage in found.stages] == ["pretrain", "finetune"]
    assert (pretrain.steps, pretrain.rows_per_step) == (3, 4)
    first = pretrain.rows[0]
    assert len(first) <= 32 and first[0].begins and not first[0].trained and all(token.trained for token in first[1:2])
    assert [each.name for each in finetune.lengths] == ["sentiment", "rows"]
    assert [each.texts for each in finetune.lengths] == [20, 2]
    rows_text = "".join(token.text for row in finetune.rows for token in row)
    assert "Sentiment: " in rows_text
    for row in finetune.rows:  # the loss is on what follows the prompt, to the end of text
        words = "".join(token.text for token in row if token.trained).split("<|endoftext|>")
        assert {word.strip() for word in words if word} <= {"negative", "neutral", "positive", "1", "2"}
    assert finetune.epochs == 2
    assert [prompt.task for prompt in found.prompts] == ["sentiment", "rows"]
    shot, asked = found.prompts[0].prompt.split("\n\n")
    assert shot.startswith("Review: ") and asked.endswith("Sentiment:")
    assert found.prompts[1].prompt == "<b>2 + 1</b> =" and found.prompts[1].references == ("3",)


@pytest.mark.parametrize(
    ("pretrain", "steps"),
    [("max_steps: 3", 3), ("num_train_epochs: 2", None), ("max_steps: -1", None)],
)
def test_steps_and_passes(recipe, pretrain, steps):
    [stage] = preview_recipe(recipe(pretrain), "pretrain", 1, lambda _: None).stages
    per_epoch = -(-int(stage.packing.split(" tokens in ")[1].split(" rows")[0]) // 4)
    passes = 2 if "2" in pretrain else 3
    assert stage.steps == (steps or passes * per_epoch)
    assert stage.epochs == pytest.approx(stage.steps / per_epoch)


def test_a_stage_that_the_recipe_lacks(recipe):
    small = recipe().model_copy(update={"finetune": None})
    with pytest.raises(UserError, match="--stage finetune: small has no such stage, only pretrain, benchmark"):
        preview_recipe(small, "finetune", 1, lambda _: None)


def test_the_terminal_and_the_page_hold_the_rows(recipe):
    found = preview_recipe(recipe(), None, 1, lambda _: None)
    console = Console(file=io.StringIO(), width=200)
    print_preview(found, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for token in found.stages[0].rows[0][:5]:
        assert f"{visible(token.text)}{token.id}" in printed
    assert "~" in printed and "3 steps of 4 rows" in printed and "<b>2 + 1</b> =" in printed
    page = preview_page(found)
    assert "<b>2" not in page and "&lt;b&gt;2 + 1&lt;/b&gt; =" in page and "<script" not in page


@pytest.mark.parametrize(
    ("text", "shown"), [(" the", "·the"), ("\n", "⏎"), ("\t", "⇥"), ("\x1b[31m", r"\u001b[31m"), ("é", "é")]
)
def test_signs_for_white_space_and_control_characters(text, shown):
    assert visible(text) == shown


def test_a_report_counts_bytes_words_and_parts_of_characters():
    texts = ["The dog saw the key."] * 5
    tokenizer = train_tokenizer(texts, "bpe", 280)
    report = report_tokenizer(tokenizer, {"known": texts, "other": ["狗"]})
    known, other = report.sources
    assert (known.texts, known.bytes, known.words, known.fallback) == (5, 100, 25, 0)
    assert (
        known.tokens == pack_documents(texts, tokenizer, 64).tokens - 10
    )  # without the begin and the end of each text
    assert (other.bytes, other.words, other.tokens, other.fallback) == (3, 1, 3, 3)
    assert report.entries == len(tokenizer) and 0 < report.unused < report.entries
    assert len(report.longest[0]) == max(map(len, report.longest))


def test_the_command_imports_no_torch(recipe, tmp_path: Path):
    recipe()
    code = (
        "import sys; sys.argv = ['hflm', 'preview', 'small.yaml', '--html', 'p.html', '--rows', '1']\n"
        "from hflm.cli import main\n"
        "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert "pretrain: tokens of a text" in done.stdout
    assert (tmp_path / "p.html").read_text().startswith("<!DOCTYPE html>")
