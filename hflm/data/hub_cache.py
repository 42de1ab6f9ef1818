"""Data sets and models in the Hugging Face cache, and the commits that their names refer to."""

import functools
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hflm.core import BUILDER_BY_SUFFIX, DataError, ModelError, expand_path

# What datasets reads besides the data files: configurations, splits and features.
METADATA_FILES = ("README.md", ".huggingface.yaml", "dataset_infos.json")


def is_hub_id(path: str) -> bool:
    """Whether `path` can be the name of a repository, and no file or folder of that name is here."""
    return is_repository_name(path) and not expand_path(path).exists()


def is_repository_name(path: str) -> bool:
    """Whether `path` can be the name of a repository: that of a data file (`reviews.csv`, `data/train.jsonl`) cannot."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) is not None and Path(path).suffix not in BUILDER_BY_SUFFIX


def cached_folder(repo_id: str, revision: str | None = None, repo_type: str = "dataset") -> Path | None:
    """The folder of a repository in the cache, or None; without a network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            # No file is asked for, since the cache seldom holds all of a repository.
            snapshot_download(
                repo_id, repo_type=repo_type, revision=revision, local_files_only=True, ignore_patterns="*"
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
        return None


def resolve_commit(repo_id: str, revision: str | None = None, repo_type: str = "dataset") -> str | None:
    """The commit (40 hex digits) that `revision` names now: the Hub's answer, or without a network the cache's.

    None where neither knows the repository.
    """
    sha, _ = _ask_hub(repo_id, revision, repo_type)
    folder = None if sha else cached_folder(repo_id, revision, repo_type)
    return sha or (folder.name if folder else None)


def is_reachable(repo_id: str, revision: str | None = None, repo_type: str = "dataset") -> bool:
    """Whether the Hub answers about a repository, be it that there is none of that name."""
    return _ask_hub(repo_id, revision, repo_type)[1]


@functools.cache
def _ask_hub(repo_id: str, revision: str | None, repo_type: str) -> tuple[str | None, bool]:
    """(commit or None, whether the Hub answered). Once a process, so that all of a run reads the same commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        return HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=20).sha, True
    except HfHubHTTPError:
        return None, True
    except (OSError, HTTPError, ValueError):  # no network, HF_HUB_OFFLINE, no name of a repository
        return None, False


def fetch_dataset(repo_id: str, options: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """Download the files of a data set into the cache: all splits of the configuration that `options` choose.

    Returns (folder, [files of the data]). Raises DataError where the Hub has no such data set.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    revision = options.get("revision")
    commit = resolve_commit(repo_id, revision)
    try:
        builder = datasets.load_dataset_builder(repo_id, **{**options, "revision": commit})
        root = f"hf://datasets/{repo_id}@{commit}/"
        urls = [url for split in (builder.config.data_files or {}).values() for url in split]
        elsewhere = [url for url in urls if not url.startswith(root)]
        if elsewhere or not urls:
            raise DataError(f"{repo_id}: its files are elsewhere ({(elsewhere or ['nowhere'])[0]}) and not downloaded")
        names = [url.removeprefix(root) for url in urls]
        # By the name that the recipe says, so that the cache knows without a network which commit that is.
        folder = Path(
            snapshot_download(
                repo_id,
                repo_type="dataset",
                revision=revision,
                allow_patterns=[*map(glob.escape, names), *METADATA_FILES],
            )
        )
    except (OSError, HTTPError, ValueError, DatasetNotFoundError) as error:
        raise DataError(f"data set '{repo_id}' cannot be fetched: {' '.join(str(error).split())[:300]}") from error
    return folder, [folder / name for name in names]


def fetch_model(repo_id: str, revision: str | None, text: tuple[str, ...], weights: bool) -> tuple[Path, list[Path]]:
    """Download a model's files into the cache: those at its root that end in one of `text`, and safetensors.

    Returns (folder, [files]). Raises ModelError.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    endings = (*text, ".safetensors") if weights else text
    try:
        names = HfApi().list_repo_files(repo_id, revision=revision)
        wanted = [name for name in names if "/" not in name and name.endswith(endings)]
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(map(glob.escape, wanted))))
    except (OSError, HTTPError, ValueError) as error:
        raise ModelError(f"'{repo_id}' cannot be fetched: {' '.join(str(error).split())[:300]}") from error
    if weights and not any(name.endswith(".safetensors") for name in wanted):
        raise ModelError(f"'{repo_id}' holds no safetensors; other formats of weights are not read")
    return folder, [folder / name for name in wanted]
