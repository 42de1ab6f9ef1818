"""Documents and task examples -> token ids -> rows of at most `block_size` tokens.

A row holds several whole pieces side by side. Each piece has position ids from 0 and no label on its first token, so
that nothing is learnt, and with the mask that transformers derives from the restarting positions nothing is seen,
across the border of two pieces. No token is lost: a text that is longer than a row is split into pieces.

The ids of all texts lie in one array of 2 or 4 bytes a token; a row is built from it when it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from hflm.preprocessing import token_cache as encoding
from hflm.preprocessing.tokenizer import encode

IGNORED = -100  # torch's cross entropy skips this label
MOST_PADDING = 0.005  # as a share of the tokens; beyond it slower ways to pack are tried


@dataclass(frozen=True, eq=False)
class Rows(Sequence):
    """Packed rows, each built when it is asked for: {input_ids, labels, position_ids}, int64 arrays (L,).

    `ids` holds the tokens of all texts; row r has the pieces `bounds[r]` to `bounds[r + 1]`, and piece p the tokens
    `ids[starts[p] : starts[p] + lengths[p]]`, of which the first `unlearnt[p]` have no label.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    unlearnt: np.ndarray
    bounds: np.ndarray

    def __len__(self):
        return len(self.bounds) - 1

    def __getitem__(self, row):
        row = range(len(self))[row]
        if isinstance(row, range):
            return [self[each] for each in row]
        pieces = slice(self.bounds[row], self.bounds[row + 1])
        starts, lengths = self.starts[pieces], self.lengths[pieces]
        ids = np.concatenate([self.ids[start : start + length] for start, length in zip(starts, lengths, strict=True)])
        ids = ids.astype(np.int64)
        position_ids = np.concatenate([np.arange(length) for length in lengths])
        labels = np.where(position_ids < np.repeat(self.unlearnt[pieces], lengths), IGNORED, ids)
        return {"input_ids": ids, "labels": labels, "position_ids": position_ids}


@dataclass(frozen=True)
class Packed:
    """Rows ready for training, and what packing did to the texts."""

    rows: Rows
    block_size: int
    texts: int  # documents or examples
    cut: int  # texts that were longer than a row and were split or shortened
    tokens: int  # in all rows
    kept: Path | None = None  # where the ids were found, if they were

    @property
    def tokens_per_row(self):
        return self.tokens / len(self.rows)

    def counts(self):
        """What a run's record tells of its rows; `padding` is the room in them that no token takes."""
        return {
            "rows": len(self.rows),
            "block_size": self.block_size,
            "texts": self.texts,
            "cut": self.cut,
            "tokens": self.tokens,
            "padding": len(self.rows) * self.block_size - self.tokens,
        }


def told(counts):
    """`Packed.counts()` in words.

    '1,010 tokens in 16 rows of 64, 14 places padded (1.4 %), 1 of 9 texts longer than a row'
    """
    room = counts["rows"] * counts["block_size"]
    share = f"{counts['padding'] / room:.1%}".replace("%", " %")
    return (
        f"{counts['tokens']:,} tokens in {counts['rows']:,} rows of {counts['block_size']}, "
        f"{counts['padding']:,} places padded ({share}), {counts['cut']:,} of {counts['texts']:,} texts longer than a row"
    )


def pack_documents(texts, tokenizer, block_size, rows="documents", keep=None):
    """Pack a list of texts for pretraining: every token but the first of each piece is learnt.

    `rows: documents` keeps documents apart, each with begin and end of text; `rows: lines` takes the texts as one
    running text and cuts it into full blocks. `keep` is a folder where the ids of earlier texts are found and these
    are kept. Returns Packed. Raises UserError when `keep` cannot be written.
    """
    kept = None
    if keep is None:
        ids, lengths = map(np.concatenate, zip(*encoding.encoded(texts, tokenizer, rows), strict=True))
    else:
        ids, lengths, kept = encoding.kept(texts, tokenizer, rows, keep)
    if rows == "lines":
        starts, lengths = _pieces(np.array([lengths.sum()]), block_size)
        rows = Rows(ids, starts, lengths, np.ones_like(starts), np.arange(len(starts) + 1))
        return Packed(rows, block_size, 1, 0, int(lengths.sum()), kept)
    return pack_ids(ids, lengths, block_size, kept)


def pack_ids(ids, lengths, block_size, kept=None, in_order=False):
    """Pack documents that are encoded: `ids` one after the other, and the length of each. Returns Packed.

    Best fit leaves the rows with the longest documents first. `in_order` is for rows that nobody shuffles later: each
    stands where its first document stood.
    """
    starts, pieces = _pieces(lengths, block_size)
    cut = int((lengths > block_size).sum())
    return _pack(ids, starts, pieces, np.ones_like(starts), block_size, len(lengths), cut, kept, in_order)


