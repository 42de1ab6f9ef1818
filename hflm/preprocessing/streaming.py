"""A stream of documents, packed as it is read, that continues after a stop with the very next row.

Each process, and each DataLoader worker in it, is one reader of its own part of the stream. What it reads follows from
the seed and its position alone, so the position is all that a checkpoint keeps:

    {"pass": 0, "dataset": {...}, "block": 3, "used": 1000, "row": 17, "texts": 9000, "cut": 12}

The documents of a pass come in blocks: `dataset` is the data set's own state before block number `block`, and `used`
counts the documents of the block that are done. With a `shuffle_buffer` a block is that many documents in random order.
From there the next group of documents is encoded and packed, and `row` rows of the group are done. A resumed run reads
at most one block and one group again, whatever the length of the stream. Every batch carries the position after it, so
what counts is the batch that was trained on, not those that workers have prepared.
"""

import json
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hflm.core import DataError, UserError, atomic_write_text
from hflm.preprocessing import token_cache
from hflm.preprocessing.packing import Packed, PackingCounts, Row, pack_ids

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast

    from hflm.data import DocumentStream

Position = dict[str, Any]  # as above, written to JSON
START: Position = {"pass": 0, "dataset": None, "block": 0, "used": 0, "row": 0, "texts": 0, "cut": 0}
# Rows packed together: the more, the less padding; the last of them is the one that may be half empty.
GROUP_ROWS = 512


@dataclass
class StreamProgress:
    """What one process has trained on, and the position of each of its readers: `stream-N.json` of a checkpoint.

    `split` is how the stream is divided among readers: a strategy of datasets' split_dataset_by_node.
    """

    process: int
    processes: int
    workers: int
    places: list[Position]
    batches: int = 0
    rows: int = 0
    tokens: int = 0
    split: Literal["auto", "shards", "examples"] | None = None

    @property
    def readers(self) -> int:
        """Readers of all processes."""
        return self.processes * len(self.places)

    def layout(self) -> str:
        return f"{self.processes} process(es) with dataloader_num_workers {self.workers}"


