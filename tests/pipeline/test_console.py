"""Reports of phases that take long."""

import logging
import time

from hflm.core import logger
from hflm.pipeline import console


def test_a_long_phase_is_reported_with_its_progress_and_a_short_one_is_not(caplog):
    with caplog.at_level(logging.INFO, logger=logger.name):
        with console.phase("reading"):
            pass
        with console.phase("encoding") as progress:
            progress(0.25)
            time.sleep(console.SLOW_SECONDS + 0.2)
    assert [record.getMessage() for record in caplog.records] == ["encoding ... (2 s, 25 %)", "encoding: 2 s"]
