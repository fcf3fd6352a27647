"""What the contract says in JSON: the record, a command's report, the manifest (pure functions).

How an attempt is claimed, and who is right when two writers meet, is decided here; `keeper` does
the reading and writing. The rules are those of the wire contract (`docs/contract.md`, 2).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

SCHEMA = 1
FINAL = frozenset({"finished", "failed", "cancelled", "idle"})
METADATA_LIMIT = 7 * 1024
"""Bytes for the metadata entry `record`; Cloud Storage allows 8 KiB for all entries together."""
SHORTENED = " ...[shortened]"
HISTORY = 20
"""Attempts that a record remembers, at most."""
PREEMPTED = "the VM was preempted"
"""The hint of an attempt that was told to stop because Compute Engine takes its VM back."""

Json = dict[str, Any]


class RecordRefused(Exception):
    """The record in the bucket is not one that this version may replace."""


class Verdict(StrEnum):
    """What a writer does whose replacement was refused, after it has read again."""

    RETRY = "retry"
    """The record is still ours: replace the generation that was just read."""
    WRITTEN = "written"
    """Ours is there already: only the reply was lost."""
    STOP = "stop"
    """Somebody ended the experiment; their state stays."""
    SUPERSEDED = "superseded"
    """Another VM has claimed the experiment since."""
    AGAIN = "again"
    """Our attempt has ended, and somebody asks for another: their record stays."""
    DELETED = "deleted"
    """The record is gone, so is the sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the command ended: the record's member `exit`."""

    code: int | None
    signal: str | None
    kind: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the runner says of its experiment; `started` is the time of the claim."""

    sweep: str
    experiment: str
    instance: str | None
    instance_id: str | None
    attempt: int = 0
    spent: float = 0.0
    """Seconds that the attempts before this one took."""
    elapsed: float = 0.0
    """Seconds of this one so far, by a clock that nobody sets."""
    history: tuple[Mapping[str, Any], ...] = ()
    """The attempts before this one, the latest last."""
    state: str = "waiting"
    command: str | None = None
    image: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str | None = None
    updated: str | None = None
    ended: str | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    exit: Exit | None = None
    mlflow: Mapping[str, Any] | None = None
    outputs: Mapping[str, int] | None = None
    signal: Mapping[str, Any] | None = None
    """Why the end could not be signalled: `{"written": false, "why": ...}`; None: it was."""

    def to_json(self) -> Json:
        """Return the record as the contract's JSON object."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the command said of itself in its progress file."""

    progress: Mapping[str, Any]
    mlflow: Mapping[str, Any] | None
    versions: Mapping[str, str]


def parse_record(content: bytes | str) -> Json:
    """Return the JSON object of a record.

    Raises:
        RecordRefused: it is not a JSON object, or of another schema than ours.
    """
    try:
        found = json.loads(content)
    except ValueError as error:
        raise RecordRefused(f"the record in the bucket is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RecordRefused("the record in the bucket is not a JSON object")
    if found.get("schema") != SCHEMA:
        raise RecordRefused(
            f"the record in the bucket has schema {found.get('schema')!r}, this runner writes"
            f" {SCHEMA}: use an image of the launcher's version"
        )
    return found


def is_final(found: Mapping[str, Any]) -> bool:
    """Say whether a record, which anybody may have written, is of an experiment that has ended."""
    state = found.get("state")
    return isinstance(state, str) and state in FINAL


def claim(found: Json | None, draft: Record, *, now: str) -> Record | None:
    """Return the record that claims the next attempt, or None when the experiment has ended.

    Args:
        found: the record in the bucket, or None when there is none yet.
        draft: who we are.
        now: the time of the claim.
    """
    claimed = replace(draft, attempt=1, state="waiting", started=now, updated=now)
    if found is None:
        return claimed
    if found.get("state") in FINAL:
        return None
    attempt = found.get("attempt")
    last = attempt if isinstance(attempt, int) and attempt > 0 else 0
    return replace(
        claimed, attempt=last + 1, spent=_spent(found), history=_history(found), outputs=None
    )


def _spent(found: Json) -> float:
    """Seconds on VMs of all attempts up to that of a record that is not final.

    Of each from its claim to its last word, as its runner measured it. A runner of before said
    only two times, of a clock that may have been set in between.
    """
    before = found.get("spent")
    spent = float(before) if isinstance(before, int | float) and 0 <= before < 1e9 else 0.0
    if found.get("state") == "again":
        return spent
    elapsed = found.get("elapsed")
    if isinstance(elapsed, int | float) and 0 <= elapsed < 1e9:
        return round(spent + elapsed, 3)
    begin, end = _time(found.get("started")), _time(found.get("updated"))
    if begin is None or end is None:
        return spent
    return round(spent + max(0.0, (end - begin).total_seconds()), 3)


def _history(found: Json) -> tuple[Mapping[str, Any], ...]:
    """The attempts up to that of a record that is not final, twenty at most."""
    told = found.get("history")
    before = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    attempt = found.get("attempt")
    if not isinstance(attempt, int) or attempt < 1 or found.get("state") == "again":
        return tuple(before[-HISTORY:])
    end = found.get("exit")
    end = end if isinstance(end, dict) else {}
    hint = end.get("hint")
    kind = "preempted" if hint == PREEMPTED else end.get("kind")
    if kind == "ok":  # the command was done, but its outputs did not make it
        kind, hint = "unknown", "it died while its outputs were being uploaded"
    entry = {
        "attempt": attempt,
        "kind": kind if isinstance(kind, str) else "unknown",
        "hint": hint[:200] if isinstance(hint, str) else None,
        "started": found.get("started"),
        "ended": found.get("updated"),
        "instance_id": found.get("instance_id"),
    }
    return (*before, entry)[-HISTORY:]


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)


