"""`hflm generate`: the mission's own command, and what goes wrong."""

import itertools
import json
import subprocess
import sys

import pytest

from hflm.core import ModelError, UserError
from hflm.inference import format_texts, generate_texts
from hflm.models import save_pretrained


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    save_pretrained(tmp_path / "run" / "model", tiny, tokenizer)
    return tmp_path / "run"


def test_five_sequences_without_repeated_two_grams(folder):
    """The mission's example, as a command."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "hflm", "generate", str(folder), "Hello, my dog is cute"),
            *("--max-length", "60", "--num-return-sequences", "5", "--no-repeat-ngram-size", "2", "--seed", "1"),
            *("--json", "--suppress-tokens", "[0]"),
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    texts = [json.loads(line)["text"] for line in ended.stdout.splitlines()]
    assert len(texts) == 5
    assert all(text.startswith("Hello, my dog is cute") for text in texts)
    assert len(set(texts)) == 5, "greedy search would give one text five times"


def test_no_two_gram_of_tokens_stands_twice(folder, tokenizer, tiny):
    from hflm.preprocessing import encode

    (text,) = generate_texts(str(folder), "The dog", {"max_length": 60, "no_repeat_ngram_size": 2}, seed=0)
    (free,) = generate_texts(str(folder), "The dog", {"max_length": 60}, seed=0)
    ids = encode(tokenizer, [text])[0]
    assert text != free or len(set(itertools.pairwise(ids))) == len(ids) - 1


def test_the_same_seed_samples_the_same_text(folder):
    options = {"max_new_tokens": 20, "do_sample": True}
    first, again, other = (generate_texts(str(folder), "The", options, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_several_sequences_are_numbered(folder):
    texts = generate_texts(str(folder), "The", {"max_new_tokens": 4, "num_return_sequences": 2}, seed=0)
    lines = format_texts("The", texts, as_json=False)
    assert [line.split(":")[0] for line in lines] == ["1", "2"]


def test_an_empty_prompt_starts_from_the_begin_of_text(folder):
    assert len(generate_texts(str(folder), "", {"max_new_tokens": 4})) == 1


def test_a_length_beyond_the_context_is_cut_with_a_warning(folder):
    with pytest.warns(UserWarning, match="context is 64 tokens"):
        generate_texts(str(folder), "The dog", {"max_length": 500})
    with pytest.warns(UserWarning, match="context is 64 tokens"):
        generate_texts(str(folder), "The dog", {"max_new_tokens": 500})


@pytest.mark.parametrize(
    ("model", "prompt", "options", "error", "message"),
    [
        (None, "The dog " * 60, {}, UserError, "context only 64"),
        (None, "The dog", {"num_beams": 2, "num_return_sequences": 3}, UserError, "num_return_sequences"),
        (None, "The dog", {"temperature": -1.0, "do_sample": True}, UserError, "temperature"),
        ("./nothing", "The dog", {}, ModelError, "no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(folder, model, prompt, options, error, message):
    with pytest.raises(error, match=message):
        generate_texts(model or str(folder), prompt, options)


def test_a_prompt_that_is_no_text_is_refused(folder):
    with pytest.raises(UserError, match="the prompt is not UTF-8"):
        generate_texts(str(folder), "\udcff", {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"temperature": 0.7, "top_p": 0.9},
            ["temperature: without effect: `do_sample` is not", "top_p: without effect"],
        ),
        ({"top_k": 5, "do_sample": False}, ["top_k: without effect"]),
        ({"length_penalty": 2.0}, ["length_penalty: without effect: `num_beams` is"]),
        ({"early_stopping": True, "do_sample": True}, ["early_stopping: without effect"]),
        ({"use_cache": False, "cache_implementation": "static"}, ["cache_implementation: without effect"]),
        ({"max_matching_ngram_size": 3}, ["max_matching_ngram_size: without effect: set prompt_lookup_num_tokens"]),
        ({"max_length": 9}, ["max_length: without effect: max_new_tokens is set"]),
        (
            {"return_dict_in_generate": True, "output_scores": True, "decoder_start_token_id": 1},
            ["return_dict_in_generate: without", "output_scores: without", "decoder_start_token_id: without"],
        ),
    ],
)
def test_options_without_effect_are_warned_of(folder, options, words):
    plain = generate_texts(str(folder), "The", {"max_new_tokens": 2})
    with pytest.warns(UserWarning) as caught:
        assert generate_texts(str(folder), "The", {"max_new_tokens": 2, **options}) == plain or "do_sample" in options
    found = [str(each.message) for each in caught]
    assert len(found) == len(words)
    assert all(any(text.startswith(each) for text in found) for each in words)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "do_sample": True},
        {"temperature": 0.7, "num_return_sequences": 2},
        {"length_penalty": 2.0, "num_beams": 2},
        {"temperature": 1.0, "early_stopping": False},
    ],
)
def test_options_with_an_effect_are_not_warned_of(folder, options):
    generate_texts(str(folder), "The", {"max_new_tokens": 2, **options})  # a warning is an error here
