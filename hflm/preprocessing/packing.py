"""Documents and task examples -> token ids -> rows of at most `block_size` tokens.

A row holds several segments one after the other. Each segment has position ids from 0 and no label on its first token,
so that no token is predicted from another segment and, with the mask that transformers derives from the restarting
positions, none attends to one. No token is lost: a text that is longer than a row is split into segments.

The ids of all texts are one array of 2 or 4 bytes a token; a row is built from it when it is indexed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, overload

import numpy as np

from hflm.preprocessing import token_cache
from hflm.preprocessing._bin_packing import best_fit, subset_sum_fit
from hflm.preprocessing.conversations import Conversation
from hflm.preprocessing.tokenizer import encode, encode_prompts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

IGNORED = -100  # the label that torch's cross entropy skips
MAX_PADDING = 0.005  # as a fraction of the tokens; beyond it the slower search is tried


class Row(TypedDict):
    """One packed row: three int64 arrays (L,)."""

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray


@dataclass(frozen=True, eq=False)
class PackedRows(Sequence[Row]):
    """Packed rows, each built when it is indexed.

    `ids` holds the tokens of all texts; row r consists of segments `bounds[r]` to `bounds[r + 1]`, and segment s of the
    tokens `ids[starts[s] : starts[s] + lengths[s]]`, of which the first `ignored_prefix[s]` have no label. `labelled`
    says of each of `ids` whether it may have one; empty, all may.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    ignored_prefix: np.ndarray
    bounds: np.ndarray
    labelled: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def label_share(self) -> float:
        """The labels as a fraction of the tokens."""
        first = self.starts + np.minimum(self.ignored_prefix, self.lengths)
        labels = self.starts + self.lengths - first
        if len(self.labelled):
            before = np.concatenate([[0], np.cumsum(self.labelled)])
            labels = before[self.starts + self.lengths] - before[first]
        return int(labels.sum()) / int(self.lengths.sum())

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        row = range(len(self))[index]
        if isinstance(row, range):
            return [self[each] for each in row]
        segments = slice(self.bounds[row], self.bounds[row + 1])
        starts, lengths = self.starts[segments], self.lengths[segments]
        places = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        ids = np.concatenate([self.ids[place] for place in places]).astype(np.int64)
        position_ids = np.concatenate([np.arange(length) for length in lengths])
        ignored = position_ids < np.repeat(self.ignored_prefix[segments], lengths)
        if len(self.labelled):
            ignored |= ~np.concatenate([self.labelled[place] for place in places])
        labels = np.where(ignored, IGNORED, ids)
        return {"input_ids": ids, "labels": labels, "position_ids": position_ids}


@dataclass(frozen=True)
class PackingCounts:
    """What packing did to the texts; `padding` counts the places of rows that hold no token.

    >>> str(PackingCounts(rows=16, block_size=64, texts=9, cut=1, tokens=1010, padding=14))
    '1,010 tokens in 16 rows of 64, 14 places padded (1.4 %), 1 of 9 texts longer than a row'
    """

    rows: int
    block_size: int
    texts: int  # documents or examples
    cut: int  # texts longer than a row, which were split or shortened
    tokens: int  # in all rows
    padding: int

    def __str__(self) -> str:
        padded = 100 * self.padding / (self.rows * self.block_size)
        return (
            f"{self.tokens:,} tokens in {self.rows:,} rows of {self.block_size}, {self.padding:,} places padded "
            f"({padded:.1f} %), {self.cut:,} of {self.texts:,} texts longer than a row"
        )


@dataclass(frozen=True)
class Packed:
    """Rows ready for training. `cached` is the folder whose token ids were reused, None where texts were encoded.

    `bytes` is the UTF-8 length of what the labelled tokens spell, where it was counted.
    """

    rows: PackedRows
    block_size: int
    texts: int
    cut: int
    tokens: int
    cached: Path | None = None
    bytes: int | None = None

    @property
    def tokens_per_row(self) -> float:
        return self.tokens / len(self.rows)

    @property
    def label_share(self) -> float:
        return self.rows.label_share

    def counts(self) -> PackingCounts:
        rows = len(self.rows)
        padding = rows * self.block_size - self.tokens
        return PackingCounts(rows, self.block_size, self.texts, self.cut, self.tokens, padding)


