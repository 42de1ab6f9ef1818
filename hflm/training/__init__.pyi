from .arguments import StageSettings as StageSettings
from .batch_source import BatchSource as BatchSource
from .checkpoints import newest_valid_checkpoint as newest_valid_checkpoint
from .processes import start_processes as start_processes
from .processes import wait_for_all as wait_for_all
from .trainer import Trained as Trained
from .trainer import TrainingData as TrainingData
from .trainer import train_model as train_model
