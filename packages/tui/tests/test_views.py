from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.contract import (
    Attempt,
    Dispatch,
    Exit,
    Experiment,
    Image,
    Machine,
    Manifest,
    Progress,
    Record,
    Source,
)
from gcloud_ops.model import (
    Container,
    ExperimentStatus,
    Member,
    Observation,
    Snapshot,
    SweepSummary,
)
from sinergym_tui.trails import Trail
from sinergym_tui.views.cells import (
    age_text,
    count_text,
    fit_columns,
    money_text,
    sparkline,
)
from sinergym_tui.views.charts import chart
from sinergym_tui.views.experiment import Extras, curve_of, experiment_sections
from sinergym_tui.views.query import Order, arrange, parse_query
from sinergym_tui.views.sweep import (
    EXPERIMENT_COLUMNS,
    Row,
    experiment_cells,
    experiment_texts,
    experiment_value,
)
from sinergym_tui.views.sweeps import (
    SWEEP_COLUMNS,
    Cost,
    SweepState,
    facts_of,
    news_of,
    seems_interrupted,
    sweep_cells,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
finite = st.floats(allow_nan=False, allow_infinity=False)


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


def row_of(seen: Observation, trail: Trail | None = None) -> Row:
    """A row with nothing known besides."""
    return Row(seen, trail, "", None)


def texts(seen: Observation, trail: Trail | None = None) -> dict[str, str]:
    """The row's texts by column."""
    cells = experiment_cells(row_of(seen, trail), NOW)
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

    trail = Trail(attempt=2, rewards=(-400.0, -300.0, -212.54), pace=123.4)
    assert texts(observation(member=member, record=record), trail) == {
        "id": "quick-0001",
        "status": "▶ running",
        "progress": "██░░░  50% 1/2",
        "pace": "123",
        "reward": "-212.5",
        "trend": "▁▄█",
        "beat": "5s",
        "instance": "RUNNING",
        "container": "running",
        "attempt": "2",
        "cost": "-",
        "host": "-",
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
        for cell in experiment_cells(row_of(row), NOW):
            assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in cell.text)


def test_a_sweep_that_was_not_looked_at_yet_shows_what_the_listing_says() -> None:
    """Name, number of experiments and age are known before the first look."""
    summary = SweepSummary(
        name="study", created=NOW - timedelta(days=3), experiments=24, group=None
    )
    cells = sweep_cells(SweepState(summary=summary), NOW)

    shown = {c.key: cell.text for c, cell in zip(SWEEP_COLUMNS, cells, strict=True)}
    wanted = {"name": "study", "state": "… looking", "done": "?/24", "instances": "-", "age": "3d"}
    assert shown.items() >= wanted.items()


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
    """80 columns hold what must be seen; what is left out shows below the table."""
    shown = {EXPERIMENT_COLUMNS[index].key for index, _ in fit_columns(EXPERIMENT_COLUMNS, 75)}

    assert shown == {"id", "status", "progress", "reward", "beat", "instance", "container"}


# -------------------------------------------------------------- filter and order


def numbered(number: int, status: ExperimentStatus, reward: float | None = None) -> Row:
    """An experiment of a sweep of many."""
    name = f"quick-{number:04d}"
    record = Record(
        experiment=name, attempt=1, state=str(status), progress=Progress(mean_reward=reward)
    )
    experiment = Experiment(id=name, command=f"train --algorithm {'PPO' if number % 2 else 'SAC'}")
    return row_of(Observation(experiment=experiment, member=None, record=record, status=status))


SOME = [
    numbered(1, ExperimentStatus.RUNNING, -3.0),
    numbered(2, ExperimentStatus.FAILED),
    numbered(3, ExperimentStatus.FINISHED, -1.0),
    numbered(12, ExperimentStatus.RUNNING, -2.0),
]


def found(text: str, order: Order | None = None) -> list[str]:
    """The numbers of the rows that a query finds, in their order."""
    columns = [name for name in experiment_texts(SOME[0]) if name]
    rows = arrange(
        SOME,
        parse_query(text, columns),
        order or Order(),
        texts=experiment_texts,
        value=experiment_value,
    )
    return [row.seen.id.lstrip("quick-0") for row in rows]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ["1", "2", "3", "12"]),
        ("status:fail", ["2"]),
        ("stat:running", ["1", "12"]),
        ("!status:running", ["2", "3"]),
        ("q12", ["12"]),
        ("ppo running", ["1"]),
        ("!sac", ["1", "3"]),
        ("nothing:here", []),
        ("status:", ["1", "2", "3", "12"]),
        ("!", ["1", "2", "3", "12"]),
    ],
)
def test_a_query_finds(text: str, numbers: list[str]) -> None:
    """Words, columns, and what must not be there."""
    assert found(text) == numbers


