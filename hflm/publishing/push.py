"""A finished run onto the Hub: one repository, one commit, one tag, nothing of Trainer's working files.

A push may be repeated at any time: what is there already is not sent again, and an unchanged run makes no commit. So
a request that failed, or whose answer was lost, is made again.
"""

import copy
import hashlib
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hflm.core import HubError, UserError, format_bytes, logger
from hflm.publishing import hub_errors, space
from hflm.publishing.card import write_card
from hflm.publishing.hub_errors import TIMEOUT, retry
from hflm.publishing.push_files import REPLACED, published_content, run_files
from hflm.recipe import Recipe

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

TENSORS = (".safetensors", ".pt", ".pth", ".bin")  # no text


@dataclass(frozen=True)
class Release:
    """What one push puts on the Hub: `operations` on the model's repository, `space` on the Space's (empty without).

    `left_out` has a line for each file of the run that is not sent.
    """

    run: Path
    repo_id: str
    private: bool
    title: str
    tag: str
    operations: "tuple[CommitOperationAdd, ...]"
    left_out: tuple[str, ...]
    space: "tuple[CommitOperationAdd, ...]" = ()

    def __str__(self) -> str:
        visibility = "private" if self.private else "public"
        total = format_bytes(sum(each.upload_info.size for each in self.operations))
        return f"{self.repo_id} ({visibility}), tag {self.tag}: {len(self.operations)} files, {total}"

    @property
    def command(self) -> str:
        return f"hflm push {shlex.quote(str(self.run))}"


def make_release(run: str | Path, recipe: Recipe, with_space: bool = False) -> Release:
    """The Release of a finished run, whose card is brought up to date first.

    Its tag is made of the run's name and its content: "quickstart-1f0c2a9b". Raises UserError when there is nothing to
    push or nowhere to push to.
    """
    from huggingface_hub import CommitOperationAdd

    run = Path(run)
    if recipe.push is None:
        raise UserError(
            f"{run}: its recipe has no `push:` section. Say where to: hflm push {shlex.quote(str(run))} "
            f"--repo-id YOU/{recipe.name}"
        )
    run_files(run)  # an unfinished run stays as it is
    write_card(run, recipe)
    files = run_files(run)
    operations = tuple(
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=published_content(name, run, path))
        for name, path in files.sent.items()
    )
    digest = hashlib.sha256()
    for each in sorted(operations, key=lambda each: each.path_in_repo):
        digest.update(f"{each.path_in_repo}\0{each.upload_info.sha256.hex()}\n".encode())
    repo_id = recipe.push.repo_id
    space_files = space.space_files(run, repo_id) if with_space else {}
    return Release(
        run,
        repo_id,
        private=recipe.push.private,
        title=f"{recipe.name}: a run of hflm",
        tag=f"{re.sub('[^A-Za-z0-9_-]+', '-', recipe.name).strip('-') or 'run'}-{digest.hexdigest()[:8]}",
        operations=operations,
        left_out=files.left_out,
        space=tuple(CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in space_files.items()),
    )


def list_release(release: Release) -> str:
    """A Release as lines of text: what would be sent, and how large it is."""
    lines = [str(release), *_sizes(release.operations)]
    if release.space:
        lines += [f"the Space {release.repo_id}:", *_sizes(release.space)]
    lines += [f"left out: {each}" for each in release.left_out]
    return "\n".join([*lines, "A dry run: nothing was sent or asked."])


def _sizes(operations: "Sequence[CommitOperationAdd]") -> list[str]:
    return [f"{format_bytes(each.upload_info.size):>9}  {each.path_in_repo}" for each in operations]


