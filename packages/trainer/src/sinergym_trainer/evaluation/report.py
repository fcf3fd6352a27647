"""What an evaluation gave: a row for each episode and month, in files and on the screen.

What is in the tables, all of it from what Sinergym's rewards tell in `info` for each step:

- `reward`: the return, and `length`: the steps, both as Stable-Baselines3 counts them: with the
  last step, which only repeats the one before. `mean_reward` is the one by the other. All else is
  over the steps that EnergyPlus simulated, one less.
- `mean_power(W)`: the mean of `total_power_demand`, which is EnergyPlus's "Facility Total HVAC
  Electricity Demand Rate" in every id of Sinergym 3.12. `energy(kWh)` is
  `sum(total_power_demand) * step_size / 3_600_000` with the timestep's size in seconds: each power
  is taken to last for its timestep. With a reward that looks at anything but rates (W) there is
  `mean_power` without a unit, and no energy.
- `comfort_violation(%)`: the share of steps with a temperature outside its comfort range, as in
  Sinergym's `progress.csv`, be it by a thousandth of a degree;
  `mean_temperature_violation(°C)`: by how much, all zones together.
- `comfort_penalty`, `energy_penalty`: sums of the members of that name, which are the negative
  violations (°C) and powers; `comfort_term` and `energy_term`: these with their weights, as they
  are in the reward; `money_spent`: with the reward `energy_cost`.
"""

import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sinergym_trainer.evaluation.episodes import Episode, Totals, spread
from sinergym_trainer.process.replacing import replacing

EPISODES, MONTHS, ALL = "evaluation.csv", "evaluation_months.csv", "evaluation.json"
"""The files of the results."""

Row = Mapping[str, float | None]

