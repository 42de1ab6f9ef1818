"""One task's benchmark: the same numbers whatever the batches, the order and the interruptions."""

import json

import numpy as np
import pytest
import torch

from hflm import tasks
from hflm.core import DataError, ModelError, read_json_lines
from hflm.evaluation import BenchmarkSettings, run_benchmark
from hflm.inference import LocalModel
from hflm.pipeline.reading import TaskRows
from hflm.preprocessing import encode_conversations, render_chat
from hflm.tasks import Chat, LanguageModeling, Qa, Sentiment

THINGS = ("key", "cup", "hat", "fox", "barn", "mill")
ROWS = [
    {
        "context": f"The {thing} in the {place}." * (1 + number % 2),
        "question": f"What is in the {place}?",
        "answers": {"text": [thing, f"the {thing}"] if number % 3 else []},
        "text": f"The {thing} saw the {place}.",
        "label": number % 2,
        "messages": [
            {"role": "user", "content": f"The {place}?"},
            {"role": "assistant", "content": f"The {thing}."},
            {"role": "user", "content": f"In the {thing}?"},
            {"role": "assistant", "content": f"In the {place}."},
        ],
    }
    for number, (thing, place) in enumerate((thing, place) for thing in THINGS for place in ("park", "mill"))
]
DATA = {"path": "toy", "name": "stories"}
TASKS = {
    "qa": Qa(data=DATA, max_new_tokens=6, stop=["."]),
    "shots": Qa(data=DATA, max_new_tokens=6, prompt="{{ question }}", shots=1),
    "beams": Qa(data=DATA, max_new_tokens=6, generation={"num_beams": 3, "length_penalty": 0.6}),
    "sampled": Qa(data=DATA, max_new_tokens=6, generation={"do_sample": True, "top_p": 0.9}),
    "sentiment": Sentiment(data=DATA, labels=["the hat in the barn", "cup"]),
    "text": LanguageModeling(data=DATA),
    "chat": Chat(data=DATA, max_new_tokens=6),
}


@pytest.fixture
def model(tiny):
    for parameter in tiny.parameters():
        parameter.data.mul_(4)
    return tiny.eval()


def material(name, rows=ROWS):
    examples, skipped = tasks.read_examples(TASKS[name], rows, "rows.jsonl")
    shots = examples[:1] if name == "shots" else []
    return TaskRows(TASKS[name], examples, shots, len(skipped), "rows.jsonl", "sha256:data")


def measure(model, tokenizer, name, path, batch_tokens=None, rows=ROWS, key="a"):
    settings = BenchmarkSettings(64, resamples=20, seed=0, key=key, model_revision="sha256:0")
    result = run_benchmark(LocalModel(model, tokenizer, batch_tokens), name, material(name, rows), settings, path)
    return result, read_json_lines(path)


