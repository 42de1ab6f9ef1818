"""`hflm fetch`: everything that a recipe needs into the Hugging Face cache, so that it then runs without a network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hflm import data
from hflm.core import UserError, format_bytes
from hflm.recipe import Data, Recipe, data_sources

# Apart from the weights: what transformers and peft read of a model. Weights of other formats are not used.
TEXT = (".json", ".txt", ".model", ".jinja", "LICENSE", "README.md")


@dataclass(frozen=True)
class Fetched:
    """A repository of the Hub in the cache: what needs it, its id and commit, how many files, their bytes."""

    used_as: str
    repo_id: str
    commit: str
    files: int
    size: int

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.commit[:12]}  {self.files} files, {format_bytes(self.size)}  ({self.used_as})"


def fetch_recipe(recipe: Recipe, say: Callable[[str], None]) -> list[Fetched]:
    """Fetch the data sets, the base model, the tokenizer and the encoders of a recipe; `say` reports each.

    Local files must exist. Raises UserError with all that is missing, at its end.
    """
    fetched, problems = [], []
    for used_as, fetch in _needed(recipe):
        try:
            repositories = fetch(used_as)
        except UserError as error:
            problems.append(f"{used_as}: {error}")
            continue
        for each in repositories:
            say(str(each))
        fetched += repositories
    if problems:
        raise UserError("\n".join([*problems, "The rest was fetched." if fetched else "Nothing was fetched."]))
    say(f"{format_bytes(sum(each.size for each in fetched))} in all")
    return fetched


def _needed(recipe: Recipe) -> Iterator[tuple[str, Callable[[str], list[Fetched]]]]:
    """(where the recipe says it, a function of that which fetches it) of everything outside the recipe."""
    for key, source in data_sources(recipe):
        if source.path != "toy":
            yield key, partial(_data, source)
    if recipe.model.from_ is not None:
        yield "model.from", partial(_model, recipe.model.from_, recipe.model.revision)
    tokenizer = recipe.tokenizer
    if tokenizer is not None and tokenizer.from_ is not None:
        yield "tokenizer.from", partial(_model, tokenizer.from_, tokenizer.revision, weights=False)
    for name, task in recipe.tasks.items():
        if "bertscore" in (getattr(task, "metrics", None) or ()):
            yield f"tasks.{name}.bertscore_model", partial(_model, getattr(task, "bertscore_model"), None)  # noqa: B009


def _data(source: Data, used_as: str) -> list[Fetched]:
    resolved = data.resolve_data(source)
    if not resolved.is_hub:
        data.check_local(resolved)
        return []
    options = {key: value for key, value in source.options.items() if key not in data.READING_OPTIONS}
    folder, files = data.fetch_dataset(source.path, options)
    return [_fetched(used_as, source.path, folder, files)]


def _model(path: str, revision: str | None, used_as: str, weights: bool = True) -> list[Fetched]:
    """A model or tokenizer, and the model that an adapter was trained on; nothing for local files."""
    from hflm.models import ADAPTER_CONFIG, adapter_base, locate_model

    if data.is_hub_id(path):
        folder, files = data.fetch_model(path, revision, TEXT, weights)
        fetched = [_fetched(used_as, path, folder, files)]
    else:
        folder, fetched = Path(locate_model(path)), []
    if weights and (folder / ADAPTER_CONFIG).is_file():
        base = adapter_base(folder)
        fetched += _model(base.path, base.revision, f"{used_as}, the adapter's base")
    return fetched


def _fetched(used_as: str, repo_id: str, folder: Path, files: list[Path]) -> Fetched:
    return Fetched(used_as, repo_id, folder.name, len(files), sum(file.stat().st_size for file in files))
