"""A run that survives its machine: its newest checkpoint goes to the Hub while it trains, and comes back from there.

`push: {checkpoints: true}` -> `stage_snapshot` puts what a continued run needs into a folder that nobody changes
(checkpoints as hard links, which cost no space and survive the rotation), and hflm.publishing sends it.
`hflm run --from-hub` -> `restore_run` puts it into a run's folder on another machine, whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hflm.core import UserError, link_or_copy, logger, read_json, read_json_lines, redact
from hflm.data import SKIPPED_ROWS
from hflm.pipeline import provenance, stage_state
from hflm.pipeline.console import phase
from hflm.pipeline.run_folder import LOCK, locked_folder
from hflm.pipeline.stage_keys import Dependencies, dependencies_key
from hflm.pipeline.stage_state import read_stage_state
from hflm.publishing import STAGES, Snapshot
from hflm.recipe import Recipe

if TYPE_CHECKING:
    from hflm.pipeline.stages import Run
    from hflm.publishing import CheckpointUploads, HubCheckpoint

STAGED = ".upload"  # in a run's folder: what is on its way to the Hub
OF_STAGE = (stage_state.METRICS, "micro_batch.json", "skipped.json")
# Of a checkpoint: nothing that is continued from needs them. The first is a pickle, the second PEFT's model card.
LEFT_OUT = {"training_args.bin", "README.md"}
REDACTED = {"trainer_state.json", "adapter_config.json"}  # hold paths of this machine


@contextmanager
def checkpoint_uploads(recipe: Recipe, folder: Path) -> "Iterator[CheckpointUploads | None]":
    """What sends the checkpoints of a run, None where its recipe does not ask for it.

    At its end the upload that is under way is waited for, after a second Ctrl-C not at all.
    """
    shutil.rmtree(folder / STAGED, ignore_errors=True)  # of a run that was killed
    if recipe.push is None or not recipe.push.checkpoints:
        yield None
        return
    from hflm.publishing import CheckpointUploads

    uploads = CheckpointUploads(recipe.push.repo_id, recipe.push.private)
    try:
        yield uploads
    except KeyboardInterrupt:
        uploads.close(seconds=0)
        raise
    finally:
        uploads.close()
        shutil.rmtree(folder / STAGED, ignore_errors=True)


def offer_checkpoint(run: "Run", stage: str, checkpoints: Sequence[Path]) -> None:
    """Offer the last of `checkpoints` and those that it needs for upload. Whatever fails is a warning: training goes on."""
    from hflm.publishing import Staged

    assert run.uploads is not None
    target = run.folder / STAGED / f"{stage}-{checkpoints[-1].name}"
    try:
        shutil.rmtree(target, ignore_errors=True)
        snapshot = stage_snapshot(run.folder, run.recipe.name, stage, checkpoints, target)
    except Exception as error:  # noqa: BLE001  whatever fails here, training goes on
        shutil.rmtree(target, ignore_errors=True)
        logger.warning(
            f"checkpoints: {checkpoints[-1].name} of {stage} is not sent to the Hub: {error}. Training goes on"
        )
        return
    run.uploads.offer(Staged(target, snapshot))


def stage_snapshot(folder: Path, name: str, stage: str, checkpoints: Sequence[Path], target: Path) -> Snapshot:
    """Put what continues the run in `folder` from the last of `checkpoints` into `target`; the Snapshot of it.

    Raises UserError for a checkpoint of another form than Trainer's own.
    """
    from hflm.training import step_of

    for path, content in _records(folder, stage):
        _write(target / path, content)
    for finished in ("tokenizer", *(f"{each}/model" for each in STAGES[: STAGES.index(stage)])):
        for file in sorted((folder / finished).glob("*")):
            if file.is_file() and file.name not in LEFT_OUT:
                _link(file, target / finished / file.name)
    for checkpoint in checkpoints:
        _stage_checkpoint(checkpoint, target / stage / checkpoint.name)
    state = read_json(target / stage_state.FILE)
    keys = {each: state[each] for each in STAGES if each in state}
    keys[stage] = read_json(folder / stage / stage_state.MARKER)["key"]
    return Snapshot(name, stage, step_of(checkpoints[-1]), keys, {})


def _records(folder: Path, stage: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the small files, without secrets and paths of this machine."""
    recipe = redact(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    yield "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    for name in (provenance.FILE, "data/cleaning.json"):
        if (folder / name).is_file():
            yield name, _json(redact(read_json(folder / name)))
    earlier = ("tokenizer", *STAGES[: STAGES.index(stage)])
    finished = {each: key for each, key in read_json(folder / stage_state.FILE).items() if each in earlier}
    inputs = read_json(folder / stage_state.INPUTS)
    yield stage_state.FILE, _json(finished)
    # Only whole dependencies make the key: those with a secret or a path are left out, and the key alone counts.
    known = {each: inputs[each] for each in finished if each in inputs and redact(inputs[each]) == inputs[each]}
    yield stage_state.INPUTS, _json(known)
    if rows := read_json_lines(folder / SKIPPED_ROWS):
        yield SKIPPED_ROWS, "".join(f"{json.dumps(redact(row), ensure_ascii=False)}\n" for row in rows).encode()
    for each in STAGES[: STAGES.index(stage) + 1]:
        if marker := read_json(folder / each / stage_state.MARKER):
            whole = redact(marker) == marker
            yield f"{each}/{stage_state.MARKER}", _json(marker if whole else {"key": marker["key"]})
        for name in OF_STAGE:
            if (folder / each / name).is_file():
                yield f"{each}/{name}", (folder / each / name).read_bytes()


def _stage_checkpoint(checkpoint: Path, target: Path) -> None:
    """A checkpoint without the files that nothing needs, its checksums without them."""
    from hflm.training import CHECKSUMS

    sums = json.loads((checkpoint / CHECKSUMS).read_text())
    for name in [each for each in sums if each in LEFT_OUT]:
        del sums[name]
    for name in sums:
        if "/" in name:
            raise UserError(
                f"it is in parts ({name}), which cannot be read without running what is in them. Launch with "
                "fsdp_state_dict_type: FULL_STATE_DICT"
            )
        found = read_json(checkpoint / name) if name in REDACTED else None
        if found != redact(found):
            content = _json(redact(found))
            _write(target / name, content)
            sums[name] = hashlib.sha256(content).hexdigest()
        else:
            _link(checkpoint / name, target / name)
    _write(target / CHECKSUMS, _json(sums))


def restore_run(found: "HubCheckpoint", folder: Path, dependencies: Mapping[str, Dependencies]) -> None:
    """Put the run of a checkpoint on the Hub into `folder`, unless the one that is there is as far.

    `dependencies` are those of the recipe that is to continue. The folder appears whole; what was there is set aside.
    Raises UserError for a checkpoint of another recipe, and for one that is damaged or unsafe.
    """
    with locked_folder(folder):
        local = _progress(folder, dependencies)
    if local is not None and local >= found.snapshot.progress:
        number, step = local
        here = f"step {step:,} of {STAGES[number]}" if step else f"the end of {STAGES[number - 1]}"
        logger.info(f"{folder}: continues from {here}, which is here; {found} has {found.snapshot}")
        return
    staging = folder.absolute().with_name(f".{folder.name}.from-hub")
    marker = f"{found.snapshot.stage}/{stage_state.MARKER}"
    small = [each for each in (marker, stage_state.FILE, stage_state.INPUTS) if each in found.snapshot.files]
    with locked_folder(staging), phase(f"downloading {found.snapshot} from {found}"):
        _remove_others(staging, found.snapshot)
        found.download(small, staging)
        _check_recipe(found, staging, dependencies)
        found.download(found.snapshot.files, staging)
        found.check_content(staging)
        _check_checkpoint(found, staging)
    if folder.exists() and any(folder.iterdir()):
        logger.info(f"{folder}: what was there is not as far; it is now in {stage_state.set_aside(folder)}")
    os.rename(staging, folder)
    logger.info(f"{folder}: continues from {found.snapshot}, which came from {found}")


def _progress(folder: Path, dependencies: Mapping[str, Dependencies]) -> tuple[int, int] | None:
    """How far the run in `folder` is with these dependencies, as Snapshot.progress; None where it has none of it.

    A finished stage counts as the beginning of the next one.
    """
    from hflm.training import newest_valid_checkpoint, step_of

    state, reached = read_stage_state(folder), None
    for number, stage in enumerate(STAGES):
        if stage not in dependencies:
            continue
        if state.is_finished(stage, dependencies[stage]):
            reached = number + 1, 0
        elif state.is_begun(stage, dependencies[stage]):
            checkpoint = newest_valid_checkpoint(folder / stage)
            return (number, step_of(checkpoint)) if checkpoint else reached
        else:
            return reached
    return reached


def _check_recipe(found: "HubCheckpoint", staging: Path, dependencies: Mapping[str, Dependencies]) -> None:
    """Raise UserError where the checkpoint was made with other settings or data than `dependencies`."""
    state = read_stage_state(staging)
    for stage, key in found.snapshot.keys.items():
        if stage not in dependencies:
            change = f"this recipe has no {stage} section"
        elif key != dependencies_key(dependencies[stage]):
            change = f"{stage}: {state.changes(stage, dependencies[stage])}"
        else:
            continue
        raise UserError(
            f"{found}: its checkpoint ({found.snapshot}) belongs to another recipe or other data. {change}. Nothing was "
            "changed here. Use the recipe and the data that it was made with, or leave --from-hub out to start anew"
        )


def _check_checkpoint(found: "HubCheckpoint", staging: Path) -> None:
    from hflm.training import newest_valid_checkpoint

    newest = newest_valid_checkpoint(staging / found.snapshot.stage)
    if newest is None or newest.name != f"checkpoint-{found.snapshot.step}":
        raise UserError(f"{found}: it lists {found.snapshot}, and holds no such checkpoint that is complete")


def _remove_others(staging: Path, snapshot: Snapshot) -> None:
    """Leave of an interrupted download what belongs to `snapshot`."""
    for path in sorted(staging.rglob("*"), reverse=True):
        name = path.relative_to(staging)
        if name.parts[0] == ".cache" or name.as_posix() in {LOCK, *snapshot.files}:
            continue
        if not path.is_dir():
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(file, target)
