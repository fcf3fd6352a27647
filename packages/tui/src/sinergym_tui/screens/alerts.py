"""Whom Cloud Monitoring tells, and of what: channels and policies."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from gcloud_ops.text import one_line
from sinergym_tui import alerting
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.asked import AskedScreen
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.form import Field, FormScreen
from sinergym_tui.views.alerts import (
    ALERT_COLUMNS,
    AlertRow,
    alert_cells,
    alert_rows,
    alert_texts,
)
from sinergym_tui.views.cells import Cell, plural
from sinergym_tui.workers import FleetWork, Tell

if TYPE_CHECKING:
    from gcloud_ops.alerts import Channel, ChannelType

__all__ = ["AlertsScreen"]


class AlertsScreen(AskedScreen[AlertRow]):
    """Our policies and the project's channels."""

    SCOPE = PLACE = "alerts"
    COLUMNS = ALERT_COLUMNS
    BINDINGS = bindings_of("alerts")
    FILTERED_BY = "words, kind:channel, state:off"
    WHAT = "look at channels and policies"
    NOTHING = "nobody is told of anything yet: s sets policies up, a adds a channel"

    def ask(self, fleet: Fleet, found: list[AlertRow], tell: Tell) -> Sequence[AlertRow]:  # noqa: ARG002
        """Ask Monitoring."""
        return alert_rows(alerting.look(fleet))

    def key(self, row: AlertRow) -> str:
        """Its name."""
        return row.key

    def cells(self, row: AlertRow, now: datetime) -> tuple[Cell, ...]:  # noqa: ARG002
        """As the columns have them."""
        return alert_cells(row)

    def texts(self, row: AlertRow) -> Mapping[str, str]:
        """What can be found."""
        return alert_texts(row)

    def value(self, row: AlertRow, column: str) -> object:
        """What it is ordered by."""
        return alert_texts(row).get(column)

    def summary(self, now: datetime) -> list[Cell]:
        """How many there are, and who is told."""
        rows = self.rows()
        policies = [row for row in rows if row.policy]
        on = sum(row.policy.enabled for row in policies if row.policy)
        channels = len(rows) - len(policies)
        cells = super().summary(now)
        if self._trouble:
            return cells
        words = plural(len(policies), "policy").replace("policys", "policies")
        cells.append(Cell(f"{words}, {on} on", "strong" if on else "waiting"))
        cells.append(Cell(plural(channels, "channel"), "strong" if channels else "waiting"))
        if any(row.channel and row.channel.is_unverified for row in rows):
            cells.append(Cell("! v verifies the channel that is not verified", "waiting"))
        return cells

    def detail(self, row: AlertRow | None) -> list[Cell]:
        """Whom it tells, or what it is told of."""
        if row is None:
            return []
        return [Cell(one_line(row.what), "strong"), Cell(one_line(row.words, limit=600))]

    def can(self, action: str) -> bool | None:
        """What goes with the row that has the cursor."""
        if action in {"add_channel", "set_up_policies", "send_test"}:
            return None if self._trouble else True
        row = self.current if self.is_mounted else None
        if action == "verify":
            return True if row and row.channel and row.channel.is_unverified else None
        if action == "switch":
            return True if row and row.policy else None
        return super().can(action)

    # ---------------------------------------------------------------- channels

    def action_add_channel(self) -> None:
        """Ask for the kind, then for what a channel of this kind takes."""

        def work(fleet: Fleet, tell: Tell) -> "tuple[ChannelType, ...]":
            tell("asking which kinds of channels there are")
            return alerting.types(fleet)

        job = Job(title="list kinds of channels", group="kinds")
        self.start_look(job, work, then=self._ask_kind)

    def _ask_kind(self, types: "tuple[ChannelType, ...]") -> None:
        if not self.is_current:
            return
        choices = [(f"{one.name} ({one.type})", one.type) for one in types]
        known = {one.type: one for one in types}

        def go_on(filled: dict[str, str] | None) -> None:
            if filled is not None and (kind := known.get(filled["type"])):
                self._ask_labels(kind)

        fields = [Field(key="type", label="Kind", choices=choices)]
        self.console.push_screen(FormScreen("Add a channel", fields, yes="Next"), go_on)

    def _ask_labels(self, kind: "ChannelType") -> None:
        secret = alerting.secret_labels(kind.type, [*kind.labels])
        fields = [
            Field(
                key=label,
                label=label.replace("_", " "),
                placeholder="typed unseen" if label in secret else one_line(kind.labels[label]),
                is_secret=label in secret,
            )
            for label in alerting.labels_of(kind)
        ]

        def check(filled: Mapping[str, str]) -> str:
            fleet = self.console.fleet
            return alerting.objection(fleet, kind.type, filled) if fleet is not None else ""

        def add(filled: dict[str, str] | None) -> None:
            if filled is not None:
                self.start_change(
                    f"add a channel: {kind.type}",
                    lambda fleet, _tell: alerting.add(fleet, kind.type, filled),
                )

        title = one_line(f"Add a channel: {kind.name}")
        note = one_line(kind.description)
        self.console.push_screen(FormScreen(title, fields, yes="Add", note=note, check=check), add)

    def action_verify(self) -> None:
        """Have a code sent, or give the one that has arrived."""
        row = self.current
        if row is None or row.channel is None:
            return
        channel = row.channel

        def go_on(filled: dict[str, str] | None) -> None:
            if filled is None:
                return
            if code := filled["code"]:
                work = lambda fleet, _tell: alerting.verify(fleet, channel, code)  # noqa: E731
            else:
                work = lambda fleet, _tell: alerting.send_code(fleet, channel)  # noqa: E731
            self.start_change(f"verify {channel.address}", work)

        fields = [Field(key="code", label="Code", placeholder="empty: have one sent")]
        title = one_line(f"Verify {channel.type} {channel.address}")
        self.console.push_screen(FormScreen(title, fields, yes="Go on"), go_on)

    def action_remove_row(self) -> None:
        """Ask, then remove the channel, or our policies."""
        row = self.current
        if row is None:
            return
        if row.channel is not None:
            self._ask_to_remove(row.channel, row.words)
            return
        policies = [one for one in self.rows() if one.policy]
        self._confirm(
            f"Remove our {len(policies)} alert policies?",
            [*(one.what for one in policies), "channels and metrics stay; s makes them again"],
            "Remove them",
            "remove alert policies",
            alerting.remove_policies,
        )

    def _ask_to_remove(self, channel: "Channel", words: str) -> None:
        self._confirm(
            f"Remove channel {channel.address or channel.id}?",
            [f"{channel.type} {channel.display_name}", f"{words}: it is taken out of those"],
            "Remove it",
            f"remove channel {channel.address}",
            lambda fleet, _tell: alerting.remove(fleet, channel),
        )

    # ---------------------------------------------------------------- policies

    def action_set_up_policies(self) -> None:
        """Ask whom to tell, then make or mend."""
        fields = [
            Field(
                key="to",
                label="Tell",
                placeholder="you@example.org, https://..., a channel; several with commas",
            ),
            Field(
                key="each",
                label="Each end",
                choices=[("as it is", ""), ("yes", "yes"), ("no", "no")],
                value="",
            ),
        ]
        note = "Failures and ends of sweeps are told; each end too, where you want it."

        def go_on(filled: dict[str, str] | None) -> None:
            if filled is None:
                return
            named = [name.strip() for name in filled["to"].split(",") if name.strip()]
            each = {"yes": True, "no": False}.get(filled["each"])
            work = partial(_set_up, named=named, each=each)
            self.start_change("set up alert policies", work)

        self.console.push_screen(
            FormScreen("Set up the alert policies", fields, yes="Set up", note=note), go_on
        )

    def action_switch(self) -> None:
        """Switch the policy; it is as easily switched back."""
        row = self.current
        if row is not None and (policy := row.policy) is not None:
            self.start_change(
                f"switch {policy.which}", lambda fleet, _tell: alerting.switch(fleet, policy)
            )

    def action_send_test(self) -> None:
        """Ask, then send a real signal: people get a message."""
        self._confirm(
            "Send a test through Cloud Monitoring?",
            ["everybody whom the policies tell gets a message about an experiment named test"],
            "Send it",
            "send a test",
            alerting.send_test,
        )

    def _confirm(
        self,
        question: str,
        touches: Sequence[str],
        yes: str,
        title: str,
        work: FleetWork[str],
    ) -> None:
        def begin(sure: bool | None) -> None:
            if sure:
                self.start_change(title, work)

        lines = [one_line(line) for line in touches]
        self.console.push_screen(ConfirmScreen(one_line(question), lines, yes=yes), begin)


def _set_up(fleet: Fleet, tell: Tell, *, named: Sequence[str], each: bool | None) -> str:
    return alerting.set_up(fleet, named, each=each, tell=tell)
