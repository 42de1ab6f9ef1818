"""`hflm run`: a recipe's stages in order.

A stage that ended with the same inputs is skipped, an unfinished one is continued. Everything that a recipe names is
read before anything is trained, so that a bad row is found in the first minute and not after a night.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from hflm.core import UserError, atomic_write_text, configure_logging, expand_path, logger, read_json
from hflm.data import SKIPPED_ROWS
from hflm.inference import Endpoint
from hflm.pipeline import process_setup, provenance, stage_state
from hflm.pipeline.inputs import resolve_inputs
from hflm.pipeline.reading import Corpus, read_corpus, read_tasks
from hflm.pipeline.stage_keys import stage_keys
from hflm.pipeline.stages import STAGES, Run
from hflm.pipeline.stages.card import show_summary
from hflm.recipe import Recipe, dump_recipe, require_trackers

if TYPE_CHECKING:
    from accelerate import PartialState


def run_recipe(
    recipe: Recipe,
    output: str | Path | None = None,
    fresh: bool = False,
    locked: bool = False,
    endpoint: Endpoint | None = None,
) -> None:
    """Run `recipe` in `output` (default: runs/<name>); `fresh` sets an earlier run in that folder aside first.

    `locked`: only when all data and models are those of the folder's environment.json. With an Endpoint its answers
    are measured, in place of a model that is loaded here.
    """
    configure_logging()
    folder = expand_path(output) if output else Path("runs") / recipe.name
    inputs = resolve_inputs(recipe)
    if locked:
        provenance.check_locked(folder, inputs)
    keys = stage_keys(recipe, inputs, endpoint)
    finished = {} if fresh else stage_state.finished_stages(folder)
    todo = frozenset(stage for stage, key in keys.items() if finished.get(stage) != key)
    # What no stage depends on (a licence, a task less) changes the record and the card.
    recorded = folder / "recipe.yaml"
    if not todo and recorded.exists() and recorded.read_text(encoding="utf-8") == dump_recipe(recipe):
        logger.info(f"{folder}: finished, and nothing in the recipe or its data has changed.")
        if int(os.environ.get("RANK", "0")) == 0:
            from hflm.publishing import write_card

            write_card(folder, recipe)  # the run may have stopped before it, or the file was removed
        show_summary(folder, recipe)
        return

    _check_packages(recipe, todo)
    state = _start(recipe)
    _check_processes(recipe, state)
    from hflm.training import first_process_first

    with first_process_first():  # the others find what the first one cached
        rows = read_tasks(recipe, todo, logger.info)
        corpus = read_corpus(recipe, todo, logger.info, folder / SKIPPED_ROWS)
    run = Run(recipe, folder, inputs, keys, todo, rows, corpus, state, endpoint)
    if state.is_main_process:
        if fresh and folder.exists():
            logger.info(f"{folder}: the earlier run is now in {stage_state.set_aside(folder)}")
        _write_records(run)
    state.wait_for_everyone()
    logger.info(f"{folder}: {state.num_processes} process{'es' * (state.num_processes > 1)} on {state.device}")

    for stage in STAGES:
        if stage.due(run):
            stage.run(run)
            stage.finish(run)


def _check_packages(recipe: Recipe, todo: Collection[str]) -> None:
    """Raise UserError for an optional package that a stage will need."""
    if "finetune" in todo and recipe.finetune is not None and recipe.finetune.quantization is not None:
        from hflm.models import check_quantization

        check_quantization()
    for stage in ("pretrain", "finetune"):
        if stage in todo:
            require_trackers(getattr(recipe, stage).args.get("report_to"), stage)


def _check_processes(recipe: Recipe, state: "PartialState") -> None:
    if recipe.processes is not None and state.num_processes < recipe.processes:
        raise UserError(
            f"processes: the recipe asks for {recipe.processes}, and {state.num_processes} started. Use `torchrun "
            f"--nproc_per_node {recipe.processes} -m hflm run ...`, or accelerate launch with a configuration of "
            "recipes/launch (with --cpu alone it starts one process)"
        )


def _write_records(run: Run) -> None:
    """recipe.yaml, environment.json and the report of the cleaning, before the first stage."""
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    if read_json(folder / "pretrain" / stage_state.MARKER).get("key") != run.keys.get("pretrain"):
        (folder / SKIPPED_ROWS).unlink(missing_ok=True)  # it belongs to other data
    atomic_write_text(folder / "recipe.yaml", dump_recipe(run.recipe))
    if run.todo != {"push"}:  # what is pushed again is what the run left
        described = provenance.describe(run.recipe, run.inputs, run.state.num_processes)
        provenance.write_environment(folder, described, run.keys)
        _report_cleaning(folder, run.recipe, run.corpus)


def _report_cleaning(folder: Path, recipe: Recipe, corpus: Corpus | None) -> None:
    """What cleaning left out of the corpus, in the terminal and in data/cleaning.json."""
    path = folder / "data" / "cleaning.json"
    if corpus is not None and corpus.cleaning is not None:
        from rich.console import Console

        from hflm.data.cleaning import cleaning_table, write_report

        write_report(corpus.cleaning, path)
        Console(stderr=True).print(cleaning_table(corpus.cleaning))
    elif corpus is not None or recipe.pretrain is None or recipe.pretrain.clean is None:
        path.unlink(missing_ok=True)


def _start(recipe: Recipe) -> "PartialState":
    """The process group (one process unless a launcher started several), seeded."""
    from logging import ERROR, getLogger

    getLogger("bitsandbytes").setLevel(ERROR)  # a faster kernel that it misses, each product that it casts
    from accelerate.utils import set_seed
    from transformers.utils import logging

    from hflm.training import start_processes

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    for line in process_setup.tune(spare_memory=_saves_memory(recipe)):
        logger.info(line)
    set_seed(recipe.seed)
    sections = [section for section in (recipe.pretrain, recipe.finetune) if section is not None]
    return start_processes(max((section.args.get("ddp_timeout", 1800) for section in sections), default=1800))


def _saves_memory(recipe: Recipe) -> bool:
    """Whether a stage trades time for memory."""
    sections = [section for section in (recipe.pretrain, recipe.finetune) if section is not None]
    return any(section.args.get("activation_checkpointing") for section in sections)
