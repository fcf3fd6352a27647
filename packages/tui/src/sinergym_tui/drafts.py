"""A sweep as a form has it: read from a file's text, written as one, and looked at before it is.

    Draft ── content_of ──> the keys of a sweep file, and what is wrong with each field
          <── draft_of ──── a file's text, where a form can hold all that is in it
    text ── preview ──> commands, cost, quota, and what stands against it; nothing is created

No terminal here. `preview` blocks; a thread calls it.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import GcloudOpsError
from gcloud_ops.text import clean, one_line
from sinergym_tui.fleet import Fleet, explain

if TYPE_CHECKING:
    from gcloud_ops.alerts import Recipients
    from gcloud_ops.costs import PlanCost
    from gcloud_ops.doctor import Finding, Room
    from gcloud_ops.launching import LaunchPlan
    from gcloud_ops.model import Sweep

__all__ = [
    "ALGORITHMS",
    "Draft",
    "Preview",
    "content_of",
    "draft_of",
    "field_of",
    "other_way",
    "preview",
    "suggestions",
    "text_of",
    "without_line",
    "words_of",
]

type Tell = Callable[[str], None]

ALGORITHMS: Final = (
    "PPO",
    "A2C",
    "DQN",
    "DDPG",
    "SAC",
    "TD3",
    "RecurrentPPO",
    "TQC",
    "QRDQN",
    "TRPO",
)
"""What `sinergym-train --algorithm` takes, as its README says."""

ENVIRONMENTS: Final = ("Eplus-5zone-hot-continuous-v1", "Eplus-5zone-cool-continuous-v1")
"""Those that the README names; past sweeps tell of more."""

_FLAGS: Final = {
    "environment": ("--environment", "-env"),
    "algorithm": ("--algorithm", "-alg"),
}
_FIELDS: Final = {
    # What an error begins with -> the form's field.
    "name": "name",
    "template": "template",
    "zone": "zones",
    "zones": "zones",
    "machines": "machines",
    "machine type": "machines",
    "hours": "hours",
    "max_hours": "max_hours",
    "max-hours": "max_hours",
    "max_cost": "max_cost",
    "max-cost": "max_cost",
    "retry": "retry",
    "dispatch": "dispatch",
    "seeds": "seeds",
    "base": "command",
    "grid": "grid",
    "grid.environment": "environments",
    "grid.algorithm": "algorithms",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a form holds: text, as it was typed."""

    name: str = ""
    template: str = ""
    zones: str = ""
    """Several with commas."""
    machines: str = ""
    """The preferred one first."""
    spot: bool = False
    hours: str = ""
    """That an experiment will take."""
    max_hours: str = ""
    """That it may take."""
    max_cost: str = ""
    """US dollars that the sweep may cost."""
    environments: str = ""
    algorithms: str = ""
    command: str = "sinergym-train"
    flags: str = ""
    """Further flags of each command."""
    grid: str = ""
    """Such as `learning_rate=0.001,0.0003; gamma=0.9,0.99`."""
    seeds: str = ""
    """A number N, for 1 to N; or several with commas."""
    retry: str = ""
    """How often an experiment that failed is tried again."""
    dispatch: str = ""
    """How commands reach the VMs: boot, which needs nobody, or ssh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What launching a text would come to, as far as could be looked."""

    text: str
    """Of which it is; of any other it says nothing."""
    sweep: "Sweep | None" = None
    plan: "LaunchPlan | None" = None
    quota: "tuple[Finding, ...]" = ()
    """Why it could not run at once: quota, or permissions."""
    rooms: "tuple[Room, ...]" = ()
    """What it needs of each quota, and what of it is left, the scarcest first."""
    told: "Recipients | None" = None
    """Whom the end is told."""
    problem: str = ""
    """Why it can't be launched."""
    place: str = ""
    """The form's field that the problem is about, or ""."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be launched."""
        return self.plan is not None and not self.problem


def content_of(draft: Draft) -> tuple[dict[str, Any], dict[str, str]]:
    """A draft as the content of a sweep file, and what is wrong with which field."""
    wrong: dict[str, str] = {}
    content: dict[str, Any] = {"name": draft.name.strip()}
    if not content["name"]:
        wrong["name"] = "a sweep needs a name"
    zones = words_of(draft.zones)
    optional = {
        "template": draft.template.strip(),
        "zone": zones[0] if len(zones) == 1 else "",
        "zones": zones if len(zones) > 1 else [],
        "machines": words_of(draft.machines),
        "spot": draft.spot,
    }
    content |= {key: value for key, value in optional.items() if value}
    content |= _limits(draft, wrong)
    if way := draft.dispatch.strip():
        content["dispatch"] = way
        if way not in set(Dispatch):
            wrong["dispatch"] = f"{way!r}: {' or '.join(Dispatch)}"
    content["base"] = " ".join(filter(None, [draft.command.strip(), draft.flags.strip()]))
    if not draft.command.strip():
        wrong["command"] = "a command is needed, such as sinergym-train"
    if grid := _grid(draft, wrong):
        content["grid"] = grid
    if seeds := words_of(draft.seeds):
        numbers = [_number(word) for word in seeds]
        if not all(isinstance(number, int) for number in numbers):
            wrong["seeds"] = "a number N, for 1 to N; or numbers with commas"
        else:
            content["seeds"] = numbers[0] if len(numbers) == 1 else numbers
    return content, wrong


def text_of(content: Mapping[str, Any]) -> str:
    """The text of a sweep file with this content."""
    import yaml

    text: str = yaml.safe_dump(
        dict(content), sort_keys=False, allow_unicode=True, default_flow_style=None, width=4096
    )
    return text


