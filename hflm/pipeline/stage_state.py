"""Which stages of a run are finished, in stages.json, and what is set aside when their inputs have changed."""

import json
from pathlib import Path

from hflm.core import atomic_write_text, read_json
from hflm.evaluation import read_results

FILE = "stages.json"
MARKER = "inputs.json"  # in a training stage's folder: the key that its checkpoints belong to


def finished_stages(folder: Path) -> dict[str, str]:
    """{stage: key} of the stages that ended in `folder` and whose results exist.

    Raises UserError for a results.json that cannot be read.
    """
    scores = folder / "benchmark" / "results.json"
    measured = read_results(scores).tasks if scores.exists() else {}
    kept = read_json(folder / FILE)
    return {
        stage: key
        for stage, key in kept.items()
        if not stage.startswith("benchmark/") or stage.removeprefix("benchmark/") in measured
    }


def forget(folder: Path, *stages: str) -> None:
    """Mark stages as unfinished, because what they left is about to change."""
    kept = finished_stages(folder)
    if kept.keys() & set(stages):
        _write(folder, {stage: key for stage, key in kept.items() if stage not in stages})


def finish(folder: Path, stage: str, key: str) -> None:
    """Record that a stage has ended; later stages stay recorded, their keys say whether they are still valid."""
    _write(folder, {**finished_stages(folder), stage: key})


def begin(folder: Path, key: str) -> Path | None:
    """Make a training stage's folder ready for the inputs `key`.

    What other inputs left there is neither continued nor lost: it is set aside. Returns where, or None.
    """
    aside = None
    if folder.exists() and read_json(folder / MARKER).get("key") != key:
        forget(folder.parent, folder.name)
        aside = set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / MARKER, json.dumps({"key": key}) + "\n")
    return aside


def set_aside(path: Path) -> Path:
    """Rename a folder or file to `<name>.previous`, `<name>.previous-2`...; returns the new path."""
    number, aside = 1, path.with_name(f"{path.name}.previous")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.previous-{number}")
    path.rename(aside)
    return aside


def _write(folder: Path, keys: dict[str, str]) -> None:
    atomic_write_text(folder / FILE, json.dumps(keys, indent=1) + "\n")
