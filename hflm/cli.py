"""The command line: `hflm run quickstart` and the rest, and what each failure exits with.

0 done; 2 the user must change something (one message, no traceback); 1 a bug (a traceback) or a Hub that keeps failing
(one message); 143 stopped by SIGTERM with a checkpoint saved; 130 Ctrl-C. What a command needs is imported inside it,
so that `--help`, `validate`, `plan`, `schema` and `recipes` answer at once; before an import that takes seconds,
`announce` writes a line to the terminal.
"""

import dataclasses
import errno
import glob
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from hflm.core import (
    HubError,
    RecipeError,
    Stopped,
    UserError,
    atomic_write_bytes,
    atomic_write_text,
    configure_logging,
    escape_controls,
    logger,
    mask_tokens,
    read_json,
)
from hflm.recipe import (
    display_path,
    find_recipe,
    generation_help,
    parse_generation_options,
    shipped_recipes,
)

# In the order of a model's life.
COMMANDS = (
    *("recipes", "schema", "validate", "plan", "preview", "fetch", "run", "sweep", "scale", "bench", "compare"),
    *("generate", "score", "demo", "export", "push", "env", "cache"),
)
# A path that the user named, or a disk, cannot be what it has to be.
PATH_ERRORS = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS}
MESSAGES = [
    ("-v, --verbose", "Also messages for developers, those of the libraries, and tracebacks."),
    ("-q, --quiet", "Only warnings, errors and results."),
]


class _Group(TyperGroup):
    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sorted(self.commands, key=COMMANDS.index)


class _Command(TyperCommand):
    """A command that also takes -v and -q."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore
        end = args.index("--") if "--" in args else len(args)
        _set_verbosity(bool({"-v", "--verbose"} & set(args[:end])), bool({"-q", "--quiet"} & set(args[:end])))
        words = [word for word in args[:end] if word not in ("-v", "--verbose", "-q", "--quiet")]
        return super().parse_args(ctx, [*words, *args[end:]])  # pyright: ignore

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore
        super().format_options(ctx, formatter)  # pyright: ignore
        with formatter.section("Messages"):
            formatter.write_dl(MESSAGES)


class _GenerateCommand(_Command):
    """The command's own options and those of GenerationConfig, which its callback finds in `context.obj`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}  # pyright: ignore
        ctx.obj, rest = parse_generation_options(args, own | {"--verbose", "--quiet"})
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore
        super().format_options(ctx, formatter)
        for title, options in generation_help().items():
            with formatter.section(title):
                formatter.write_dl(options)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut option names short
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: hflm run quickstart. Each command shows an example with --help.",
)


def command(example: str, cls: type[_Command] = _Command) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to the commands, with an example at the end of its help."""
    return app.command(cls=cls, epilog=f"Example: {example}")


def announce(text: str) -> None:
    """A line on a terminal before something that takes seconds, such as importing torch."""
    if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        print(f"{_printable(text)} ...", file=sys.stderr, flush=True)


def _print_json(result: Any) -> None:
    """A dataclass as JSON."""
    print(json.dumps(dataclasses.asdict(result), indent=2, ensure_ascii=False, allow_nan=False))


def _set_verbosity(verbose: bool, quiet: bool) -> None:
    if verbose:
        configure_logging(logging.DEBUG)
        logging.basicConfig(level=logging.INFO)
    elif quiet:
        configure_logging(logging.WARNING)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"hflm {metadata.version('hflm-recipes')}")
        raise typer.Exit


def _not_empty(path: Any) -> Any:
    """Refuses `--output ""`, which would be the working folder."""
    if isinstance(path, str) and not path.strip():
        raise typer.BadParameter("the path is empty. Name a file or a folder")
    return path


def _complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes, and folders and .yaml files of the working folder."""
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    files = [
        f"{path}/" if Path(path).is_dir() else path for path in paths if Path(path).is_dir() or path.endswith("ml")
    ]
    return [name for name in shipped_recipes() if name.startswith(incomplete)] + files


