"""environment.json: what a run ran on (versions, git commit, hardware) and what it read; `--locked` compares with it."""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from hflm.core import UserError, arithmetic, atomic_write_text, hardware, mask_tokens, read_json
from hflm.data import SKIPPED_ROWS, read_skipped, token_statistics, write_skipped
from hflm.pipeline.inputs import Inputs
from hflm.recipe import Recipe

FILE = "environment.json"
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "tokenizers", "peft", "sacrebleu")


def describe(recipe: Recipe, inputs: Inputs, processes: int) -> dict[str, Any]:
    """The content of environment.json at the start of a run, as plain values."""
    read = inputs.described
    return {
        "hflm": metadata.version("hflm-recipes"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": mask_tokens(" ".join(["hflm", *sys.argv[1:]])),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git": _git(),
        "hardware": _hardware(),
        "processes": processes,
        "seed": recipe.seed,
        **read,
        "model": {"preset": recipe.model.preset, **read["model"]},
        "stages": {},
    }


def check_locked(run: Path, inputs: Inputs) -> None:
    """Raise UserError when anything that the recipe reads differs from what `run`/environment.json recorded."""
    path = run / FILE
    recorded, now = read_json(path), inputs.described
    if not recorded:
        raise UserError(f"--locked compares with {path}, which does not exist. Run once without it, or copy it there")
    pairs = [
        (key, recorded.get("data", {}).get(key), now["data"].get(key))
        for key in dict.fromkeys([*now["data"], *recorded.get("data", {})])
    ]
    pairs += [(part, recorded.get(part, {}), now[part]) for part in ("model", "tokenizer")]
    problems = []
    for key, before, after in pairs:
        if before is None or after is None:
            problems.append(f"{key}: {'is new in the recipe' if before is None else 'is no longer in the recipe'}")
            continue
        for what in ("fingerprint", "commit"):
            if before.get(what) != after.get(what):
                problems.append(f"{key}: {what} {before.get(what) or 'none'} then, {after.get(what) or 'none'} now")
    if problems:
        raise UserError("\n".join([f"not what {path} recorded:", *problems, "Nothing was run."]))


def write_environment(run: Path, described: Mapping[str, Any], stages: Collection[str]) -> None:
    """Write environment.json, keeping what an earlier part of the same run recorded about its `stages`."""
    path = run / FILE
    earlier = read_json(path)
    kept = {
        stage: record
        for stage, record in earlier.get("stages", {}).items()
        if stage in stages or stage.startswith("benchmark/")
    }
    merged = {**described, "stages": kept}
    for key, now in described["data"].items():
        before = earlier.get("data", {}).get(key, {})
        if all(before.get(what) == now.get(what) for what in ("fingerprint", "commit")):
            merged["data"] = {**merged["data"], key: {**before, **now}}  # what was counted in it is still true
    if "parameters" in earlier.get("model", {}):
        merged["model"] = {**merged["model"], "parameters": earlier["model"]["parameters"]}
    write(path.parent, merged)


def note(
    run: Path,
    *,
    parameters: int | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Add to environment.json: the model's parameters, {data key: {...}}, or {stage: {"seconds": ...}}."""
    path = run / FILE
    described = read_json(path)
    described["stages"].update(stages or {})
    if parameters is not None:
        described["model"]["parameters"] = parameters
    for key, more in (data or {}).items():
        described["data"][key].update(more)
    write(path.parent, described)


def note_sources(
    folder: Path, given: Sequence, encode: Callable, begun: int | None, say: Callable[[str], None]
) -> None:
    """Note in environment.json what each source gives; `begun`: counted over so many documents of a stream, or None."""
    found = token_statistics(given, encode)
    over = {"counted_over": f"the first {begun:,} documents of the mixture"} if begun else {}
    note(folder, data={key: {**counts, **over} for key, counts in found.items()})
    if len(found) > 1:
        listed = ", ".join(f"{key} {counts['share']:.1%}" for key, counts in found.items())
        say(f"pretrain: of {sum(counts['tokens'] for counts in found.values()):,} tokens {listed}")


def note_skipped(folder: Path, say: Callable[[str], None]) -> None:
    """Note in environment.json how many rows of each source were left out, and where they are listed."""
    bad = read_skipped(folder / SKIPPED_ROWS)
    counts = Counter(cast(str, each.source) for each in bad)  # the mixture names the source of each
    note(folder, data={key: {"skipped_rows": n, "listed": SKIPPED_ROWS} for key, n in counts.items()})
    if bad:
        # Several passes and processes have met the same ones.
        write_skipped(bad, folder / SKIPPED_ROWS)
        say(f"pretrain: {len(bad):,} rows were left out; {folder / SKIPPED_ROWS} lists them")


def write(run: Path, content: Mapping[str, Any]) -> None:
    """Write environment.json."""
    atomic_write_text(run / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _git() -> dict[str, Any] | None:
    """The commit of the folder that hflm is run in, or None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}


def _hardware() -> dict[str, Any]:
    import psutil
    import torch

    gpus = torch.cuda.device_count() if arithmetic.at_hand().type == "cuda" else 0

    return {
        "cpu": hardware.cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(number) for number in range(gpus)],
    }
