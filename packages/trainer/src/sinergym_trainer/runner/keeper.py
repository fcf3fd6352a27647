"""The one thread that writes the experiment's record: claims an attempt, then keeps it up to date.

It replaces the object with compare-and-swap, seldom enough for Cloud Storage, and at least once a
heartbeat. What a
record says, and who is right when two writers meet, is in `record`.
"""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sinergym_trainer.errors import one_line
from sinergym_trainer.runner.record import (
    FINAL,
    Json,
    Record,
    RecordRefused,
    Verdict,
    claim,
    fit_metadata,
    judge,
    parse_record,
    timestamp,
)

PAUSE = 1.0
"""Seconds: Cloud Storage takes one replacement of an object a second, with short bursts
(https://cloud.google.com/storage/quotas#objects)."""


class Keeper:
    """The only writer of the record: claims an attempt, then keeps the record up to date.

    Trouble with the bucket never reaches the experiment: the thread tries again, ever more
    slowly (30 s at most), and writes the state that is the latest by then.

    Args:
        bucket: gives the bucket (a `google.cloud.storage.Bucket`), connecting at first use.
        draft: who we are.
        say: prints a line of the runner.
        heartbeat: seconds between two replacements when nothing changes.
        pause: seconds between two replacements at least.
    """

    def __init__(
        self,
        bucket: Callable[[], Any],
        draft: Record,
        *,
        say: Callable[[str], None],
        heartbeat: float = 20.0,
        pause: float = PAUSE,
    ) -> None:
        self._bucket = bucket
        self._record = draft
        self._say = say
        self._heartbeat = heartbeat
        self._pause = pause
        self._name = f"{draft.sweep}/records/{draft.experiment}.json"
        self._generation = 0
        self._version = 0
        self._written_version = -1
        self._last_error: str | None = None
        self._tried: Record | None = None
        self._urgent = False
        self._stopping = False
        self._changed = threading.Condition()
        self._claimed_at = time.monotonic()
        self.claimed = threading.Event()
        """Set when the claim has been decided: `record.attempt` counts, or `ended_before`."""
        self.ended_before = False
        """True when the record was final before we came: nothing may run."""
        self.command_before: str | None = None
        """The command of the attempt before, as its record has it; None where there was none."""
        self.verdict: Verdict | None = None
        """STOP, AGAIN, SUPERSEDED or DELETED once somebody else's word ends the attempt."""
        self._thread = threading.Thread(target=self._keep, name="record", daemon=True)

    @property
    def record(self) -> Record:
        """The record as it should be in the bucket now."""
        return self._record

    @property
    def spent(self) -> float:
        """Seconds that the experiment has taken on VMs, this attempt so far included."""
        return self._record.spent + self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since the attempt was claimed."""
        return round(time.monotonic() - self._claimed_at, 1)

    @property
    def last_error(self) -> str | None:
        """The latest trouble with the bucket, in one line; None when there is none."""
        return self._last_error

    def start(self) -> None:
        """Start the thread: it claims an attempt at once."""
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Change members of the record; they are written after the pause at the latest."""
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
                    if self._record.state in FINAL:  # nobody waits for a heartbeat any more
                        self._changed.wait()
                        continue
                    rest = beat - time.monotonic()
                    if rest <= 0:
                        break
                    self._changed.wait(rest)
            pause = last_write + self._pause - time.monotonic()
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
            self._claimed_at = time.monotonic()
            before = found.get("command") if found is not None else None
            self.command_before = before if isinstance(before, str) and before.strip() else None
            if mine is None and not self._replace(claimed):
                continue
            with self._changed:
                # What was said meanwhile (a version found, say) is kept, and written next.
                self._record = replace(
                    self._record,
                    attempt=claimed.attempt,
                    started=claimed.started,
                    spent=claimed.spent,
                    history=claimed.history,
                )
                self._written_version = version if mine is None else -1
            return

    def _write(self) -> None:
        for _ in range(5):
            with self._changed:
                record = replace(self._record, updated=timestamp(), elapsed=self.elapsed)
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
        document = record.to_json()
        blob.metadata = {"record": fit_metadata(document)}
        content = json.dumps(document, ensure_ascii=False, allow_nan=False).encode(
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


def _is_claim(found: Json, tried: Record | None) -> bool:
    members = ("attempt", "instance", "instance_id", "started", "state")
    return tried is not None and all(found.get(m) == getattr(tried, m) for m in members)


def _is_lost_race(error: Exception) -> bool:
    return getattr(error, "code", None) == 412
