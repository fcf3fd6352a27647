"""Launch a sweep from a file: first the plan, then the question, then nothing more."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Button, Input, Label, Static

from gcloud_ops.text import one_line
from sinergym_tui import changes
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.workers import Tell

if TYPE_CHECKING:
    from gcloud_ops.launching import LaunchPlan
    from sinergym_tui.app import Console

__all__ = ["LaunchScreen"]

_SHOWN = 40  # commands of the plan that are listed


class LaunchScreen(ModalScreen["LaunchPlan | None"]):
    """Asks for a file, shows what launching it would create; gives the plan that was confirmed."""

    DEFAULT_CSS = """
    LaunchScreen {
        align: center middle;
        & > Vertical {
            width: 100; max-width: 100%; height: auto; max-height: 100%;
            border: round $primary; padding: 0 1; background: $surface;
        }
        & VerticalScroll { height: auto; max-height: 9; }
        & Static { width: 100%; }
        & #trouble { color: $text-error; }
        & .title { text-style: bold; }
        & Horizontal { height: 3; align-horizontal: right; }
        & Button { margin-left: 1; }
        & Input { height: 3; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss_without", "Cancel", show=False),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._plan: LaunchPlan | None = None
        self._asked: Job | None = None

    def compose(self) -> ComposeResult:
        """The file's path, another name, the plan or what is wrong, and the buttons."""
        with Vertical():
            yield Label("Launch a sweep from a file", classes="title")
            yield Input(
                placeholder="path of a sweep file, such as examples/quick.yaml",
                suggester=SweepFileSuggester(self._folder),
                id="file",
            )
            yield Input(placeholder="another name for the sweep (the file's, if empty)", id="name")
            yield Static("Enter shows what would be created.", id="trouble", markup=False)
            with VerticalScroll(can_focus=False, id="plan"):
                yield Static("", id="plan-text", markup=False)
            with Horizontal():
                yield Button("Cancel", id="no")
                yield Button("Launch", id="yes", variant="success", disabled=True)

    def on_mount(self) -> None:
        """Begin with the path."""
        self.query_one("#file", Input).focus()

    def _show_plan(self, plan: "LaunchPlan") -> None:
        """The file can be launched: say what that would create."""
        if not self.is_attached or self._asked is None:
            return
        self._plan = plan
        self.query_one("#trouble", Static).update("")
        self.query_one("#plan-text", Static).update("\n".join(plan_lines(plan)))
        self.query_one("#yes", Button).disabled = False
        self.query_one("#no", Button).focus()

    def _show_trouble(self, reason: str) -> None:
        """The file can't be launched."""
        if self.is_attached and self._asked is not None:
            self._complain(reason)

    def _complain(self, reason: str) -> None:
        self._forget_plan()
        self.query_one("#trouble", Static).update(f"✗ {reason}")

    @on(Input.Submitted)
    def _ask_for_plan(self) -> None:
        file = self.query_one("#file", Input).value.strip()
        if not file:
            self._complain("give the path of a sweep file")
            return
        self._forget_plan()
        self.query_one("#trouble", Static).update("looking …")
        name = self.query_one("#name", Input).value.strip() or None
        path = self._folder / Path(file).expanduser()

        def work(fleet: Fleet, tell: Tell) -> "LaunchPlan":
            tell("checking")
            return changes.planned(fleet, path, name=name)

        self._asked = Job(title=f"plan {file}", group="plan")
        console = cast("Console", self.app)
        console.start(self._asked, work, then=self._show_plan, otherwise=self._show_trouble)

    @on(Input.Changed)
    def _forget_plan(self) -> None:
        """What is confirmed is what is shown: another path or name needs another plan."""
        if self._asked is not None:
            self._asked.stop.set()
        self._plan = self._asked = None
        self.query_one("#plan-text", Static).update("")
        self.query_one("#yes", Button).disabled = True

    @on(Button.Pressed)
    def _answer(self, event: Button.Pressed) -> None:
        self.dismiss(self._plan if event.button.id == "yes" else None)

    def action_dismiss_without(self) -> None:
        """Launch nothing."""
        self.dismiss(None)


def plan_lines(plan: "LaunchPlan") -> list[str]:
    """What a launch will create, for a person."""
    experiments = plan.sweep.experiments
    template = plan.template
    bucket = plan.bucket if plan.bucket_exists else f"{plan.bucket} (will be made)"
    labelled = (
        ("Sweep", f"{plan.sweep.name}: {len(experiments)} experiments"),
        (
            "VMs",
            f"{plan.instances} × {template.machine_type or '?'}, in {plan.zone}, "
            f"project {plan.project}",
        ),
        ("Template", f"{template.name}: {template.image or 'no container of ours'}"),
        ("Bucket", bucket),
        *((each.id, each.command) for each in experiments[:_SHOWN]),
        *((("…", f"and {len(experiments) - _SHOWN} more"),) if len(experiments) > _SHOWN else ()),
    )
    return [f"{label:<10} {one_line(text)}" for label, text in labelled]


class SweepFileSuggester(Suggester):
    """Completes the path of a YAML file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._folder = folder

    async def get_suggestion(self, value: str) -> str | None:
        """The first folder or sweep file that begins like this."""
        return await asyncio.to_thread(self._first_match, value)

    def _first_match(self, value: str) -> str | None:
        head, slash, tail = value.rpartition("/")
        try:
            folder = self._folder / Path(f"{head}{slash}" or ".").expanduser()
            found = sorted(
                entry.name + ("/" if entry.is_dir() else "")
                for entry in folder.iterdir()
                if entry.name.startswith(tail)
                and (tail or not entry.name.startswith("."))
                and (entry.suffix in {".yaml", ".yml"} or entry.is_dir())
            )
        except (OSError, ValueError, RuntimeError):
            return None
        return f"{head}{slash}{found[0]}" if found else None
