"""The model card: README.md and its plots, of the scores that belong to the model; the summary in the terminal."""

import shutil
from dataclasses import replace
from pathlib import Path

from hflm.core import fingerprint_files, fingerprint_model, logger
from hflm.evaluation import read_results, results_table, write_results
from hflm.pipeline import provenance, stage_state
from hflm.pipeline.stage_keys import Dependencies
from hflm.pipeline.stages.base import Run
from hflm.recipe import Recipe

# What the card is made from, in the run's folder.
SOURCES = ("recipe.yaml", provenance.FILE, "benchmark/results.json", "data/cleaning.json")


class Card:
    name = "card"
    inputs: tuple[str, ...] = ("tokenizer", "pretrain", "finetune", "model", "benchmark")

    def due(self, run: Run) -> bool:
        return run.ranks.is_main

    def run(self, run: Run) -> None:
        run.begin()
        write_card(run.folder, run.recipe)

    def finish(self, run: Run) -> None:
        run.state.finish(self.name, card_sources(run.folder))
        show_summary(run.folder, run.recipe)


def write_card(folder: Path, recipe: Recipe) -> None:
    """Write README.md and its plots."""
    from hflm import publishing

    set_stale_scores_aside(folder, recipe)
    publishing.write_card(folder, recipe)


def card_sources(folder: Path) -> Dependencies:
    """What the card was made from."""
    return {f"content of {name}": fingerprint_files([folder / name]) for name in SOURCES if (folder / name).is_file()}


def is_current(state: stage_state.StageState) -> bool:
    """Whether the card is there and was made from what is in the run's folder."""
    return (state.folder / "README.md").is_file() and state.is_finished("card", card_sources(state.folder))


def set_stale_scores_aside(folder: Path, recipe: Recipe) -> None:
    """Leave in benchmark/ the scores of the recipe's tasks and, for a trained model, of these weights."""
    path = folder / "benchmark" / "results.json"
    if not path.exists():
        return
    found = read_results(path)
    wanted = recipe.benchmark.tasks if recipe.benchmark else ()
    trained = recipe.pretrain is not None or recipe.finetune is not None
    weights = fingerprint_model(str(folder)) if trained else None
    current = {
        name: found.tasks[name]
        for name in wanted
        if name in found.tasks and (weights is None or found.tasks[name].model_revision in (weights, None))
    }
    if current.keys() == found.tasks.keys() and list(current) == list(found.tasks):
        return
    if not current:
        logger.info(
            f"benchmark: scores of other tasks or weights are now in {stage_state.set_aside(folder / 'benchmark')}"
        )
        return
    if current.keys() != found.tasks.keys():
        aside = stage_state.aside_path(folder / "benchmark")
        (aside / "predictions").mkdir(parents=True)
        shutil.copy2(path, aside)
        for name in found.tasks.keys() - current.keys():
            predictions = folder / "benchmark" / "predictions" / f"{name}.jsonl"
            if predictions.exists():
                predictions.rename(aside / "predictions" / predictions.name)
        logger.info(f"benchmark: scores of other tasks or weights are now in {aside}")
    write_results(replace(found, tasks=current), path)


def show_summary(folder: Path, recipe: Recipe) -> None:
    """Print the benchmark's table and where the card is."""
    from rich.console import Console

    if recipe.benchmark is not None:
        Console().print(results_table(read_results(folder / "benchmark" / "results.json")))
    logger.info(f"card: {folder / 'README.md'}")
