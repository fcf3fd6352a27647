"""Where the metrics of a training go: the logger that Stable-Baselines3's algorithms write to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
)

if TYPE_CHECKING:
    from sinergym_trainer.tracking import Tracker

TABLE = "progress.csv"


class Table(CSVOutputFormat):
    """Stable-Baselines3's CSV file, which goes on with the rows that are there.

    Args:
        path: the file; what a checkpoint has restored stays.
    """

    def __init__(self, path: Path) -> None:
        # Not by the parent's constructor, which empties the file.
        self.file = path.open("a+", encoding="utf-8")
        self.file.seek(0)
        header = self.file.readline().rstrip("\n")
        self.file.close()
        self.file = path.open("r+", encoding="utf-8")
        self.file.seek(0, 2)
        self.keys = header.split(",") if header else []
        self.separator = ","
        self.quotechar = '"'


def make_logger(
    output: Path,
    *,
    board: Path | None,
    resumed_at: int | None,
    tracker: "Tracker | None",
    console: TextIO | Any | None,
) -> Logger:
    """Make the logger: a table always, and what else there is.

    Args:
        output: the folder of `progress.csv`.
        board: the folder of TensorBoard's event files, or None.
        resumed_at: the timesteps of the checkpoint that the training goes on from, or None.
        tracker: of the MLflow run, or None.
        console: where Stable-Baselines3's table is printed, or None.
    """
    formats: list[KVWriter] = [Table(output / TABLE)]
    if board:
        from sinergym_trainer.board import BoardWriter

        formats.append(BoardWriter(board, resumed_at=resumed_at))
    if tracker:
        from sinergym_trainer.tracking import MlflowWriter

        formats.append(MlflowWriter(tracker))
    if console:
        formats.append(HumanOutputFormat(console))
    return Logger(str(output), formats)
