"""Cleaning: what each filter leaves out and why, which of a group stays, and the report."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hflm.core import DataError, RecipeError
from hflm.data.cleaning import (
    CleaningReport,
    cleaning_table,
    find_failures,
    hash_words,
    select_documents,
    split_words,
    write_report,
)
from hflm.data.cleaning.near_duplicates import find_near_duplicates
from hflm.pipeline import resolve_inputs
from hflm.pipeline.reading import Corpus, read_corpus
from hflm.recipe import Clean, Recipe, dump_recipe, load_recipe, recipe_json_schema

WORDS = [f"{first}{second}{third}" for first in "bdfgk" for second in "aeiou" for third in ("la", "mi", "no", "ru")]


def cleaned(texts: list[str], held_out: Sequence[str] = (), **section: Any) -> tuple[list[str], CleaningReport]:
    return select_documents(texts, Clean.model_validate(section), held_out)[1:]


def sentence(source: random.Random, count: int) -> list[str]:
    return source.choices(WORDS, k=count)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't panic: 42!", ["don", "t", "panic", "42"]),
        ("我爱 Python。", ["我", "爱", "python"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("great😀news", ["great", "news"]),
        ("ภาษา", list("ภาษา")),
        ("... !", []),
    ],
)
def test_words_of_any_script(text, expected):
    assert split_words(text) == expected


def test_ngrams_stay_inside_a_text_and_are_the_same_everywhere():
    words = hash_words(["a b c", "", "x", "b c a b"])
    hashes, places = words.ngrams(2)
    assert places.tolist() == [0, 1, 4, 5, 6]
    ab, bc, bc_again, ca, ab_again = hashes.tolist()
    assert (ab, bc) == (ab_again, bc_again)
    assert len({ab, bc, ca}) == 3
    assert hash_words(["nothing"]).ngrams(2)[0].tolist() == []


@pytest.mark.parametrize(
    ("section", "texts", "stay", "why"),
    [
        ({"characters": {"min": 3}}, ["ab", "abc"], ["abc"], "2 characters"),
        ({"characters": {"max": 3}}, ["abc", "abcd"], ["abc"], "4 characters"),
        ({"words": {"min": 2, "max": 3}}, ["a", "a b", "a b c d"], ["a b"], "1 words"),
        ({"words": {"min": 3}}, ["我爱你", "你好"], ["我爱你"], "2 words"),
        ({"letters": {"min": 0.5}}, ["ab 12", "a 123"], ["ab 12"], "25 % letters"),
        ({"letters": {"min": 0.9}}, ["हिन्दी", "1 2"], ["हिन्दी"], "0 % letters"),  # marks belong to letters
        ({"letters": {"min": 0.1}}, ["a", "  "], ["a"], "0 % letters"),
        ({"digits": {"max": 0.5}}, ["a1", "a22"], ["a1"], "67 % digits"),
        ({"symbols": {"max": 0.25}}, ["abc.", "<<a>>"], ["abc."], "80 % symbols"),
        ({"exact_duplicates": True}, ["a", "b", "a"], ["a", "b"], "repeats an earlier text"),
        ({"repetition": True}, ["a\nb\nc\nd", "a\na\nb\nb"], ["a\nb\nc\nd"], "50 % repeated lines, at most 30 %"),
    ],
)
def test_filters(section, texts, stay, why):
    kept, report = cleaned(texts, **section)
    assert kept == stay
    assert (report.rows_in, report.rows_out) == (len(texts), len(stay))
    [step] = report.steps
    assert step.removed == len(texts) - len(stay)
    assert step.samples[0]["why"] == why
    assert step.samples[0]["text"] not in stay or section == {"exact_duplicates": True}


def test_nothing_left_is_an_error_with_the_counts():
    with pytest.raises(DataError, match="leaves none of 2 documents: 2 documents in, 0 out; left out by symbols 2"):
        cleaned(["Fine, so.", "<<a>>"], symbols={"max": 0.1})


def test_a_document_is_judged_alone_as_it_is_among_others():
    """On text of any kind, lone surrogates and unassigned characters too."""
    source = random.Random(8)
    pools = [
        "ab \n",
        "a1.",
        "我们去。",
        "हिन्दी ",
        "\ud800\udfff",
        "😀 \x00\u200d",
        "".join(map(chr, range(0x20, 0x2100))),
    ]
    texts = ["", " ", *("".join(source.choices(source.choice(pools), k=source.randint(0, 60))) for _ in range(300))]
    limits = {key: {"min": 0.1, "max": 0.9} for key in ("letters", "digits", "symbols")}
    section = Clean.model_validate({**limits, "characters": {"min": 5}, "words": {"max": 40}, "repetition": True})
    together = find_failures(texts, section)
    assert together == [find_failures([text], section)[0] for text in texts]
    assert {step for step, _ in filter(None, together)} >= {"characters", "letters", "digits", "symbols", "repetition"}
    everything = {**section.model_dump(), "normalize": "NFKC", "exact_duplicates": True, "near_duplicates": 0.4}
    _, kept, report = select_documents(texts, Clean.model_validate(everything))
    assert report.rows_out == len(kept) == 302 - sum(step.removed for step in report.steps)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("NFC", "Cafe\u0301 \ufb01ne", "Café \ufb01ne"),
        ("NFKC", "Cafe\u0301 \ufb01ne", "Café fine"),
    ],
)
def test_normalization_comes_first(form, text, expected):
    kept, report = cleaned([text, "plain", expected], normalize=form, exact_duplicates=True)
    assert kept == [expected, "plain"]
    assert (report.normalized, report.steps[0].removed) == (1, 1)


def test_repetition_by_words():
    source = random.Random(1)
    prose = " ".join(sentence(source, 80))
    again = " ".join(sentence(source, 6))
    for repeated in (" ".join(["buy it now"] * 20), f"{prose} {' '.join([again] * 6)}", "我们去我们去我们去我们去"):
        kept, report = cleaned([prose, repeated], repetition=True)
        assert kept == [prose], repeated
        assert "words, at most" in report.steps[0].samples[0]["why"]
    short = ["A short sentence.", "Two words"]  # nothing occurs twice in them
    assert cleaned(short, repetition=True)[0] == short


def test_repetition_in_a_script_without_spaces_counts_words_of_two_characters():
    """A name of five characters that occurs six times is no more repetition than two words would be."""
    source = random.Random(2)
    name = "复旦大学生"
    text = "".join(f"{''.join(chr(0x4E00 + source.randrange(3000)) for _ in range(17))}{name}" for _ in range(6))
    assert cleaned([text, text + name * 6], repetition=True)[0] == [text]


def test_a_document_counts_where_it_first_fails():
    _, report = cleaned(["1", "long enough"], characters={"min": 5}, letters={"min": 0.5})
    assert [(step.step, step.removed) for step in report.steps] == [("characters", 1), ("letters", 0)]


def changed(source: random.Random, words: list[str], fraction: float) -> list[str]:
    words = list(words)
    for place in source.sample(range(len(words)), round(len(words) * fraction)):
        words[place] = source.choice(WORDS) + "x"
    return words


@pytest.mark.parametrize("joiner", [" ", ""])
def test_planted_near_duplicates_are_found(joiner):
    """Words with spaces between, and the same as a script without spaces: one character a word."""
    source = random.Random(3)
    characters = [chr(0x4E00 + number) for number in range(2000)]

    def text(words):
        return joiner.join(words) if joiner else "".join(characters[hash_of(word)] for word in words)

    def hash_of(word):
        return sum(ord(char) * 31**place for place, char in enumerate(word)) % 2000

    originals = [sentence(source, source.randint(40, 200)) for _ in range(150)]
    copied = source.sample(range(150), 50)
    texts = [*map(text, originals), *(text(changed(source, originals[number], 0.1)) for number in copied)]
    found = find_near_duplicates(texts, 0.4)
    right = {150 + place: number for place, number in enumerate(copied)}
    assert len(found.items() & right.items()) >= 0.95 * len(right)
    assert len(found.keys() - right.keys()) <= 0.02 * len(found)


def test_the_first_of_a_group_stays_and_what_goes_has_a_twin_that_stays():
    source = random.Random(4)
    first = sentence(source, 100)
    group = [" ".join(first), *(" ".join(changed(source, first, 0.05)) for _ in range(5))]
    other = " ".join(sentence(source, 100))
    kept, report = cleaned([other, *group, "short text"], near_duplicates=0.4)
    assert kept == [other, group[0], "short text"]
    assert report.steps[0].removed == 5
    assert report.steps[0].samples[0]["like"].startswith(group[0][:100])


def test_a_text_whose_only_twin_has_gone_stays():
    """A chain: the second is like the first, the third like the second and not like the first."""
    source = random.Random(7)
    words = sentence(source, 130)
    first, second, third = (" ".join(words[start : start + 100]) for start in (0, 15, 30))
    assert find_near_duplicates([first, second], 0.7) == {1: 0}
    assert find_near_duplicates([second, third], 0.7) == {1: 0}
    assert find_near_duplicates([first, second, third], 0.7) == {1: 0}


def test_a_near_duplicate_of_a_validation_text_leaves_the_corpus():
    source = random.Random(5)
    held = sentence(source, 60)
    held_out = [" ".join(held), " ".join(changed(source, held, 0.03))]  # two alike there both stay
    copy, other = " ".join(changed(source, held, 0.05)), " ".join(sentence(source, 60))
    kept, report = cleaned([copy, other, held_out[0]], held_out, exact_duplicates=True, near_duplicates=0.4)
    assert kept == [other]
    exact, near = report.steps
    assert exact.samples[0]["why"] == "also in validation"
    assert near.samples[0]["like in validation"].startswith(held_out[0][:50])


def test_the_report_is_json_and_a_table(tmp_path):
    texts = ["x" * 1000 + "\x1b[31m", "y [bold]", "ok, this stays"]
    _, report = cleaned(texts, characters={"max": 20}, words={"min": 3})
    write_report(report, tmp_path / "data" / "cleaning.json")
    read = json.loads((tmp_path / "data" / "cleaning.json").read_text())
    assert (read["rows_in"], read["rows_out"]) == (3, 1)
    sample = read["steps"][0]["samples"][0]["text"]
    assert len(sample) < 250
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(cleaning_table(report))
    shown = console.export_text()
    assert "characters max 20" in shown
    assert "y [bold]" in shown
    assert "\x1b" not in shown


RECIPE = """
name: t
tokenizer: {train: {vocab_size: 300}}
model: {preset: gpt2-nano}
pretrain:
  data: {path: toy, name: stories, size: 60}
  %s
