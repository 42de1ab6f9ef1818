"""Train one stage: the Trainer, checkpoints and recovery from failures, divergence, metrics.jsonl, Muon."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
