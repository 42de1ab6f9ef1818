"""Publication: the finished run goes to the Hub."""

from hflm.core import logger
from hflm.pipeline.stages.base import Run


class Push:
    name = "push"
    inputs: tuple[str, ...] = ("model", "benchmark", "card")

    def due(self, run: Run) -> bool:
        # The last stage: no other process waits for it, however it ends.
        return self.name in run.todo and run.ranks.is_main

    def run(self, run: Run) -> None:
        from hflm.publishing import push_run

        run.begin()
        logger.info(f"pushed to {push_run(run.folder, run.recipe)}")

    def finish(self, run: Run) -> None:
        run.state.finish(self.name, run.dependencies[self.name])
