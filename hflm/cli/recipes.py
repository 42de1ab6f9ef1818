"""Commands that take a recipe: run it, search with it, check it, plan it, show it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hflm.cli.app import (
    Json,
    Output,
    RecipeArgument,
    Sets,
    announce,
    command,
    complete_recipe,
    output_option,
    print_result,
)
from hflm.core import RecipeError, UserError, atomic_write_text
from hflm.recipe import display_path, find_recipe, shipped_recipes


@command("hflm run quickstart --set seed=7")
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A path, or the name of a shipped recipe; with --from-hub the checkpoint's by default.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    sets: Sets = None,
    output: Output = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; the earlier run is set aside.")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Only with the data and models that environment.json recorded.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which stages would run and why, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Train a finished stage again without asking.")] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Train on from a checkpoint: for longer, or with another learning rate.")
    ] = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="So many runs side by side, from the recipe's seed on; in runs/<name>-seeds.")
    ] = 1,
    from_hub: Annotated[
        str | None,
        typer.Option(
            metavar="YOU/NAME",
            help="Continue from the checkpoint that a run sent there (push.checkpoints).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a recipe; continue an unfinished run.

    The stages run in order. A finished stage whose inputs have not changed is skipped.
    """
    if recipe is None:
        if from_hub is None:
            raise UserError("Missing argument 'RECIPE': a path, or the name of a shipped recipe")
        from hflm.publishing import find_checkpoint

        announce(f"{from_hub}: reading its recipe")
        recipe = str(find_checkpoint(from_hub).recipe())
    if from_hub is not None and seeds > 1:
        raise UserError("--from-hub continues one run: leave --seeds out")
    announce(f"{recipe}: reading the recipe")
    from hflm.pipeline import RunOptions, run_recipe
    from hflm.recipe import load_recipe

    loaded = load_recipe(recipe, sets or ())
    options = RunOptions(fresh, locked, dry_run, yes, extend, from_hub=from_hub)
    if seeds > 1:
        from hflm.pipeline import run_with_seeds

        run_with_seeds(loaded, seeds, output, options)
    else:
        run_recipe(loaded, output, options)


@command("hflm sweep my.yaml --set sweep.trials=40")
def sweep(
    recipe: RecipeArgument,
    sets: Sets = None,
    output: Annotated[str | None, output_option("runs/<name>-sweep")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each trial, whose mean is its score.")] = 1,
) -> None:
    """Search values of a recipe by the scores of its runs.

    What is searched is the recipe's section `sweep`. The same command on another machine joins; repeated, it continues.
    Needs the extra `sweep`.
    """
    announce(f"{recipe}: loading torch, transformers and optuna")
    from hflm.pipeline import sweep_recipe

    sweep_recipe(recipe, sets or (), output, seeds)


@command("hflm scale wikitext2 --minutes 10")
def scale(
    recipe: RecipeArgument,
    sets: Sets = None,
    output: Annotated[str | None, output_option("runs/<name>-scale")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="What the small runs may take here.", show_default=False)
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(
            min=0, help="The same in FLOPs; by default about a third of the recipe's own.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="What the recipe itself would take on this accelerator.", show_default=False)
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of that device, in any currency.", show_default=False)
    ] = None,
) -> None:
    """Train small models of the recipe's kind, to estimate what it will reach.

    Fits L(N, D) = E + A/N^a + B/D^b. Says the loss to expect, the best split of the compute, and how much data it takes.
    Repeated, it continues.
    """
    if minutes is not None and flops is not None:
        raise UserError("--minutes and --flops are two ways to say the budget. Use one of them")
    announce(f"{recipe}: loading torch and transformers")
    from hflm.pipeline import scale_recipe

    scale_recipe(recipe, sets or (), output, flops, minutes, device, price_per_hour)


@command("hflm validate my.yaml")
def validate(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE...", help="Paths or names of shipped recipes.", autocompletion=complete_recipe),
    ],
    sets: Sets = None,
) -> None:
    """Check recipes and run nothing.

    Every problem is printed with its file and line; files, splits, columns and local models are looked for, too.
    """
    from hflm.pipeline import find_missing_inputs
    from hflm.recipe import load_recipe, locate_problems

    problems = []
    for recipe in recipes:
        try:
            missing = locate_problems(recipe, sets or (), find_missing_inputs(load_recipe(recipe, sets or ())))
            if not missing:
                print(f"{recipe}: ok")
            problems += missing
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(dict.fromkeys(problems))


