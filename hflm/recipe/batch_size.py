"""The batch of one optimizer step: rows of a micro-batch x accumulation x processes.

A recipe sets how many tokens a step takes over all processes (`batch_tokens`); how they are distributed follows from
the machine that runs it, so that the same recipe trains the same way on 1 and on 64 processes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hflm.core import UserError

if TYPE_CHECKING:
    from hflm.recipe.training import FinetuneRecipe, PretrainRecipe


@dataclass(frozen=True)
class Batch:
    """One optimizer step: `per_device` rows at a time, `accumulation` times, on each of `processes`."""

    per_device: int
    accumulation: int
    processes: int

    @property
    def rows(self) -> int:
        """Rows of one optimizer step over all processes."""
        return self.per_device * self.accumulation * self.processes

    def halved(self) -> "Batch | None":
        """The same rows a step with a micro-batch of at most half the size; None when it holds a single row.

        >>> Batch(6, 1, 2).halved()
        Batch(per_device=3, accumulation=2, processes=2)
        """
        if self.per_device == 1:
            return None
        return _distribute(self.per_device * self.accumulation, self.per_device // 2, self.processes)

    def __str__(self) -> str:
        rows, processes = "s" * (self.per_device > 1), "es" * (self.processes > 1)
        return f"{self.per_device} row{rows} x {self.accumulation} accumulated x {self.processes} process{processes}"


def derive_batch(batch_tokens: int, row_tokens: int, processes: int, per_device: int, stage: str) -> Batch:
    """Distribute `batch_tokens` over `processes` in rows of `row_tokens`, at most `per_device` rows at a time.

    >>> derive_batch(16384, 256, processes=4, per_device=12, stage="pretrain")
    Batch(per_device=8, accumulation=2, processes=4)

    Raises UserError for a batch that is not made of whole rows, or whose rows cannot be divided evenly among the processes.
    """
    rows, left = divmod(batch_tokens, row_tokens)
    if left:
        raise UserError(f"{stage}.batch_tokens: {describe_partial_rows(batch_tokens, row_tokens)}")
    if rows % processes:
        lower = rows // processes * processes * row_tokens
        near = f"{lower:,} or {lower + processes * row_tokens:,}" if lower else f"{processes * row_tokens:,}"
        raise UserError(
            f"{stage}.batch_tokens: {batch_tokens:,} tokens are {rows} rows of {row_tokens}, which cannot be divided evenly "
            f"among {processes} processes. Take {near}, or another number of processes"
        )
    return _distribute(rows // processes, per_device, processes)


def keep_batch(rows: int, processes: int, per_device: int, stage: str) -> Batch:
    """The `rows` of a step that an earlier run took, distributed over `processes`.

    >>> keep_batch(16, processes=4, per_device=8, stage="pretrain")
    Batch(per_device=4, accumulation=1, processes=4)

    Raises UserError where they cannot be divided evenly.
    """
    if rows % processes:
        possible = ", ".join(str(count) for count in range(1, rows + 1) if rows % count == 0)
        raise UserError(
            f"{stage}: the run began with {rows} rows a step, which cannot be divided evenly among {processes} processes. "
            f"Start {possible}, or begin again with --fresh"
        )
    return _distribute(rows // processes, per_device, processes)


def stage_batch(section: "PretrainRecipe | FinetuneRecipe", row_tokens: int, processes: int, stage: str) -> Batch:
    """The Batch of a training section on so many processes. Raises UserError as `derive_batch`."""
    per_device = section.args.get("per_device_train_batch_size", 8)
    if section.batch_tokens is not None:
        return derive_batch(section.batch_tokens, row_tokens, processes, per_device, stage)
    return Batch(per_device, section.args.get("gradient_accumulation_steps", 1), processes)


def check_steps(rows: int, batch: Batch, drop_last: bool, stage: str) -> None:
    """Raises UserError where `rows` rows of an epoch make no step: `dataloader_drop_last` drops an incomplete batch."""
    loaded = batch.per_device * batch.processes
    if rows == 0:
        raise UserError(f"{stage}: the data has no row to train on")
    if drop_last and rows < loaded:
        raise UserError(
            f"{stage}.args.dataloader_drop_last: the data has {rows} rows, less than one batch of {loaded} "
            f"({batch.per_device} on each of {batch.processes} process{'es' * (batch.processes > 1)}), which is dropped, "
            "so there is no step to train. Remove it, or lower per_device_train_batch_size"
        )


def describe_partial_rows(batch_tokens: int, row_tokens: int) -> str:
    """The message for a batch that is no multiple of the row's length.

    >>> describe_partial_rows(1000, 256)
    '1,000 is no multiple of the row of 256 tokens. Take 768 or 1,024'
    """
    lower = batch_tokens // row_tokens * row_tokens
    near = f"{lower:,} or {lower + row_tokens:,}" if lower else f"{row_tokens:,}"
    return f"{batch_tokens:,} is no multiple of the row of {row_tokens} tokens. Take {near}"


def _distribute(rows: int, most: int, processes: int) -> Batch:
    per_device = next(size for size in range(min(most, rows), 0, -1) if rows % size == 0)
    return Batch(per_device, rows // per_device, processes)