def _complete_task(incomplete: str) -> list[str]:
    """The tasks that the runs of the working folder have results of."""
    results = map(read_json, sorted(Path("runs").glob("*/benchmark/results.json")))
    names = dict.fromkeys(name for result in results for name in result.get("tasks", {}))
    return [name for name in names if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A path, or the name of a shipped recipe.", autocompletion=_complete_recipe),
]
Model = Annotated[str, typer.Argument(help="A run, a model folder, a .gguf file or a Hub id.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the recipe; repeatable.")
]
Output = Annotated[
    str | None,
    typer.Option(help="The folder to write to, instead of runs/<name>.", show_default=False, callback=_not_empty),
]
Revision = Annotated[str | None, typer.Option(help="The branch, tag or commit of a Hub id.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "auto"] | None,
    typer.Option(help="Number format to compute in; auto: the fastest here. float32 by default.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text and tables.")]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write a page.", show_default=False)
]


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help=MESSAGES[0][1])] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=MESSAGES[1][1])] = False,
) -> None:
    """One YAML recipe for the whole life of a GPT-2-style language model."""
    _set_verbosity(verbose, quiet)


@command("hflm run quickstart --set seed=7")
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A path, or the name of a shipped recipe; with --from-hub the checkpoint's by default.",
            show_default=False,
            autocompletion=_complete_recipe,
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
    output: Annotated[
        str | None,
        typer.Option(
            help="The folder to write to, instead of runs/<name>-sweep.", show_default=False, callback=_not_empty
        ),
    ] = None,
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
    output: Annotated[
        str | None,
        typer.Option(
            help="The folder to write to, instead of runs/<name>-scale.", show_default=False, callback=_not_empty
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="What the small runs may take here.", show_default=False)
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(min=0, help="The same in FLOPs; by default a third of the recipe's own.", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="What the recipe itself would take on this accelerator.", show_default=False)
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of that device, in any currency.", show_default=False)
    ] = None,
) -> None:
    """Train small models of the recipe's kind, to estimate what it will reach (experimental).

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
        typer.Argument(metavar="RECIPE...", help="Paths or names of shipped recipes.", autocompletion=_complete_recipe),
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
    if as_json:
        _print_json(planned)
    else:
        from rich.console import Console

        print_plan(planned, Console())


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
        typer.Argument(help="The recipe to print.", show_default=False, autocompletion=_complete_recipe),
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


@command("hflm bench openai-community/gpt2 sst2")
def bench(
    model: Annotated[
        str,
        typer.Argument(help="A run, a model folder, a .gguf file, a Hub id, or openai:NAME.", show_default=False),
    ],
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A path, or the name of a shipped recipe; for a run, its own by default.",
            show_default=False,
            autocompletion=_complete_recipe,
        ),
    ] = None,
    task_file: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A task of lm-eval's, instead of a recipe; repeatable.", show_default=False),
    ] = None,
    sets: Sets = None,
    output: Output = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Where openai:NAME is served; else OPENAI_BASE_URL or OpenAI.", show_default=False),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask openai:NAME by chat messages.")] = False,
    dtype: Dtype = None,
) -> None:
    """Run a recipe's benchmark on any model.

    openai:NAME is a model behind an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY.
    """
    announce(f"{model}: loading torch, transformers and datasets")
    from hflm.pipeline import benchmark_model
    from hflm.recipe import load_recipe, load_task_files

    if recipe is None and not task_file and (Path(model) / "recipe.yaml").is_file():
        recipe = str(Path(model) / "recipe.yaml")
    if recipe is None and task_file:
        loaded = load_task_files(task_file, model, sets or ())
    elif recipe is not None and not task_file:
        loaded = load_recipe(recipe, sets or ())
    else:
        raise UserError("bench needs either a recipe or --task-file FILE (one of lm-eval's task files). Name one")
    benchmark_model(model, loaded, output, base_url, chat, dtype)


@command("hflm compare runs/quickstart runs/other --html compare.html")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders; the first is the reference.")],
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="Only this; repeatable.", autocompletion=_complete_task),
    ] = None,
    as_json: Json = False,
    html: Html = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap and of the randomisation.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of both.")] = 0,
) -> None:
    """Compare benchmarked runs, with paired significance.

    Rows are paired by their ids. Each run is compared with the first. Folders of `hflm run --seeds` are compared by the
    means over their seeds.
    """
    announce("comparing the runs")
    from hflm.evaluation import compare_runs, compare_seeds, compare_view, seed_runs

    if any(map(seed_runs, runs)):
        if html is not None:
            raise UserError(
                "--html is a page of single runs. Name runs inside the folders, such as runs/a-seeds/seed-42"
            )
        by_seed = compare_seeds(runs, tasks or (), resamples, seed)
        if as_json:
            print(json.dumps(dataclasses.asdict(by_seed), indent=2, ensure_ascii=False, allow_nan=False))
        else:
            from rich.console import Console

            compare_view.show_seeds(by_seed, Console())
        return
    comparison = compare_runs(runs, tasks or (), resamples, seed)
    if html is not None:
        atomic_write_text(html, compare_view.page(comparison))
    if as_json:
        _print_json(comparison)
    else:
        from rich.console import Console

        compare_view.show(comparison, Console())


@command("hflm score runs/quickstart 'The dog saw the key.' --html score.html")
def score(
    model: Model,
    text: Annotated[str, typer.Argument(help="The text; - reads it from stdin, as it is.", show_default=False)],
    as_json: Json = False,
    html: Html = None,
    attention: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", dir_okay=False, help="Also draw each head's attention.", show_default=False),
    ] = None,
    revision: Revision = None,
    dtype: Dtype = None,
) -> None:
    """Score a text: how likely is each token?

    log P(text) is the sum of log P(token | the tokens before it).
    """
    announce(f"{model}: loading the model")
    from hflm.evaluation import plots
    from hflm.inference import attention_weights, load_for_inference, score_text, score_view
    from hflm.pipeline import quiet_libraries

    quiet_libraries()
    if text == "-":
        # Surrogates stand for bytes that are no UTF-8, as in an argument.
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    loaded, tokenizer = load_for_inference(model, revision, dtype)
    picture = None
    if attention is not None:
        picture = plots.attention(*attention_weights(loaded, tokenizer, text))
        atomic_write_bytes(attention, picture)
    scored = score_text(loaded, tokenizer, text)
    if html is not None:
        atomic_write_text(html, score_view.page(scored, model, picture))
    if as_json:
        _print_json(scored)
    else:
        from rich.console import Console

        score_view.show(scored, Console())


@command("hflm demo runs/quickstart")
def demo(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Where to listen; other than this machine, everybody may use it.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.", show_default=False)
    ] = None,
    revision: Revision = None,
    dtype: Dtype = None,
) -> None:
    """Try a model on a local page, and look inside.

    A run is asked as its recipe's tasks ask. Needs the extra `demo`.
    """
    announce(f"{model}: loading the model and gradio")
    from hflm.demo import serve_demo
    from hflm.pipeline import quiet_libraries

    quiet_libraries()
    serve_demo(model, host, port, revision, dtype=dtype)


@command("hflm push runs/quickstart --repo-id you/quickstart --dry-run")
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.", show_default=False)],
    repo_id: Annotated[
        str | None,
        typer.Option(metavar="YOU/NAME", help="Where to; else what the recipe says.", show_default=False),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A new repository is public.")] = False,
    space: Annotated[bool, typer.Option("--space", help="Also make a Space that shows it (extra `demo`).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go up, and send nothing.")] = False,
) -> None:
    """Send a finished run to the Hub.

    One commit and one tag. Repeated, it sends only what is missing; an unchanged run makes no commit.
    """
    announce(f"{run}: reading the run")
    from hflm.publishing import list_release, make_release, push_run, run_files
    from hflm.recipe import dump_recipe, load_recipe

    sets = [f"push.repo_id={repo_id}"] * bool(repo_id) + ["push.private=false"] * public
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run} is no run: it has no recipe.yaml. Name the folder that `hflm run` wrote")
    loaded = load_recipe(str(run / "recipe.yaml"), sets)
    if dry_run:
        print(list_release(make_release(run, loaded, space)))
        return
    run_files(run)  # an unfinished run stays as it is
    if sets:  # the run remembers where it went, and its card's example names the repository
        atomic_write_text(run / "recipe.yaml", dump_recipe(loaded))
    print(push_run(run, loaded, space))


@command("hflm export runs/quickstart --to gguf")
def export(
    model: Model,
    form: Annotated[Literal["folder", "gguf", "onnx"], typer.Option("--to", help="The format.")] = "folder",
    output: Annotated[
        str | None,
        typer.Option(help="Where to, instead of export/ in the run.", show_default=False, callback=_not_empty),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the weights, instead of the saved one.", show_default=False),
    ] = None,
    quantize: Annotated[
        Literal["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None,
        typer.Option(help="Of a GGUF file's matrices; the loss before and after is printed.", show_default=False),
    ] = None,
) -> None:
    """Write a model for another tool, any adapter merged."""
    announce(f"{model}: loading the model")
    from hflm.pipeline import quiet_libraries
    from hflm.publishing import export_model

    quiet_libraries()
    print(export_model(model, form, output, dtype, quantize))


@command("hflm generate runs/quickstart 'Once upon a time' --do-sample --temperature 0.8", cls=_GenerateCommand)
def generate(
    context: typer.Context,
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue.", show_default=False)],
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    as_json: Json = False,
    revision: Revision = None,
    dtype: Dtype = None,
) -> None:
    """Continue a prompt.

    The options in the groups below are those of transformers' GenerationConfig, under their names.
    """
    announce(f"{model}: loading the model")
    from hflm.inference import format_texts, generate_texts
    from hflm.pipeline import quiet_libraries

    quiet_libraries()
    texts = generate_texts(model, prompt, context.obj, seed, revision, dtype)
    print("\n".join(format_texts(prompt, texts, as_json)))


@command("hflm env > env.txt")
def env() -> None:
    """Describe this installation and machine, for bug reports."""
    from hflm.pipeline import describe_environment

    for line in describe_environment():
        print(line, flush=True)


@command("hflm cache")
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete what hflm keeps; it is made again when needed.")
    ] = False,
) -> None:
    """List what is kept between runs, where, and how large it is."""
    from hflm.pipeline import clear_caches, list_caches

    if clear:
        print(f"deleted {clear_caches()}")
    for line in list_caches():
        print(line, flush=True)


def main() -> None:
    """The console script: runs a command and exits as the module's docstring says."""
    configure_logging()
    logger.propagate = False  # absl, which rouge-score imports, adds a handler to the root logger
    # The line of source code in Python's own format does not help a user.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {_printable(str(message))}\n"
    try:
        app()
    except UserError as error:
        _exit(2, _message(error))
    except HubError as error:
        _exit(1, str(error))
    except Stopped as error:
        _exit(error.exit_code, str(error))
    except PermissionError as error:
        if error.filename is None:
            raise
        _exit(2, f"{error.filename}: no permission to write or read there. Change its mode, or use another folder")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename is not None:
            _exit(2, f"{error.filename}: {error.strerror}. Use another path")
        if not _disk_full(error):
            raise
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        _exit(2, f"no space left on the disk{place}. Free some and run the same command again: it continues.")


def _message(error: UserError) -> str:
    """The message of an error. A DataLoader's worker wraps it in its own traceback, which is left out."""
    text = str(error)
    raised = f"\n{type(error).__module__}.{type(error).__qualname__}: "
    return text.split(raised)[-1].rstrip() if text.startswith("Caught ") else text


def _exit(code: int, message: str) -> NoReturn:
    if logger.isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    print(_printable(message), file=sys.stderr)
    sys.exit(code)


def _printable(message: str) -> str:
    """The message without secrets, and without control characters that a terminal would obey."""
    return escape_controls(mask_tokens(message))


def _disk_full(error: Exception) -> bool:
    """safetensors and tokenizers report a full disk as errors of their own, with the system's words in it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def _description(path: Path) -> str:
    """The first line of a recipe's opening comment."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
