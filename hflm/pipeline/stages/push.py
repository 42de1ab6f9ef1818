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
        from hflm.publishing import STAGES, push_run, remove_branch

        run.begin()
        logger.info(f"pushed to {push_run(run.folder, run.recipe)}")
        push = run.recipe.push
        if push is not None and push.checkpoints and run.uploads is not None:
            run.uploads.close()
            remove_branch(push.repo_id, {each: run.state.keys[each] for each in STAGES if each in run.state.keys})

    def finish(self, run: Run) -> None:
        run.state.finish(self.name, run.dependencies[self.name])
