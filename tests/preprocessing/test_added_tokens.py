"""Tokens that are added to a tokenizer: one entry wherever they occur, decoded as written, whatever the algorithm."""

import pytest
from conftest import TEXTS

from hflm.core import RecipeError, UserError
from hflm.preprocessing import add_tokens, added_ids, encode, load_tokenizer, pieces_of, train_tokenizer
from hflm.recipe import load_recipe
from recipes import tiny_recipe

WORDS = ["hydroxychloroquine", "New York", "café", "Müller", "<gene>", "狗"]


@pytest.mark.parametrize(("algorithm", "size"), [("bpe", 320), ("unigram", 300), ("wordpiece", 600)])
def test_each_is_one_token_and_every_text_is_decoded_as_it_was(tmp_path, algorithm, size):
    trained = train_tokenizer(TEXTS, algorithm, size)
    entries = len(trained)
    assert add_tokens(trained, WORDS) == ()
    trained.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert added_ids(tokenizer, None) == list(range(entries, entries + len(WORDS)))
    text = "The dog saw a café, xcaféx, Müller and the <gene> in New York. 狗鱼caf鱼 <|endoftext|>"
    [ids] = encode(tokenizer, [text])
    assert tokenizer.decode(ids) == text
    assert [ids.count(entries + number) for number in range(len(WORDS))] == [0, 1, 2, 1, 1, 1]
    before = train_tokenizer(TEXTS, algorithm, size) if algorithm != "unigram" else None  # which differs each time
    pieces = pieces_of(tokenizer, added_ids(tokenizer, None))
    for number, word in enumerate(WORDS):
        own = pieces[entries + number]
        assert max(own) < entries and len(own) > 1
        assert before is None or own == encode(before, [word])[0]


def test_those_that_are_in_the_vocabulary_already_are_named_and_change_nothing(tokenizer):
    entries = len(tokenizer)
    known = [tokenizer.decode([number]) for number in (270, 280)]
    assert add_tokens(tokenizer, [*known, "<|endoftext|>", "a"]) == (*known, "<|endoftext|>", "a")
    assert len(tokenizer) == entries and added_ids(tokenizer, None) == []


def test_only_what_a_tokenizer_had_not_counts_as_added(tmp_path):
    before = train_tokenizer(TEXTS, "bpe", 320)
    add_tokens(before, ["<one>"])
    before.save_pretrained(tmp_path)
    after = load_tokenizer(tmp_path)
    assert add_tokens(after, ["<one>", "<two>"]) == ("<one>",)
    assert added_ids(after, load_tokenizer(tmp_path)) == [len(before)]


def test_a_token_that_would_be_decoded_as_something_else_is_refused(monkeypatch):
    tokenizer = train_tokenizer(TEXTS, "bpe", 300)
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids: "?")
    with pytest.raises(UserError, match=r"add_tokens: '<gene>' would not be decoded as written"):
        add_tokens(tokenizer, ["<gene>"])


NEW = "pretrain: {data: {path: toy, name: stories}, args: {max_steps: 1}}\n"
TUNED = (
    "tasks: {sentiment: {data: {path: toy, name: sentiment}, labels: [negative, neutral, positive]}}\n"
    "finetune: {tasks: [sentiment], adapter: {type: lora, r: 2}, args: {max_steps: 1}}\n"
)
FROM = f"name: t\nmodel: {{from: base}}\n{TUNED}"


@pytest.mark.parametrize(
    ("text", "tokenizer", "problem"),
    [
        (tiny_recipe("t", NEW), "{train: {vocab_size: 400}, add_tokens: [a b, c]}", None),
        (FROM, "{add_tokens: [<gene>]}", None),
        (FROM, "{from: base, add_tokens: [<gene>]}", None),
        (
            tiny_recipe("t", NEW),
            "{add_tokens: [x]}",
            "tokenizer.add_tokens: to which tokenizer? Add `train:` or `from:`",
        ),
        (FROM, "{add_tokens: [x, y, x]}", "tokenizer.add_tokens.2: 'x' is named twice"),
        (FROM, "{add_tokens: [' ']}", "a token of white space alone would split every text"),
        (FROM, "{add_tokens: []}", "tokenizer.add_tokens"),
        (FROM, "{revision: main, add_tokens: [x]}", "tokenizer.revision: belongs to a `from:`"),
        (FROM, "{}", "tokenizer: needs either train or from"),
        (
            FROM.replace("r: 2}", "r: 2}, quantization: {load_in_4bit: true}"),
            "{add_tokens: [x]}",
            "finetune.quantization: the embeddings of tokenizer.add_tokens are trained in full precision",
        ),
        (
            FROM.replace("r: 2}", "r: 2, trainable_token_indices: [3]}"),
            "{add_tokens: [x]}",
            "finetune.adapter.trainable_token_indices: an adapter trains the tokens of tokenizer.add_tokens by itself",
        ),
    ],
)
def test_the_recipe(tmp_path, text, tokenizer, problem):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    if problem is None:
        assert load_recipe(str(path), [f"tokenizer={tokenizer}"]).tokenizer.add_tokens
        return
    with pytest.raises(RecipeError) as refused:
        load_recipe(str(path), [f"tokenizer={tokenizer}"])
    assert problem in str(refused.value)
