"""Claims, meetings of two writers, and what fits into an object's metadata."""

import json
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.runner.keeper import Keeper
from sinergym_trainer.runner.record import (
    FINAL,
    METADATA_LIMIT,
    Exit,
    Record,
    RecordRefused,
    Verdict,
    claim,
    judge,
    metadata_of,
    parse_record,
    parse_report,
    timestamp,
)

NOW = "2026-11-22T10:00:00Z"
OPEN = ["waiting", "running", "uploading"]
states = st.sampled_from([*OPEN, *FINAL])
records = st.builds(
    Record,
    sweep=st.just("quick"),
    experiment=st.just("quick-0001"),
    instance=st.sampled_from(["quick-0001", None]),
    instance_id=st.sampled_from(["1", "2", None]),
    attempt=st.integers(1, 5),
    state=states,
    command=st.none() | st.text(max_size=20_000),
    ended=st.none() | st.just(NOW),
    versions=st.dictionaries(st.text(max_size=20), st.text(max_size=3000), max_size=8),
    progress=st.dictionaries(st.text(max_size=64), st.text(max_size=300), max_size=32),
    exit=st.none()
    | st.builds(
        Exit,
        code=st.none() | st.integers(0, 255),
        signal=st.none(),
        kind=st.just("error"),
        hint=st.none() | st.text(max_size=3000),
    ),
)


def draft(instance_id: str = "1") -> Record:
    """Return who a VM is, before it has claimed anything."""
    return Record(
        sweep="quick", experiment="quick-0001", instance="quick-0001", instance_id=instance_id
    )


@given(st.none() | records)
def test_a_claim_is_one_higher_or_none(found: Record | None) -> None:
    """What is final is never claimed; all else gives a waiting record with the next number."""
    claimed = claim(found.to_json() if found else None, draft(), now=NOW)

    if found is not None and found.state in FINAL:
        assert claimed is None
    else:
        assert claimed is not None
        assert claimed.attempt == (found.attempt if found else 0) + 1
        assert (claimed.state, claimed.started, claimed.exit) == ("waiting", NOW, None)


@given(st.none() | records, records)
def test_a_lost_replacement_never_undoes_an_end(found: Record | None, mine: Record) -> None:
    """Only a record that is still ours, and not final, is replaced again."""
    verdict = judge(found.to_json() if found else None, mine)

    if verdict is Verdict.RETRY:
        assert found is not None
        assert found.state not in FINAL
        assert (found.attempt, found.instance_id) == (mine.attempt, mine.instance_id)
    if found is None:
        assert verdict is Verdict.DELETED
    elif found.state in FINAL:
        assert verdict in {Verdict.STOP, Verdict.WRITTEN}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["claim", "write", "end"]))))
def test_writers_with_compare_and_swap(steps: list[tuple[str, str]]) -> None:
    """However two VMs and their writes interleave: attempts only grow, an end is final."""
    stored: tuple[int, dict[str, Any]] | None = None
    read: dict[str, tuple[int, Record]] = {}
    history: list[dict[str, Any]] = []
    for who, step in steps:
        if step == "claim" or who not in read:
            mine = claim(stored[1] if stored else None, draft(who), now=NOW)
            if mine is None:
                continue
        else:
            seen, mine = read[who]
            mine = Record(
                **{
                    **{name: getattr(mine, name) for name in Record.__dataclass_fields__},
                    "state": "finished" if step == "end" else "running",
                }
            )
            if stored is None or stored[0] != seen:
                verdict = judge(stored[1] if stored else None, mine)
                if verdict is not Verdict.RETRY:
                    del read[who]
                    continue
        stored = ((stored[0] if stored else 0) + 1, mine.to_json())
        read[who] = (stored[0], mine)
        history.append(stored[1])
        if mine.state in FINAL:
            del read[who]  # its runner has ended; whoever comes now has to claim

    attempts = [each["attempt"] for each in history]
    assert attempts == sorted(attempts)
    ends = [index for index, each in enumerate(history) if each["state"] in FINAL]
    for index in ends:
        same = {(each["attempt"], each["instance_id"]) for each in history[index:]}
        assert len(same) == 1


