"""A trained tokenizer gives every text back, whatever it is; a text that spells a special token stays text."""

import random

import pytest
from conftest import TEXTS

from hflm.core import DataError, ModelError
from hflm.data import toy
from hflm.preprocessing import encode, load_tokenizer, train_tokenizer
from hflm.recipe import LEAST_VOCAB_SIZE

ALGORITHMS = ("bpe", "unigram", "wordpiece")


def anything():
    """300 seeded texts of any assigned or unassigned code points but surrogates."""
    rng = random.Random(0)
    ranges = [(32, 127), (0, 0xD800), (0xE000, 0x110000)]
    return ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(40)) for _ in range(300)]


HARD = [
    "",
    " ",
    "  two  spaces \n\n\tand a tab ",
    "## a##b ##",
    "▁ is what WordPiece marks the inside of words with ▁▁x",
    "你好，世界。" * 60,
    "e\u0301 is not é",
    "👩‍👩‍👧 🇩🇪",
    "x" * 1000,
    "it's John's , isn 't it ?",
    "a <|endoftext|> b",
]


@pytest.fixture(scope="module", params=ALGORITHMS)
def trained(request):
    return train_tokenizer(TEXTS, request.param, 900)


def test_round_trip_is_exact_on_any_unicode(trained):
    texts = [*HARD, *TEXTS, *anything()]
    assert [trained.decode(ids) for ids in encode(trained, texts)] == texts


def test_round_trip_after_saving_and_loading(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert [loaded.decode(loaded(text).input_ids) for text in HARD[:-1]] == HARD[:-1]
    assert encode(loaded, HARD) == encode(trained, HARD)


@pytest.mark.parametrize("path", ["{home}/run", "{home}/run/model", "~/run", "~/run/model"])
def test_a_run_lends_its_tokenizer_and_a_folder_needs_no_model(trained, tmp_path, monkeypatch, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained.save_pretrained(tmp_path / "run" / "model")
    assert load_tokenizer(path.format(home=tmp_path)).get_vocab() == trained.get_vocab()


def test_text_that_spells_the_special_token_stays_text(trained):
    ids = encode(trained, ["<|endoftext|>"])[0]
    assert trained.eos_token_id not in ids
    assert len(ids) > 1


def test_only_one_special_token_begins_ends_and_pads(trained):
    assert trained.bos_token_id == trained.eos_token_id == trained.pad_token_id
    assert trained.all_special_tokens == ["<|endoftext|>"]


def test_the_vocabulary_has_at_most_the_size_asked_for():
    assert len(train_tokenizer(TEXTS, "bpe", 280)) == 280
    assert all(len(train_tokenizer(TEXTS, algorithm, 700)) <= 700 for algorithm in ALGORITHMS)


def test_training_learns_the_words_of_the_corpus():
    trained = train_tokenizer(TEXTS, "bpe", 320)
    assert len(encode(trained, ["The dog saw the key in the barn."])[0]) < 14


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_text_is_an_error(algorithm):
    with pytest.raises(DataError, match="no text to train on"):
        train_tokenizer([], algorithm, 600)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ModelError) as error:
        load_tokenizer(str(tmp_path / "nothing"))
    assert "\n" not in str(error.value)
    assert "nothing" in str(error.value)


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_the_same_text_gives_the_same_tokenizer(algorithm):
    first, again = (train_tokenizer(TEXTS, algorithm, 900) for _ in range(2))
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("more", [0, 1, 30])
def test_a_vocabulary_has_the_size_asked_for(algorithm, more):
    size = LEAST_VOCAB_SIZE[algorithm] + more
    stories = [row["text"] for row in toy.rows("stories", "train", size=300)]
    trained = train_tokenizer(stories, algorithm, size)
    assert len(trained) == size
    assert [trained.decode(ids) for ids in encode(trained, HARD)] == HARD