def same(lines, others):
    assert [line.get("prediction") for line in lines] == [line.get("prediction") for line in others]
    for line, other in zip(lines, others, strict=True):
        assert line.get("log_likelihoods") == pytest.approx(other.get("log_likelihoods"), abs=1e-4)
        assert line.get("nats") == pytest.approx(other.get("nats"), abs=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_batches_and_order_change_nothing(model, tokenizer, name, tmp_path):
    result, lines = measure(model, tokenizer, name, tmp_path / "a.jsonl")
    single, one_by_one = measure(model, tokenizer, name, tmp_path / "b.jsonl", batch_tokens=1)
    same(one_by_one, lines)
    assert {name: score.value for name, score in single.metrics.items()} == pytest.approx(
        {name: score.value for name, score in result.metrics.items()}
    )
    if name != "shots":  # the first row is its shot
        order = np.random.default_rng(0).permutation(len(ROWS)).tolist()
        _, shuffled = measure(model, tokenizer, name, tmp_path / "c.jsonl", rows=[ROWS[number] for number in order])
        same(shuffled, [lines[number] for number in order])


class Pulled(Exception):
    """The plug."""


@pytest.mark.parametrize("name", TASKS)
def test_an_interrupted_benchmark_goes_on_where_it_was(model, tokenizer, name, tmp_path, monkeypatch):
    path = tmp_path / "task.jsonl"
    expected = measure(model, tokenizer, name, tmp_path / "whole.jsonl", batch_tokens=20)
    asked = []

    def pull_the_plug(batches):
        for number, batch in enumerate(batches):
            if number == stop_after:
                raise Pulled
            asked.append(batch[0])
            yield batch

    for method in ("texts", "likelihoods", "nats"):
        ask = getattr(LocalModel, method)
        monkeypatch.setattr(LocalModel, method, lambda *args, ask=ask, **more: pull_the_plug(ask(*args, **more)))
    for stop_after in (2, 1):
        with pytest.raises(Pulled):
            measure(model, tokenizer, name, path, batch_tokens=20)
        assert not path.exists()
    kept = tmp_path / "task.partial" / "0.jsonl"
    kept.write_text(kept.read_text() + '[[1, 2], ["torn')
    stop_after = None
    assert measure(model, tokenizer, name, path, batch_tokens=20) == expected
    assert not kept.parent.exists()
    rows = [row for batch in asked for row in batch]
    # A conversation is answered, and its turns are read.
    assert name == "chat" or sorted(rows) == sorted(set(rows)), "a row was asked twice"
    assert len(rows) >= len(ROWS)


def test_answers_to_other_inputs_are_not_used(model, tokenizer, tmp_path):
    path = tmp_path / "qa.jsonl"
    expected, lines = measure(model, tokenizer, "qa", tmp_path / "whole.jsonl")
    path.with_suffix(".partial").mkdir()
    kept = path.with_suffix(".partial") / "0.jsonl"
    kept.write_text(json.dumps(["another key"]) + "\n" + json.dumps([[0], ["wrong"]]) + "\n")
    assert measure(model, tokenizer, "qa", path) == (expected, lines)


def test_a_result_says_what_was_measured(model, tokenizer, tmp_path):
    result, lines = measure(model, tokenizer, "shots", tmp_path / "shots.jsonl")
    assert (result.shots, result.n, result.model_revision) == (1, len(ROWS), "sha256:0")
    assert result.data_fingerprint == "sha256:data"
    assert result.decoding.startswith("greedy, at most 6 tokens")
    assert all(score.signature for score in result.metrics.values())
    assert lines[3]["prompt"].startswith(lines[0]["prompt"].split("\n\n")[0])


def test_a_result_says_how_the_answers_were_chosen(model, tokenizer, tmp_path):
    beams, found = measure(model, tokenizer, "beams", tmp_path / "beams.jsonl")
    assert beams.decoding.startswith(
        "beam search (early_stopping false, length_penalty 0.6, num_beams 3), at most 6 tok"
    )
    sampled, drawn = measure(model, tokenizer, "sampled", tmp_path / "sampled.jsonl")
    assert sampled.decoding.startswith(
        "sampled with a seed a row (temperature 1.0, top_k 50, top_p 0.9), at most 6 tok"
    )
    _, greedy = measure(model, tokenizer, "qa", tmp_path / "qa.jsonl")
    texts = [[line["prediction"] for line in lines] for lines in (found, drawn, greedy)]
    assert texts[0] != texts[1] != texts[2] != texts[0]


def test_a_conversation_is_scored_by_its_last_turn_and_by_the_likelihood_of_all(model, tokenizer, tmp_path):
    result, lines = measure(model, tokenizer, "chat", tmp_path / "chat.jsonl")
    assert list(result.metrics) == ["rougeL", "f1", "perplexity", "bits_per_byte"]
    assert "chat template" in result.decoding and result.decoding.startswith("greedy, at most 6 tokens")
    for line, row in zip(lines, ROWS, strict=True):
        turns = row["messages"]
        assert line["references"] == [turns[-1]["content"]]
        assert line["prompt"] == render_chat(tokenizer, turns[:-1])
        [whole] = encode_conversations(tokenizer, [turns])
        with torch.inference_mode():
            log_p = model(torch.tensor([whole.ids])).logits[0].log_softmax(-1)
        places = np.flatnonzero(whole.labelled())
        nats = -sum(log_p[place - 1, whole.ids[place]].item() for place in places)
        assert line["nats"] == pytest.approx(nats, abs=1e-3)
        assert line["tokens"] == len(places)
        assert line["bytes"] == sum(len(each["content"]) for each in turns if each["role"] == "assistant")
    sums = np.array([[line["nats"], line["tokens"]] for line in lines]).sum(axis=0)
    assert result.metrics["perplexity"].value == pytest.approx(np.exp(sums[0] / sums[1]))


def test_labels_have_a_calibration_and_rows_have_slices(model, tokenizer, tmp_path):
    rows = ROWS * 2
    result, lines = measure(model, tokenizer, "sentiment", tmp_path / "sentiment.jsonl", rows=rows)
    assert sum(each.count for each in result.calibration.bins) == len(rows)
    recall = {part.name: part.score.value for part in result.slices if part.by == "label"}
    for label in ("the hat in the barn", "cup"):
        of_label = [line for line in lines if line["references"] == [label]]
        assert recall[label] == pytest.approx(sum(line["prediction"] == label for line in of_label) / len(of_label))
    answers, _ = measure(model, tokenizer, "qa", tmp_path / "qa.jsonl", rows=ROWS * 3)
    assert answers.calibration is None
    assert {part.name for part in answers.slices if part.by == "answer"} == {"answerable", "unanswerable"}


def test_labels_that_the_tokenizer_cannot_tell_apart_are_refused():
    from tokenizers.normalizers import Lowercase

    from hflm.evaluation import fit_rows
    from hflm.preprocessing import train_tokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat"] * 4, "bpe", 270)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    task = Sentiment(data=DATA, labels=("A", "b", "a"))
    rows = TaskRows(
        task, tasks.read_examples(task, [{"text": "a", "label": "b"}], "x").examples, [], 0, "x", "sha256:data"
    )
    with pytest.raises(ModelError, match="x: the labels A and a are the same tokens for this tokenizer"):
        fit_rows(tokenizer, rows, 64)


def test_prompts_without_room_are_refused_before_anything_is_asked(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "long", Qa(data=DATA, prompt="why " * 80 + "{{ question }}"))
    with pytest.raises(DataError, match="even without its text"):
        measure(model, tokenizer, "long", tmp_path / "long.jsonl", rows=ROWS[:1])
    assert not list(tmp_path.iterdir())


def test_a_row_that_cannot_fit_is_a_bad_row(model, tokenizer, tmp_path, monkeypatch):
    rows = [*ROWS[:2], {**ROWS[0], "extra": "why " * 80}, ROWS[3]]
    prompt = "{{ extra | upper }} {{ question }}"  # a text that a filter changes is not cut
    monkeypatch.setitem(TASKS, "bad", Qa(data=DATA, prompt=prompt))
    with pytest.raises(DataError, match=r"1 of 4 rows cannot be used.*\n  row 2: the prompt is longer than"):
        measure(model, tokenizer, "bad", tmp_path / "bad.jsonl", rows=rows)
    monkeypatch.setitem(TASKS, "skipped", Qa(data=DATA, prompt=prompt, on_bad_row="skip"))
    _, lines = measure(model, tokenizer, "skipped", tmp_path / "skipped.jsonl", rows=rows)
    assert [line["id"] for line in lines] == ["0", "1", "3"]


def test_a_text_is_measured_by_the_metrics_that_the_recipe_names(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "text", LanguageModeling(data=DATA, metrics=["bits_per_byte"]))
    result, _ = measure(model, tokenizer, "text", tmp_path / "text.jsonl")
    assert list(result.metrics) == ["bits_per_byte"]
