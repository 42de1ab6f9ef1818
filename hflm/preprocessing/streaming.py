"""A stream of documents, packed as it is read, that goes on after a stop with the very next row.

Each process, and each DataLoader worker in it, is one reader of its own share of the stream. What it reads follows
from the seed and from the place where it stands alone, so that place is all that a checkpoint keeps:

    {"pass": 0, "dataset": {...}, "block": 3, "used": 1000, "row": 17, "texts": 9000, "cut": 12}

The documents of a pass come in blocks: `dataset` is the data set's own state before block number `block`, and `used`
counts the documents of the block that lie behind. With a `shuffle_buffer` a block is that many documents in random
order. From there the next group of documents is encoded and packed, and `row` rows of the group lie behind. A resumed
run reads at most one block and one group again, whatever the length of the stream. Every batch carries the place after
it, so what counts is the batch that was trained on, not those that workers have prepared.
"""

import json
import os
import random
import warnings
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hflm.core import DataError, UserError, atomic_write_text
from hflm.preprocessing import packing as pack
from hflm.preprocessing import token_cache as encoding

BEGIN = {"pass": 0, "dataset": None, "block": 0, "used": 0, "row": 0, "texts": 0, "cut": 0}
# Rows packed together: the more, the less padding; the last of them is the one that may be half empty.
ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class PackedStream(IterableDataset):
    """Rows of a DocumentStream, as `pack.Packed` has those of a list; `shuffle_buffer` is in documents, None keeps order.

    `taken` adds up {"batches", "rows", "tokens"} of this process, and holds the place of each of its readers. Iterated
    (in the process, or in each DataLoader worker), it yields (row, the place after it) of one reader.
    """

    stream: object
    tokenizer: object
    block_size: int
    shuffle_buffer: int | None
    seed: int
    taken: dict

    @property
    def rows(self):
        return self

    @property
    def tokens_per_row(self):
        return self.block_size

    def __iter__(self):
        taken, worker = self.taken, get_worker_info()
        # A DataLoader asks its workers in turn, beginning with the first: that is the reader whose turn it was.
        role = ((worker.id if worker else 0) + taken["batches"]) % len(taken["places"])
        reader = taken["process"] * len(taken["places"]) + role
        readers = taken["processes"] * len(taken["places"])
        try:
            yield from rows(self, reader, readers, taken["places"][role])
        except UserError as error:
            yield error, None  # a worker's exception would reach the user as a traceback

    def counts(self):
        """As `Packed.counts()`, of the rows that all processes have trained on; every process must ask."""
        from accelerate.utils import gather_object

        everyone = gather_object([self.taken])
        places = [place for taken in everyone for place in taken["places"]]
        rows, tokens = (sum(taken[key] for taken in everyone) for key in ("rows", "tokens"))
        return {
            "rows": rows,
            "block_size": self.block_size,
            "texts": sum(place["texts"] for place in places),
            "cut": sum(place["cut"] for place in places),
            "tokens": tokens,
            "padding": rows * self.block_size - tokens,
        }


def pack_stream(stream, tokenizer, block_size, shuffle_buffer=None, seed=0):
    """Pack a DocumentStream as it is read, again and again, without end. Returns PackedStream."""
    return PackedStream(stream, tokenizer, block_size, shuffle_buffer, seed, {})


def feed(trainer, packed, checkpoint):
    """Make `trainer` read a PackedStream, from where `checkpoint` (a folder, or None) left it.

    Raises UserError when the checkpoint was written by another number of processes or workers: the shares of the
    readers would not fit together, so that some documents would be read twice and some never.
    """
    args = trainer.args
    asked = args.accelerator_config
    if asked.dispatch_batches is not None or asked.split_batches:
        warnings.warn(
            "args.accelerator_config: dispatch_batches and split_batches are ignored, each process reads its own "
            "share of a stream",
            stacklevel=3,
        )
    taken = {"process": args.process_index, "processes": args.world_size, "workers": args.dataloader_num_workers}
    readers = max(1, taken["workers"])
    taken |= {"batches": 0, "rows": 0, "tokens": 0, "places": [BEGIN] * readers}
    if checkpoint is not None:
        _check(Path(checkpoint), taken)
        taken = json.loads(_file(checkpoint, taken["process"]).read_text())
    args.ignore_data_skip = True  # Trainer would read everything from the beginning, and throw it away

    def loader():
        packed.taken.clear()
        packed.taken.update(taken, places=list(taken["places"]))
        return Loader(packed, trainer)

    trainer.get_train_dataloader = loader


