"""Which stages of a run are finished, and what is set aside when their dependencies have changed.

stages.json has the key of each finished stage, stage_inputs.json what went into the key, so that a run can say what has
changed. Runs of hflm 0.1 have keys of another form: they are translated by the recipe that the run recorded.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hflm.core import UserError, atomic_write_text, read_json
from hflm.evaluation import read_results
from hflm.inference import Endpoint
from hflm.pipeline.inputs import resolve_inputs
from hflm.pipeline.legacy_keys import legacy_stage_keys
from hflm.pipeline.stage_keys import Dependencies, dependencies_key, describe_changes, stage_dependencies
from hflm.recipe import load_recipe

METRICS = "metrics.jsonl"
FILE, INPUTS = "stages.json", "stage_inputs.json"
MARKER = "inputs.json"  # in a training stage's folder: what its checkpoints belong to


@dataclass
class StageState:
    """The finished stages of the run in `folder`: their keys and, as far as they are known, their dependencies.

    `translated` maps keys of an earlier hflm to today's.
    """

    folder: Path
    keys: dict[str, str] = field(default_factory=dict)
    dependencies: dict[str, Dependencies] = field(default_factory=dict)
    translated: dict[str, str] = field(default_factory=dict)

    def is_finished(self, stage: str, dependencies: Dependencies) -> bool:
        """Whether `stage` has ended with these dependencies."""
        return self.keys.get(stage) == dependencies_key(dependencies)

    def is_begun(self, stage: str, dependencies: Dependencies) -> bool:
        """Whether a training stage was stopped before its end, with these dependencies."""
        return self._marked(stage) == dependencies_key(dependencies)

    def changes(self, stage: str, dependencies: Dependencies) -> str:
        """What has changed since `stage` ended, or was stopped, in words."""
        before = self.known(stage)
        return "it was made from something else" if before is None else describe_changes(before, dependencies)

    def known(self, stage: str) -> Dependencies | None:
        """What a stage that ended, or a training stage that was stopped, depended on; None where it is not known."""
        if stage in self.dependencies:
            return self.dependencies[stage]
        marker = self._marker(stage)
        found = marker.get("dependencies")
        return found if found is not None and dependencies_key(found) == marker.get("key") else None

    def earlier(self, stage: str) -> list[dict[str, Any]]:
        """The trainings that were extended to the one in a stage's folder: their last step that it kept, and settings.

        [{"steps": 10, "settings": {"pretrain.args.max_steps": 10, "pretrain.args.learning_rate": 0.001}}]
        """
        return self._marker(stage).get("earlier", [])

    def finish(self, stage: str, dependencies: Dependencies) -> None:
        """Record that a stage has ended; later stages stay recorded, their keys say whether they are still valid."""
        self.keys[stage] = dependencies_key(dependencies)
        self.dependencies[stage] = dependencies
        self.write()

    def forget(self, *stages: str) -> None:
        """Mark stages as unfinished, because what they left is about to change."""
        if self.keys.keys() & set(stages):
            self.keys = {stage: key for stage, key in self.keys.items() if stage not in stages}
            self.write()

    def begin(self, stage: str, dependencies: Dependencies) -> Path | None:
        """Make a training stage's folder ready for these dependencies.

        What others left there is neither continued nor lost: it is set aside. Returns where, or None.
        """
        folder, aside, earlier = self.folder / stage, None, self.earlier(stage)
        if folder.exists() and not self.is_begun(stage, dependencies):
            self.forget(stage)
            if earlier:
                self._forget_after(stage)
            aside, earlier = set_aside(folder), []
        folder.mkdir(parents=True, exist_ok=True)
        self._mark(stage, dependencies, earlier)
        return aside

    def extend(self, stage: str, dependencies: Dependencies, checkpoint: Path, settings: dict[str, Any]) -> Path:
        """Let a training stage go on from `checkpoint` with other dependencies; `settings` are the earlier ones.

        Its model, its log and its later checkpoints are set aside. Returns where. What was made from its model is made
        again, even if an extended stage has by chance the key of another one.
        """
        folder, before = self.folder / stage, self.known(stage)
        assert before is not None, "only a stage whose dependencies are known is extended"
        steps = _step(checkpoint)
        earlier = [*self.earlier(stage), {"steps": steps, "settings": settings}]
        self._mark(stage, before, earlier[:-1])  # known also when it is no longer finished
        self.forget(stage)
        self._forget_after(stage)
        aside = aside_path(folder)
        aside.mkdir()
        for path in folder.iterdir():
            if path.name in ("model", "adapter") or _step(path) > steps:
                path.rename(aside / path.name)
        if (folder / METRICS).is_file():
            shutil.copy2(folder / METRICS, aside)
        self._mark(stage, dependencies, earlier)
        return aside

    def _mark(self, stage: str, dependencies: Dependencies, earlier: list[dict[str, Any]]) -> None:
        """Let the checkpoints in a training stage's folder belong to these dependencies."""
        marker: dict[str, Any] = {"key": dependencies_key(dependencies), "dependencies": dependencies}
        marker |= {"earlier": earlier} if earlier else {}
        atomic_write_text(self.folder / stage / MARKER, json.dumps(marker, ensure_ascii=False) + "\n")

    def _forget_after(self, stage: str) -> None:
        """Mark the stages after a training stage as unfinished."""
        self.forget(*(self.keys.keys() - {"tokenizer", "pretrain", stage}))

    def write(self) -> None:
        """Write stages.json and stage_inputs.json; the first counts, so it is the last."""
        known = {stage: each for stage, each in self.dependencies.items() if stage in self.keys}
        _write(self.folder / INPUTS, known)
        _write(self.folder / FILE, self.keys)

    def migrate(self) -> None:
        """Write today's keys in place of those of an earlier hflm, which can be read only with its recipe.yaml."""
        self.write()
        for marker in self.folder.glob(f"*/{MARKER}"):
            key = read_json(marker).get("key")
            if key in self.translated:
                atomic_write_text(marker, json.dumps({"key": self.translated[key]}) + "\n")

    def _marker(self, stage: str) -> dict[str, Any]:
        return read_json(self.folder / stage / MARKER)

    def _marked(self, stage: str) -> str | None:
        key = self._marker(stage).get("key")
        return None if key is None else self.translated.get(key, key)


