"""Checkpoints that can be trusted: checksums are written after all other files, so that damage is recognised."""

import json
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hflm.core import TrainingError, atomic_write_text, file_checksum, format_bytes

CHECKSUMS, SECONDS = "checksums.json", "seconds.json"
LEAST_FREE = 1_000_000  # bytes; a disk with less of them is full


def write_seconds(checkpoint: Path, seconds: float) -> None:
    """Note in a checkpoint how long the stage has trained, over all its attempts."""
    atomic_write_text(checkpoint / SECONDS, json.dumps(round(seconds, 3)))


def seconds_of(checkpoint: Path | None) -> float:
    """What `write_seconds` noted; 0 without a checkpoint, or where it is one of an earlier version."""
    if checkpoint is None or not (checkpoint / SECONDS).is_file():
        return 0.0
    return json.loads((checkpoint / SECONDS).read_text())


def write_checksums(checkpoint: Path) -> None:
    """Write the checksum of every file of a checkpoint beside them: from now on it is valid."""
    sums = {
        str(file.relative_to(checkpoint)): file_checksum(file)
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }
    atomic_write_text(checkpoint / CHECKSUMS, json.dumps(sums, indent=1))


def valid_checkpoints(folder: Path) -> Iterator[Path]:
    """Each `checkpoint-N` whose files are complete and unchanged, the newest first; warns about each damaged one."""
    for checkpoint in reversed(_numbered(folder)):
        damage = damage_of(checkpoint)
        if damage is None:
            yield checkpoint
        else:
            warnings.warn(f"{checkpoint} is not used: {damage}", stacklevel=2)


def newest_valid_checkpoint(folder: Path) -> Path | None:
    """The first of `valid_checkpoints`, or None."""
    return next(valid_checkpoints(folder), None)


def keep_checkpoints(folder: Path, newest: int | None, steps: Collection[int]) -> None:
    """Remove all checkpoints but the `newest` ones (None: all) and those of `steps`."""
    for checkpoint in _numbered(folder)[: -newest if newest else 0]:
        if step_of(checkpoint) not in steps:
            shutil.rmtree(checkpoint)


def average_weights(checkpoints: Sequence[Path], folder: Path) -> None:
    """Replace the weights in `folder`, a saved model, by the mean of those in `checkpoints`, computed in float64.

    Raises TrainingError for a checkpoint that is damaged or missing.
    """
    for checkpoint in checkpoints:
        if damage := damage_of(checkpoint):
            raise TrainingError(
                f"{checkpoint} belongs to the checkpoints to average, but {damage}. Train again with --fresh, or set "
                "average_checkpoints to null"
            )
    for file in sorted(folder.glob("*.safetensors")):
        with ExitStack() as stack:
            opened = [stack.enter_context(safe_open(checkpoint / file.name, "pt")) for checkpoint in checkpoints]
            metadata = opened[-1].metadata()
            tensors = {name: _mean([each.get_tensor(name) for each in opened]) for name in opened[-1].keys()}  # noqa: SIM118
        save_file(tensors, file, metadata)


def _mean(values: list[torch.Tensor]) -> torch.Tensor:
    if not values[-1].is_floating_point():
        return values[-1]
    return torch.stack([value.double() for value in values]).mean(0).to(values[-1].dtype)


def _numbered(folder: Path) -> list[Path]:
    """The checkpoints of a folder, by step."""
    numbered = [path for path in Path(folder).glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    return sorted(numbered, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps taken before a checkpoint: `.../checkpoint-400` -> 400."""
    return int(checkpoint.name.split("-")[1])


def write_error(checkpoint: Path, error: Exception) -> TrainingError | None:
    """The TrainingError of a checkpoint that a full disk cut short; what was written of it is removed.

    None when `error` is about something else. safetensors and torch report a full disk in words of their own.
    """
    if not isinstance(error, OSError | SafetensorError) and "inline_container" not in str(error):
        return None
    free = shutil.disk_usage(checkpoint.parent).free
    shutil.rmtree(checkpoint, ignore_errors=True)
    valid = [path for path in checkpoint.parent.glob("checkpoint-*") if (path / CHECKSUMS).is_file()]
    newest = max(valid, key=step_of, default=None)
    remaining = f"{newest.name} is intact" if newest else "there is no earlier one"
    size = f", which takes about {format_bytes(_size(newest))}" if newest else ""
    # torch's words are of positions in a file.
    full = free < LEAST_FREE or free < (_size(newest) if newest else 0)
    cause = "no space is left on the disk" if full else " ".join(str(error).split())
    return TrainingError(
        f"{checkpoint} cannot be written: {cause}; {remaining}. "
        f"Free space for another{size}, and run the same command: it continues"
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are complete and unchanged."""
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text())
    except (OSError, ValueError):
        return "it was not written to its end"
    for name, expected in sums.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if file_checksum(checkpoint / name) != expected:
            return f"{name} has changed since it was written"
    return None
