"""The command line: `hflm run quickstart` and the rest, and what each failure exits with.

0 done; 2 the user must change something (one message, no traceback); 1 a bug (a traceback) or a Hub that keeps failing
(one message); 143 stopped by SIGTERM with a checkpoint saved; 130 Ctrl-C. What a command needs is imported inside it,
so that `--help`, `validate`, `plan`, `schema` and `recipes` answer at once.
"""

import dataclasses
import errno
import inspect
import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperCommand

from hflm.core import (
    HubError,
    RecipeError,
    Stopped,
    UserError,
    atomic_write_bytes,
    atomic_write_text,
    configure_logging,
)
from hflm.recipe import NAMES, display_path, find_recipe, mismatch, parse_yaml, shipped_recipes

PLAIN = {"int": int, "float": float, "bool": bool, "str": str}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut option names short
    help="One YAML recipe for the whole life of a GPT-2-style language model.",
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A path, or the name of a shipped recipe.")]
Model = Annotated[str, typer.Argument(help="A run, a model folder, a .gguf file or a Hub id.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the recipe; repeatable.")
]
Output = Annotated[
    Path | None, typer.Option(help="The folder to write to, instead of runs/<name>.", show_default=False)
]


@app.command()
def run(
    recipe: RecipeArgument,
    sets: Sets = None,
    output: Output = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run has finished.")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Only with the data and models that environment.json recorded.")
    ] = False,
):
    """Run a recipe; continue an unfinished run.

    The stages run in order. A finished stage whose inputs have not changed is skipped.
    """
    from hflm.pipeline import run_recipe
    from hflm.recipe import load_recipe

    loaded = load_recipe(recipe, sets or ())
    run_recipe(loaded, output, fresh, locked=locked)


@app.command()
def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Paths or names of shipped recipes.")],
    sets: Sets = None,
):
    """Check recipes and run nothing.

    Every problem is printed with its file and line.
    """
    from hflm.recipe import load_recipe

    problems = []
    for recipe in recipes:
        try:
            load_recipe(recipe, sets or ())
            print(f"{recipe}: ok")
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(dict.fromkeys(problems))


@app.command()
def fetch(recipe: RecipeArgument, sets: Sets = None):
    """Bring all that a recipe needs, for a machine without a network.

    Data sets, base model and tokenizer go into the Hugging Face cache; HF_HUB_OFFLINE=1 hflm run RECIPE uses them.
    """
    from hflm.pipeline import fetch_recipe
    from hflm.recipe import load_recipe

    fetch_recipe(load_recipe(recipe, sets or ()), print)


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
):
    """Tell what a recipe takes, and run nothing.

    Parameters, memory by part, FLOPs, time, whether it fits, and the compute-optimal sizes.
    """
    from hflm.planning import plan_as_json, plan_recipe, print_plan
    from hflm.recipe import load_recipe

    planned = plan_recipe(load_recipe(recipe, sets or ()), device, processes, price_per_hour, corpus_tokens)
    if as_json:
        print(plan_as_json(planned))
    else:
        from rich.console import Console

        print_plan(planned, Console())


@app.command()
def schema(
    page: Annotated[bool, typer.Option("--page", help="Every key on one page of Markdown, for people.")] = False,
):
    """Print the recipe's JSON Schema, for editors."""
    from hflm.recipe import recipe_json_schema, reference_page

    found = recipe_json_schema()
    print(reference_page(found) if page else json.dumps(found, indent=2))


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="The recipe to print.", show_default=False)] = None):
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