def judge(found: Json | None, mine: Record) -> Verdict:
    """Say what to do after a refused replacement of `mine`, given what is there now."""
    if found is None:
        return Verdict.DELETED
    ours = (found.get("attempt"), found.get("instance_id"), found.get("instance")) == (
        mine.attempt,
        mine.instance_id,
        mine.instance,
    )
    if found.get("state") in FINAL:
        same = ours and mine.state == found.get("state") and found.get("ended") == mine.ended
        return Verdict.WRITTEN if same else Verdict.STOP
    if found.get("state") == "again":
        return Verdict.AGAIN
    return Verdict.RETRY if ours else Verdict.SUPERSEDED


def metadata_of(record: Record) -> str:
    """Return the compact JSON of a record for its object's metadata; see `fit_metadata`."""
    return fit_metadata(record.to_json())


def fit_metadata(record: Json) -> str:
    """Return the compact JSON of any record for its object's metadata, shortened until it fits.

    Long texts lose their ends, which then read `...[shortened]`; if that is not enough, what a
    program reported goes first, then its versions. State, attempt and exit always stay.
    """
    content = record
    for limit in (None, 2000, 500, 100):
        if limit is not None:
            content = _shorten(content, limit)
        text = _compact(content)
        if len(text) <= METADATA_LIMIT:
            return text
    empty: Json = {"history": [], "progress": {}, "versions": {}, "mlflow": None}
    for member in ("progress", "versions", "mlflow", "history"):
        content = {**content, member: empty[member]}
        text = _compact(content)
        if len(text) <= METADATA_LIMIT:
            return text
    return _compact(content)


def parse_report(content: bytes) -> Report | None:
    """Read a progress file; None when it is not a JSON object (half written, say).

    It comes from an arbitrary program: only finite numbers, short texts, booleans and nulls
    are taken, and not more than 32 members of each kind.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    mlflow, versions = found.pop("mlflow", None), found.pop("versions", None)
    return Report(
        progress=_scalars(found),
        mlflow=_scalars(mlflow) if isinstance(mlflow, dict) else None,
        versions={k: str(v) for k, v in _scalars(versions).items()}
        if isinstance(versions, dict)
        else {},
    )


def timestamp() -> str:
    """Return the time now as the contract writes it: RFC 3339, UTC, with a Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _compact(content: Json) -> str:
    # ASCII, so that characters and bytes are the same number, and any header can carry it.
    return json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _shorten(content: Any, limit: int) -> Any:
    if isinstance(content, str):
        # Escaped, one character can take twelve bytes: it is the escaped length that counts.
        if len(json.dumps(content)) <= limit:
            return content
        kept = content[: limit - len(SHORTENED)]
        while kept and len(json.dumps(kept + SHORTENED)) > limit:
            kept = kept[: len(kept) * 3 // 4]
        return kept + SHORTENED
    if isinstance(content, dict):
        return {key: _shorten(value, limit) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_shorten(value, limit) for value in content]
    return content


def _scalars(found: Mapping[Any, Any]) -> Json:
    kept: Json = {}
    for key, value in found.items():
        if len(kept) == 32 or len(str(key)) > 64:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            kept[str(key)] = None
        elif isinstance(value, int) and abs(value) >= 1 << 63:
            continue
        elif value is None or isinstance(value, bool | int | float):
            kept[str(key)] = value
        elif isinstance(value, str):
            kept[str(key)] = value[:300]
    return kept
