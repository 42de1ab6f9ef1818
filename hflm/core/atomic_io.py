"""Write a file or a folder so that it is whole or not there, even if the machine stops."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def write_bytes(path, content):
    """Write `content` (bytes) so that `path` holds all of it or what it held before, even if the machine stops."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text):
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def whole_folder(path):
    """A folder to write into that takes the place of `path` at the end; until then, and after an error, `path` stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield beside
        os.chmod(beside, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
