"""Packing: which tokens have labels, which are visible to each other, which texts are cut."""

import numpy as np
import pytest
import torch
from conftest import TEXTS

from hflm.core import UserError
from hflm.models import patch_loss
from hflm.preprocessing import (
    PackingCounts,
    collate,
    encode,
    encode_in_batches,
    pack_documents,
    pack_examples,
    pack_ids,
    target_lengths,
    token_cache,
    train_tokenizer,
)
from hflm.preprocessing._bin_packing import best_fit, subset_sum_fit
from hflm.preprocessing.packing import split_into_segments

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
    assert best_fit(lengths, block_size) == rows


def test_best_fit_keeps_every_segment_once_and_pads_little():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 3000).tolist()
    rows = best_fit(lengths, 256)
    assert sorted(segment for row in rows for segment in row) == list(range(3000))
    assert all(sum(lengths[segment] for segment in row) <= 256 for row in rows)
    assert sum(lengths) / (len(rows) * 256) > 0.99


@pytest.mark.parametrize("common_first", [False, True])
@pytest.mark.parametrize(
    ("lengths", "block_size", "rows"),
    [
        ([], 10, 0),
        ([10], 10, 1),
        ([5, 5, 4, 4, 3, 3], 12, 2),
        ([6, 6, 6], 10, 3),
        ([2, 9, 8, 1, 5, 5], 10, 3),
        ([4] * 7, 12, 3),
    ],
)
def test_subset_sum_fit(lengths, block_size, rows, common_first):
    found = subset_sum_fit(lengths, block_size, common_first)
    assert sorted(segment for row in found for segment in row) == list(range(len(lengths)))
    assert all(sum(lengths[segment] for segment in row) <= block_size for row in found)
    assert len(found) == rows


def test_segments_of_about_one_length_are_padded_little(tokenizer):
    rng = np.random.default_rng(0)
    lengths = rng.normal(64, 6, 3000).astype(int)
    assert len(best_fit(lengths, 256)) * 256 > lengths.sum() * 1.05
    packed = pack_ids(np.zeros(lengths.sum(), np.uint16), lengths, 256)
    assert packed.counts().padding < 0.01 * packed.tokens
    assert packed.tokens == lengths.sum() == sum(len(row["input_ids"]) for row in packed.rows)


def test_documents_are_complete_with_begin_and_end(tokenizer):
    packed = pack_documents(TEXTS, tokenizer, 64)
    ends = tokenizer.eos_token_id
    found = set()
    for row in packed.rows:
        starts = np.flatnonzero(row["position_ids"] == 0)
        for segment in np.split(row["input_ids"], starts[1:]):
            assert segment[0] == ends
            assert segment[-1] == ends
            found.add(tokenizer.decode(segment[1:-1]))
        assert (row["labels"][starts] == IGNORED).all()
        labelled = row["labels"] != IGNORED
        assert labelled.sum() == len(row["labels"]) - len(starts)
        assert (row["labels"][labelled] == row["input_ids"][labelled]).all()
    assert found == set(TEXTS)
    tokens = sum(len(row["input_ids"]) for row in packed.rows)
    padding = 64 * len(packed.rows) - tokens
    assert packed.counts() == PackingCounts(len(packed.rows), 64, len(TEXTS), cut=0, tokens=tokens, padding=padding)


@pytest.mark.parametrize("longer", range(8))
def test_a_long_document_is_cut_and_counted_and_loses_no_token(tokenizer, longer):
    text = " ".join(TEXTS) + " a" * longer
    packed = pack_documents([text], tokenizer, 8)
    ids = np.concatenate([row["input_ids"] for row in packed.rows])
    assert packed.cut == packed.texts == 1
    assert tokenizer.decode(ids[1:-1]) == text
    assert all((row["labels"] != IGNORED).any() for row in packed.rows)


@pytest.mark.parametrize(
    ("lengths", "block_size", "segments"),
    [
        ([3, 7, 9], 4, [(0, 3), (3, 4), (7, 3), (10, 4), (14, 3), (17, 2)]),
        ([8, 1, 4], 4, [(0, 4), (4, 4), (9, 4)]),
        ([5], 4, [(0, 3), (3, 2)]),
        ([2**31], 2**30, [(0, 2**30), (2**30, 2**30)]),
    ],
)
def test_split_into_segments(lengths, block_size, segments):
    starts, found = split_into_segments(np.array(lengths), block_size)
    assert list(zip(starts.tolist(), found.tolist(), strict=True)) == segments


