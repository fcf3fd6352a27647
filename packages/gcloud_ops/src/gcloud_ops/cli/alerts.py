"""`gcloud-ops alerts`: who is told when experiments and sweeps end, and what was."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from gcloud_ops.cli.app import REPEATED, SWITCH, GivenSession, Session, Yes

if TYPE_CHECKING:
    from gcloud_ops.alerts import Channel, Recipients, Signal
    from gcloud_ops.model import Sweep

__all__ = ["alerts", "ensure_alerts", "prepare_alerts"]

alerts = App(name="alerts", help="Alerts: know when experiments and sweeps have ended.")
channels = App(name="channels", help="Notification channels: whom Cloud Monitoring tells.")
policies = App(name="policies", help="Alert policies: what it tells.")
alerts.command(channels)
alerts.command(policies)

SECRET_VARIABLE = "GCLOUD_OPS_SECRET_"
"""Before a secret label's name in capitals: the variable that may hold it."""


@channels.command(name="types")
def channels_types(*, session: GivenSession) -> None:
    """List the types of channels that Cloud Monitoring offers, with their labels."""
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import CHANNEL_TYPES

    session.emit(alerts_.list_types(session.clients), CHANNEL_TYPES)


@channels.command(name="list")
def channels_list(*, session: GivenSession) -> None:
    """List the project's notification channels; nothing secret is shown."""
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import CHANNELS

    session.emit(alerts_.list_channels(session.clients), CHANNELS)


@channels.command(name="add")
def channels_add(
    type: str,
    address: str | None = None,
    /,
    *,
    label: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    secret: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    username: str | None = None,
    display_name: str = "",
    session: GivenSession,
) -> None:
    """Add a notification channel, or find the one that is there already.

    email you@example.org, sms +34600000000, webhook https://..., webhook_basicauth URL
    --username U, slack '#channel', pubsub projects/P/topics/T, or any TYPE of `channels types`
    with its labels. A password or token is never an argument: it is asked for on the terminal,
    or read from standard input (a line for each), or from $GCLOUD_OPS_SECRET_<LABEL>, such as
    GCLOUD_OPS_SECRET_AUTH_TOKEN.

    Args:
        type: Of the channel.
        address: Where its messages go; for a URL with a token in it, give --secret url instead.
        label: A label of this type, KEY=VALUE; may be repeated.
        secret: A label whose value is secret; may be repeated. Slack's auth_token and a
            webhook's password needn't be named.
        username: The same as --label username=U.
        display_name: A name for people. [the address]
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.alerts.channels import check_address, known_secrets
    from gcloud_ops.cli.output import CHANNELS, say

    labels = _pairs(label)
    if username is not None:
        labels["username"] = username
    if address is not None:  # before anybody is asked for a password
        check_address(type, address, google=session.settings.is_google)
    names = dict.fromkeys((*known_secrets(type), *secret))
    secrets = {name: _secret(name, prompt=f"{name}: ") for name in names}
    found = alerts_.add_channel(
        session.clients,
        type,
        address=address,
        labels=labels,
        secrets=secrets,
        display_name=display_name,
    )
    session.emit([found], CHANNELS)
    say(f"channel {found.id}: {'made' if found.made else 'was there already'}")
    if found.is_unverified:
        say(f"nothing arrives yet: `{session.command(f'alerts channels verify {found.id}')}`")


@channels.command(name="verify")
def channels_verify(name: str, code: str | None = None, /, *, session: GivenSession) -> None:
    """Have a code sent to a channel; then, with the code that arrived, verify it.

    Args:
        name: The channel: its id, address or display name.
        code: What arrived there; without it, one is sent.
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import CHANNELS, say

    found = _channel(session, name)
    if code is None:
        alerts_.send_code(session.clients, found)
        verify = session.command(f"alerts channels verify {found.id} CODE")
        say(f"a code is on its way to {found.address}: `{verify}`")
        session.emit_outcome({"channel": found.id, "code_sent": True})
        return
    session.emit([alerts_.verify_channel(session.clients, found, code)], CHANNELS)


