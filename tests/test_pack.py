"""Packing: what is learnt, what is seen, what is cut."""

import numpy as np
import pytest
import torch
from conftest import TEXTS

from hflm import model as models
from hflm import pack
from hflm.tokenizer import encode

IGNORED = -100


@pytest.mark.parametrize(
    ("lengths", "block_size", "rows"),
    [
        ([], 10, []),
        ([10], 10, [[0]]),
        ([3, 9, 6, 1], 10, [[1], [2, 0, 3]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([1] * 5, 2, [[0, 1], [2, 3], [4]]),
        ([7, 4, 3, 3, 2, 1], 10, [[0, 2], [1, 3, 4, 5]]),
    ],
)
def test_best_fit(lengths, block_size, rows):
    assert pack.best_fit(lengths, block_size) == rows


def test_best_fit_keeps_every_piece_once_and_wastes_little():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 3000).tolist()
    rows = pack.best_fit(lengths, 256)
    assert sorted(piece for row in rows for piece in row) == list(range(3000))
    assert all(sum(lengths[piece] for piece in row) <= 256 for row in rows)
    assert sum(lengths) / (len(rows) * 256) > 0.99


def test_documents_stand_whole_with_begin_and_end(tokenizer):
    packed = pack.pack_documents(TEXTS, tokenizer, 64)
    ends = tokenizer.eos_token_id
    found = set()
    for row in packed.rows:
        starts = np.flatnonzero(row["position_ids"] == 0)
        for piece in np.split(row["input_ids"], starts[1:]):
            assert piece[0] == ends
            assert piece[-1] == ends
            found.add(tokenizer.decode(piece[1:-1]))
        assert (row["labels"][starts] == IGNORED).all()
        learnt = row["labels"] != IGNORED
        assert learnt.sum() == len(row["labels"]) - len(starts)
        assert (row["labels"][learnt] == row["input_ids"][learnt]).all()
    assert found == set(TEXTS)
    assert packed.cut == 0
    assert packed.tokens == sum(len(row["input_ids"]) for row in packed.rows)


def test_a_long_document_is_cut_and_counted(tokenizer):
    text = " ".join(TEXTS)
    packed = pack.pack_documents([text], tokenizer, 32)
    ids = np.concatenate([row["input_ids"] for row in packed.rows])
    assert packed.cut == 1
    assert tokenizer.decode(ids[1:-1]) == text


def test_lines_are_one_running_text_in_full_blocks(tokenizer):
    lines = [f"{text}\n" for text in TEXTS]
    packed = pack.pack_documents(lines, tokenizer, 32, "lines")
    assert {len(row["input_ids"]) for row in packed.rows[:-1]} == {32}
    assert tokenizer.decode(np.concatenate([row["input_ids"] for row in packed.rows])) == "".join(lines)
    assert all((row["labels"][1:] == row["input_ids"][1:]).all() for row in packed.rows)


def test_examples_learn_the_target_and_the_end_alone(tokenizer):
    pairs = [("The dog saw the", "key"), ("The cat saw the", "cup in the barn")]
    packed = pack.pack_examples(pairs, tokenizer, 64)
    (row,) = packed.rows
    learnt = tokenizer.decode(row["input_ids"][row["labels"] != IGNORED])
    assert learnt == " cup in the barn<|endoftext|> key<|endoftext|>"
    assert tokenizer.decode(row["input_ids"]) == (
        "The cat saw the cup in the barn<|endoftext|>The dog saw the key<|endoftext|>"
    )


def test_a_prompt_is_encoded_as_it_is_for_generation(tokenizer):
    prompt, target = "The dog saw the", "key"
    (row,) = pack.pack_examples([(prompt, target)], tokenizer, 64).rows
    ids = encode(tokenizer, [prompt])[0]
    assert row["input_ids"][: len(ids)].tolist() == ids
    assert pack.target_lengths([target], tokenizer) == [len(row["input_ids"]) - len(ids)]


def test_padding_is_a_piece_of_its_own_without_labels(tokenizer):
    rows = pack.pack_examples([("The dog saw", "a key")], tokenizer, 64).rows
    long = pack.pack_documents([" ".join(TEXTS[:4])], tokenizer, 64).rows
    batch = pack.collate([*rows, *long], tokenizer.pad_token_id)
    used = len(rows[0]["input_ids"])
    assert "attention_mask" not in batch
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape
    assert (batch["labels"][0, used:] == IGNORED).all()
    assert batch["position_ids"][0, used:].tolist() == list(range(batch["input_ids"].shape[1] - used))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_no_gradient_flows_from_one_packed_document_to_another(tokenizer, tiny, attention, batch_size):
    tiny.set_attn_implementation(attention)
    model = models.mend_loss(tiny)
    packed = pack.pack_documents(TEXTS[:3], tokenizer, 64)
    batch = pack.collate(packed.rows[:1] * batch_size, tokenizer.pad_token_id)
    first_end = int((batch["position_ids"][0] == 0).nonzero()[1])
    embedded = model.transformer.wte(batch.pop("input_ids")).detach().requires_grad_()
    batch["labels"][:, :first_end] = IGNORED  # only the later documents of the row are learnt
    model(inputs_embeds=embedded, **batch).loss.backward()
    assert embedded.grad[:, :first_end].abs().max() == 0
    assert embedded.grad[:, first_end:].abs().max() > 0


def test_a_packed_row_has_the_loss_of_its_documents_alone(tokenizer, tiny):
    model = models.mend_loss(tiny).eval()
    packed = pack.pack_documents(TEXTS[:3], tokenizer, 64)
    together = model(**pack.collate(packed.rows, tokenizer.pad_token_id), num_items_in_batch=1).loss
    alone = [
        model(input_ids=ids, labels=ids, num_items_in_batch=1).loss
        for document in pack.documents(TEXTS[:3], tokenizer)
        for ids in [torch.tensor(document)[None]]
    ]
    torch.testing.assert_close(together, sum(alone))


def test_a_stream_packs_as_it_is_read(tokenizer):
    reads = []

    def endless():
        while True:
            reads.append(1)
            yield TEXTS[len(reads) % len(TEXTS)]

    stream = pack.pack_stream(endless(), tokenizer, 64)
    rows = iter(stream.rows)
    row = next(rows)
    assert 48 < len(row["input_ids"]) <= 64
    assert len(reads) == pack.ENCODE_AT_ONCE
    assert stream.tokens_per_row == 64