def draft_of(text: str) -> Draft | None:
    """A file's text as a form; None where it holds more than a form can, or isn't right."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("base"), str):
        return None
    grid = content.get("grid") or {}
    seeds = content.get("seeds")
    if not isinstance(grid, dict) or not isinstance(content.get("machines") or [], list):
        return None
    command, _, flags = content["base"].strip().partition(" ")
    others = {flag: values for flag, values in grid.items() if flag not in _FLAGS}
    if not all(isinstance(values, list) for values in grid.values()):
        return None
    zones = content.get("zones") or filter(None, [content.get("zone")])
    found = Draft(
        name=str(content.get("name") or ""),
        template=str(content.get("template") or ""),
        zones=", ".join(map(str, zones)),
        machines=", ".join(map(str, content.get("machines") or ())),
        spot=content.get("spot") is True,
        environments=", ".join(map(str, grid.get("environment", ()))),
        algorithms=", ".join(map(str, grid.get("algorithm", ()))),
        command=command,
        flags=flags.strip(),
        grid="; ".join(f"{flag}={','.join(map(_word, vs))}" for flag, vs in others.items()),
        seeds=", ".join(map(str, seeds)) if isinstance(seeds, list) else _word(seeds),
        dispatch=_word(content.get("dispatch")),
        **{name: _word(content.get(name)) for name in ("hours", "max_hours", "max_cost", "retry")},
    )
    texts = [one for one in astuple(found) if isinstance(one, str)]
    if any(clean(one) != one or "\n" in one for one in texts):
        return None  # a text can write what isn't seen, a field can't
    # Only what comes back as it was is held: all else is for the text.
    again, wrong = content_of(found)
    return found if not wrong and again == content else None


def preview(fleet: Fleet, text: str, *, alert: str, tell: Tell) -> Preview:
    """Look at all that launching a text would come to; creates nothing.

    Args:
        fleet: The cloud.
        text: Of a sweep file.
        alert: Whom to tell of its ends: addresses and channels with commas.
        tell: Told what is looked at; what it raises ends it.
    """
    from gcloud_ops import doctor, launching
    from gcloud_ops.sweepfile import parse_sweep

    seen = Preview(text=text)
    try:
        clients = fleet.for_change("launch a sweep")
        tell("reading")
        sweep = parse_sweep(text, source="line")
        seen = replace(seen, sweep=sweep)
        tell("asking what there is, and what it costs")
        seen = replace(seen, plan=launching.plan(sweep, clients))
        tell("asking for quota and permissions")
        ahead = doctor.outlook(clients, sweep)
        seen = replace(seen, quota=ahead.problems, rooms=ahead.rooms)
        if named := words_of(alert):
            from gcloud_ops import alerts

            tell("looking for those who are told")
            seen = replace(seen, told=alerts.recipients(clients, named))
    except GcloudOpsError as error:
        reason = re.sub(r"^line:(\d+): ", r"line \1: ", explain(error))
        place = "alert" if seen.plan is not None else field_of(reason)
        return replace(seen, problem=reason, place=place)
    return seen


def other_way(cost: "PlanCost") -> "PlanCost":
    """The same on Spot VMs, or not on Spot VMs."""
    return replace(cost, spot=not cost.spot)


def field_of(reason: str) -> str:
    """The form's field that an error is about, or ""."""
    words = without_line(reason)
    head = words.partition(":")[0].strip()
    first = next((name for name in _FIELDS if words.startswith(f"{name} ")), "")
    return _FIELDS.get(head) or _FIELDS.get(head.partition(".")[0]) or _FIELDS.get(first, "")


def without_line(reason: str) -> str:
    """An error without the line that it is in: a form has none."""
    return re.sub(r"^line \d+: ", "", reason)


def suggestions(commands: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Environments and algorithms that past commands have, then those that the README names."""
    found: dict[str, dict[str, None]] = {name: {} for name in _FLAGS}
    for command in commands:
        try:
            words = shlex.split(command)
        except ValueError:
            continue
        for word, after in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            for flag, names in _FLAGS.items():
                if name in names and (value if equals else after):
                    found[flag][one_line(value if equals else after, limit=80)] = None
    return {
        "environment": tuple(found["environment"] | dict.fromkeys(ENVIRONMENTS)),
        "algorithm": tuple(found["algorithm"] | dict.fromkeys(ALGORITHMS)),
    }


def words_of(text: str) -> list[str]:
    """What is typed with commas between."""
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _limits(draft: Draft, wrong: dict[str, str]) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for name in ("hours", "max_hours", "max_cost"):
        if typed := getattr(draft, name).strip():
            number = _number(typed)
            if number is None or number <= 0:
                wrong[name] = f"{typed!r} is no number above 0"
            else:
                found[name] = number
    if typed := draft.retry.strip():
        times = _number(typed)
        if not isinstance(times, int) or times < 0:
            wrong["retry"] = "how often: a whole number"
        elif times:
            found["retry"] = times
    return found


def _grid(draft: Draft, wrong: dict[str, str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {
        "environment": words_of(draft.environments),
        "algorithm": words_of(draft.algorithms),
    }
    for part in filter(None, (one.strip() for one in draft.grid.split(";"))):
        flag, equals, values = part.partition("=")
        if not equals or not words_of(values):
            wrong["grid"] = f"{part!r}: write flag=value,value; flag=value"
            break
        found[flag.strip().lstrip("-")] = [_value(word) for word in words_of(values)]
    return {flag: values for flag, values in found.items() if values}


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            return None
        return number if abs(number) != float("inf") and number == number else None  # noqa: PLR0124


def _value(word: str) -> bool | int | float | str:
    if word in {"true", "false"}:
        return word == "true"
    number = _number(word)
    return word if number is None else number


def _word(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