@channels.command(name="remove")
def channels_remove(
    name: str,
    /,
    *,
    force: Annotated[bool, SWITCH] = False,
    yes: Yes = False,
    session: GivenSession,
) -> int:
    """Remove a notification channel that no policy uses.

    Args:
        name: The channel: its id, address or display name.
        force: Also one that policies use; it is taken out of them.
        yes: Don't ask.
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.alerts.policies import policies_using
    from gcloud_ops.cli import output

    found = _channel(session, name)
    question = f"Remove channel {found.id} ({found.type} {found.address})?"
    if not output.confirm(question, yes=yes):
        return output.ExitCode.USAGE
    alerts_.remove_channel(
        session.clients,
        found,
        used_by=lambda channel: policies_using(session.clients, channel),
        force=force,
    )
    session.emit_outcome({"removed": found.id})
    output.say(f"channel {found.id} removed")
    return output.ExitCode.DONE


@policies.command(name="setup")
def policies_setup(
    *,
    channel: Annotated[list[str], REPEATED] = [],  # noqa: B006 (cyclopts only reads it)
    each: Annotated[bool | None, Parameter(show_default=False)] = None,
    patience: float | None = None,
    session: GivenSession,
) -> None:
    """Make the project's alert policies, and repair what has changed of them.

    Doing it again changes nothing. Channels that they have already stay.

    Args:
        channel: Whom to tell: a channel's id, address or name, or an e-mail address, a URL or
            a Pub/Sub topic, for which a channel is made; may be repeated.
        each: Announce each experiment of every sweep, also of large ones. [as it is]
        patience: Seconds to wait until Cloud Monitoring knows the new metrics. [600]
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.alerts.policies import METRIC_PATIENCE
    from gcloud_ops.cli.output import POLICIES, say

    to = alerts_.recipients(session.clients, channel)
    found = alerts_.set_up(
        session.clients,
        to,
        each=each,
        on_step=say,
        patience=METRIC_PATIENCE if patience is None else patience,
    )
    session.emit(found, POLICIES)
    if not any(one.channels for one in found):
        say("they tell nobody yet: `policies setup --channel you@example.org` adds somebody")


@policies.command(name="list")
def policies_list(*, session: GivenSession) -> None:
    """List our alert policies."""
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import POLICIES

    session.emit(alerts_.list_policies(session.clients), POLICIES)


@policies.command(name="enable")
def policies_enable(name: str, /, *, session: GivenSession) -> None:
    """Switch a policy on.

    Args:
        name: What it announces, such as experiment-failed.
    """
    _switch(session, name, enabled=True)


@policies.command(name="disable")
def policies_disable(name: str, /, *, session: GivenSession) -> None:
    """Switch a policy off; `setup` leaves it so.

    Args:
        name: What it announces, such as experiment-finished.
    """
    _switch(session, name, enabled=False)


@policies.command(name="remove")
def policies_remove(*, yes: Yes = False, session: GivenSession) -> int:
    """Remove our alert policies; channels and metrics stay.

    Args:
        yes: Don't ask.
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli import output

    question = f"Remove our alert policies of project {session.clients.project}?"
    if not output.confirm(question, yes=yes):
        return output.ExitCode.USAGE
    count = alerts_.remove_policies(session.clients, output.say)
    session.emit_outcome({"removed": count})
    output.say(f"{count} policies removed")
    return output.ExitCode.DONE


@alerts.command(name="incidents")
def alerts_incidents(
    *,
    only_open: Annotated[bool, Parameter(name="--open", negative=(), show_default=False)] = False,
    limit: int = 50,
    session: GivenSession,
) -> None:
    """List what our policies have noticed, the newest first.

    Args:
        only_open: Leave out what is closed: half an hour after the last signal.
        limit: How many, at most.
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import INCIDENTS
    from gcloud_ops.errors import InvalidRequest

    if limit < 1:
        raise InvalidRequest("--limit: a number of incidents, 1 or more")
    session.emit(
        alerts_.list_incidents(session.clients, only_open=only_open, limit=limit), INCIDENTS
    )


