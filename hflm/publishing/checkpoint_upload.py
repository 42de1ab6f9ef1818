"""Checkpoints onto the Hub while a run trains: in the background, the newest one, whole or not at all.

Each is one commit on the branch `checkpoints`, which deletes what the one before it had and no longer counts; the
branch's history is squashed then, so that the storage does not grow. Whatever fails is a warning: training goes on, and
the next checkpoint is sent in its place.
"""

import copy
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hflm.core import UserError, format_bytes, format_duration, logger
from hflm.publishing import hub_errors
from hflm.publishing.checkpoint_files import BRANCH, MANIFEST, Snapshot, parse_snapshot
from hflm.publishing.push import TENSORS, check_visibility, refuse_token

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

CLOSING_SECONDS = 60  # that the end of a run waits for an upload
Result = TypeVar("Result")


@dataclass(frozen=True)
class Staged:
    """Files that nobody else changes, in a folder of their own; `snapshot` without their checksums."""

    folder: Path
    snapshot: Snapshot


class CheckpointUploads:
    """Sends staged checkpoints to a repository, one at a time, from a thread that nobody waits for.

    While one is sent, the newest of those that are offered waits, and the others are dropped. The thread is a daemon and
    starts no others: a process that ends does not wait for the Hub.
    """

    def __init__(self, repo_id: str, private: bool = True) -> None:
        self.repo_id, self.private = repo_id, private
        self._changed = threading.Condition()
        self._waiting: Staged | None = None
        self._sending: Staged | None = None
        self._thread: threading.Thread | None = None
        self._closed = self._given_up = False
        self._head: str | None = None  # the branch's commit after our last upload

    def offer(self, staged: Staged) -> None:
        """Send `staged` as soon as the upload before it has ended; its folder is removed then."""
        with self._changed:
            dropped, self._waiting = self._waiting, staged
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoint-uploads", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if dropped is not None:
            logger.info(f"checkpoints: {dropped.snapshot} is not sent, {staged.snapshot} is newer")
            shutil.rmtree(dropped.folder, ignore_errors=True)

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Let what was offered be sent, for at most so many seconds; Ctrl-C ends the waiting."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._pending:
                logger.info(f"checkpoints: waiting for the upload of {self._pending}, at most {seconds:.0f} s")
            try:
                self._changed.wait_for(lambda: self._pending is None, timeout=max(0.0, until - time.monotonic()))
            except KeyboardInterrupt:
                pass
            self._given_up = True
            if self._pending:
                logger.warning(
                    f"checkpoints: {self._pending} was not sent to {self.repo_id} in time. It is on this machine, and the "
                    "Hub has the one before it"
                )

    @property
    def _pending(self) -> Snapshot | None:
        newest = self._waiting or self._sending
        return newest.snapshot if newest else None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                self._sending, self._waiting = self._waiting, None
                staged = self._sending
            if staged is None:
                return
            try:
                self._send(staged)
            finally:
                shutil.rmtree(staged.folder, ignore_errors=True)
                with self._changed:
                    self._sending = None
                    self._changed.notify_all()

    def _send(self, staged: Staged) -> None:
        from huggingface_hub import get_token

        token, began = get_token(), time.monotonic()
        try:
            size = self._upload(staged, token)
        except _GivenUp:
            return
        except Exception as error:  # noqa: BLE001  whatever fails here, training goes on
            self._head = None
            if self._given_up:
                return
            reason = str(error) if isinstance(error, UserError) else hub_errors.reason(error, self.repo_id, token)
            logger.warning(
                f"checkpoints: {staged.snapshot} was not sent to {self.repo_id}: "
                f"{hub_errors.without_secrets(reason, token).rstrip('.')}. Training goes on; the next checkpoint is sent "
                "in its place"
            )
            return
        took = format_duration(time.monotonic() - began)
        logger.info(
            f"checkpoints: {staged.snapshot} is on the Hub, {format_bytes(size)} in {took}: {self.repo_id}, branch {BRANCH}"
        )

    def _upload(self, staged: Staged, token: str | None) -> int:
        """The size of what is on the branch then, in bytes."""
        from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session, logging
        from huggingface_hub.utils import disable_progress_bars

        if constants.is_offline_mode():
            raise UserError("HF_HUB_OFFLINE is set. Unset it, or set push.checkpoints: false")
        if not token:
            raise UserError("no Hub token. Log in with `hf auth login`, or set HF_TOKEN")
        disable_progress_bars()  # they would break into that of the training
        logging.set_verbosity_error()  # its warnings quote signed URLs; `retry` reports the failures
        get_session().timeout = hub_errors.TIMEOUT  # type: ignore[assignment]  # as in push_run
        api = HfApi(token=token)
        files = sorted(path for path in staged.folder.rglob("*") if path.is_file())
        operations = [
            CommitOperationAdd(path_in_repo=path.relative_to(staged.folder).as_posix(), path_or_fileobj=path)
            for path in files
        ]
        sums = {each.path_in_repo: each.upload_info.sha256.hex() for each in operations}
        _check_sums(staged.folder, sums)
        snapshot = replace(staged.snapshot, files=sums)
        operations.append(CommitOperationAdd(path_in_repo=MANIFEST, path_or_fileobj=snapshot.to_json()))
        refuse_token(operations, token)
        if self._head is None:
            self._open_branch(api, token)
        head = self._ask(token, lambda: api.model_info(self.repo_id, revision=BRANCH)).sha
        uploaded = [copy.copy(each) for each in operations]
        for each in uploaded:
            if each.path_in_repo.endswith(TENSORS):
                # One at a time: for several the client starts threads of its own, which the end of a process waits for.
                self._ask(token, lambda each=each: api.preupload_lfs_files(self.repo_id, [each], revision=BRANCH))
        commit = self._ask(token, lambda: self._commit(api, token, snapshot, operations, {head: uploaded}))
        self._head = commit.oid
        self._squash(api, token, snapshot)
        return sum(each.upload_info.size for each in operations)

    def _ask(self, token: str, call: Callable[[], Result]) -> Result:
        """call(), repeated as hub_errors.retry does it, unless the run has ended meanwhile."""

        def unless_given_up() -> Result:
            if self._given_up:
                raise _GivenUp
            return call()

        return hub_errors.retry(token, unless_given_up, "checkpoints")

    def _open_branch(self, api: "HfApi", token: str) -> None:
        self._ask(token, lambda: api.create_repo(self.repo_id, private=self.private, exist_ok=True))
        found = self._ask(token, lambda: api.model_info(self.repo_id))
        check_visibility(self.repo_id, self.private, bool(found.private))
        self._ask(token, lambda: api.create_branch(self.repo_id, branch=BRANCH, exist_ok=True))

    def _commit(
        self,
        api: "HfApi",
        token: str,
        snapshot: Snapshot,
        operations: "list[CommitOperationAdd]",
        uploaded: "dict[str | None, list[CommitOperationAdd]]",
    ) -> "CommitInfo":
        """One commit on top of what is there now, after which the branch holds these files and no others.

        uploaded: the operations whose content is on the Hub already, by the commit that they were compared with.
        """
        from huggingface_hub import CommitOperationDelete

        now = api.model_info(self.repo_id, revision=BRANCH)
        present = [file.rfilename for file in now.siblings or ()]
        if now.sha != self._head and MANIFEST in present and now.sha is not None:
            self._keep_other(api, token, snapshot, now.sha)
        sent = {each.path_in_repo for each in operations}
        stale = [name for name in present if name not in sent and name != ".gitattributes"]
        return api.create_commit(
            self.repo_id,
            # Copies, as in a push.
            [
                *map(copy.copy, uploaded.get(now.sha, operations)),
                *(CommitOperationDelete(path_in_repo=name) for name in stale),
            ],
            commit_message=f"{snapshot.run}: {snapshot}",
            revision=BRANCH,
            parent_commit=now.sha,
        )

    def _keep_other(self, api: "HfApi", token: str, snapshot: Snapshot, commit: str) -> None:
        """Keep a checkpoint that is not one of ours, or is further than ours, on a branch of its own."""
        there = read_snapshot(api, token, self.repo_id, commit)
        if there is not None and snapshot.continues(there):
            return
        branch = f"{BRANCH}-{there.stage}-{there.step}-{commit[:8]}" if there else f"{BRANCH}-{commit[:8]}"
        api.create_branch(self.repo_id, branch=branch, revision=commit, exist_ok=True)
        what = (
            f"{there} of {'this run' if there.keys == snapshot.keys else 'a run with other settings'}"
            if there
            else "it"
        )
        logger.warning(
            f"checkpoints: {self.repo_id} held a checkpoint that this run does not continue ({what}); it is kept on the branch "
            f"{branch}. `hflm run --from-hub {self.repo_id}@{branch}` continues from it; delete the branch if you don't need it"
        )

    def _squash(self, api: "HfApi", token: str, snapshot: Snapshot) -> None:
        """Leave one commit on the branch: the files of earlier ones no longer take storage."""
        title = f"{snapshot.run}: {snapshot}"
        try:
            self._ask(token, lambda: api.super_squash_history(self.repo_id, branch=BRANCH, commit_message=title))
            self._head = self._ask(token, lambda: api.model_info(self.repo_id, revision=BRANCH)).sha
        except _GivenUp:
            raise
        except Exception as error:  # noqa: BLE001  the checkpoint is there; the next one squashes again
            described = hub_errors.describe(error, token)
            logger.info(f"checkpoints: the history of branch {BRANCH} was not squashed: {described}")


