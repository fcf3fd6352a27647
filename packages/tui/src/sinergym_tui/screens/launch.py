"""A form, or a file's text, that becomes a sweep; beside it what that will make, and cost."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Checkbox, Input, Label, Static, TextArea

from gcloud_ops.text import clean, one_line
from sinergym_tui import changes, drafts
from sinergym_tui.drafts import Draft, Preview
from sinergym_tui.fleet import Fleet
from sinergym_tui.jobs import Job
from sinergym_tui.keys import bindings_of
from sinergym_tui.screens.confirm import ConfirmScreen
from sinergym_tui.screens.form import Field, FormScreen
from sinergym_tui.screens.frame import ConsoleScreen, styled, update_line
from sinergym_tui.screens.sections import sections_content
from sinergym_tui.views.cells import Cell, plural
from sinergym_tui.views.launch import cost_sentence, launch_touches, preview_sections
from sinergym_tui.widgets.completing import NameComplete
from sinergym_tui.widgets.tick import Tick
from sinergym_tui.workers import Tell

__all__ = ["LaunchScreen"]

_PAUSE: Final = 0.5  # seconds without a key until the cloud is asked
_MOST: Final = 1_000_000  # bytes of a sweep file

_FIELDS: Final = (
    # Field, label, placeholder.
    ("name", "Name", "lower-case letters, digits, hyphens"),
    ("environments", "Environments", "several with commas"),
    ("algorithms", "Algorithms", "several with commas, such as PPO, A2C"),
    ("seeds", "Seeds", "3 for 1, 2, 3; or 1, 5, 9"),
    ("flags", "Other flags", "--episodes 10 --normalize_action"),
    ("grid", "Grid", "learning_rate=0.001,0.0003; gamma=0.9,0.99"),
    ("command", "Command", "sinergym-train"),
    ("template", "Template", "that of the settings"),
    ("zones", "Zones", "that of the settings; several of one region"),
    ("machines", "Machine types", "the template's; the preferred one first"),
    ("hours", "Hours it takes", "of one experiment: what is expected"),
    ("max_hours", "Hours at most", "of one experiment: then its VM is ended"),
    ("max_cost", "Dollars at most", "of the whole sweep"),
    ("retry", "Tries again", "how often, after an error"),
    ("dispatch", "Commands go", "boot: at a VM's start; ssh: from here"),
    ("alert", "Tell its ends to", "you@example.org, a webhook, a channel"),
)


class LaunchScreen(ConsoleScreen):
    """Nothing is created before a question that says what it costs.

    Args:
        folder: Where sweep files are picked and saved.
    """

    SCOPE = "launch"
    BINDINGS = bindings_of("launch")

    DEFAULT_CSS = """
    LaunchScreen {
        & #parts { height: 1fr; layout: vertical; }
        & #form, & #text { width: 1fr; height: 1fr; }
        & #form { padding: 0 1; scrollbar-size-vertical: 1; }
        & #text { border: none; padding: 0 1; display: none; scrollbar-size-vertical: 1; }
        & #text:focus { border: none; }
        &.-as-text #text { display: block; }
        &.-as-text #form { display: none; }
        & #plan { width: 1fr; height: 9; padding: 0 1; background: $boost;
            scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
        & #plan-text { width: 100%; height: auto; }
        & .row { height: 1; }
        & .row Label { width: 17; color: $foreground 70%; }
        & .row Input { width: 1fr; height: 1; border: none; padding: 0 1; background: $boost; }
        & .row Input:focus { border: none; background: $primary 25%; }
        & .row Checkbox { border: none; padding: 0; height: 1; background: transparent; }
        & .wrong { display: none; height: auto; width: 100%; padding-left: 17;
            color: $text-error; }
        & .wrong.-shown { display: block; }
        &.-wide #parts { layout: horizontal; }
        &.-wide #form { height: 1fr; padding: 1 1 0 1; }
        &.-wide #plan { height: 1fr; padding: 1 1 0 1; }
        &.-wide.-tall .row { margin-bottom: 1; }
        &.-wide.-tall .wrong { margin-top: -1; padding-bottom: 1; }
    }
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._seen: Preview | None = None
        self._asked: Job | None = None
        self._pause: Timer | None = None
        self._wrong: Mapping[str, str] = {}
        self._templates: tuple[str, ...] = ()
        self._path = ""
        self._unread = ""

    def body(self) -> ComposeResult:
        """A line, the form or the text, and beside it the plan."""
        yield Static("", id="summary", classes="line", markup=False)
        with Horizontal(id="parts"):
            with VerticalScroll(id="form", can_focus=False):
                for key, label, placeholder in _FIELDS:
                    with Horizontal(classes="row"):
                        yield Label(label)
                        value = getattr(Draft(), key, "")
                        yield Input(value, placeholder=placeholder, id=f"of-{key}")
                    yield Static("", id=f"wrong-{key}", classes="wrong", markup=False)
                    if key == "machines":
                        with Horizontal(classes="row"):
                            yield Label("Spot VMs")
                            yield Tick("cheaper; may be taken away", id="of-spot")
            yield TextArea("", id="text", show_line_numbers=True, compact=True)
            with VerticalScroll(id="plan"):
                yield Static("", id="plan-text", markup=False)

    def on_mount(self) -> None:
        """Begin with the name; complete what can be."""
        for key, names in self._names().items():
            field = self._input(key)
            several = key in {"environments", "algorithms", "zones"}
            self.mount(NameComplete(field, names, several=several))
        self._input("name").focus()
        self._look_for_templates()
        self._check_form()

    @property
    def crumbs(self) -> tuple[str, ...]:
        """A new sweep."""
        return ("launch", self._path) if self._path else ("launch",)

    @property
    def is_text(self) -> bool:
        """Whether it is edited as a file's text."""
        return self.has_class("-as-text")

    @property
    def draft(self) -> Draft:
        """What the form holds."""
        typed = {key: self._input(key).value for key, _, _ in _FIELDS if key not in {"alert"}}
        return Draft(spot=self.query_one("#of-spot", Checkbox).value, **typed)

    @property
    def text(self) -> str:
        """The sweep as a file's text."""
        if self.is_text:
            return self.query_one("#text", TextArea).text
        return drafts.text_of(drafts.content_of(self.draft)[0])

    def paint(self, now: datetime) -> None:  # noqa: ARG002
        """The plan, what is wrong, and what it comes to in one line."""
        seen, wrong = self._seen, dict(self._wrong)
        if seen is not None and seen.problem and seen.place:
            wrong.setdefault(seen.place, drafts.without_line(seen.problem))
        for key, _, _ in _FIELDS:
            line = self.query_one(f"#wrong-{key}", Static)
            update_line(line, Content(f"✗ {wrong[key]}" if key in wrong else ""))
            line.set_class(key in wrong, "-shown")
        width = self.query_one("#plan").scrollable_content_region.width
        sections = () if self._wrong and not self.is_text else preview_sections(seen)
        text = sections_content(sections, width)
        update_line(self.query_one("#plan-text", Static), text)
        update_line(self.query_one("#summary", Static), styled(self._summary(wrong)))

    def can(self, action: str) -> bool | None:
        """What is launched is what is shown."""
        if action == "launch_it":
            return True if self._seen is not None and self._seen.is_ready else None
        return True

    # ----------------------------------------------------------------- typing

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def _check_form(self) -> None:
        """Say at once what is wrong with a field; ask the cloud after a pause."""
        if not self.is_text:
            self._wrong = drafts.content_of(self.draft)[1]
        self._forget_plan()

    @on(TextArea.Changed)
    def _check_text(self) -> None:
        if self.is_text:
            self._wrong = {}
            self._forget_plan()

    @on(Input.Submitted)
    def _next_field(self) -> None:
        self.focus_next()

    def _forget_plan(self) -> None:
        """What is confirmed is what is shown: another text needs another plan."""
        if self._asked is not None:
            self._asked.stop.set()
        self._seen = self._asked = None
        self._unread = ""
        if self._pause is not None:
            self._pause.stop()
        if not self._wrong:
            self._pause = self.set_timer(_PAUSE, self._ask_for_plan)
        self.repaint()

    def _ask_for_plan(self) -> None:
        text, alert = self.text, self._input("alert").value

        def work(fleet: Fleet, tell: Tell) -> Preview:
            return self.ask(fleet, text, alert, tell)

        self._asked = Job(title="plan a sweep", group="plan")
        self.console.start(self._asked, work, then=self._show_plan, otherwise=self._show_trouble)

    def ask(self, fleet: Fleet, text: str, alert: str, tell: Tell) -> Preview:
        """In a thread: look what launching a text would come to."""
        return drafts.preview(fleet, text, alert=alert, tell=tell)

    def _show_plan(self, seen: Preview) -> None:
        if self.is_attached and seen.text == self.text:
            self._seen = seen
            self.repaint()

    def _show_trouble(self, reason: str) -> None:
        if self.is_attached:
            self._seen = Preview(text=self.text, problem=reason)
            self.repaint()

    def _summary(self, wrong: Mapping[str, str]) -> list[Cell]:
        seen = self._seen
        if self._unread:
            return [Cell(f"✗ {self._unread}", "bad")]
        if self._wrong and not self.is_text:
            count = plural(len(wrong), "field")
            return [Cell("Launch a sweep", "strong"), Cell(f"{count} to fill in", "waiting")]
        if seen is None:
            return [Cell("Launch a sweep", "strong"), Cell("looking …", "busy")]
        if seen.problem:
            return [Cell("✗ can't be launched", "bad"), Cell(self._problem(seen))]
        if seen.plan is None:
            return []
        cells = [Cell(plural(seen.plan.instances, "VM"), "strong")]
        cells.append(Cell(cost_sentence(seen.plan.cost)))
        if seen.quota:
            cells.insert(0, Cell(f"✗ {seen.quota[0].name}", "bad"))
        return [*cells, Cell(f"{self._key('launch_it')} launches", "muted")]

    def _problem(self, seen: Preview) -> str:
        return seen.problem if self.is_text else drafts.without_line(seen.problem)

    # ---------------------------------------------------------------- actions

    def action_back(self) -> None:
        """To the sweeps; asks where something was typed."""
        if not self.is_text and self.draft == Draft():
            self.console.go_back()
            return

        def leave(sure: bool | None) -> None:
            if sure:
                self.console.go_back()

        touches = [f"what was typed is lost; {self._key('save_file')} saves it as a file"]
        self.console.push_screen(
            ConfirmScreen("Leave this form?", touches, yes="Leave", no="Stay"), leave
        )

    def _key(self, action: str) -> str:
        return self.console.key_named(action, self.SCOPE)

    def action_launch_it(self) -> None:
        """Ask, then launch what is shown."""
        seen = self._seen
        if seen is None or not seen.is_ready or seen.plan is None:
            return
        plan, name = seen.plan, seen.plan.sweep.name

        def work(fleet: Fleet, tell: Tell) -> str:
            return changes.launch(fleet, plan, tell, told=seen.told)

        def begin(sure: bool | None) -> None:
            if sure:
                console = self.console
                console.go_back()
                console.start(Job(title=f"launch {name}", is_change=True, sweep=name), work)

        question = one_line(f"Launch sweep {name}?")
        self.console.push_screen(
            ConfirmScreen(question, launch_touches(seen), yes="Launch it"), begin
        )

    def action_as_text(self) -> None:
        """Show the text of the form, or the form of the text where it has room for all."""
        if not self.is_text:
            self._take_text(self.text)
            return
        draft = drafts.draft_of(self.text)
        if draft is None:
            self.console.tell("the form has no room for all that is in this text", "warning")
            return
        self._take_draft(draft)

    def action_pick_file(self) -> None:
        """Pick a sweep file."""
        from sinergym_tui.widgets.picking import SweepFilePicker

        self.console.push_screen(SweepFilePicker(self._folder), self._read)

    def action_save_file(self) -> None:
        """Ask where, then save."""
        name = self._input("name").value.strip() or "sweep"
        text = self.text

        def save(filled: dict[str, str] | None) -> None:
            if filled is None:
                return
            try:
                path = self._folder / Path(filled["path"]).expanduser()
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except (OSError, RuntimeError, ValueError) as error:  # such as `~nobody`
                self.console.tell(f"not saved: {error}", "error")
            else:
                self.console.tell(f"saved: {path}")

        value = self._path or f"{name}.yaml"
        fields = [Field(key="path", label="File", value=value)]
        note = "A file that is there is not overwritten."
        self.console.push_screen(FormScreen("Save the sweep", fields, yes="Save", note=note), save)

    def _read(self, path: Path | None) -> None:
        if path is None:
            return
        try:
            with path.open("rb") as file:
                text = clean(file.read(_MOST).decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            self._unread = one_line(f"{path.name}: can't be read: {error}")
            self.repaint()
            return
        self._path = one_line(path.name)
        draft = drafts.draft_of(text)
        if draft is None:
            self._take_text(text)
        else:
            self._take_draft(draft)

    def _take_text(self, text: str) -> None:
        self.add_class("-as-text")
        area = self.query_one("#text", TextArea)
        area.load_text(text)
        area.focus()
        self._wrong = {}
        self._forget_plan()

    def _take_draft(self, draft: Draft) -> None:
        self.remove_class("-as-text")
        with self.prevent(Input.Changed, Checkbox.Changed):
            for key, _, _ in _FIELDS:
                if key != "alert":
                    self._input(key).value = getattr(draft, key)
            self.query_one("#of-spot", Checkbox).value = draft.spot
        self._input("name").focus()
        self._check_form()

    # ------------------------------------------------------------ suggestions

    def _names(self) -> dict[str, Callable[[], Sequence[str]]]:
        return {
            "environments": lambda: drafts.suggestions(self._past_commands())["environment"],
            "algorithms": lambda: drafts.suggestions(self._past_commands())["algorithm"],
            "template": lambda: self._templates,
            "zones": self._past_zones,
        }

    def _past_commands(self) -> list[str]:
        seen = [state.snapshot for state in self.view.sweeps if state.snapshot]
        return [one.command for each in seen for one in each.manifest.experiments]

    def _past_zones(self) -> Sequence[str]:
        seen = [state.snapshot.manifest for state in self.view.sweeps if state.snapshot]
        fleet = self.console.fleet
        known = [fleet.settings.zone] if fleet is not None else []
        return tuple(dict.fromkeys([*known, *(one.zone for one in seen)]))

    def _look_for_templates(self) -> None:
        def work(fleet: Fleet, tell: Tell) -> tuple[str, ...]:
            from gcloud_ops import templates

            tell("asking which templates there are")
            found = templates.list_templates(fleet.clients)
            return tuple(one_line(one.name) for one in found if not one.derived_from)

        def take(found: tuple[str, ...]) -> None:
            self._templates = found

        job = Job(title="list templates", group="templates")
        self.console.start(job, work, then=take, otherwise=lambda _reason: None)

    def _input(self, key: str) -> Input:
        return self.query_one(f"#of-{key}", Input)
