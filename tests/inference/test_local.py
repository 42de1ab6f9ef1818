"""Batched answers equal single ones; likelihoods equal a plain computation."""

import math

import numpy as np
import pytest
import torch
from conftest import LABELS_THAT_BEGIN_ANOTHER, SIZES, TEXTS

from hflm.core import ModelError
from hflm.inference import LocalModel, batching, cut_at_stop, local, text_windows
from hflm.preprocessing import collate, encode, load_tokenizer, pack_examples, train_tokenizer

PROMPTS = ["The dog", "The cat saw the", "A", "The fox saw the key in the", "saw the hat"]


@pytest.fixture
def model(tiny, tokenizer):
    # Larger weights than at initialisation, so that answers differ from prompt to prompt.
    for parameter in tiny.parameters():
        parameter.data.mul_(4)
    return tiny.eval()


def texts_of(model, tokenizer, prompts, max_new_tokens, stop, batch_tokens):
    found = LocalModel(model, tokenizer, batch_tokens).texts(prompts, max_new_tokens, stop)
    return in_order(found)


def in_order(batches):
    """Answers of batches in the order of their rows, each answered once."""
    answered = [pair for rows, answers in batches for pair in zip(rows, answers, strict=True)]
    assert sorted(row for row, _ in answered) == list(range(len(answered)))
    return [found for _, found in sorted(answered)]


@pytest.mark.parametrize("architecture", SIZES)
@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_greedy_texts_are_the_same_in_any_batch(model, tokenizer, batch_tokens):
    with torch.inference_mode():
        texts = texts_of(model, tokenizer, PROMPTS, 12, [], batch_tokens)
        expected = []
        for prompt in PROMPTS:
            ids = torch.tensor(encode(tokenizer, [prompt]))
            for _ in range(12):
                following = model(input_ids=ids).logits[0, -1].argmax()
                if following == tokenizer.eos_token_id:
                    break
                ids = torch.cat([ids, following[None, None]], dim=1)
            expected.append(tokenizer.decode(ids[0])[len(prompt) :].strip())
    assert texts == expected
    assert len(set(texts)) > 1


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
@pytest.mark.parametrize("choices", [("key", "cup"), ("key in the barn", "hat", "zebra in the mill")])
@pytest.mark.parametrize("end", [True, False])
def test_label_likelihoods_are_sums_of_conditional_log_probabilities(model, tokenizer, choices, end, batch_tokens):
    with torch.inference_mode():
        found = in_order(LocalModel(model, tokenizer, batch_tokens).likelihoods(PROMPTS, choices, include_end=end))
        for prompt, row in zip(PROMPTS, found, strict=True):
            for choice, value in zip(choices, row, strict=True):
                first, label = encode(tokenizer, [prompt, f" {choice}"])
                label += [tokenizer.eos_token_id] * end
                logs = model(input_ids=torch.tensor([first + label])).logits[0].log_softmax(-1)
                expected = sum(logs[len(first) - 1 + step, token].item() for step, token in enumerate(label))
                assert value == pytest.approx(expected, abs=1e-4)


def test_a_shared_prefix_leaves_the_batches_large(model, tokenizer):
    """It is computed once: on a CPU only the tokens behind it count for the size of a batch, within the cache's bound."""
    prefix = "The dog saw the key in the barn and " * 3
    prompts = [f"{prefix}{text}" for text in PROMPTS] * 10
    with torch.inference_mode():
        found = list(LocalModel(model, tokenizer).likelihoods(prompts, ["key", "cup"]))
        alone = in_order(LocalModel(model, tokenizer, 1).likelihoods(PROMPTS, ["key", "cup"]))
        prefixed = in_order(LocalModel(model, tokenizer, 1).likelihoods(prompts, ["key", "cup"]))
    assert sum(len(encode(tokenizer, [prompt])[0]) for prompt in prompts) > local.CPU_READ_TOKENS
    assert len(found) == 1
    assert np.array(in_order(found)) == pytest.approx(np.array(prefixed), abs=1e-4)
    assert prefixed[: len(alone)] != alone


