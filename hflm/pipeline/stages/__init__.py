"""The stages of a recipe, one module each, in the order in which they run."""

from hflm.pipeline.stages.base import OnEvaluation, Run, Stage
from hflm.pipeline.stages.benchmark import Benchmark
from hflm.pipeline.stages.card import Card
from hflm.pipeline.stages.finetune import Finetune
from hflm.pipeline.stages.model import Model
from hflm.pipeline.stages.pretrain import Pretrain
from hflm.pipeline.stages.push import Push
from hflm.pipeline.stages.tokenizer import Tokenizer

__all__ = ["STAGES", "OnEvaluation", "Run", "Stage"]

STAGES: tuple[Stage, ...] = (Tokenizer(), Pretrain(), Finetune(), Model(), Benchmark(), Card(), Push())
