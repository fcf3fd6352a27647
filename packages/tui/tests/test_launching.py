"""The form of a new sweep: what is typed, what it would cost, and nothing before a yes."""

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from gcloud_ops import alerts, groups, sweeps
from gcloud_ops.clients import Clients
from gcloud_ops.settings import Settings
from sinergym_tui import alerting
from sinergym_tui.fleet import Fleet
from sinergym_tui.screens.launch import LaunchScreen

from .conftest import SIZES, console, pick, text_of, until, until_shown


async def scroll_to(pilot: Pilot[Any], text: str) -> None:
    """Scroll the plan by keys until it shows this."""
    pilot.app.screen.query_one("#plan").focus()
    for _ in range(40):
        if text in text_of(pilot.app):  # type: ignore[arg-type]
            return
        await pilot.press("down")
        await pilot.pause(0.1)
    await until_shown(pilot, text)


@SIZES
@pytest.mark.slow
async def test_a_form_becomes_a_sweep(
    size: tuple[int, int], settings: Settings, clients: Clients, tmp_path: Path
) -> None:
    """Typed with completion, previewed, asked about, launched; its ends are told."""
    name = f"typed-{size[0]}"
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l")
        await until_shown(pilot, "a sweep needs a name")
        await pilot.press(*name, "enter", *"hot-c")
        await until_shown(pilot, "Eplus-5zone-hot-continuous-v1")
        await pilot.press("enter", "enter", *"PPO,a2", "tab", "tab", *"2")
        await until_shown(pilot, "PPO, A2C", "4 × n2-highcpu-8", "4 VMs", "$1.30 an hour")
        assert "on demand        Spot" in text_of(app)
        await scroll_to(pilot, "there is enough for all at once")
        await scroll_to(pilot, "N2_CPUS; it needs 32")

        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        screen.query_one("#of-hours").focus()
        await pilot.press(*"2", "enter", *"3")
        screen.query_one("#of-alert").focus()
        await pilot.press(*"me@example.org")
        await until_shown(pilot, "$2.60 expected", "$3.92 at most")
        assert sweeps.list_sweeps(clients) == ()
        assert alerts.list_channels(clients) == []

        await pilot.press("ctrl+l")
        await until_shown(
            pilot, f"Launch sweep {name}?", "it costs $1.30 an hour", "told to me@example.org"
        )
        await pilot.press("tab", "enter")
        await until_shown(pilot, "launched: 4 are on the way", name, seconds=30)
    commands = [one.command for one in sweeps.status(name, clients).manifest.experiments]
    assert commands[-1] == (
        "sinergym-train --environment Eplus-5zone-hot-continuous-v1 --algorithm A2C --seed 2"
    )
    told = alerts.list_channels(clients)
    assert [one.address for one in told] == ["me@example.org"]
    sweeps.cancel(name, clients, on_step=lambda _: None)
    alerting.remove_policies(Fleet(clients), lambda _: None)
    alerting.remove(Fleet(clients), told[0])


@pytest.mark.slow
async def test_a_problem_is_said_beside_its_field(settings: Settings, clients: Clients) -> None:
    """What the form finds itself at once, what the cloud says after a moment; no launch."""
    app = console(settings)
    async with app.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l")
        await until_shown(pilot, "a sweep needs a name")
        await pilot.press(*"Bad_")
        await until_shown(pilot, "can't name a sweep")
        for field, typed, said in (
            ("name", "good", "1 VM"),
            ("template", "none-such", "✗ template none-such"),
            ("max_hours", "soon", "'soon' is no number above 0"),
            ("max_hours", "", "none-such"),
            ("template", "", "1 VM"),
            ("max_cost", "0.001", "gone before its command runs"),
            ("max_cost", "", "1 VM"),
            ("machines", "n2-highcpu-9", "no price for"),
            ("machines", "", "1 VM"),
            ("dispatch", "mail", "'mail': ssh or boot"),
            ("dispatch", "ssh", "1 VM"),
            ("alert", "nobody@", "is not an e-mail address"),
        ):
            app.screen.query_one(f"#of-{field}").focus()
            await pilot.press("ctrl+u", *typed)
            await until_shown(pilot, said)
        await pilot.press("ctrl+l")
        assert isinstance(app.screen, LaunchScreen)
    assert sweeps.list_sweeps(clients) == ()


