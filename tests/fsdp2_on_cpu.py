"""Runs a Python module or script under FSDP2 on CPU processes, so that sharded training is tested where no GPU is.

accelerate shards a model only on accelerators; on CPUs it falls back to DDP without a word. Here its process state takes
CPUs for accelerators: parameters become real DTensors over gloo, and all-gathers, reduce-scatters and checkpoints are
the real ones. What this cannot show: NCCL, devices, the speed of bf16.

    torchrun --nproc_per_node 2 tests/fsdp2_on_cpu.py MODULE_OR_SCRIPT [ARGUMENTS]
"""

import os
import runpy
import sys

ENVIRONMENT = {
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}


def use_fsdp2() -> None:
    """Make accelerate shard on CPUs in this process; before anything else imports it."""
    os.environ.update(ENVIRONMENT)
    import accelerate.state
    import torch
    from accelerate.utils import DistributedType

    init, barrier = accelerate.state.PartialState.__init__, torch.distributed.barrier

    def as_accelerators(self: object, *args: object, **options: object) -> None:
        init(self, *args, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_XPU

    accelerate.state.PartialState.__init__ = as_accelerators
    # gloo knows no device_ids
    torch.distributed.barrier = lambda group=None, **_: barrier(group)


if __name__ == "__main__":
    use_fsdp2()
    sys.argv = sys.argv[1:]
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    run(sys.argv[0], run_name="__main__")
