"""Read-only: no key, no palette entry, and the core refuses too; of each action that changes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcloud_ops import alerts, groups, launching
from gcloud_ops.alerts import Channel, Policy
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import Sweep
from gcloud_ops.settings import Settings
from mlflow_infra import operations
from mlflow_infra.operations import Given
from mlflow_infra.wanted import Infrastructure
from sinergym_tui import alerting, changes, rehearsing, tracking
from sinergym_tui.actions import ACTIONS, actions_of
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet
from sinergym_tui.keys import key_text
from sinergym_tui.screens.frame import ConsoleScreen

from .conftest import SIZES, console, launch, text_of, until_shown

NAME = "unharmed"
FIRST = f"{NAME}-0001"
CHANNEL = Channel(
    name="projects/p/notificationChannels/1",
    type="email",
    display_name="ana",
    labels={"email_address": "ana@example.org"},
    enabled=True,
    verification="",
)
POLICY = Policy(
    which="sweep-finished",
    name="projects/p/alertPolicies/1",
    display_name="ended",
    enabled=True,
    channels=(),
    each=False,
)
INFRA = Infrastructure(project="p", zone="europe-west1-b", bucket="b", image="i:1")


def silent(_step: str) -> None:
    """Nobody is told."""


def launched(fleet: Fleet) -> None:
    """A plan that was made when it could be."""
    plan = launching.plan(Sweep.of_commands("more", ["true"]), fleet.clients)
    changes.launch(fleet, plan, silent)


type Call = Callable[[Fleet], object]

CORE: dict[str, tuple[Call, ...]] = {
    "sweeps.launch": (lambda fleet: changes.planned(fleet, Path("any.yaml")), launched),
    "launch.launch_it": (launched,),
    "sweeps.cancel_sweep": (lambda fleet: changes.cancel(fleet, NAME, (), silent),),
    "sweeps.resume": (lambda fleet: changes.resume(fleet, NAME, silent),),
    "sweeps.delete_sweep": (lambda fleet: changes.delete(fleet, NAME, silent),),
    "cancel": (lambda fleet: changes.cancel(fleet, NAME, (FIRST,), silent),),
    "rerun": (lambda fleet: changes.rerun(fleet, NAME, (FIRST,), silent),),
    "restart": (lambda fleet: changes.restart_containers(fleet, NAME, (FIRST,), silent),),
    "alerts.add_channel": (
        lambda fleet: alerting.add(fleet, "email", {"email_address": "a@example.org"}),
    ),
    "alerts.verify": (
        lambda fleet: alerting.send_code(fleet, CHANNEL),
        lambda fleet: alerting.verify(fleet, CHANNEL, "G-1"),
    ),
    "alerts.set_up_policies": (lambda fleet: alerting.set_up(fleet, (), each=None, tell=silent),),
    "alerts.switch": (lambda fleet: alerting.switch(fleet, POLICY),),
    "alerts.send_test": (lambda fleet: alerting.send_test(fleet, silent),),
    "alerts.remove_row": (
        lambda fleet: alerting.remove(fleet, CHANNEL),
        lambda fleet: alerting.remove_policies(fleet, silent),
    ),
    "tracking.bring_up": (
        lambda fleet: tracking.proposed(fleet, Given()),
        lambda fleet: tracking.bring_up(fleet, INFRA, silent),
    ),
    "tracking.check": (lambda fleet: [*tracking.check(fleet, INFRA)],),
    "tracking.server_log": (lambda fleet: tracking.log(fleet, INFRA, silent),),
    "tracking.restart_server": (lambda fleet: tracking.restart(fleet, INFRA, silent),),
    "tracking.take_down": (lambda fleet: tracking.take_down(fleet, INFRA, silent),),
    "tracking.delete_everything": (
        lambda fleet: tracking.take_down(fleet, INFRA, silent, delete_data=True),
    ),
    "leftovers.reap": (lambda fleet: changes.reap(fleet, (), silent),),
    "rehearse": (
        lambda fleet: rehearsing.befall(fleet, rehearsing.MISHAPS[0], FIRST),
        lambda fleet: rehearsing.rehearse(fleet, rehearsing.MISHAPS[0], (FIRST,), silent),
    ),
}
"""What of the core each action that changes something does, by the action's id."""


@pytest.fixture
def kept(clients: Clients) -> Iterator[str]:
    """A sweep that nothing happens to."""
    launch(clients, NAME)
    yield NAME
    groups.delete_group(clients, NAME)


def test_each_action_that_changes_something_is_refused_by_the_core(clients: Clients) -> None:
    """A new action is missing here until somebody has said what it does."""
    assert CORE.keys() == {action.id for action in ACTIONS if action.changes}
    fleet = Fleet(clients, read_only=True)
    for calls in CORE.values():
        for call in calls:
            with pytest.raises(InvalidRequest, match="the console is read-only"):
                call(fleet)


@SIZES
@pytest.mark.slow
async def test_no_key_changes_anything(
    size: tuple[int, int], settings: Settings, clients: Clients, kept: str
) -> None:
    """On each screen the keys of all changes are pressed; footer, help and palette hide them."""
    places = {
        "sweeps": ("1", "1 sweep "),
        "sweep": ("enter", FIRST),
        "experiment": ("enter", f"{NAME} › {FIRST}"),
        "logs": ("o", " log"),
        "incidents": ("2", "incidents and messages"),
        "alerts": ("3", "nobody is told"),
        "tracking": ("4", "a month"),
        "doctor": ("5", "well"),
        "leftovers": ("6", "left over"),
        "compare": ("C", "compare"),
    }
    unreachable = {"launch"}  # its key is refused on the sweeps' screen
    assert places.keys() | unreachable == {scope for each in ACTIONS for scope in each.scopes}
    before = groups.list_members(clients, kept)
    app = console(settings, read_only=True)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, f"▸ {kept}", "read-only")
        for scope, (key, shown) in places.items():
            if scope == "compare":
                await pilot.press("1")
                await until_shown(pilot, "1 sweep ")
            await pilot.press(key)
            await until_shown(pilot, shown, seconds=30)
            screen = in_view(app)
            assert scope == screen.SCOPE
            for action in actions_of(scope):
                if not action.changes:
                    continue
                assert app.possible(action, screen) is False, action.id
                await pilot.press(*action.key.split(","))
                await app.do(action.name)
                # Another action of this screen may have the same key, and moves nobody.
                assert app.screen is screen, action.id
            hints = text_of(app).splitlines()[-1]
            assert not [name for name in _offered(app, scope) if name in hints], hints
            commands = [one.help for one in app.get_system_commands(app.screen)]
            refused = {one.help for one in actions_of(scope) if one.changes}
            assert refused.isdisjoint(commands)
        assert app.jobs == []
    assert groups.list_members(clients, kept) == before
    assert alerts.list_policies(clients) == []
    assert operations.found(clients) is None


def in_view(app: Console) -> ConsoleScreen:
    """The place that is shown."""
    assert isinstance(app.screen, ConsoleScreen)
    return app.screen


def _offered(app: Console, scope: str) -> list[str]:
    """Keys and labels of the changes, as a footer would have them."""
    return [f"{key_text(one.key)} {one.label}" for one in actions_of(scope) if one.changes]
