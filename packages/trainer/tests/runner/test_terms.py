"""What a manifest says to an experiment: limits and retries."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.runner.record import Record
from sinergym_trainer.runner.terms import Retry, Terms, terms_of

RECORD = Record(sweep="s", experiment="s-0001", instance="s-0001", instance_id="1", attempt=3)
kinds = st.sampled_from(["error", "oom", "preempted", "unknown", "signal"])
entries = st.lists(
    st.builds(lambda kind, rerun: {"kind": kind, "rerun": rerun}, kinds, st.booleans()),
    max_size=12,
)


def manifest(**members: Any) -> bytes:
    """A manifest with these members."""
    experiments = [{"id": "s-0001", "command": "a"}, {"id": "s-0002", "command": "b"}]
    return json.dumps({"schema": 1, "experiments": experiments, **members}).encode()


def test_the_terms_of_a_sweep() -> None:
    """A command only where it is dispatched at boot; limit and retry in any case."""
    members: dict[str, Any] = {
        "retry": {"times": 2, "kinds": ["error", "oom"], "wait": 30},
        "limits": {"seconds": 3600},
    }
    found = terms_of(manifest(dispatch="boot", **members), "s-0002")
    retry = Retry(times=2, kinds=frozenset({"error", "oom"}), wait=30.0)
    assert found == Terms(command="b", retry=retry, seconds=3600.0)
    assert terms_of(manifest(dispatch="ssh", **members), "s-0009") == replace(found, command=None)
    assert terms_of(manifest(), "s-0001") == Terms()


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1]",
        b"no",
        manifest(schema=2),
        manifest(dispatch="boot", experiments=[]),
        manifest(dispatch="boot", experiments=[{"id": "s-0001", "command": 1}]),
    ],
)
def test_what_is_no_manifest_of_ours(content: bytes) -> None:
    """It is refused, and so is one without this experiment."""
    with pytest.raises(ValueError, match=r"\w"):
        terms_of(content, "s-0001")


@given(
    retry=st.none() | st.text() | st.dictionaries(st.sampled_from(["times", "kinds"]), st.text()),
    limits=st.none() | st.lists(st.integers()) | st.fixed_dictionaries({"seconds": st.text()}),
)
def test_members_that_mean_nothing(retry: object, limits: object) -> None:
    """Of a version to come, or broken: no retry and no limit."""
    assert terms_of(manifest(retry=retry, limits=limits), "s-0001") == Terms()


@given(st.floats(60, 1e7), st.floats(0, 1e7))
def test_the_command_is_told_before_the_vm_is_ended(seconds: float, spent: float) -> None:
    """So early that it can save, and never so early that it has less than half."""
    left = Terms(seconds=seconds).left(spent)
    assert left is not None
    assert seconds / 2 - spent <= left + 1e-6
    assert left + spent <= seconds - min(300.0, max(30.0, seconds / 10)) + 1e-6 or seconds < 60
    assert Terms().left(spent) is None


def test_a_limit_as_the_contract_says() -> None:
    """A tenth is kept, 30 seconds to 5 minutes."""
    assert Terms(seconds=36_000).left(0) == 35_700
    assert Terms(seconds=1000).left(100) == 800
    assert Terms(seconds=120).left(0) == 90
    assert Terms(seconds=40).left(0) == 20


@given(entries, st.integers(1, 5), kinds)
def test_laws_of_a_retry(history: list[dict[str, Any]], times: int, kind: str) -> None:
    """At most so many failures since the last rerun; what was preempted is none of them."""
    terms = Terms(retry=Retry(times=times, kinds=frozenset({"error", "oom"}), wait=10))
    pause = terms.pause_before_retry(replace(RECORD, history=tuple(history)), kind)
    since: list[dict[str, Any]] = []
    for one in history:
        since = [] if one["rerun"] else [*since, one]
    failures = sum(one["kind"] in {"error", "oom"} for one in since)
    if kind not in {"error", "oom"} or failures >= times:
        assert pause is None
    else:
        assert pause == 10 * 2**failures


def test_the_longest_pause() -> None:
    """An hour, however often it has failed."""
    terms = Terms(retry=Retry(times=50, kinds=frozenset({"error"}), wait=60))
    history = tuple({"kind": "error"} for _ in range(20))
    assert terms.pause_before_retry(replace(RECORD, history=history), "error") == 3600
    assert Terms().pause_before_retry(RECORD, "error") is None
