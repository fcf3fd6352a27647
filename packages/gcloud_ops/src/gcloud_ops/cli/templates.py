"""`gcloud-ops template`: what each instance of a sweep is."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from gcloud_ops.cli.app import REPEATED, SWITCH, GivenSession, Session

if TYPE_CHECKING:
    from gcloud_ops.tracking import TrackingServer

__all__ = ["template"]

template = App(name="template", help="Instance templates: what each instance of a sweep is.")


@template.command(name="create")
def template_create(
    name: str,
    /,
    *,
    image: str,
    machine_type: str = "n2-highcpu-8",
    disk_gb: int = 20,
    disk_type: str = "pd-ssd",
    service_account: str | None = None,
    scopes: str = "https://www.googleapis.com/auth/cloud-platform",
    no_external_address: Annotated[bool, SWITCH] = False,
    env: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    mlflow_server: Annotated[bool, SWITCH] = False,
    mlflow_uri: Annotated[str | None, Parameter(name=["--mlflow-uri", "--tracking-uri"])] = None,
    mlflow_secret: str | None = None,
    session: GivenSession,
) -> None:
    """Create an instance template.

    Its instances start IMAGE on Container-Optimized OS. The container's environment has gce_zone
    and gce_project_id, as in the original Sinergym containers.

    Args:
        name: The template's name; sweeps use sinergym-template unless they name another.
        image: Container image; its entry point is sinergym-runner.
        machine_type: Compute Engine machine type.
        disk_gb: Size of the boot disk in GB.
        disk_type: Type of the boot disk.
        service_account: Who the instances act as; else Compute Engine's default account.
        scopes: Access scopes of the account, separated by commas.
        no_external_address: Give the instances no public address: SSH goes through IAP, and to
            the internet there must be Cloud NAT, to Google Private Google Access.
        env: A variable of the container, NAME=VALUE; may be repeated. No secrets.
        mlflow_server: Log to the tracking server that `mlflow-infra up` has made, with its
            password, which the containers read in Secret Manager.
        mlflow_uri: Log to another tracking server; becomes MLFLOW_TRACKING_URI.
        mlflow_secret: Secret with {"username": ..., "password": ...} for that server: NAME, or
            projects/PROJECT/secrets/NAME. The instances' account must be allowed to read it.
    """
    from gcloud_ops import templates
    from gcloud_ops.cli.output import TEMPLATES

    environment = {
        "gce_zone": session.settings.zone,
        "gce_project_id": session.clients.project,
        **_variables(env),
    }
    server = _server(session, wanted=mlflow_server, uri=mlflow_uri, secret=mlflow_secret)
    if server is not None:
        environment |= server.environment
    made = templates.create_template(
        session.clients,
        templates.TemplateSpec(
            name=name,
            image=image,
            machine_type=machine_type,
            disk_gb=disk_gb,
            disk_type=disk_type,
            service_account=service_account,
            scopes=tuple(scope for scope in scopes.split(",") if scope),
            external_address=not no_external_address,
            environment=environment,
        ),
    )
    session.emit([made], TEMPLATES)


@template.command(name="list")
def template_list(*, session: GivenSession) -> None:
    """List the project's instance templates."""
    from gcloud_ops import templates
    from gcloud_ops.cli.output import TEMPLATES

    session.emit(templates.list_templates(session.clients), TEMPLATES)


@template.command(name="show")
def template_show(name: str, /, *, session: GivenSession) -> None:
    """Show one instance template.

    Args:
        name: The template's name.
    """
    from gcloud_ops import templates
    from gcloud_ops.cli.output import as_json, dump, table

    found = as_json(templates.get_template(session.clients, name))
    if session.common.output == "json":
        sys.stdout.write(dump(found))
        return
    environment = found.pop("environment")
    rows = [(key, " ".join(v) if isinstance(v, list) else v) for key, v in found.items()]
    rows += [(f"environment {key}", value) for key, value in environment.items()]
    sys.stdout.write(table(("FIELD", "VALUE"), [row for row in rows if row[1] not in ("", {})]))


@template.command(name="delete")
def template_delete(name: str, /, *, session: GivenSession) -> None:
    """Delete an instance template that no group uses.

    Args:
        name: The template's name.
    """
    from gcloud_ops import templates
    from gcloud_ops.cli.output import say

    templates.delete_template(session.clients, name)
    say(f"template {name} deleted")


def _server(
    session: Session, *, wanted: bool, uri: str | None, secret: str | None
) -> "TrackingServer | None":
    from gcloud_ops import tracking
    from gcloud_ops.errors import InvalidRequest

    if wanted and (uri or secret):
        raise InvalidRequest("--mlflow-server finds address and secret: give it or --mlflow-uri")
    if secret and not uri:
        raise InvalidRequest("--mlflow-secret: give --mlflow-uri, too")
    if wanted:
        return tracking.find_server(session.clients)
    return tracking.named_server(session.clients.project, uri, secret) if uri else None


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    from gcloud_ops.errors import InvalidRequest

    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"--env: {pair!r} is not NAME=VALUE")
        found[name] = value
    return found
