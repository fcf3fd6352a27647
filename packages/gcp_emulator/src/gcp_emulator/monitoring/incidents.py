"""Evaluation of policies: which series violate which condition, and the incidents of it.

https://cloud.google.com/monitoring/alerts/concepts-indepth: each series that violates a condition
opens one incident. It stays open as long as the series violates; while nothing is written, too,
until the policy's ``autoClose`` has passed. Only an incident that opens is told of, or one that
closes, if the policy wants it.

The REST collection ``projects.alerts`` shows incidents:
https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alerts
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from google.cloud.monitoring_v3 import types

from gcp_emulator.iam.errors import invalid_argument, not_found
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.monitoring.filters import Filter, matches, parse
from gcp_emulator.monitoring.policies import condition_part
from gcp_emulator.monitoring.series import SeriesKey, Store, aggregate
from gcp_emulator.monitoring.texts import Incident
from gcp_emulator.replies import Json

__all__ = ["Incidents"]

_LATE: Final = 600.0
"""How old a point can be when it is written, and still be looked at."""
_FORGOTTEN: Final = 86_400.0
"""Of a series that is silent for longer, absence is no news
(https://cloud.google.com/monitoring/alerts/metric-absence)."""
_PERIOD: Final = 60.0
_AUTO_CLOSE: Final = 7 * 86_400.0
_MOST_KEPT: Final = 2_000
_GT: Final = int(types.ComparisonType.COMPARISON_GT)
_AND: Final = int(types.AlertPolicy.ConditionCombinerType.AND)
_MATCHING: Final = int(types.AlertPolicy.ConditionCombinerType.AND_WITH_MATCHING_RESOURCE)
_Missing: Final = types.AlertPolicy.Condition.EvaluationMissingData
_ACTIVE: Final = int(_Missing.EVALUATION_MISSING_DATA_ACTIVE)
_INACTIVE: Final = int(_Missing.EVALUATION_MISSING_DATA_INACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What a condition says of a series, or of a group of them."""

    key: SeriesKey
    violates: bool | None
    """None: nothing was written that would say."""
    value: float | None
    newest: float


class Incidents:
    """Incidents, open ones and the last closed ones.

    Args:
        file: Where they are kept.
        policies: The policies to evaluate, as they are now.
        store: The series.
        tell: Told of an incident that has opened, or has closed, with its policy.
        now: The time, in seconds since 1970.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self,
        file: Path,
        *,
        policies: Callable[[], Sequence[Any]],
        store: Store,
        tell: Callable[[Incident, Any], object],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._policies = policies
        self._store = store
        self._tell = tell
        self._now = now
        self._incidents = [Incident(**kept) for kept in read_kept(file) or []]
        self._open = {_place(one): one for one in self._incidents if not one.closed}
        self._since: dict[tuple[str, SeriesKey], float] = {}
        self._seen: dict[tuple[str, SeriesKey], float] = {}
        self._known: dict[str, float] = {}
        self._given_up: dict[tuple[str, SeriesKey], float] = {}
        self._filters: dict[str, Filter | None] = {}
        self._changed = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing can happen as time goes by."""
        return not self._open and (self._store.is_empty or not self._policies())

    @property
    def all(self) -> list[Incident]:
        """The incidents that are remembered, oldest first."""
        return list(self._incidents)

    def evaluate(self) -> None:
        """Look at all policies; open and close what is due."""
        policies = self._policies()
        conditions = {c.name for policy in policies for c in policy.conditions}
        conditions |= {policy.name for policy in policies}
        for place, incident in list(self._open.items()):
            if place[0] not in conditions:
                self._close(incident, None)
        self._known = {name: self._known.get(name, self._now()) for name in conditions}
        for policy in policies:
            self._evaluate(policy)
        self._close_forgotten(policies)
        if self._changed:
            self._save()

    def _evaluate(self, policy: Any) -> None:
        verdicts = [self._judge(condition) for condition in policy.conditions]
        if policy.combiner not in (_AND, _MATCHING) or len(policy.conditions) == 1:
            for condition, found in zip(policy.conditions, verdicts, strict=True):
                for verdict in found:
                    self._settle(policy, condition, condition.name, verdict)
            return
        for verdict in _combined(verdicts, by_resource=policy.combiner == _MATCHING):
            self._settle(policy, policy.conditions[0], policy.name, verdict)

    def _judge(self, condition: Any) -> list[_Verdict]:
        part = condition_part(condition)
        found = (
            self._judge_threshold(condition.name, part)
            if condition.WhichOneof("condition") == "condition_threshold"
            else self._judge_absence(part)
        )
        held = [self._held(condition.name, part, verdict) for verdict in found]
        violating = sum(verdict.violates is True for verdict in held)
        least = max(part.trigger.count, 1)
        if part.trigger.percent:
            least = max(1, -(-len(held) * part.trigger.percent // 100))
        if violating >= least:
            return held
        return [
            _Verdict(key=v.key, violates=False, value=v.value, newest=v.newest)
            if v.violates
            else v
            for v in held
        ]

    def _judge_threshold(self, name: str, part: Any) -> Iterator[_Verdict]:
        now = self._now()
        aggregation = part.aggregations[0] if part.aggregations else None
        period = _PERIOD
        if aggregation is not None:
            period = aggregation.alignment_period.ToTimedelta().total_seconds() or _PERIOD
        series = self._store.select(self._filter(part.filter))
        for aligned in aggregate(series, aggregation, end=now, period=period):
            value, place = aligned.value, (name, aligned.key)
            seen = self._seen.get(place, 0.0)
            is_late = value is None and max(seen, now - _LATE) < aligned.newest <= now
            if is_late and aligned.arrived > self._known[name]:
                # The window that the point belongs to had passed when it was written.
                late = aggregate(series, aggregation, end=aligned.newest, period=period)
                value = next(one.value for one in late if one.key == aligned.key)
            if aligned.newest <= now:
                self._seen[place] = aligned.newest
            violates: bool | None = None
            if value is not None:
                above = value > part.threshold_value
                below = value < part.threshold_value
                violates = above if part.comparison == _GT else below
            elif part.evaluation_missing_data in (_ACTIVE, _INACTIVE):
                violates = part.evaluation_missing_data == _ACTIVE
            yield _Verdict(key=aligned.key, violates=violates, value=value, newest=aligned.newest)

    def _judge_absence(self, part: Any) -> Iterator[_Verdict]:
        now, duration = self._now(), float(part.duration.seconds)
        aggregation = part.aggregations[0] if part.aggregations else None
        series = self._store.select(self._filter(part.filter))
        for aligned in aggregate(series, aggregation, end=now, period=duration):
            silence = now - aligned.newest
            yield _Verdict(
                key=aligned.key,
                violates=silence >= duration if silence <= _FORGOTTEN else None,
                value=aligned.value,
                newest=aligned.newest,
            )

    def _held(self, name: str, part: Any, verdict: _Verdict) -> _Verdict:
        """The verdict once it has held for the condition's duration; absence counts its own."""
        place = name, verdict.key
        if not verdict.violates:
            self._since.pop(place, None)
            return verdict
        since = self._since.setdefault(place, self._now())
        absent = "threshold_value" not in part.DESCRIPTOR.fields_by_name
        if absent or self._now() - since >= part.duration.seconds or place in self._open:
            return verdict
        return _Verdict(key=verdict.key, violates=None, value=verdict.value, newest=verdict.newest)

    def _settle(self, policy: Any, condition: Any, name: str, verdict: _Verdict) -> None:
        place = name, verdict.key
        incident = self._open.get(place)
        if incident is None:
            if verdict.violates and self._given_up.get(place) != verdict.newest:
                self._given_up.pop(place, None)
                self._begin(policy, condition, place, verdict)
            return
        incident.newest = max(incident.newest, verdict.newest)
        if verdict.violates is False:
            self._close(incident, policy)
            return
        wait = policy.alert_strategy.auto_close.seconds or _AUTO_CLOSE
        quiet = incident.newest
        if condition.WhichOneof("condition") == "condition_absent":
            quiet = max(quiet, incident.opened)
        if self._now() - quiet >= wait:
            self._given_up[place] = verdict.newest
            self._close(incident, policy)

    def _close_forgotten(self, policies: Sequence[Any]) -> None:
        """Close incidents whose series are forgotten, as after a restart, when it is time."""
        by_name = {policy.name: policy for policy in policies}
        for incident in list(self._open.values()):
            policy = by_name[incident.policy]
            wait = policy.alert_strategy.auto_close.seconds or _AUTO_CLOSE
            if self._now() - max(incident.newest, incident.opened) >= wait + _PERIOD:
                self._close(incident, policy)

    def _begin(
        self, policy: Any, condition: Any, place: tuple[str, SeriesKey], verdict: _Verdict
    ) -> None:
        key = verdict.key
        incident = Incident(
            id=f"0.{secrets.token_hex(6)}",
            policy=policy.name,
            policy_name=policy.display_name,
            user_labels=dict(policy.user_labels),
            severity=types.AlertPolicy.Severity(policy.severity).name,
            condition=condition.name,
            condition_name=condition.display_name,
            metric=key.metric,
            metric_labels=dict(key.metric_labels),
            resource=key.resource,
            resource_labels=dict(key.resource_labels),
            opened=self._now(),
            newest=verdict.newest,
            value=verdict.value,
            key=_plain(place),
        )
        self._open[place] = incident
        self._incidents.append(incident)
        self._changed = True
        self._tell(incident, policy)

    def _close(self, incident: Incident, policy: Any | None) -> None:
        incident.closed = self._now()
        self._open = {k: v for k, v in self._open.items() if v is not incident}
        self._changed = True
        if policy is not None:
            self._tell(incident, policy)

    def _filter(self, text: str) -> Filter | None:
        if text not in self._filters:
            if len(self._filters) > 500:
                self._filters.clear()
            self._filters[text] = parse(text)
        return self._filters[text]

    def _save(self) -> None:
        self._changed = False
        surplus = len(self._incidents) - _MOST_KEPT
        if surplus > 0:
            closed = [one for one in self._incidents if one.closed][:surplus]
            gone = {one.id for one in closed}
            self._incidents = [one for one in self._incidents if one.id not in gone]
        keep(self._file, [incident.to_json() for incident in self._incidents])

    def list_alerts(
        self, project: str, *, filter_text: str, order_by: str, size: int, token: str
    ) -> Json:
        """The reply to ``projects.alerts.list``.

        Raises:
            GoogleError: 400.
        """
        selected = parse(filter_text)
        alerts = [_alert(one, project) for one in self._incidents]
        found = [one for one in alerts if matches(selected, _fields(one))]
        found = _ordered(found, order_by)
        if token and not token.isdecimal():
            raise invalid_argument(f'Field page_token had an invalid value of "{token}".')
        first = int(token or 0)
        page = found[first : first + size]
        reply: Json = {"alerts": page} if page else {}
        if first + size < len(found):
            reply["nextPageToken"] = str(first + size)
        return reply | ({"totalSize": len(found)} if found else {})

    def get_alert(self, project: str, alert: str) -> Json:
        """The reply to ``projects.alerts.get``.

        Raises:
            GoogleError: 404.
        """
        for one in self._incidents:
            if one.id == alert:
                return _alert(one, project)
        raise not_found(f"Cannot find alert with name {project}/alerts/{alert}.")


def _combined(verdicts: Sequence[Sequence[_Verdict]], *, by_resource: bool) -> Iterator[_Verdict]:
    """What several conditions say together; with one verdict for each resource, or one at all."""

    def group(key: SeriesKey) -> tuple[Any, ...]:
        return (key.resource, key.resource_labels) if by_resource else ()

    groups = dict.fromkeys(group(v.key) for found in verdicts for v in found)
    for wanted in groups:
        parts = [[v for v in found if group(v.key) == wanted] for found in verdicts]
        says: bool | None = None
        if all(any(v.violates for v in part) for part in parts):
            says = True
        elif any(part and all(v.violates is False for v in part) for part in parts):
            says = False
        everyone = [v for part in parts for v in part]
        first = next((v for v in everyone if v.violates), everyone[0])
        resource = first.key.resource_labels if by_resource else ()
        yield _Verdict(
            key=SeriesKey(first.key.metric, (), first.key.resource, resource)
            if by_resource
            else SeriesKey("", (), "global", ()),
            violates=says,
            value=first.value,
            newest=max(v.newest for v in everyone),
        )


def _place(incident: Incident) -> tuple[str, SeriesKey]:
    name, metric, metric_labels, resource, resource_labels = incident.key
    return name, SeriesKey(
        metric,
        tuple((k, v) for k, v in metric_labels),
        resource,
        tuple((k, v) for k, v in resource_labels),
    )


def _plain(place: tuple[str, SeriesKey]) -> list[Any]:
    name, key = place
    return [
        name,
        key.metric,
        [list(pair) for pair in key.metric_labels],
        key.resource,
        [list(pair) for pair in key.resource_labels],
    ]


def _alert(incident: Incident, project: str) -> Json:
    policy: Json = {"name": incident.policy, "displayName": incident.policy_name}
    if incident.user_labels:
        policy["userLabels"] = incident.user_labels
    if incident.severity != "SEVERITY_UNSPECIFIED":
        policy["severity"] = incident.severity
    alert: Json = {
        "name": f"{project}/alerts/{incident.id}",
        "state": "CLOSED" if incident.closed else "OPEN",
        "openTime": _rfc3339(incident.opened),
        "resource": {"type": incident.resource, "labels": incident.resource_labels},
        "metric": {"type": incident.metric, "labels": incident.metric_labels},
        "policy": policy,
    }
    if incident.closed:
        alert["closeTime"] = _rfc3339(incident.closed)
    return alert


def _fields(alert: Json) -> Callable[[str], str | None]:
    """The fields of an alert, in JSON's spelling or the messages' (``policy.display_name``)."""

    def field(name: str) -> str | None:
        found: Any = alert
        path = name.replace(".label.", ".labels.").split(".")
        while path and isinstance(found, dict):
            head = path.pop(0)
            if head not in found:
                first, *others = head.split("_")
                head = first + "".join(part.title() for part in others)
            if head not in found and path:
                head = ".".join([head, *path])
                path = []
            found = found.get(head)
        return found if isinstance(found, str) else None

    return field


def _ordered(found: list[Json], order_by: str) -> list[Json]:
    """Sorted by fields such as ``open_time desc``; newest first if nothing is said."""
    for term in reversed([t.split() for t in (order_by or "open_time desc").split(",")]):
        name = term[0] if term else ""
        fits = len(term) == 1 or (len(term) == 2 and term[1].lower() in ("asc", "desc"))
        key = {"open_time": "openTime", "close_time": "closeTime"}.get(name, name)
        if not fits or key not in ("openTime", "closeTime", "name", "state"):
            raise invalid_argument(f'Field order_by had an invalid value of "{order_by}".')
        falling = term[-1].lower() == "desc"
        found = sorted(found, key=lambda one: one.get(key, ""), reverse=falling)
    return found


def _rfc3339(moment: float) -> str:
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
