"""The process group of a run, and work that the first process does while the others wait."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from accelerate import PartialState

PREPARATION = timedelta(days=7)  # reading, cleaning and tokenizing may take longer than any collective


def start_processes(timeout_seconds: int) -> "PartialState":
    """The process group: one process unless a launcher started several.

    The timeout of collectives belongs to whoever makes the group first, so that TrainingArguments' `ddp_timeout` would
    come too late.
    """
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(seconds=timeout_seconds))


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """The first process runs the block, then the others, however long the first one takes.

    `PartialState.main_process_first` waits in a collective: past its timeout (NCCL's is 10 minutes) the others end.
    """
    if not distributed.is_initialized():
        yield
        return
    first = distributed.get_rank() == 0
    if not first:
        distributed.barrier(group=_patient_group())
    yield  # after an error there is nothing to wait for: the launcher ends the others
    if first:
        distributed.barrier(group=_patient_group())


@cache
def _patient_group() -> distributed.ProcessGroup:
    """A second group of all processes, over gloo on any device, whose barriers wait for PREPARATION."""
    group = distributed.new_group(backend="gloo", timeout=PREPARATION)
    assert isinstance(group, distributed.ProcessGroup)
    return group
