"""A stream of documents, packed as it is read, that continues after a stop with the very next row.

It is divided among readers (hflm.preprocessing.stream_position). What a reader yields follows from the seed and its
position alone, so the position is all that a checkpoint keeps:

    {"pass": 0, "dataset": {...}, "block": 3, "used": 1000, "row": 17, "texts": 9000, "cut": 12, "rows": 4625}

The documents of a pass come in blocks: `dataset` is the data set's own state before block number `block`, and `used`
counts the documents of the block that are done. With a `shuffle_buffer` a block is that many documents in random order.
From there the next group of documents is encoded and packed, and `row` rows of the group are done; `texts`, `cut` and
`rows` count from the beginning. A resumed run reads at most one block and one group again, whatever the length of the
stream. Every batch carries the positions after it, so what counts is the batch that was trained on, not those that
workers have prepared.
"""

import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hflm.core import DataError, UserError
from hflm.preprocessing import stream_position, token_cache
from hflm.preprocessing.packing import Packed, PackingCounts, Row, pack_ids
from hflm.preprocessing.stream_position import START, Division, Position, StreamProgress

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast

    from hflm.data import DocumentStream

# Rows packed together: the more, the less padding; the last of them is the one that may be half empty.
GROUP_ROWS = 512
Item = tuple[Row | UserError, int, Position]  # a row, its reader, and the position after it


class PackedStream(IterableDataset[Item]):
    """A stream packed as it is read, pass after pass; `Packed` for a corpus without known length. A training.BatchSource.

    `shuffle_buffer` is in documents, None keeps their order. So many `batch_texts` are encoded and `group_rows` packed at
    a time.
    Iterated (in the process, or in each DataLoader worker), it yields the Items of that process or worker.
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
        self.process, self.processes, self.workers = 0, 1, 0
        self.batch_rows = 1
        self.progress: StreamProgress | None = None  # begun or resumed

    @property
    def rows(self) -> "PackedStream":
        return self

    @property
    def tokens_per_row(self) -> int:
        return self.block_size

    @property
    def label_share(self) -> float:
        return 1.0

    def resume(self, process: int, processes: int, workers: int, batch_rows: int, checkpoint: Path | None) -> None:
        """Continue where `checkpoint` left the stream, or start; with `batch_rows` rows of this process at a time."""
        self.process, self.processes, self.workers, self.batch_rows = process, processes, workers, batch_rows
        consumers = processes * max(1, workers)
        if checkpoint is not None:
            self.progress = stream_position.load(checkpoint, process)
        else:
            split = self._split_strategy(consumers)
            self.progress = StreamProgress(Division(processes, max(1, workers), batch_rows, split))
        division = self.progress.division
        if process > 0:
            return
        shared = stream_position.shared_readers(division, processes, max(1, workers), batch_rows)
        if division.split == "examples" and division.readers > 1:
            warnings.warn(
                f"{self.stream.where}: {self._shards()} file(s) for {division.readers} readers (processes x workers): each "
                f"reads all of them and keeps one row in {division.readers}. Split the data into at least "
                f"{division.readers} files to read them once",
                stacklevel=2,
            )
        if shared:
            warnings.warn(
                f"{self.stream.where}: the run began with {division.readers} reader(s) and continues with {consumers} "
                f"(processes x workers): the rows are the same, but {shared} part(s) of the data are read by several of "
                "them. Processes that divide the number it began with read each part once",
                stacklevel=2,
            )

    def save(self, checkpoint: Path) -> None:
        """Write the progress of this process into a checkpoint's folder, one file a process."""
        assert self.progress is not None
        stream_position.save(self.progress, checkpoint, self.process)

    def batches(
        self, batch_size: int, collate: Callable[[Sequence[Row]], dict[str, Tensor]], **options: Any
    ) -> Iterator[dict[str, Tensor]]:
        """Batches of this process, without end. `options` are DataLoader's.

        Accelerate's own loader would read ahead, and split or dispatch what is already split.
        """
        assert self.progress is not None and batch_size == self.batch_rows, "resume comes first"
        loader = DataLoader(
            self,
            batch_size=batch_size,
            collate_fn=partial(_collate_with_positions, collate=collate),
            num_workers=self.workers,
            worker_init_fn=_init_worker,
            generator=Generator(),  # else it draws from the random state that a resumed run has restored
            **options,
        )
        for batch, positions, rows, tokens in loader:
            if isinstance(batch, UserError):
                raise batch
            self.progress.add(positions, rows, tokens, self.processes)
            yield batch

    def counts(self) -> PackingCounts:
        """As `Packed.counts()`, of the rows that all processes have trained on; every process must call it."""
        from accelerate.utils import gather_object

        everyone: list[StreamProgress] = gather_object([self.progress])
        positions = stream_position.merge(progress.positions for progress in everyone).values()
        rows, tokens = sum(each.rows for each in everyone), sum(each.tokens for each in everyone)
        return PackingCounts(
            rows=rows,
            block_size=self.block_size,
            texts=sum(position["texts"] for position in positions),
            cut=sum(position["cut"] for position in positions),
            tokens=tokens,
            padding=rows * self.block_size - tokens,
        )

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        try:
            yield from self._items(worker.id if worker else 0)
        except UserError as error:
            yield error, 0, START  # a worker's exception would reach the user as a traceback

    def _items(self, worker: int) -> Iterator[Item]:
        """The rows of this process's batches number `worker`, `worker` + workers and so on."""
        assert self.progress is not None
        division, done, positions = self.progress.division, self.progress.done, dict(self.progress.positions)
        readers: dict[int, Iterator[tuple[Row, Position]]] = {}
        for batch in count(worker, max(1, self.workers)):
            first = done + (batch * self.processes + self.process) * self.batch_rows
            for row in range(first, first + self.batch_rows):
                reader, before = division.locate(row)
                if reader not in readers:
                    readers[reader] = self.read(reader, division.readers, positions.get(reader, START))
                # Rows in between are those of other processes.
                packed, position = next(each for each in readers[reader] if each[1]["rows"] > before)
                yield packed, reader, position

    def read(self, reader: int, readers: int, position: Position = START) -> Iterator[tuple[Row, Position]]:
        """Yield (row, the position after it) of one of `readers` readers, from `position` on and without end."""
        documents = self._documents(reader, readers, position)
        rows = position["rows"]
        while True:
            group, after = self._next_group(documents)
            if position["row"] == 0:
                totals = {"texts": position["texts"] + group.texts, "cut": position["cut"] + group.cut}
                position = {**position, **totals}
            after = {**after, "texts": position["texts"], "cut": position["cut"]}
            for number in range(position["row"], len(group.rows)):
                last, rows = number + 1 == len(group.rows), rows + 1
                yield group.rows[number], {**(after if last else {**position, "row": number + 1}), "rows": rows}
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
        strategy = self.progress.division.split if self.progress else self._split_strategy(readers)
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


def _collate_with_positions(
    items: Iterable[Item],
    collate: Callable[[Sequence[Row]], dict[str, Tensor]],
) -> tuple[dict[str, Tensor] | UserError, dict[int, Position], int, int]:
    """[(row, reader, position)...] -> (batch, the last position of each reader, rows, tokens)."""
    rows, readers, positions = zip(*items, strict=True)
    if isinstance(rows[-1], UserError):
        return rows[-1], {}, 0, 0
    tokens = sum(len(row["input_ids"]) for row in rows)
    return collate(rows), dict(zip(readers, positions, strict=True)), len(rows), tokens


def _init_worker(_: int) -> None:
    import fsspec.asyn

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive in a forked process
    fsspec.asyn.reset_lock()  # nor does the lock of remote files
