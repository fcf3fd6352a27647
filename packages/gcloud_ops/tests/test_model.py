"""The nouns: names, JSON forms, and the one function that derives an experiment's status."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcloud_ops.contract import (
    Attempt,
    Dispatch,
    Exit,
    Experiment,
    Manifest,
    Progress,
    Record,
    parse_time,
    timestamp,
)
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import (
    MAX_EXPERIMENTS,
    ExperimentStatus,
    Member,
    Observation,
    Snapshot,
    Sweep,
    check_sweep_name,
    status_of,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
S = ExperimentStatus


def member(action: str = "NONE", status: str = "RUNNING", error: str = "") -> Member:
    """A member of a group, with an instance."""
    return Member(name="q-0001", id="77", action=action, status=status, error_code=error)


def record(
    state: str, *, age: float = 1, instance: str = "77", attempt: int = 1, hint: str = ""
) -> Record:
    """A record that was written so many seconds ago."""
    return Record(
        experiment="q-0001",
        attempt=attempt,
        state=state,
        instance_id=instance,
        updated=NOW - timedelta(seconds=age),
        exit=Exit(code=3, signal=None, kind="error", hint=hint) if hint else None,
    )


@pytest.mark.parametrize(
    ("seen", "said", "group", "status", "reason"),
    [
        # Nothing has been said yet: Compute Engine's view.
        (None, None, False, S.PENDING, "no instance group: the launch was interrupted"),
        (None, None, True, S.PENDING, "no instance yet"),
        (member("CREATING", ""), None, True, S.PROVISIONING, "creating"),
        (member("CREATING", "STAGING"), None, True, S.PROVISIONING, "creating"),
        (member("VERIFYING", "PROVISIONING"), None, True, S.PROVISIONING, "verifying"),
        (
            member("CREATING", "", "QUOTA_EXCEEDED"),
            None,
            True,
            S.QUEUED,
            "the project's quota is used up",
        ),
        (member("CREATING", "", "ZONE_X"), None, True, S.QUEUED, "ZONE_X"),
        (member(), None, True, S.STARTING, ""),
        (member("NONE", "RUNNING", "OLD_ERROR"), None, True, S.STARTING, ""),
        (member("DELETING"), None, True, S.LOST, "its instance is being deleted"),
        (member("ABANDONING"), None, True, S.LOST, "its instance is being deleted"),
        # The runner speaks, and its instance is there.
        (member(), record("waiting"), True, S.WAITING, ""),
        (member(), record("running"), True, S.RUNNING, ""),
        (member(), record("uploading"), True, S.UPLOADING, ""),
        (member(), record("pondering"), True, S.RUNNING, "pondering"),
        (member(), record("running", age=89), True, S.RUNNING, ""),
        (member(), record("running", age=200), True, S.UNREACHABLE, "no word for 200 s"),
        # An instance made anew, whose runner has not claimed its attempt yet.
        (member(), record("running", instance="5"), True, S.STARTING, "attempt 2, on a new"),
        (member(), record("running", instance=""), True, S.RUNNING, ""),
        # The instance is gone, the record is not final.
        (None, record("running"), True, S.LOST, "its instance is gone while running"),
        (None, record("waiting"), False, S.LOST, "its instance is gone while waiting"),
        (member("DELETING"), record("running"), True, S.LOST, "being deleted"),
        # It is to run again, or the runner itself tries once more.
        (None, record("again", age=9999), False, S.PENDING, "to run again: no instance yet"),
        (None, record("again", age=9999), True, S.PENDING, "to run again: no instance yet"),
        (member("DELETING"), record("again"), True, S.PROVISIONING, "old instance is being"),
        (member("CREATING", ""), record("again"), True, S.PROVISIONING, "creating"),
        (member(), record("again", age=9999), True, S.STARTING, "attempt 2"),
        (member(), record("again", instance="5"), True, S.STARTING, "attempt 2, on a new"),
        (member(), record("retrying"), True, S.RETRYING, "after attempt 1"),
        (member(), record("retrying", age=200), True, S.UNREACHABLE, "no word for 200 s"),
        # Preempted, and no room for the next: it waits, for as long as it takes.
        (
            member("RECREATING", "", "ZONE_RESOURCE_POOL_EXHAUSTED"),
            record("running", age=99999),
            True,
            S.QUEUED,
            "the zone has no such machines",
        ),
        (member("RECREATING", "STAGING"), record("running", age=999), True, S.PROVISIONING, "re"),
    ],
)
def test_status(
    seen: Member | None, said: Record | None, group: bool, status: S, reason: str
) -> None:
    """The truth table of what is not at its end."""
    found, why = status_of(seen, said, now=NOW, group_exists=group)

    assert found is status
    assert reason in why
    assert bool(reason) == bool(why)


def test_why_it_is_tried_again() -> None:
    """The last attempt's end, in words."""
    last = Attempt(number=2, kind="oom", hint="Killed")
    said = replace(record("retrying", attempt=3), history=(last,))

    found = status_of(member(), said, now=NOW, group_exists=True)

    assert found == (S.RETRYING, "attempt 2: ran out of memory: Killed")


