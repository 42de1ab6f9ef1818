"""What a stage is, and what a run hands to each of its stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hflm.inference import Endpoint
from hflm.pipeline.inputs import Inputs
from hflm.pipeline.ranks import Ranks
from hflm.pipeline.reading import Corpus, RowsByUse
from hflm.pipeline.stage_keys import Dependencies
from hflm.pipeline.stage_state import StageState
from hflm.recipe import Recipe

if TYPE_CHECKING:
    from hflm.publishing import CheckpointUploads

# Receives (stage, fraction of its steps that are done, scores such as {"eval_loss": 2.1}) at each evaluation; what it
# raises ends the run.
OnEvaluation = Callable[[str, float, dict[str, float]], None]


@dataclass(frozen=True)
class Run:
    """A run in progress: the recipe, its folder, what was read for it, and the processes.

    `dependencies` has what each stage of the recipe depends on, `todo` the names of those to run, `extended` of those
    that go on with other settings, `state` those that are finished. Rows, corpus and `uploads`, which sends checkpoints
    to the Hub, are held by the main process alone.
    `begin` writes the records of the run (recipe.yaml, environment.json, run.log), once and in the main process alone.
    The first stage calls it when nothing can be refused any more, so that a refused run changes nothing.
    """

    recipe: Recipe
    folder: Path
    inputs: Inputs
    dependencies: Mapping[str, Dependencies]
    todo: frozenset[str]
    state: StageState
    ranks: Ranks
    rows: RowsByUse
    corpus: Corpus | None
    begin: Callable[[], None]
    endpoint: Endpoint | None = None
    extended: frozenset[str] = frozenset()
    on_evaluation: OnEvaluation | None = None
    predicts: bool = True
    uploads: "CheckpointUploads | None" = None

    @property
    def trains(self) -> bool:
        return self.recipe.pretrain is not None or self.recipe.finetune is not None

    def record(self, stage: str) -> None:
        """Record in stages.json that `stage` has ended, once every process is here."""
        self.ranks.wait_for_all()
        if self.ranks.is_main:
            self.state.finish(stage, self.dependencies[stage])

    def forget(self, *stages: str) -> None:
        """Mark stages as unfinished before their files change."""
        if self.ranks.is_main:
            self.state.forget(*stages)


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
        """Do the work; every process calls it. `run.begin` comes before the first file that it writes."""
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
