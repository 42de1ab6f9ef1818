"""hflm's logger: progress messages on stderr, from the first process only."""

import logging
import os
import sys

from hflm.core.markdown import escape_controls
from hflm.core.redaction import mask_tokens

logger = logging.getLogger("hflm")


class _StderrHandler(logging.Handler):
    """Writes each message above a progress bar, without tokens and control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(escape_controls(mask_tokens(self.format(record))), file=sys.stderr)
        sys.stderr.flush()


def _from_first_process(_: logging.LogRecord) -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def configure_logging(level: int | str = logging.INFO) -> None:
    """Show hflm's messages of `level` and above on stderr. A second call changes only the level."""
    logger.setLevel(level)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.addFilter(_from_first_process)
        logger.addHandler(handler)
