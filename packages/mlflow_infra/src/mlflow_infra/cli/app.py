"""What all commands share: the app, the global options, and the session that they make."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from gcloud_ops.cli.app import SWITCH, Yes
from gcloud_ops.cli.app import Common as OpsCommon
from gcloud_ops.cli.app import Session as OpsSession

if TYPE_CHECKING:
    from gcloud_ops.settings import Settings
    from mlflow_infra.wanted import Infrastructure

__all__ = ["PROGRAM", "SWITCH", "Common", "GivenSession", "Session", "Yes", "app", "split"]

PROGRAM = "mlflow-infra"

_GLOBAL = Group("Global options", sort_key=10)


@Parameter(name="*", group=_GLOBAL)
@dataclass(frozen=True, kw_only=True)
class Common(OpsCommon):
    """Options of every command; they may stand before or after it."""

    project: Annotated[str | None, Parameter(name=["--project", "-id", "--PROJECT_ID"])] = None
    """Project. [also: $GCLOUD_OPS_PROJECT, $GOOGLE_CLOUD_PROJECT]"""
    zone: Annotated[str | None, Parameter(name=["--zone", "-zo", "--ZONE"])] = None
    """Zone of the server, its region that of the database. [$GCLOUD_OPS_ZONE; europe-west1-b]"""
    bucket: Annotated[str | None, Parameter(name=["--bucket", "--BUCKET_NAME"])] = None
    """Bucket of the artifacts. [that of the server which is there; PROJECT-mlflow]"""


class Session(OpsSession):
    """What a command works with: settings, clients, the server, and where its data goes."""

    @cached_property
    def settings(self) -> "Settings":
        """As of `gcloud-ops`, but for the bucket: that of its sweeps is not the server's."""
        return replace(super().settings, bucket=None)

    @cached_property
    def infra(self) -> "Infrastructure":
        """The server that is there.

        Raises:
            NotFound: There is none.
        """
        from gcloud_ops.errors import NotFound
        from mlflow_infra import operations

        found = operations.found(self.clients)
        if found is None:
            raise NotFound(
                f"there is no tracking server in project {self.clients.project}",
                hint=f"`{self.command('up')}` makes one",
            )
        return found

    def command(self, words: str) -> str:
        """A command line of ours that works on the same cloud, for hints."""
        return f"{PROGRAM} {'--local ' if self.common.local else ''}{words}"


def _version() -> str:
    from importlib.metadata import version

    return version("mlflow-infra")


type GivenSession = Annotated[Session, Parameter(parse=False)]

app = App(
    name=PROGRAM,
    help="An MLflow tracking server on Google Cloud: bring it up, look after it, take it down.",
    version=_version,
)


@app.meta.default
def split(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    common: Common = Common(),
) -> tuple[tuple[str, ...], Common]:
    """Take the global options out of a command line: the words that are left, and these."""
    return words, common
