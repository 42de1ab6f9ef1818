"""Commands that take a model or a finished run, and those about this installation."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hflm.cli.app import (
    Dtype,
    GenerateCommand,
    Html,
    Json,
    Model,
    Output,
    Revision,
    Sets,
    announce,
    command,
    complete_recipe,
    not_empty,
    print_result,
)
from hflm.core import UserError, atomic_write_bytes, atomic_write_text, read_json


def _complete_task(incomplete: str) -> list[str]:
    """The tasks that the runs of the working folder have results of."""
    results = map(read_json, sorted(Path("runs").glob("*/benchmark/results.json")))
    names = dict.fromkeys(name for result in results for name in result.get("tasks", {}))
    return [name for name in names if name.startswith(incomplete)]


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
            autocompletion=complete_recipe,
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
        print_result(by_seed, as_json, compare_view.show_seeds)
        return
    comparison = compare_runs(runs, tasks or (), resamples, seed)
    if html is not None:
        atomic_write_text(html, compare_view.page(comparison))
    print_result(comparison, as_json, compare_view.show)


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
    print_result(scored, as_json, score_view.show)


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
        typer.Option(help="Where to, instead of export/ in the run.", show_default=False, callback=not_empty),
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


@command("hflm generate runs/quickstart 'Once upon a time' --do-sample --temperature 0.8", cls=GenerateCommand)
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