def push_run(run: str | Path, recipe: Recipe, with_space: bool = False) -> str:
    """Send the run to `recipe.push.repo_id` and return the repository's URL; a repository is made if there is none.

    With `with_space` also a Space of that name that shows the model; the URL is the Space's then. Raises UserError
    when there is nothing to push or nowhere to push to, without a token, offline, and when the Hub refuses; HubError
    when it cannot be reached or keeps failing. The local run is complete in any case, and the message ends with the
    command that tries again.
    """
    from huggingface_hub import HfApi, constants, get_session, get_token, logging
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    release = make_release(run, recipe, with_space)
    token = get_token()
    if constants.is_offline_mode():
        raise UserError(_failed(release, "HF_HUB_OFFLINE is set. Unset it to push", token))
    if not token:
        raise UserError(_failed(release, "no Hub token. Log in with `hf auth login`, or set HF_TOKEN", token))
    refuse_token([*release.operations, *release.space], token)
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:  # transformers switched them off for its own downloads
        (enable_progress_bars if sys.stderr.isatty() else disable_progress_bars)()
    logging.set_verbosity_error()  # its warnings quote signed URLs; `retry` reports the failures
    logger.info(f"push: {release}")
    for each in release.left_out:
        logger.info(f"push: left out: {each}")
    try:
        get_session().timeout = TIMEOUT  # type: ignore[assignment]  # httpx takes a tuple; its property returns Timeout
        api = HfApi(token=token)
        url, changed = _publish(api, release, token)
        if release.space:
            url = _publish_space(api, release, token)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  only the Hub's client is called here: whatever it raises, the push failed
        # `from None`: the cause may hold the token in a header.
        kind = HubError if hub_errors.is_temporary(error) else UserError
        raise kind(_failed(release, hub_errors.reason(error, release.repo_id, token), token)) from None
    logger.info(f"push: {'released' if changed else 'unchanged, no commit was made'}, tag {release.tag}")
    return url


def _publish(api: "HfApi", release: Release, token: str) -> tuple[str, bool]:
    """(URL, whether a commit was made)."""
    repo_id, private = release.repo_id, release.private
    url = retry(token, lambda: api.create_repo(repo_id, private=private, exist_ok=True))
    before = retry(token, lambda: api.model_info(repo_id))
    check_visibility(repo_id, private, bool(before.private))
    if before.private and not private:
        logger.info(f"push: {repo_id} stays private, as it is on the Hub; its settings there can change that")
    commit = retry(token, lambda: _commit(api, release))
    # A tag that exists was made by an earlier push of the same content.
    retry(token, lambda: api.create_tag(repo_id, tag=release.tag, revision=commit.oid, exist_ok=True))
    return str(url), commit.oid != before.sha


def _commit(api: "HfApi", release: Release) -> "CommitInfo":
    """One commit on top of what is there now; the client leaves out what has not changed, and makes no empty one."""
    from huggingface_hub import CommitOperationDelete

    now = api.model_info(release.repo_id)
    sent = {each.path_in_repo for each in release.operations}
    present = [file.rfilename for file in now.siblings or ()]
    stale = [name for name in present if REPLACED.fullmatch(name) and name not in sent]
    return api.create_commit(
        release.repo_id,
        # Copies: the client notes in them what the Hub knew, and a second attempt must ask anew.
        [*map(copy.copy, release.operations), *(CommitOperationDelete(path_in_repo=name) for name in stale)],
        commit_message=release.title,
        commit_description=release.tag,
        parent_commit=now.sha,  # a commit that arrived although its answer was lost is never made twice
    )


def _publish_space(api: "HfApi", release: Release, token: str) -> str:
    """The Space's URL."""
    repo_id = release.repo_id

    def create() -> str:
        return str(
            api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=release.private, exist_ok=True)
        )

    def commit() -> None:
        api.create_commit(
            repo_id,
            repo_type="space",
            operations=[*map(copy.copy, release.space)],
            commit_message=release.title,
            parent_commit=api.space_info(repo_id).sha,
        )

    url = retry(token, create)
    retry(token, commit)
    return url


def _failed(release: Release, reason: str, token: str | None) -> str:
    reason = hub_errors.without_secrets(reason, token).rstrip(".")
    return (
        f"The push to {release.repo_id} failed: {reason}. The run is complete in {release.run}; "
        f"{release.command} retries."
    )


def check_visibility(repo_id: str, private: bool, is_private: bool) -> None:
    """Raise UserError for a public repository where the recipe wants a private one."""
    if private and not is_private:
        raise UserError(
            f"{repo_id} is a public repository, and the recipe says push.private: true. Nothing was sent. "
            "Make it private in its settings on the Hub, or say private: false"
        )


def refuse_token(operations: "Sequence[CommitOperationAdd]", token: str) -> None:
    """Raise UserError when a text file that would be sent holds the token."""
    for each in operations:
        if not each.path_in_repo.endswith(TENSORS):
            with each.as_file() as file:
                if token.encode() in file.read():
                    raise UserError(f"{each.path_in_repo} holds your Hub token. Nothing was sent. Remove it there")
