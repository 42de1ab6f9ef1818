"""Checkpoints that may be trusted: sealed by checksums once written to their end, recognised when damaged."""

import hashlib
import json
import shutil
import warnings
from pathlib import Path

from safetensors import SafetensorError

from hflm.core import TrainingError, atomic_write_text, format_bytes

SEAL = "checksums.json"


def seal(checkpoint):
    """Write the checksum of every file of a checkpoint beside them: from now on it may be trusted."""
    sums = {str(file.relative_to(checkpoint)): _sum(file) for file in sorted(checkpoint.rglob("*")) if file.is_file()}
    atomic_write_text(checkpoint / SEAL, json.dumps(sums, indent=1))


def newest_sound(folder):
    """The newest `checkpoint-N` whose files are all there and unchanged, or None; warns about each damaged one."""
    numbered = [path for path in Path(folder).glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for checkpoint in sorted(numbered, key=step, reverse=True):
        reason = _damage(checkpoint)
        if reason is None:
            return checkpoint
        warnings.warn(f"{checkpoint} is not used: {reason}", stacklevel=2)
    return None


def step(checkpoint):
    """Optimizer steps taken before a checkpoint: `.../checkpoint-400` -> 400."""
    return int(checkpoint.name.split("-")[1])


def unwritten(checkpoint, error):
    """The TrainingError of a checkpoint that a full disk cut short; what was written of it is removed.

    None when `error` is about something else. safetensors and torch report a full disk in words of their own.
    """
    full = isinstance(error, OSError | SafetensorError) or "inline_container" in str(error)
    if not full:
        return None
    shutil.rmtree(checkpoint, ignore_errors=True)
    sealed = [path for path in checkpoint.parent.glob("checkpoint-*") if (path / SEAL).is_file()]
    kept = f"{max(sealed, key=step).name} is intact" if sealed else "there is no earlier one"
    size = f", which takes about {format_bytes(_size(max(sealed, key=step)))}" if sealed else ""
    return TrainingError(
        f"{checkpoint} cannot be written: {' '.join(str(error).split())}; {kept}. "
        f"Make room for another{size}, and run the same command: it continues"
    )


def _size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _damage(checkpoint):
    try:
        sums = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return "it was not written to its end"
    for name, expected in sums.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _sum(checkpoint / name) != expected:
            return f"{name} has changed since it was written"
    return None


def _sum(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
