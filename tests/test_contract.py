"""docs/contract.md, held on both sides: what the launcher writes the runner reads, and back."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.clouds import ROOT

from gcloud_ops import finishing, instances, launching, startup, tracking
from gcloud_ops import signals as seen_signals
from gcloud_ops.contract import Dispatch, Experiment, Manifest
from gcloud_ops.contract import Record as SeenRecord
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import ExperimentStatus, Member, status_of
from mlflow_infra import wanted
from sinergym_trainer.runner import credentials, signals
from sinergym_trainer.runner import finishing as runner_finishing
from sinergym_trainer.runner.record import (
    Exit,
    Record,
    claim,
    is_final,
    metadata_of,
    parse_record,
)
from sinergym_trainer.runner.terms import terms_of

CONTRACT = (ROOT / "docs" / "contract.md").read_text()
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
STATES = (
    "waiting",
    "running",
    "uploading",
    "retrying",
    "again",
    "finished",
    "failed",
    "cancelled",
    "idle",
)
UP = Member(name="quick-0001", id="1234567890", status="RUNNING")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3000)
records = st.builds(
    Record,
    sweep=st.just("quick"),
    experiment=st.just("quick-0001"),
    instance=st.just("quick-0001"),
    instance_id=st.just("1234567890"),
    attempt=st.integers(1, 99),
    state=st.sampled_from(STATES),
    command=texts,
    versions=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=9),
    started=st.just("2026-11-22T09:59:00Z"),
    updated=st.just("2026-11-22T09:59:59Z"),
    progress=st.fixed_dictionaries(
        {}, optional={"episode": st.integers(0, 9), "mean_reward": st.floats(-9, 9)}
    ),
    exit=st.none()
    | st.builds(
        Exit,
        code=st.integers(0, 255),
        signal=st.none() | st.just("SIGTERM"),
        kind=st.sampled_from(["ok", "error", "oom"]),
        hint=st.none() | texts,
    ),
)


@given(records)
def test_the_launcher_reads_what_the_runner_writes(record: Record) -> None:
    """Object and metadata say the same, within 8 KiB, and every state has a status."""
    whole = SeenRecord.from_json(json.dumps(record.to_json()), generation=7)
    listed = SeenRecord.from_json(metadata_of(record), generation=7)

    assert len(metadata_of(record)) < 8192
    for seen in (whole, listed):
        assert (seen.experiment, seen.attempt, seen.state) == (
            record.experiment,
            record.attempt,
            record.state,
        )
        assert seen.exit == whole.exit or record.exit is not None
        assert (seen.exit is None) == (record.exit is None)
    status, _ = status_of(UP, whole, now=NOW, group_exists=True)
    assert status.is_final == whole.is_final
    if not whole.is_final:
        assert status == ("starting" if record.state == "again" else record.state)


def test_states_of_the_contract_are_the_states_of_both_sides() -> None:
    """The page's table of states, and which are final, is what the code does."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes|no) \|$", CONTRACT, re.MULTILINE)

    assert [name for name, _ in rows] == list(STATES)
    for name, final in rows:
        seen = SeenRecord(experiment="quick-0001", attempt=1, state=name)
        assert seen.is_final == (final == "yes")
        found = {"schema": 1, "state": name, "attempt": 1}
        claimed = claim(found, DRAFT, now="2026-11-22T10:00:00Z")
        assert (claimed is None) == (final == "yes")


DRAFT = Record(sweep="quick", experiment="quick-0001", instance="quick-0001", instance_id="2")


