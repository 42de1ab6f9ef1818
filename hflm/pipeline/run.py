"""`hflm run`: a recipe's stages in order.

A stage that ended with the same inputs is skipped, an unfinished one is continued. Everything that a recipe names is
read before anything is trained, so that a bad row is found in the first minute and not after a night.
"""

import sys
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hflm.core import UserError, atomic_write_text, configure_logging, logger
from hflm.data import SKIPPED_ROWS
from hflm.inference import Endpoint
from hflm.pipeline import process_setup, provenance, stage_state
from hflm.pipeline.console import RunLog, is_first_process, logged, phase
from hflm.pipeline.hub_checkpoints import checkpoint_uploads, restore_run
from hflm.pipeline.inputs import Inputs, resolve_inputs
from hflm.pipeline.look_ahead import UNTRAINED, measures_nothing
from hflm.pipeline.ranks import Ranks, several_started
from hflm.pipeline.reading import Corpus, read_corpus, read_tasks
from hflm.pipeline.run_folder import LOG, locked_folder, run_folder
from hflm.pipeline.schedule import Scheduled, retrained, schedule
from hflm.pipeline.stage_keys import Dependencies, stage_dependencies
from hflm.pipeline.stage_state import StageState, read_stage_state
from hflm.pipeline.stages import STAGES, OnEvaluation, Run, card
from hflm.recipe import Recipe, dump_recipe, require_trackers, without_sweep

if TYPE_CHECKING:
    from hflm.publishing import CheckpointUploads


@dataclass(frozen=True)
class RunOptions:
    """How to run: the options of `hflm run`.

    `fresh`: set an earlier run in the folder aside first. `locked`: only when all data and models are those of the
    folder's environment.json. `dry_run`: print which stages would run, and why. `yes`: train a finished stage again
    without asking. `extend`: a training stage whose length or learning rate has changed goes on from its checkpoint.
    `last`: the last stage to run; neither the card nor the push is made. `on_evaluation`: receives the
    scores of each evaluation. `predict`: whether speed and memory of a stage are predicted before it, which takes some
    seconds. `from_hub`: "you/name", the repository whose checkpoint the run continues from, or "you/name@branch".
    """

    fresh: bool = False
    locked: bool = False
    dry_run: bool = False
    yes: bool = False
    extend: bool = False
    last: str | None = None
    on_evaluation: OnEvaluation | None = None
    predict: bool = True
    from_hub: str | None = None


def run_recipe(
    recipe: Recipe,
    output: str | Path | None = None,
    options: RunOptions | None = None,
    endpoint: Endpoint | None = None,
) -> None:
    """Run `recipe` in `output` (default: runs/<name>).

    With an Endpoint its answers are measured, in place of a model that is loaded here.
    """
    configure_logging()
    recipe = without_sweep(recipe)
    with logged() as log:
        _run(recipe, run_folder(recipe, output), options or RunOptions(), endpoint, log)


@dataclass(frozen=True)
class _Plan:
    """What a recipe reads and what has to be done. `unchanged`: the run has ended as the recipe says."""

    inputs: Inputs
    dependencies: dict[str, Dependencies]
    state: StageState
    scheduled: list[Scheduled]
    unchanged: bool

    @property
    def todo(self) -> frozenset[str]:
        return frozenset(each.stage for each in self.scheduled if each.due)


def _run(recipe: Recipe, folder: Path, options: RunOptions, endpoint: Endpoint | None, log: RunLog) -> None:
    if options.fresh and options.extend:
        raise UserError("--fresh starts anew and --extend goes on: use one of the two")
    if options.from_hub is not None and (options.fresh or options.extend or options.dry_run):
        raise UserError("--from-hub continues a run as it was: it goes with none of --fresh, --extend and --dry-run")
    if endpoint is None and measures_nothing(recipe):
        raise UserError(f"model: {UNTRAINED}")
    logger.info(f"{recipe.name}: {folder}")
    # A single process loads torch only when it knows that there is something to do.
    ranks = process_setup.start(recipe) if several_started() else None
    with ExitStack() as held:
        plan = None
        if is_first_process():  # of several processes only one reads each file for its checksum
            with phase("checksums of data and models"):
                inputs = resolve_inputs(recipe)
                dependencies = stage_dependencies(recipe, inputs, endpoint)
            if options.from_hub is not None:
                from hflm.publishing import find_checkpoint

                restore_run(find_checkpoint(options.from_hub), folder, dependencies)
            plan = _plan(recipe, inputs, dependencies, folder, options, endpoint)
            if not plan.unchanged and not options.dry_run:
                held.enter_context(locked_folder(folder))
                # Another run may have ended since.
                plan = _plan(recipe, inputs, dependencies, folder, options, endpoint)
        plan = ranks.broadcast(plan) if ranks is not None else plan
        assert plan is not None, "the main process has sent it"
        if options.dry_run:
            if is_first_process():
                print("\n".join(map(str, plan.scheduled)))
            return
        if plan.unchanged:
            held.close()
            if options.last is None:
                _end_unchanged(recipe, plan.state)
            return
        _confirm(plan, options)
        _check_packages(recipe, plan.todo)
        ranks = ranks or process_setup.start(recipe)
        _check_processes(recipe, ranks)
        if options.fresh and ranks.is_main:
            held.close()  # the lock would be set aside, too
            if folder.exists():
                logger.info(f"{folder}: the earlier run is now in {stage_state.set_aside(folder)}")
            held.enter_context(locked_folder(folder))
        sends = ranks.is_main and options.last is None
        uploads = held.enter_context(checkpoint_uploads(recipe, folder)) if sends else None
        _run_stages(recipe, plan, ranks, endpoint, log, options, uploads)


