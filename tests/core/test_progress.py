"""Progress of long work, on standard error."""

import subprocess
import sys

import pytest

CODE = """
import time
from hflm.core import progress
assert list(progress(range(5), "quick work", "rows", step=2)) == list(range(5))
assert sum(1 for _ in progress(iter(range(24)), "long work", "rows") if not time.sleep(0.1)) == 24
"""


@pytest.mark.parametrize(("rank", "shows"), [("0", True), ("1", False)])
def test_only_work_of_more_than_two_seconds_is_shown_by_one_process(rank, shows):
    done = subprocess.run([sys.executable, "-c", CODE], env={"RANK": rank}, capture_output=True, text=True, check=True)
    assert ("long work" in done.stderr) == shows
    assert "quick work" not in done.stderr and done.stdout == ""