def test_an_empty_prompt_begins_a_text_as_in_training(model, tokenizer):
    begin = tokenizer.eos_token_id
    with torch.inference_mode():
        [text, _] = texts_of(model, tokenizer, ["", "The dog"], 8, [], None)
        ids = model.generate(torch.tensor([[begin]]), max_new_tokens=8, do_sample=False, pad_token_id=begin)[0]
        [found, _] = in_order(LocalModel(model, tokenizer).likelihoods(["", "The dog"], ["key", "cup"]))
        [row] = pack_examples([("", "key")], tokenizer, 64).rows
        loss = model(**collate([row], tokenizer.pad_token_id), use_cache=False).loss
    assert text == tokenizer.decode(ids, skip_special_tokens=True).strip()
    [key] = encode(tokenizer, [" key"])
    assert row["input_ids"].tolist() == [begin, *key, begin] and row["labels"].tolist() == [-100, *key, begin]
    assert found[0] == pytest.approx(-loss.item() * (len(key) + 1), rel=0.02)


@pytest.fixture(scope="module")
def trained(tokenizer):
    """A model trained on prompts "case k row n is" of the labels of case k, as fine-tuning packs them, to a loss near 0."""
    from hflm.models import build_model

    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64}
    model = build_model({**sizes, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}, tokenizer)
    pairs = [
        (prompt_of(case, row), label)
        for case, labels in enumerate(LABELS_THAT_BEGIN_ANOTHER)
        for row, label in enumerate(labels)
    ]
    rows = pack_examples(pairs, tokenizer, 64).rows
    batch = collate(rows, tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    for _ in range(250):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    return model.eval()


def prompt_of(case, row):
    return f"case {case} row {row} is"


@pytest.mark.parametrize("case", range(len(LABELS_THAT_BEGIN_ANOTHER)))
def test_a_label_that_begins_another_is_chosen_only_where_it_is_right(trained, tokenizer, case):
    labels = LABELS_THAT_BEGIN_ANOTHER[case]
    prompts = [prompt_of(case, row) for row in range(len(labels))]
    answerer = LocalModel(trained, tokenizer)
    with torch.inference_mode():
        with_end = np.array(in_order(answerer.likelihoods(prompts, labels)))
        without_end = np.array(in_order(answerer.likelihoods(prompts, labels, include_end=False)))
    assert with_end.argmax(1).tolist() == list(range(len(labels)))
    assert np.exp(with_end).sum(1) == pytest.approx(1, abs=0.2), "the labels are all that may follow"
    # lm-eval's rule: a label is at least as likely as all that it begins.
    assert (without_end >= with_end).all()
    first = next(row for row, label in enumerate(labels) if label.startswith(labels[0]) and row)
    if encode(tokenizer, [f" {labels[first]}"])[0][:1] == encode(tokenizer, [f" {labels[0]}"])[0]:
        assert without_end[first, 0] >= without_end[first, first]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (" Paris\nQuestion: x", ["\n"], " Paris"),
        ("\n\nParis\nmore", ["\n"], "\n\nParis"),
        ("no stop", ["\n"], "no stop"),
        ("a END b STOP", ["STOP", "END"], "a "),
        ("anything", [], "anything"),
        ("", ["\n"], ""),
        # White space alone is passed over at the beginning, words are not.
        ("\n\nParis", ["\n\n"], "\n\nParis"),
        ("\nQuestion: x", ["\nQuestion:"], ""),
        (" \n\nQ: x", ["\n\nQ:", "\n"], " "),
    ],
)
def test_cut_at_stop(text, stop, expected):
    assert cut_at_stop(text, stop) == expected


def test_rows_end_at_a_stop_string(model, tokenizer):
    with torch.inference_mode():
        whole = texts_of(model, tokenizer, PROMPTS, 12, [], 1000)
        mark = next(text for text in whole if len(text) > 4)[2]
        stopped = texts_of(model, tokenizer, PROMPTS, 12, [mark], 1000)
    assert stopped == [cut_at_stop(text, [mark]).strip() for text in whole]
    assert stopped != whole