@pytest.mark.parametrize(
    ("spent", "seconds", "reason"),
    [
        (0.0, 3600, "its instance is gone while running"),
        (3000.0, 3600, "out of time: its limit of 1 h is used up"),
        (3000.0, None, "its instance is gone while running"),
    ],
)
def test_a_limit_that_is_used_up(spent: float, seconds: int | None, reason: str) -> None:
    """Google has ended the VM: that is told from one that went by itself."""
    begun = NOW - timedelta(minutes=15)
    said = replace(record("running", age=300), spent=spent, started=begun)

    found = status_of(None, said, now=NOW, group_exists=True, seconds=seconds)

    assert found == (S.LOST, reason)


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (record("finished"), S.FINISHED, ""),
        (record("finished", age=9999), S.FINISHED, ""),
        (record("failed", hint="exit code 3"), S.FAILED, "exit code 3"),
        (record("failed"), S.FAILED, ""),
        (record("cancelled", hint="cancelled"), S.CANCELLED, "cancelled"),
        (record("idle"), S.FAILED, "no command came"),
        (record("idle", hint="patience"), S.FAILED, "patience"),
    ],
)
@pytest.mark.parametrize(
    ("seen", "group"),
    [
        (None, False),
        (None, True),
        (member(), True),
        (member("DELETING", "STOPPING"), True),
        (member("CREATING", "", "QUOTA_EXCEEDED"), True),
    ],
)
def test_a_final_record_is_the_last_word(
    seen: Member | None, group: bool, said: Record, status: S, reason: str
) -> None:
    """Whatever the group shows."""
    assert status_of(seen, said, now=NOW, group_exists=group) == (status, reason)


@pytest.mark.parametrize("name", ["a", "quick", "a-1", "a" * 54, "z9"])
def test_names_that_google_takes(name: str) -> None:
    """With an experiment's number after it, it is a Compute Engine name."""
    assert check_sweep_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "1a", "A", "a_b", "a b", "a" * 55, "ä", "a\n", "a/b", "../a"]
)
def test_names_that_google_refuses(name: str) -> None:
    """One line that names the field and says what is allowed."""
    with pytest.raises(InvalidRequest, match=r"^name: .*lower-case") as raised:
        check_sweep_name(name)
    assert "\n" not in str(raised.value)


def test_sweeps_that_cannot_be() -> None:
    """No commands, an empty one, too many."""
    with pytest.raises(InvalidRequest, match="no experiments"):
        Sweep.of_commands("q", [])
    with pytest.raises(InvalidRequest, match="q-0002 is empty"):
        Sweep.of_commands("q", ["a", "\n"])
    assert len(Sweep.of_commands("q", ["a"] * MAX_EXPERIMENTS).experiments) == MAX_EXPERIMENTS
    with pytest.raises(InvalidRequest, match="at most 1000"):
        Sweep.of_commands("q", ["a"] * (MAX_EXPERIMENTS + 1))


@given(
    commands=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=3),
    created=st.datetimes(
        min_value=datetime(2000, 1, 1),
        timezones=st.just(timezone(timedelta(hours=5, minutes=30))),
    ),
    dispatch=st.sampled_from(Dispatch),
)
def test_manifest_survives_its_json(
    commands: list[str], created: datetime, dispatch: Dispatch
) -> None:
    """What is written is what is read, to the millisecond."""
    manifest = Manifest(
        sweep="q",
        created=created.replace(microsecond=created.microsecond // 1000 * 1000),
        project="p",
        zone="z",
        template="t",
        dispatch=dispatch,
        launcher={"user": "ana"},
        experiments=Sweep.of_commands("q", commands).experiments,
    )

    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"schema": 2}', "{}", '{"schema": 1}', '{"schema": 1, "sweep": "q"}'],
)
def test_broken_documents(text: str) -> None:
    """What is no manifest, or one of another schema, is refused in our own words."""
    with pytest.raises(InvalidRequest, match="manifest"):
        Manifest.from_json(text)
    with pytest.raises(InvalidRequest, match="record"):
        Record.from_json(text)


def test_a_record_of_the_contract() -> None:
    """The contract's example is read; members that nobody knows yet are kept."""
    found = Record.from_json(
        """{"schema": 1, "sweep": "q", "experiment": "q-0001", "attempt": 2, "state": "failed",
        "instance_id": "123", "started": "2026-11-22T10:00:00Z", "updated": null,
        "progress": {"episode": 1, "episodes": 2, "timesteps": 672, "total_timesteps": 1344,
                     "mean_reward": -212.5, "new": 1},
        "exit": {"code": null, "signal": "SIGKILL", "kind": "oom", "hint": null},
        "mlflow": {"run_id": "r", "url": "http://x"}, "outputs": null, "newer": {"a": 1}}""",
        generation=9,
    )

    assert (found.attempt, found.generation, found.is_final) == (2, 9, True)
    assert found.progress.fraction == 0.5
    assert found.exit == Exit(code=None, signal="SIGKILL", kind="oom", hint="")
    assert (found.mlflow_run, found.mlflow_url) == ("r", "http://x")
    assert found.started == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert found.updated is None
    assert found.raw["newer"] == {"a": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)