def _plan(
    recipe: Recipe,
    inputs: Inputs,
    dependencies: dict[str, Dependencies],
    folder: Path,
    options: RunOptions,
    endpoint: Endpoint | None,
) -> _Plan:
    """The _Plan of a run, from what its folder holds now."""
    if options.locked:
        provenance.check_locked(folder, inputs)
    state = StageState(folder) if options.fresh else read_stage_state(folder, endpoint)
    until = _until(options.last)
    scheduled = schedule(dependencies, state, options.fresh, options.extend)
    scheduled = [each for each in scheduled if each.stage.split("/")[0] in until]
    # What no stage depends on (a licence, a task less) changes the record and the card.
    recorded = folder / "recipe.yaml"
    is_recorded = recorded.exists() and recorded.read_text(encoding="utf-8") == dump_recipe(recipe)
    unchanged = (is_recorded or options.last is not None) and not any(each.due for each in scheduled)
    return _Plan(inputs, dependencies, state, scheduled, unchanged)


def _until(last: str | None) -> list[str]:
    """The names of the stages up to `last`, of all without it."""
    names = [stage.name for stage in STAGES]
    return names if last is None else names[: names.index(last) + 1]


def _run_stages(
    recipe: Recipe,
    plan: _Plan,
    ranks: Ranks,
    endpoint: Endpoint | None,
    log: RunLog,
    options: RunOptions,
    uploads: "CheckpointUploads | None",
) -> None:
    rows, corpus, folder, todo = {}, None, plan.state.folder, plan.todo
    if ranks.is_main:
        with phase("reading and checking the data"):
            rows = read_tasks(recipe, plan.inputs, todo, logger.info)
            corpus = read_corpus(recipe, plan.inputs, todo, logger.info, folder / SKIPPED_ROWS)
    extended = frozenset(each.stage for each in plan.scheduled if each.extends)

    @cache
    def begin() -> None:
        if ranks.is_main:
            log.open(folder / LOG)
            _write_records(run)

    run = Run(
        recipe,
        folder,
        plan.inputs,
        plan.dependencies,
        todo,
        plan.state,
        ranks,
        rows,
        corpus,
        begin,
        endpoint,
        extended,
        on_evaluation=options.on_evaluation,
        predicts=options.predict,
        uploads=uploads,
    )
    logger.info(f"{folder}: {ranks.count} process{'es' * (ranks.count > 1)} on {ranks.device}")
    for stage in STAGES:
        if stage.name in _until(options.last) and stage.due(run):
            stage.run(run)
            stage.finish(run)


def _end_unchanged(recipe: Recipe, state: StageState) -> None:
    """Nothing is left to do, unless an earlier run was stopped before its card."""
    if not is_first_process():
        return
    logger.info(f"{state.folder}: finished, and nothing in the recipe or its data has changed.")
    if not card.is_current(state):
        with locked_folder(state.folder):
            card.write_card(state.folder, recipe)
            state.finish("card", card.card_sources(state.folder))
    card.show_summary(state.folder, recipe)


def _confirm(plan: _Plan, options: RunOptions) -> None:
    """Announce finished training stages that would be trained again; ask, where somebody can answer."""
    lines = retrained(plan.scheduled, plan.state, plan.dependencies)
    for line in [str(each) for each in plan.scheduled if each.extends] + lines:
        logger.info(line)
    asks = lines and not options.yes and is_first_process() and sys.stdin.isatty() and sys.stderr.isatty()
    if asks and input("Train again? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was run. `hflm run --dry-run` says what has changed, --yes trains without asking")


def _check_packages(recipe: Recipe, todo: Collection[str]) -> None:
    """Raise UserError for an optional package that a stage will need."""
    if "finetune" in todo and recipe.finetune is not None and recipe.finetune.quantization is not None:
        from hflm.models import check_quantization

        check_quantization()
    for stage in ("pretrain", "finetune"):
        if stage in todo:
            require_trackers(getattr(recipe, stage).args.get("report_to"), stage)


def _check_processes(recipe: Recipe, ranks: Ranks) -> None:
    if recipe.processes is not None and ranks.count < recipe.processes:
        raise UserError(
            f"processes: the recipe asks for {recipe.processes}, and {ranks.count} started. Use `torchrun "
            f"--nproc_per_node {recipe.processes} -m hflm run ...`, or accelerate launch with a configuration of "
            "recipes/launch (with --cpu alone it starts one process)"
        )


def _write_records(run: Run) -> None:
    """recipe.yaml, environment.json and the report of the cleaning, before the first stage."""
    folder = run.folder
    begins = "pretrain" in run.todo and "pretrain" not in run.extended
    if begins and not run.state.is_begun("pretrain", run.dependencies["pretrain"]):
        (folder / SKIPPED_ROWS).unlink(missing_ok=True)  # it belongs to other data
    run.state.migrate()
    if run.todo != {"push"}:  # what is pushed again is what the run left
        described = provenance.describe(run.recipe, run.inputs, run.ranks.count)
        provenance.write_environment(folder, described, run.dependencies)
        _report_cleaning(folder, run.recipe, run.corpus)
    atomic_write_text(folder / "recipe.yaml", dump_recipe(run.recipe))


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