def test_rows_are_a_sequence(tokenizer):
    rows = pack_documents(TEXTS, tokenizer, 32).rows
    listed = list(rows)
    assert len(listed) == len(rows) > 3
    for asked, expected in [(rows[-1], listed[-1]), (rows[1:3][0], listed[1]), (rows[np.int64(2)], listed[2])]:
        assert all((asked[name] == expected[name]).all() for name in asked)
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_rows_in_order_are_placed_by_their_first_document(tokenizer):
    ids, lengths = next(encode_in_batches([TEXTS[0], " ".join(TEXTS[:3]), TEXTS[1]], tokenizer))
    packed = pack_ids(ids, lengths, 32, in_order=True)
    assert packed.rows[0]["input_ids"][: lengths[0]].tolist() == ids[: lengths[0]].tolist()


def same(found, expected):
    return [row["input_ids"].tolist() for row in found.rows] == [row["input_ids"].tolist() for row in expected.rows]


def test_the_same_text_is_encoded_once(tokenizer, tmp_path):
    first = pack_documents(TEXTS, tokenizer, 64, cache=tmp_path)
    assert first.cached is None
    for block_size in (64, 32):
        again = pack_documents(TEXTS, tokenizer, block_size, cache=tmp_path)
        assert again.cached.parent == tmp_path
    assert same(again, pack_documents(TEXTS, tokenizer, 32))
    assert [path.name for path in tmp_path.iterdir()] == [again.cached.name]
    ids = np.fromfile(again.cached / "ids.bin", np.uint16)
    ids[:] = 7
    ids.tofile(again.cached / "ids.bin")
    rows = pack_documents(TEXTS, tokenizer, 32, cache=tmp_path).rows
    assert {token for row in rows for token in row["input_ids"].tolist()} == {7}, "the ids are read, not computed"


def test_the_part_that_is_encoded_is_reported(tokenizer, tmp_path):
    found = []
    texts = [f"{text} {number}" for number in range(800) for text in TEXTS[:3]]
    pack_documents(texts, tokenizer, 32, cache=tmp_path, on_progress=found.append)
    assert found == [1000 / 2400, 2000 / 2400, 1.0]


