"""Channels and policies, as rows of one table."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gcloud_ops.text import one_line
from sinergym_tui.views.cells import Cell, Column, Tone, plural

if TYPE_CHECKING:
    from gcloud_ops.alerts import Channel, Policy
    from sinergym_tui.alerting import Alerts

__all__ = ["ALERT_COLUMNS", "AlertRow", "alert_cells", "alert_rows", "alert_texts"]

ALERT_COLUMNS: Final = (
    Column(key="kind", title="Kind", width=7, rank=0),
    Column(key="state", title="State", width=12, rank=1),
    Column(key="type", title="Type", width=18, rank=4, most=22),
    Column(key="what", title="What", width=30, rank=2, grows=True),
    Column(key="told", title="Tells", width=10, rank=3, most=16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """A channel, or a policy."""

    key: str
    kind: str
    state: tuple[str, Tone]
    type: str
    what: str
    told: str
    words: str
    """More of it."""
    channel: "Channel | None" = None
    policy: "Policy | None" = None


def alert_rows(found: "Alerts") -> list[AlertRow]:
    """The policies, then the channels."""
    addresses = {one.name: one.address or one.display_name for one in found.channels}
    users: dict[str, list[str]] = {}
    for policy in found.policies:
        for name in policy.channels:
            users.setdefault(name, []).append(policy.which)
    rows = [
        AlertRow(
            key=policy.name,
            kind="policy",
            state=("✓ on", "good") if policy.enabled else ("· off", "muted"),
            type=policy.which,
            what=policy.display_name,
            told=plural(len(policy.channels), "channel") if policy.channels else "nobody",
            words="tells "
            + (", ".join(addresses.get(name, name) for name in policy.channels) or "nobody yet"),
            policy=policy,
        )
        for policy in found.policies
    ]
    return rows + [
        AlertRow(
            key=channel.name,
            kind="channel",
            state=_channel_state(channel),
            type=channel.type,
            what=channel.address or channel.display_name,
            told=plural(len(users.get(channel.name, ())), "policy").replace("policys", "policies"),
            words="told of "
            + (", ".join(users.get(channel.name, ())) or "nothing: s adds it to the policies"),
            channel=channel,
        )
        for channel in found.channels
    ]


def alert_cells(row: AlertRow) -> tuple[Cell, ...]:
    """The row's cells, in the order of `ALERT_COLUMNS`."""
    return (
        Cell(row.kind, "busy" if row.kind == "policy" else ""),
        Cell(*row.state),
        Cell(one_line(row.type), "muted"),
        Cell(one_line(row.what), "strong"),
        Cell(row.told, "waiting" if row.told == "nobody" else "muted"),
    )


def alert_texts(row: AlertRow) -> dict[str, str]:
    """What a query can find, by column."""
    return {
        "": row.what,
        "kind": row.kind,
        "state": row.state[0],
        "type": row.type,
        "what": row.what,
        "told": row.words,
    }


def _channel_state(channel: "Channel") -> tuple[str, Tone]:
    if not channel.enabled:
        return "· off", "muted"
    return ("! unverified", "waiting") if channel.is_unverified else ("✓ on", "good")
