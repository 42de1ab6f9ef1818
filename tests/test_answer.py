"""Batched answers equal single ones; likelihoods equal a plain computation."""

import math

import numpy as np
import pytest
import torch
from conftest import TEXTS

from hflm import answer
from hflm.tokenizer import encode

PROMPTS = ["The dog", "The cat saw the", "A", "The fox saw the key in the", "saw the hat"]


@pytest.fixture
def model(tiny, tokenizer):
    # Larger weights than at initialisation, so that answers differ from prompt to prompt.
    for parameter in tiny.parameters():
        parameter.data.mul_(4)
    return answer.prepare(tiny, tokenizer)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_greedy_texts_are_the_same_in_any_batch(model, tokenizer, batch_tokens):
    with torch.inference_mode():
        texts = answer.generate_texts(model, tokenizer, PROMPTS, 12, [], batch_tokens)
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
def test_label_likelihoods_are_sums_of_conditional_log_probabilities(model, tokenizer, choices, batch_tokens):
    with torch.inference_mode():
        found = answer.label_likelihoods(model, tokenizer, PROMPTS, choices, batch_tokens)
        for prompt, row in zip(PROMPTS, found, strict=True):
            for choice, value in zip(choices, row, strict=True):
                first, label = encode(tokenizer, [prompt, f" {choice}"])
                logs = model(input_ids=torch.tensor([first + label])).logits[0].log_softmax(-1)
                expected = sum(logs[len(first) - 1 + step, token].item() for step, token in enumerate(label))
                assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (" Paris\nQuestion: x", ["\n"], " Paris"),
        ("\n\nParis\nmore", ["\n"], "\n\nParis"),
        ("no stop", ["\n"], "no stop"),
        ("a END b STOP", ["STOP", "END"], "a "),
        ("anything", [], "anything"),
        ("", ["\n"], ""),
    ],
)
def test_cut_at(text, stop, expected):
    assert answer.cut_at(text, stop) == expected


def test_rows_end_at_a_stop_string(model, tokenizer):
    with torch.inference_mode():
        whole = answer.generate_texts(model, tokenizer, PROMPTS, 12, [], 1000)
        mark = next(text for text in whole if len(text) > 4)[2]
        stopped = answer.generate_texts(model, tokenizer, PROMPTS, 12, [mark], 1000)
    assert stopped == [answer.cut_at(text, [mark]).strip() for text in whole]
    assert stopped != whole


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 16, []),
        ([2, 9, 3, 8], 16, [[1], [3, 2], [0]]),
        ([100, 1], 16, [[0], [1]]),
        ([4, 4, 4, 4], 16, [[0, 1, 2, 3]]),
        ([4, 4, 4, 4, 4], 16, [[0, 1, 2, 3], [4]]),
    ],
)
def test_batches_hold_their_budget(lengths, budget, expected):
    assert list(answer.batches(lengths, budget)) == expected


@pytest.mark.parametrize("text", [TEXTS[0], " ".join(TEXTS), "你好" * 40, "a"])
def test_windows_score_every_token_and_byte_once(tokenizer, text):
    windows = answer.text_windows(tokenizer, text, 64)
    assert sum(scored for _, scored, _ in windows) == len(encode(tokenizer, [text])[0])
    assert sum(size for _, _, size in windows) == len(text.encode())
    assert all(len(ids) <= 64 for ids, _, _ in windows)
    assert all(scored <= 32 for _, scored, _ in windows[1:])
    scored = [token for ids, count, _ in windows for token in ids[len(ids) - count :]]
    assert tokenizer.decode(scored) == text


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_window_nats_are_the_chain_rule(model, tokenizer, batch_tokens):
    windows = [window for text in TEXTS[:5] for window in answer.text_windows(tokenizer, text, 64)]
    with torch.inference_mode():
        found = answer.window_nats(model, windows, tokenizer.pad_token_id, batch_tokens)
        for (ids, scored, _), nats in zip(windows, found, strict=True):
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            terms = [-logs[place - 1, ids[place]].item() for place in range(len(ids) - scored, len(ids))]
            assert nats == pytest.approx(math.fsum(terms), rel=1e-4)
    assert np.isfinite(found).all()


def test_the_models_own_sampling_settings_do_not_matter(model, tokenizer):
    with torch.inference_mode():
        expected = answer.generate_texts(model, tokenizer, PROMPTS, 8, [], 1000)
        model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        assert answer.generate_texts(answer.prepare(model, tokenizer), tokenizer, PROMPTS, 8, [], 1000) == expected
