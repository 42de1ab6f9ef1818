"""What a run changes in its whole process for speed, in one place. Each change has an environment variable against it.

- HFLM_MALLOC=0: glibc's malloc stays as it is (hflm.core.hardware.tune_malloc).
- HFLM_ONEDNN=0: fp32 products on CPUs with AVX-512 stay with MKL (hflm.models.onednn).
"""

import os

from hflm.core import arithmetic, hardware


def tune(spare_memory: bool = False) -> list[str]:
    """Apply the changes that a CPU gains from; returns lines for the log.

    spare_memory: freed memory goes back to the system at once, at up to a quarter more time.
    """
    if arithmetic.at_hand().type != "cpu":
        return []
    if os.environ.get("HFLM_MALLOC") != "0":
        hardware.tune_malloc(spare=spare_memory)
    from hflm.models import onednn

    changed = onednn.use_where_faster()
    return [changed] if changed else []