class Loader:
    """Batches of one process, without end. Accelerate's own would read ahead, and split or dispatch what is split."""

    def __init__(self, packed, trainer):
        self.trainer, self.taken = trainer, packed.taken
        args = trainer.args
        self.batches = DataLoader(
            packed,
            batch_size=trainer._train_batch_size,
            collate_fn=partial(_together, collate=trainer.data_collator),
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory,
            worker_init_fn=_begin_worker,
            persistent_workers=args.dataloader_persistent_workers,
            generator=torch.Generator(),  # else it draws from the random state that a resumed run has restored
        )

    def __iter__(self):
        if self.trainer.state.global_step >= self.trainer.args.max_steps:
            return  # resumed at its end, Trainer would take one step more of data without a length
        taken = self.taken
        for batch, place, rows, tokens in self.batches:
            if isinstance(batch, UserError):
                raise batch
            taken["places"][taken["batches"] % len(taken["places"])] = place
            taken["batches"] += 1
            taken["rows"] += rows
            taken["tokens"] += tokens
            yield batch

    def begin_step(self):
        """Note where this process stands before an optimizer step."""
        self.before = {**self.taken, "places": list(self.taken["places"])}

    def save(self, checkpoint, unfinished=False):
        """Write where this process stands into a checkpoint's folder, one file a process.

        After an `unfinished` step it is where that step began.
        """
        taken = self.before if unfinished else self.taken
        atomic_write_text(_file(checkpoint, taken["process"]), json.dumps(taken) + "\n")


def rows(packed, reader, readers, place):
    """Yield (row, the place after it) of one of `readers` readers, from `place` on and without end."""
    documents = _documents(packed, reader, readers, place)
    enough = ROWS_AT_ONCE * packed.block_size
    while True:
        ids, lengths, size = [], [], 0
        while size < enough:
            texts, after = next(documents)
            for some in encoding.encoded(texts, packed.tokenizer):
                ids.append(some[0])
                lengths.append(some[1])
                size += len(some[0])
        group = pack.pack_ids(np.concatenate(ids), np.concatenate(lengths), packed.block_size, in_order=True)
        if place["row"] == 0:
            place = {**place, "texts": place["texts"] + group.texts, "cut": place["cut"] + group.cut}
        after = {**after, "texts": place["texts"], "cut": place["cut"]}
        for number in range(place["row"], len(group.rows)):
            last = number + 1 == len(group.rows)
            yield group.rows[number], after if last else {**place, "row": number + 1}
        place = after


def _documents(packed, reader, readers, place):
    """Yield (some documents, the place after them), pass after pass. Raises DataError when the share is empty."""
    from datasets.distributed import split_dataset_by_node

    dataset = packed.stream.dataset
    if readers > 1:
        dataset = split_dataset_by_node(dataset, reader, readers)
    number, state, block, used = (place[key] for key in ("pass", "dataset", "block", "used"))
    while True:
        if packed.shuffle_buffer:
            dataset.set_epoch(number)  # the data sets shuffle their files too
        dataset.load_state_dict(state)
        texts = iter(replace(packed.stream, dataset=_Plain(dataset)))
        for documents in _blocks(texts, packed.shuffle_buffer):
            if packed.shuffle_buffer:
                random.Random(f"{packed.seed} {reader} {number} {block}").shuffle(documents)
            for some in encoding.batches(documents[used:]):
                used += len(some)
                yield some, {**BEGIN, "pass": number, "dataset": state, "block": block, "used": used}
            state, block, used = dataset.state_dict(), block + 1, 0
        if block == 0:
            share = "" if readers == 1 else f" for reader {reader + 1} of {readers}. Start fewer processes or workers"
            raise DataError(f"{packed.stream.where}: no text in it{share}")
        number, state, block, used = number + 1, None, 0, 0


def _blocks(texts, shuffle_buffer):
    if shuffle_buffer is None:
        return encoding.batches(texts)
    return iter(lambda: list(islice(texts, shuffle_buffer)), [])


class _Plain:
    """The rows of a datasets.IterableDataset, which alone would divide its files among the DataLoader's workers."""

    def __init__(self, dataset):
        self.dataset, self.column_names = dataset, dataset.column_names

    def __iter__(self):
        for batch in self.dataset.iter(batch_size=1):
            yield {key: value[0] for key, value in batch.items()}


def _together(items, collate):
    """[(row, place)...] -> (batch, the last place, rows, tokens)."""
    found, places = zip(*items, strict=True)
    if isinstance(found[-1], UserError):
        return found[-1], None, 0, 0
    return collate(found), places[-1], len(found), sum(len(row["input_ids"]) for row in found)


def _begin_worker(_):
    import fsspec.asyn

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not live on in a forked process
    fsspec.asyn.reset_lock()  # nor does the lock of remote files


def _file(checkpoint, process):
    return Path(checkpoint) / f"stream-{process}.json"


def _check(checkpoint, now):
    try:
        kept = json.loads(_file(checkpoint, 0).read_text())
    except FileNotFoundError:
        raise UserError(
            f"{checkpoint}: it does not say where the stream stood. Begin again with --fresh, the earlier run is set "
            "aside"
        ) from None
    if any(kept[key] != now[key] for key in ("processes", "workers")):
        raise UserError(
            f"{checkpoint}: it was written by {_numbers(kept)}, this run has {_numbers(now)}. The stream was shared out "
            "among them, so it goes on only with as many. Start as many, or begin again with --fresh"
        )


def _numbers(taken):
    return f"{taken['processes']} process(es) with dataloader_num_workers {taken['workers']}"
