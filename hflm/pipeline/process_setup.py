"""What a run changes in its whole process, once and here. Each change has a way to turn it off.

- HFLM_MALLOC=0: glibc's malloc stays as it is (hflm.core.hardware.tune_malloc).
- HFLM_ONEDNN=0: fp32 products on CPUs with AVX-512 stay with MKL (hflm.models.onednn).
- HFLM_LIBRARY_LOGS=1: transformers and bitsandbytes print their progress bars and all their log messages.
- `seed:` in the recipe: of Python, numpy and torch.
- args.ddp_timeout in the recipe: how long a collective operation waits for the other processes.
- ACCELERATE_USE_CPU=true: the CPU, where there is a GPU.
- USE_TORCH=1: `hflm preview`, too, lets datasets import torch.
"""

import logging
import os

from hflm.core import arithmetic, hardware, logger
from hflm.pipeline.ranks import Ranks
from hflm.recipe import Recipe

DDP_TIMEOUT = 1800  # seconds; TrainingArguments' default


def start(recipe: Recipe) -> Ranks:
    """Set the process up and join the process group (one process unless a launcher started several)."""
    quiet_libraries()
    for line in tune(spare_memory=any(args.get("activation_checkpointing") for args in _training_args(recipe))):
        logger.info(line)
    from accelerate.utils import set_seed

    from hflm.training import start_processes

    set_seed(recipe.seed)
    timeouts = (args.get("ddp_timeout", DDP_TIMEOUT) for args in _training_args(recipe))
    return Ranks(start_processes(max(timeouts, default=DDP_TIMEOUT)))


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


def quiet_libraries() -> None:
    """Turn off what a command reports itself, or nobody can act on."""
    if os.environ.get("HFLM_LIBRARY_LOGS") == "1":
        return
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a faster kernel that it misses, each product it casts
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _training_args(recipe: Recipe) -> list[dict]:
    return [section.args for section in (recipe.pretrain, recipe.finetune) if section is not None]


def leave_torch_out() -> None:
    """Keep datasets from importing torch in this process, which takes seconds, for commands that compute nothing with it.

    USE_TORCH is an environment variable of datasets, which reads it when it is imported; one that is set stays.
    """
    os.environ.setdefault("USE_TORCH", "0")
