"""`gcloud-ops setup`: from nothing to ready for the first sweep, and back."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from gcloud_ops.cli.app import PROGRAM, SWITCH, GivenSession, Session, Yes

if TYPE_CHECKING:
    from gcloud_ops.resources import Finding, Plan
    from gcloud_ops.setting_up import Wanted

__all__ = ["setup"]


def setup(
    *,
    plan: Annotated[bool, SWITCH] = False,
    image: str | None = None,
    machine_type: str | None = None,
    iap: Annotated[bool, SWITCH] = False,
    no_external_address: Annotated[bool, SWITCH] = False,
    mlflow_server: Annotated[bool, SWITCH] = False,
    remove: Annotated[bool, SWITCH] = False,
    delete_data: Annotated[bool, SWITCH] = False,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Make what a project needs before its first sweep; what is there is left alone.

    APIs, the service account of the trainers with the few permissions that they need, the bucket,
    the metrics of the alerts, an instance template and an SSH key. May be run again at any time,
    also after an interruption; what was made with other options stays as it is.

    Args:
        plan: Show what is there and what would be made; change nothing.
        image: The trainers' image, for the template.
            [REGION-docker.pkg.dev/PROJECT/sinergym/trainer:latest]
        machine_type: Machine type of the template. [n2-highcpu-8]
        iap: Let SSH come through Identity-Aware Proxy: its API, and a firewall rule.
        no_external_address: The template's instances have no public addresses: they are reached
            through IAP, and reach Google through Private Google Access, the Internet through
            Cloud NAT, which you set up.
        mlflow_server: The template logs to the tracking server that `mlflow-infra up` has made.
        remove: Take away what was made, but APIs, SSH key and data.
        delete_data: With --remove: also the bucket with all sweeps and results, and the metrics.
        yes: Don't ask.
    """
    from gcloud_ops import setting_up, tracking
    from gcloud_ops.cli import output
    from gcloud_ops.cli.steps import showing, tell_drift
    from gcloud_ops.errors import InvalidRequest
    from gcloud_ops.local import LOCAL_IMAGE

    if delete_data and not remove:
        raise InvalidRequest("--delete-data is for --remove")
    server = tracking.find_server(session.clients) if mlflow_server else None
    wanted = setting_up.Wanted.of(
        session.clients,
        image=image,
        machine_type=machine_type,
        iap=iap or no_external_address or remove,
        external_address=not no_external_address,
        environment=server.environment if server else None,
    )
    if not session.settings.is_google:
        wanted = replace(wanted, default_image=LOCAL_IMAGE)
    looked = setting_up.look(session.clients, wanted)
    if plan:
        _print_plan(session, looked)
        return output.ExitCode.DONE
    if remove:
        return _remove(session, wanted, looked, delete_data=delete_data, yes=yes)
    tell_drift(PROGRAM, looked)
    if looked.changes and not session.common.local:
        for finding in looked.changes:
            output.say(f"  {finding.what}: {finding.change}")
        if not output.confirm(f"Make this in project {session.clients.project}?", yes=yes):
            return output.ExitCode.USAGE
    try:
        with showing() as tell:
            made = setting_up.up(session.clients, wanted, tell=tell)
    except KeyboardInterrupt:
        output.say(
            f"{PROGRAM}: interrupted; what is made stays, `{session.command('setup')}` goes on "
            f"and `{session.command('setup --remove')}` removes it"
        )
        return output.ExitCode.INTERRUPTED
    _print_plan(session, made)
    output.say(f"ready; `{session.command('doctor')}` looks deeper")
    return output.ExitCode.DONE


def _remove(
    session: Session, wanted: "Wanted", looked: "Plan[Finding]", *, delete_data: bool, yes: bool
) -> int:
    from gcloud_ops import setting_up
    from gcloud_ops.cli import output
    from gcloud_ops.cli.steps import showing

    there = [one for one in looked.findings if one.state != "missing" and _is_removed(one.what)]
    going = [one for one in there if delete_data or not one.holds_data]
    for finding in there:
        output.say(f"{'will be removed' if finding in going else 'stays'}: {finding.what}")
    if not going:
        output.say(f"there is nothing to remove in project {session.clients.project}")
        return output.ExitCode.DONE
    if delete_data:
        question = f"Remove this, with all sweeps and results in gs://{wanted.bucket}, for good?"
    else:
        question = f"Remove this from project {session.clients.project}?"
    if not output.confirm(question, yes=yes):
        return output.ExitCode.USAGE
    try:
        with showing("nothing to remove") as tell:
            setting_up.down(session.clients, wanted, delete_data=delete_data, tell=tell)
    except KeyboardInterrupt:
        output.say(f"{PROGRAM}: interrupted; the same command goes on")
        return output.ExitCode.INTERRUPTED
    return output.ExitCode.DONE


def _is_removed(what: str) -> bool:
    """APIs stay enabled, others use them too; so may others the key."""
    return what != "APIs" and not what.startswith("SSH key ")


def _print_plan(session: Session, looked: "Plan[Finding]") -> None:
    from gcloud_ops.cli import output

    if session.common.output == "json":
        sys.stdout.write(output.dump({"findings": output.as_json(looked.findings)}))
        return
    rows = [(one.what, one.state, "; ".join(one.differences)) for one in looked.findings]
    sys.stdout.write(output.table(("RESOURCE", "STATE", "DIFFERENCES"), rows))
    changes = len(looked.changes)
    output.say(f"{changes} to make or mend" if changes else "nothing to do")
