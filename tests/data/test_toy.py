import doctest
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from hflm.core import TOY_DATASETS, DataError
from hflm.data import toy
from hflm.evaluation import contamination

TASKS = TOY_DATASETS[1:]
INPUT = {"translation": "english", "summarization": "document", "sentiment": "text", "qa": "context", "stories": "text"}
COLUMNS = {
    "stories": {"text"},
    "translation": {"english", "lumo"},
    "summarization": {"document", "summary"},
    "sentiment": {"text", "label"},
    "qa": {"context", "question", "answers"},
}


@pytest.mark.parametrize(
    "name, split, size, message",
    [
        ("story", "train", 1, "stories, translation, summarization, sentiment, qa"),
        ("qa", "dev", 1, "train, validation, test"),
        ("x", "y", 1, "'x'.*\n.*'y'"),
        ("qa", "test", -1, "size must be 0 or more, got -1"),
    ],
)
def test_what_the_world_lacks_is_named(name, split, size, message):
    with pytest.raises(DataError, match=message):
        toy.rows(name, split, size)


def test_more_rows_than_the_world_has_is_an_error_and_not_an_endless_loop(monkeypatch):
    monkeypatch.setitem(toy.MAKE, "qa", lambda draw: (f"fact {draw.rng.randrange(9)}", {}))
    with pytest.raises(DataError, match="hardly more than [1-9] different rows"):
        toy.rows("qa", "train", 10)


def test_the_examples_in_the_documentation_are_true():
    found = doctest.testmod(toy)
    assert found.attempted >= 2 and not found.failed


@pytest.mark.parametrize("name", TOY_DATASETS)
def test_default_sizes_and_columns(name):
    for split in toy.SPLITS:
        rows = toy.rows(name, split)
        assert len(rows) == toy.SIZES["stories" if name == "stories" else "tasks"][split]
        assert all(set(row) == COLUMNS[name] for row in rows)
        assert all(isinstance(row[INPUT[name]], str) for row in rows)


@pytest.mark.parametrize("name", TOY_DATASETS)
def test_rows_differ_and_splits_are_disjoint_whatever_size_and_seed(name):
    train = {row[INPUT[name]] for row in toy.rows(name, "train", 3000, seed=1)}
    assert len(train) == 3000
    validation = {row[INPUT[name]] for row in toy.rows(name, "validation", 300, seed=2)}
    test = {row[INPUT[name]] for row in toy.rows(name, "test", 300, seed=3)}
    assert not train & test and not train & validation and not validation & test


def texts(row: dict) -> list[str]:
    """The texts of a row of any task: what a prompt shows of it, and the answers."""
    answers = row["answers"]["text"] if "answers" in row else [row["summary"]] if "summary" in row else []
    return [" ".join(row[name] for name in (*INPUT.values(), "question", "lumo") if name in row), *answers]


def test_under_one_test_row_in_twenty_shares_a_run_of_words_with_training_text():
    """By the rule of the benchmark's own contamination check, on all training text of the quickstart."""
    test = {name: [texts(row) for row in toy.rows(name, "test")] for name in TASKS}
    indexes = {
        name: contamination.Index([text for text, *_ in rows], [answers for _, *answers in rows])
        for name, rows in test.items()
    }
    training = [row["text"] for row in toy.rows("stories", "train")]
    for name in TASKS:
        training += [text for row in toy.rows(name, "train", 10_000) for text in texts(row)]
    contamination.scan_texts(indexes.values(), training)
    flagged = {name: float(index.overlap(("finetune",)).contaminated.mean()) for name, index in indexes.items()}
    assert max(flagged.values()) < 0.05, flagged
    own = contamination.Index([texts(row)[0] for row in toy.rows("summarization", "train")], [])
    contamination.scan_texts([own], training)
    assert own.overlap(("finetune",)).contaminated.all()  # the check does find what is there


@pytest.mark.parametrize("name", TOY_DATASETS)
def test_a_bigger_size_begins_with_the_rows_of_a_smaller_one_and_a_seed_matters(name):
    assert toy.rows(name, "train", 200)[:50] == toy.rows(name, "train", 50)
    assert toy.rows(name, "train", 50, seed=1) != toy.rows(name, "train", 50)
    assert toy.rows(name, "train", 0) == []