@pytest.mark.parametrize("change", ["text", "border", "rows", "tokenizer"])
def test_another_text_or_tokenizer_is_encoded_again(tokenizer, tmp_path, change):
    texts, rows, other = TEXTS, "documents", tokenizer
    pack_documents(TEXTS, tokenizer, 64, cache=tmp_path)
    match change:
        case "text":
            texts = [*TEXTS[:-1], "Another one."]
        case "border":
            texts = [TEXTS[0] + TEXTS[1], *TEXTS[2:]]
        case "rows":
            rows = "lines"
        case "tokenizer":
            other = train_tokenizer(TEXTS, "bpe", 270)
    packed = pack_documents(texts, other, 64, rows, cache=tmp_path)
    assert packed.cached is None
    assert same(packed, pack_documents(texts, other, 64, rows))
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_cached_of_an_encoding_that_fails(tokenizer, tmp_path):
    several_batches = TEXTS * (2 + token_cache.BATCH_TEXTS // len(TEXTS))
    with pytest.raises(TypeError):
        pack_documents([*several_batches, "\ud800"], tokenizer, 64, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_cache_is_an_error(tokenizer, tmp_path):
    pack_documents(TEXTS, tokenizer, 64, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "ids.bin").write_bytes(b"12")
    with pytest.raises(UserError, match="is damaged. Remove that folder"):
        pack_documents(TEXTS, tokenizer, 64, cache=tmp_path)
    (folder / "lengths.npy").unlink()
    with pytest.raises(UserError, match="cannot be read: .* Remove that folder"):
        pack_documents(TEXTS, tokenizer, 64, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Set HF_HOME to a writable folder"):
        pack_documents(TEXTS, tokenizer, 64, cache=tmp_path / "file" / "kept")


def test_a_large_vocabulary_takes_four_bytes_a_token():
    assert token_cache.token_dtype(range(1 << 16)) == np.uint16
    assert token_cache.token_dtype(range((1 << 16) + 1)) == np.int32


def test_packing_counts_as_text():
    counts = PackingCounts(rows=16, block_size=64, texts=9, cut=1, tokens=1010, padding=14)
    assert str(counts) == ("1,010 tokens in 16 rows of 64, 14 places padded (1.4 %), 1 of 9 texts longer than a row")


def test_lines_are_one_running_text_in_full_blocks(tokenizer):
    lines = [f"{text}\n" for text in TEXTS]
    packed = pack_documents(lines, tokenizer, 32, "lines")
    assert {len(row["input_ids"]) for row in packed.rows[:-1]} == {32}
    assert tokenizer.decode(np.concatenate([row["input_ids"] for row in packed.rows])) == "".join(lines)
    assert all((row["labels"][1:] == row["input_ids"][1:]).all() for row in packed.rows)


def test_only_target_and_end_of_an_example_have_labels(tokenizer):
    pairs = [("The dog saw the", "key"), ("The cat saw the", "cup in the barn")]
    packed = pack_examples(pairs, tokenizer, 64)
    (row,) = packed.rows
    labelled = tokenizer.decode(row["input_ids"][row["labels"] != IGNORED])
    assert labelled == " cup in the barn<|endoftext|> key<|endoftext|>"
    assert tokenizer.decode(row["input_ids"]) == (
        "The cat saw the cup in the barn<|endoftext|>The dog saw the key<|endoftext|>"
    )


def test_label_share(tokenizer):
    pairs = [("The dog saw the", "key"), ("The cat saw the cup in the barn and the", "hat")] * 20
    documents, lines = (pack_documents(TEXTS, tokenizer, 32, rows) for rows in ("documents", "lines"))
    for packed in (pack_examples(pairs, tokenizer, 64), documents, lines):
        labels = np.concatenate([row["labels"] for row in packed.rows])
        assert packed.label_share == np.mean(labels != IGNORED)


def test_a_prompt_is_encoded_as_it_is_for_generation(tokenizer):
    prompt, target = "The dog saw the", "key"
    (row,) = pack_examples([(prompt, target)], tokenizer, 64).rows
    ids = encode(tokenizer, [prompt])[0]
    assert row["input_ids"][: len(ids)].tolist() == ids
    assert target_lengths([target], tokenizer) == [len(row["input_ids"]) - len(ids)]


def test_padding_is_a_segment_without_labels(tokenizer):
    rows = pack_examples([("The dog saw", "a key")], tokenizer, 64).rows
    several = pack_documents(TEXTS[:3], tokenizer, 64).rows
    batch = collate([*rows, *several], tokenizer.pad_token_id)
    used = len(rows[0]["input_ids"])
    assert "attention_mask" not in batch
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape
    assert (batch["labels"][0, used:] == IGNORED).all()
    assert batch["position_ids"][0, used:].tolist() == list(range(batch["input_ids"].shape[1] - used))


def test_rows_of_one_segment_need_no_positions_and_have_the_same_loss(tokenizer, tiny):
    (row,) = pack_documents(TEXTS[:1], tokenizer, 64).rows
    rows = [{name: ids[:length] for name, ids in row.items()} for length in (8, 5)]
    batch = collate(rows, tokenizer.pad_token_id)
    assert sorted(batch) == ["input_ids", "labels"] and batch["input_ids"].shape[1] == 8
    model = patch_loss(tiny).eval()
    alone = [
        model(**{name: torch.as_tensor(ids)[None] for name, ids in row.items()}, num_items_in_batch=1).loss
        for row in rows
    ]
    torch.testing.assert_close(model(**batch, num_items_in_batch=1).loss, sum(alone))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_no_gradient_flows_from_one_packed_document_to_another(tokenizer, tiny, attention, batch_size):
    tiny.set_attn_implementation(attention)
    model = patch_loss(tiny)
    packed = pack_documents(TEXTS[:3], tokenizer, 64)
    batch = collate(packed.rows[:1] * batch_size, tokenizer.pad_token_id)
    first_end = int((batch["position_ids"][0] == 0).nonzero()[1])
    embedded = model.transformer.wte(batch.pop("input_ids")).detach().requires_grad_()
    batch["labels"][:, :first_end] = IGNORED  # only the later documents of the row are labelled
    model(inputs_embeds=embedded, **batch).loss.backward()
    assert embedded.grad[:, :first_end].abs().max() == 0
    assert embedded.grad[:, first_end:].abs().max() > 0


def test_a_packed_row_has_the_loss_of_its_documents_alone(tokenizer, tiny):
    model = patch_loss(tiny).eval()
    packed = pack_documents(TEXTS[:3], tokenizer, 64)
    together = model(**collate(packed.rows, tokenizer.pad_token_id), num_items_in_batch=1).loss
    alone = [
        model(input_ids=ids, labels=ids, num_items_in_batch=1).loss
        for document in encode(tokenizer, TEXTS[:3])
        for ids in [torch.tensor([[tokenizer.bos_token_id, *document, tokenizer.eos_token_id]])]
    ]
    torch.testing.assert_close(together, sum(alone))
