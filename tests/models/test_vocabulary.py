"""Rows for added tokens: the mean of their pieces in both embeddings, trained by an adapter, the same when merged."""

import pytest
import torch
from conftest import SIZES

from hflm.models import add_adapter, build_model, extend_embeddings, merge_adapter, patch_loss
from hflm.preprocessing import add_tokens, added_ids, pieces_of

TOKENS = ["hydroxychloroquine", "New York", "café"]
UNTIED = {**SIZES["llama"], "tie_word_embeddings": False}


@pytest.fixture
def more(tokenizer):
    """The tokenizer with TOKENS, and their ids."""
    import copy

    extended = copy.deepcopy(tokenizer)
    add_tokens(extended, TOKENS)
    return extended, added_ids(extended, tokenizer)


@pytest.mark.parametrize("config", [SIZES["gpt2"], SIZES["llama"], UNTIED], ids=["gpt2", "llama", "untied"])
@pytest.mark.parametrize("padding", [0, 2, 27])  # rows beyond the tokenizer's entries; 293 + 27 is a multiple of 64
def test_new_rows_are_the_means_of_their_pieces_and_the_others_stay(tokenizer, more, config, padding):
    extended, ids = more
    model = build_model(config, tokenizer)
    entries = len(tokenizer)
    model.resize_token_embeddings(entries + padding)
    before = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    text = torch.arange(20)[None]
    logits = model(text).logits
    extend_embeddings(model, extended, ids)
    size = model.config.vocab_size
    assert size >= entries + len(TOKENS) and ((entries + padding) % 64 or size % 64 == 0)
    assert size == max(entries + padding, entries + len(TOKENS)) or padding == 27
    for old, layer in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        torch.testing.assert_close(layer.weight[:entries], old[:entries], rtol=0, atol=0)
        for number, pieces in pieces_of(extended, ids).items():
            torch.testing.assert_close(layer.weight[number], old[pieces].mean(0))
        for number in range(max(entries + padding, max(ids) + 1), size):
            torch.testing.assert_close(layer.weight[number], old.mean(0))
    torch.testing.assert_close(model(text).logits[..., :entries], logits[..., :entries])
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (config is not UNTIED)


@pytest.mark.parametrize("config", [SIZES["gpt2"], UNTIED], ids=["gpt2", "untied"])
def test_an_adapter_trains_the_new_rows_and_merges_to_what_was_trained(tmp_path, tokenizer, more, config):
    extended, ids = more
    torch.manual_seed(0)
    base = build_model(config, tokenizer)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = patch_loss(extend_embeddings(base, extended, ids))
    start = model.get_input_embeddings().weight.detach().clone()
    model = add_adapter(model, {"type": "lora", "r": 2}, token_ids=ids)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    text = torch.tensor([[*ids, 5, 6, *ids]])
    for _ in range(3):
        model(input_ids=text, labels=text, attention_mask=None).loss.backward()
        optimizer.step()
    model.eval()
    expected = model(input_ids=text).logits
    model.save_pretrained(tmp_path / "adapter")
    extended.save_pretrained(tmp_path / "adapter")
    saved = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert saved < start.numel() * 4, "the whole embedding is not saved"
    merged, own = merge_adapter(tmp_path / "adapter")
    assert len(own) == len(extended)
    torch.testing.assert_close(merged(input_ids=text).logits, expected, rtol=1e-4, atol=1e-4)
    rows = merged.get_input_embeddings().weight
    torch.testing.assert_close(rows[: len(tokenizer)], start[: len(tokenizer)], rtol=0, atol=0)
    assert (rows[ids] - start[ids]).abs().amax(-1).min() > 1e-4
    if config is UNTIED:
        assert not torch.equal(merged.get_output_embeddings().weight[ids], rows[ids])
