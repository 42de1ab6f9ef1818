"""What a recipe reads, resolved once at the start of a run: files, fingerprints, commits and licences.

The stages, the record of a run and `--locked` all take these; none of them looks a path up again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hflm.core import expand_path, fingerprint_checksums, fingerprint_files, fingerprint_model
from hflm.data import is_hub_id, is_hub_source, resolve_commit, source_files, toy
from hflm.recipe import Data, Recipe, data_sources


@dataclass(frozen=True)
class ResolvedData:
    """A data set.

    `files` are the local ones that it may read. `content` is their checksum (or the toy world's version), None for the
    Hub; `fingerprint` is of content and options together, of a Hub id with its options.
    """

    source: Data
    files: tuple[Path, ...]
    content: str | None
    fingerprint: str

    @cached_property
    def commit(self) -> str | None:
        """The Hub's commit at this moment; None for local data. May ask the network."""
        if not is_hub_source(self.source):
            return None
        return resolve_commit(self.source.path, self.source.options.get("revision"))

    @cached_property
    def license(self) -> str | None:
        """The licence that the data set's own card states, if the card is on this machine."""
        return _license(self.source)

    def described(self) -> dict[str, Any]:
        """Its entry in environment.json."""
        options = {key: self.source.options[key] for key in ("name", "revision") if key in self.source.options}
        described = {"path": self.source.path, "fingerprint": self.fingerprint, **options}
        if self.license:
            described["license"] = self.license
        if is_hub_source(self.source):
            described["commit"] = self.commit
        return described


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

    def described(self) -> dict[str, Any]:
        """The part of environment.json that says what was read."""
        return {
            "data": {key: each.described() for key, each in self.data.items()},
            "model": self.model.described(),
            "tokenizer": self.tokenizer.described() if self.tokenizer else {},
        }


def resolve_inputs(recipe: Recipe) -> Inputs:
    """Resolve everything that `recipe` reads. Neither torch nor transformers is imported, and no network is asked."""
    resolved: dict[str, ResolvedData] = {}

    def resolve(source: Data) -> ResolvedData:
        # Tasks often name the same data set: it is looked up once.
        name = source.model_dump_json()
        if name not in resolved:
            resolved[name] = _data(source)
        return resolved[name]

    tokenizer = recipe.tokenizer
    return Inputs(
        data={key: resolve(source) for key, source in data_sources(recipe)},
        model=_model(recipe.model.from_, recipe.model.revision),
        tokenizer=_model(tokenizer.from_, tokenizer.revision) if tokenizer else None,
        encoders={
            name: _model(encoder)
            for name, task in recipe.tasks.items()
            if (encoder := getattr(task, "bertscore_model", None)) is not None
        },
    )


def _data(source: Data) -> ResolvedData:
    if source.path == "toy":
        version = [("toy.py", toy.VERSION)]
        content, whole = fingerprint_checksums(version, []), fingerprint_checksums(version, [source.options])
        return ResolvedData(source, (), content, whole)
    files = source_files(source)
    if not files:
        return ResolvedData(source, (), None, fingerprint_files([], [source.path, source.options]))
    whole = fingerprint_files(files, [source.options])
    return ResolvedData(source, tuple(files), fingerprint_files(files), whole)


def _model(path: str | None, revision: str | None = None) -> ResolvedModel:
    return ResolvedModel(path, revision, fingerprint_model(path))


def _license(source: Data) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.repocard import metadata_load

    place = expand_path(source.path)
    if place.exists():
        card = (place if place.is_dir() else place.parent) / "README.md"
    elif is_hub_id(source.path):
        revision = source.options.get("revision")
        card = try_to_load_from_cache(source.path, "README.md", repo_type="dataset", revision=revision)
    else:
        return None
    try:
        stated = (metadata_load(card) or {}).get("license") if isinstance(card, str | Path) else None
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that the Hub would not read either
        return None
    stated = [stated] if isinstance(stated, str) else stated
    return ", ".join(map(str, stated)) if isinstance(stated, list) else None