class PackedStream(IterableDataset[tuple[Row | UserError, Position | None]]):
    """A stream packed as it is read, pass after pass; `Packed` for a corpus without known length. A training.BatchSource.

    `shuffle_buffer` is in documents, None keeps their order. So many `batch_texts` are encoded and `group_rows` packed at
    a time.
    Iterated (in the process, or in each DataLoader worker), it yields (row, the position after it) of one reader.
    """

    def __init__(
        self,
        stream: "DocumentStream",
        tokenizer: "PreTrainedTokenizerFast",
        block_size: int,
        shuffle_buffer: int | None = None,
        seed: int = 0,
        group_rows: int = GROUP_ROWS,
        batch_texts: int = token_cache.BATCH_TEXTS,
    ) -> None:
        self.stream, self.tokenizer, self.block_size = stream, tokenizer, block_size
        self.shuffle_buffer, self.seed = shuffle_buffer, seed
        self.group_rows, self.batch_texts = group_rows, batch_texts
        self.progress = StreamProgress(0, 1, 0, [START])

    @property
    def rows(self) -> "PackedStream":
        return self

    @property
    def tokens_per_row(self) -> int:
        return self.block_size

    def resume(self, process: int, processes: int, workers: int, checkpoint: Path | None) -> None:
        """Continue where `checkpoint` left this process, or start.

        Raises UserError when the checkpoint was written by another number of processes or workers: the parts of the
        readers would not fit together, so that some documents would be read twice and some never.
        """
        self.progress = StreamProgress(process, processes, workers, [START] * max(1, workers))
        self.progress.split = self._split_strategy(self.progress.readers)
        if self.progress.split == "examples" and process == 0 and self.progress.readers > 1:
            shards, readers = self._shards(), self.progress.readers
            warnings.warn(
                f"{self.stream.where}: {shards} file(s) for {readers} readers (processes x workers): each reads all of "
                f"them and keeps one row in {readers}. Split the data into at least {readers} files to read them once",
                stacklevel=2,
            )
        if checkpoint is not None:
            _require_same_layout(checkpoint, self.progress)
            self.progress = _load(checkpoint, process)

    def save(self, checkpoint: Path) -> None:
        """Write the position of this process into a checkpoint's folder, one file a process."""
        atomic_write_text(_file(checkpoint, self.progress.process), json.dumps(asdict(self.progress)) + "\n")

    def batches(
        self, batch_size: int, collate: Callable[[Sequence[Row]], dict[str, Tensor]], **options: Any
    ) -> Iterator[dict[str, Tensor]]:
        """Batches of this process, without end. `options` are DataLoader's.

        Accelerate's own loader would read ahead, and split or dispatch what is already split.
        """
        loader = DataLoader(
            self,
            batch_size=batch_size,
            collate_fn=partial(_collate_with_position, collate=collate),
            num_workers=self.progress.workers,
            worker_init_fn=_init_worker,
            generator=Generator(),  # else it draws from the random state that a resumed run has restored
            **options,
        )
        progress = self.progress
        for batch, position, rows, tokens in loader:
            if isinstance(batch, UserError):
                raise batch
            progress.places[progress.batches % len(progress.places)] = position
            progress.batches += 1
            progress.rows += rows
            progress.tokens += tokens
            yield batch

    def counts(self) -> PackingCounts:
        """As `Packed.counts()`, of the rows that all processes have trained on; every process must call it."""
        from accelerate.utils import gather_object

        everyone: list[StreamProgress] = gather_object([self.progress])
        positions = [position for progress in everyone for position in progress.places]
        rows, tokens = sum(each.rows for each in everyone), sum(each.tokens for each in everyone)
        return PackingCounts(
            rows=rows,
            block_size=self.block_size,
            texts=sum(position["texts"] for position in positions),
            cut=sum(position["cut"] for position in positions),
            tokens=tokens,
            padding=rows * self.block_size - tokens,
        )

    def __iter__(self) -> Iterator[tuple[Row | UserError, Position | None]]:
        progress, worker = self.progress, get_worker_info()
        # A DataLoader asks its workers in turn, beginning with the first: that is the reader whose turn it was.
        role = ((worker.id if worker else 0) + progress.batches) % len(progress.places)
        reader = progress.process * len(progress.places) + role
        try:
            yield from self.read(reader, progress.readers, progress.places[role])
        except UserError as error:
            yield error, None  # a worker's exception would reach the user as a traceback

    def read(self, reader: int, readers: int, position: Position = START) -> Iterator[tuple[Row, Position]]:
        """Yield (row, the position after it) of one of `readers` readers, from `position` on and without end."""
        documents = self._documents(reader, readers, position)
        while True:
            group, after = self._next_group(documents)
            if position["row"] == 0:
                totals = {"texts": position["texts"] + group.texts, "cut": position["cut"] + group.cut}
                position = {**position, **totals}
            after = {**after, "texts": position["texts"], "cut": position["cut"]}
            for number in range(position["row"], len(group.rows)):
                last = number + 1 == len(group.rows)
                yield group.rows[number], after if last else {**position, "row": number + 1}
            position = after

    def _next_group(self, documents: Iterator[tuple[list[str], Position]]) -> tuple[Packed, Position]:
        """The next documents that fill `group_rows` rows, packed, and the position after them."""
        ids, lengths, size, after = [], [], 0, START
        while size < self.group_rows * self.block_size:
            texts, after = next(documents)
            for of_batch, lengths_of_batch in token_cache.encode_in_batches(texts, self.tokenizer):
                ids.append(of_batch)
                lengths.append(lengths_of_batch)
                size += len(of_batch)
        return pack_ids(np.concatenate(ids), np.concatenate(lengths), self.block_size, in_order=True), after

    def _documents(self, reader: int, readers: int, position: Position) -> Iterator[tuple[list[str], Position]]:
        """Yield (some documents, the position after them), pass after pass. Raises DataError without any document."""
        dataset = self._part(reader, readers)
        number, used = position["pass"], position["used"]
        state, block = position["dataset"], position["block"]
        while True:
            if self.shuffle_buffer:
                dataset.set_epoch(number)  # data sets shuffle their files too
            dataset.load_state_dict(state)  # type: ignore[arg-type]  # None is the beginning
            for documents in self._blocks(dataset):
                if self.shuffle_buffer:
                    random.Random(f"{self.seed} {reader} {number} {block}").shuffle(documents)
                for batch in token_cache.batches(documents[used:], self.batch_texts):
                    used += len(batch)
                    yield batch, {**START, "pass": number, "dataset": state, "block": block, "used": used}
                state, block, used = dataset.state_dict(), block + 1, 0
            if block == 0:
                whose = (
                    "" if readers == 1 else f" for reader {reader + 1} of {readers}. Start fewer processes or workers"
                )
                raise DataError(f"{self.stream.where}: no text in it{whose}")
            number, state, block, used = number + 1, None, 0, 0

    def _part(self, reader: int, readers: int) -> "datasets.IterableDataset":
        from datasets.distributed import split_dataset_by_node

        dataset: Any = self.stream.dataset
        if readers == 1:
            return dataset
        strategy = self.progress.split or self._split_strategy(readers)
        return split_dataset_by_node(dataset, reader, readers, strategy=strategy)

    def _split_strategy(self, readers: int) -> Literal["shards", "examples"]:
        """Whole files for each reader or, where there are fewer files than readers, one row in `readers`.

        The library's own choice takes rows wherever the files are no multiple of the readers: each would read all.
        """
        shards = self._shards()
        if shards >= readers:
            return "shards"
        return "examples"

    def _shards(self) -> int:
        dataset: Any = self.stream.dataset
        return dataset.num_shards

    def _blocks(self, dataset: "datasets.IterableDataset") -> Iterator[list[str]]:
        texts = iter(replace(self.stream, dataset=_PlainRows(dataset)))
        if self.shuffle_buffer is None:
            return token_cache.batches(texts, self.batch_texts)
        return iter(lambda: list(islice(texts, self.shuffle_buffer)), [])


