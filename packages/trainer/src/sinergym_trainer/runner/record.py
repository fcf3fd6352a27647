"""The experiment's record: one object in the bucket, replaced with compare-and-swap.

The first half is pure: what a record says, how an attempt is claimed, and who is right when
two writers meet. The second half, `Keeper`, is the one thread that writes it: at most once a
second (Cloud Storage's limit for one object: https://cloud.google.com/storage/quotas#objects),
and at least once a heartbeat. The rules are those of the wire contract (`docs/contract.md`, 2).
"""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

SCHEMA = 1
FINAL = frozenset({"finished", "failed", "cancelled", "idle"})
METADATA_LIMIT = 7 * 1024
"""Bytes for the metadata entry `record`; Cloud Storage allows 8 KiB for all entries together."""
SHORTENED = " ...[shortened]"

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

    def to_json(self) -> Json:
        """Return the record as the contract's JSON object."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the command said of itself in its progress file."""

    progress: Mapping[str, Any]
    mlflow: Mapping[str, Any] | None
    versions: Mapping[str, str]


def parse_record(content: bytes) -> Json:
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


def claim(found: Json | None, draft: Record, *, now: str) -> Record | None:
    """Return the record that claims the next attempt, or None when the experiment has ended.

    Args:
        found: the record in the bucket, or None when there is none yet.
        draft: who we are.
        now: the time of the claim.
    """
    if found is None:
        return replace(draft, attempt=1, state="waiting", started=now, updated=now)
    if found.get("state") in FINAL:
        return None
    attempt = found.get("attempt")
    last = attempt if isinstance(attempt, int) and attempt > 0 else 0
    return replace(draft, attempt=last + 1, state="waiting", started=now, updated=now)


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
    return Verdict.RETRY if ours else Verdict.SUPERSEDED


def metadata_of(record: Record) -> str:
    """Return the compact JSON for the object's metadata, shortened until it fits.

    Long texts lose their ends, which then read `...[shortened]`; if that is not enough, what a
    program reported goes first, then its versions. State, attempt and exit always stay.
    """
    content = record.to_json()
    for limit in (None, 2000, 500, 100):
        if limit is not None:
            content = _shorten(content, limit)
        text = _compact(content)
        if len(text) <= METADATA_LIMIT:
            return text
    for member in ("progress", "versions", "mlflow"):
        content[member] = {} if member != "mlflow" else None
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


