"""After the final record: the experiment's signal, experiments that got lost, the sweep's end.

There is no server that watches over a sweep. Each runner looks around once, at its own end: so the
last one alive finds what died before it, and whoever comes last finds that all is done. What dies
after that, `gcloud-ops sweep watch` finds (`docs/contract.md`, 8).

Ages are differences of times that the bucket gave its objects: one clock for all. "Now" is the
time of our own final record, which was stored a moment ago. A VM's clock may be off.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.runner.compute import Compute, Refused
from sinergym_trainer.runner.record import (
    SCHEMA,
    Json,
    RecordRefused,
    fit_metadata,
    is_final,
    parse_record,
    timestamp,
)
from sinergym_trainer.runner.signals import (
    EXPERIMENT_FINISHED,
    SWEEP_FINISHED,
    Metrics,
    NotWritten,
    experiment_labels,
    sweep_labels,
)
from sinergym_trainer.runner.vm import Vm

LOST_AFTER = 300.0
"""Seconds without a word from an experiment that has no VM; it should say one every 30."""
WITHOUT_A_LOOK = 3
"""So many times longer, where the group can't be asked, or there never was a record."""
UNWRITTEN_AFTER = timedelta(minutes=2)
"""Who wrote the marker, and not yet the signal, does so within 90 s or never."""

RETURNING = frozenset(
    {
        "CREATING",
        "CREATING_WITHOUT_RETRIES",
        "RECREATING",
        "REFRESHING",
        "RESTARTING",
        "RESUMING",
        "STARTING",
        "VERIFYING",
    }
)
"""What a group does with a member that it brings back (the managed instance's currentAction)."""

UNKNOWN = "it is not known how the sweep stands"
"""What is said when the bucket does not tell."""

_CALL: Json = {"retry": None, "timeout": (5, 20)}
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A record in the bucket, or None for an experiment that has none."""

    experiment: str
    record: Json | None
    generation: int = 0
    stored: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether the experiment has ended."""
        return self.record is not None and is_final(self.record)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    """An object in the bucket: its content, and when it was made and stored."""

    content: bytes
    generation: int
    made: datetime
    stored: datetime


def find_lost(
    seen: Mapping[str, Seen],
    members: Mapping[str, tuple[str, str]] | None,
    *,
    made: datetime,
    now: datetime,
    lost_after: timedelta,
) -> list[Seen]:
    """Return the experiments that have died without a word.

    Args:
        seen: all experiments of the manifest.
        members: currentAction and instanceStatus of the group's members; None: not known.
        made: when the manifest was stored.
        now: by the same clock.
        lost_after: as `LOST_AFTER`.
    """
    lost = []
    for one in seen.values():
        if one.is_final or (one.record or {}).get("state") == "again":
            continue
        age = now - (one.stored if one.stored is not None else made)
        if members is None:
            if one.record is not None and age > WITHOUT_A_LOOK * lost_after:
                lost.append(one)
            continue
        limit = lost_after if one.record is not None else WITHOUT_A_LOOK * lost_after
        if age > limit and is_gone(members.get(one.experiment)):
            lost.append(one)
    return lost


def is_gone(member: tuple[str, str] | None) -> bool:
    """Say whether a VM does not run and will not come back: (currentAction, instanceStatus)."""
    if member is None:
        return True
    action, status = member
    return action not in RETURNING and status != "RUNNING"


def lost_record(one: Seen, sweep: str, command: str | None, *, now: str) -> Json:
    """Return the final record of an experiment that got lost; it ended with its last word."""
    found = one.record or {"attempt": 0, "command": command, "started": None}
    said = found.get("updated") if one.record is not None else None
    silence = f"no word since {said}" if said else "it never said a word"
    return {
        **found,
        "schema": SCHEMA,
        "sweep": sweep,
        "experiment": one.experiment,
        "state": "failed",
        "updated": now,
        "ended": said or now,
        "exit": {
            "code": None,
            "signal": None,
            "kind": "lost",
            "hint": f"its VM is gone, {silence}",
        },
    }


def list_records(bucket: Any, sweep: str) -> dict[str, Seen]:
    """The records of a sweep by experiment: one call for every 1,000, and their whole content.

    What a listing shows may be shortened; where it shows nothing, the object is read.
    """
    prefix = f"{sweep}/records/"
    found = {}
    fields = "items(name,metadata,generation,updated),nextPageToken"
    for blob in bucket.list_blobs(prefix=prefix, fields=fields, **_CALL):
        experiment = blob.name.removeprefix(prefix).removesuffix(".json")
        text = (blob.metadata or {}).get("record")
        if text is None and (read := _read(bucket, blob.name)) is not None:
            text = read.content
        found[experiment] = Seen(
            experiment=experiment,
            record=_parsed(text) if text is not None else None,
            generation=int(blob.generation),
            stored=blob.updated,
        )
    return found


