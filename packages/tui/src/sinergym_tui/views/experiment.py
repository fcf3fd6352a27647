"""One experiment: its facts in sections, its timeline, its learning curve."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Final

from gcloud_ops.contract import Attempt
from gcloud_ops.failures import explain
from gcloud_ops.model import Container, Observation
from gcloud_ops.results import configuration_of
from gcloud_ops.text import one_line
from sinergym_tui.views.cells import (
    Cell,
    Tone,
    age_text,
    bar,
    count_text,
    duration_text,
    money_text,
    number_text,
)
from sinergym_tui.views.charts import chart
from sinergym_tui.views.sweep import Row, container_word, reason
from sinergym_tui.views.sweeps import STATUS_LOOK, SweepState, fraction_of

__all__ = ["Curve", "Extras", "Line", "Section", "curve_of", "experiment_sections", "links_of"]

_ROWS: Final = 4  # of a drawn curve
_LONG: Final = 2000  # characters of a command that are shown
_CONSOLE: Final = "https://console.cloud.google.com"
_CURVES: Final = (
    # A point for each episode, from `sinergym-train`: curves of any algorithm have the same steps.
    ("episode/cumulative_reward", "reward of an episode"),
    ("rollout/ep_rew_mean", "mean reward of an episode"),
    ("eval/mean_reward", "mean reward of the evaluations"),
)
_STEPS: Final = "time/total_timesteps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A label and what is to say under it."""

    label: str
    cell: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Lines that belong together."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How the reward went: two points at least."""

    what: str
    over: str = "time steps"
    """What its steps are."""
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is asked for only while the experiment is looked at."""

    outputs: tuple[tuple[str, int], ...] | None = None
    """Names below `output/` and their bytes; None: not known."""
    curve: Curve | None = None
    containers: tuple[Container, ...] | None = None
    """What Docker on its VM says; None: not asked, or no VM."""
    trouble: str = ""
    """Why something of it can't be told."""


def experiment_sections(
    state: SweepState,
    row: Row,
    extras: Extras,
    now: datetime,
    *,
    is_google: bool,
    curve: Curve | None = None,
    width: int = 0,
) -> tuple[Section, ...]:
    """All that is known of an experiment.

    Args:
        state: Of its sweep.
        row: What was seen of it.
        extras: What was asked for.
        now: What time it is.
        is_google: Whether there are pages of Google's to lead to.
        curve: To be drawn here.
        width: Of the drawing, in cells.
    """
    drawn = tuple(_drawn(curve, width)) if curve is not None and width > 0 else ()
    sections = (
        Section(title="State", lines=tuple(_state(state, row, now))),
        Section(title="Timeline", lines=tuple(_timeline(state, row.seen, now))),
        Section(title="Learning curve", lines=drawn),
        Section(title="Command", lines=tuple(_command(row.seen))),
        Section(title="Instance and container", lines=tuple(_instance(state, row, extras))),
        Section(title="Outputs", lines=tuple(_outputs(extras))),
        Section(
            title="Links",
            lines=tuple(
                _line(label, url) for label, url in links_of(state, row.seen, is_google=is_google)
            ),
        ),
    )
    return tuple(section for section in sections if section.lines)


def links_of(
    state: SweepState, seen: Observation, *, is_google: bool
) -> Iterator[tuple[str, str]]:
    """Where to find more: (what, address)."""
    record, snapshot = seen.record, state.snapshot
    if record is not None and record.mlflow_url:
        yield "MLflow", one_line(record.mlflow_url, limit=_LONG)
    if snapshot is None:
        return
    folder = f"{snapshot.bucket}/{snapshot.name}/{seen.id}"
    yield "bucket", one_line(f"gs://{folder}/")
    if is_google:
        yield "objects", one_line(f"{_CONSOLE}/storage/browser/{folder}")
        if seen.member is not None:
            zone = seen.member.zone or snapshot.manifest.zone
            where = f"compute/instancesDetail/zones/{zone}/instances/{seen.id}"
            yield "VM", one_line(f"{_CONSOLE}/{where}?project={snapshot.manifest.project}")


