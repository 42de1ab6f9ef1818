"""What a recipe reads, resolved once at the start of a run: files, fingerprints, commits and licences.

The stages, the record of a run and `--locked` all take these; none of them looks a path up again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hflm.core import fingerprint_model
from hflm.data import ResolvedData, is_hub_id, resolve_all, resolve_commit
from hflm.recipe import Recipe, data_sources


@dataclass(frozen=True)
class ResolvedModel:
    """A model or tokenizer; `fingerprint` is of its local files, else the Hub id. Both are None without one."""

    path: str | None
    revision: str | None
    fingerprint: str | None

    @cached_property
    def commit(self) -> str | None:
        """The Hub's commit at this moment; None for a local model. May ask the network."""
        if self.path is None or not is_hub_id(self.path):
            return None
        return resolve_commit(self.path, self.revision, "model")

    def described(self) -> dict[str, Any]:
        """Its entry in environment.json."""
        described = {"from": self.path, "fingerprint": self.fingerprint}
        if self.path is not None and is_hub_id(self.path):
            described["commit"] = self.commit
        return described


@dataclass(frozen=True)
class Inputs:
    """All that a recipe reads.

    `data` is keyed as the recipe names it ("pretrain.data.0", "tasks.qa.data"); `encoders` holds the models of
    bertscore by task.
    """

    data: Mapping[str, ResolvedData]
    model: ResolvedModel
    tokenizer: ResolvedModel | None = None
    encoders: Mapping[str, ResolvedModel] = field(default_factory=dict)

    def sources(self, key: str) -> tuple[ResolvedData, ...]:
        """The sources of a list of the recipe, such as "pretrain.data", in its order."""
        return tuple(each for name, each in self.data.items() if name.rpartition(".")[0] == key)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The part of environment.json that says what was read. May ask the network for commits."""
        return {
            "data": {key: _describe_data(each) for key, each in self.data.items()},
            "model": self.model.described(),
            "tokenizer": self.tokenizer.described() if self.tokenizer else {},
        }


def resolve_inputs(recipe: Recipe) -> Inputs:
    """Resolve everything that `recipe` reads. Neither torch nor transformers is imported, and no network is asked."""
    tokenizer = recipe.tokenizer
    return Inputs(
        data=resolve_all(dict(data_sources(recipe))),
        model=_model(recipe.model.from_, recipe.model.revision),
        tokenizer=_model(tokenizer.from_, tokenizer.revision) if tokenizer else None,
        encoders={
            name: _model(encoder)
            for name, task in recipe.tasks.items()
            if (encoder := getattr(task, "bertscore_model", None)) is not None
        },
    )


def _model(path: str | None, revision: str | None = None) -> ResolvedModel:
    return ResolvedModel(path, revision, fingerprint_model(path))


def _describe_data(data: ResolvedData) -> dict[str, Any]:
    """The entry of a data set in environment.json."""
    path, revision = data.source.path, data.source.options.get("revision")
    options = {key: data.source.options[key] for key in ("name", "revision") if key in data.source.options}
    described = {"path": path, "fingerprint": data.fingerprint, **options}
    if stated := _license(data):
        described["license"] = stated
    if data.is_hub:
        described["commit"] = resolve_commit(path, revision)
    return described


def _license(data: ResolvedData) -> str | None:
    """The licence that the data set's own card states, if the card is on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.repocard import metadata_load

    card = None
    if data.is_hub:
        revision = data.source.options.get("revision")
        card = try_to_load_from_cache(data.source.path, "README.md", repo_type="dataset", revision=revision)
    elif data.files and data.place.exists():  # not where data_files alone says what is read
        card = (data.place if data.place.is_dir() else data.place.parent) / "README.md"
    try:
        stated = (metadata_load(card) or {}).get("license") if isinstance(card, str | Path) else None
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that the Hub would not read either
        return None
    stated = [stated] if isinstance(stated, str) else stated
    return ", ".join(map(str, stated)) if isinstance(stated, list) else None