@app.command()
def bench(
    model: Annotated[
        str,
        typer.Argument(help="A run, a model folder, a .gguf file, a Hub id, or openai:NAME.", show_default=False),
    ],
    recipe: Annotated[
        str | None, typer.Argument(help="A path, or the name of a shipped recipe.", show_default=False)
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
):
    """Run a recipe's benchmark on any model.

    openai:NAME is a model behind an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY.
    """
    from hflm.pipeline import benchmark_model
    from hflm.recipe import load_recipe, load_task_files

    if (recipe is None) == (not task_file):
        raise UserError("bench needs either a recipe or --task-file FILE (one of lm-eval's task files). Name one")
    if task_file:
        loaded = load_task_files(task_file, model, sets or ())
    else:
        loaded = load_recipe(recipe, sets or ())
    benchmark_model(model, loaded, output, base_url, chat)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders; the first is the reference.")],
    tasks: Annotated[list[str] | None, typer.Option("--task", metavar="NAME", help="Only this; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write a page.", show_default=False)
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap and of the randomisation.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of both.")] = 0,
):
    """Compare benchmarked runs, with paired significance.

    Rows are paired by their ids. Each run is compared with the first.
    """
    from hflm.evaluation import compare_runs, compare_view

    comparison = compare_runs(runs, tasks or (), resamples, seed)
    if html is not None:
        atomic_write_text(html, compare_view.page(comparison))
    if as_json:
        print(json.dumps(dataclasses.asdict(comparison), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        compare_view.show(comparison, Console())


@app.command()
def score(
    model: Model,
    text: Annotated[str, typer.Argument(help="The text; - reads it from stdin, as it is.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the coloured text.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write a page.", show_default=False)
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", dir_okay=False, help="Also draw each head's attention.", show_default=False),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch, tag or commit of a Hub id.")] = None,
):
    """Score a text: how likely is each token?

    log P(text) is the sum of log P(token | the tokens before it).
    """
    from hflm.evaluation import plots
    from hflm.inference import attention_weights, score_text, score_view
    from hflm.models import load as models

    if text == "-":
        # Surrogates stand for bytes that are no UTF-8, as in an argument.
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    loaded, tokenizer = models.load(model, revision)
    picture = None
    if attention is not None:
        picture = plots.attention(*attention_weights(loaded, tokenizer, text))
        atomic_write_bytes(attention, picture)
    scored = score_text(loaded, tokenizer, text)
    if html is not None:
        atomic_write_text(html, score_view.page(scored, model, picture))
    if as_json:
        print(json.dumps(dataclasses.asdict(scored), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        score_view.show(scored, Console())


@app.command()
def demo(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Where to listen; other than this machine, everybody may use it.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.", show_default=False)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch, tag or commit of a Hub id.")] = None,
):
    """Try a model on a local page, and look inside.

    A run is asked as its recipe's tasks ask. Needs the extra `demo`.
    """
    from hflm.demo import app as demo_page

    demo_page.serve(model, host, port, revision)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.", show_default=False)],
    repo_id: Annotated[
        str | None,
        typer.Option(metavar="YOU/NAME", help="Where to; else what the recipe says.", show_default=False),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A new repository is public.")] = False,
    space: Annotated[bool, typer.Option("--space", help="Also make a Space that shows it (extra `demo`).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go up, and send nothing.")] = False,
):
    """Send a finished run to the Hub.

    One commit and one tag. Repeated, it sends only what is missing; an unchanged run makes no commit.
    """
    from hflm.publishing import card
    from hflm.publishing import push as push_room
    from hflm.recipe import dump_recipe, load_recipe

    sets = [f"push.repo_id={repo_id}"] * bool(repo_id) + ["push.private=false"] * public
    loaded = load_recipe(str(run / "recipe.yaml"), sets)
    if dry_run:
        print(push_room.listing(run, push_room.release(run, loaded), space))
        return
    push_room.files(run)  # an unfinished run stays as it is
    if sets:  # the run remembers where it went, and its card's example names the repository
        atomic_write_text(run / "recipe.yaml", dump_recipe(loaded))
        card.write(run, loaded)
    print(push_room.push(run, loaded, space))


@app.command()
def export(
    model: Model,
    form: Annotated[Literal["folder", "gguf", "onnx"], typer.Option("--to", help="The format.")] = "folder",
    output: Annotated[
        Path | None, typer.Option(help="Where to, instead of export/ in the run.", show_default=False)
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the weights, instead of the saved one.", show_default=False),
    ] = None,
):
    """Write a model for another tool, any adapter merged."""
    from hflm.publishing import export as export_room

    print(export_room.export(model, form, output, dtype))


class _Generate(TyperCommand):
    def parse_args(self, ctx, args):
        """`--early-stopping` may stand alone, as a switch, since its type is bool or text."""
        switches = {_option(name) for name, kind in NAMES["GenerationConfig"].items() if kind == "bool|str"}
        given = []
        for argument, following in zip(args, [*args, "--"][1:], strict=True):
            alone = argument in switches and following.startswith("--")
            given += [argument, "true"] if alone else [argument]
        return super().parse_args(ctx, given)


def _option(name):
    return f"--{name.replace('_', '-')}"


def _generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue.", show_default=False)],
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch, tag or commit of a Hub id.")] = None,
    **options,
):
    """Continue a prompt. The options are those of transformers' GenerationConfig, under their names."""
    given = {
        name: _converted(name, value) if isinstance(value, str) else value
        for name, value in options.items()
        if value is not None
    }
    from hflm.inference import format_texts, generate_texts

    texts = generate_texts(model, prompt, given, seed, revision)
    print("\n".join(format_texts(prompt, texts, as_json)))


def _converted(name, text):
    """The text of an option, read as YAML where its type is more than text: `--suppress-tokens '[1, 2]'`."""
    kind = NAMES["GenerationConfig"][name]
    if kind == "str":
        return text
    try:
        value = parse_yaml(text, _option(name), []).plain()
        wrong = mismatch(kind, value)
    except RecipeError as error:
        value, wrong = None, error.problems[0].text
    if wrong and "str" in kind.split("|"):
        return text
    if wrong:
        raise typer.BadParameter(wrong, param_hint=_option(name))
    return value


def _with_generation_options(command):
    """The command with one option for each name of GenerationConfig, in place of its **options."""

    def parameter(name, kind):
        # Lists, dicts and unions are written as YAML and converted by the command.
        switch = f"{_option(name)}/--no-{name.replace('_', '-')}" if kind == "bool" else _option(name)
        option = typer.Option(switch, metavar=None if kind in PLAIN else kind.upper(), show_default=False)
        annotation = Annotated[PLAIN.get(kind, str) | None, option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [parameter(name, kind) for name, kind in NAMES["GenerationConfig"].items()]
    command.__signature__ = inspect.Signature([*own, *options])
    return command


app.command("generate", cls=_Generate)(_with_generation_options(_generate))


def main():
    """The console script: runs a command and exits as the module's docstring says."""
    # A line of our source says nothing to the person who reads a warning.
    configure_logging()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app()
    except UserError as error:
        _exit(2, _told(error))
    except HubError as error:
        _exit(1, str(error))
    except Stopped as error:
        _exit(143, str(error))
    except PermissionError as error:
        if error.filename is None:
            raise
        _exit(2, f"{error.filename}: no permission to write or read there. Change its mode, or use another folder")
    except Exception as error:
        if not _disk_full(error):
            raise
        place = f" ({error.filename})" if getattr(error, "filename", None) else ""
        _exit(2, f"no space left on the disk{place}. Free some and run the same command again: it continues.")


def _told(error):
    """The message of an error. A DataLoader's worker hands it on inside its own traceback, which says nothing more."""
    text = str(error)
    raised = f"\n{type(error).__module__}.{type(error).__qualname__}: "
    return text.split(raised)[-1].rstrip() if text.startswith("Caught ") else text


def _exit(code, message):
    print(message, file=sys.stderr)
    sys.exit(code)


def _disk_full(error):
    """safetensors and tokenizers report a full disk as errors of their own, with the system's words in it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def _description(path):
    """The first line of a recipe's opening comment."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
