"""Fingerprints of files, by which a finished stage recognizes that its inputs have not changed."""

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hflm.core.paths import expand_path


def fingerprint_files(files: Iterable[Path], extra: Any = ()) -> str:
    """'sha256:...' of the files' names and contents, independent of their folder, and of `extra`, a JSON value."""
    return fingerprint_checksums(((file.name, _file_checksum(file)) for file in files), extra)


def fingerprint_checksums(checksums: Iterable[tuple[str, str]], extra: Any) -> str:
    """'sha256:...' of (name, checksum) pairs and of `extra`, a JSON value."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for name, checksum in checksums:
        digest.update(f"{name} {checksum}".encode())
    return f"sha256:{digest.hexdigest()}"


def fingerprint_model(path: str | Path | None) -> str | None:
    """'sha256:...' of a model's files when `path` is local (a run, a folder or a file), else the Hub id or None."""
    if path is None:
        return None
    local = expand_path(path)
    if not local.exists():
        return str(path)
    if (local / "model").is_dir():
        local = local / "model"
    files = [local] if local.is_file() else sorted(file for file in local.rglob("*") if file.is_file())
    return fingerprint_files(files)


def _file_checksum(file: Path) -> str:
    status = file.stat()
    return _cached_checksum(file.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.cache
def _cached_checksum(file: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    """The sha256 of a file; a run asks for the same files several times, and each is read once.

    The time of the last change of status, ctime, is what no program can set back.
    """
    return file_checksum(file)


def file_checksum(file: Path) -> str:
    """The sha256 of what a file holds now, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
