"""What was seen of each experiment over time: its rewards, and how fast it steps.

A record says only how an experiment is now. Whoever looks again and again can tell more: this is
what a console has seen since it was opened, no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite

from gcloud_ops.contract import Record
from gcloud_ops.model import Snapshot

__all__ = ["Trail", "follow_trails"]

_KEPT = 48  # rewards of one experiment
_SPAN = 30.0  # seconds, at least, over which a pace is measured, once there are as many


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What was seen of one experiment's attempt."""

    attempt: int
    rewards: tuple[float, ...] = ()
    """The mean rewards, the latest last; one for each that differs from the one before."""
    pace: float | None = None
    """Time steps a second."""
    since: datetime | None = None
    since_step: int = 0
    """Where the measurement of the pace begins."""
    updated: datetime | None = None


def follow_trails(trails: Mapping[str, Trail], seen: Snapshot) -> dict[str, Trail]:
    """The trails with what this snapshot adds; those without news stay the same objects."""
    found: dict[str, Trail] = {}
    for row in seen.rows:
        if row.record is not None and row.record.updated is not None:
            found[row.id] = _next_trail(trails.get(row.id), row.record, row.record.updated)
    return found


def _next_trail(trail: Trail | None, record: Record, updated: datetime) -> Trail:
    if trail is None or trail.attempt != record.attempt:
        # The rewards of the attempt before are this one's past; its pace isn't.
        trail = Trail(attempt=record.attempt, rewards=trail.rewards if trail else ())
    elif trail.updated == updated:
        return trail
    reward, step = record.progress.mean_reward, record.progress.timesteps
    rewards = trail.rewards
    if _is_number(reward) and (not rewards or rewards[-1] != reward):
        rewards = (*rewards[1 - _KEPT :], float(reward))  # type: ignore[arg-type]
    pace, since, since_step = trail.pace, trail.since, trail.since_step
    if _is_number(step):
        if since is None:
            since, since_step = updated, int(step)  # type: ignore[arg-type]
        elif (seconds := (updated - since).total_seconds()) > 0:
            pace = max(0.0, (step - since_step) / seconds)  # type: ignore[operator]
            if seconds >= _SPAN:
                since, since_step = updated, int(step)  # type: ignore[arg-type]
    return Trail(
        attempt=record.attempt,
        rewards=rewards,
        pace=pace,
        since=since,
        since_step=since_step,
        updated=updated,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