class _PlainRows:
    """The rows of a datasets.IterableDataset, which alone would divide its files among the DataLoader's workers."""

    def __init__(self, dataset: "datasets.IterableDataset") -> None:
        self.dataset, self.column_names = dataset, dataset.column_names

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.dataset.iter(batch_size=1):
            yield {key: value[0] for key, value in batch.items()}


def _collate_with_position(
    items: Iterable[tuple[Row | UserError, Position | None]],
    collate: Callable[[Sequence[Row]], dict[str, Tensor]],
) -> tuple[dict[str, Tensor] | UserError, Position | None, int, int]:
    """[(row, position)...] -> (batch, the last position, rows, tokens)."""
    rows, positions = zip(*items, strict=True)
    if isinstance(rows[-1], UserError):
        return rows[-1], None, 0, 0
    return collate(rows), positions[-1], len(rows), sum(len(row["input_ids"]) for row in rows)


def _init_worker(_: int) -> None:
    import fsspec.asyn

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive in a forked process
    fsspec.asyn.reset_lock()  # nor does the lock of remote files


def _file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"stream-{process}.json"


def _load(checkpoint: Path, process: int) -> StreamProgress:
    # Checkpoints of earlier versions do not name their split, which was always "auto".
    return StreamProgress(**{"split": "auto", **json.loads(_file(checkpoint, process).read_text())})


def _require_same_layout(checkpoint: Path, now: StreamProgress) -> None:
    try:
        saved = _load(checkpoint, 0)
    except FileNotFoundError:
        raise UserError(
            f"{checkpoint}: it has no position in the stream. Start again with --fresh, which sets the earlier run aside"
        ) from None
    if saved.layout() != now.layout():
        raise UserError(
            f"{checkpoint}: it was written by {saved.layout()}, this run has {now.layout()}. The stream was divided among "
            "them, so it continues only with as many. Start as many, or start again with --fresh"
        )
