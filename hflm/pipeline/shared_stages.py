"""Finished stages of one run used in another: what does not differ between the runs of a sweep is computed once."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from hflm.core import atomic_folder, atomic_write_text, link_or_copy, read_json
from hflm.data import SKIPPED_ROWS
from hflm.pipeline import provenance
from hflm.pipeline.inputs import resolve_inputs
from hflm.pipeline.run import RunOptions, run_recipe
from hflm.pipeline.stage_keys import dependencies_key, stage_dependencies
from hflm.pipeline.stage_state import read_stage_state
from hflm.recipe import Recipe

SHARED = ("tokenizer", "pretrain", "finetune", "model")  # each in a folder of its name


def common_stages(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The first stages that all recipes have in common, as far as they do: ("tokenizer", "pretrain")."""
    keys = [_keys(recipe) for recipe in recipes]
    common: list[str] = []
    for stage in SHARED:
        if stage not in keys[0]:
            continue
        if len({each.get(stage) for each in keys}) > 1:
            break
        common.append(stage)
    return tuple(common)


def reuse_stages(recipe: Recipe, folder: Path, others: Iterable[Path]) -> list[str]:
    """Put the finished stages of `recipe` that one of the `others` has into the run folder `folder`; returns which.

    Files are hard links where the disk has them: no stage changes a file of a finished one in place. Checkpoints stay
    where they are.
    """
    keys = _keys(recipe)
    state = read_stage_state(folder)
    missing = [stage for stage in SHARED if stage in keys and state.keys.get(stage) != keys[stage]]
    reused = []
    for other in others if missing else ():
        finished = read_json(other / "stages.json")
        for stage in list(missing):
            known = read_stage_state(other).dependencies.get(stage) if finished.get(stage) == keys[stage] else None
            if known is None or not (other / stage).is_dir() or any((folder / stage).glob("checkpoint-*")):
                continue  # a stage that has begun here is continued
            with atomic_folder(folder / stage) as partial:
                _link(other / stage, partial)
            _copy_record(other, folder, stage)
            state.finish(stage, known)
            missing.remove(stage)
            reused.append(stage)
    return reused


def run_once(recipe: Recipe, folder: Path, last: str) -> None:
    """Run a recipe's stages up to `last`, unless they are finished."""
    run_recipe(recipe, folder, RunOptions(yes=True, last=last))


def _keys(recipe: Recipe) -> dict[str, str]:
    stages = stage_dependencies(recipe, resolve_inputs(recipe))
    return {stage: dependencies_key(each) for stage, each in stages.items()}


def _link(source: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns("checkpoint-*")
    shutil.copytree(source, target, copy_function=link_or_copy, ignore=ignored, dirs_exist_ok=True)


def _copy_record(other: Path, folder: Path, stage: str) -> None:
    """What environment.json has about the stage, and the report of the corpus that pretraining read."""
    recorded = read_json(other / provenance.FILE)
    mine = read_json(folder / provenance.FILE) or {**recorded, "stages": {}}
    if stage in recorded.get("stages", {}):
        mine["stages"] = {**mine["stages"], stage: recorded["stages"][stage]}
    provenance.write(folder, mine)
    for name in (SKIPPED_ROWS, "data/cleaning.json") if stage == "pretrain" else ():
        if (other / name).is_file():
            atomic_write_text(folder / name, (other / name).read_text(encoding="utf-8"))