def read_stage_state(folder: Path, endpoint: Endpoint | None = None) -> StageState:
    """The stages that ended in `folder` and whose results exist.

    Raises UserError for a results.json that cannot be read.
    """
    scores = folder / "benchmark" / "results.json"
    measured = read_results(scores).tasks if scores.exists() else {}
    keys = {
        stage: key
        for stage, key in read_json(folder / FILE).items()
        if not stage.startswith("benchmark/") or stage.removeprefix("benchmark/") in measured
    }
    known: dict[str, Dependencies] = read_json(folder / INPUTS)
    known = {stage: each for stage, each in known.items() if keys.get(stage) == dependencies_key(each)}
    state = StageState(folder, keys, known)
    if not keys.keys() <= known.keys() or not keys:
        _translate(state, endpoint)
    return state


def _step(path: Path) -> int:
    """The step of a checkpoint's folder, 0 of any other."""
    kind, _, step = path.name.partition("-")
    return int(step) if kind == "checkpoint" and step.isdigit() else 0


def set_aside(path: Path) -> Path:
    """Rename a folder or file to `<name>.previous`, `<name>.previous-2`...; returns the new path."""
    aside = aside_path(path)
    path.rename(aside)
    return aside


def aside_path(path: Path) -> Path:
    """Where `set_aside` would put it."""
    number, aside = 1, path.with_name(f"{path.name}.previous")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.previous-{number}")
    return aside


def _translate(state: StageState, endpoint: Endpoint | None) -> None:
    """Put today's keys in place of those of hflm 0.1, for stages that were made with the recorded recipe."""
    path = state.folder / "recipe.yaml"
    if not path.is_file():
        return
    try:
        recipe = load_recipe(str(path))
        inputs = resolve_inputs(recipe)
    except UserError:  # a recipe that hflm no longer reads
        return
    today = stage_dependencies(recipe, inputs, endpoint)
    for stage, legacy in legacy_stage_keys(recipe, inputs, endpoint).items():
        state.translated[legacy] = dependencies_key(today[stage])
        if state.keys.get(stage) == legacy:
            state.keys[stage] = dependencies_key(today[stage])
            state.dependencies[stage] = today[stage]


def _write(path: Path, content: dict[str, Any]) -> None:
    atomic_write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
