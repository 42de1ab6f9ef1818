"""What `hflm env` and `hflm cache` print: versions, devices and paths; the caches, with their sizes."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hflm.core import format_bytes
from hflm.core.hardware import cpu_name

PACKAGES = (
    *("hflm-recipes", "torch", "transformers", "datasets", "accelerate", "tokenizers", "peft", "huggingface-hub"),
    *("evaluate", "sacrebleu", "numpy", "pyarrow", "bitsandbytes", "gradio", "openai", "gguf", "onnx"),
)
VARIABLES = (
    *("HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "OMP_NUM_THREADS", "WORLD_SIZE"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"),
)


def describe_environment() -> Iterator[str]:
    """Yields lines of versions, hardware and cache paths. Those that need torch come last, since it loads slowly."""
    yield f"python {platform.python_version()} ({sys.executable})"
    yield f"system {platform.platform()}"
    for package in PACKAGES:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            yield f"{package} is not installed"
    for name in VARIABLES:
        if name in os.environ:
            yield f"{name}={os.environ[name]}"
    for name, path in _caches().items():
        yield f"{name}: {path}"
    yield from _describe_devices()


def list_caches() -> Iterator[str]:
    """Yields a line for each cache: its size, name and path."""
    for name, path in _caches().items():
        yield f"{format_bytes(_size(path)):>10}  {name}: {path}"
    yield "`hflm cache --clear` deletes hflm's own; `hf cache` manages the others"


def clear_caches() -> str:
    """Deletes what hflm keeps between runs; returns how much that was."""
    path = _own_cache()
    size = _size(path)
    if path.is_dir():
        shutil.rmtree(path)
    return f"{format_bytes(size)} in {path}"


def _own_cache() -> Path:
    from hflm.preprocessing import cache_folder

    return cache_folder()


def _caches() -> dict[str, Path]:
    from huggingface_hub import constants

    datasets = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    return {
        "models and data sets of the Hub": Path(constants.HF_HUB_CACHE),
        "data sets as datasets converts them": datasets,
        "token ids of hflm's corpora": _own_cache(),
    }


def _size(path: Path) -> int:
    """Bytes of the files in a folder; links are not followed, since the Hub's cache links to the same file."""
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in files if not file.is_symlink())


def _describe_devices() -> Iterator[str]:
    import torch

    yield f"cpu {cpu_name()}, {os.cpu_count()} logical cores"
    able = [name for name, value in torch.cpu.get_capabilities().items() if value is True]
    yield f"cpu capabilities {', '.join(sorted(able)) or 'none'}; {torch.get_num_threads()} threads"
    if not torch.accelerator.is_available():
        yield "no accelerator"
        return
    kind = torch.accelerator.current_accelerator()
    for number in range(torch.accelerator.device_count()):
        name = torch.cuda.get_device_name(number) if kind is not None and kind.type == "cuda" else ""
        yield f"accelerator {number}: {kind} {name}".rstrip()
