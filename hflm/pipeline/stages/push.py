"""Publication: the finished run goes to the Hub."""

from hflm.core import logger
from hflm.pipeline import stage_state
from hflm.pipeline.stages.base import Run


class Push:
    name = "push"
    inputs = ("model", "benchmark", "card")

    def due(self, run: Run) -> bool:
        # The last stage: no other process waits for it, however it ends.
        return self.name in run.todo and run.state.is_main_process

    def run(self, run: Run) -> None:
        from hflm.publishing import push_run

        logger.info(f"pushed to {push_run(run.folder, run.recipe)}")

    def finish(self, run: Run) -> None:
        stage_state.finish(run.folder, self.name, run.keys[self.name])
