"""The one list of what can be done: keys, footer, palette, help and read-only are made of it.

An action's `name` is that of a method `action_<name>` of the screens it is for, or of the app
where it is for all. No terminal here: `keys` makes Textual's bindings of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["ACTIONS", "MOVING", "Action", "Scope", "action_named", "actions_of"]

type Scope = Literal[
    "sweeps",
    "sweep",
    "experiment",
    "logs",
    "incidents",
    "launch",
    "compare",
    "alerts",
    "tracking",
    "doctor",
    "leftovers",
]
"""A screen, as actions name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that can be done with a key, from the palette, or both."""

    name: str
    key: str
    """As Textual names keys; several with commas between; "" for the palette only."""
    label: str
    """One word or two, for the footer."""
    help: str
    scopes: tuple[Scope, ...] = ()
    """The screens it is for; none means all."""
    in_footer: bool = True
    changes: bool = False
    """Changes something in the cloud: not offered, and refused, when read-only."""
    only_local: bool = False
    """Of the local cloud only: not offered elsewhere."""
    headless: tuple[str, ...] = ()
    """Commands that do or tell the same, as JSON with `--output json`; words in capitals stand
    for what is chosen. None for what touches only what is shown."""

    @property
    def id(self) -> str:
        """What the file of keys calls it: its name, after its screen where it is for one only."""
        return f"{self.scopes[0]}.{self.name}" if len(self.scopes) == 1 else self.name


_ASKED: Final[tuple[Scope, ...]] = ("alerts", "tracking", "doctor", "leftovers")
_TABLES: Final[tuple[Scope, ...]] = ("sweeps", "sweep", "incidents", "compare", *_ASKED)
_ONES: Final[tuple[Scope, ...]] = ("sweep", "experiment")

ACTIONS: Final = (
    # ------------------------------------------------------------ where one is
    Action(
        name="back",
        key="escape",
        label="Back",
        help="Back to where one came from; first out of a filter, then out of a choice of rows",
        scopes=(*_TABLES, "experiment", "logs", "launch"),
    ),
    Action(
        name="open",
        key="enter",
        label="Open",
        help="Go in: the sweep's experiments, the experiment's facts",
        scopes=("sweeps", "sweep"),
        headless=("gcloud-ops sweep status SWEEP", "gcloud-ops containers list SWEEP"),
    ),
    # ---------------------------------------------------------------- sweeps
    Action(
        name="launch",
        key="l",
        label="Launch",
        help="Launch a sweep; shows what it will create, and asks, before it does",
        scopes=("sweeps",),
        changes=True,
        headless=("gcloud-ops sweep launch FILE --dry-run",),
    ),
    Action(
        name="cancel_sweep",
        key="c",
        label="Cancel",
        help="Cancel the sweep: its VMs go, its results stay",
        scopes=("sweeps",),
        changes=True,
        headless=("gcloud-ops sweep cancel SWEEP",),
    ),
    Action(
        name="resume",
        key="R",
        label="Resume",
        help="Go on with a launch that was interrupted: what has no VM gets one",
        scopes=("sweeps",),
        changes=True,
        headless=("gcloud-ops sweep resume SWEEP",),
    ),
    Action(
        name="delete_sweep",
        key="d",
        label="Delete",
        help="Delete the sweep with all its results",
        scopes=("sweeps",),
        changes=True,
        headless=("gcloud-ops sweep delete SWEEP --force",),
    ),
    Action(
        name="compare",
        key="C",
        label="Compare",
        help="What was learned: configurations ranked over their seeds, curves overlaid",
        scopes=("sweeps", "sweep"),
        headless=("gcloud-ops sweep results SWEEP",),
    ),
    # ---------------------------------------------------------------- launch
    Action(
        name="launch_it",
        key="ctrl+l",
        label="Launch",
        help="Launch what the form says; asks first, and says what it costs",
        scopes=("launch",),
        changes=True,
        headless=("gcloud-ops sweep launch FILE",),
    ),
    Action(
        name="pick_file",
        key="ctrl+o",
        label="Open file",
        help="Pick a sweep file, and edit it here",
        scopes=("launch",),
    ),
    Action(
        name="as_text",
        key="ctrl+t",
        label="Form/text",
        help="Edit the sweep as a file's text, or the text as a form again",
        scopes=("launch",),
    ),
    Action(
        name="save_file",
        key="ctrl+s",
        label="Save",
        help="Save the sweep as a file",
        scopes=("launch",),
    ),
    # --------------------------------------------------------------- compare
    Action(
        name="with_other",
        key="v",
        label="Versus",
        help="Put another sweep beside this one, or take it away",
        scopes=("compare",),
        headless=("gcloud-ops sweep compare SWEEP OTHER",),
    ),
    Action(
        name="by_metric",
        key="m",
        label="Metric",
        help="Rank by another number that the experiments report",
        scopes=("compare",),
        headless=("gcloud-ops sweep results SWEEP --metric METRIC",),
    ),
    # ---------------------------------------------------------------- alerts
    Action(
        name="add_channel",
        key="a",
        label="Add",
        help="Add a channel: e-mail, webhook, Pub/Sub, Slack, SMS...; secrets are never shown",
        scopes=("alerts",),
        changes=True,
        headless=("gcloud-ops alerts channels add TYPE ADDRESS",),
    ),
    Action(
        name="verify",
        key="v",
        label="Verify",
        help="Have a code sent to the channel, or give the code that has arrived",
        scopes=("alerts",),
        changes=True,
        headless=("gcloud-ops alerts channels verify CHANNEL [CODE]",),
    ),
    Action(
        name="set_up_policies",
        key="s",
        label="Set up",
        help="Make the alert policies, or mend them, and say whom they tell",
        scopes=("alerts",),
        changes=True,
        headless=("gcloud-ops alerts policies setup --channel CHANNEL",),
    ),
    Action(
        name="switch",
        key="e",
        label="On/off",
        help="Switch the policy on or off",
        scopes=("alerts",),
        changes=True,
        headless=(
            "gcloud-ops alerts policies enable POLICY",
            "gcloud-ops alerts policies disable POLICY",
        ),
    ),
    Action(
        name="send_test",
        key="t",
        label="Test",
        help="Send a real signal through, and see whom it reaches",
        scopes=("alerts",),
        changes=True,
        headless=("gcloud-ops alerts test",),
    ),
    Action(
        name="remove_row",
        key="d",
        label="Remove",
        help="Remove the channel, or all of our policies",
        scopes=("alerts",),
        changes=True,
        headless=(
            "gcloud-ops alerts channels remove CHANNEL",
            "gcloud-ops alerts policies remove",
        ),
    ),
    # ------------------------------------------------------- tracking server
    Action(
        name="bring_up",
        key="u",
        label="Bring up",
        help="Bring up the tracking server, or what of it is missing; says what it costs a month",
        scopes=("tracking",),
        changes=True,
        headless=("mlflow-infra up",),
    ),
    Action(
        name="open_page",
        key="o",
        label="Open",
        help="Open the server's web page in a browser",
        scopes=("tracking",),
        headless=("mlflow-infra url",),
    ),
    Action(
        name="check",
        key="h",
        label="Check",
        help="Ask the server whether it is well: health, logins, database, artifacts",
        scopes=("tracking",),
        changes=True,
        headless=("mlflow-infra status",),
    ),
    Action(
        name="server_log",
        key="L",
        label="Log",
        help="Read the log of the server's container, or of its VM's boot",
        scopes=("tracking",),
        changes=True,
        headless=("mlflow-infra logs",),
    ),
    Action(
        name="restart_server",
        key="x",
        label="Restart",
        help="Restart the server's VM, and wait until it is well",
        scopes=("tracking",),
        changes=True,
        headless=("mlflow-infra restart",),
    ),
    Action(
        name="take_down",
        key="d",
        label="Remove",
        help="Remove the server; its data (runs, artifacts, secrets) stay",
        scopes=("tracking",),
        changes=True,
        headless=("mlflow-infra down",),
    ),
    Action(
        name="delete_everything",
        key="D",
        label="Remove with data",
        help="Remove the server with all its data, for good",
        scopes=("tracking",),
        changes=True,
        in_footer=False,
        headless=("mlflow-infra down --delete-data",),
    ),
    # ------------------------------------------------------------- leftovers
    Action(
        name="reap",
        key="d",
        label="Remove",
        help="Remove what is left over: what is chosen, or all",
        scopes=("leftovers",),
        changes=True,
        headless=("gcloud-ops reap [NAME...] --yes",),
    ),
    # ----------------------------------------------------------- experiments
    Action(
        name="logs",
        key="o",
        label="Log",
        help="Open the log; of all chosen experiments, merged, where some are chosen",
        scopes=_ONES,
        headless=("gcloud-ops sweep logs SWEEP [ID...] --follow",),
    ),
    Action(
        name="all_logs",
        key="O",
        label="All logs",
        help="Open the logs of all experiments that are shown, merged (64 at most)",
        scopes=("sweep",),
        in_footer=False,
        headless=("gcloud-ops sweep logs SWEEP --follow",),
    ),
    Action(
        name="cancel",
        key="c",
        label="Cancel",
        help="Cancel the chosen experiments, or the one with the cursor: their VMs go",
        scopes=_ONES,
        changes=True,
        headless=("gcloud-ops sweep cancel SWEEP [ID...]",),
    ),
    Action(
        name="rerun",
        key="R",
        label="Rerun",
        help="Run the chosen experiments again that have ended, from their last checkpoint",
        scopes=_ONES,
        changes=True,
        headless=("gcloud-ops sweep rerun SWEEP [ID...]",),
    ),
    Action(
        name="restart",
        key="x",
        label="Restart",
        help="Restart the container of the chosen experiments; the training goes on from its "
        "last checkpoint",
        scopes=_ONES,
        changes=True,
        headless=("gcloud-ops containers restart SWEEP [ID...]",),
    ),
    Action(
        name="mark",
        key="space",
        label="Choose",
        help="Choose this row, or no more; what is done next is done to all that are chosen",
        scopes=("sweep", "leftovers"),
    ),
    Action(
        name="mark_all",
        key="a",
        label="Choose all",
        help="Choose all rows that are shown, or none",
        scopes=("sweep", "leftovers"),
        in_footer=False,
    ),
    Action(
        name="previous",
        key="left_square_bracket",
        label="Previous",
        help="The experiment before this one",
        scopes=("experiment",),
        in_footer=False,
    ),
    Action(
        name="next",
        key="right_square_bracket",
        label="Next",
        help="The experiment after this one",
        scopes=("experiment",),
        in_footer=False,
    ),
    Action(
        name="copy_command",
        key="y",
        label="Copy command",
        help="Copy the experiment's command to the clipboard",
        scopes=_ONES,
        in_footer=False,
    ),
    # ---------------------------------------------------------------- tables
    Action(
        name="filter",
        key="slash",
        label="Filter",
        help="Show only rows with these words; column:text looks at one column, !word at others",
        scopes=_TABLES,
    ),
    Action(
        name="sort_next",
        key="greater_than_sign",
        label="Sort",
        help="Order by the next column (a click on its title does it too)",
        scopes=_TABLES,
        in_footer=False,
    ),
    Action(
        name="sort_previous",
        key="less_than_sign",
        label="Sort back",
        help="Order by the column before",
        scopes=_TABLES,
        in_footer=False,
    ),
    Action(
        name="sort_reverse",
        key="I",
        label="Reverse",
        help="Order the other way round",
        scopes=_TABLES,
        in_footer=False,
    ),
    # ------------------------------------------------------------------ logs
    Action(
        name="follow",
        key="f",
        label="Follow",
        help="Follow the end, or pause; scrolling up pauses too",
        scopes=("logs",),
    ),
    Action(
        name="search",
        key="slash",
        label="Search",
        help="Mark what is searched for (a regular expression), and go there",
        scopes=("logs",),
    ),
    Action(
        name="find_next",
        key="n",
        label="Next",
        help="The next place with what is searched for",
        scopes=("logs",),
        in_footer=False,
    ),
    Action(
        name="find_previous",
        key="N",
        label="Previous",
        help="The place before with what is searched for",
        scopes=("logs",),
        in_footer=False,
    ),
    Action(
        name="filter_lines",
        key="ampersand",
        label="Filter",
        help="Show only lines with this regular expression; after ! only those without",
        scopes=("logs",),
    ),
    Action(
        name="wrap",
        key="w",
        label="Wrap",
        help="Wrap long lines, or cut them",
        scopes=("logs",),
    ),
    Action(
        name="times",
        key="t",
        label="Times",
        help="Show when each line came, as far as the console was there",
        scopes=("logs",),
    ),
    Action(
        name="since",
        key="S",
        label="Since",
        help="Show only lines that have come since then: 30s, 5m, 1h, or now",
        scopes=("logs",),
        in_footer=False,
    ),
    Action(
        name="save",
        key="s",
        label="Save",
        help="Save the lines that are shown to a file",
        scopes=("logs",),
    ),
    Action(
        name="copy_lines",
        key="y",
        label="Copy",
        help="Copy the lines in sight to the clipboard",
        scopes=("logs",),
        in_footer=False,
    ),
    # ------------------------------------------------------------ everywhere
    Action(
        name="refresh",
        key="r",
        label="Refresh",
        help="Look at the cloud now, or try to connect again",
        in_footer=False,
    ),
    Action(
        name="jobs",
        key="J",
        label="Jobs",
        help="What goes on: how far it is; stop it",
        in_footer=False,
    ),
    Action(
        name="show_sweeps",
        key="1",
        label="Sweeps",
        help="All sweeps",
        in_footer=False,
        headless=("gcloud-ops sweep list",),
    ),
    Action(
        name="show_incidents",
        key="2",
        label="Incidents",
        help="What was noticed, and what was told of it",
        in_footer=False,
        headless=("gcloud-ops alerts incidents",),
    ),
    Action(
        name="show_alerts",
        key="3",
        label="Alerts",
        help="Whom Cloud Monitoring tells of the ends of experiments and sweeps",
        in_footer=False,
        headless=(
            "gcloud-ops alerts channels list",
            "gcloud-ops alerts policies list",
        ),
    ),
    Action(
        name="show_tracking",
        key="4",
        label="Tracking server",
        help="The MLflow tracking server: what there is of it, and what it costs",
        in_footer=False,
        headless=("mlflow-infra up --plan",),
    ),
    Action(
        name="show_doctor",
        key="5",
        label="Doctor",
        help="What may keep a sweep from running, and what to do about it",
        in_footer=False,
        headless=("gcloud-ops doctor [FILE]",),
    ),
    Action(
        name="show_leftovers",
        key="6",
        label="Left over",
        help="What is left over on Compute Engine, and what it costs a day",
        in_footer=False,
        headless=("gcloud-ops reap",),
    ),
    Action(
        name="rehearse",
        key="exclamation_mark",
        label="Rehearse",
        help="Have something go wrong: a preempted VM, no room for VMs, a cut connection...",
        in_footer=False,
        changes=True,
        only_local=True,
        headless=("gcloud-ops local befall MISHAP [ID...]",),
    ),
    Action(
        name="palette",
        key="ctrl+p",
        label="Palette",
        help="Find any action by its name, and the themes",
    ),
    Action(name="help", key="question_mark", label="Help", help="What this screen can do"),
    Action(
        name="leave",
        key="q",
        label="Quit",
        help="Leave the console; whatever runs in the cloud runs on",
    ),
)
"""Everything that can be done, in the order of footer and help."""

MOVING: Final[Mapping[str, str]] = {
    "↑ ↓ PgUp PgDn": "Move; also j k, and g G for the first and the last",
    "Tab": "The next part of the screen",
    "Mouse": "Click a row, a title, a key in the footer; twice: open",
}
"""Keys that belong to no action."""


def actions_of(scope: Scope | str) -> tuple[Action, ...]:
    """What can be done on a screen: what is for it, then what is for all."""
    own = tuple(each for each in ACTIONS if scope in each.scopes)
    return own + tuple(each for each in ACTIONS if not each.scopes)


def action_named(name: str, scope: str) -> Action | None:
    """The action of that name on a screen; None for what is no action of ours."""
    return next((each for each in actions_of(scope) if each.name == name), None)
