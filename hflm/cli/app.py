"""The commands' common parts: the application, its messages, and the arguments that several commands take."""

import dataclasses
import glob
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from hflm.core import configure_logging, escape_controls, logger, mask_tokens
from hflm.recipe import generation_help, parse_generation_options, shipped_recipes

if TYPE_CHECKING:
    from rich.console import Console


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Result = TypeVar("Result", bound=_Dataclass)

# In the order of a model's life.
COMMANDS = (
    *("recipes", "schema", "validate", "plan", "preview", "fetch", "run", "sweep", "scale", "bench", "compare"),
    *("generate", "score", "demo", "export", "push", "env", "cache"),
)
MESSAGES = [
    ("-v, --verbose", "Also messages for developers, those of the libraries, and tracebacks."),
    ("-q, --quiet", "Only warnings, errors and results."),
]


class _Group(TyperGroup):
    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sorted(self.commands, key=COMMANDS.index)


class Command(TyperCommand):
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


class GenerateCommand(Command):
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


def command(example: str, cls: type[Command] = Command) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to the commands, with an example at the end of its help."""
    return app.command(cls=cls, epilog=f"Example: {example}")


def announce(text: str) -> None:
    """A line on a terminal before something that takes seconds, such as importing torch."""
    if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        print(f"{printable(text)} ...", file=sys.stderr, flush=True)


def printable(message: str) -> str:
    """The message without secrets, and without control characters that a terminal would obey."""
    return escape_controls(mask_tokens(message))


def print_result(result: Result, as_json: bool, view: "Callable[[Result, Console], object]") -> None:
    """Print a dataclass as JSON, or as `view` shows it on a terminal."""
    if as_json:
        print(json.dumps(dataclasses.asdict(result), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        view(result, Console())


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


def not_empty(path: Any) -> Any:
    """Refuses `--output ""`, which would be the working folder."""
    if isinstance(path, str) and not path.strip():
        raise typer.BadParameter("the path is empty. Name a file or a folder")
    return path


def output_option(default: str) -> Any:
    """The option --output of a command that writes to `default` without it."""
    return typer.Option(help=f"The folder to write to, instead of {default}.", show_default=False, callback=not_empty)


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes, and folders and .yaml files of the working folder."""
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    files = [
        f"{path}/" if Path(path).is_dir() else path for path in paths if Path(path).is_dir() or path.endswith("ml")
    ]
    return [name for name in shipped_recipes() if name.startswith(incomplete)] + files


RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A path, or the name of a shipped recipe.", autocompletion=complete_recipe),
]
Model = Annotated[str, typer.Argument(help="A run, a model folder, a .gguf file or a Hub id.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the recipe; repeatable.")
]
Output = Annotated[str | None, output_option("runs/<name>")]
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
