"""A worker of a study whose trials are quick: `sweep_worker.py STORAGE FOLDER SLOTS LOG`.

Each trial that begins and each that ends is a line of LOG. Used by tests that kill workers.
"""

import os
import sys
from pathlib import Path

from hflm.pipeline import sweep_study
from hflm.pipeline.run_folder import this_process
from hflm.pipeline.sweep_storage import has_heartbeat, open_storage, require_optuna
from hflm.pipeline.sweep_study import SLOT, WORKER, Slots, open_study


def main(storage: str, folder: str, slots: str, log: str) -> None:
    sweep_study.UNNAMED_SECONDS = 1
    require_optuna()
    from optuna.pruners import NopPruner
    from optuna.samplers import RandomSampler

    with (
        open_storage(None if storage == "sqlite" else storage, Path(folder)) as opened,
        open(log, "a", buffering=1) as lines,
    ):
        study = open_study(opened, "study", ["minimize"], {"recipe": 1})

        def objective(trial):  # type: ignore[no-untyped-def]
            trial.set_user_attr(WORKER, this_process())
            slot = trial.user_attrs[SLOT]
            lines.write(f"begin {slot} {os.getpid()}\n")
            value = trial.suggest_float("x", 0, 1)
            for step in range(5):
                trial.report(value, step)
            lines.write(f"end {slot} {os.getpid()}\n")
            return value

        fixed = {str(number): {} for number in range(int(slots))}
        work = Slots(study, has_heartbeat(opened), fixed, ["x"], lambda slot: Path(folder) / slot)
        work.work(objective, lambda begun: RandomSampler(seed=begun % 2**32), NopPruner())


if __name__ == "__main__":
    main(*sys.argv[1:])
