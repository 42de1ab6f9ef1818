"""Fingerprints of files: they tell whether what a finished stage has read is still the same."""

import functools
import hashlib
import json

from hflm.core import paths


def of_files(files, beside=()):
    """'sha256:...' of the files' names and bytes, wherever they lie, and of `beside`, a JSON value."""
    described = ((file, file.stat()) for file in files)
    sums = ((file.name, _sum(file.resolve(), there.st_size, there.st_mtime_ns)) for file, there in described)
    return of_sums(sums, beside)


def of_sums(sums, beside):
    """'sha256:...' of (name, checksum) pairs and of `beside`, a JSON value."""
    digest = hashlib.sha256(json.dumps(beside, sort_keys=True).encode())
    for name, checksum in sums:
        digest.update(f"{name} {checksum}".encode())
    return f"sha256:{digest.hexdigest()}"


def of_model(path):
    """'sha256:...' of a model's files when `path` is local, else the path itself (a Hub id, or None)."""
    if path is None:
        return None
    place = paths.place(path)
    if not place.exists():
        return path
    if (place / "model").is_dir():
        place = place / "model"
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    return of_files(files)


@functools.cache
def _sum(file, size, mtime_ns):
    """The sha256 of a file; a run asks for the same files several times, and each is read once."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