MEMBERS = {
    "episode": JSON,
    "timesteps": JSON | st.just(10**400),
    "total_timesteps": JSON | st.integers(-3, 10**400),
    "mean_reward": JSON,
}
EXIT = {"code": JSON, "signal": JSON, "kind": JSON, "hint": JSON}
DOCUMENTS = st.fixed_dictionaries(
    {"schema": st.just(1)},
    optional={
        "experiment": st.text(max_size=9) | JSON,
        "attempt": st.integers(0, 9) | JSON,
        "state": st.sampled_from(["running", "finished", "failed", "new"]) | JSON,
        "started": st.datetimes(timezones=st.timezones()).map(datetime.isoformat) | JSON,
        "updated": st.just("0001-01-01T00:00:00+10:00") | JSON,
        "progress": st.fixed_dictionaries({}, optional=MEMBERS) | JSON,
        "exit": st.fixed_dictionaries({}, optional=EXIT) | JSON,
        "mlflow": st.fixed_dictionaries({}, optional={"run_id": JSON, "url": JSON}) | JSON,
        "versions": st.dictionaries(st.text(max_size=3), JSON, max_size=2) | JSON,
        "instance_id": JSON,
    },
)


@given(content=st.dictionaries(st.text(max_size=8), JSON, max_size=5) | DOCUMENTS)
@settings(max_examples=400)
def test_any_object_is_a_record_or_refused(content: dict[str, object]) -> None:
    """Whatever somebody has written into a record, looking at it never breaks."""
    try:
        found = Record.from_json(json.dumps(content))
    except InvalidRequest:
        return

    status, reason = status_of(None, found, now=NOW, group_exists=True)
    progress, end = found.progress, found.exit
    assert (isinstance(status, S), isinstance(reason, str)) == (True, True)
    assert found.is_final in {True, False}
    assert progress.fraction is None or 0.0 <= progress.fraction <= 1.0
    for count in (progress.episode, progress.timesteps, progress.total_timesteps):
        assert count is None or type(count) is int
    assert progress.mean_reward is None or abs(progress.mean_reward) < 2**63
    assert end is None or (end.code is None or type(end.code) is int)
    assert end is None or (end.signal is None or type(end.signal) is str)
    assert all(type(text) is str for text in (found.mlflow_url, found.mlflow_run))
    for moment in (found.started, found.updated, found.ended):
        assert moment is None or timestamp(moment).endswith("Z")


def test_nesting_that_never_ends_is_refused() -> None:
    """Python's own limit of recursion is no crash of ours."""
    with pytest.raises(InvalidRequest, match="not JSON"):
        Record.from_json('{"schema": 1, "progress": ' + "[" * 100_000)


def test_times() -> None:
    """RFC 3339 in UTC; what has no offset is UTC."""
    assert timestamp(NOW) == "2026-11-22T12:00:00.000Z"
    assert parse_time("2026-11-22T12:00:00") == NOW
    assert parse_time("2026-11-22T13:00:00+01:00") == NOW


def test_progress_without_a_total() -> None:
    """No fraction is better than a wrong one."""
    assert Progress().fraction is None
    assert Progress(timesteps=5).fraction is None
    assert Progress(timesteps=5, total_timesteps=0).fraction is None
    assert Progress(timesteps=50, total_timesteps=40).fraction == 1.0


def test_snapshot_sums_up() -> None:
    """Counts in the order of the statuses; final, good and gone follow from the rows."""

    def observation(status: S, seen: Member | None) -> Observation:
        experiment = Experiment(id="q-0001", command="a")
        return Observation(experiment=experiment, member=seen, record=None, status=status)

    def snapshot(*rows: Observation, group: bool = False) -> Snapshot:
        manifest = Manifest(
            sweep="q",
            created=NOW,
            project="p",
            zone="z",
            template="t",
            dispatch=Dispatch.SSH,
            launcher={},
            experiments=(),
        )
        return Snapshot(manifest=manifest, bucket="b", rows=rows, taken=NOW, group_exists=group)

    done, lost = observation(S.FINISHED, None), observation(S.LOST, None)
    running = observation(S.RUNNING, member())

    mixed = snapshot(lost, done, running, done, group=True)
    assert list(mixed.counts.items()) == [(S.RUNNING, 1), (S.FINISHED, 2), (S.LOST, 1)]
    assert not mixed.is_final
    assert not mixed.is_good
    assert not mixed.is_gone
    assert snapshot(done, done).is_good
    assert snapshot(done, lost).is_final
    assert not snapshot(done, lost).is_good
    assert snapshot(done).is_gone
    assert not snapshot(done, group=True).is_gone
