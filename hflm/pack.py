"""Documents and task examples -> token ids -> rows of at most `block_size` tokens.

A row holds several whole pieces side by side. Each piece has position ids from 0 and no label on its first token, so
that nothing is learnt, and with the mask that transformers derives from the restarting positions nothing is seen,
across the border of two pieces.
"""

from dataclasses import dataclass

import numpy as np

from hflm.tokenizer import encode

IGNORED = -100  # torch's cross entropy skips this label
ENCODE_AT_ONCE = 1000  # documents a call, so that all cores are used and memory stays bounded


@dataclass(frozen=True)
class Packed:
    """Rows ready for training: {input_ids, labels, position_ids}, each an int64 array (L,)."""

    rows: list
    pieces: int  # documents, parts of long documents, or examples
    tokens: int  # in all rows
    cut: int  # texts that were longer than a row and were split or shortened

    @property
    def tokens_per_row(self):
        return self.tokens / len(self.rows)


def documents(texts, tokenizer):
    """Yield each text as ids: begin of text, its tokens, end of text. Shape (L,), int64."""
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for some in _batches(texts, ENCODE_AT_ONCE):
        for ids in encode(tokenizer, some):
            yield np.array([*first, *ids, tokenizer.eos_token_id], dtype=np.int64)


def pack_documents(texts, tokenizer, block_size, rows="documents"):
    """Pack texts for pretraining: every token but the first of each piece is learnt.

    `rows: documents` keeps documents apart, cutting the ones longer than a block; `rows: lines` takes the texts as one
    running text and cuts it into full blocks. Returns Packed.
    """
    if rows == "lines":
        ids = np.concatenate(
            [np.array(ids, dtype=np.int64) for some in _batches(texts, 64) for ids in encode(tokenizer, some)]
        )
        pieces = [ids[start : start + block_size] for start in range(0, len(ids), block_size)]
        return Packed([_row([(piece, piece)]) for piece in pieces if len(piece) > 1], len(pieces), len(ids), 0)
    pieces, cut = [], 0
    for ids in documents(texts, tokenizer):
        cut += len(ids) > block_size
        pieces += [ids[start : start + block_size] for start in range(0, len(ids), block_size)]
    return _pack([(piece, piece) for piece in pieces if len(piece) > 1], block_size, cut)


def pack_examples(examples, tokenizer, block_size, cut=0):
    """Pack (prompt, target) pairs of texts for fine-tuning: only the target and the end of text are learnt.

    A pair stands as prompt, one space, target, end of text. Prompt and target are encoded apart, so that training sees
    the same border of tokens as generation does. Pairs must fit into `block_size`. Returns Packed.
    """
    prompts = encode(tokenizer, [prompt for prompt, _ in examples])
    targets = encode(tokenizer, [" " + target for _, target in examples])
    pieces = []
    for prompt, target in zip(prompts, targets, strict=True):
        ids = np.array([*prompt, *target, tokenizer.eos_token_id], dtype=np.int64)
        labels = ids.copy()
        labels[: len(prompt)] = IGNORED
        pieces.append((ids, labels))
    return _pack(pieces, block_size, cut)


@dataclass(frozen=True)
class PackedStream:
    """Rows of a stream; `rows` is a torch IterableDataset, so that Trainer and accelerate know what it is."""

    rows: object
    tokens_per_row: float


def pack_stream(texts, tokenizer, block_size):
    """Pack a stream of documents as it is read, ENCODE_AT_ONCE of them at a time. Returns PackedStream."""
    import torch

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            for some in _batches(texts, ENCODE_AT_ONCE):
                yield from pack_documents(some, tokenizer, block_size).rows

    # Best fit over so many documents leaves almost no padding.
    return PackedStream(Rows(), block_size)


def target_lengths(targets, tokenizer):
    """Tokens that each target takes in a row: one space, the target, end of text."""
    return [len(ids) + 1 for ids in encode(tokenizer, [" " + target for target in targets])]


def collate(rows, pad_token_id):
    """Rows -> batch of (B, T) int64 tensors, padded on the right to the longest row.

    Padding is a piece of its own (positions from 0, no labels). There is no attention mask on purpose: with one,
    transformers would not derive the borders of the pieces from the position ids.
    """
    import torch

    length = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), length), pad_token_id),
        "labels": torch.full((len(rows), length), IGNORED),
        "position_ids": torch.zeros((len(rows), length), dtype=torch.int64),
    }
    for number, row in enumerate(rows):
        used = len(row["input_ids"])
        for name, padded in batch.items():
            padded[number, :used] = torch.as_tensor(row[name])
        batch["position_ids"][number, used:] = torch.arange(length - used)
    return batch


def best_fit(lengths, block_size):
    """Group pieces into rows: longest first, each into the fullest row that still has room for it.

    >>> best_fit([3, 9, 6, 1], block_size=10)
    [[1], [2, 0, 3]]
    """
    rows, with_room = [], [[] for _ in range(block_size + 1)]
    rooms = 0  # bit r is set while some row has r tokens of room
    for piece in sorted(range(len(lengths)), key=lambda piece: (-lengths[piece], piece)):
        need = lengths[piece]
        fitting = rooms >> need
        if fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
            rows[row].append(piece)
        else:
            room, row = block_size, len(rows)
            rows.append([piece])
        left = room - need
        with_room[left].append(row)
        rooms |= 1 << left
    return rows


def _pack(pieces, block_size, cut):
    rows = [_row([pieces[piece] for piece in row]) for row in best_fit([len(ids) for ids, _ in pieces], block_size)]
    return Packed(rows, len(pieces), sum(len(ids) for ids, _ in pieces), cut)


def _row(pieces):
    labels = [labels.copy() for _, labels in pieces]
    for piece in labels:
        piece[0] = IGNORED
    return {
        "input_ids": np.concatenate([ids for ids, _ in pieces]),
        "labels": np.concatenate(labels),
        "position_ids": np.concatenate([np.arange(len(ids)) for ids, _ in pieces]),
    }


def _batches(items, size):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
