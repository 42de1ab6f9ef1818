"""What of the Hub lies in the Hugging Face cache: the folder of a data set, the commit that a name stands for."""

import functools
import glob
import re
from pathlib import Path

from hflm.core import DataError, ModelError

# What datasets reads beside the data files: configurations, splits and features.
BESIDE = ("README.md", ".huggingface.yaml", "dataset_infos.json")


def is_hub_id(path):
    """Whether `path` can be the name of a repository, and nothing of that name lies here."""
    return re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", path) is not None and not Path(path).expanduser().exists()


def cached(repo_id, revision=None, repo_type="dataset"):
    """The folder of a repository in the cache, or None. No network is asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            # Nothing is asked for, since the cache seldom holds all of a repository.
            snapshot_download(
                repo_id, repo_type=repo_type, revision=revision, local_files_only=True, ignore_patterns="*"
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
        return None


def commit(repo_id, revision=None, repo_type="dataset"):
    """The commit (40 hex digits) that `revision` stands for now: the Hub's answer, or without a network the cache's.

    None where neither knows the repository.
    """
    sha, _ = _asked(repo_id, revision, repo_type)
    folder = None if sha else cached(repo_id, revision, repo_type)
    return sha or (folder and folder.name)


def reachable(repo_id, revision=None, repo_type="dataset"):
    """Whether the Hub answers about a repository, be it that there is none of that name."""
    return _asked(repo_id, revision, repo_type)[1]


@functools.cache
def _asked(repo_id, revision, repo_type):
    """(commit or None, whether the Hub answered). Once a process, so that all of a run reads the same commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        return HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=20).sha, True
    except HfHubHTTPError:
        return None, True
    except (OSError, HTTPError, ValueError):  # no network, HF_HUB_OFFLINE, no name of a repository
        return None, False


def fetch(repo_id, options):
    """Bring the files of a data set into the cache: all splits of the configuration that `options` choose.

    Returns (folder, [files of the data]). Raises DataError where the Hub gives no such data set.
    """
    import datasets
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    wanted = options.get("revision")
    try:
        builder = datasets.load_dataset_builder(repo_id, **{**options, "revision": commit(repo_id, wanted)})
        root = f"hf://datasets/{repo_id}@{commit(repo_id, wanted)}/"
        urls = [url for split in (builder.config.data_files or {}).values() for url in split]
        elsewhere = [url for url in urls if not url.startswith(root)]
        if elsewhere or not urls:
            raise DataError(f"{repo_id}: its files lie elsewhere ({(elsewhere or ['nowhere'])[0]}), so they stay there")
        names = [url.removeprefix(root) for url in urls]
        # By the name that the recipe says, so that the cache knows without a network which commit it stands for.
        folder = Path(
            snapshot_download(
                repo_id,
                repo_type="dataset",
                revision=wanted,
                allow_patterns=[*map(glob.escape, names), *BESIDE],
            )
        )
    except (OSError, HTTPError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise DataError(f"data set '{repo_id}' cannot be fetched: {' '.join(str(error).split())[:300]}") from error
    return folder, [folder / name for name in names]


def fetch_model(repo_id, revision, text, weights):
    """Bring a model's files into the cache: those at its root that end in one of `text`, and safetensors.

    Returns (folder, [files]). Raises ModelError.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError

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
