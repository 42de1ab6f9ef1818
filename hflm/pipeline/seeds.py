"""`hflm run --seeds N`: the same recipe with several seeds, side by side, and the spread of their scores.

    runs/<name>-seeds/seed-42/, seed-43/...   ordinary runs
    runs/<name>-seeds/seeds.json, README.md   means and spreads

The stages that do not depend on the seed (a tokenizer) are computed once.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hflm.core import atomic_write_text, configure_logging, logger, markdown_table, plain_table, read_json
from hflm.evaluation import SEEDS_FILE, Spread, read_results, spread
from hflm.pipeline.console import is_first_process
from hflm.pipeline.run import RunOptions, run_recipe
from hflm.pipeline.run_folder import check_run_folder, group_folder, locked_folder
from hflm.pipeline.shared_stages import reuse_stages
from hflm.recipe import Recipe


def run_with_seeds(
    recipe: Recipe, count: int, output: str | Path | None = None, options: RunOptions | None = None
) -> None:
    """Run `recipe` with `count` seeds from its own on, in folders of `output` (default: runs/<name>-seeds).

    Nothing is pushed: a repository holds one model. Raises what `run_recipe` raises; the same command continues.
    """
    configure_logging()
    options = options or RunOptions()
    default, refusal = Path("runs") / f"{recipe.name}-seeds", "holds no runs of several seeds"
    folder = group_folder(default, output, SEEDS_FILE, lambda name: name.startswith("seed"), refusal)
    seeds = [recipe.seed + number for number in range(count)]
    if recipe.push is not None and is_first_process():
        logger.info("push: left out, since several seeds are several models; `hflm push` sends one of them")
    runs = [check_run_folder(folder / f"seed-{seed}") for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        one = recipe.model_copy(update={"seed": seed, "push": None, "sweep": None})
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if alone and not (options.dry_run or options.fresh):
            with locked_folder(run):
                reuse_stages(one, run, [each for each in runs if each != run])
        run_recipe(one, run, options)
    if is_first_process() and not options.dry_run:
        _write_summary(recipe, folder, seeds)


def scores_of(run: Path) -> dict[str, float]:
    """The scores of a finished run: {"finetune final_eval_loss": 1.2, "sentiment accuracy": 0.8}."""
    scores = {}
    for stage, record in read_json(run / "environment.json").get("stages", {}).items():
        for name in ("final_loss", "final_eval_loss"):
            if record.get(name) is not None:
                scores[f"{stage} {name}"] = record[name]
    results = run / "benchmark" / "results.json"
    for task, found in read_results(results).tasks.items() if results.exists() else ():
        scores |= {f"{task} {metric}": score.value for metric, score in found.metrics.items()}
    return scores


def _write_summary(recipe: Recipe, folder: Path, seeds: Sequence[int]) -> None:
    """seeds.json, README.md and the table in the terminal."""
    from rich.console import Console

    each = [scores_of(folder / f"seed-{seed}") for seed in seeds]
    names = [name for name in each[0] if all(name in scores for scores in each)]
    values = {name: [scores[name] for scores in each] for name in names}
    spreads = {name: spread(found) for name, found in values.items()}
    described = {name: {**asdict(found), "values": values[name]} for name, found in spreads.items()}
    content = {"recipe": recipe.name, "seeds": list(seeds), "scores": described}
    headings = ("score", "mean", "sd", "95 % interval", "lowest", "highest")
    rows = [_cells(name, found) for name, found in spreads.items()]
    text = f"# {recipe.name} with {len(seeds)} seeds\n\n{markdown_table(headings, rows)}\n\n{METHOD}\n"
    atomic_write_text(folder / "README.md", text)
    atomic_write_text(folder / SEEDS_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    Console().print(plain_table(f"{recipe.name}: {len(seeds)} seeds", headings, rows))
    logger.info(f"summary: {folder / 'README.md'}")


METHOD = (
    "sd is the standard deviation over the seeds, the interval Student's t for the mean. The test rows are the same in each "
    "run: this is the luck of training alone. `hflm compare` of two such folders judges a difference by both."
)


def _cells(name: str, found: Spread) -> tuple[str, ...]:
    assert found.sd is not None and found.ci95 is not None  # of two seeds or more
    interval = f"{found.ci95[0]:.4g} to {found.ci95[1]:.4g}"
    return (name, f"{found.mean:.4g}", f"{found.sd:.2g}", interval, f"{found.low:.4g}", f"{found.high:.4g}")
