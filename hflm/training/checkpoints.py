"""Checkpoints that can be trusted: checksums are written after all other files, so that damage is recognised."""

import hashlib
import json
import shutil
import warnings
from pathlib import Path

from safetensors import SafetensorError

from hflm.core import TrainingError, atomic_write_text, format_bytes

CHECKSUMS = "checksums.json"


def write_checksums(checkpoint: Path) -> None:
    """Write the checksum of every file of a checkpoint beside them: from now on it is valid."""
    sums = {str(file.relative_to(checkpoint)): _sum(file) for file in sorted(checkpoint.rglob("*")) if file.is_file()}
    atomic_write_text(checkpoint / CHECKSUMS, json.dumps(sums, indent=1))


def newest_valid_checkpoint(folder: Path) -> Path | None:
    """The newest `checkpoint-N` whose files are complete and unchanged, or None; warns about each damaged one."""
    numbered = [path for path in Path(folder).glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for checkpoint in sorted(numbered, key=step_of, reverse=True):
        damage = _damage(checkpoint)
        if damage is None:
            return checkpoint
        warnings.warn(f"{checkpoint} is not used: {damage}", stacklevel=2)
    return None


def step_of(checkpoint: Path) -> int:
    """Optimizer steps taken before a checkpoint: `.../checkpoint-400` -> 400."""
    return int(checkpoint.name.split("-")[1])


def write_error(checkpoint: Path, error: Exception) -> TrainingError | None:
    """The TrainingError of a checkpoint that a full disk cut short; what was written of it is removed.

    None when `error` is about something else. safetensors and torch report a full disk in words of their own.
    """
    if not isinstance(error, OSError | SafetensorError) and "inline_container" not in str(error):
        return None
    shutil.rmtree(checkpoint, ignore_errors=True)
    valid = [path for path in checkpoint.parent.glob("checkpoint-*") if (path / CHECKSUMS).is_file()]
    newest = max(valid, key=step_of, default=None)
    remaining = f"{newest.name} is intact" if newest else "there is no earlier one"
    size = f", which takes about {format_bytes(_size(newest))}" if newest else ""
    return TrainingError(
        f"{checkpoint} cannot be written: {' '.join(str(error).split())}; {remaining}. "
        f"Free space for another{size}, and run the same command: it continues"
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _damage(checkpoint: Path) -> str | None:
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text())
    except (OSError, ValueError):
        return "it was not written to its end"
    for name, expected in sums.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _sum(checkpoint / name) != expected:
            return f"{name} has changed since it was written"
    return None


def _sum(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