"""


def read_corpus_of(recipe: Recipe, folder: Path) -> Corpus:
    corpus = read_corpus(recipe, resolve_inputs(recipe), {"pretrain"}, lambda text: None, folder / "skipped.jsonl")
    assert corpus is not None
    return corpus


def write(tmp_path: Path, more: str) -> str:
    (tmp_path / "t.yaml").write_text(RECIPE % more.replace("\n", "\n  "))
    return str(tmp_path / "t.yaml")


@pytest.mark.parametrize(
    ("more", "line", "message"),
    [
        ("clean: {}", 7, "names nothing to do"),
        ("clean: {repetition: false}", 7, "names nothing to do"),
        ("clean: {word: {min: 3}}", 7, "Did you mean words?"),
        ("clean: {words: {}}", 7, "needs a `min`, a `max` or both"),
        ("clean: {words: {min: 3, max: 2}}", 7, "must be at least min 3, got 2"),
        ("clean: {letters: {min: 60}}", 7, "must be at most 1, got 60"),
        ("clean: {near_duplicates: 0.1}", 7, "must be at least 0.4, got 0.1"),
        ("clean: {near_duplicates: true}", 7, "expected a number, got true"),
        ("clean: {normalize: nfd}", 7, "expected one of NFC, NFKC; got 'nfd'"),
        ("rows: lines\nclean: {normalize: NFC, exact_duplicates: true}", 8, "`rows: lines` is one running text"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, more, line, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, more))
    assert f"t.yaml:{line}" in str(caught.value)
    assert message in str(caught.value)


def test_the_section_is_written_down_with_the_recipe(tmp_path):
    path = write(tmp_path, "clean: {normalize: NFC, words: {min: 3}, letters: {max: 0.9}, near_duplicates: 0.5}")
    loaded = load_recipe(path)
    (tmp_path / "again.yaml").write_text(dump_recipe(loaded))
    assert load_recipe(str(tmp_path / "again.yaml")) == loaded
    known = json.dumps(recipe_json_schema())
    assert all(f'"{key}"' in known for key in Clean.model_fields)


@pytest.mark.parametrize("key", ["exact_duplicates: true", "near_duplicates: 0.5"])
def test_duplicates_are_not_looked_for_in_a_stream(tmp_path, key):
    path = write(tmp_path, f"clean: {{normalize: NFC, {key}}}")
    with pytest.raises(RecipeError, match="documents in memory, which a stream never holds") as caught:
        load_recipe(path, ["pretrain.data={path: big.jsonl, streaming: true}"])
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("validation", "held_out"),
    [("", None), ("validation: 0.2", "drawn"), ("validation: {path: valid.jsonl}", ["Café of the validation"])],
)
def test_the_corpus_of_a_recipe_is_cleaned_before_anything_is_held_out(tmp_path, monkeypatch, validation, held_out):
    monkeypatch.chdir(tmp_path)
    source = random.Random(6)
    texts = [" ".join(sentence(source, 30)) for _ in range(60)]
    rows = [*texts, texts[0], "too short", "Café of the validation"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    (tmp_path / "valid.jsonl").write_text(json.dumps({"text": "Cafe\u0301 of the validation"}) + "\n")
    path = write(tmp_path, f"{validation}\nclean: {{normalize: NFC, words: {{min: 3}}, exact_duplicates: true}}")
    loaded = load_recipe(path, ["pretrain.data={path: train.jsonl}"])
    corpus = read_corpus_of(loaded, tmp_path)
    assert corpus.cleaning.rows_in == 63
    if held_out == "drawn":
        assert sorted([*corpus.texts, *corpus.held_out[""]]) == sorted([*texts, "Café of the validation"])
    else:
        assert corpus.held_out == ({} if held_out is None else {"": held_out})
        assert corpus.texts == ([*texts, "Café of the validation"] if held_out is None else texts)


def test_a_stream_is_cleaned_as_it_is_read_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"Cafe\u0301 number {number}" if number % 3 else "no" for number in range(30)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = write(tmp_path, "clean: {normalize: NFC, words: {min: 2}}")
    loaded = load_recipe(path, ["pretrain.data={path: train.jsonl, streaming: true}"])
    corpus = read_corpus_of(loaded, tmp_path)
    expected = [f"Café number {number}" for number in range(30) if number % 3]
    assert list(corpus.texts) == expected
    rows = iter(corpus.texts.dataset)
    first = [next(rows)["text"] for _ in range(7)]
    position = corpus.texts.dataset.state_dict()
    again = read_corpus_of(loaded, tmp_path).texts.dataset
    again.load_state_dict(position)
    assert [*first, *(row["text"] for row in again)] == expected


def test_what_is_held_out_of_a_stream_is_cleaned_like_the_stream(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"Cafe\u0301 number {number}" if number % 3 else f"no{number}" for number in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = write(tmp_path, "validation: 0.3\nclean: {normalize: NFC, words: {min: 2}}")
    loaded = load_recipe(path, ["pretrain.data={path: train.jsonl, streaming: true}"])
    corpus = read_corpus_of(loaded, tmp_path)
    assert len(corpus.held_out[""]) > 3
    assert sorted([*corpus.texts, *corpus.held_out[""]]) == sorted(
        f"Café number {number}" for number in range(60) if number % 3
    )


def test_what_a_mixture_repeats_for_its_weight_is_no_duplicate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = random.Random(7)
    many, few = ([" ".join(sentence(source, 30)) for _ in range(number)] for number in (200, 20))
    for name, texts in (("many", [*many, *many[:30], "too short"]), ("few", [*few, few[0]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = write(tmp_path, "clean: {words: {min: 3}, exact_duplicates: true}")
    sets = ["pretrain.data=[{path: many.jsonl, weight: 1}, {path: few.jsonl, weight: 1}]"]
    corpus = read_corpus_of(load_recipe(path, sets), tmp_path)
    assert (corpus.cleaning.rows_in, corpus.cleaning.rows_out) == (252, 220)
    assert set(corpus.texts) == {*many, *few}
    drawn = [each.documents for each in corpus.given]
    assert sum(drawn) == len(corpus.texts) and 0.4 < drawn[1] / len(corpus.texts) < 0.6
    sets = [
        "pretrain.data=[{path: many.jsonl, weight: 1}, {path: few.jsonl, weight: 1}]",
        "pretrain.clean.words.min=99",
    ]
    with pytest.raises(DataError, match="leaves none of 252 documents"):
        read_corpus_of(load_recipe(path, sets), tmp_path)
