"""Contamination: which examples stand in the training text, and what results and card say of it."""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from hflm.core import read_json_lines
from hflm.data.cleaning import hash_words
from hflm.evaluation import contamination, read_results
from hflm.evaluation.contamination import Index
from hflm.pipeline import benchmark_model, run_recipe
from hflm.recipe import load_recipe
from recipes import tiny_recipe

DATA = Path(os.environ.get("HFLM_DATA", Path(__file__).parents[3] / "shared" / "data"))
WORDS = [f"{first}{second}{third}" for first in "bdfgk" for second in "aeiou" for third in ("la", "mi", "no", "ru")]


def overlap(inputs, training, references=None, **options):
    index = Index(inputs, references or [()] * len(inputs))
    contamination.scan_texts([index], training, **options)
    return index.overlap(("pretrain",))


def text(seed, count):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def part(seed, count, start, end):
    return " ".join(text(seed, count).split()[start:end])


@pytest.mark.parametrize(
    ("lengths", "n"),
    [([100] * 20, 13), ([10] * 20, 10), ([3] * 20, 8), ([9] + [50] * 19, 13), ([9] * 2 + [50] * 18, 9), ([4], 8)],
)
def test_n_is_the_5th_percentile_of_the_lengths_from_8_to_13(lengths, n):
    assert Index([text(seed, length) for seed, length in enumerate(lengths)], [()] * len(lengths)).n == n


LONG = text(1, 40)  # the example: 40 words, so that N is 13


@pytest.mark.parametrize(
    ("training", "contaminated", "share"),
    [
        (f"{text(2, 30)} {LONG} {text(3, 30)}", True, 1.0),
        (f"{text(2, 30)} {part(1, 40, 5, 18)} {text(3, 30)}", True, 13 / 40),
        (f"{text(2, 30)} {part(1, 40, 5, 17)} {text(3, 30)}", False, 0.0),  # 12 words
        (f"{part(1, 40, 5, 18).upper().replace(' ', ', ')}!", True, 13 / 40),
        (f"{part(1, 40, 0, 13)} {text(3, 9)} {part(1, 40, 25, 40)}", True, 28 / 40),
        (f"{part(1, 40, 0, 20)} {part(1, 40, 21, 40)}", True, 39 / 40),
        ("", False, 0.0),
    ],
)
def test_an_example_with_13_words_in_a_row_is_contaminated(training, contaminated, share):
    found = overlap([LONG], [training])
    assert found.n == 13
    assert found.contaminated.tolist() == [contaminated]
    assert found.fractions.tolist() == pytest.approx([share])


def test_a_run_does_not_cross_the_border_of_two_documents():
    assert overlap([LONG], [part(1, 40, 0, 7), part(1, 40, 7, 14)]).contaminated.tolist() == [False]


@pytest.mark.parametrize(
    ("training", "contaminated"),
    [
        (["A good film!"], True),  # a whole document
        (["Reviews.\na good film\nThe end."], True),  # a whole line
        (["This is a good film."], False),  # words that meet by chance
        (["A good film, they said."], False),
        (["A good"], False),
    ],
)
def test_a_short_example_is_a_copy_only_as_a_whole_and_counted_apart(training, contaminated):
    found = overlap(["A good film.", text(1, 12)], training)
    assert found.short_copies.tolist() == [contaminated, False]
    assert not found.contaminated.any() and not found.fractions.any(), "it has no run of 8 words"


def test_an_example_without_words_is_never_contaminated():
    found = overlap(["...", "!"], ["...", "!", ""])
    assert not (found.contaminated | found.short_copies).any()


def test_an_answer_counts_but_its_words_are_no_share_of_the_input():
    found = overlap([text(1, 40), text(2, 40)], [text(3, 20)], [("yes",), ("no", text(3, 20))])
    assert found.contaminated.tolist() == [False, True]
    assert found.near_copies == 0


def test_a_script_without_spaces_is_compared_by_characters():
    source = random.Random(5)
    characters = ["".join(chr(0x4E00 + source.randrange(3000)) for _ in range(40)) for _ in range(2)]
    assert overlap(characters, [f"前{characters[0][10:23]}后"]).contaminated.tolist() == [True, False]


def test_copies_with_every_tenth_word_changed_are_near_copies():
    originals = [text(seed, 150) for seed in range(60)]
    source, copies = random.Random(6), []
    for original in originals[:30]:
        words = original.split()
        for place in source.sample(range(150), 15):
            words[place] = "changed"
        copies.append(" ".join(words))
    near = overlap(originals, copies).fractions >= contamination.NEAR_COPY
    assert near[:30].mean() > 0.9
    assert not near[30:].any()