@command("hflm fetch sst2")
def fetch(recipe: RecipeArgument, sets: Sets = None) -> None:
    """Download all that a recipe needs, for a machine without a network.

    Data sets, base model and tokenizer go into the Hugging Face cache; HF_HUB_OFFLINE=1 hflm run RECIPE uses them.
    """
    announce(f"{recipe}: loading datasets and transformers")
    from hflm.pipeline import fetch_recipe
    from hflm.recipe import load_recipe

    fetch_recipe(load_recipe(recipe, sets or ()), print)


@command("hflm plan gpt2-small --device a100 --processes 8")
def plan(
    recipe: RecipeArgument,
    sets: Sets = None,
    device: Annotated[
        str | None, typer.Option(help="Plan for this accelerator (a100, h100, l4...).", show_default=False)
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many will run, one a device.", show_default=False)
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of one device, in any currency.", show_default=False)
    ] = None,
    corpus_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of the corpus, where its files are not here.", show_default=False)
    ] = None,
    scale: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A scale.json, instead of runs/<name>-scale/scale.json.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate what a recipe needs, and run nothing.

    Parameters, memory by part, FLOPs, time, whether it fits, and the compute-optimal sizes.
    """
    announce(f"{recipe}: reading the recipe")
    from hflm.planning import plan_recipe, print_plan
    from hflm.recipe import load_recipe

    planned = plan_recipe(load_recipe(recipe, sets or ()), device, processes, price_per_hour, corpus_tokens, scale)
    print_result(planned, as_json, print_plan)


@command("hflm preview my.yaml --html preview.html")
def preview(
    recipe: RecipeArgument,
    sets: Sets = None,
    stage: Annotated[
        Literal["pretrain", "finetune", "benchmark"] | None,
        typer.Option(help="Only this stage.", show_default=False),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each stage.")] = 2,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write a page.", show_default=False)
    ] = None,
) -> None:
    """Show the first rows as they will be trained and asked.

    Tokens and their ids, what the loss leaves out, lengths, steps, and how well the tokenizer fits. Nothing is trained
    but a new tokenizer, and no model is loaded.
    """
    announce(f"{recipe}: reading its data")
    from hflm.pipeline import leave_torch_out, preview_page, preview_recipe, print_preview
    from hflm.recipe import load_recipe

    leave_torch_out()
    found = preview_recipe(load_recipe(recipe, sets or ()), stage, rows, lambda line: print(line, file=sys.stderr))
    if html is not None:
        atomic_write_text(html, preview_page(found))
    from rich.console import Console

    print_preview(found, Console())


@command("hflm schema > recipe.schema.json")
def schema(
    page: Annotated[bool, typer.Option("--page", help="Every key on one page of Markdown, for people.")] = False,
) -> None:
    """Print the recipe's JSON Schema, for editors."""
    from hflm.recipe import recipe_json_schema, reference_page

    found = recipe_json_schema()
    print(reference_page(found) if page else json.dumps(found, indent=2))


@command("hflm recipes quickstart > my.yaml")
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="The recipe to print.", show_default=False, autocompletion=complete_recipe),
    ] = None,
) -> None:
    """List the shipped recipes, or print one."""
    if name is not None:
        try:
            print(find_recipe(name).read_text(encoding="utf-8"), end="")
        except LookupError as error:
            raise UserError(f"{name}: {error}") from None
        return
    shipped = shipped_recipes()
    width = max(map(len, shipped), default=0)
    for known, path in shipped.items():
        print(f"{known:{width}}  {_description(path)}  ({display_path(path)})")


def _description(path: Path) -> str:
    """The first line of a recipe's opening comment."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
