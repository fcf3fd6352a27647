"""What was noticed and what was told: the incidents of our policies, the local cloud's inbox."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gcloud_ops.text import one_line
from sinergym_tui.views.cells import Cell, Column, Tone, age_text

if TYPE_CHECKING:
    from gcloud_ops.alerts import Incident

__all__ = [
    "INCIDENT_COLUMNS",
    "Notice",
    "incident_notice",
    "message_notice",
    "notice_cells",
    "notice_texts",
    "notice_value",
]

INCIDENT_COLUMNS: Final = (
    Column(key="at", title="Age", width=4, rank=1, is_right=True),
    Column(key="state", title="State", width=11, rank=0),
    Column(key="policy", title="What", width=19, rank=2, most=24),
    Column(key="sweep", title="Sweep", width=12, rank=4, most=24),
    Column(key="experiment", title="Experiment", width=12, rank=5, most=28),
    Column(key="words", title="Said", width=20, rank=3, grows=True),
)

_LOOK: Final[Mapping[str, tuple[str, Tone]]] = {
    "OPEN": ("! open", "waiting"),
    "CLOSED": ("· closed", "muted"),
    "delivered": ("✓ told", "good"),
    "inbox": ("✓ inbox", "good"),
    "sending": ("… sending", "waiting"),
    "failed": ("✗ not told", "bad"),
    "undeliverable": ("✗ not told", "bad"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An incident, or a message that tells of one."""

    key: str
    at: datetime | None
    state: str
    policy: str
    sweep: str
    experiment: str
    words: str


def incident_notice(incident: "Incident") -> Notice:
    """An incident of Cloud Monitoring."""
    hint = incident.labels.get("hint", "")
    return Notice(
        key=incident.name,
        at=incident.opened,
        state=incident.state,
        policy=incident.policy,
        sweep=incident.sweep,
        experiment=incident.experiment,
        words=" · ".join(filter(None, (incident.status, hint))),
    )


def message_notice(message: Mapping[str, object], number: int) -> Notice:
    """A message of the local cloud's inbox."""
    try:
        at = datetime.fromisoformat(str(message.get("time")))
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
    except ValueError:
        at = None
    why = message.get("reason")
    return Notice(
        key=f"message {number}",
        at=at,
        state=str(message.get("state", "")),
        policy=f"to {message.get('to', '')}",
        sweep="",
        experiment="",
        words=f"{message.get('subject', '')}" + (f" ({why})" if why else ""),
    )


def notice_cells(notice: Notice, now: datetime) -> tuple[Cell, ...]:
    """The row of a notice, in the order of `INCIDENT_COLUMNS`."""
    word, tone = _LOOK.get(notice.state, (one_line(notice.state) or "-", "muted"))
    return (
        Cell(age_text(notice.at, now), "muted"),
        Cell(word, tone),
        Cell(one_line(notice.policy), "strong"),
        Cell(one_line(notice.sweep) or "-"),
        Cell(one_line(notice.experiment) or "-"),
        Cell(one_line(notice.words) or "-", "muted"),
    )


def notice_texts(notice: Notice) -> dict[str, str]:
    """What a query can find of a notice, by column."""
    return {
        "": notice.sweep,
        "state": notice.state,
        "policy": notice.policy,
        "sweep": notice.sweep,
        "experiment": notice.experiment,
        "words": notice.words,
    }


def notice_value(notice: Notice, column: str) -> object:
    """What a notice is ordered by."""
    if column == "at":
        return -notice.at.timestamp() if notice.at else None
    return notice_texts(notice).get(column)
