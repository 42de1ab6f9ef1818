"""A PostgreSQL server of its own for tests: Debian's package `postgresql`, on loopback, in a folder that is removed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "s3cret-of-the-tests"


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb and shutil.which("pg_ctl") else None


@contextmanager
def postgres() -> Iterator[str]:
    """Yields the URL of a database, password included; skips the test without PostgreSQL's binaries."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    # The server refuses to run as root.
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="hflm-postgres-"))
    data, port = folder / "data", _free_port()
    (folder / "password").write_text(PASSWORD)
    if user:
        for each in (folder, folder / "password"):
            shutil.chown(each, "postgres", "postgres")

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(data), *arguments]
        with open(folder / "output", "ab") as output:
            done = subprocess.run(command, cwd=folder, stdout=output, stderr=output, **user)
        assert done.returncode == 0, (folder / "output").read_text()

    try:
        call("initdb", "-U", "me", "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "-E", "UTF8", "-N")
        call("pg_ctl", "-w", "-o", f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off", "start")
        try:
            yield f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
