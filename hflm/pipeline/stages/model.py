"""The finished model: the weights of the last training stage, in `model/`."""

import shutil

from hflm.core import atomic_folder
from hflm.pipeline.stages.base import RecordedStage, Run


class Model(RecordedStage):
    name = "model"
    inputs = ("pretrain", "finetune")

    def run(self, run: Run) -> None:
        run.forget(self.name)
        if run.state.is_main_process:
            last = "finetune" if run.recipe.finetune else "pretrain"
            with atomic_folder(run.folder / "model") as beside:
                shutil.copytree(run.folder / last / "model", beside, dirs_exist_ok=True)
