"""What was learned from one sweep, or from two side by side. No terminal here.

One status and one table for each experiment; the tables are read many at once.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcloud_ops.errors import GcloudOpsError
from gcloud_ops.model import Snapshot
from sinergym_tui.fleet import Fleet
from sinergym_tui.views.comparing import Ranked, ranked
from sinergym_tui.views.experiment import Curve, curve_of

if TYPE_CHECKING:
    from gcloud_ops.results import Comparison

__all__ = ["Learned", "learned"]

type Tell = Callable[[str], None]

_AT_ONCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What was learned."""

    rows: tuple[Ranked, ...]
    curves: Mapping[str, Curve]
    """By the experiment's id."""
    metrics: tuple[str, ...]
    """By what it can be ranked."""


def learned(fleet: Fleet, names: Sequence[str], *, metric: str, tell: Tell) -> Learned:
    """Look at one sweep or two, and at the learning curves of their experiments.

    Args:
        fleet: The cloud.
        names: One sweep, or two.
        metric: By what the configurations are ranked.
        tell: Told how far it is; what it raises ends it.

    Raises:
        GcloudOpsError: There is no such sweep, or no such metric.
    """
    from gcloud_ops import results, sweeps

    tell("looking at the records")
    seen = [sweeps.status(name, fleet.clients) for name in names]
    comparisons: tuple[Comparison, ...] = ()
    if len(seen) > 1:
        comparisons, rankings = results.compare(seen[0], seen[1], metric=metric)
    else:
        rankings = results.leaderboard(seen[0], metric=metric)
    return Learned(
        rows=ranked(rankings, comparisons),
        curves=_curves(fleet, seen, tell),
        metrics=tuple(sorted({name for one in seen for name in results.metrics_of(one)})),
    )


def _curves(fleet: Fleet, seen: Sequence[Snapshot], tell: Tell) -> dict[str, Curve]:
    wanted = [(one.name, row.id) for one in seen for row in one.rows if row.record is not None]
    found: dict[str, Curve] = {}
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="curves")
    try:
        asked = {pool.submit(_curve, fleet, *one): one[1] for one in wanted}
        for number, future in enumerate(as_completed(asked), 1):
            tell(f"{number} of {len(wanted)} learning curves read")
            if (curve := future.result()) is not None:
                found[asked[future]] = curve
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def _curve(fleet: Fleet, sweep: str, experiment: str) -> Curve | None:
    from gcloud_ops import objects

    try:
        content, _ = objects.read_object(
            fleet.clients,
            fleet.settings.bucket_name,
            f"{sweep}/{experiment}/output/progress.csv",
            resource=f"{experiment}: progress.csv",
        )
    except GcloudOpsError:
        return None  # it has written none yet, or is another program
    return curve_of(content)