def test_words_have_the_same_hashes_when_few_are_kept():
    texts = [text(seed, 20) for seed in range(9)]
    assert len({tuple(hash_words(texts, most_words=most).hashes.tolist()) for most in (0, 5, 500_000)}) == 1


def test_small_batches_find_the_same():
    examples = [text(seed, seed % 20 + 1) for seed in range(100)]
    training = [text(seed, seed % 20 + 1) for seed in range(50, 150)]
    whole = overlap(examples, training)
    again = overlap(examples, training, characters=10)
    assert (whole.contaminated | whole.short_copies).sum() == 50
    assert whole.short_copies.any() and whole.contaminated.any()
    assert np.array_equal(whole.contaminated, again.contaminated)
    assert np.array_equal(whole.short_copies, again.short_copies)
    assert np.array_equal(whole.fractions, again.fractions)


SECTIONS = """
pretrain:
  data: {path: corpus.jsonl}
  clean: {words: {min: 3}}
  args: {max_steps: 1}
tasks:
  sentiment:
    data: {path: reviews}
    labels: [bad, good]
    prompt: "Here is what somebody wrote about a film that was shown last week or so: {{ text }}\\nIt is"
  translation: {data: {path: pairs}, source: en, target: xx, languages: [English, Other], max_new_tokens: 4}
  documents: {kind: language_modeling, data: {path: held}}
  running: {kind: language_modeling, data: {path: held}, rows: lines}
finetune:
  tasks: [sentiment, translation]
  args: {max_steps: 1}
benchmark: {tasks: [sentiment, translation, documents, running], resamples: 20}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with planted copies: 4 of 30 reviews and 5 of 20 sentences in fine-tuning, 3 of 15 documents in the corpus."""
    folder = tmp_path_factory.mktemp("contamination")

    def write(name, rows):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def review(seed):
        return {"text": text(seed, 12), "label": seed % 2}

    def pair(seed):
        return {"en": text(seed, 5), "xx": text(seed + 5000, 5)}

    write("reviews/train.jsonl", map(review, range(100, 120)))
    write("reviews/test.jsonl", map(review, range(116, 146)))
    write("pairs/train.jsonl", map(pair, range(200, 220)))
    write("pairs/test.jsonl", map(pair, range(215, 235)))
    write("held/test.jsonl", [{"text": text(seed, 30)} for seed in range(300, 315)])
    write(
        "corpus.jsonl",
        [{"text": f"{text(seed, 20)} {text(seed + 12, 30)}"} for seed in range(280, 291)] + [{"text": "<i>two"}],
    )
    (folder / "t.yaml").write_text(tiny_recipe("t", SECTIONS, n_positions=128))
    with contextlib.chdir(folder):
        run_recipe(load_recipe("t.yaml"), "run")
    return folder


def test_results_carry_the_share_and_the_score_on_the_clean_ones(finished):
    tasks = read_results(finished / "run" / "benchmark" / "results.json").tasks
    found = {name: task.contamination for name, task in tasks.items()}
    counts = {name: (each.of, each.n, each.words, each.contaminated, each.near_copies) for name, each in found.items()}
    assert counts == {
        "sentiment": ("examples", 30, 12, 4, 4),  # the prompt's own words, the same in training, do not count
        "translation": ("examples", 20, 8, 0, 0),  # sentences of 5 words have no 8 in a row
        "documents": ("examples", 15, 13, 3, 3),
        "running": ("lines", 15, 13, 3, 3),
    }
    assert all(each.against == ("pretrain", "finetune") for each in found.values())
    assert {name: each.short_copies for name, each in found.items() if each.short_copies} == {"translation": 5}
    assert found["running"].overlap == pytest.approx(3 / 15)
    rows = read_json_lines(finished / "run" / "benchmark" / "predictions" / "sentiment.jsonl")
    clean = [row["scores"]["accuracy"] for row in rows if not row["contaminated"]]
    assert len(clean) == 26
    score = found["sentiment"].clean["accuracy"]
    assert score.value == pytest.approx(np.mean(clean))
    assert score.ci95[0] <= score.value <= score.ci95[1]
    assert found["sentiment"].clean.keys() == tasks["sentiment"].metrics.keys()
    assert found["documents"].clean["perplexity"] != tasks["documents"].metrics["perplexity"]
    assert found["running"].clean == {}  # its windows are not its lines


