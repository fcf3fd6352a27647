"""What makes a plain Container-Optimized OS start our container at boot: a cloud-init text.

Compute Engine's own way (`gce-container-declaration`) ended on 31 July 2026
(https://docs.cloud.google.com/compute/docs/containers/prepare-for-container-agent-shutdown), so
a template carries the metadata key `user-data`: cloud-init writes a systemd unit and starts it
(https://cloud.google.com/container-optimized-os/docs/how-to/run-container-instance).
This module is pure: a spec in, text out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ContainerSpec", "cloud_init", "template_metadata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """The one container of an instance."""

    image: str
    """Reference of the image, such as `europe-docker.pkg.dev/my-project/images/sinergym:3.12`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the container. They are readable in the project: no secrets."""
    args: tuple[str, ...] = ()
    """Arguments after the image; none leaves the image's own command."""


def cloud_init(spec: ContainerSpec) -> str:
    """The `#cloud-config` text that starts the container on Container-Optimized OS.

    Raises:
        InvalidRequest: The image or a variable can't be written into it.
    """
    raise NotImplementedError


def template_metadata(spec: ContainerSpec) -> dict[str, str]:
    """The metadata of a template that runs the container.

    Raises:
        InvalidRequest: The image or a variable can't be written into it, or it is too big.
    """
    raise NotImplementedError
