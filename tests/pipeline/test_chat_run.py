"""A run on conversations, with beams, smoothed labels and averaged checkpoints: what it leaves is what was trained."""

import contextlib
import json

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hflm.core import DataError, read_json_lines
from hflm.evaluation import compare_runs, read_results
from hflm.pipeline import run_recipe
from hflm.recipe import load_recipe

RECIPE = """
name: chat
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 64}
tasks:
  chat:
    data: {path: chats.jsonl}
    splits: {train: train, validation: "train[:4]", test: "train[:6]"}
    max_new_tokens: 8
    generation: {num_beams: 3, length_penalty: 0.6}
  sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}
finetune:
  tasks: [chat, sentiment]
  average_checkpoints: 2
  args: {max_steps: 4, save_steps: 1, eval_steps: 4, learning_rate: 1e-2, label_smoothing_factor: 0.1}
benchmark: {tasks: [chat], resamples: 20}
"""


def chats(number, turns=1):
    for row in range(number):
        messages = [{"role": "system", "content": "Be brief."}] * (row % 2)
        for turn in range(turns + row % 2):
            messages += [
                {"role": "user", "content": f"What is {row} and {turn}?"},
                {"role": "assistant", "content": f"It is {row + turn}."},
            ]
        yield {"messages": messages}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    rows = [*chats(20), *chats(2, turns=9)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "chat.yaml").write_text(RECIPE)
    with contextlib.chdir(folder):
        run_recipe(load_recipe("chat.yaml"), "run")
    return folder


def test_the_saved_model_is_prompted_as_it_was_trained(finished):
    tokenizer = AutoTokenizer.from_pretrained(finished / "run" / "model")
    lines = read_json_lines(finished / "run" / "benchmark" / "predictions" / "chat.jsonl")
    for line, row in zip(lines, chats(6), strict=True):
        served = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, tokenize=False)
        assert line["prompt"] == served
    task = read_results(finished / "run" / "benchmark" / "results.json").tasks["chat"]
    assert list(task.metrics) == ["rougeL", "f1", "perplexity", "bits_per_byte"]
    assert task.decoding.startswith(
        "beam search (early_stopping false, length_penalty 0.6, num_beams 3), at most 8 tok"
    )


def test_what_was_cut_and_averaged_is_recorded(finished):
    log = (finished / "run" / "run.log").read_text()
    assert "2 conversations of chat lose turns that do not fit into 64 tokens" in log
    stage = json.loads((finished / "run" / "environment.json").read_text())["stages"]["finetune"]
    assert stage["averaged_steps"] == [3, 4] and stage["packing"]["cut"] == 2
    parts = [load_file(finished / "run" / "finetune" / f"checkpoint-{step}" / "model.safetensors") for step in (3, 4)]
    for name, mean in load_file(finished / "run" / "model" / "model.safetensors").items():
        assert ((parts[0][name].double() + parts[1][name].double()) / 2).float().equal(mean)
    card = (finished / "run" / "README.md").read_text()
    assert "The model of finetune is the mean of the weights after steps 3, 4, with a validation loss of" in card
    assert "beam search" in card


def test_runs_on_conversations_are_compared_by_all_their_metrics(finished):
    with contextlib.chdir(finished):
        greedy = ["tasks.chat.generation=null", "finetune.args.label_smoothing_factor=0.0"]
        run_recipe(load_recipe("chat.yaml", greedy), "greedy")
    with pytest.warns(UserWarning, match="decoding differs"):
        compared = compare_runs([finished / "run", finished / "greedy"], resamples=50)
    assert list(compared.tasks["chat"].pairs[0].metrics) == ["rougeL", "perplexity", "f1", "bits_per_byte"]


def test_a_bad_conversation_is_named_by_file_and_line(finished):
    (finished / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    with (
        contextlib.chdir(finished),
        pytest.raises(DataError, match="bad.jsonl:1: messages has no turn of the assistant"),
    ):
        run_recipe(load_recipe("chat.yaml", ["tasks.chat.data.path=bad.jsonl"]), "bad")