def test_predictions_are_marked(finished):
    def marks(name, key="contaminated"):
        lines = read_json_lines(finished / "run" / "benchmark" / "predictions" / f"{name}.jsonl")
        return [line.get(key) for line in lines]

    assert marks("sentiment") == [True] * 4 + [False] * 26
    assert marks("translation") == [False] * 20
    assert [bool(mark) for mark in marks("translation", "short_copy")] == [True] * 5 + [False] * 15
    assert sum(marks("documents")) == 3
    assert set(marks("running")) == {None}


def test_the_card_says_it_beside_each_score(finished):
    card = (finished / "run" / "README.md").read_text()
    assert "| not contaminated | 26 | accuracy |" in card
    sentence = (
        "4 of 30 examples (13.3 %) have 12 words in a row in common with the pretraining corpus and the fine-tuning"
    )
    assert sentence in card
    assert "3 of 15 lines" in card
    assert "5 shorter examples occur there as a whole" in card
    assert "2005.14165" in card


def test_a_run_reports_what_was_cleaned(finished):
    report = json.loads((finished / "run" / "data" / "cleaning.json").read_text())
    assert (report["rows_in"], report["rows_out"], report["steps"][0]["removed"]) == (12, 11, 1)
    card = (finished / "run" / "README.md").read_text()
    assert "12 documents were read for pretraining, 11 were kept" in card
    assert "| words | \\<i\\>two | 2 words |" in card


def again(folder, output, *sets):
    shutil.copytree(folder / "run", folder / output)
    with contextlib.chdir(folder):
        run_recipe(load_recipe("t.yaml", sets), output)
    return read_results(folder / output / "benchmark" / "results.json").tasks


def test_a_benchmark_alone_is_compared_with_the_text_that_an_earlier_run_trained_on(finished):
    tasks = again(finished, "resampled", "benchmark.resamples=10")
    before = read_results(finished / "run" / "benchmark" / "results.json").tasks
    for name, task in tasks.items():
        found, earlier = task.contamination, before[name].contamination
        assert (found.contaminated, found.short_copies) == (earlier.contaminated, earlier.short_copies) != (0, 0)


def test_one_text_longer_than_the_context_is_one_example(finished):
    (finished / "long").mkdir()
    text = " ".join(f"word{number}" for number in range(400))
    (finished / "long" / "test.jsonl").write_text(json.dumps({"text": text}) + "\n")
    tasks = again(finished, "alone", "tasks.documents.data.path=long", "benchmark.tasks=[documents]")
    assert tasks["documents"].contamination.n == 1


def test_it_can_be_turned_off(finished):
    tasks = again(finished, "off", "benchmark.contamination=false")
    assert {task.contamination for task in tasks.values()} == {None}
    predictions = (finished / "off" / "benchmark" / "predictions" / "sentiment.jsonl").read_text()
    assert "contaminated" not in predictions
    assert "was not checked" in (finished / "off" / "README.md").read_text()


def test_a_model_whose_training_text_is_unknown_is_not_compared(finished):
    with contextlib.chdir(finished):
        benchmark_model("run", load_recipe("t.yaml"), "foreign")
    tasks = read_results(finished / "foreign" / "benchmark" / "results.json").tasks
    assert {task.contamination for task in tasks.values()} == {None}
    assert "contaminat" not in (finished / "foreign" / "README.md").read_text().split("## How it was made")[0]


def test_a_stream_is_not_read_again_and_the_card_says_so(finished):
    tasks = again(finished, "streamed", "pretrain.data.streaming=true")
    assert tasks["sentiment"].contamination.against == ("finetune",)
    assert tasks["sentiment"].contamination.contaminated == 4
    assert tasks["documents"].contamination.contaminated == 0
    card = (finished / "streamed" / "README.md").read_text()
    assert "was a stream and was not searched" in card
    assert "## Cleaning" not in card  # a stream is not counted
    assert not (finished / "streamed" / "data" / "cleaning.json").exists()


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not there")
def test_the_known_near_copies_of_dialogsum_are_found():
    folder = DATA / "summarization_dialogsum"

    def dialogues(split):
        with open(folder / f"{split}.jsonl", encoding="utf-8") as lines:
            return [json.loads(line)["dialogue"] for line in lines]

    def letters(dialogue):
        return "".join(char for char in dialogue.lower() if char.isalnum())

    train, validation = dialogues("train"), dialogues("validation")
    copied = set(map(letters, train))
    known = [number for number, dialogue in enumerate(validation) if letters(dialogue) in copied]
    assert len(known) == 6
    found = overlap(validation, train)
    assert (found.fractions[known] == 1).all()
    assert found.contaminated.mean() < 0.1
