"""tests/bench/gpu_check.py on the CPU in small sizes, so that it runs the first time that a GPU is at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu_check.py"


def check(*options):
    """(exit code, the last line as JSON, all that was printed)."""
    ended = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, env=os.environ)
    assert ended.returncode in (0, 1), ended.stderr
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1]), ended.stdout


def test_one_part_and_its_table():
    code, found, printed = check("--rehearse", "--parts", "d")
    assert (code, found["rehearsal"], found["machine"]["device"]) == (0, True, "cpu")
    assert 0 < found["d"]["adamw"]["part"] < found["d"]["muon"]["part"] < 1
    assert f"muon  muon.part       {found['d']['muon']['part']}" in printed


@pytest.mark.slow
def test_every_part():
    code, found, _ = check("--rehearse", "--minutes", "20")
    assert code == 0, found
    assert set("abcdef") <= found.keys()
    assert found["a"]["passed"] > 9 and found["a"]["failed"] == []
    assert found["b"]["scores"].keys() == {"sentiment"}
    assert found["c"]["ratio_to_loop"].keys() == {"hflm", "hflm_compiled", "loop_compiled"}
    assert min(found["e"]["labels_per_second"], found["e"]["texts_per_second"]) > 0
    assert found["f"]["loss_difference"] < 0.03


@pytest.mark.slow
def test_what_has_failed_and_what_had_no_time_is_reported():
    code, found, _ = check("--rehearse", "--parts", "d", "--minutes", "0")
    assert code == 1
    assert "no time was left" in found["d"]["failed"]
