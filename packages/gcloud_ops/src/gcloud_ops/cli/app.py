"""What all commands share: the app, the global options, and the session that they make."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

if TYPE_CHECKING:
    from gcloud_ops.cli.output import Columns
    from gcloud_ops.clients import Clients
    from gcloud_ops.model import Snapshot
    from gcloud_ops.settings import Settings

__all__ = [
    "PROGRAM",
    "REPEATED",
    "SWITCH",
    "Common",
    "GivenSession",
    "Session",
    "Yes",
    "app",
    "split",
]

PROGRAM = "gcloud-ops"

_GLOBAL = Group("Global options", sort_key=10)
SWITCH = Parameter(negative=(), show_default=False)
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative=(), show_default=False)]
REPEATED = Parameter(show_default=False, negative=(), allow_leading_hyphen=True)


@Parameter(name="*", group=_GLOBAL)
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command; they may stand before or after it."""

    project: Annotated[str | None, Parameter(name=["--project", "-id"])] = None
    """Project. [also: $GCLOUD_OPS_PROJECT, $GOOGLE_CLOUD_PROJECT]"""
    zone: Annotated[str | None, Parameter(name=["--zone", "-zo"])] = None
    """Zone of the instances. [$GCLOUD_OPS_ZONE; europe-west1-b]"""
    bucket: str | None = None
    """Bucket of sweeps and results. [$GCLOUD_OPS_BUCKET; PROJECT-experiments-storage]"""
    endpoint: str | None = None
    """Another cloud than Google's. [$GCLOUD_OPS_ENDPOINT]"""
    local: Annotated[bool, SWITCH] = False
    """Use the local cloud; it is started when it doesn't run."""
    output: Literal["table", "json", "csv"] = "table"
    """How data is printed on standard output."""


class Session:
    """What a command works with: settings, clients, and where its data goes."""

    def __init__(self, common: Common) -> None:
        self.common = common

    @cached_property
    def settings(self) -> "Settings":
        """Flags, environment and file, once; with `--local` the local cloud runs from here on."""
        from gcloud_ops.errors import InvalidRequest
        from gcloud_ops.settings import Settings

        common = self.common
        flags = {
            "project": common.project,
            "zone": common.zone,
            "bucket": common.bucket,
            "endpoint": common.endpoint,
        }
        if not common.local:
            return Settings.load(flags=flags)
        if common.endpoint:
            raise InvalidRequest("--local and --endpoint: give one of them")
        from gcloud_ops.local import local_settings

        return local_settings(Settings.load(flags=flags))

    @cached_property
    def clients(self) -> "Clients":
        """Google's clients for the settings."""
        from gcloud_ops.clients import Clients

        return Clients.connect(self.settings)

    def emit(self, nouns: Sequence[Any], columns: "Columns[Any]") -> None:
        """Print nouns, in the form that was asked for."""
        from gcloud_ops.cli.output import emit

        emit(nouns, columns, self.common.output)

    def emit_snapshot(self, seen: "Snapshot", text: str) -> None:
        """Print a sweep: as JSON, its experiments as CSV, or else this text."""
        from gcloud_ops.cli.output import ROWS, as_json, comma_separated, dump

        match self.common.output:
            case "json":
                text = dump(as_json(seen))
            case "csv":
                text = comma_separated(ROWS, seen.rows)
        sys.stdout.write(text)

    def emit_outcome(self, outcome: Mapping[str, object]) -> None:
        """Print what a change came to, for programs: people are told in words."""
        from gcloud_ops.cli.output import as_json, dump

        if self.common.output == "json":
            sys.stdout.write(dump(as_json(outcome)))

    def command(self, words: str) -> str:
        """A command line of ours that works on the same cloud, for hints."""
        return f"{PROGRAM} {'--local ' if self.common.local else ''}{words}"


def _version() -> str:
    from importlib.metadata import version

    return version("gcloud-ops")


type GivenSession = Annotated[Session, Parameter(parse=False)]

app = App(
    name=PROGRAM,
    help="Launch sweeps of experiments on Google Cloud, watch them, and clean up after them.",
    version=_version,
)


@app.meta.default
def split(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    common: Common = Common(),
) -> tuple[tuple[str, ...], Common]:
    """Take the global options out of a command line: the words that are left, and these."""
    return words, common
