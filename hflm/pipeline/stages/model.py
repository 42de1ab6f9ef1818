"""The finished model: the weights of the last training stage, in `model/`.

The scores of the weights that it replaces are set aside with their predictions.
"""

import shutil

from hflm.core import atomic_folder, logger
from hflm.pipeline import stage_state
from hflm.pipeline.stages.base import RecordedStage, Run


class Model(RecordedStage):
    name = "model"
    inputs: tuple[str, ...] = ("pretrain", "finetune")

    def run(self, run: Run) -> None:
        run.begin()
        scores = [stage for stage in run.state.keys if stage.startswith("benchmark/")]
        run.forget(self.name, "card", *scores)
        if not run.ranks.is_main:
            return
        benchmark = run.folder / "benchmark"
        if benchmark.exists():
            logger.info(f"benchmark: the scores of the earlier model are now in {stage_state.set_aside(benchmark)}")
        last = "finetune" if run.recipe.finetune else "pretrain"
        with atomic_folder(run.folder / "model") as partial:
            shutil.copytree(run.folder / last / "model", partial, dirs_exist_ok=True)
