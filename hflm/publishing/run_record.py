"""What a finished run left on disk, read once for its card and its push."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hflm.core import LossCurves, last_path_part, mask_tokens, read_json, read_loss_curves, redact
from hflm.evaluation import Results, read_results, tasks_of_other_weights
from hflm.recipe import Data, Recipe


@dataclass(frozen=True)
class RunRecord:
    """A run's files: `environment` and `config` are {} without theirs.

    `results` holds the scores of the weights in model/; `stale_tasks` names the tasks that were measured on others.
    """

    run: Path
    recipe: Recipe
    environment: dict[str, Any]
    config: dict[str, Any]
    results: Results
    stale_tasks: tuple[str, ...]
    loss_curves: dict[str, LossCurves]

    @cached_property
    def hub_ids(self) -> frozenset[str]:
        """The data sets and models that the run read from the Hub, as it recorded them: only these have a commit."""
        read = list((self.environment.get("data") or {}).values())
        model = self.environment.get("model") or {}
        return frozenset(
            [each["path"] for each in read if "commit" in each and "path" in each]
            + ([model["from"]] if "commit" in model and model.get("from") else [])
        )

    def display_name(self, path: str) -> str:
        """A Hub id or a URL in full, anything local by its last part."""
        return redact(path) if path in self.hub_ids or "://" in path else mask_tokens(last_path_part(path))

    def training_data(self) -> list[Data]:
        """The data sets that training read, in order."""
        recipe = self.recipe
        tasks = recipe.finetune.tasks if recipe.finetune else ()
        return [*(recipe.pretrain.data if recipe.pretrain else ()), *(recipe.tasks[name].data for name in tasks)]

    def files(self) -> Iterator[Path]:
        """All files that a card is made from."""
        names = ["environment.json", "benchmark/results.json", "data/cleaning.json", "model/config.json"]
        names += [f"{stage}/metrics.jsonl" for stage in ("pretrain", "finetune")]
        yield from (self.run / name for name in names if (self.run / name).is_file())
        yield from sorted((self.run / "benchmark" / "predictions").glob("*.jsonl"))


def read_run(run: str | Path, recipe: Recipe) -> RunRecord:
    """Read a run's folder. Raises UserError for a results.json that cannot be read."""
    run = Path(run)
    found, stale = current_results(run)
    curves = {
        stage: read_loss_curves(run / stage / "metrics.jsonl")
        for stage in ("pretrain", "finetune")
        if getattr(recipe, stage)
    }
    return RunRecord(
        run,
        recipe,
        read_json(run / "environment.json"),
        read_json(run / "model" / "config.json"),
        found,
        stale,
        {stage: each for stage, each in curves.items() if each.curves},
    )


def current_results(run: Path) -> tuple[Results, tuple[str, ...]]:
    """(the scores of the weights in model/, the names of the tasks that other weights were measured on)."""
    path = run / "benchmark" / "results.json"
    found = read_results(path) if path.exists() else Results("", {})
    stale = tasks_of_other_weights(run, found)
    return replace(found, tasks={name: task for name, task in found.tasks.items() if name not in stale}), stale
