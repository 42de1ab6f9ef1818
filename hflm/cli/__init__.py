"""The command line: `hflm run quickstart` and the rest, and what each failure exits with.

0 done; 2 the user must change something (one message, no traceback); 1 a bug (a traceback) or a Hub that keeps failing
(one message); 143 stopped by SIGTERM with a checkpoint saved; 130 Ctrl-C. What a command needs is imported inside it,
so that `--help`, `validate`, `plan`, `schema` and `recipes` answer at once; before an import that takes seconds,
`announce` writes a line to the terminal.
"""

from hflm.cli import models, recipes  # noqa: F401  they add their commands to the application
from hflm.cli.app import COMMANDS, app
from hflm.cli.entry import error_message, main

__all__ = ["COMMANDS", "app", "error_message", "main"]
