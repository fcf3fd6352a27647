"""What a notification says: variables of the documentation, the summary, the webhook's JSON.

https://cloud.google.com/monitoring/alerts/doc-variables; for the JSON, version 1.2 of
https://cloud.google.com/monitoring/support/notification-options#webhooks
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from gcp_emulator.replies import Json

__all__ = ["Incident", "Notification", "expand", "notification"]

_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([^${}]*)\}")
_REPORTED: Final = re.compile(r"[0-9A-Za-z/=]")
_SUBJECT_BYTES: Final = 255
_RESOURCES: Final = {"global": "Global", "gce_instance": "VM Instance"}


@dataclass(slots=True, kw_only=True)
class Incident:
    """Something that a policy has found, as it was when it was found."""

    id: str
    policy: str
    """The policy's name."""
    policy_name: str
    """What people call it."""
    user_labels: dict[str, str]
    severity: str
    condition: str
    condition_name: str
    metric: str
    metric_labels: dict[str, str]
    resource: str
    resource_labels: dict[str, str]
    opened: float
    newest: float
    """When the last point ended that it is about."""
    value: float | None
    closed: float = 0.0
    """0: it is open."""
    key: list[Any] = field(default_factory=list)
    """What tells it from others of the condition."""

    def to_json(self) -> Json:
        """To be kept."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What is sent, in each form."""

    event: str
    """``OPENED``, ``CLOSED`` or ``VERIFICATION``."""
    subject: str
    text: str
    body: Json
    """What a webhook gets."""
    policy: str = ""
    incident: str = ""


def notification(
    incident: Incident,
    policy: Any,
    *,
    project: str,
    number: str,
    metric_name: str,
    threshold: float | None,
) -> Notification:
    """What is told when an incident has opened or has closed.

    Args:
        incident: It.
        policy: The policy as it is now: a ``google.monitoring.v3.AlertPolicy``.
        project: The project's id.
        number: Its number.
        metric_name: What people call the metric.
        threshold: What the condition holds values against; None where there is none.
    """
    values = _values(incident, project=project, metric_name=metric_name)
    event = "CLOSED" if incident.closed else "OPENED"
    subject = _cut(expand(policy.documentation.subject, values), _SUBJECT_BYTES)
    kind = _RESOURCES.get(incident.resource, incident.resource)
    if not subject:
        mark = "RESOLVED" if incident.closed else "ALERT"
        subject = _cut(f"[{mark}] {incident.condition_name} on {project} {kind}", _SUBJECT_BYTES)
    content = expand(policy.documentation.content, values)
    summary = _summary(incident, metric_name=metric_name, project=project, threshold=threshold)
    links = [
        {"displayName": link.display_name, "url": expand(link.url, values)}
        for link in policy.documentation.links
    ]
    lines = [content, *(f"{link['displayName']}: {link['url']}" for link in links), ""]
    lines += [
        summary,
        "",
        f"Policy: {incident.policy_name}",
        f"Condition: {incident.condition_name}",
        f"Incident: {incident.id}, opened {_rfc3339(incident.opened)}"
        + (f", closed {_rfc3339(incident.closed)}" if incident.closed else ""),
    ]
    documentation: Json = {
        "content": content,
        "mime_type": policy.documentation.mime_type or "text/markdown",
        "subject": subject,
    }
    if links:
        documentation["links"] = links
    body: Json = {
        "version": "1.2",
        "incident": {
            "incident_id": incident.id,
            "scoping_project_id": project,
            "scoping_project_number": int(number),
            "url": "",
            "started_at": int(incident.opened),
            "ended_at": int(incident.closed) or None,
            "state": "closed" if incident.closed else "open",
            "summary": summary,
            "observed_value": _number(incident.value),
            "threshold_value": _number(threshold),
            "severity": _severity(incident.severity),
            "resource": {"type": incident.resource, "labels": incident.resource_labels},
            "resource_type_display_name": kind,
            "resource_id": "",
            "resource_display_name": "",
            "resource_name": f"{project} {kind}",
            "metric": {
                "type": incident.metric,
                "displayName": metric_name,
                "labels": incident.metric_labels,
            },
            "metadata": {"system_labels": {}, "user_labels": {}},
            "policy_name": incident.policy_name,
            "policy_user_labels": incident.user_labels,
            "documentation": documentation,
            "condition": {"name": incident.condition, "displayName": incident.condition_name},
            "condition_name": incident.condition_name,
        },
    }
    return Notification(
        event=event,
        subject=subject,
        text="\n".join(lines).strip() + "\n",
        body=body,
        policy=incident.policy_name,
        incident=incident.id,
    )


def expand(text: str, values: Mapping[str, str]) -> str:
    """A text with its variables replaced; one that is unknown, or has no value, leaves nothing.

    ``$${`` stands for ``${``.
    """

    def replaced(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        name = re.sub(r"^(metric|resource)\.labels\.", r"\1.label.", found[1].strip())
        return values.get(name, "")

    return _VARIABLE.sub(replaced, text)


def _values(incident: Incident, *, project: str, metric_name: str) -> dict[str, str]:
    values = {
        "condition.name": incident.condition,
        "condition.display_name": incident.condition_name,
        "metric.type": incident.metric,
        "metric.display_name": metric_name,
        "policy.name": incident.policy,
        "policy.display_name": incident.policy_name,
        "project": project,
        "resource.type": incident.resource,
        "resource.project": incident.resource_labels.get("project_id", project),
    }
    for name, value in incident.user_labels.items():
        values[f"policy.user_label.{name}"] = value
    for name, value in incident.resource_labels.items():
        values[f"resource.label.{name}"] = value
    for name, value in incident.metric_labels.items():
        # As Google says: a value that begins otherwise, such as with a minus, is not reported.
        if _REPORTED.match(value):
            values[f"metric.label.{name}"] = value
    return values


def _summary(
    incident: Incident, *, metric_name: str, project: str, threshold: float | None
) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in sorted(incident.metric_labels.items()))
    what = f"{metric_name} for {project} with metric labels {{{labels}}}"
    value = _number(incident.value)
    if incident.closed:
        return f"{what} returned to normal."
    if threshold is None:
        return f"{what} is absent."
    return f"{what} has violated the threshold of {_number(threshold)} with a value of {value}."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _severity(name: str) -> str:
    return {"CRITICAL": "Critical", "ERROR": "Error", "WARNING": "Warning"}.get(
        name, "No severity"
    )


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _cut(text: str, most: int) -> str:
    """At most so many bytes of a line, cut between characters."""
    line = " ".join(text.split())
    return line.encode()[:most].decode(errors="ignore")
