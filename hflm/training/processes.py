"""The process group of a run, and how its processes wait while one of them works for hours."""

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from torch import distributed

from hflm.core import arithmetic

if TYPE_CHECKING:
    from accelerate import PartialState

PREPARATION = timedelta(days=7)  # reading, cleaning and tokenizing may take longer than any collective


def start_processes(timeout_seconds: int) -> "PartialState":
    """The process group: one process unless a launcher started several.

    The timeout of collectives belongs to whoever makes the group first, so that TrainingArguments' `ddp_timeout` would
    come too late.
    """
    from accelerate import PartialState

    return PartialState(cpu=arithmetic.at_hand().type == "cpu", timeout=timedelta(seconds=timeout_seconds))


def wait_for_all() -> None:
    """Wait until every process is here, however long the slowest works.

    `PartialState.wait_for_everyone` waits in a collective: past its timeout (NCCL's is 10 minutes) the others end.
    """
    if distributed.is_initialized():
        distributed.barrier(group=_patient_group())


@cache
def _patient_group() -> distributed.ProcessGroup:
    """A second group of all processes, over gloo on any device, whose barriers wait for PREPARATION."""
    group = distributed.new_group(backend="gloo", timeout=PREPARATION)
    assert isinstance(group, distributed.ProcessGroup)
    return group
