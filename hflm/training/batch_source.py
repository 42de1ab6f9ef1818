"""What the trainer needs of rows that are read as they come and have no length."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class BatchSource(Protocol):
    """A source of batches, without end, whose position each checkpoint keeps (preprocessing.PackedStream is one)."""

    def resume(self, process: int, processes: int, workers: int, batch_rows: int, checkpoint: Path | None) -> None:
        """Continue where `checkpoint` left the source, or start; with `batch_rows` rows of this process at a time.

        The checkpoint may be of another number of processes. Raises UserError where that is impossible.
        """
        ...

    def batches(
        self, batch_size: int, collate: Callable[[Sequence[Any]], "dict[str, Tensor]"], **options: Any
    ) -> "Iterator[dict[str, Tensor]]":
        """The batches of this process; `options` are DataLoader's."""
        ...

    def save(self, checkpoint: Path) -> None:
        """Write the position of this process, after the last batch that was yielded, into a checkpoint's folder."""
        ...
