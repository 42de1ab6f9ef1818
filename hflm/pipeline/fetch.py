"""`hflm fetch`: everything that a recipe needs into the Hugging Face cache, so that it then runs without a network."""

import json
from dataclasses import dataclass
from pathlib import Path

from hflm.core.errors import UserError
from hflm.data import hub_cache as snapshot
from hflm.data import load as data
from hflm.recipe import data_sources

ADAPTER = "adapter_config.json"
# Beside the weights: what transformers and peft read of a model. Weights of other formats are not used.
TEXT = (".json", ".txt", ".model", ".jinja", "LICENSE", "README.md")


@dataclass(frozen=True)
class Brought:
    """A repository of the Hub in the cache: what needs it, its id and commit, how many files, their bytes."""

    used_as: str
    repo_id: str
    commit: str
    files: int
    size: int

    def __str__(self):
        return f"{self.repo_id}@{self.commit[:12]}  {self.files} files, {sized(self.size)}  ({self.used_as})"


def fetch(recipe, say):
    """Bring the data sets, the base model, the tokenizer and the encoders of a recipe; tells each with `say`.

    Returns [Brought]. What lies on this machine must be there. Raises UserError with all that is missing, at its end.
    """
    brought, problems = [], []
    for used_as, bring in _needed(recipe):
        try:
            found = bring(used_as)
        except UserError as error:
            problems.append(f"{used_as}: {error}")
            continue
        for each in found:
            say(str(each))
        brought += found
    if problems:
        raise UserError("\n".join([*problems, "The rest was fetched." if brought else "Nothing was fetched."]))
    say(f"{sized(sum(each.size for each in brought))} in all")
    return brought


def sized(size):
    """1234567 -> '1.2 MB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            break
        size /= 1000
    else:
        unit = "TB"
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def _needed(recipe):
    """(where the recipe says it, a function of that which brings it) of everything outside the recipe."""
    for key, source in data_sources(recipe):
        if source.path != "toy":
            yield key, lambda used_as, source=source: _data(source, used_as)
    if recipe.model.from_ is not None:
        yield "model.from", lambda used_as: _model(recipe.model.from_, recipe.model.revision, used_as)
    tokenizer = recipe.tokenizer
    if tokenizer is not None and tokenizer.from_ is not None:
        yield "tokenizer.from", lambda used_as: _model(tokenizer.from_, tokenizer.revision, used_as, weights=False)
    for name, task in recipe.tasks.items():
        if "bertscore" in (getattr(task, "metrics", None) or ()):
            yield (
                f"tasks.{name}.bertscore_model",
                lambda used_as, path=task.bertscore_model: _model(path, None, used_as),
            )


def _data(source, used_as):
    if not data.of_hub(source):
        data.check_local(source)
        return []
    options = {key: value for key, value in source.options.items() if key not in data.READING}
    folder, files = snapshot.fetch(source.path, options)
    return [_brought(used_as, source.path, folder, files)]


def _model(path, revision, used_as, weights=True):
    """[Brought] of a model or tokenizer, and of the model that an adapter was trained on; [] for local files."""
    if snapshot.is_hub_id(path):
        folder, files = snapshot.fetch_model(path, revision, TEXT, weights)
        brought = [_brought(used_as, path, folder, files)]
    else:
        from hflm.models import load as models

        folder, brought = Path(models.locate(path)), []
    if (folder / ADAPTER).is_file() and weights:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
        if base:
            brought += _model(base, None, f"{used_as}, the adapter's base")
    return brought


def _brought(used_as, repo_id, folder, files):
    return Brought(used_as, repo_id, folder.name, len(files), sum(file.stat().st_size for file in files))
