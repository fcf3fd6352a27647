"""What a benchmark prints: a figure, the limit that it must keep, and a baseline beside it."""

from dataclasses import dataclass

__all__ = ["Figure", "show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    """It must not be more."""
    at_least: float | None = None
    """It must not be less."""
    baseline: float | None = None
    """The same by the way that it is compared with."""
    baseline_is: str = ""

    @property
    def holds(self) -> bool:
        """Whether it keeps its limits."""
        below = self.limit is None or self.value <= self.limit
        return below and (self.at_least is None or self.value >= self.at_least)


def show(title: str, figures: list[Figure]) -> list[Figure]:
    """Print them as a table, and hand them on."""
    print(f"\n{title}")
    for figure in figures:
        line = f"  {figure.what:<58} {figure.value:>9.3f} {figure.unit:<5}"
        verdict = "ok" if figure.holds else "BROKEN"
        if figure.limit is not None:
            line += f" limit {figure.limit:g} {verdict}"
        if figure.at_least is not None:
            line += f" at least {figure.at_least:g} {verdict}"
        if figure.baseline is not None:
            line += f"   {figure.baseline_is}: {figure.baseline:.3f} {figure.unit}".rstrip()
            if 0 < figure.value < figure.baseline:
                line += f", {figure.baseline / figure.value:.1f} times as much"
        print(line)
    return figures