def pack_examples(examples, tokenizer, block_size, cut=0):
    """Pack (prompt, target) pairs of texts for fine-tuning: only the target and the end of text are learnt.

    A pair stands as prompt, one space, target, end of text. Prompt and target are encoded apart, so that training sees
    the same border of tokens as generation does. Pairs must fit into `block_size`. Returns Packed.
    """
    prompts = encode(tokenizer, [prompt for prompt, _ in examples])
    targets = encode(tokenizer, [" " + target for _, target in examples])
    whole = [[*prompt, *target, tokenizer.eos_token_id] for prompt, target in zip(prompts, targets, strict=True)]
    lengths = np.array([len(ids) for ids in whole])
    ids = np.fromiter(chain.from_iterable(whole), encoding.ids_type(tokenizer), lengths.sum())
    unlearnt = np.array([max(1, len(prompt)) for prompt in prompts])
    return _pack(ids, lengths.cumsum() - lengths, lengths, unlearnt, block_size, len(examples), cut)


def target_lengths(targets, tokenizer):
    """Tokens that each target takes in a row: one space, the target, end of text."""
    return [len(ids) + 1 for ids in encode(tokenizer, [" " + target for target in targets])]


def collate(rows, pad_token_id):
    """Rows -> batch of (B, T) int64 tensors, padded on the right to the longest row.

    Padding is a piece of its own (positions from 0, no labels). There is no attention mask on purpose: with one,
    transformers would not derive the borders of the pieces from the position ids. Where each row is one piece there are
    no position ids either: causal attention alone keeps the padding behind it unseen, without a mask, which
    torch.compile would build for any position ids, and without which a GPU has its fastest attention.
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
    if all(row["position_ids"][-1] == len(row["position_ids"]) - 1 for row in rows):
        del batch["position_ids"]
    return batch


def best_fit(lengths, block_size):
    """Group pieces into rows: longest first, each into the fullest row that still has room for it.

    >>> best_fit([3, 9, 6, 1], block_size=10)
    [[1], [2, 0, 3]]
    """
    rows, with_room = [], [[] for _ in range(block_size + 1)]
    rooms = 0  # bit r is set while some row has r tokens of room
    longest_first = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    lengths = list(map(int, lengths))
    for piece in longest_first:
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


def exact_fit(lengths, block_size, common_first=False):
    """Group pieces into rows: the longest one that is left, with those of the others that fill its row best.

    Slower than best fit, and better where the pieces are all about as long. The others are found by subset sums, of
    the longest of them or, with `common_first`, of the commonest lengths.

    >>> exact_fit([5, 5, 4, 4, 3, 3], block_size=12)
    [[0, 4, 2], [1, 5, 3]]
    """
    left = {}
    for piece, length in enumerate(lengths):
        left.setdefault(int(length), []).append(piece)
    sizes, rows = sorted(left, reverse=True), []
    for pieces in left.values():
        pieces.reverse()  # the first one is taken first
    while sizes:
        row, room = [left[sizes[0]].pop()], block_size - sizes[0]
        fitting, sums = [], [1]  # bit s of the last of `sums` is set when some of the fitting ones sum to s
        others = [size for size in sizes if size <= room and left[size]]
        if common_first:
            others.sort(key=lambda size: -len(left[size]))
        for size in others:
            reached = sums[-1]
            for _ in range(min(len(left[size]), room // size)):
                reached |= reached << size & (2 << room) - 1
            fitting.append(size)
            sums.append(reached)
            if reached >> room:
                break
        total = sums[-1].bit_length() - 1
        for size, without in zip(reversed(fitting), reversed(sums[:-1]), strict=True):
            while not without >> total & 1:
                row.append(left[size].pop())
                total -= size
        rows.append(row)
        sizes = [size for size in sizes if left[size]]
    return rows


def _pieces(lengths, block_size):
    """(starts, lengths) of the pieces of texts that lie one after the other: full blocks, then what is left.

    >>> _pieces(np.array([3, 7, 9]), block_size=4)
    (array([ 0,  3,  7, 10, 14, 17]), array([3, 4, 3, 4, 3, 2]))
    """
    counts = -(-lengths // block_size)
    number = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)  # of the piece in its text
    starts = np.repeat(lengths.cumsum() - lengths, counts) + number * block_size
    pieces = np.minimum(block_size, np.repeat(lengths, counts) - number * block_size)
    # One token alone has nothing to learn from: it takes another one from the block before it.
    alone = np.flatnonzero((pieces == 1) & (number > 0))
    pieces[alone - 1] -= 1
    starts[alone] -= 1
    pieces[alone] += 1
    learnt = pieces > 1  # a text of one token, its end
    return starts[learnt], pieces[learnt]


def _pack(ids, starts, lengths, unlearnt, block_size, texts, cut, kept=None, in_order=False):
    rows = best_fit(lengths, block_size)
    if len(rows) * block_size > lengths.sum() * (1 + MOST_PADDING) + block_size:
        both = (exact_fit(lengths, block_size, common_first) for common_first in (False, True))
        rows = min(rows, *both, key=len)
    if in_order:
        rows = sorted(rows, key=min)
    order = np.fromiter(chain.from_iterable(rows), np.int64, len(lengths))
    bounds = np.cumsum([0, *map(len, rows)])
    rows = Rows(ids, starts[order], lengths[order], unlearnt[order], bounds)
    return Packed(rows, block_size, texts, cut, int(lengths.sum()), kept)