class Keeper:
    """The only writer of the record: claims an attempt, then keeps the record up to date.

    Trouble with the bucket never reaches the experiment: the thread tries again, ever more
    slowly (30 s at most), and writes the state that is the latest by then.

    Args:
        bucket: gives the bucket (a `google.cloud.storage.Bucket`), connecting at first use.
        draft: who we are.
        say: prints a line of the runner.
        heartbeat: seconds between two replacements when nothing changes.
    """

    def __init__(
        self,
        bucket: Callable[[], Any],
        draft: Record,
        *,
        say: Callable[[str], None],
        heartbeat: float = 20.0,
    ) -> None:
        self._bucket = bucket
        self._record = draft
        self._say = say
        self._heartbeat = heartbeat
        self._name = f"{draft.sweep}/records/{draft.experiment}.json"
        self._generation = 0
        self._version = 0
        self._written_version = -1
        self._last_error: str | None = None
        self._tried: Record | None = None
        self._urgent = False
        self._stopping = False
        self._changed = threading.Condition()
        self.claimed = threading.Event()
        """Set when the claim has been decided: `record.attempt` counts, or `ended_before`."""
        self.ended_before = False
        """True when the record was final before we came: nothing may run."""
        self.verdict: Verdict | None = None
        """STOP, SUPERSEDED or DELETED once somebody else's word ends the experiment."""
        self._thread = threading.Thread(target=self._keep, name="record", daemon=True)

    @property
    def record(self) -> Record:
        """The record as it should be in the bucket now."""
        return self._record

    @property
    def last_error(self) -> str | None:
        """The latest trouble with the bucket, in one line; None when there is none."""
        return self._last_error

    def start(self) -> None:
        """Start the thread: it claims an attempt at once."""
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Change members of the record; they are written within about a second."""
        with self._changed:
            changed = replace(self._record, **changes)
            if changed == self._record:
                return
            self._record = changed
            self._version += 1
            self._changed.notify_all()

    def settle(self, give_up: Callable[[], bool]) -> bool:
        """Wait until the latest change is in the bucket, or nobody wants it any more.

        Returns:
            False when `give_up` said so before the bucket took it.
        """
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            while self._written_version != self._version and self.verdict is None:
                if give_up() or not self._thread.is_alive():
                    return False
                self._changed.wait(0.1)
            return True

    def close(self) -> None:
        """End the thread, without another write."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _keep(self) -> None:
        if not self._retried(self._claim):
            return
        self.claimed.set()
        if self.ended_before:
            return
        last_write = time.monotonic()
        while self.verdict is None and not self._stopping:
            with self._changed:
                beat = last_write + self._heartbeat
                while not self._stopping and self._written_version == self._version:
                    rest = beat - time.monotonic()
                    if rest <= 0:
                        break
                    self._changed.wait(rest)
            pause = last_write + 1.0 - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            if not self._stopping:
                self._retried(self._write)
            last_write = time.monotonic()

    def _retried(self, attempt: Callable[[], None]) -> bool:
        delay = 0.5
        while not self._stopping:
            try:
                attempt()
            except RecordRefused as error:
                self._complain(str(error))
                delay = 30.0
            except Exception as error:
                self._complain(one_line(error))
            else:
                if self._last_error is not None:
                    self._say("the bucket answers again")
                    self._last_error = None
                return True
            with self._changed:
                wait = delay * random.uniform(0.75, 1.25)  # noqa: S311 - spreads, guards nothing
                until = time.monotonic() + wait
                while not self._stopping and (rest := until - time.monotonic()) > 0:
                    self._changed.wait(rest)
                    if self._urgent:
                        until = min(until, time.monotonic() + 2.0)
                        self._urgent = False
            delay = min(delay * 2, 30.0)
        return False

    def _complain(self, problem: str) -> None:
        if problem != self._last_error:
            self._say(f"the record could not be written, trying again: {problem}")
        self._last_error = problem

    def _claim(self) -> None:
        while not self._stopping:
            found = self._read()
            # A claim whose reply got lost is still ours: the next number would skip one.
            mine = self._tried if found is not None and _is_claim(found, self._tried) else None
            with self._changed:
                version = self._version
                claimed = mine or claim(found, self._record, now=timestamp())
                if claimed is None:
                    self.ended_before = True
                    if found is not None and isinstance(found.get("attempt"), int):
                        self._record = replace(
                            self._record, attempt=found["attempt"], state=found["state"]
                        )
                    return
            self._tried = claimed
            if mine is None and not self._replace(claimed):
                continue
            with self._changed:
                # What was said meanwhile (a version found, say) is kept, and written next.
                self._record = replace(
                    self._record, attempt=claimed.attempt, started=claimed.started
                )
                self._written_version = version if mine is None else -1
            return

    def _write(self) -> None:
        for _ in range(5):
            with self._changed:
                record = replace(self._record, updated=timestamp())
                version = self._version
            if not self._replace(record):
                verdict = judge(self._read(), record)
                if verdict is Verdict.RETRY:
                    continue
                if verdict is not Verdict.WRITTEN:
                    with self._changed:
                        self.verdict = verdict
                        self._changed.notify_all()
                    return
            with self._changed:
                self._written_version = version
                self._changed.notify_all()
            return

    def _read(self) -> Json | None:
        from google.api_core.exceptions import NotFound

        for _ in range(5):
            blob = self._bucket().get_blob(self._name, retry=None, timeout=(5, 20))
            if blob is None:
                self._generation = 0
                return None
            generation = int(blob.generation)  # the download may forget it
            try:
                content = blob.download_as_bytes(
                    if_generation_match=generation, retry=None, timeout=(5, 20)
                )
            except NotFound:  # replaced in between: that generation is gone
                continue
            except Exception as error:
                if _is_lost_race(error):
                    continue
                raise
            self._generation = generation
            return parse_record(content)
        raise ConnectionError("the record changes faster than it can be read")

    def _replace(self, record: Record) -> bool:
        blob = self._bucket().blob(self._name)
        blob.metadata = {"record": metadata_of(record)}
        content = json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "replace"
        )
        try:
            blob.upload_from_string(
                content,
                content_type="application/json",
                if_generation_match=self._generation,
                retry=None,
                timeout=(5, 20),
            )
        except Exception as error:
            if _is_lost_race(error):
                return False
            raise
        self._generation = int(blob.generation)
        return True


def one_line(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or "no details"
    return f"{type(error).__name__}: {text}"[:300]


def _is_claim(found: Json, tried: Record | None) -> bool:
    members = ("attempt", "instance", "instance_id", "started", "state")
    return tried is not None and all(found.get(m) == getattr(tried, m) for m in members)


def _is_lost_race(error: Exception) -> bool:
    return getattr(error, "code", None) == 412
