"""What is left over: found, priced, asked about, removed; all else stays."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from textual.widgets import Static

from gcloud_ops import templates
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.text import TextScreen
from sinergym_tui.widgets.live_table import LiveTable

from .conftest import (
    SIZES,
    LocalCloud,
    ask,
    confirm,
    console,
    go_to,
    settings_for,
    text_of,
    until,
    until_read,
    until_shown,
)

LONG_AGO = "2026-01-01T00:00:00.000-00:00"
ADDRESS = "address mlflow-ip europe-west1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Littered:
    """A local cloud with an address and two derived templates that nobody has used for long."""

    settings: Settings
    clients: Clients
    derived: tuple[str, str]

    @property
    def addresses(self) -> list[str]:
        """The names of those that are there."""
        clients = self.clients
        found = clients.addresses.list(project=clients.project, region="europe-west1")
        return [one.name for one in found]

    @property
    def templates(self) -> set[str]:
        """The names of those that are there."""
        return {one.name for one in templates.list_templates(self.clients)}


@pytest.fixture
def littered(tmp_path: Path) -> Iterator[Littered]:
    """Such a cloud: made, and then made old, as its files can be while it is stopped."""
    address = {
        "name": "mlflow-ip",
        "region": "europe-west1",
        "id": "1",
        "created": LONG_AGO,
        "description": "Of the MLflow tracking server. Made by mlflow-infra.",
        "address": "127.200.1.1",
        "labels": {},
    }
    (tmp_path / "network.json").write_text(json.dumps({"addresses": [address], "firewalls": []}))
    cloud = LocalCloud(tmp_path)
    try:
        settings = settings_for(cloud.start(), tmp_path)
        clients = Clients.connect(settings)
        base = "sinergym-template"
        spot = templates.derive(clients, base, spot=True)
        small = templates.derive(clients, base, machine_type="n2-highcpu-2")
        cloud.stop()
        kept = tmp_path / "templates.json"
        made = json.loads(kept.read_text())
        kept.write_text(json.dumps([{**one, "created": LONG_AGO} for one in made]))
        cloud.start()
        yield Littered(settings=settings, clients=clients, derived=(spot, small))
    finally:
        cloud.stop()


@SIZES
@pytest.mark.slow
async def test_what_is_left_over_is_removed_and_nothing_else(
    size: tuple[int, int], littered: Littered
) -> None:
    """One that is chosen, after a refusal; then the rest. Each question names what it is about."""
    first, second = littered.derived
    app = console(littered.settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("6")
        await until_shown(
            pilot, "left over", "3 left over", "$0.24 a day", "mlflow-ip", first[:20]
        )

        await go_to(pilot, ADDRESS)
        await until_read(pilot, "mlflow-ip (europe-west1, $0.24 a day)", "server uses it")
        await pilot.press("space")
        await until_shown(pilot, "● 1 chosen")
        await pilot.press("d")
        asked = ("Remove 1 thing left over, $0.24 a day?", "address mlflow-ip (europe-west1")
        await until_shown(pilot, *asked)
        touches = "\n".join(str(each.content) for each in app.screen.query(Static))
        assert "template" not in touches
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen), "No is the default")
        assert littered.addresses == ["mlflow-ip"]

        # Compute Engine refuses: why is said, and it stays in the list.
        fault = {"method": "compute.addresses.delete", "count": 1, "status": 403}
        said = {"reason": "forbidden", "message": "You shall not."}
        ask(littered.settings, "faults", {**fault, **said})
        await pilot.press("d")
        await confirm(pilot, *asked)
        await until_shown(pilot, "remove 1 left over: failed", "You shall not.")
        assert isinstance(app.screen, TextScreen)
        await pilot.press("escape")
        await until_shown(pilot, "3 left over", "● 1 chosen")

        await pilot.press("d")
        await confirm(pilot, *asked)
        await until_shown(pilot, "2 left over", "remove 1 left over: 1 removed")
        assert "chosen" not in text_of(app)
        assert littered.addresses == []
        assert littered.templates == {"sinergym-template", first, second}

        # None is chosen: all that are there.
        await pilot.press("d")
        await confirm(
            pilot,
            "Remove 2 things left over, $0",
            f"template {first} (global",
            f"template {second} (global",
        )
        await until_shown(pilot, "nothing is left over")
        assert littered.templates == {"sinergym-template"}
        await pilot.press("d")
        assert not isinstance(app.screen, ConfirmScreen)


@SIZES
@pytest.mark.slow
async def test_all_that_is_left_over_can_be_chosen_filtered_and_ordered(
    size: tuple[int, int], littered: Littered
) -> None:
    """By the keys of every table; what is chosen is what a question is about."""
    app = console(littered.settings)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("6")
        await until_shown(pilot, "3 left over")
        await pilot.press("slash", *"kind:template", "enter")
        await until_shown(pilot, "2 of 3")
        await pilot.press("a")
        await until_shown(pilot, "● 2 chosen")
        await pilot.press("escape")
        await until_shown(pilot, "● 2 chosen", "mlflow-ip")
        await pilot.press("d")
        await until_shown(pilot, "Remove 2 things left over")
        touches = "\n".join(str(each.content) for each in app.screen.query(Static))
        assert "mlflow-ip" not in touches
        await pilot.press("escape")
        for _ in range(4):  # kind, name, where, a day
            await pilot.press("greater_than_sign")
        await pilot.press("I")
        table = app.screen.query_one("#table", LiveTable)
        await until(pilot, lambda: table.keys[0] == ADDRESS, "the dearest first")
        await pilot.press("escape", "escape")
        await until_shown(pilot, "no sweeps yet")
    assert len(littered.templates) == 3
