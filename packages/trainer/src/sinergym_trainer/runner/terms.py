"""What the manifest says to one experiment: its command, its limit, and what is tried again.

Pure: the manifest's bytes in, terms and decisions out (`docs/contract.md`, 2).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sinergym_trainer.runner.record import SCHEMA, Record

_LONGEST_WAIT = 3600.0
_MARGIN = (30.0, 300.0)
"""Seconds, at least and at most, that are kept of a limit for saving and uploading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Which failures are tried again."""

    times: int
    kinds: frozenset[str]
    wait: float
    """Seconds before the first retry, doubled for each further one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was agreed on for one experiment."""

    command: str | None = None
    """None: somebody sends it."""
    retry: Retry | None = None
    seconds: float | None = None
    """How long it may take on VMs, all attempts together; None: no limit."""

    def left(self, spent: float) -> float | None:
        """Seconds until the command is told to stop, when so many are used up; None: no limit.

        A tenth of the limit is kept for saving and uploading, 30 seconds to 5 minutes: after
        the whole of it Compute Engine ends the VM, and nobody can save anything any more.
        """
        if self.seconds is None:
            return None
        least, most = _MARGIN
        margin = min(most, max(least, self.seconds / 10))
        # Of a limit that is hardly longer than that, half is for the command.
        return max(self.seconds - margin, self.seconds / 2) - spent

    def pause_before_retry(self, record: Record, kind: str) -> float | None:
        """Seconds to wait before an attempt after one that failed so; None: it is not tried again.

        Args:
            record: of the attempt that failed.
            kind: of its exit.
        """
        retry = self.retry
        if retry is None or kind not in retry.kinds:
            return None
        failures = sum(one.get("kind") in retry.kinds for one in _since_rerun(record.history))
        if failures >= retry.times:
            return None
        return float(min(retry.wait * 2**failures, _LONGEST_WAIT))


def terms_of(manifest: bytes, experiment: str) -> Terms:
    """Read what a manifest says to an experiment.

    Raises:
        ValueError: it is not a manifest of schema 1, or the experiment is not in it.
    """
    found = json.loads(manifest)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError("not a manifest of schema 1")
    limits = found.get("limits")
    seconds = _positive(limits.get("seconds")) if isinstance(limits, dict) else None
    terms = Terms(retry=_retry(found.get("retry")), seconds=seconds)
    if found.get("dispatch") != "boot":
        return terms
    for each in found.get("experiments") or []:
        if isinstance(each, dict) and each.get("id") == experiment:
            command = each.get("command")
            if not isinstance(command, str):
                raise ValueError(f"{experiment} has no command in it")
            return Terms(command=command, retry=terms.retry, seconds=terms.seconds)
    raise ValueError(f"{experiment} is not in it")


def _since_rerun(history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    since: list[Mapping[str, Any]] = []
    for one in history:
        since = [] if one.get("rerun") is True else [*since, one]
    return since


def _retry(found: object) -> Retry | None:
    if not isinstance(found, dict):
        return None
    times, kinds, wait = found.get("times"), found.get("kinds"), found.get("wait")
    if not isinstance(times, int) or isinstance(times, bool) or times < 1:
        return None
    named = {one for one in kinds if isinstance(one, str)} if isinstance(kinds, list) else set()
    return Retry(times=times, kinds=frozenset(named), wait=_positive(wait) or 0.0)


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < 1e9 else None