@pytest.mark.parametrize(
    ("lengths", "groups", "budget", "expected"),
    [
        ([], [], 16, []),
        ([2, 9, 3, 8], range(4), 16, [[1], [3, 2], [0]]),
        ([100, 1], range(2), 16, [[0], [1]]),
        ([4, 4, 4, 4], range(4), 16, [[0, 1, 2, 3]]),
        ([4, 4, 4, 4, 4], range(5), 16, [[0, 1, 2, 3], [4]]),
        ([2, 9, 3, 8], [5, 5, 6, 7], 24, [[1, 0], [3, 2]]),  # with the longest row of the group
        ([5, 5, 5, 5], [1, 2, 1, 2], 10, [[0, 2], [1, 3]]),
    ],
)
def test_batches_hold_their_budget_and_keep_groups_together(lengths, groups, budget, expected):
    assert list(batching.token_batches(lengths, budget, groups)) == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], ([], [])),
        ([[1]], ([0], [0])),
        ([[1, 2], [1, 2]], ([0, 0], [1])),  # each keeps a token of its own
        ([[7, 8, 9, 1], [5, 5], [7, 8, 9, 2, 2]], ([1, 0, 1], [1, 3])),
        ([[1, 2, 3, 4, 5], [1, 6, 7, 8, 9]], ([0, 1], [4, 4])),  # one common token is not worth the others
    ],
)
def test_rows_that_begin_alike_are_grouped_where_that_saves_tokens(ids, expected):
    assert batching.group_by_prefix(ids) == expected


@pytest.mark.parametrize("text", [TEXTS[0], " ".join(TEXTS), "你好" * 40, "a"])
def test_windows_score_every_token_and_byte_once(tokenizer, text):
    windows = text_windows(tokenizer, text, 64)
    assert sum(window.scored for window in windows) == len(encode(tokenizer, [text])[0])
    assert "".join(window.text for window in windows) == text
    assert sum(window.bytes for window in windows) == len(text.encode())
    assert all(len(window.ids) <= 64 for window in windows)
    assert all(window.scored <= 32 for window in windows[1:])
    scored = [token for window in windows for token in window.ids[-window.scored :]]
    assert tokenizer.decode(scored) == text


def test_windows_of_text_that_spells_a_special_token(tmp_path):
    train_tokenizer(TEXTS, "bpe", 300).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)  # nothing was encoded with it before
    [window] = text_windows(tokenizer, "a <|endoftext|>", 64)
    assert tokenizer.eos_token_id not in window.ids[1:]
    assert window.scored > 2


@pytest.mark.parametrize("architecture", SIZES)
@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_window_nats_are_the_chain_rule(model, tokenizer, batch_tokens):
    windows = [window for text in TEXTS[:5] for window in text_windows(tokenizer, text, 64)]
    with torch.inference_mode():
        found = in_order(LocalModel(model, tokenizer, batch_tokens).nats(windows))
        for window, nats in zip(windows, found, strict=True):
            ids, scored = window.ids, window.scored
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            terms = [-logs[place - 1, ids[place]].item() for place in range(len(ids) - scored, len(ids))]
            assert nats == pytest.approx(math.fsum(terms), rel=1e-4)
    assert np.isfinite(found).all()


def test_the_models_own_sampling_settings_do_not_matter(model, tokenizer):
    with torch.inference_mode():
        expected = texts_of(model, tokenizer, PROMPTS, 8, [], 1000)
        model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        assert texts_of(model, tokenizer, PROMPTS, 8, [], 1000) == expected