@alerts.command(name="test")
def alerts_test(
    *, channel: str | None = None, patience: float | None = None, session: GivenSession
) -> None:
    """Send a real signal through: write it, wait for its incident, say where to look.

    Args:
        channel: Make sure that this channel is told: its id, address or name.
        patience: Seconds to wait for the incident. [300]
    """
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.alerts.incidents import TEST_PATIENCE
    from gcloud_ops.cli.output import INCIDENTS, say
    from gcloud_ops.errors import InvalidRequest

    there = {one.name: one for one in alerts_.list_channels(session.clients)}
    if channel is not None:
        wanted = _channel(session, channel)
        told = alerts_.list_policies(session.clients)
        if told and not any(
            wanted.name in one.channels for one in told if one.which == "experiment-finished"
        ):
            raise InvalidRequest(
                f"channel {wanted.id} ({wanted.address}) is in no policy: nothing would arrive",
                hint=f"`{session.command(f'alerts policies setup --channel {wanted.id}')}`",
            )
        if wanted.is_unverified:
            raise InvalidRequest(
                f"channel {wanted.id} ({wanted.address}) is not verified: nothing would arrive",
                hint=f"`{session.command(f'alerts channels verify {wanted.id}')}`",
            )
    written = alerts_.signal(session.clients)
    say(f"signal written: experiment {written.experiment}; waiting for its incident")
    seen = alerts_.await_incident(
        session.clients, written, patience=TEST_PATIENCE if patience is None else patience
    )
    _tell_where(session, written, there)
    session.emit([seen], INCIDENTS)


def prepare_alerts(session: Session, named: Sequence[str]) -> "Recipients | None":
    """Check whom `sweep launch --alert` names, and make nothing; None where nobody is named."""
    if not named:
        return None
    from gcloud_ops import alerts as alerts_

    return alerts_.recipients(session.clients, named)


def ensure_alerts(session: Session, to: "Recipients | None", sweep: "Sweep") -> None:
    """Make the channels and policies that are missing, and say what will be sent."""
    if to is None:
        return
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import say

    found = alerts_.set_up(session.clients, to, on_step=say)
    count = len(sweep.experiments)
    if sweep.announces_each or any(one.each for one in found):
        what = f"the end of each of {count} experiments, and of the sweep"
    else:
        what = f"failures among its {count} experiments, together, and the end of the sweep"
    say(f"{sweep.name}: alerts to {', '.join(to.addresses)}: {what}")
    for one in found:
        if not one.enabled:
            enable = session.command(f"alerts policies enable {one.which}")
            say(f"but the policy {one.which} is disabled: `{enable}`")


def _switch(session: Session, name: str, *, enabled: bool) -> None:
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.alerts.policies import find_policy
    from gcloud_ops.cli.output import POLICIES

    found = find_policy(alerts_.list_policies(session.clients), name)
    session.emit([alerts_.set_enabled(session.clients, found, enabled=enabled)], POLICIES)


def _channel(session: Session, name: str) -> "Channel":
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.alerts.channels import find_channel

    return find_channel(alerts_.list_channels(session.clients), name)


def _tell_where(session: Session, written: "Signal", there: Mapping[str, "Channel"]) -> None:
    """Where a test's message is to be seen; on the local cloud, what became of it."""
    from gcloud_ops import alerts as alerts_
    from gcloud_ops.cli.output import say

    sent = {one.channel: one for one in alerts_.deliveries(session.clients, written)}
    for name in written.policy.channels:
        channel, delivery = there.get(name), sent.get(name)
        where = f"{channel.type} {channel.address}" if channel else name
        if delivery is None:
            say(f"look at {where}: a message about {written.experiment}")
            continue
        reason = f" ({delivery.reason})" if delivery.reason else ""
        say(f"{where}: {delivery.state}{reason}: {delivery.subject}")


def _pairs(labels: Sequence[str]) -> dict[str, str]:
    from gcloud_ops.errors import InvalidRequest

    found: dict[str, str] = {}
    for pair in labels:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidRequest(f"--label: {key!r} is not KEY=VALUE")
        found[key] = value
    return found


def _secret(name: str, *, prompt: str) -> str:
    """A secret's value: from the environment, the terminal, or a line of standard input."""
    from gcloud_ops.errors import InvalidRequest

    variable = f"{SECRET_VARIABLE}{name.upper()}"
    value = os.environ.get(variable, "")
    if not value and sys.stdin.isatty():
        from getpass import getpass

        value = getpass(prompt)
    elif not value:
        value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise InvalidRequest(
            f"{name}: none was given", hint=f"write it to standard input, or set ${variable}"
        )
    return value
