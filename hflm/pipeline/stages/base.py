"""What a stage is, and what a run hands to each of its stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hflm.inference import Endpoint
from hflm.pipeline import stage_state
from hflm.pipeline.inputs import Inputs
from hflm.pipeline.reading import Corpus, RowsByUse
from hflm.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass(frozen=True)
class Run:
    """A run in progress: the recipe, its folder, what was read for it, and the process group.

    `keys` has the key of every stage of the recipe, `todo` the names of those to run.
    """

    recipe: Recipe
    folder: Path
    inputs: Inputs
    keys: Mapping[str, str]
    todo: frozenset[str]
    rows: RowsByUse
    corpus: Corpus | None
    state: "PartialState"
    endpoint: Endpoint | None = None

    def record(self, stage: str) -> None:
        """Record in stages.json that `stage` has ended."""
        if self.state.is_main_process:
            stage_state.finish(self.folder, stage, self.keys[stage])
        self.state.wait_for_everyone()

    def forget(self, *stages: str) -> None:
        """Mark stages as unfinished before their files change."""
        if self.state.is_main_process:
            stage_state.forget(self.folder, *stages)
        self.state.wait_for_everyone()


class Stage(Protocol):
    """One step of a run.

    A stage reads the recipe, the resolved inputs and the folders of the stages in `inputs`, and writes its own folder.
    """

    name: str
    inputs: tuple[str, ...]

    def due(self, run: Run) -> bool:
        """Whether the stage has to run."""
        ...

    def run(self, run: Run) -> None:
        """Do the work; every process calls it."""
        ...

    def finish(self, run: Run) -> None:
        """Record that the stage has ended."""
        ...


class RecordedStage:
    """A stage with one entry in stages.json, under its name."""

    name: str

    def due(self, run: Run) -> bool:
        return self.name in run.todo

    def finish(self, run: Run) -> None:
        run.record(self.name)