def test_a_row_ends_at_any_of_the_models_end_tokens(model, tokenizer):
    with torch.inference_mode():
        (whole,) = texts_of(model, tokenizer, PROMPTS[:1], 8, [], 1000)
        ids = encode(tokenizer, [f"{PROMPTS[0]} {whole}"])[0][len(encode(tokenizer, PROMPTS[:1])[0]) :]
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, ids[2]]
        (ended,) = texts_of(model, tokenizer, PROMPTS[:1], 8, [], 1000)
    assert whole.startswith(ended)
    assert len(ended) < len(whole)


SHOTS = "The dog saw the key in the barn. The cat saw the hat in the mill. A fox saw the cup in the house.\n\n"


def asked(model, tokenizer, prompts, batch_tokens, share_prefixes=True):
    """(texts, label likelihoods, how many tokens the model read for both)."""
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, options: sizes.append(options["input_ids"].numel()), with_kwargs=True
    )
    answerer = LocalModel(model, tokenizer, batch_tokens, share_prefixes)
    found = (
        in_order(answerer.texts(prompts, 6, [])),
        in_order(answerer.likelihoods(prompts, ["hat", "key in the barn"])),
    )
    hook.remove()
    return *found, sum(sizes)


@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
@pytest.mark.parametrize("prompts", [[SHOTS + prompt for prompt in PROMPTS], [SHOTS], [SHOTS, SHOTS]])
def test_what_all_prompts_share_runs_once_and_changes_nothing(model, tokenizer, prompts, batch_tokens):
    with torch.inference_mode():
        texts, logs, read = asked(model, tokenizer, prompts, batch_tokens)
        expected_texts, expected_logs, everything = asked(model, tokenizer, prompts, batch_tokens, False)
    assert texts == expected_texts
    np.testing.assert_allclose(logs, expected_logs, atol=1e-4)
    assert read < everything or len(prompts) == 1


QUESTIONS = [f"{n} {SHOTS}The fox saw the {what} in the" for n in range(3) for what in ("cup", "old hat", "key")]


@pytest.mark.parametrize("architecture", SIZES)
@pytest.mark.parametrize("batch_tokens", [1, 300, 700, 10_000])
@pytest.mark.parametrize("prompts", [QUESTIONS, [*QUESTIONS[::-1], *PROMPTS], [PROMPTS[0], QUESTIONS[4], QUESTIONS[3]]])
def test_what_some_rows_share_runs_once_a_batch_and_changes_nothing(model, tokenizer, prompts, batch_tokens):
    with torch.inference_mode():
        texts, logs, read = asked(model, tokenizer, prompts, batch_tokens)
        expected_texts, expected_logs, everything = asked(model, tokenizer, prompts, batch_tokens, False)
    assert texts == expected_texts
    np.testing.assert_allclose(logs, expected_logs, atol=1e-4)
    assert read < everything or batch_tokens < 700


def test_answered_rows_are_left_out_and_the_other_batches_stay(model, tokenizer):
    answerer = LocalModel(model, tokenizer, 60)
    with torch.inference_mode():
        batches = list(answerer.texts(PROMPTS, 12, []))
        assert len(batches) == 2
        done = frozenset(batches[0][0])
        assert list(answerer.texts(PROMPTS, 12, [], done)) == batches[1:]
        assert list(answerer.texts(PROMPTS, 12, [], frozenset(range(len(PROMPTS))))) == []


def test_a_batch_that_does_not_fit_into_memory_is_halved(model, tokenizer):
    asked = []
    most = 2

    def small_memory(_, args, options):
        rows = len(options["input_ids"])
        asked.append(rows)
        if rows > most and options.get("attention_mask") is not None:  # only a common prefix is read without one
            raise torch.OutOfMemoryError("CUDA out of memory")

    with torch.inference_mode():
        expected = texts_of(model, tokenizer, PROMPTS, 12, [], 1000)
        model.register_forward_pre_hook(small_memory, with_kwargs=True)
        assert texts_of(model, tokenizer, PROMPTS, 12, [], 1000) == expected
        assert max(asked) > most
        most = 0
        with pytest.raises(ModelError, match="too small for a single row"):
            texts_of(model, tokenizer, PROMPTS, 12, [], 1000)
