"""Packed rows that the main process makes and every process maps from disk."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from hflm.core import atomic_folder
from hflm.pipeline.stages.base import Run

if TYPE_CHECKING:
    from hflm.preprocessing import Packed

FOLDER = "rows"  # in the stage's folder, while it trains


def share_packed(run: Run, stage: str, use: str, make: "Callable[[], Packed | None]") -> "Packed | None":
    """What `make` gives in the main process, on every process; arrays are memory-mapped, not copied."""
    if run.ranks.count == 1:
        return make()
    folder = run.folder / stage / FOLDER / use
    packed = None
    if run.ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        packed = make()
        if packed is not None:
            _write(packed, folder, copy=not run.ranks.on_one_machine)
    run.ranks.wait_for_all()
    return _read(folder) if packed is None and folder.is_dir() else packed


def remove_shared(run: Run, stage: str) -> None:
    """Remove the files of `share_packed` at the stage's end."""
    if run.ranks.is_main:
        shutil.rmtree(run.folder / stage / FOLDER, ignore_errors=True)


def _write(packed: "Packed", folder: Path, copy: bool) -> None:
    """Every array as a file; the ids stay where they are when the token cache has them, unless `copy`."""
    import numpy as np

    counts = {each.name: getattr(packed, each.name) for each in fields(packed) if each.name not in ("rows", "cached")}
    with atomic_folder(folder) as partial:
        for each in fields(packed.rows):
            array = getattr(packed.rows, each.name)
            if isinstance(array, np.memmap) and not copy:
                counts["cached"] = {each.name: [str(array.filename), array.dtype.name]}
            else:
                np.save(partial / f"{each.name}.npy", array)
        (partial / "packed.json").write_text(json.dumps(counts))


def _read(folder: Path) -> "Packed":
    import numpy as np

    from hflm.preprocessing import Packed, PackedRows

    counts = json.loads((folder / "packed.json").read_text())
    cached = counts.pop("cached", {})
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    arrays |= {name: np.memmap(path, dtype, mode="r") for name, (path, dtype) in cached.items()}
    return Packed(PackedRows(**arrays), **counts)
