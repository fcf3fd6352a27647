"""The only place that builds Google's clients, reads their errors, and waits for operations.

Importing this module imports no Google module: `google.cloud.compute_v1` alone costs seconds.
Each client is built at its first use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from gcloud_ops.settings import Settings

__all__ = ["Clients", "translate"]


class Clients:
    """Google's clients for one project, on Google Cloud or at another endpoint.

    Safe to share between threads.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Clients for these settings; nothing is imported or sent yet."""
        return cls(settings)

    @property
    def project(self) -> str:
        """The project.

        Raises:
            InvalidRequest: None is set.
        """
        return self.settings.require_project()

    @property
    def zone(self) -> str:
        """The settings' zone."""
        return self.settings.zone

    def wait(self, operation: Any, *, resource: str, timeout: float = 300.0) -> None:
        """Wait for the end of a zonal or global operation.

        Raises:
            GcloudOpsError: The operation's error, translated by its code; `Unavailable` when
                it isn't done in `timeout` seconds.
        """
        raise NotImplementedError


@contextmanager
def translate(resource: str) -> Iterator[None]:
    """Turn what Google's clients raise inside the block into our errors.

    Args:
        resource: What the calls are about, such as `group quick`.
    """
    yield
    raise NotImplementedError(resource)


def default_project() -> str | None:
    """The project of Google's default credentials; None when there is none."""
    raise NotImplementedError
