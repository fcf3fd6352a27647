"""What must be true in the end, read from what the bucket and the cloud have kept."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.chaos.schedules import Schedule
from tests.chaos.world import World

from gcloud_ops import sweeps
from gcloud_ops.model import experiment_id

__all__ = ["broken"]

_FINAL = {"finished", "failed", "cancelled", "idle"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """An object's version."""

    name: str
    generation: int
    content: bytes


def broken(world: World, name: str, schedule: Schedule) -> list[str]:
    """The laws that do not hold for this sweep, each in a line."""
    kept = list(_kept(world, name))
    live = {one.name: one for one in kept}
    found: list[str] = []
    for number, experiment in enumerate(schedule.experiments, start=1):
        id_ = experiment_id(name, number)
        states = [
            json.loads(one.content) for one in kept if one.name == f"{name}/records/{id_}.json"
        ]
        found += [f"{id_}: {line}" for line in _of_record(states)]
        if not states:
            continue
        last = states[-1]
        found += [f"{id_}: {line}" for line in _of_end(last, schedule, number - 1)]
        found += [f"{id_}: {line}" for line in _of_log(live, name, id_, last)]
        if last["state"] == "finished":
            output = live.get(f"{name}/{id_}/output/result")
            if output is None or output.content != f"{id_}\n".encode():
                found.append(f"{id_}: finished, but its output is {output}")
        touched = any(
            mishap.what in {"preempt", "kill-vm", "kill-container", "cancel-some"}
            and mishap.whom % len(schedule.experiments) == number - 1
            for mishap in schedule.mishaps
        )
        # An SSH sweep's launcher may give up an instance that hangs: that is its end, said so.
        healthy = not touched and experiment.kind in {"good", "slow"} and not schedule.ssh
        if healthy and last["attempt"] != 1:
            found.append(f"{id_}: was healthy, and is at attempt {last['attempt']}: {last}")
    found += _of_the_sweep(world, name, live)
    return found


def _of_record(states: list[dict[str, Any]]) -> Iterator[str]:
    """It ended once, and for good; only a rerun opens it again."""
    if not states or states[-1]["state"] not in _FINAL:
        yield f"no final record: {states[-1:]}"
        return
    for before, after in pairwise(states):
        if after["attempt"] < before["attempt"]:
            yield f"attempt {after['attempt']} came after {before['attempt']}"
        if before["state"] not in _FINAL or after["state"] == "again":
            continue
        same = (before["state"], before["attempt"], before["ended"]) == (
            after["state"],
            after["attempt"],
            after["ended"],
        )
        if not same:
            yield f"{after['state']} was written over the final {before['state']}: {after}"


def _of_end(last: Mapping[str, Any], schedule: Schedule, index: int) -> Iterator[str]:
    """It finished, or failed for its true reason."""
    cancelled = any(
        mishap.what == "cancel-some" and mishap.whom % len(schedule.experiments) == index
        for mishap in schedule.mishaps
    )
    state, kind = last["state"], (last["exit"] or {}).get("kind")
    allowed = {schedule.experiments[index].ends}
    if cancelled:
        allowed.add(("cancelled", "cancelled"))
    if schedule.ssh:
        # A VM whose SSH does not answer is given up by its launcher; one whose launcher was
        # killed has no command and loses its patience. Both are said as they are.
        allowed |= {("failed", "dispatch"), ("idle", "idle")}
    if (state, kind) not in allowed:
        yield f"ended as {state}, {kind}: {last['exit']}"


def _of_log(
    live: Mapping[str, "_Kept"], name: str, id_: str, last: Mapping[str, Any]
) -> Iterator[str]:
    """All of its bytes are there, of each attempt; the last one's begin and end among them."""
    segments: dict[int, list[tuple[int, bytes]]] = {}
    for one in live.values():
        match = re.fullmatch(rf"{re.escape(name)}/{id_}/log/(\d+)/(\d+)\.log", one.name)
        if match:
            segments.setdefault(int(match[1]), []).append((int(match[2]), one.content))
    texts: dict[int, bytes] = {}
    for attempt, pieces in segments.items():
        text = b""
        for offset, content in sorted(pieces):
            if offset != len(text):
                yield f"the log of attempt {attempt} has a gap before {offset}: {len(text)}"
            text += content
        texts[attempt] = text
    if (last["exit"] or {}).get("kind") not in {"ok", "error", "disk_full"}:
        return
    said = texts.get(last["attempt"], b"").decode()
    lines = [f"begin {id_} {last['attempt']}"]
    if last["state"] == "finished":
        lines.append(f"end {id_} {last['attempt']}")
    for line in lines:
        if said.splitlines().count(line) != 1:
            yield f"the log of attempt {last['attempt']} does not have {line!r} once: {said}"


def _of_the_sweep(world: World, name: str, live: Mapping[str, "_Kept"]) -> Iterator[str]:
    """Nothing is left on Compute Engine; the sweep's end was found, once."""
    status = world.cloud.ask("status")
    for kind in ("instances", "groups"):
        left = [one["name"] for one in status[kind] if one["name"].startswith(name)]
        if left:
            yield f"{kind} are left: {left}"
    marker = live.get(f"{name}/finished.json")
    if marker is None:
        yield "nobody has marked the sweep's end"
    allowed = re.compile(
        rf"{name}/(sweep\.json|finished\.json|source\.diff|records/{name}-\d+\.json"
        rf"|{name}-\d+/(output/result|log/\d+/\d+\.log))"
    )
    for one in live:
        if not allowed.fullmatch(one):
            yield f"there is an object that nobody knows: {one}"
    seen = sweeps.status(name, world.clients)
    if not (seen.is_final and seen.is_gone):
        yield f"the sweep is not over: {dict(seen.counts)}"


def _kept(world: World, name: str) -> Iterator[_Kept]:
    """Every version of the sweep's objects, the oldest first."""
    bucket = world.clients.storage.bucket(world.bucket)
    blobs = sorted(
        bucket.list_blobs(prefix=f"{name}/", versions=True), key=lambda blob: int(blob.generation)
    )
    for blob in blobs:
        content = blob.download_as_bytes() if _is_read(blob.name) else b""
        yield _Kept(name=blob.name, generation=int(blob.generation), content=content)


def _is_read(name: str) -> bool:
    return name.endswith((".json", ".log", "/result"))
