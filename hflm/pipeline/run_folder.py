"""The folder of a run: which one it is, that it is ours to write into, and that one process group at a time does."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hflm.core import FolderInUse, UserError, expand_path, is_partial, read_json
from hflm.pipeline import provenance, stage_state
from hflm.recipe import Recipe

LOCK, LOG = ".lock", "run.log"
# The holder renews the lock's time; one of another machine that is older has been left behind.
RENEWED_SECONDS, STALE_SECONDS = 30, 600


def run_folder(recipe: Recipe, output: str | Path | None) -> Path:
    """The folder to write to: `output`, else runs/<name>. Raises UserError for one that exists and is no run."""
    if output is None:
        return check_run_folder(Path("runs") / recipe.name)
    if not str(output).strip():
        raise UserError("--output is empty. Name a folder, or leave it out for runs/<name>")
    return check_run_folder(expand_path(output))


def check_run_folder(folder: Path) -> Path:
    """`folder`, if it is absent, empty or a run. Raises UserError for anything else: it would be overwritten."""
    parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if parent != folder:
        if not parent.is_dir():
            raise UserError(f"{folder}: {parent} is a file. Name another folder by --output")
        return folder
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file. Name another folder by --output")
    # A run that was killed early has no more than its lock, its log and the first of its records, or a part of it.
    known = {LOCK, LOG, stage_state.INPUTS}
    if is_run(folder) or all(each.name in known or is_partial(each) for each in folder.iterdir()):
        return folder
    raise UserError(f"{folder} exists already and is no run of hflm's. Name another folder by --output")


def group_folder(
    default: Path, output: str | Path | None, record: str, is_begun: Callable[[str], bool], refusal: str
) -> Path:
    """The folder of a command that makes several runs: `output`, else `default`.

    Raises UserError for a file, and with the `refusal` for a folder that holds something else: neither the file `record`
    nor only names that an unfinished command leaves.
    """
    folder = default if output is None else expand_path(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file. Name another folder by --output")
    if (
        folder.exists()
        and not (folder / record).is_file()
        and not all(is_begun(each.name) for each in folder.iterdir())
    ):
        raise UserError(f"{folder} exists already and {refusal}. Name another folder by --output")
    return folder


def is_run(folder: Path) -> bool:
    """Whether hflm has written a run into `folder`."""
    environment = folder / provenance.FILE
    with suppress(ValueError, AttributeError):
        return (folder / stage_state.FILE).is_file() or "hflm" in read_json(environment)
    return False


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; folders that were made for it and are still empty at the end are removed again.

    The lock is a file with the process, host and time of its holder. Raises UserError while another process holds it;
    the lock of a process that has ended is taken over.
    """
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}. Name another folder by --output") from error
    lock = folder / LOCK
    _acquire(lock)
    for left in filter(is_partial, folder.iterdir()):
        left.unlink(missing_ok=True)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lock, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        lock.unlink(missing_ok=True)
        with suppress(OSError):  # one that holds something
            for each in made:
                each.rmdir()


def this_process() -> dict[str, Any]:
    """What identifies this process among all machines, as JSON."""
    import psutil

    return {"process": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}


def has_ended(process: Mapping[str, Any]) -> bool:
    """Whether a process (`this_process`) of this machine has ended; False for one of another machine."""
    return process.get("host") == socket.gethostname() and not _runs(process)


def is_abandoned(folder: Path) -> bool:
    """Whether the folder's lock is absent or has not been renewed for long: nobody writes there."""
    try:
        return time.time() - (folder / LOCK).stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def _acquire(lock: Path) -> None:
    holder = {**this_process(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    while True:
        try:
            with open(lock, "x", encoding="utf-8") as file:
                json.dump(holder, file)
            return
        except FileExistsError:
            _remove_stale(lock)


def _remove_stale(lock: Path) -> None:
    """Remove the lock of a process that has ended. Raises UserError for one that runs."""
    try:
        age = time.time() - lock.stat().st_mtime
        text = lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    try:
        holder = json.loads(text)
        process, host, since = holder["process"], holder["host"], holder["time"]
    except (ValueError, KeyError, TypeError):  # a machine that stopped while it wrote, or another run just now
        holder, process, host, since = {}, "unknown", "unknown", "just now"
        held = age < RENEWED_SECONDS
    else:
        held = _runs(holder) if host == socket.gethostname() else age < STALE_SECONDS
    if held:
        raise FolderInUse(
            f"{lock.parent}: another run is writing there (process {process} on {host}, since {since}). Wait for it, "
            "or name another folder by --output"
        )
    claimed = lock.with_name(f"{lock.name}.{os.getpid()}")  # of several that find it, one succeeds
    with suppress(FileNotFoundError):
        lock.rename(claimed)
        claimed.unlink()


def _runs(holder: Mapping[str, Any]) -> bool:
    """Whether the process of a lock of this machine is still the one that runs under its number."""
    import psutil

    try:
        process = psutil.Process(holder["process"])
        same = abs(process.create_time() - holder.get("started", 0)) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE  # killed, and its parent has not asked for its end
    except psutil.NoSuchProcess:
        return False


def _renew(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_SECONDS):
        with suppress(OSError):
            os.utime(lock)