@given(records)
def test_metadata_fits_and_keeps_what_counts(record: Record) -> None:
    """The metadata is small, ASCII, JSON, and says state, attempt and exit code."""
    text = metadata_of(record)

    assert len(text.encode("ascii")) <= METADATA_LIMIT
    found = json.loads(text)
    assert (found["state"], found["attempt"]) == (record.state, record.attempt)
    if record.exit:
        assert found["exit"]["code"] == record.exit.code
    if record.command is not None and found["command"] != record.command:
        assert found["command"].endswith("...[shortened]")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_any_json_is_read_as_a_report(content: Any) -> None:
    """Whatever a program writes, what is taken can be written as strict JSON again."""
    report = parse_report(json.dumps(content).encode())

    if not isinstance(content, dict):
        assert report is None
        return
    assert report is not None
    json.dumps([report.progress, report.mlflow, report.versions], allow_nan=False)
    assert "mlflow" not in report.progress


@given(st.binary(max_size=200))
def test_half_a_file_is_no_report(content: bytes) -> None:
    """Bytes that are no JSON object are ignored."""
    report = parse_report(content)

    assert report is None or isinstance(json.loads(content), dict)


def test_not_a_number_becomes_null() -> None:
    """NaN and infinity, which Python writes into JSON, do not reach the record."""
    report = parse_report(json.dumps({"mean_reward": math.nan, "episode": 3}).encode())

    assert report is not None
    assert report.progress == {"mean_reward": None, "episode": 3}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema": 2}', b'{"schema": "1"}'])
def test_another_schema_is_refused(content: bytes) -> None:
    """A record that is not of schema 1 is never replaced."""
    with pytest.raises(RecordRefused, match="the record in the bucket"):
        parse_record(content)


def test_the_keeper_says_why_it_waits() -> None:
    """Without a bucket nothing is claimed, nobody is disturbed, and the reason is said once."""
    said: list[str] = []
    told = threading.Event()

    def no_bucket() -> Any:
        raise ConnectionError("no route")

    def say(line: str) -> None:
        said.append(line)
        told.set()

    keeper = Keeper(no_bucket, draft(), say=say)
    keeper.start()

    assert told.wait(5)
    assert not keeper.claimed.is_set()
    assert keeper.last_error is not None
    assert "no route" in keeper.last_error
    assert len(said) == 1
    keeper.close()


def test_times_are_utc_with_a_z() -> None:
    """Times look like those of the contract."""
    assert len(timestamp()) == len(NOW)
    assert timestamp().endswith("Z")


def found(**members: Any) -> dict[str, Any]:
    """A record of an attempt that is over, as the next one finds it."""
    times = {"started": "2026-11-22T09:00:00Z", "updated": "2026-11-22T09:00:30Z"}
    return {"schema": 1, "attempt": 1, "state": "running", "spent": 10, **times, **members}


def test_the_time_of_an_attempt_is_what_its_runner_measured() -> None:
    """A clock that was set in between counts for nothing; without a measure, the times do."""
    step = found(started="2020-01-01T00:00:00Z", elapsed=25.5)
    for content, spent in ((step, 35.5), (found(), 40.0), (found(elapsed="x"), 40.0)):
        claimed = claim(content, draft(), now=NOW)
        assert claimed is not None
        assert claimed.spent == spent


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({}, "unknown"),
        ({"exit": {"kind": "signal", "hint": "the VM was preempted"}}, "preempted"),
        ({"exit": {"kind": "signal", "hint": "the container was told to stop"}}, "signal"),
        ({"state": "uploading", "exit": {"kind": "ok", "hint": None}}, "unknown"),
        ({"state": "retrying", "exit": {"kind": "oom", "hint": "x"}}, "oom"),
        ({"exit": "broken"}, "unknown"),
    ],
)
def test_how_an_earlier_attempt_is_remembered(members: dict[str, Any], kind: str) -> None:
    """By what it said; one that died with its outputs on their way was not well."""
    claimed = claim(found(**members), draft(), now=NOW)
    assert claimed is not None
    assert [(one["attempt"], one["kind"]) for one in claimed.history] == [(1, kind)]


def test_a_rerun_is_nobodys_to_write_over() -> None:
    """Ours has ended; what was asked for since stays."""
    mine = Record(**{**_members(draft()), "attempt": 2, "state": "failed", "ended": NOW})
    again = {**mine.to_json(), "state": "again", "exit": None, "ended": None}
    assert judge(again, mine) is Verdict.AGAIN


def _members(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__slots__}