@pytest.mark.parametrize(
    ("column", "descending", "numbers"),
    [
        ("reward", False, ["1", "12", "3", "2"]),
        ("reward", True, ["3", "12", "1", "2"]),
        ("status", False, ["1", "12", "3", "2"]),
        ("none-such", True, ["1", "2", "3", "12"]),
    ],
)
def test_rows_without_a_value_come_last(column: str, descending: bool, numbers: list[str]) -> None:
    """Whatever the direction."""
    assert found("", Order(column=column, descending=descending)) == numbers


@given(
    values=st.lists(st.none() | st.floats() | st.text(max_size=3) | st.integers() | st.booleans()),
    descending=st.booleans(),
)
def test_any_values_can_be_ordered(values: list[object], descending: bool) -> None:
    """A runner may write anything as a number."""
    order = Order(column="x", descending=descending)
    rows = arrange(
        values, parse_query("", []), order, texts=lambda _v: {}, value=lambda v, _column: v
    )
    assert sorted(map(repr, rows)) == sorted(map(repr, values))


@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=3))
def test_any_text_is_a_query(text: str, columns: list[str]) -> None:
    """Nothing that is typed is an error."""
    parse_query(text, columns).matches({"": text})


# --------------------------------------------------------------------- numbers


@given(st.lists(st.floats(), max_size=40), st.integers(1, 20))
def test_a_sparkline_is_never_too_wide(values: list[float], width: int) -> None:
    """Infinite numbers and no numbers are left out."""
    assert len(sparkline(values, width)) <= width


@given(st.floats(0, 1e15))
def test_counts_are_short(value: float) -> None:
    """At most seven characters, the width of their column."""
    assert len(count_text(value)) <= 7


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [(None, "-"), (0.0, "$0.00"), (0.004, "$0.004"), (1.2, "$1.20"), (1240.4, "$1,240")],
)
def test_money_is_rounded_to_what_counts(dollars: float | None, shown: str) -> None:
    """Fractions of a cent are shown only where there is no more."""
    assert money_text(dollars) == shown


# ------------------------------------------------------------------ experiment


def test_an_experiment_tells_its_whole_life() -> None:
    """The timeline has each attempt with its reason, and what to do now."""
    history = (
        Attempt(
            number=1,
            kind="preempted",
            started=NOW - timedelta(hours=3),
            ended=NOW - timedelta(hours=2),
        ),
    )
    record = Record(
        experiment="quick-0001",
        attempt=2,
        state="failed",
        started=NOW - timedelta(hours=2),
        ended=NOW - timedelta(minutes=5),
        exit=Exit(code=137, signal=None, kind="oom", hint="7 GB used"),
        history=history,
    )
    seen = observation(ExperimentStatus.FAILED, record=record, reason="7 GB used")
    state = state_of(seen)
    sections = experiment_sections(state, row_of(seen), Extras(), NOW, is_google=True)
    text = "\n".join(
        f"{line.label} {line.cell.text}" for section in sections for line in section.lines
    )

    assert "attempt 1: preempted after 60m" in text
    assert "attempt 2: failed, 1h" in text
    assert "ran out of memory" in text
    assert "machine type with more memory" in text
    assert "https://console.cloud.google.com/storage/browser/b/quick/quick-0001" in text