def curve_of(table: bytes) -> Curve | None:
    """The learning curve in a `progress.csv` of Stable-Baselines3; None where there is none.

    Its columns are those of the logger's keys:
    https://stable-baselines3.readthedocs.io/en/master/common/logger.html
    """
    try:
        rows = list(csv.DictReader(io.StringIO(table.decode("utf-8", errors="replace"))))
    except csv.Error:
        return None
    for column, what in _CURVES:
        points = [
            (step, value)
            for row in rows
            if (step := _number(row.get(_STEPS))) is not None
            and (value := _number(row.get(column))) is not None
        ]
        if len(points) >= 2:
            return Curve(
                what=what,
                steps=tuple(step for step, _ in points),
                values=tuple(value for _, value in points),
            )
    return None


def _state(state: SweepState, row: Row, now: datetime) -> Iterator[Line]:
    seen, record = row.seen, row.seen.record
    sign, tone = STATUS_LOOK[seen.status]
    yield _line("status", f"{sign} {seen.status}", tone)
    if why := reason(seen):
        yield _line("reason", why, "bad" if tone == "bad" else "")
    if record is None:
        return
    end = record.exit
    if end is not None:
        known = explain(end.kind)
        code = end.signal or ("" if end.code is None else f"code {end.code}")
        yield _line("exit", " · ".join(filter(None, (str(end.kind), code, known.words))))
        if known.advice:
            yield _line("to do", known.advice, "waiting")
    progress = record.progress
    fraction = fraction_of(progress)
    if fraction is not None:
        yield _line("progress", bar(fraction, 20))
    if progress.episode is not None:
        yield _line("episode", f"{progress.episode} of {progress.episodes or '?'}")
    if progress.timesteps is not None:
        of = f" of {progress.total_timesteps}" if progress.total_timesteps else ""
        pace = row.trail.pace if row.trail else None
        speed = f" · {count_text(pace)} steps/s" if pace and not seen.status.is_final else ""
        yield _line("steps", f"{progress.timesteps}{of}{speed}")
    if progress.mean_reward is not None:
        yield _line("mean reward", number_text(progress.mean_reward))
    yield _line("heartbeat", f"{age_text(record.updated, now)} ago")
    if row.cost is not None:
        yield _line("cost", _cost(state, row))
    if record.silent_because:
        yield _line("no signal", record.silent_because, "waiting")


def _cost(state: SweepState, row: Row) -> str:
    words = f"{money_text(row.cost)} spent"
    cost = state.facts.costs.get(row.seen.id) if state.facts else None
    if cost is None or cost.projected is None or row.seen.status.is_final:
        return words
    return f"{words} of {money_text(cost.projected)} in all, as it looks"


def _drawn(curve: Curve, width: int) -> Iterator[Line]:
    rows = chart(curve.steps, curve.values, width, _ROWS)
    labels = [number_text(max(curve.values)), *[""] * (_ROWS - 2), number_text(min(curve.values))]
    for label, text in zip(labels, rows, strict=True):
        yield Line(label=label, cell=Cell(text, "busy"))
    first, last = count_text(curve.steps[0]), count_text(curve.steps[-1])
    yield _line("", f"{curve.what}, {curve.over} {first} to {last}", "muted")


def _timeline(state: SweepState, seen: Observation, now: datetime) -> Iterator[Line]:
    events = sorted(_events(state, seen, now), key=lambda event: event[0])
    for at, cell in events:
        yield Line(label=f"{at.astimezone():%m-%d %H:%M:%S}", cell=cell)
    if not seen.status.is_final:
        sign, tone = STATUS_LOOK[seen.status]
        yield _line("now", f"{sign} {seen.status} {reason(seen)}", tone)


