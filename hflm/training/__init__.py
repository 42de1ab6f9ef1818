"""Train one stage: the Trainer, checkpoints and recovery from failures, divergence, metrics.jsonl, Muon."""