def test_an_experiment_that_has_everything_shows_it() -> None:
    """Costs, states with their reasons, each attempt, container, image, links."""
    record = Record(
        experiment="quick-0001",
        attempt=3,
        state="running",
        started=NOW - timedelta(minutes=30),
        updated=NOW - timedelta(seconds=4),
        progress=Progress(episode=5, episodes=20, timesteps=3360, mean_reward=-312.5),
        history=(
            Attempt(number=1, kind="preempted", started=NOW - timedelta(hours=3)),
            Attempt(
                number=2,
                kind="error",
                hint="the weather file is cut off",
                started=NOW - timedelta(hours=2),
                ended=NOW - timedelta(hours=1),
            ),
        ),
        mlflow_run="abc",
        mlflow_url="http://10.0.0.2:5000/#/experiments/1/runs/abc",
        versions={"sinergym": "3.12.2"},
        silent_because="Monitoring answers with 403",
    )
    member = Member(
        name="quick-0001", zone="europe-west1-c", id="7", action="NONE", status="RUNNING"
    )
    seen = observation(member=member, record=record, reason="heartbeats come late")
    state = state_of(seen)
    assert state.snapshot is not None
    manifest = replace(
        state.snapshot.manifest,
        machine=Machine(types=("n2-highcpu-8", "n2d-highcpu-8"), spot=True),
        image=Image(name="registry/trainer:3.12", digest="sha256:c0ffee"),
        source=Source(commit="0123456789abcdef", branch="main", dirty=True),
    )
    snapshot = replace(state.snapshot, manifest=manifest)
    costs = {"quick-0001": Cost(spent=0.13, projected=0.4)}
    state = replace(state, snapshot=snapshot, facts=facts_of(snapshot, costs=costs))
    extras = Extras(
        outputs=(("model.zip", 1_482_113),),
        containers=(
            Container(
                instance="quick-0001",
                id="c0ffee",
                name="sinergym",
                image="registry/trainer@sha256:c0ffee",
                state="running",
                status="Up 29 minutes",
            ),
        ),
    )

    row = Row(seen, None, "10.0.0.7", 0.13)
    lines = [
        f"{line.label}: {line.cell.text}"
        for section in experiment_sections(state, row, extras, NOW, is_google=True)
        for line in section.lines
    ]

    for line in (
        "cost: $0.13 spent of $0.40 in all, as it looks",
        "reason: heartbeats come late",
        "no signal: Monitoring answers with 403",
        "now: ▶ running heartbeats come late",
        "instance: RUNNING · europe-west1-c",
        "address: 10.0.0.7",
        "machine: n2-highcpu-8, or n2d-highcpu-8 · Spot",
        "image: registry/trainer:3.12@sha256:c0ffee",
        "source: main 0123456789ab with changes: source.diff",
        "sinergym: running · Up 29 minutes · registry/trainer@sha256:c0ffee",
        "sinergym: 3.12.2",
        "MLflow: http://10.0.0.2:5000/#/experiments/1/runs/abc",
        "bucket: gs://b/quick/quick-0001/",
    ):
        assert line in lines
    text = "\n".join(lines)
    assert "attempt 1: preempted" in text
    assert "attempt 2: error after 60m" in text
    assert ": the weather file is cut off" in text
    assert "attempt 3: running, 30m" in text
    assert "instances/quick-0001?project=p" in text


def state_of(*rows: Observation) -> SweepState:
    """A sweep with these experiments."""
    manifest = Manifest(
        sweep="quick",
        created=NOW - timedelta(hours=4),
        project="p",
        zone="europe-west1-b",
        template="t",
        dispatch=Dispatch.BOOT,
        launcher={},
        experiments=tuple(row.experiment for row in rows),
    )
    seen = Snapshot(manifest=manifest, bucket="b", rows=rows, taken=NOW, group_exists=True)
    summary = SweepSummary(name="quick", created=manifest.created, experiments=1, group=None)
    return SweepState(summary=summary, snapshot=seen, facts=facts_of(seen))


def test_a_sweeps_last_event_is_its_newest() -> None:
    """What has happened last stands in its row."""
    ended = Record(
        experiment="quick-0001",
        attempt=1,
        state="failed",
        ended=NOW - timedelta(minutes=5),
        exit=Exit(code=1, signal=None, kind="error"),
    )
    state = state_of(observation(ExperimentStatus.FAILED, record=ended))

    assert sweep_cells(state, NOW)[-1].text == "5m ago: 0001 failed (error)"


def test_a_launch_that_nobody_goes_on_with_is_noticed() -> None:
    """VMs that were not asked for after a while; not those that Compute Engine can't make."""
    pending = state_of(observation(ExperimentStatus.PENDING))
    queued = state_of(observation(ExperimentStatus.QUEUED))
    created = pending.summary.created
    assert created is not None

    assert not seems_interrupted(pending, created + timedelta(seconds=20))
    assert seems_interrupted(pending, created + timedelta(seconds=40))
    assert not seems_interrupted(queued, created + timedelta(seconds=40))


