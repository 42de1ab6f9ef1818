"""What a run ran on: versions, git commit, hardware, seed and a fingerprint of each data set and base model."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import yaml

from hflm import data, stages
from hflm.public import hub_id
from hflm.records import read_json
from hflm.results import write_text

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
        "data": {key: _data(source) for key, source in sources(recipe)},
        "model": {
            "preset": recipe.model.preset,
            "from": recipe.model.from_,
            "fingerprint": stages.model_fingerprint(recipe.model.from_),
        },
        "stages": {},
    }


def write(run, described):
    """Write environment.json, keeping what an earlier part of the same run recorded about its stages."""
    path = Path(run) / "environment.json"
    earlier = read_json(path)
    merged = {**described, "stages": {**earlier.get("stages", {}), **described["stages"]}}
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


def sources(recipe):
    """Yield (key in environment.json's data, Data) of each data set that a recipe names."""
    if recipe.pretrain is not None:
        for number, source in enumerate(recipe.pretrain.data):
            yield f"pretrain.data.{number}", source
    for name, task in recipe.tasks.items():
        yield f"tasks.{name}.data", task.data


def _data(source):
    described = {"path": source.path, "fingerprint": data.fingerprint(source)}
    if license := _license(source):
        described["license"] = license
    return {**described, **{key: source.options[key] for key in ("name", "revision") if key in source.options}}


def _license(source):
    """The licence in the front matter of a data set's card, when the card is on this machine; else None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.repocard import metadata_load

    place = Path(source.path).expanduser()
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
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def _cpu():
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