@pytest.mark.parametrize("dispatch", list(Dispatch))
def test_the_runner_reads_the_launchers_manifest(dispatch: Dispatch) -> None:
    """With `boot` the runner finds its own command in it; with `ssh` it waits for one."""
    manifest = Manifest(
        sweep="quick",
        created=NOW,
        project="local",
        zone="europe-west1-b",
        template="t",
        dispatch=dispatch,
        launcher={"user": "ana"},
        experiments=(
            Experiment(id="quick-0001", command="a"),
            Experiment(id="quick-0002", command="b 'ü'"),
        ),
    )
    expected = "b 'ü'" if dispatch is Dispatch.BOOT else None

    terms = terms_of(manifest.to_json().encode(), "quick-0002")
    assert terms.command == expected
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_examples_of_the_page_are_read_by_the_code() -> None:
    """The JSON that the page shows is a manifest and a record to both sides."""
    blocks = re.findall(r"^    (\{\"schema\": 1.*?\})\n\n", CONTRACT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3, "a manifest, a record, a marker"
    manifest, record, marker = (
        block.replace('"..."', '"2026-11-22T10:00:00Z"') for block in blocks
    )

    assert Manifest.from_json(manifest).experiments[0].id == "quick-0001"
    assert Manifest.from_json(manifest).alert_each
    assert json.loads(marker).keys() == marker_members()
    assert parse_record(record.encode())["state"] == "running"
    seen = SeenRecord.from_json(record)
    assert seen.progress.fraction == 0.5
    assert seen.mlflow_url


def marker_members() -> set[str]:
    """The members of a sweep's marker, as the launcher writes it."""
    return {*finishing._marker_of(MANIFEST, "finished"), "written", "labels"}


MANIFEST = Manifest(
    sweep="quick",
    created=NOW,
    project="local",
    zone="europe-west1-b",
    template="t",
    dispatch=Dispatch.SSH,
    launcher={},
    experiments=(Experiment(id="quick-0001", command="true"),),
    alert_each=True,
)


def test_the_metrics_and_their_labels_are_those_of_the_page() -> None:
    """Runner, launcher, policies and page mean the same two metrics."""
    rows = re.findall(r"^\| `(custom\.googleapis\.com/\S+)` \| (.+) \|$", CONTRACT, re.MULTILINE)
    named = {metric: re.findall(r"`(\w+)`", labels) for metric, labels in rows}
    ended = SeenRecord(experiment="quick-0001", attempt=1, state="finished")

    assert list(named) == [signals.EXPERIMENT_FINISHED, signals.SWEEP_FINISHED]
    assert list(named) == [seen_signals.EXPERIMENT_FINISHED, seen_signals.SWEEP_FINISHED]
    for_experiment, for_sweep = named.values()
    assert list(seen_signals.experiment_labels(MANIFEST, ended) or {}) == for_experiment
    assert list(seen_signals.sweep_labels(MANIFEST, [ended])) == for_sweep


times = st.none() | st.integers(0, 400_000).map(
    lambda seconds: (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
)


@given(
    st.sampled_from(STATES),
    st.sampled_from(["ok", "error", "lost", "dispatch"]),
    times,
    times,
    st.floats(allow_nan=False, allow_infinity=False, width=32) | st.none() | st.integers(-9, 9),
    texts,
    st.booleans(),
)
def test_both_sides_say_an_end_in_the_same_words(  # noqa: PLR0917 (all that is in a label)
    state: str,
    kind: str,
    started: str | None,
    ended: str | None,
    mean: float | None,
    hint: str,
    each: bool,
) -> None:
    """Whoever signals: so a repeated signal is of the same series."""
    record = {
        "schema": 1,
        "sweep": "quick",
        "experiment": "quick-0001",
        "attempt": 1,
        "state": state,
        "started": started,
        "ended": ended,
        "progress": {"mean_reward": mean},
        "exit": {"code": 1, "signal": None, "kind": kind, "hint": hint},
    }
    seen = SeenRecord.from_json(json.dumps(record))
    manifest = replace(MANIFEST, alert_each=each)

    ours = seen_signals.experiment_labels(manifest, seen)
    assert signals.experiment_labels(record, each=each) == ours
    if is_final(record):
        whole = signals.sweep_labels(json.loads(manifest.to_json()), [record])
        assert whole == seen_signals.sweep_labels(manifest, [seen])


@given(
    st.none()
    | st.tuples(
        st.sampled_from([*sorted(runner_finishing.RETURNING), "NONE", "DELETING", "ABANDONING"]),
        st.sampled_from(["", "RUNNING", "STOPPING", "TERMINATED", "SUSPENDED"]),
    ),
    st.none() | st.floats(0, 60),
    st.floats(0, 60),
    st.sampled_from(["waiting", "running", "uploading", "retrying", "again"]),
)
def test_both_sides_agree_on_who_is_lost(
    member: tuple[str, str] | None, silent: float | None, age: float, state: str
) -> None:
    """By the group's word and the bucket's clock; never who is about to run again."""
    stored = NOW - timedelta(minutes=silent) if silent is not None else None
    made = NOW - timedelta(minutes=age)
    record = {"schema": 1, "experiment": "quick-0001", "attempt": 1, "state": state}
    runners = runner_finishing.find_lost(
        {
            "quick-0001": runner_finishing.Seen(
                experiment="quick-0001", record=record if stored else None, stored=stored
            )
        },
        {"quick-0001": member} if member else {},
        made=made,
        now=NOW,
        lost_after=timedelta(seconds=runner_finishing.LOST_AFTER),
    )
    other = SeenRecord(experiment="quick-0009", attempt=1, state="finished")
    ours = finishing.find_lost(
        MANIFEST,
        {"quick-0001": Member(name="quick-0001", action=member[0], status=member[1])}
        if member
        else {},
        {
            "quick-0009": other,
            **(
                {"quick-0001": SeenRecord.from_json(json.dumps(record), stored=stored)}
                if stored
                else {}
            ),
        },
        made=made,
        now=NOW,
    )

    assert [one.experiment for one in runners] == [one.id for one in ours]
    assert not (ours and stored and state == "again")


def test_what_the_runner_marks_as_lost_is_lost_to_the_launcher() -> None:
    """Its record has the kind that the page names, and is final."""
    one = runner_finishing.Seen(experiment="quick-0001", record=None)
    record = runner_finishing.lost_record(one, "quick", "true", now="2026-11-22T10:00:00Z")
    seen = SeenRecord.from_json(json.dumps(record))

    assert "`lost`" in CONTRACT
    assert seen.is_final
    assert status_of(None, seen, now=NOW, group_exists=True)[0] is ExperimentStatus.LOST
    assert marker_members() == {
        "schema", "sweep", "created", "status", "by", "found", "written", "labels",
    }  # fmt: skip


def test_metadata_keys_are_those_of_the_page() -> None:
    """The launcher sets the keys that the page names."""
    container = startup.ContainerSpec(image="europe-docker.pkg.dev/p/r/i", environment={})
    keys = {
        *startup.template_metadata(container),
        instances.SWEEP_LABEL,
        launching.BUCKET_KEY,
        "ssh-keys",
    }

    named = set(re.findall(r"^\| `([-a-z]+)`[^|]*\| (?:template|group)", CONTRACT, re.MULTILINE))
    assert named - {"sinergym-patience"} <= keys


def test_variables_of_the_tracking_server_are_those_of_the_page() -> None:
    """The template sets what the page names, the runner reads it, and knows such a secret."""
    server = tracking.named_server("example.com:local", "http://10.0.0.2:5000", tracking.SECRET)
    named = set(re.findall(r"`([A-Z_]+)`", CONTRACT.partition("## 5.")[2].partition("## 6.")[0]))

    assert set(server.environment) <= named
    assert credentials.VARIABLE in server.environment
    lines: list[str] = []
    nowhere = {"GCE_METADATA_HOST": "127.0.0.1:9", **server.environment}
    assert credentials.read_login(nowhere, give_up=lambda: True, say=lines.append) == {}
    assert f"{server.secret} could not be read" in lines[0]


def test_the_tracking_server_is_found_by_the_names_that_it_is_made_with() -> None:
    """The page, who makes it and who looks for it agree."""
    rows = re.findall(r"^\| `(mlflow-[-a-z]+)` \|", CONTRACT, re.MULTILINE)

    assert rows == [wanted.SERVER, wanted.ADDRESS, wanted.TRAINER_SECRET]
    assert rows == [tracking.SERVER, tracking.ADDRESS, tracking.SECRET]
    assert wanted.PORT == tracking.PORT


def test_another_schema_is_refused_by_both() -> None:
    """Nobody guesses what a newer version means."""
    text = json.dumps({"schema": 2, "experiment": "quick-0001", "attempt": 1, "state": "running"})

    with pytest.raises(InvalidRequest, match="schema 2"):
        SeenRecord.from_json(text)
    with pytest.raises(Exception, match="schema 2"):
        parse_record(text.encode())


def test_a_silent_runner_is_unreachable_not_lost() -> None:
    """As long as the instance is there, an old record means no contact, not the end."""
    record = SeenRecord.from_json(json.dumps(replace(DRAFT, state="running", attempt=1).to_json()))
    late = replace(record, instance_id=UP.id, updated=NOW - timedelta(minutes=5))

    assert status_of(UP, late, now=NOW, group_exists=True)[0] is ExperimentStatus.UNREACHABLE
    assert status_of(None, late, now=NOW, group_exists=True)[0] is ExperimentStatus.LOST
