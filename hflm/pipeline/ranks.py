"""The processes of a run."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

Value = TypeVar("Value")


def several_started() -> bool:
    """Whether a launcher started several processes; known before the process group is."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True)
class Ranks:
    """The process group as the stages see it."""

    group: "PartialState"

    @property
    def is_main(self) -> bool:
        return self.group.is_main_process

    @property
    def count(self) -> int:
        return self.group.num_processes

    @property
    def device(self) -> "torch.device":
        device = self.group.device
        assert device is not None, "a started group has a device"
        return device

    @property
    def on_one_machine(self) -> bool:
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.count)) == self.count

    def wait_for_all(self) -> None:
        """Wait until every process is here, however long one of them reads, cleans or packs."""
        from hflm.training import wait_for_all

        wait_for_all()

    def broadcast(self, value: Value) -> Value:
        """The main process's `value`, on all of them."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        self.wait_for_all()
        return broadcast_object_list([value])[0]
