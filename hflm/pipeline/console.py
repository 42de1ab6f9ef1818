"""What a run prints."""

import os
import sys


def say(text: str) -> None:
    """Print one line, from the first process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, file=sys.stderr, flush=True)