def _events(
    state: SweepState, seen: Observation, now: datetime
) -> Iterator[tuple[datetime, Cell]]:
    snapshot, record = state.snapshot, seen.record
    if snapshot is not None:
        yield snapshot.manifest.created, Cell("sweep launched", "muted")
    if record is None:
        return
    for attempt in record.history:
        if (at := attempt.started or attempt.ended) is not None:
            yield at, Cell(*_past(attempt))
    if record.attempt and record.started is not None:
        words = f"attempt {record.attempt}: {record.state}"
        until = record.ended or (None if record.is_final else now)
        if until is not None:
            words += f", {duration_text((until - record.started).total_seconds())}"
        yield record.started, Cell(one_line(words), "strong")
    if record.ended is not None:
        sign, tone = STATUS_LOOK[seen.status]
        yield record.ended, Cell(one_line(f"{sign} {seen.status} {reason(seen)}"), tone)


def _past(attempt: Attempt) -> tuple[str, Tone]:
    took = ""
    if attempt.started is not None and attempt.ended is not None:
        took = f" after {duration_text((attempt.ended - attempt.started).total_seconds())}"
    words = explain(attempt.kind).words
    hint = f": {attempt.hint}" if attempt.hint else ""
    return one_line(f"attempt {attempt.number}: {attempt.kind}{took} · {words}{hint}"), "waiting"


def _command(seen: Observation) -> Iterator[Line]:
    yield _line("command", seen.experiment.command)
    for name, value in configuration_of(seen.experiment.command).parameters.items():
        yield _line(name, value)


def _instance(state: SweepState, row: Row, extras: Extras) -> Iterator[Line]:
    seen = row.seen
    member, record = seen.member, seen.record
    if member is None:
        yield _line("instance", "none: it is gone, or not there yet", "muted")
    else:
        doing = "" if member.action == "NONE" else f" · {member.action.lower()}"
        zone = member.zone or (state.snapshot.manifest.zone if state.snapshot else "")
        yield _line("instance", f"{member.status or 'not there yet'}{doing} · {zone}")
        if member.error_code:
            yield _line("error", f"{member.error_code}: {member.error_message}", "bad")
    if member is not None and row.host not in {"", one_line(member.zone)}:
        yield _line("address", row.host)
    yield from _wanted(state)
    yield _line("container", container_word(seen))
    for container in extras.containers or ():
        words = f"{container.state} · {container.status} · {container.image}"
        yield _line(container.name, words)
    if record is not None:
        for name, version in sorted(record.versions.items()):
            yield _line(name, version, "muted")
    if extras.trouble:
        yield _line("not known", extras.trouble, "waiting")


def _wanted(state: SweepState) -> Iterator[Line]:
    """What its instance is made of, as the sweep was launched."""
    if state.snapshot is None:
        return
    manifest = state.snapshot.manifest
    kinds, spot = ", or ".join(manifest.machine.types), "Spot" if manifest.machine.spot else ""
    if words := " · ".join(filter(None, [kinds, spot])):
        yield _line("machine", words)
    if manifest.image is not None:
        yield _line("image", manifest.image.fixed)
    if (source := manifest.source) is not None:
        changed = " with changes: source.diff" if source.dirty else ""
        yield _line("source", f"{source.branch or 'commit'} {source.commit[:12]}{changed}")


def _outputs(extras: Extras) -> Iterator[Line]:
    if extras.outputs is None:
        return
    total = sum(size for _, size in extras.outputs)
    yield _line("files", f"{len(extras.outputs)}, {_bytes(total)}")
    # What lies at the top first: the model, not the weather of each simulated episode.
    for name, size in sorted(extras.outputs, key=lambda one: (one[0].count("/"), one[0]))[:_SHOWN]:
        yield _line(_bytes(size), name, "muted")
    if len(extras.outputs) > _SHOWN:
        yield _line("…", f"and {len(extras.outputs) - _SHOWN} more", "muted")


_SHOWN: Final = 40


def _line(label: str, text: str, tone: Tone = "") -> Line:
    return Line(label=one_line(label, limit=22), cell=Cell(one_line(text, limit=_LONG), tone))


def _bytes(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{count_text(size)}B"


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if isfinite(value) else None
