"""The experiment trackers that `args.report_to` may name, and the packages that they need. metrics.jsonl is always
written.

transformers' own callbacks do the work. The checks here report at the start what would otherwise fail after the data was
prepared. Nothing heavy is imported.
"""

from importlib.util import find_spec
from typing import Any

from hflm.core import UserError
from hflm.recipe.library_options import suggest

PACKAGES = {  # a tracker's name in transformers -> the modules that it works with, any of which will do
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": ("kubeflow",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


def tracker_names(report_to: Any) -> tuple[str, ...]:
    """The trackers of an `args.report_to`: "wandb" or ["wandb"] -> ("wandb",); "none", "all" or null -> ()."""
    names = [report_to] if isinstance(report_to, str) else report_to if isinstance(report_to, list) else []
    return tuple(str(name) for name in names if name not in ("none", "all"))


def unknown_tracker(report_to: Any) -> str | None:
    """The message for the first name that transformers does not know, or None.

    >>> unknown_tracker(["wand"])
    "no such tracker: 'wand'. Did you mean wandb?"
    """
    wrong = next((name for name in tracker_names(report_to) if name not in PACKAGES), None)
    return None if wrong is None else f"no such tracker: {wrong!r}.{suggest(wrong, PACKAGES)}"


def require_trackers(report_to: Any, stage: str) -> None:
    """Raises UserError for trackers whose package is not installed, with what to install."""
    missing = [PACKAGES[name][0] for name in tracker_names(report_to) if not any(map(find_spec, PACKAGES[name]))]
    if missing:
        packages = " ".join(missing)
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{stage}.args.report_to: {', '.join(missing)} {verb} not installed: uv pip install {packages} "
            f"(or pip install {packages}). metrics.jsonl is written without"
        )
