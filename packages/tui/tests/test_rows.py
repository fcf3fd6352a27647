from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.contract import Exit, Experiment, Progress, Record
from gcloud_ops.model import ExperimentStatus, Member, Observation, SweepSummary
from sinergym_tui.rows import (
    EXPERIMENT_COLUMNS,
    SWEEP_COLUMNS,
    SweepState,
    age_text,
    experiment_cells,
    fit_columns,
    sweep_cells,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def observation(
    status: ExperimentStatus = ExperimentStatus.RUNNING,
    *,
    member: Member | None = None,
    record: Record | None = None,
    reason: str = "",
) -> Observation:
    """An experiment as it is seen."""
    experiment = Experiment(id="quick-0001", command="true")
    return Observation(
        experiment=experiment, member=member, record=record, status=status, reason=reason
    )


def texts(row: Observation) -> dict[str, str]:
    """The row's texts by column."""
    cells = experiment_cells(row, NOW)
    return {column.key: cell.text for column, cell in zip(EXPERIMENT_COLUMNS, cells, strict=True)}


def test_a_running_experiment_shows_progress_reward_and_heartbeat() -> None:
    """A row says what the record and the group say."""
    record = Record(
        experiment="quick-0001",
        attempt=2,
        state="running",
        updated=NOW - timedelta(seconds=7),
        progress=Progress(
            episode=1, episodes=2, timesteps=672, total_timesteps=1344, mean_reward=-212.54
        ),
    )
    member = Member(name="quick-0001", status="RUNNING")

    assert texts(observation(member=member, record=record)) == {
        "id": "quick-0001",
        "status": "▶ running",
        "progress": "██░░░  50% 1/2",
        "reward": "-212.5",
        "beat": "7s",
        "instance": "RUNNING",
        "container": "running",
        "attempt": "2",
        "reason": "",
    }


def test_a_failed_experiment_says_how_it_ended() -> None:
    """The reason has exit code and hint."""
    record = Record(
        experiment="quick-0001",
        attempt=1,
        state="failed",
        exit=Exit(code=3, signal=None, kind="error", hint="look"),
    )
    row = observation(ExperimentStatus.FAILED, record=record, reason="look")

    assert texts(row)["status"] == "✗ failed"
    assert texts(row)["reason"] == "exit 3: look"
    assert texts(row)["beat"] == "-"


@pytest.mark.parametrize("status", list(ExperimentStatus))
def test_every_status_has_a_sign_and_its_word(status: ExperimentStatus) -> None:
    """Colour is never the only sign, and the word fits its column."""
    shown = texts(observation(status))["status"]

    assert shown.endswith(f" {status}")
    assert len(shown) <= next(c.width for c in EXPERIMENT_COLUMNS if c.key == "status")


@given(
    text=st.text(max_size=50),
    number=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([])
    ),
)
def test_whatever_a_record_says_becomes_harmless_cells(text: str, number: object) -> None:
    """No control character, no line feed and no exception comes from a record's members."""
    progress = Progress(
        episode=number,  # type: ignore[arg-type]
        episodes=number,  # type: ignore[arg-type]
        timesteps=number,  # type: ignore[arg-type]
        total_timesteps=number,  # type: ignore[arg-type]
        mean_reward=number,  # type: ignore[arg-type]
    )
    record = Record(
        experiment="quick-0001",
        attempt=1,
        state=f"\x1b]52;c;aGk=\x07{text}",
        updated=NOW,
        progress=progress,
        exit=Exit(code=None, signal=text, kind=text, hint=text),
    )
    member = Member(name="quick-0001", status=text, error_code=text)

    for status in (ExperimentStatus.RUNNING, ExperimentStatus.FAILED):
        row = observation(status, member=member, record=record, reason=text)
        for cell in experiment_cells(row, NOW):
            assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in cell.text)


def test_a_sweep_that_was_not_looked_at_yet_shows_what_the_listing_says() -> None:
    """Name, number of experiments and age are known before the first look."""
    summary = SweepSummary(
        name="study", created=NOW - timedelta(days=3), experiments=24, group=None
    )
    cells = sweep_cells(SweepState(summary=summary), NOW)

    assert [cell.text for cell in cells] == ["study", "… looking", "?/24", "", "-", "3d"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0, "0s"), (89, "89s"), (90, "1m"), (5400, "1h"), (86400 * 2, "2d")],
)
def test_ages_are_short(seconds: int, shown: str) -> None:
    """At most four characters; a clock that runs ahead shows no negative age."""
    assert age_text(NOW - timedelta(seconds=seconds), NOW) == shown


@given(width=st.integers(0, 400), columns=st.sampled_from([EXPERIMENT_COLUMNS, SWEEP_COLUMNS]))
def test_columns_never_take_more_room_than_there_is(width: int, columns: tuple) -> None:  # type: ignore[type-arg]
    """They fit with a cell between two; the one of the highest rank is always there."""
    fitted = fit_columns(columns, width)

    assert fitted[0][0] == 0
    assert sum(size for _, size in fitted) + len(fitted) - 1 <= max(1, width)
    assert [index for index, _ in fitted] == sorted(index for index, _ in fitted)


def test_a_small_terminal_shows_all_but_try_and_reason() -> None:
    """80 columns hold what must be seen; what is left out shows in the log's frame."""
    shown = {EXPERIMENT_COLUMNS[index].key for index, _ in fit_columns(EXPERIMENT_COLUMNS, 75)}

    assert shown == {"id", "status", "progress", "reward", "beat", "instance", "container"}
