"""What the Hub holds of a run that is under way: which files, and the list of them that makes a checkpoint complete.

The branch `checkpoints` holds a run's folder as far as a continued run needs it, with one checkpoint, and
`hflm_checkpoint.json`: a Snapshot.
"""

import json
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hflm.core import UserError
from hflm.publishing.push_files import MODEL_FILES

BRANCH, MANIFEST, FORMAT = "checkpoints", "hflm_checkpoint.json", 1
STAGES = ("pretrain", "finetune")
# What Trainer and hflm write of a checkpoint. The files of torch hold tensors and numbers, and are read as such
# (weights_only=True), never as the pickles that torch could make of them.
TORCH_FILES = r"optimizer\.(?:pt|bin)|scheduler\.pt|scaler\.pt|rng_state(?:_\d+)?\.pth|pytorch_model_fsdp\.bin"
CHECKPOINT_FILES = (
    rf"{MODEL_FILES}|adapter_model\.safetensors|adapter_config\.json|{TORCH_FILES}"
    r"|(?:trainer_state|checksums|seconds|recent_losses|batch|stream-\d+)\.json"
)
KNOWN = re.compile(
    rf"recipe\.yaml|(?:environment|stages|stage_inputs)\.json|skipped_rows\.jsonl|data/cleaning\.json"
    rf"|tokenizer/(?:{MODEL_FILES})"
    r"|(?:pretrain|finetune)/(?:(?:inputs|micro_batch|skipped)\.json|metrics\.jsonl"
    rf"|model/(?:{MODEL_FILES})|checkpoint-\d+/(?:{CHECKPOINT_FILES}))"
)
# Of pickles: what numpy's random state is made of, which transformers allows, too.
NUMPY_STATE = re.compile(
    r"numpy\.(?:_core|core)\.multiarray\._reconstruct|numpy\.ndarray|numpy\.dtypes?(?:\.UInt32DType)?"
)


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint on the Hub: `step` of `stage`, and all files that continue the run from it.

    run: the recipe's name. keys: of `stage` and the training stages before it, what they were trained with. files:
    {path in the run's folder: sha256}.
    """

    run: str
    stage: str
    step: int
    keys: dict[str, str]
    files: dict[str, str]

    def __str__(self) -> str:
        return f"step {self.step:,} of {self.stage}"

    @property
    def progress(self) -> tuple[int, int]:
        """How far the run is: comparable with that of another snapshot of the same run."""
        return STAGES.index(self.stage), self.step

    def continues(self, other: "Snapshot") -> bool:
        """Whether this is the same run as `other`, at the same place or further."""
        same = all(self.keys.get(stage) == key for stage, key in other.keys.items())
        return same and self.progress >= other.progress

    def to_json(self) -> bytes:
        content = {"format": FORMAT, "hflm": metadata.version("hflm-recipes"), **asdict(self)}
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def parse_snapshot(content: bytes, where: str) -> Snapshot:
    """The Snapshot in a `hflm_checkpoint.json`; `where` names its place in messages.

    Raises UserError for one of a newer hflm, and for one that is damaged or names files that no run writes.
    """
    try:
        found = json.loads(content)
        number, version = found.pop("format"), found.pop("hflm")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where}: its {MANIFEST} is damaged. {ELSEWHERE}") from None
    if number != FORMAT:
        raise UserError(
            f"{where}: its checkpoint was written by hflm {version}, which is newer than this one. Update hflm"
        )
    try:
        snapshot = _checked(found)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: its {MANIFEST} is damaged ({error}). {ELSEWHERE}") from None
    strange = [name for name in snapshot.files if not KNOWN.fullmatch(name)]
    if strange:
        raise UserError(f"{where}: it lists {strange[0]!r}, which is no file of a checkpoint. Nothing was downloaded")
    return snapshot


ELSEWHERE = "Nothing was changed here. Without --from-hub the run starts from what is on this machine"


def _checked(found: dict[str, Any]) -> Snapshot:
    snapshot = Snapshot(**found)
    texts = [snapshot.run, snapshot.stage, *snapshot.keys, *snapshot.keys.values()]
    texts += [*snapshot.files, *snapshot.files.values()]
    if not all(isinstance(each, str) for each in texts) or not isinstance(snapshot.step, int):
        raise TypeError("a value of another type")
    if snapshot.stage not in STAGES or snapshot.stage not in snapshot.keys:
        raise ValueError("no stage")
    if not snapshot.keys.keys() <= set(STAGES):
        raise ValueError("an unknown stage")
    return snapshot


def unsafe_content(file: Path) -> str | None:
    """What a file of torch would do beside holding tensors and numbers, in words; None where that is all it holds."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        names = get_unsafe_globals_in_checkpoint(file)
    except Exception as error:  # noqa: BLE001  whatever its readers say of bytes that are no file of torch
        return f"it cannot be read ({' '.join(str(error).split())[:100]})"
    unsafe = [name for name in names if not NUMPY_STATE.fullmatch(name)]
    return f"it calls {unsafe[0]}" if unsafe else None
