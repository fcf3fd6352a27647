"""What a launch will come to, for a person: cost, quota, commands."""

from typing import TYPE_CHECKING, Final

from gcloud_ops.contract import Dispatch
from gcloud_ops.text import one_line
from sinergym_tui.drafts import Preview, other_way
from sinergym_tui.views.cells import Cell, Tone, duration_text, money_text, plural
from sinergym_tui.views.experiment import Line, Section

if TYPE_CHECKING:
    from gcloud_ops.costs import PlanCost
    from gcloud_ops.doctor import Room
    from gcloud_ops.launching import LaunchPlan

__all__ = ["cost_sentence", "launch_touches", "preview_sections"]

_SHOWN: Final = 40  # commands that are listed
_TOLD: Final = ("CPUS", "CPUS_ALL_REGIONS")
"""Ends of the quotas that are told of always: others only where they are scarce."""


def preview_sections(seen: Preview | None) -> tuple[Section, ...]:
    """What is known of a draft, as labels and lines; the problem first."""
    if seen is None:
        return (Section(title="Plan", lines=(_line("", "looking …", "busy"),)),)
    parts = []
    if seen.problem:
        parts.append(Section(title="Problem", lines=(_line("✗", seen.problem, "bad"),)))
    if seen.plan is not None:
        parts += [_plan(seen.plan), _cost(seen.plan.cost), _quota(seen)]
    if seen.sweep is not None:
        parts.append(_commands(seen))
    return tuple(parts)


def cost_sentence(cost: "PlanCost") -> str:
    """What it costs, in one line: an hour, expected, at most."""
    if cost.hourly_all is None:
        return one_line(f"what it costs is not known: {cost.unknown or 'there is no price'}")
    words = [f"{money_text(cost.hourly_all)} an hour{' on Spot VMs' if cost.spot else ''}"]
    if cost.expected is not None:
        words.append(f"{money_text(cost.expected)} expected")
    if cost.at_most is not None:
        words.append(f"{money_text(cost.at_most)} at most")
    else:
        words.append("without a limit: until the last experiment ends")
    return ", ".join(words)


def launch_touches(seen: Preview) -> list[str]:
    """What launching will make, and cost, for the question before it."""
    plan = seen.plan
    if plan is None:
        return []
    cost, lines = plan.cost, [f"it costs {cost_sentence(plan.cost)}"]
    kinds = ", or ".join(plan.machine_types)
    spot = "Spot VMs" if plan.spot else "VMs"
    where = ", ".join(plan.zones or (plan.zone,))
    lines.append(f"{plan.instances} {spot} {kinds} in {where}, project {plan.project}")
    if not plan.bucket_exists:
        lines.append(f"bucket {plan.bucket} is made")
    if cost.seconds is not None:
        lines.append(f"each is ended after {duration_text(cost.seconds)} at the latest")
    if cost.is_too_short:
        lines.append("the limit ends experiments before the hours that they are expected to take")
    if plan.sweep.dispatch is Dispatch.SSH:
        lines.append("commands go over SSH: this console has to stay until all have theirs")
    if seen.told is not None:
        lines.append(f"its ends are told to {', '.join(seen.told.addresses)}")
    lines += [f"{one.name}: {one.message}" for one in seen.quota]
    return [one_line(line) for line in lines]


def _plan(plan: "LaunchPlan") -> Section:
    template = plan.template
    kinds = ", or ".join(kind or "?" for kind in plan.machine_types)
    spot = ", Spot" if plan.spot else ""
    bucket = plan.bucket if plan.bucket_exists else f"{plan.bucket} (will be made)"
    lines = [
        _line("VMs", f"{plan.instances} × {kinds}{spot}", "strong"),
        _line("where", f"{', '.join(plan.zones or (plan.zone,))}, project {plan.project}"),
        _line("template", f"{template.name}: {template.image or 'no container of ours'}"),
        _line("bucket", bucket),
    ]
    if plan.cost.seconds is not None:
        lines.append(_line("limit", f"{duration_text(plan.cost.seconds)} for each VM"))
    return Section(title="Plan", lines=tuple(lines))


def _cost(cost: "PlanCost") -> Section:
    other = other_way(cost)
    standard, spot = (other, cost) if cost.spot else (cost, other)
    rows = [
        ("", "on demand", "Spot"),
        ("an hour", money_text(standard.hourly_all), money_text(spot.hourly_all)),
        ("expected", money_text(standard.expected), money_text(spot.expected)),
        ("at most", money_text(standard.at_most), money_text(spot.at_most)),
    ]
    lines = [
        Line(
            label=label,
            cell=Cell(f"{first:>10}  {second:>10}", "strong" if label else "muted"),
        )
        for label, first, second in rows
    ]
    if cost.unknown:
        lines.append(_line("", f"no price for {cost.unknown}", "waiting"))
    if cost.hours is None:
        lines.append(_line("", "give hours to see what is expected", "muted"))
    if cost.seconds is None:
        lines.append(_line("", "no limit: give hours or dollars at most", "waiting"))
    if cost.is_too_short:
        lines.append(_line("", "the limit is shorter than the hours it takes", "waiting"))
    return Section(title=f"Cost, prices of {cost.priced}", lines=tuple(lines))


def _quota(seen: Preview) -> Section:
    if not seen.quota:
        words = "there is enough for all at once, and we may make it"
        lines = [_line("✓", words, "good")]
    else:
        lines = [_line("✗", f"{one.name}: {one.message}", "bad") for one in seen.quota]
        lines += [_line("→", one.advice, "waiting") for one in seen.quota if one.advice]
    lines += [_room(one) for one in seen.rooms if one.metric.endswith(_TOLD) or one.is_scarce]
    return Section(title="Quota and permissions", lines=tuple(lines))


def _room(room: "Room") -> Line:
    quota = room.quota
    words = f"{quota.left:,.0f} of {quota.limit:,.0f} {room.metric}; it needs {room.needs:,.0f}"
    return _line("left", words, "bad" if room.after < 0 else "")


def _commands(seen: Preview) -> Section:
    assert seen.sweep is not None  # noqa: S101  # for the type checker
    experiments = seen.sweep.experiments
    lines = [
        _line(one.id.removeprefix(f"{seen.sweep.name}-"), one.command)
        for one in experiments[:_SHOWN]
    ]
    if len(experiments) > _SHOWN:
        lines.append(_line("…", f"and {len(experiments) - _SHOWN:,} more", "muted"))
    return Section(title=plural(len(experiments), "experiment"), lines=tuple(lines))


def _line(label: str, text: str, tone: Tone = "") -> Line:
    return Line(label=label, cell=Cell(one_line(text, limit=600), tone))