class _GivenUp(Exception):
    """The run has ended, and waits no longer."""


def read_snapshot(api: "HfApi", token: str | None, repo_id: str, revision: str) -> Snapshot | None:
    """The Snapshot of a revision; None where it holds none that this hflm can read."""
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(repo_id, MANIFEST, revision=revision, token=token or False)
    try:
        return parse_snapshot(Path(path).read_bytes(), repo_id)
    except UserError:
        return None


def remove_branch(repo_id: str, keys: dict[str, str]) -> None:
    """Delete the branch of a run that is finished and published, if its checkpoint is of that run (`keys`).

    A failure is a warning: the run is complete.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    token = get_token()
    api = HfApi(token=token)
    try:
        head = hub_errors.retry(token, lambda: api.model_info(repo_id, revision=BRANCH), "checkpoints").sha
        assert head is not None, "a revision has a commit"
        found = hub_errors.retry(token, lambda: read_snapshot(api, token, repo_id, head), "checkpoints")
        if found is None or any(keys.get(stage) != key for stage, key in found.keys.items()):
            logger.info(f"checkpoints: branch {BRANCH} of {repo_id} is of another run and stays")
            return
        hub_errors.retry(token, lambda: api.delete_branch(repo_id, branch=BRANCH), "checkpoints")
        logger.info(f"checkpoints: the run is published, branch {BRANCH} of {repo_id} is deleted")
    except (RevisionNotFoundError, EntryNotFoundError):
        return  # there is none
    except Exception as error:  # noqa: BLE001  only the Hub's client is called here
        described = hub_errors.reason(error, repo_id, token)
        logger.warning(f"checkpoints: branch {BRANCH} of {repo_id} was not deleted: {described}. Delete it on the Hub")


def _check_sums(folder: Path, sums: dict[str, str]) -> None:
    """Raise UserError for a checkpoint in `folder` that has changed since it was written."""
    from hflm.training import CHECKSUMS

    for path in folder.glob(f"*/checkpoint-*/{CHECKSUMS}"):
        place = path.parent.relative_to(folder).as_posix()
        for name, expected in json.loads(path.read_text()).items():
            if sums.get(f"{place}/{name}") != expected:
                raise UserError(f"{place}/{name} has changed since it was written")
