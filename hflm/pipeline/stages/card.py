"""The model card: README.md, its plots, and the summary in the terminal."""

from pathlib import Path

from hflm.core import logger
from hflm.evaluation import keep_tasks, read_results, results_table
from hflm.pipeline.stages.base import Run
from hflm.recipe import Recipe


class Card:
    name = "card"
    inputs = ("tokenizer", "pretrain", "finetune", "model", "benchmark")

    def due(self, run: Run) -> bool:
        return True

    def run(self, run: Run) -> None:
        if not run.state.is_main_process:
            return
        from hflm.publishing import write_card

        if run.recipe.benchmark is not None:
            keep_tasks(run.recipe.benchmark.tasks, run.folder / "benchmark" / "results.json")
        write_card(run.folder, run.recipe)

    def finish(self, run: Run) -> None:
        if run.state.is_main_process:
            show_summary(run.folder, run.recipe)
        run.state.wait_for_everyone()


def show_summary(folder: Path, recipe: Recipe) -> None:
    """Print the benchmark's table and where the card is."""
    from rich.console import Console

    if recipe.benchmark is not None:
        Console().print(results_table(read_results(folder / "benchmark" / "results.json")))
    logger.info(f"card: {folder / 'README.md'}")
