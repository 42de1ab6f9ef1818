"""Files and folders that are complete or absent, even if the machine stops while they are written."""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def is_partial(path: Path) -> bool:
    """Whether `path` is what `atomic_write_bytes` has written of a file when its process was killed."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None and path.is_file()


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the disk has no links between the two."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before."""
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


def atomic_write_text(path: str | Path, text: str) -> None:
    """`atomic_write_bytes` of `text` in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block ends without an error.

    An existing `path` is renamed first and removed last, so that its content is on disk until the new folder is in
    place. If the machine stops between the two, the next call brings it back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    interrupted = [Path(each) for each in glob.glob(f"{glob.escape(str(path.with_name(f'.{path.name}-')))}*.old")]
    if interrupted and not path.exists():
        os.rename(interrupted.pop(), path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    old = new.with_name(f"{new.name}.old")
    try:
        yield new
        os.chmod(new, 0o755)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
        for each in (old, *interrupted):
            shutil.rmtree(each, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
