"""Which files of a run a push sends: regular files of known kinds, never what a symbolic link points to."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from hflm.core import UserError, redact
from hflm.publishing.run_record import current_results

# What transformers saves of a model and a tokenizer, by path in model/.
MODEL_FILES = (
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|merges\.txt|vocab\.txt|tokenizer\.model|spiece\.model"
    r"|chat_template\.jinja|additional_chat_templates/[\w-]+\.jinja"
)
RECORDS = ("README.md", "recipe.yaml", "environment.json", "benchmark/results.json", ".eval_results/hflm.yaml")
# What an earlier release may have left in the repository and would contradict this one: a shard, a chat template, a
# plot. Files of any other name stay.
REPLACED = re.compile(rf"{MODEL_FILES}|plots/[\w-]+\.png|benchmark/results\.json|\.eval_results/hflm\.yaml")


@dataclass(frozen=True)
class RunFiles:
    """`sent` is {path in the repository: file}; `left_out` has a line for each file that is not sent."""

    sent: dict[str, Path]
    left_out: tuple[str, ...]


def run_files(run: Path) -> RunFiles:
    """Model files at the root, beside them README.md, plots/*.png, recipe.yaml, environment.json and the scores.

    Raises UserError when the run has no finished model.
    """
    model = run / "model"
    if not _is_regular(run, model / "config.json"):
        raise UserError(
            f"{run}: no finished model in {model}, so there is nothing to push. "
            "Run the recipe to its end (`hflm run RECIPE`), then `hflm push` again."
        )
    sent: dict[str, Path] = {}
    left_out = []
    known = re.compile(MODEL_FILES)
    pictures = (path.relative_to(run).as_posix() for path in sorted((run / "plots").glob("[!.]*.png")))
    candidates = [(path.relative_to(model).as_posix(), path) for path in _walk(model)]
    candidates += [(name, run / name) for name in (*RECORDS, *pictures)]
    for name, path in candidates:
        shown = path.relative_to(run).as_posix()
        if path.is_symlink() or not path.exists():
            left_out += [f"{shown} (a symbolic link)"] if path.is_symlink() else []
        elif not _is_regular(run, path):
            left_out.append(f"{shown} (no regular file, or behind a symbolic link)")
        elif path.is_relative_to(model) and not known.fullmatch(name):
            left_out.append(f"{shown} (no file of a model)")
        else:
            sent[name] = path
    return RunFiles(sent, tuple(left_out))


def published_content(name: str, run: Path, path: Path) -> Path | bytes:
    """What of a file is sent: `path` itself, or the bytes of a record without secrets, local paths and stale scores."""
    if name == "recipe.yaml":
        shape = redact(yaml.safe_load(path.read_text(encoding="utf-8")))
        return yaml.safe_dump(shape, sort_keys=False, allow_unicode=True).encode()
    if name in ("environment.json", "benchmark/results.json"):
        shape = redact(json.loads(path.read_text(encoding="utf-8")))
        if name == "benchmark/results.json":
            _, stale = current_results(run)
            shape["tasks"] = {task: found for task, found in shape["tasks"].items() if task not in stale}
        return (json.dumps(shape, indent=2, ensure_ascii=False) + "\n").encode()
    return path


def _walk(folder: Path) -> Iterator[Path]:
    """All files and symbolic links below a folder; links to folders are not entered."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _is_regular(run: Path, path: Path) -> bool:
    """Whether `path` is a regular file and neither it nor a folder between it and `run` is a symbolic link."""
    parents = [each for each in path.parents if each.is_relative_to(run) and each != run]
    return path.is_file() and not any(each.is_symlink() for each in (path, *parents))
