"""Beam search and sampling: the same text in any batch, and that of transformers' generate on the row alone."""

import math
from collections import Counter

import pytest
import torch
from conftest import TEXTS
from test_local import in_order

from hflm.inference import LocalModel
from hflm.inference.search import reproducible, search_texts
from hflm.models import build_model
from hflm.preprocessing import collate, encode, pack_documents

WORDS = ("dog", "cat", "fox")
PROMPTS = [f"The {animal} saw" + " the" * (number % 5) for number in range(24) for animal in WORDS[number % 3 :]][:40]
BATCHES = {"1": 1, "8": 8 * 5 * 20, "64": 10**6}  # rows: tokens
BEAMS = {"num_beams": 5, "length_penalty": 0.6}


@pytest.fixture(scope="module")
def trained(tokenizer):
    """Trained for a moment on sentences that branch after each word, so that beams differ."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64}
    model = build_model({**sizes, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}, tokenizer)
    batch = collate(pack_documents(TEXTS, tokenizer, 64).rows, tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def texts_of(model, tokenizer, prompts, options, stop=(), batch_tokens=None, seeds=()):
    with torch.inference_mode():
        return in_order(
            LocalModel(model, tokenizer, batch_tokens).texts(prompts, 12, stop, generation=options, seeds=seeds)
        )


@pytest.mark.parametrize("stop", [(), (" in", ".")], ids=["to the end", "stop strings"])
def test_beams_are_the_same_in_any_batch_and_on_any_process(trained, tokenizer, stop):
    found = {rows: texts_of(trained, tokenizer, PROMPTS, BEAMS, stop, tokens) for rows, tokens in BATCHES.items()}
    assert found["1"] == found["8"] == found["64"]
    first, second = (texts_of(trained, tokenizer, PROMPTS[part::2], BEAMS, stop) for part in (0, 1))
    assert found["64"][0::2] == first and found["64"][1::2] == second
    assert len(set(found["1"])) > 3
    greedy = texts_of(trained, tokenizer, PROMPTS, None, stop)
    assert found["1"] != greedy
    if stop:
        assert not any(" in" in text or "." in text for text in found["1"])


def test_an_empty_prompt_begins_a_text(trained, tokenizer):
    [found] = texts_of(trained, tokenizer, [""], BEAMS)
    begin = torch.tensor([[tokenizer.eos_token_id]])
    with torch.inference_mode():
        ids = trained.generate(
            begin, attention_mask=torch.ones_like(begin), max_new_tokens=12, do_sample=False, **BEAMS
        )
    assert found and found == tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_beams_are_those_of_generate_for_each_row_alone(trained, tokenizer):
    found = texts_of(trained, tokenizer, PROMPTS[:6], BEAMS)
    for prompt, text in zip(PROMPTS, found, strict=False):
        ids = torch.tensor(encode(tokenizer, [prompt]))
        own = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        [answer] = trained.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, **BEAMS, **own)
        assert tokenizer.decode(answer[ids.shape[1] :], skip_special_tokens=True).strip() == text


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.5},
    ],
)
def test_equal_scores_are_decided_alike_in_any_batch(tiny, tokenizer, options):
    """Tokens in pairs with the same embedding: each of them is exactly as likely as its twin."""
    with torch.no_grad():
        tiny.transformer.wte.weight[1::2] = tiny.transformer.wte.weight[0:-1:2]
    model = tiny.eval()
    found = [texts_of(model, tokenizer, PROMPTS, options, batch_tokens=tokens) for tokens in BATCHES.values()]
    assert found[0] == found[1] == found[2]


def test_a_sampled_row_depends_on_its_seed_alone(trained, tokenizer):
    options, seeds = {"do_sample": True, "temperature": 1.5, "top_p": 0.95}, [7 * row for row in range(len(PROMPTS))]
    torch.manual_seed(0)
    found = texts_of(trained, tokenizer, PROMPTS, options, seeds=seeds)
    torch.manual_seed(1)
    assert found == texts_of(trained, tokenizer, PROMPTS, options, batch_tokens=1, seeds=seeds)
    assert found[1::2] == texts_of(trained, tokenizer, PROMPTS[1::2], options, seeds=seeds[1::2])
    others = texts_of(trained, tokenizer, PROMPTS, options, seeds=[seed + 1 for seed in seeds])
    assert sum(one != other for one, other in zip(found, others, strict=True)) > len(PROMPTS) / 2


def test_samples_follow_the_models_probabilities(trained, tokenizer):
    prompt, rows = encode(tokenizer, ["The dog saw the"])[0], 3000
    with torch.inference_mode(), reproducible(trained):
        options = {"do_sample": True, "top_k": 3, "temperature": 2.0}
        ends = [tokenizer.eos_token_id]
        texts = search_texts(trained, tokenizer, [prompt] * rows, options, 1, (), ends, range(rows))
        logits = trained(torch.tensor([prompt])).logits[0, -1]
    values, tokens = (logits / 2).topk(3)
    assert set(texts) == {tokenizer.decode([token]).strip() for token in tokens.tolist()}
    for token, p in zip(tokens.tolist(), values.softmax(-1).tolist(), strict=True):
        seen = Counter(texts)[tokenizer.decode([token]).strip()] / rows
        assert seen == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / rows))


def test_the_model_is_left_as_it_was(trained, tokenizer):
    before = {name: each.clone() for name, each in trained.state_dict().items()}
    settings = trained.generation_config
    settings.temperature = 0.1
    try:
        texts = texts_of(trained, tokenizer, PROMPTS, {"do_sample": True}, seeds=range(len(PROMPTS)))
        assert trained.generation_config is settings
        settings.temperature = 5.0
        assert texts == texts_of(trained, tokenizer, PROMPTS, {"do_sample": True}, seeds=range(len(PROMPTS)))
    finally:
        settings.temperature = None
    assert all(torch.equal(before[name], each) for name, each in trained.state_dict().items())
    assert {each.dtype for each in trained.parameters()} == {torch.float32}
    ids = torch.tensor(encode(tokenizer, ["The dog"]))
    trained(ids, labels=ids).loss.backward()  # a tensor of inference mode would refuse
    trained.zero_grad()


def test_a_search_continues_where_it_was(trained, tokenizer):
    with torch.inference_mode():
        asked = LocalModel(trained, tokenizer)
        found = dict(
            pair
            for rows, answers in asked.texts(PROMPTS, 12, (), done={0, 3}, generation=BEAMS)
            for pair in zip(rows, answers, strict=True)
        )
    whole = texts_of(trained, tokenizer, PROMPTS, BEAMS)
    assert found == {row: text for row, text in enumerate(whole) if row not in (0, 3)}
