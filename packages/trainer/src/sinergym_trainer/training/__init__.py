"""`train(options) -> Result`: one training, from options to results in a folder.

run            train: plan, origin, folder, uploads, evaluation's process
planning       what will be trained, checked before anything is made
origin         where it begins: from nothing, a model, or a checkpoint
learning       environments, model, callbacks, and what is saved (imports PyTorch)
callbacks      what watches: episodes and evaluations     checkpointing  when checkpoints are made
loggers        where metrics go
"""

from sinergym_trainer.training.run import Result, train

__all__ = ["Result", "train"]