def test_the_version_changes_with_the_rows():
    """Fails when the rows change: set toy.VERSION to another value, and here both the version and the checksum."""
    rows = json.dumps([toy.rows(name, split) for name in TOY_DATASETS for split in toy.SPLITS])
    found = (toy.VERSION[:8], hashlib.sha256(rows.encode()).hexdigest()[:16])
    assert found == ("2e927f34", "13e1e5f1c5857f39")


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_rows_do_not_depend_on_the_process_and_nothing_heavy_is_imported(hash_seed):
    code = """
import json, sys
from hflm.data import toy
print(json.dumps([toy.rows(name, "test", 20) for name in toy.TOY_DATASETS]))
heavy = {"torch", "transformers", "datasets", "numpy", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert json.loads(done.stdout) == [toy.rows(name, "test", 20) for name in TOY_DATASETS]


def test_the_vocabulary_is_small():
    english = " ".join(row["text"] for row in toy.rows("stories", "train", 4000) if "Lumo" not in row["text"])
    words = {word.strip(".,:?").lower() for word in english.split()}
    assert 200 <= len(words) <= 350


def in_lumo(english: str) -> str:
    """Lumo's grammar once more, from the words alone."""
    nouns = toy.ANIMALS | toy.PEOPLE | toy.THINGS
    plurals = {"children": "child", "boxes": "box", "foxes": "fox"} | {noun + "s": noun for noun in nouns}
    verbs = {form: stem + end for *forms, stem in toy.VERBS.values() for form, end in zip(forms, ("at", "at", "ud"))}
    words = english.lower().rstrip(".").split()
    place = toy.PLACES[words.pop()] + "lu" if words[-3:-1] == ["in", "the"] else ""
    words = words[:-2] if place else words
    at = next(i for i, word in enumerate(words) if word in verbs)

    def phrase(words: list[str], case: str) -> list[str]:
        number = "ri" if words[-1] in plurals else ""
        noun = nouns[plurals.get(words[-1], words[-1])] + number + case
        return [noun, *(toy.ADJECTIVES[word] + number for word in words[1:-1])]

    return (
        " ".join(filter(None, [*phrase(words[:at], ""), place, *phrase(words[at + 1 :], "n"), verbs[words[at]]])) + "."
    )


@pytest.mark.parametrize(
    "english, lumo",
    [
        ("The old dogs found a key in the garden.", "tamori oreri salulu kelon fidud."),
        ("A fox sees some white boxes.", "vulo kestorin alberi vidat."),
        ("The children hide an old hat.", "pikori sapon ore kasat."),
    ],
)
def test_lumo_grammar(english, lumo):
    assert in_lumo(english) == lumo


def test_every_translation_follows_the_grammar():
    rows = toy.rows("translation", "train")
    assert [row["lumo"] for row in rows] == [in_lumo(row["english"]) for row in rows]
    assert all(5 <= len(row["english"].split()) <= 10 for row in rows)
    assert any(" an old " in row["english"] for row in rows) and not any(" a old " in row["english"] for row in rows)


def answered(context: str, question: str) -> tuple[str, int]:
    """(answer, start) of a question, read from the context's sentences alone."""
    acts = re.finditer(
        r"(?P<who>\w+) (hid|left|found|saw|lost) (?P<what>the (?P<colour>\w+) (?P<thing>\w+)) in (?P<where>the \w+)\.",
        context,
    )
    [slept] = re.finditer(r"(?P<who>\w+) slept in (?P<where>the \w+)\.", context)
    [fact] = [slept] if "sle" in question else [act for act in acts if {act["who"], act["thing"]} & asked(question)]
    kind = "colour" if "colour" in question else question.split()[0].lower()
    return fact[kind], fact.start(kind)


def asked(question: str) -> set[str]:
    return set(question.rstrip("?").split())


@pytest.mark.parametrize(
    "question, answer",
    [
        ("Where did Ada hide the key?", "the mill"),
        ("Who hid the key?", "Ada"),
        ("What did Ada hide?", "the red key"),
        ("What colour was the key?", "red"),
        ("Where did Ben sleep?", "the barn"),
        ("Who slept in the barn?", "Ben"),
    ],
)
def test_every_kind_of_question_is_asked_and_its_answer_is_the_right_span(question, answer):
    context = "Cora hid the blue cup in the park. Ben slept in the barn. Ada hid the red key in the mill."
    assert answered(context, question) == (answer, context.index(answer))
    form = re.compile(re.sub("Ada|Ben|key|barn|hide|hid|mill", r"\\w+", question).replace("?", r"\?"))
    rows = [row for row in toy.rows("qa", "train") if form.fullmatch(row["question"])]
    assert len(rows) > 200
    for row in rows:
        found = (row["answers"]["text"], row["answers"]["answer_start"])
        assert found == tuple([part] for part in answered(row["context"], row["question"]))


def test_the_first_three_sentences_are_no_summary():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    scores = []
    for row in toy.rows("summarization", "test"):
        sentences = row["document"].split(". ")
        assert 3 <= len(sentences) <= 6
        scores.append(scorer.score(row["summary"], ". ".join(sentences[:3]))["rougeL"].fmeasure)
    assert sum(scores) / len(scores) < 0.4


def test_counting_words_is_not_enough_to_tell_opinions():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    train, test = toy.rows("sentiment", "train"), toy.rows("sentiment", "test")
    labels = Counter(row["label"] for row in test)
    assert set(labels) == {0, 1, 2} and max(labels.values()) / len(test) < 0.4
    bag = text.CountVectorizer()
    model = linear.LogisticRegression(max_iter=1000)
    model.fit(bag.fit_transform(row["text"] for row in train), [row["label"] for row in train])
    accuracy = model.score(bag.transform(row["text"] for row in test), [row["label"] for row in test])
    assert 0.4 < accuracy < 0.72
