"""Monitored resources: what points are about.

https://cloud.google.com/monitoring/api/resources
"""

from typing import Any, Final

from google.api import label_pb2, monitored_resource_pb2

from gcp_emulator.iam.names import Project

__all__ = ["RESOURCES", "describe", "why_none"]

RESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "global": ("project_id",),
    "gce_instance": ("project_id", "instance_id", "zone"),
    "generic_node": ("project_id", "location", "namespace", "node_id"),
    "generic_task": ("project_id", "location", "namespace", "job", "task_id"),
    "uptime_url": ("project_id", "host"),
}
"""The monitored resources of this cloud, with their labels."""
_TITLES: Final = {
    "global": ("Global", "A resource type that is not associated with any specific resource."),
    "gce_instance": ("VM Instance", "A virtual machine instance hosted in Compute Engine."),
    "generic_node": ("Generic Node", "A machine or other computational resource."),
    "generic_task": ("Generic Task", "A process of an application, run by a scheduler."),
    "uptime_url": ("Uptime Check URL", "A URL that uptime checks ask for."),
}


def describe(project: Project, kind: str) -> monitored_resource_pb2.MonitoredResourceDescriptor:
    """The descriptor of a resource."""
    title, text = _TITLES[kind]
    return monitored_resource_pb2.MonitoredResourceDescriptor(
        name=f"{project.path}/monitoredResourceDescriptors/{kind}",
        type=kind,
        display_name=title,
        description=text,
        labels=[label_pb2.LabelDescriptor(key=key) for key in RESOURCES[kind]],
    )


def why_none(series: Any, where: str, project: Project) -> str | None:
    """Why the resource of a series (of the request's `where`) is none that can be written to."""
    kind, labels = series.resource.type, series.resource.labels
    if not kind:
        series.resource.type = kind = "global"
    if kind not in RESOURCES or kind == "uptime_url":
        return (
            f'Field {where}.resource.type had an invalid value of "{kind}": Unrecognized or'
            " unsupported monitored resource type."
        )
    for name, value in labels.items():
        if name not in RESOURCES[kind]:
            return (
                f"Field {where}.resource.labels had an invalid value of"
                f' "{name}": unrecognized resource label.'
            )
        if name == "project_id" and value not in ("", project.id, project.number):
            return (
                f'Field {where}.resource.labels[project_id] had an invalid value of "{value}":'
                " must be the project that is written to."
            )
    missing = [name for name in RESOURCES[kind] if name not in labels and name != "project_id"]
    if missing:
        return (
            f"Field {where}.resource.labels had an invalid value: missing the label"
            f" {missing[0]} of {kind}."
        )
    return None
