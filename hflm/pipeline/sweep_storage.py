"""Optuna's storage of a sweep: SQLite in its folder, a database that many machines reach, or a journal file."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import MissingExtra, UserError, expand_path, mask_tokens

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

HEARTBEAT_SECONDS, GRACE_SECONDS = 30, 120  # of workers on other machines, through a database
CONNECT_SECONDS, ATTEMPTS = 10, 3


def require_optuna() -> None:
    """Raise MissingExtra without Optuna; else let only its errors be printed (HFLM_LIBRARY_LOGS=1: all messages)."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("sweep", "hflm sweep") from None
    if os.environ.get("HFLM_LIBRARY_LOGS") != "1":
        optuna.logging.set_verbosity(logging.ERROR)


@contextmanager
def open_storage(storage: str | None, folder: Path) -> "Iterator[BaseStorage]":
    """Yields the storage that a recipe names: a database's URL, a journal file, or the SQLite file in the sweep's `folder`.

    Its connections are closed at the end. Raises UserError where it cannot be opened.
    """
    from optuna.storages import RDBStorage

    opened = _open(storage, folder)
    try:
        yield opened
    finally:
        if isinstance(opened, RDBStorage):
            opened.remove_session()
            opened.engine.dispose()


def _open(storage: str | None, folder: Path) -> "BaseStorage":
    if storage is not None and "://" not in storage:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path = expand_path(storage)
        with storage_errors(storage, opening=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        return _open_database(f"sqlite:///{folder / 'study.db'}")
    return _open_database(storage)


def _open_database(url: str) -> "BaseStorage":
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith(("postgresql", "mysql", "mariadb")):
        options["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    for attempt in range(ATTEMPTS):
        with storage_errors(url, opening=True), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of the heartbeat
            try:
                return RDBStorage(url, options, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)
            except SQLAlchemyError:  # another worker makes the tables at this moment
                if attempt == ATTEMPTS - 1:
                    raise
        time.sleep(0.2 * (attempt + 1))
    raise AssertionError("returned or raised above")


@contextmanager
def storage_errors(storage: str | None, opening: bool = False) -> Iterator[None]:
    """Turn errors of the storage into a UserError, without the password of its URL.

    opening: also those of files and imports, which later have other causes.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    name = "sweep.storage: " + ("the sweep's study.db" if storage is None else mask_tokens(storage))
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        text = " ".join(str(getattr(error, "orig", None) or error.__cause__ or error).split())
        raise UserError(
            f"{name} cannot be used: {mask_tokens(text)[:300]}. Nothing is lost; the same command continues"
        ) from None
    except ImportError as error:
        if not opening:
            raise
        raise UserError(
            f"{name}: its driver is missing ({error.__cause__ or error}). Install it: `psycopg[binary]` for postgresql://, "
            "`pymysql` for mysql+pymysql://"
        ) from None
    except OSError as error:
        if not opening:
            raise
        raise UserError(f"{name} cannot be used: {error.strerror or error}") from None


def has_heartbeat(storage: "BaseStorage") -> bool:
    """Whether the storage knows when a worker of another machine was last alive; a journal does not."""
    from optuna.storages import JournalStorage

    return not isinstance(storage, JournalStorage)
