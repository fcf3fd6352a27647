"""Where the metrics of a training go: the logger that Stable-Baselines3's algorithms write to."""

import csv
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
STEPS = "time/total_timesteps"


class Table(CSVOutputFormat):
    """Stable-Baselines3's CSV file, which can go on with the rows that are there.

    Args:
        path: the file.
        resumed_at: the timesteps of the checkpoint that the training goes on from: rows after it
            are left out, as those steps are run again. None for a new training: a new table.
    """

    def __init__(self, path: Path, *, resumed_at: int | None = None) -> None:
        # Not by the parent's constructor, which empties the file.
        lines = [] if resumed_at is None else _rows_until(path, resumed_at)
        self.file = path.open("w+", encoding="utf-8")
        self.file.writelines(lines)
        self.file.flush()
        self.keys = lines[0].rstrip("\n").split(",") if lines else []
        self.separator = ","
        self.quotechar = '"'


def _rows_until(path: Path, timesteps: int) -> list[str]:
    """The lines of a table: its header, and the rows up to some timesteps."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    header = next(csv.reader(lines[:1]), [])
    if STEPS not in header:
        return []
    column = header.index(STEPS)

    def kept(line: str) -> bool:
        values = next(csv.reader([line]), [])
        step = values[column] if len(values) == len(header) else ""  # cut off
        return step.isdecimal() and int(step) <= timesteps

    return lines[:1] + [line for line in lines[1:] if kept(line)]


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
    formats: list[KVWriter] = [Table(output / TABLE, resumed_at=resumed_at)]
    if board:
        from sinergym_trainer.board import BoardWriter

        formats.append(BoardWriter(board, resumed_at=resumed_at))
    if tracker:
        from sinergym_trainer.tracking import MlflowWriter

        formats.append(MlflowWriter(tracker))
    if console:
        formats.append(HumanOutputFormat(console))
    return Logger(str(output), formats)
