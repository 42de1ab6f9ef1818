"""Brings a run that is under way from the Hub: the files of one commit of the branch `checkpoints`, each checked."""

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hflm.core import HubError, UserError, file_checksum
from hflm.publishing import hub_errors
from hflm.publishing.checkpoint_files import (
    BRANCH,
    ELSEWHERE,
    MANIFEST,
    TORCH_FILES,
    Snapshot,
    parse_snapshot,
    unsafe_content,
)
from hflm.recipe import REPO_ID

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubCheckpoint:
    """A checkpoint on the Hub, pinned to a commit."""

    repo_id: str
    branch: str
    commit: str
    snapshot: Snapshot

    def __str__(self) -> str:
        return f"{self.repo_id} ({self.branch})"

    def recipe(self) -> Path:
        """The recipe of its run, in the Hugging Face cache."""
        return _fetch(self.repo_id, self.branch, self.commit, "recipe.yaml")

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Bring files of the snapshot into `folder`; those that are complete there stay.

        Raises UserError for a file whose content is not what the snapshot lists, HubError when the Hub keeps failing.
        """
        for name in names:
            target = folder / name
            for _ in range(2):  # what was cut or changed on its way is right the second time
                if target.is_file() and file_checksum(target) == self.snapshot.files[name]:
                    break
                target.unlink(missing_ok=True)
                _fetch(self.repo_id, self.branch, self.commit, name, folder)
            else:
                if file_checksum(target) != self.snapshot.files[name]:
                    target.unlink()
                    raise UserError(f"{self}: {name} is damaged, its content is not what was sent. {ELSEWHERE}")
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes

    def check_content(self, folder: Path) -> None:
        """Raise UserError for a file of torch in `folder` that holds more than tensors and numbers."""
        for name in self.snapshot.files:
            if re.fullmatch(TORCH_FILES, name.split("/")[-1]) and (unsafe := unsafe_content(folder / name)):
                raise UserError(f"{self}: {name} is refused: {unsafe}. It was not loaded. {ELSEWHERE}")


def find_checkpoint(place: str) -> HubCheckpoint:
    """The newest checkpoint at `place`, "you/name" or "you/name@branch".

    Raises UserError when there is none, when this token may not read it or the machine is offline, HubError when the Hub
    keeps failing.
    """
    from huggingface_hub import HfApi, constants, get_session, logging
    from huggingface_hub.utils import disable_progress_bars

    repo_id, _, branch = place.partition("@")
    branch = branch or BRANCH
    if not re.fullmatch(REPO_ID, repo_id):
        raise UserError(f"--from-hub {place}: expected namespace/name, as on the Hub, or namespace/name@branch")
    if constants.is_offline_mode():
        raise UserError(f"--from-hub {place}: HF_HUB_OFFLINE is set. Unset it, or leave --from-hub out")
    logging.set_verbosity_error()  # its warnings quote signed URLs
    if not sys.stderr.isatty():
        disable_progress_bars()
    get_session().timeout = hub_errors.TIMEOUT  # type: ignore[assignment]  # as in push_run
    api = HfApi(token=_token() or False)
    info = _ask(repo_id, branch, lambda: api.model_info(repo_id, revision=branch))
    assert info.sha is not None, "a revision has a commit"
    if MANIFEST not in [file.rfilename for file in info.siblings or ()]:
        raise UserError(f"{repo_id} ({branch}): the branch holds no checkpoint of hflm's. {ELSEWHERE}")
    content = _fetch(repo_id, branch, info.sha, MANIFEST).read_bytes()
    return HubCheckpoint(repo_id, branch, info.sha, parse_snapshot(content, f"{repo_id} ({branch})"))


def _fetch(repo_id: str, branch: str, commit: str, name: str, folder: Path | None = None) -> Path:
    """A file of a commit, in `folder` or in the Hugging Face cache."""
    from huggingface_hub import hf_hub_download

    token = _token() or False
    return Path(
        _ask(repo_id, branch, lambda: hf_hub_download(repo_id, name, revision=commit, token=token, local_dir=folder))
    )


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _ask(repo_id: str, branch: str, call: Callable[[], Result]) -> Result:
    """call(), repeated while its failure may pass by itself. Raises UserError and HubError in words."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    token = _token()
    try:
        return hub_errors.retry(token, call, "checkpoints")
    except RepositoryNotFoundError:
        who = "this token may not read it: check it with `hf auth whoami`" if token else NO_TOKEN
        raise UserError(f"{repo_id}: there is no such repository on the Hub, or {who}") from None
    except RevisionNotFoundError:
        raise UserError(
            f"{repo_id}: it has no branch {branch}, or not any longer the commit that was read. A run with `push: {{checkpoints: true}}` makes it with its first "
            f"checkpoint, and deletes it when it is finished and published. {ELSEWHERE}"
        ) from None
    except Exception as error:  # noqa: BLE001  only the Hub's client is called here
        kind = HubError if hub_errors.is_temporary(error) else UserError
        described = hub_errors.reason(error, repo_id, token).rstrip(".")
        # `from None`: the cause may hold the token in a header.
        raise kind(f"{repo_id} ({branch}) could not be read: {described}. The same command tries again") from None


NO_TOKEN = "it is private and there is no token here: log in with `hf auth login`, or set HF_TOKEN"