def pack_documents(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    block_size: int,
    rows: Literal["documents", "lines"] = "documents",
    cache: Path | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Packed:
    """Pack texts for pretraining: every token but the first of each segment has a label.

    `rows="documents"` keeps documents apart, each with begin and end of text; `rows="lines"` takes the texts as one
    running text and cuts it into full blocks. `cache` is a folder in which token ids are kept by content and found
    again; `on_progress` receives the part of the texts that is encoded. Raises UserError when `cache` cannot be written.
    """
    cached = None
    if cache is None:
        ids, lengths = map(np.concatenate, zip(*token_cache.encode_in_batches(texts, tokenizer, rows), strict=True))
    else:
        ids, lengths, cached = token_cache.encode_cached(texts, tokenizer, rows, cache, on_progress)
    if rows == "lines":
        starts, lengths = split_into_segments(np.array([lengths.sum()]), block_size)
        blocks = PackedRows(ids, starts, lengths, np.ones_like(starts), np.arange(len(starts) + 1))
        return Packed(blocks, block_size, 1, 0, int(lengths.sum()), cached)
    return pack_ids(ids, lengths, block_size, cached)


def pack_ids(
    ids: np.ndarray, lengths: np.ndarray, block_size: int, cached: Path | None = None, in_order: bool = False
) -> Packed:
    """Pack encoded documents: `ids` one after the other, and the length of each.

    Best fit puts the rows with the longest documents first. `in_order` is for rows that nobody shuffles later: each is
    placed by its first document.
    """
    starts, segments = split_into_segments(lengths, block_size)
    cut = int((lengths > block_size).sum())
    return _pack(ids, starts, segments, np.ones_like(starts), block_size, len(lengths), cut, cached, in_order)


def count_bytes(packed: Packed, texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> Packed:
    """The same, with the UTF-8 bytes of the texts; those of each segment's first token, which has no label, left out."""
    first = packed.rows.ids[packed.rows.starts].tolist()
    unlabelled = tokenizer.batch_decode([[token] for token in first], skip_special_tokens=True)
    size = sum(len(text.encode()) for text in texts) - sum(len(text.encode()) for text in unlabelled)
    return dataclasses.replace(packed, bytes=size)


def pack_examples(
    examples: Sequence[tuple[str, str]],
    tokenizer: "PreTrainedTokenizerFast",
    block_size: int,
    cut: int = 0,
    conversations: Sequence[Conversation] = (),
) -> Packed:
    """Pack (prompt, target) pairs for fine-tuning: only the target and the end of text have labels.

    A segment is prompt, one space, target, end of text. Prompt and target are encoded apart, so that training sees the
    same token boundary as generation. Of `conversations` the turns of the assistant have labels. Pairs and conversations
    must fit into `block_size`; `cut` is how many were shortened before.
    """
    prompts = encode_prompts(tokenizer, [prompt for prompt, _ in examples])
    targets = encode(tokenizer, [" " + target for _, target in examples])
    sequences = [[*prompt, *target, tokenizer.eos_token_id] for prompt, target in zip(prompts, targets, strict=True)]
    labelled = np.zeros(0, bool)
    if conversations:
        pairs = np.ones(sum(map(len, sequences)), bool)  # their prefixes tell which of these have none
        labelled = np.concatenate([pairs, *(each.labelled() for each in conversations)])
    sequences += [each.ids for each in conversations]
    lengths = np.array([len(ids) for ids in sequences])
    ids = np.fromiter(chain.from_iterable(sequences), token_cache.token_dtype(tokenizer), lengths.sum())
    ignored_prefix = np.array([len(prompt) for prompt in prompts] + [1] * len(conversations))
    starts, texts = lengths.cumsum() - lengths, len(sequences)
    return _pack(ids, starts, lengths, ignored_prefix, block_size, texts, cut, labelled=labelled)


def target_lengths(targets: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Tokens that each target takes in a row: one space, the target, end of text."""
    return [len(ids) + 1 for ids in encode(tokenizer, [" " + target for target in targets])]


def collate(rows: Sequence[Row], pad_token_id: int) -> "dict[str, Tensor]":
    """Rows -> batch of (B, T) int64 tensors, padded on the right to the longest row.

    Padding is a segment of its own (positions from 0, no labels). The batch has no attention mask on purpose: with one,
    transformers would not derive the boundaries of segments from the position ids. Where each row is one segment there
    are no position ids either: causal attention alone hides the padding behind it, without a mask, which torch.compile
    would build for any position ids, and without which a GPU uses its fastest attention.
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


def split_into_segments(lengths: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of the segments of texts that follow each other: full blocks, then the remainder.

    >>> split_into_segments(np.array([3, 7, 9]), block_size=4)
    (array([ 0,  3,  7, 10, 14, 17]), array([3, 4, 3, 4, 3, 2]))
    """
    counts = -(-lengths // block_size)
    number = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)  # of the segment in its text
    starts = np.repeat(lengths.cumsum() - lengths, counts) + number * block_size
    segments = np.minimum(block_size, np.repeat(lengths, counts) - number * block_size)
    # A single token has nothing to be predicted from: its segment takes another one from the block before it.
    single = np.flatnonzero((segments == 1) & (number > 0))
    segments[single - 1] -= 1
    starts[single] -= 1
    segments[single] += 1
    usable = segments > 1  # a text of one token, its end, is dropped
    return starts[usable], segments[usable]


def _pack(
    ids: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    ignored_prefix: np.ndarray,
    block_size: int,
    texts: int,
    cut: int,
    cached: Path | None = None,
    in_order: bool = False,
    labelled: np.ndarray | None = None,
) -> Packed:
    rows = best_fit(lengths, block_size)
    if len(rows) * block_size > lengths.sum() * (1 + MAX_PADDING) + block_size:
        searched = (subset_sum_fit(lengths, block_size, common_first) for common_first in (False, True))
        rows = min(rows, *searched, key=len)
    if in_order:
        rows = sorted(rows, key=min)
    order = np.fromiter(chain.from_iterable(rows), np.int64, len(lengths))
    bounds = np.cumsum([0, *map(len, rows)])
    more = {} if labelled is None else {"labelled": labelled}
    packed = PackedRows(ids, starts[order], lengths[order], ignored_prefix[order], bounds, **more)
    return Packed(packed, block_size, texts, cut, int(lengths.sum()), cached)
