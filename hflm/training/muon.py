"""Muon for the matrices inside the blocks, AdamW for the rest: one optimizer for Trainer (`args.optim: muon`)."""

import torch


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon on every 2-D weight that is no embedding, torch.optim.AdamW on everything else.

    Muon's update is scaled to the root mean square of AdamW's (Moonlight, arXiv 2502.16982), so that one learning
    rate and one weight decay serve both.
    """

    def __init__(self, model, lr, betas, eps, weight_decay):
        embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        learnt = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [
            parameter
            for name, parameter in learnt
            # GPT-2's position embedding (wpe) is a table too, not a matrix that maps vectors.
            if parameter.ndim == 2 and id(parameter) not in embeddings and not name.endswith("wpe.weight")
        ]
        inside = {id(parameter) for parameter in matrices}
        rest = [parameter for _, parameter in learnt if id(parameter) not in inside]
        self.parts = [torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")]
        if rest:  # an adapter has nothing but matrices
            self.parts.append(torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps, weight_decay=0.0, fused=True))
        super().__init__([{"params": part.param_groups[0]["params"]} for part in self.parts], {"lr": lr})
        self._share()

    def _share(self):
        """A schedule writes learning rates into `param_groups`: let those be the parts' own."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self):
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict):
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()