def test_news_is_what_was_not_there_at_the_look_before() -> None:
    """A sweep that is seen first, and an event that was taken back, are none."""
    begun = Record(experiment="quick-0001", attempt=1, state="running", started=NOW)
    ended = replace(
        begun,
        state="finished",
        ended=NOW + timedelta(seconds=9),
        exit=Exit(code=0, signal=None, kind="ok"),
    )
    running = state_of(observation(ExperimentStatus.RUNNING, record=begun))
    finished = state_of(observation(ExperimentStatus.FINISHED, record=ended))

    news = news_of([running], [finished])
    assert news is not None
    assert (news[0], news[1].what) == ("quick", "0001 finished")
    assert news_of([finished], [finished]) is None
    assert news_of([finished], [running]) is None
    assert news_of([], [finished]) is None
    assert news_of([SweepState(summary=finished.summary)], [finished]) is None


def test_a_curve_is_drawn_in_text() -> None:
    """The highest value above, the first step to the left; what is equal lies in the middle."""
    assert chart((0.0, 1.0), (0.0, 1.0), 3, 1) == ("⡠⠔⠊",)
    assert chart((0.0, 1.0), (1.0, 0.0), 3, 1) == ("⠑⠢⢄",)
    assert chart((0.0, 1.0), (0.0, 1.0), 2, 2) == (" ⡜", "⡜ ")
    assert chart((0.0, 9.0), (5.0, 5.0), 4, 2) == ("    ", "⠉⠉⠉⠉")


@given(st.lists(st.tuples(finite, finite), max_size=20), st.integers(1, 9), st.integers(1, 5))
def test_any_numbers_are_drawn_in_their_room(
    points: list[tuple[float, float]], width: int, height: int
) -> None:
    """However large they are, and in whatever order."""
    rows = chart(tuple(x for x, _ in points), tuple(y for _, y in points), width, height)

    assert [len(row) for row in rows] == [width] * height


def test_a_learning_curve_is_read_from_the_loggers_table() -> None:
    """Rows without a value, and those cut off, are left out."""
    table = b"time/total_timesteps,rollout/ep_rew_mean\n1,-3\n2,\n3,-1\n4"
    curve = curve_of(table)

    assert curve is not None
    assert (curve.steps, curve.values) == ((1.0, 3.0), (-3.0, -1.0))


def test_a_curve_has_a_point_for_each_episode_where_they_are_known() -> None:
    """An algorithm that seldom writes a mean has the same steps as the others."""
    table = (
        b"time/total_timesteps,rollout/ep_rew_mean,episode/cumulative_reward\n"
        b"672,,-184\n800,-184,\n1344,,-125\n1344,,\n"
    )
    curve = curve_of(table)

    assert curve is not None
    assert (curve.what, curve.values) == ("reward of an episode", (-184.0, -125.0))
    assert curve.steps == (672.0, 1344.0)


def test_a_zone_is_no_address() -> None:
    """An instance that is not there yet has none."""
    member = Member(name="quick-0001", id="", status="", action="CREATING", zone="europe-west1-b")
    seen = observation(ExperimentStatus.QUEUED, member=member)
    state = state_of(seen)

    for host, addresses in (("europe-west1-b", []), ("10.0.0.7", ["10.0.0.7"])):
        row = row_of(seen)._replace(host=host)
        sections = experiment_sections(state, row, Extras(), NOW, is_google=False)
        lines = [line for section in sections for line in section.lines]
        assert [line.cell.text for line in lines if line.label == "address"] == addresses


def test_the_outputs_at_the_top_come_first() -> None:
    """The model is to be seen, however much lies in folders."""
    deep = tuple((f"data/episode-{number}/weather.epw", 1) for number in range(60))
    seen = observation(ExperimentStatus.FINISHED)
    extras = Extras(outputs=(*deep, ("model.zip", 9)))
    sections = experiment_sections(state_of(seen), row_of(seen), extras, NOW, is_google=False)
    lines = next(section.lines for section in sections if section.title == "Outputs")

    assert [line.cell.text for line in lines[:2]] == ["61, 69 B", "model.zip"]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_none(table: bytes) -> None:
    """A file of that name may hold anything."""
    curve_of(table)
    curve_of(b"time/total_timesteps,rollout/ep_rew_mean\n" + table)
