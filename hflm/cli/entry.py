"""The console script: runs a command, and turns what it raises into one message and an exit code."""

import errno
import logging
import sys
import traceback
import warnings
from typing import NoReturn

from hflm.cli.app import app, printable
from hflm.core import HubError, Stopped, UserError, configure_logging, logger

# A path that the user named, or a disk, cannot be what it has to be.
PATH_ERRORS = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS}


def main() -> None:
    """The console script: runs a command and exits as this package's docstring says."""
    configure_logging()
    logger.propagate = False  # absl, which rouge-score imports, adds a handler to the root logger
    # The line of source code in Python's own format does not help a user.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    try:
        app()
    except UserError as error:
        _exit(2, error_message(error))
    except HubError as error:
        _exit(1, str(error))
    except Stopped as error:
        _exit(error.exit_code, str(error))
    except PermissionError as error:
        if error.filename is None:
            raise
        _exit(2, f"{error.filename}: no permission to write or read there. Change its mode, or use another folder")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename is not None:
            _exit(2, f"{error.filename}: {error.strerror}. Use another path")
        if not _disk_full(error):
            raise
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        _exit(2, f"no space left on the disk{place}. Free some and run the same command again: it continues.")


def error_message(error: UserError) -> str:
    """The message of an error. A DataLoader's worker wraps it in its own traceback, which is left out."""
    text = str(error)
    raised = f"\n{type(error).__module__}.{type(error).__qualname__}: "
    return text.split(raised)[-1].rstrip() if text.startswith("Caught ") else text


def _exit(code: int, message: str) -> NoReturn:
    if logger.isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    print(printable(message), file=sys.stderr)
    sys.exit(code)


def _disk_full(error: Exception) -> bool:
    """safetensors and tokenizers report a full disk as errors of their own, with the system's words in it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