@pytest.mark.slow
async def test_form_and_text_are_two_views_of_one_sweep(
    settings: Settings, tmp_path: Path
) -> None:
    """There and back; saved and not over another; a file with more stays text."""
    (tmp_path / "more.yaml").write_text("name: more\nexperiments: [echo 1, echo 2]\n")
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l", *"two", "tab", "tab", *"PPO")
        await until_shown(pilot, "1 × n2-highcpu-8")
        await pilot.press("ctrl+t")
        await until_shown(pilot, "name: two", "algorithm: [PPO]", "1 × n2-highcpu-8")
        await pilot.press("ctrl+s")
        await until_shown(pilot, "Save the sweep", "two.yaml")
        await pilot.press("enter", "enter")
        await until(pilot, (tmp_path / "two.yaml").exists, "the file")
        await pilot.press("ctrl+t")
        await until_shown(pilot, "Algorithms")
        await pick(pilot, "more.yaml")
        await until_shown(pilot, "experiments: [echo 1, echo 2]", "2 × n2-highcpu-8")
        await pilot.press("ctrl+t")
        assert isinstance(app.screen, LaunchScreen)
        assert app.screen.is_text
        await pilot.press(*"no")
        await until_shown(pilot, "✗ can't be launched", "line 1: unknown key 'noname'")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name: x\nbase: '\x1b]0;t\x07[red]'\n"])
@pytest.mark.slow
async def test_a_strange_file_does_no_harm(
    content: bytes, settings: Settings, clients: Clients, tmp_path: Path
) -> None:
    """What can't be read is said; what is no text of a terminal is cleaned."""
    (tmp_path / "odd.yaml").write_bytes(content)
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l")
        await pick(pilot, "odd.yaml")
        await until_shown(pilot, "can't be read" if content[0] == 0xFF else "[red]")
        assert text_of(app).replace("\n", "").isprintable()
    assert groups.get_group(clients, "x") is None


@SIZES
@pytest.mark.slow
async def test_a_file_is_found(size: tuple[int, int], settings: Settings, tmp_path: Path) -> None:
    """By moving, by a part of its name, by a path; what is there is listed once, as it is."""
    examples, other = tmp_path / "examples", tmp_path / "other"
    examples.mkdir()
    other.mkdir()
    for name in ("one", "two"):
        (examples / f"{name}.yaml").write_text(f"# What {name} does.\nname: {name}\nbase: a\n")
    (examples / "notes.txt").write_text("not a sweep")
    (other / "odd\x1b]0;t\x07[red].yml").write_text("name: odd\nbase: b\n")
    app = console(settings, folder=tmp_path)
    async with app.run_test(size=size) as pilot:
        await until_shown(pilot, "no sweeps yet")
        await pilot.press("l")
        await until_shown(pilot, "Launch a sweep")
        await pilot.press("ctrl+o")
        await until_shown(pilot, "one.yaml", "What one does.", "two.yaml", "../")
        shown = text_of(app)
        assert [shown.count(name) for name in ("one.yaml", "two.yaml", "notes.txt")] == [1, 1, 0]
        await pilot.press("down", "enter")
        await until_shown(pilot, "launch › two.yaml")

        await pilot.press("ctrl+o")
        await until_shown(pilot, "What one does.")
        await pilot.press(*"nothing", "enter")
        await until_shown(pilot, "no sweep file of that name here")
        await pilot.press("ctrl+u", *"nowhere/")
        await until_shown(pilot, "No such file or directory")
        await pilot.press("ctrl+u")
        await until_shown(pilot, "examples/", "other/")
        await pilot.press(*"oth", "enter")
        await until_shown(pilot, "odd[red].yml")
        await pilot.press("enter")
        await until_shown(pilot, "launch › odd[red].yml")
        assert text_of(app).replace("\n", "").isprintable()

        await pilot.press("ctrl+o")
        await until_shown(pilot, "Open a sweep file")
        await pilot.press("escape")
        await until_shown(pilot, "launch › odd[red].yml")