_JOULES = 3_600_000
"""In one kWh."""
_KEYS = ("episode", "month", "seed")
_SHOWN = {
    "episode": "episode",
    "month": "month",
    "reward": "reward",
    "mean_power(W)": "power W",
    "mean_power": "power",
    "energy(kWh)": "energy kWh",
    "comfort_violation(%)": "violation %",
    "mean_temperature_violation(°C)": "violation °C",
    "length": "steps",
    "wall_time(s)": "time s",
}
"""The columns of the printed tables, and their heads there; the files have more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An episode, with its number from 1, its seed, and the seconds that it took."""

    number: int
    seed: int
    seconds: float
    episode: Episode


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an evaluation gave."""

    name: str
    output: Path
    """The folder with `evaluation.csv`, `evaluation_months.csv` and `evaluation.json`."""
    model: str
    """Where the model was found, or which baseline it is."""
    algorithm: str | None
    environment: str
    seed: int
    """Of the first episode; the second has the next number, and so on."""
    options: Mapping[str, Any]
    """Those that were given."""
    card: Mapping[str, Any] | None
    versions: Mapping[str, str]
    step_size: float
    """Seconds of one timestep."""
    watts: bool
    """Whether powers are in W: the reward looks at rates alone."""
    episodes: tuple[Measured, ...] = ()
    stopped_by: int | None = None
    """The signal that ended it early, or None."""

    @property
    def mean_reward(self) -> float | None:
        """The mean return of the whole episodes; None without any."""
        rewards = [measured.episode.reward for measured in self.episodes]
        return statistics.fmean(rewards) if rewards else None

    @property
    def rows(self) -> list[Row]:
        """One for each episode; the names of the columns have the units."""
        return [
            {
                "episode": each.number,
                "seed": each.seed,
                **self._row(each.episode.total, each.episode.reward),
                "wall_time(s)": round(each.seconds, 3),
            }
            for each in self.episodes
        ]

    @property
    def month_rows(self) -> list[Row]:
        """One for each month of each episode, in order of simulation."""
        return [
            {"episode": each.number, "month": month, **self._row(totals, totals.reward)}
            for each in self.episodes
            for month, totals in each.episode.months
        ]

    @property
    def month_means(self) -> list[Row]:
        """The months in order of simulation, each a mean over the episodes."""
        places: list[list[Row]] = []
        for each in self.episodes:
            for place, (month, totals) in enumerate(each.episode.months):
                if place == len(places):
                    places.append([])
                places[place].append({"month": month, **self._row(totals, totals.reward)})
        return [{**rows[0], **_over(statistics.fmean, rows)} for rows in places]

    def summary(self, function: Callable[[Sequence[float]], float]) -> Row:
        """A function of each column over the episodes, such as `statistics.fmean`."""
        return _over(function, self.rows)

    def write(self) -> None:
        """Write the three files, each whole or not at all.

        Raises:
            OSError: the disk is full, the folder read-only.
        """
        texts = {EPISODES: self.rows, MONTHS: self.month_rows}
        for name, text in (*((n, _csv(rows)) for n, rows in texts.items()), (ALL, self.to_json())):
            with replacing(self.output / name) as file:
                file.write(text.encode())

    def to_json(self) -> str:
        """All of it as JSON: the text of `evaluation.json`."""
        months = self.month_rows
        episodes = [
            {**row, "months": [month for month in months if month["episode"] == row["episode"]]}
            for row in self.rows
        ]
        content = {
            "schema": 1,
            **{name: getattr(self, name) for name in _HEAD},
            "step_size(s)": self.step_size,
            "energy": f"kWh = sum(total_power_demand [W]) * {self.step_size:g} s / {_JOULES}",
            "mean": self.summary(statistics.fmean),
            "std": self.summary(spread),
            "episodes": episodes,
            "stopped_by": self.stopped_by,
        }
        return json.dumps(_finite(content), indent=2, ensure_ascii=False, default=str) + "\n"

    def _row(self, totals: Totals, reward: float) -> dict[str, float | None]:
        power, sums = totals.mean("total_power_demand"), totals.sums
        row: dict[str, float | None] = {
            "reward": reward,
            "mean_reward": reward / max(totals.length, 1),
            "length": totals.length,
        }
        if self.watts and power is not None:
            row["mean_power(W)"] = power
            row["energy(kWh)"] = sums["total_power_demand"] * self.step_size / _JOULES
        else:
            row["mean_power"] = power
        row["comfort_violation(%)"] = totals.comfort_violation
        row["mean_temperature_violation(°C)"] = totals.mean("total_temperature_violation")
        names = ("comfort_penalty", "energy_penalty", "comfort_term", "energy_term")
        row |= {name: sums.get(name) for name in names}
        return row | ({"money_spent": sums["money_spent"]} if "money_spent" in sums else {})


_HEAD = (
    *("name", "model", "algorithm", "environment", "seed", "mean_reward", "options", "card"),
    "versions",
)


def show(report: Report, *, as_json: bool) -> None:
    """Print tables on standard output; or JSON there, and the tables on standard error."""
    stream = sys.stderr if as_json else sys.stdout
    means = report.month_means if len(report.month_means) > 1 else []
    for title, rows in (("episodes", report.rows), ("months, means over the episodes", means)):
        if not rows:
            continue
        cells = _cells(rows)
        if stream.isatty():
            _print_rich(title, cells, stream)
        else:
            stream.write("\n".join([f"{title}:", *_aligned(cells), ""]))
    stream.flush()
    if as_json:
        sys.stdout.write(report.to_json())
        sys.stdout.flush()


def _over(function: Callable[[Sequence[float]], float], rows: Sequence[Row]) -> Row:
    """A function of each column that is measured, over the rows."""
    names = [name for name in (rows[0] if rows else ()) if name not in _KEYS]
    columns = {name: [value for row in rows if (value := row[name]) is not None] for name in names}
    return {name: function(values) if values else None for name, values in columns.items()}


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _finite(content: Any) -> Any:
    """The same without infinities, which JSON does not know."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table as text: a head, the rows, and for several episodes their mean and spread."""
    names = [name for name in _SHOWN if name in rows[0]]
    heads = [_SHOWN[name] for name in names]
    cells = [heads, *([_text(row[name]) for name in names] for row in rows)]
    if names[0] == "episode" and len(rows) > 1:
        for title, function in (("mean", statistics.fmean), ("std", spread)):
            over = _over(function, rows)
            cells.append([title, *(_text(over[name]) for name in names[1:])])
    return cells


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _aligned(cells: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ("  ".join(map(str.rjust, row, widths)) for row in cells)


def _print_rich(title: str, cells: Sequence[Sequence[str]], stream: TextIO) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, padding=0)
    for name in cells[0]:
        table.add_column(name, justify="right", overflow="fold")  # no digit is left out
    for row in cells[1:]:
        table.add_row(*row)
    Console(file=stream).print(table)
