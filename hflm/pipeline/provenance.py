"""What a run ran on: versions, git commit, hardware, seed and a fingerprint of each data set and base model."""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import yaml

from hflm.core import fingerprint, hardware, paths
from hflm.core.atomic_io import write_text
from hflm.core.errors import UserError
from hflm.core.redaction import hub_id
from hflm.core.run_files import read_json
from hflm.data import hub_cache as snapshot
from hflm.data import load as data
from hflm.data import source_stats as shares
from hflm.recipe import data_sources

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "tokenizers", "peft", "sacrebleu")


def describe(recipe, processes):
    """The content of environment.json at the start of a run, as plain values."""
    return {
        "hflm": metadata.version("hflm-recipes"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["hflm", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git": _git(),
        "hardware": _hardware(),
        "processes": processes,
        "seed": recipe.seed,
        **inputs(recipe),
        "stages": {},
    }


def inputs(recipe):
    """{"data": {key: {path, fingerprint, commit?}}, "model": {...}, "tokenizer": {...}}: all that a recipe reads.

    `fingerprint` is of the content where that lies on this machine; `commit` is the Hub's, at this moment.
    """
    tokenizer = recipe.tokenizer
    return {
        "data": {key: _data(source) for key, source in data_sources(recipe)},
        "model": {"preset": recipe.model.preset, **_model(recipe.model.from_, recipe.model.revision)},
        "tokenizer": _model(tokenizer.from_, tokenizer.revision) if tokenizer else {},
    }


def locked(run, recipe):
    """Raises UserError when anything that the recipe reads differs from what `run`/environment.json recorded."""
    path = Path(run) / "environment.json"
    recorded, now = read_json(path), inputs(recipe)
    if not recorded:
        raise UserError(f"--locked compares with {path}, which is not there. Run once without it, or put it there")
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


def write(run, described, keys):
    """Write environment.json, keeping what an earlier part of the same run recorded about its stages, those of `keys`."""
    path = Path(run) / "environment.json"
    earlier = read_json(path)
    kept = {
        stage: record
        for stage, record in earlier.get("stages", {}).items()
        if stage in keys or stage.startswith("benchmark/")
    }
    merged = {**described, "stages": kept}
    for key, now in described["data"].items():
        before = earlier.get("data", {}).get(key, {})
        if all(before.get(what) == now.get(what) for what in ("fingerprint", "commit")):
            merged["data"] = {**merged["data"], key: {**before, **now}}  # what was counted in it still holds
    if "parameters" in earlier.get("model", {}):
        merged["model"] = {**merged["model"], "parameters": earlier["model"]["parameters"]}
    write_text(path, json.dumps(merged, indent=2, ensure_ascii=False) + "\n")


def note(run, *, parameters=None, data=None, **stage):
    """Add to environment.json: the model's parameters, {data key: {...}}, or `pretrain={"seconds": ...}`."""
    path = Path(run) / "environment.json"
    described = read_json(path)
    described["stages"].update(stage)
    if parameters is not None:
        described["model"]["parameters"] = parameters
    for key, more in (data or {}).items():
        described["data"][key].update(more)
    write_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def note_sources(folder, given, encode, begun, say):
    """Note in environment.json what each source gives; `begun`: counted over so many documents of a stream, or None."""
    found = shares.shares(given, encode)
    over = {"counted_over": f"the first {begun:,} documents of the mixture"} if begun else {}
    note(folder, data={key: {**counts, **over} for key, counts in found.items()})
    if len(found) > 1:
        listed = ", ".join(f"{key} {counts['share']:.1%}" for key, counts in found.items())
        say(f"pretrain: of {sum(counts['tokens'] for counts in found.values()):,} tokens {listed}")


def note_skipped(folder, say):
    """Note in environment.json how many rows of each source were left out, and where they are listed."""
    bad = shares.skipped(folder / shares.LISTED)
    counts = Counter(each.source for each in bad)
    note(folder, data={key: {"skipped_rows": n, "listed": shares.LISTED} for key, n in counts.items()})
    if bad:
        shares.write_skipped(bad, folder / shares.LISTED)  # several passes and processes have met the same ones
        say(f"pretrain: {len(bad):,} rows were left out; {folder / shares.LISTED} lists them")


def _data(source):
    described = {"path": source.path, "fingerprint": data.fingerprint(source)}
    described |= {key: source.options[key] for key in ("name", "revision") if key in source.options}
    if license := _license(source):
        described["license"] = license
    if data.of_hub(source):
        described["commit"] = snapshot.commit(source.path, source.options.get("revision"))
    return described


def _model(path, revision):
    described = {"from": path, "fingerprint": fingerprint.of_model(path)}
    if path is not None and snapshot.is_hub_id(path):
        described["commit"] = snapshot.commit(path, revision, "model")
    return described


def _license(source):
    """The licence in the front matter of a data set's card, when the card is on this machine; else None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.repocard import metadata_load

    place = paths.place(source.path)
    if place.exists():
        card = (place if place.is_dir() else place.parent) / "README.md"
    elif hub_id(source.path):
        card = try_to_load_from_cache(
            source.path, "README.md", repo_type="dataset", revision=source.options.get("revision")
        )
    else:
        return None
    try:
        stated = (metadata_load(card) or {}).get("license") if isinstance(card, str | Path) else None
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that the Hub would not read either
        return None
    stated = [stated] if isinstance(stated, str) else stated
    return ", ".join(map(str, stated)) if isinstance(stated, list) else None


def _git():
    """The commit of the folder that hflm is run in, or None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}


def _hardware():
    import psutil
    import torch

    return {
        "cpu": hardware.cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }
