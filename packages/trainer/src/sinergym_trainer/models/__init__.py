"""What was learned, on disk: models with their cards, and checkpoints to go on from.

saved        a model with its card: save it, and find it in a folder, a bucket or MLflow
checkpoints  all that a training needs to go on, in one file that is whole or not there
"""

from sinergym_trainer.models.saved import (
    BEST,
    CARD,
    MODEL,
    SCHEMA,
    STATISTICS,
    Card,
    Found,
    find,
    save,
)

__all__ = ["BEST", "CARD", "MODEL", "SCHEMA", "STATISTICS", "Card", "Found", "find", "save"]
