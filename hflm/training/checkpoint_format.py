"""A checkpoint of a sharded model continued by a whole one, and the other way round.

Trainer writes the model of both in the same files, but what it continues from differs. Under FSDP2 (with whole models in
checkpoints, FULL_STATE_DICT) the optimizer's state is by the names of parameters, in `optimizer.bin`, and the weights
are once more in `pytorch_model_fsdp.bin`; otherwise the state is by their numbers, in `optimizer.pt`. A run that was
launched in another way than the one it continues reads a translated copy.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file
from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME

from hflm.core import UserError, atomic_folder, logger, read_json
from hflm.training.checkpoints import CHECKSUMS
from hflm.training.processes import wait_for_all

NAMED, NUMBERED = "optimizer.bin", "optimizer.pt"  # Trainer's and accelerate's files
SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"
TRANSLATED = "translated"  # in the stage's folder, while the stage trains
State = dict[str, Any]  # {"state": {parameter: {...}}, "param_groups": [{"params": [parameter...], ...}]}


def for_trainer(checkpoint: Path, trainer: Trainer) -> Path:
    """`checkpoint` as the processes of this `trainer` read one; every process calls it, before training.

    Raises UserError for a checkpoint in parts of its processes (SHARDED_STATE_DICT), which only FSDP reads.
    """
    found: list[Path | UserError] = [checkpoint]
    if trainer.is_world_process_zero():
        try:
            found = [_translated(checkpoint, trainer)]
        except UserError as error:
            found = [error]
    if trainer.args.world_size > 1:
        wait_for_all()  # the model may be large
        broadcast_object_list(found)
    if isinstance(found[0], UserError):
        raise found[0]
    return found[0]


def remove_translated(folder: Path) -> None:
    """Remove what `for_trainer` left in a stage's folder."""
    shutil.rmtree(folder / TRANSLATED, ignore_errors=True)


def _translated(checkpoint: Path, trainer: Trainer) -> Path:
    plugin: Any = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    in_parts = (checkpoint / "optimizer_0").is_dir()
    if in_parts and plugin is None:
        raise UserError(
            f"{checkpoint}: it is in parts (fsdp_state_dict_type: SHARDED_STATE_DICT), which only processes launched with "
            "FSDP read. Launch as before, or with FULL_STATE_DICT for checkpoints that any number of processes reads"
        )
    was_named = (checkpoint / NAMED).is_file()
    if in_parts or was_named == (plugin is not None):
        return checkpoint
    target = checkpoint.parent / TRANSLATED / checkpoint.name
    if read_json(target / CHECKSUMS) == read_json(checkpoint / CHECKSUMS):
        return target  # of an earlier attempt
    logger.info(f"{checkpoint.name} is of a {'sharded' if was_named else 'whole'} model: translating it")
    with atomic_folder(target) as partial:
        for file in checkpoint.iterdir():
            if file.name not in (NAMED, NUMBERED, SHARDED_WEIGHTS):
                _link(file, partial / file.name)
        if was_named:
            torch.save(by_number(torch.load(checkpoint / NAMED, weights_only=True)), partial / NUMBERED)
        else:
            state = torch.load(checkpoint / NUMBERED, map_location="cpu", weights_only=True)
            torch.save(by_name(state, _parameter_names(trainer)), partial / NAMED)
            torch.save(_trained_weights(checkpoint, trainer.model), partial / SHARDED_WEIGHTS)
    return target


def by_number(state: State) -> State:
    """The state of an optimizer by the place of each parameter in its groups, as `Optimizer.state_dict` has it."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    return _renamed(state, {name: number for number, name in enumerate(names)})


def by_name(state: State, names: list[str]) -> State:
    """The state of an optimizer by the names of its parameters, in the order of its groups."""
    return _renamed(state, dict(enumerate(names)))


def _renamed(state: State, new: dict[Any, Any]) -> State:
    groups = [{**group, "params": [new[each] for each in group["params"]]} for group in state["param_groups"]]
    return {"state": {new[key]: value for key, value in state["state"].items()}, "param_groups": groups}


def _parameter_names(trainer: Trainer) -> list[str]:
    """Of the parameters in the optimizer's groups, in their order; the optimizer is made now, before the model is sharded."""
    assert trainer.model is not None
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return [names[id(parameter)] for group in trainer.create_optimizer().param_groups for parameter in group["params"]]


def _trained_weights(checkpoint: Path, model: Any) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, by the names in the model's state; of an adapter, those that are trained."""
    if (checkpoint / SAFE_WEIGHTS_NAME).is_file():
        model.load_state_dict(load_file(checkpoint / SAFE_WEIGHTS_NAME), strict=False)
        return model.state_dict()
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without links
        shutil.copy2(file, target)