def _read(bucket: Any, name: str) -> _Object | None:
    for _ in range(_TRIES):
        blob = bucket.get_blob(name, **_CALL)
        if blob is None:
            return None
        generation = int(blob.generation)  # the download may forget it
        made, stored = blob.time_created, blob.updated
        try:
            content = blob.download_as_bytes(if_generation_match=generation, **_CALL)
        except Exception as error:
            if getattr(error, "code", None) in {404, 412}:  # replaced in between
                continue
            raise
        return _Object(content=content, generation=generation, made=made, stored=stored)
    raise ConnectionError(f"{name} changes faster than it can be read")


def any_rerun(bucket: Any, sweep: str) -> bool:
    """Whether an experiment of the sweep is asked to run again, and has not begun to."""
    records = list_records(bucket, sweep).values()
    return any(one.record is not None and one.record.get("state") == "again" for one in records)


class Finishing:
    """What is done between the final record and the removal of the VM; trouble ends nothing else.

    Args:
        bucket: gives the bucket (a `google.cloud.storage.Bucket`).
        me: this VM.
        environment: says where Monitoring and Compute Engine are, if not at Google.
        give_up: becomes true when there is no more time.
        say: prints a line.
        lost_after: seconds, as `LOST_AFTER`.
    """

    def __init__(
        self,
        bucket: Callable[[], Any],
        me: Vm,
        environment: Mapping[str, str],
        *,
        give_up: Callable[[], bool],
        say: Callable[[str], None],
        lost_after: float = LOST_AFTER,
    ) -> None:
        self._bucket = bucket
        self._me = me
        self._environment = environment
        self._give_up = give_up
        self._say = say
        self._lost_after = timedelta(seconds=lost_after)
        self._metrics = Metrics(me.project, environment, give_up=give_up, say=say)

    def signal(self, record: Json | None) -> str | None:
        """Signal this experiment's end, those of lost ones, and the sweep's if that is due.

        Args:
            record: our final record; None: its end is not ours to signal.

        Returns:
            Why our own end could not be signalled, in one line; None when it was.
        """
        manifest, made = self._retried(self._read_manifest, UNKNOWN) or (None, None)
        each = _announces_each(manifest)
        labels = experiment_labels(record, each=each) if record is not None else None
        problem = self._write(EXPERIMENT_FINISHED, [labels]) if labels else None
        if manifest is not None and made is not None:
            self._retried(lambda: self._look_around(manifest, made), UNKNOWN)
        return problem

    def _write(self, metric: str, series: list[dict[str, str]]) -> str | None:
        what = metric.rpartition("/")[2]
        try:
            self._metrics.write(metric, series)
        except NotWritten as error:
            self._say(f"{what} could not be signalled: {error}")
            return str(error)
        except Exception as error:  # of a library: it must not keep the VM
            self._say(f"{what} could not be signalled: {one_line(error)}")
            return one_line(error)
        return None

    def _retried[Found](self, attempt: Callable[[], Found], otherwise: str) -> Found | None:
        """Try until the bucket answers or the time is over; None and a line when it does not."""
        delay = 0.5
        while True:
            try:
                return attempt()
            except Exception as error:
                problem = one_line(error)
                hopeless = isinstance(error, ValueError | TypeError | RecordRefused)
                if hopeless or _is_refusal(error) or self._give_up():
                    self._say(f"{otherwise}: {problem}")
                    return None
            until = time.monotonic() + delay
            while time.monotonic() < until and not self._give_up():
                time.sleep(0.1)
            delay = min(delay * 2, 10.0)

    # The bucket

    def _read_manifest(self) -> tuple[Json, datetime] | None:
        found = _read(self._bucket(), f"{self._me.sweep}/sweep.json")
        if found is None:
            return None
        manifest = json.loads(found.content)
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise ValueError("the manifest is not of schema 1")
        return manifest, found.made

    def _replace(self, name: str, content: Json, *, generation: int, record: bool) -> bool:
        """Replace an object of this generation (0: make it); False when somebody was faster."""
        blob = self._bucket().blob(name)
        if record:
            blob.metadata = {"record": fit_metadata(content)}
        try:
            blob.upload_from_string(
                json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"),
                content_type="application/json",
                if_generation_match=generation,
                **_CALL,
            )
        except Exception as error:
            if getattr(error, "code", None) == 412:
                return False
            raise
        return True

    # Others, and the sweep

    def _look_around(self, manifest: Json, made: datetime) -> None:
        commands = _commands(manifest)
        records = list_records(self._bucket(), self._me.sweep)
        seen = {one: records.get(one) or Seen(experiment=one, record=None) for one in commands}
        mine = seen.get(self._me.experiment)
        now = mine.stored if mine is not None else None
        if now is not None and (lost := self._find_lost(seen, made, now)):
            marked = [
                record
                for one in lost
                if (record := self._try_to_mark(one, commands[one.experiment])) is not None
            ]
            each = _announces_each(manifest)
            series = [labels for one in marked if (labels := experiment_labels(one, each=each))]
            if series:
                self._write(EXPERIMENT_FINISHED, series)
            records = list_records(self._bucket(), self._me.sweep)
            seen = {one: records.get(one) or Seen(experiment=one, record=None) for one in commands}
        if now is not None and all(one.is_final for one in seen.values()):
            ended = [one.record for one in seen.values() if one.record is not None]
            self._finish(manifest, sweep_labels(manifest, ended), now)

    def _find_lost(self, seen: Mapping[str, Seen], made: datetime, now: datetime) -> list[Seen]:
        def lost(members: Mapping[str, tuple[str, str]] | None) -> list[Seen]:
            return find_lost(seen, members, made=made, now=now, lost_after=self._lost_after)

        # Nobody is even if there were no VM at all: then nobody has to be asked.
        return lost(self._members()) if lost({}) else []

    def _members(self) -> dict[str, tuple[str, str]] | None:
        if self._me.group is None:
            return None
        compute = Compute(self._environment, give_up=self._give_up, say=self._say)
        members: dict[str, tuple[str, str]] = {}
        page = ""
        while True:
            try:
                found = compute.call(
                    "POST", f"{self._me.group}/listManagedInstances{page}", changes=False
                )
            except Refused as error:
                self._say(f"it is not known which VMs there are: {error}")
                return None
            if found is None:  # the group is being removed, with this VM
                return None
            for one in found.get("managedInstances") or []:
                name = one.get("name") or str(one.get("instance")).rpartition("/")[2]
                members[name] = (one.get("currentAction", "NONE"), one.get("instanceStatus", ""))
            if not (token := found.get("nextPageToken")):
                return members
            page = f"?pageToken={token}"

    def _try_to_mark(self, one: Seen, command: str | None) -> Json | None:
        try:
            return self._mark_lost(one, command)
        except Exception as error:  # the others are to be signalled all the same
            self._say(
                f"{one.experiment} is lost, but its record is not written: {one_line(error)}"
            )
            return None

    def _mark_lost(self, one: Seen, command: str | None) -> Json | None:
        """Write the final record of a lost experiment, unless it has said something since."""
        name = f"{self._me.sweep}/records/{one.experiment}.json"
        if one.record is not None:
            found = _read(self._bucket(), name)
            if found is None or found.generation != one.generation:
                return None
            # The whole of it: what the listing shows may be shortened.
            one = Seen(
                experiment=one.experiment,
                record=parse_record(found.content),
                generation=one.generation,
            )
        record = lost_record(one, self._me.sweep, command, now=timestamp())
        if not self._replace(name, record, generation=one.generation, record=True):
            return None
        self._say(f"{one.experiment} is lost: {record['exit']['hint']}")
        return record

    def _finish(self, manifest: Json, labels: dict[str, str], now: datetime) -> None:
        """Signal the sweep's end, if nobody else does: who makes the marker is the one."""
        name = f"{self._me.sweep}/finished.json"
        marker: Json = {
            "schema": SCHEMA,
            "sweep": self._me.sweep,
            "created": manifest.get("created"),
            "status": labels["status"],
            "by": self._me.experiment,
            "found": timestamp(),
            "written": False,
            "labels": labels,
        }
        generation = self._take_marker(name, marker, now)
        if generation is None:
            return
        self._say(f"all {labels['experiments']} experiments of the sweep have ended")
        problem = self._write(SWEEP_FINISHED, [labels])
        done = {**marker, **({"why": problem} if problem else {"written": True})}
        self._retried(
            lambda: self._replace(name, done, generation=generation, record=False),
            f"{name} does not say that the end was signalled",
        )

    def _take_marker(self, name: str, marker: Json, now: datetime) -> int | None:
        """Make the marker, or take over one that nobody minds; None when it is another's."""
        generation = 0
        for _ in range(_TRIES):
            self._replace(name, marker, generation=generation, record=False)
            found = _read(self._bucket(), name)
            if found is None:
                return None
            there, generation = json.loads(found.content), found.generation
            if there == marker:  # also when the answer to our own writing got lost
                return generation
            if not is_open(there, marker, age=now - found.stored):
                return None
        return None


def is_open(there: Any, marker: Mapping[str, Any], *, age: timedelta) -> bool:
    """Say whether the marker that is there leaves the signal to somebody else.

    It is that of an earlier sweep of the same name; or who made it has not signalled in time.
    """
    if not isinstance(there, dict) or there.get("created") != marker["created"]:
        return True
    unwritten = there.get("written") is False and there.get("status") != "cancelled"
    return unwritten and age > UNWRITTEN_AFTER


def _parsed(text: bytes | str) -> Json:
    try:
        return parse_record(text)
    except RecordRefused:  # of a newer runner, say: it has not ended as far as we know
        return {}


def _is_refusal(error: Exception) -> bool:
    return getattr(error, "code", None) in {400, 401, 403, 404}


def _announces_each(manifest: Json | None) -> bool:
    alerts = (manifest or {}).get("alerts")
    return isinstance(alerts, dict) and alerts.get("each") is True


def _commands(manifest: Json) -> dict[str, str | None]:
    found = [one for one in manifest.get("experiments") or [] if isinstance(one, dict)]
    return {str(one.get("id")): one.get("command") for one in found}
