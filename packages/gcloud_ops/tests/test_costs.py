"""What a sweep will cost, may cost, and has cost: the laws of its numbers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.contract import Attempt, Dispatch, Experiment, Machine, Manifest, Progress, Record
from gcloud_ops.costs import MAX_SECONDS, MIN_SECONDS, billed_seconds, plan_cost, so_far
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.model import ExperimentStatus, Member, Observation, Snapshot, status_of
from gcloud_ops.prices import PRICES

BEGIN = datetime(2026, 11, 22, 10, tzinfo=UTC)
REGION = "europe-west1"
MACHINE = Machine(types=("n2-highcpu-8",), disk_gb=20, disk_type="pd-ssd")
SPOT = replace(MACHINE, spot=True)


# ------------------------------------------------------------------------------------ plan


def test_a_plan_shows_both_prices_and_counts_one() -> None:
    """On demand beside Spot; the sweep is its experiments together."""
    planned = plan_cost(PRICES, count=10, machine=SPOT, region=REGION, hours=2)
    assert planned.hourly_standard == pytest.approx(0.3256, rel=1e-3)
    assert planned.hourly == planned.hourly_spot == pytest.approx(0.1338, rel=1e-3)
    assert planned.hourly_all == pytest.approx(1.338, rel=1e-3)
    assert planned.expected_each == pytest.approx(0.2676, rel=1e-3)
    assert planned.expected == pytest.approx(2.676, rel=1e-3)
    assert planned.seconds is planned.at_most is planned.at_most_each is None
    assert planned.priced == PRICES.date
    assert planned.unknown == ""


@given(
    count=st.integers(1, 1000),
    spot=st.booleans(),
    budget=st.floats(5.0, 1e9),
    max_hours=st.none() | st.floats(0.1, 2880.0),
)
def test_a_budget_holds(count: int, spot: bool, budget: float, max_hours: float | None) -> None:
    """Even if Google ends every VM as late as it may; and a second more might not."""
    machine = SPOT if spot else MACHINE
    wanted = {"count": count, "machine": machine, "region": REGION, "max_hours": max_hours}
    try:
        planned = plan_cost(PRICES, max_cost=budget, **wanted)  # type: ignore[arg-type]
    except InvalidRequest as error:
        assert "max-cost" in str(error)  # noqa: PT017
        assert budget / count < 0.33 * (MIN_SECONDS + 31) / 3600
        return
    assert planned.seconds is not None
    assert MIN_SECONDS <= planned.seconds <= MAX_SECONDS
    assert planned.at_most is not None
    assert planned.at_most <= budget * (1 + 1e-9)
    assert max_hours is None or planned.seconds <= max_hours * 3600
    longer = replace(planned, seconds=planned.seconds + 1)
    capped = planned.seconds == MAX_SECONDS or (
        max_hours and planned.seconds == int(max_hours * 3600)
    )
    assert capped or (longer.at_most or 0) > budget * (1 - 1e-9)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_cost": 0.01}, "max-cost: $0.01 for 10 VMs at $0.3256 an hour is 0 s for each VM"),
        ({"max_hours": 0.01}, "max-hours: 0.01 is 36 s for each VM"),
        ({"max_hours": 2881}, "max-hours: 2881 is more than Google enforces"),
        ({"max_hours": float("nan")}, "max-hours: nan is not a number above 0"),
        ({"max_cost": -3}, "max-cost: -3 is not a number above 0"),
        ({"hours": 0}, "hours: 0 is not a number above 0"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limits: dict[str, float], said: str) -> None:
    """In one line."""
    with pytest.raises(InvalidRequest) as raised:
        plan_cost(PRICES, count=10, machine=MACHINE, region=REGION, **limits)  # type: ignore[arg-type]
    assert str(raised.value).startswith(said)


def test_what_has_no_price_is_said_and_has_no_budget() -> None:
    """A limit of hours is still one."""
    odd = replace(MACHINE, types=("n2-highcpu-8", "a9-standard-8"))
    planned = plan_cost(PRICES, count=3, machine=odd, region=REGION, hours=1, max_hours=2)
    assert planned.hourly is planned.expected is planned.at_most is None
    assert planned.unknown == "the machine type a9-standard-8"
    assert planned.seconds == 7200
    with pytest.raises(InvalidRequest, match=r"max-cost: the machine type a9-standard-8 has no"):
        plan_cost(PRICES, count=3, machine=odd, region=REGION, max_cost=10)


def test_the_dearest_of_several_machine_types_counts() -> None:
    """Whichever is had, the cap holds."""
    some = replace(MACHINE, types=("e2-standard-2", "n2-highcpu-8", "e2-medium"))
    planned = plan_cost(PRICES, count=1, machine=some, region=REGION)
    assert planned.hourly == plan_cost(PRICES, count=1, machine=MACHINE, region=REGION).hourly


def test_a_limit_below_what_is_expected_is_told() -> None:
    """And the expected cost is that of the limit."""
    planned = plan_cost(PRICES, count=1, machine=MACHINE, region=REGION, hours=3, max_hours=2)
    assert planned.is_too_short
    assert planned.hourly is not None
    assert planned.expected == pytest.approx(2 * planned.hourly)


def test_a_minute_is_the_least_that_is_billed() -> None:
    """And nothing is, where nothing ran."""
    assert [billed_seconds(one) for one in (0, 0.5, 60, 61.5)] == [0, 60, 60, 61.5]


# ---------------------------------------------------------------------------------- so far


def later(minutes: float) -> datetime:
    """Minutes after the launch."""
    return BEGIN + timedelta(minutes=minutes)


def seen(
    *pairs: tuple[Member | None, Record | None], now: datetime, hourly: float | None = 3.6
) -> Snapshot:
    """A sweep of which this is seen; a VM costs $0.001 a second."""
    manifest = Manifest(
        sweep="s",
        created=BEGIN,
        project="p",
        zone="europe-west1-b",
        template="t",
        dispatch=Dispatch.BOOT,
        launcher={},
        experiments=tuple(Experiment(id=f"s-{n:04d}", command="c") for n in range(len(pairs))),
        machine=Machine(hourly=hourly),
    )
    rows = []
    for experiment, (member, record) in zip(manifest.experiments, pairs, strict=True):
        status, reason = status_of(member, record, now=now, group_exists=True)
        rows.append(
            Observation(
                experiment=experiment, member=member, record=record, status=status, reason=reason
            )
        )
    return Snapshot(manifest=manifest, bucket="b", rows=tuple(rows), taken=now, group_exists=True)


def is_paid(member: Member) -> bool:
    """Whether Google counts its seconds."""
    return member.status in {"RUNNING", "STOPPING"}


UP = Member(name="s-0000", id="1", status="RUNNING")


def record(state: str = "running", **fields: object) -> Record:
    """A record of the VM 1, claimed 10 minutes after the launch."""
    given_fields = {"instance_id": "1", "started": later(10), "updated": later(20), **fields}
    return Record(experiment="s-0000", attempt=1, state=state, **given_fields)  # type: ignore[arg-type]


def test_what_runs_costs_until_now_and_will_cost_by_its_progress() -> None:
    """Half an hour, a quarter done: two hours in all."""
    half = record(progress=Progress(timesteps=25, total_timesteps=100))
    found = so_far(seen((UP, half), now=later(40)), later(40))
    assert found.spent == pytest.approx(1.8)
    assert found.projected == pytest.approx(7.2)
    assert (found.hourly, found.running) == (3.6, 1)
    assert found.by_experiment["s-0000"].seconds == 1800


def test_what_is_over_costs_no_more_unless_its_vm_is_still_there() -> None:
    """A VM past its record idles, and that is paid."""
    over = record("finished", ended=later(20))
    for member, spent in (
        (None, 0.6),
        (replace(UP, action="DELETING", status="TERMINATED"), 0.6),
        (UP, 1.8),
    ):
        found = so_far(seen((member, over), now=later(40)), later(40))
        assert found.spent == found.projected == pytest.approx(spent)


def test_attempts_before_count_also_those_before_a_rerun() -> None:
    """`spent` is of this run of the experiment; the history remembers those before too."""
    past = tuple(
        Attempt(number=n, kind="error", started=later(n), ended=later(n + 5)) for n in (1, 2)
    )
    rerun = record(history=past, spent=0.0)
    assert so_far(seen((UP, rerun), now=later(20)), later(20)).spent == pytest.approx(0.6 + 0.6)
    resumed = record(history=past, spent=600.0)
    assert so_far(seen((UP, resumed), now=later(20)), later(20)).spent == pytest.approx(1.2)


def test_a_vm_that_waits_for_a_retry_costs() -> None:
    """Two attempts on one VM, four minutes apart; the wait is no attempt's, but is paid."""
    past = (
        Attempt(number=1, kind="error", started=later(1), ended=later(3), instance_id="9"),
        Attempt(number=2, kind="error", started=later(4), ended=later(6), instance_id="1"),
    )
    retried = record(history=past, spent=240.0)
    cost = so_far(seen((UP, retried), now=later(20)), later(20))
    assert cost.by_experiment["s-0000"].seconds == pytest.approx(240 + 240 + 600)


def test_a_preempted_one_costs_until_its_last_word() -> None:
    """And its next VM from then on, for as long as a VM waits without a word."""
    one = record(updated=later(20))
    assert so_far(seen((None, one), now=later(600)), later(600)).spent == pytest.approx(0.6)
    following = replace(UP, id="2")
    assert so_far(seen((following, one), now=later(22)), later(22)).spent == pytest.approx(0.72)
    assert so_far(seen((following, one), now=later(600)), later(600)).spent == pytest.approx(1.5)


def test_others_tell_what_the_rest_will_cost() -> None:
    """Those that failed tell nothing; with nothing to tell by there is no projection."""
    over, waits = (None, record("finished", ended=later(70))), (None, None)
    failed = (None, record("failed", ended=later(11)))
    found = so_far(seen(over, failed, waits, now=later(80)), later(80))
    assert found.spent == pytest.approx(3.66)
    assert found.projected == pytest.approx(3.6 + 0.06 + 3.6)
    alone = so_far(seen(failed, waits, now=later(80)), later(80))
    assert alone.projected is None
    assert alone.by_experiment["s-0000"].projected == pytest.approx(0.06)


def test_without_a_price_there_are_seconds_and_no_dollars() -> None:
    """As with sweeps of before."""
    found = so_far(seen((UP, record()), now=later(40), hourly=None), later(40))
    assert (found.spent, found.projected, found.hourly) == (None, None, None)
    assert found.by_experiment["s-0000"].seconds == 1800


MINUTES = st.floats(0, 600)
MEMBERS = st.none() | st.builds(
    Member,
    name=st.just("s-0000"),
    id=st.sampled_from(["", "1", "2"]),
    status=st.sampled_from(["", "PROVISIONING", "STAGING", "RUNNING", "STOPPING"]),
    action=st.sampled_from(["NONE", "CREATING", "DELETING"]),
)
TIMES = st.none() | MINUTES.map(later)
RECORDS = st.none() | st.builds(
    Record,
    experiment=st.just("s-0000"),
    attempt=st.integers(1, 3),
    state=st.sampled_from(
        ["waiting", "running", "retrying", "again", "finished", "failed", "cancelled"]
    ),
    instance_id=st.sampled_from(["", "1"]),
    started=TIMES,
    updated=TIMES,
    ended=TIMES,
    progress=st.builds(Progress, timesteps=st.integers(0, 10), total_timesteps=st.just(10)),
    spent=st.floats(0, 36000),
)


@given(
    pairs=st.lists(st.tuples(MEMBERS, RECORDS), min_size=1, max_size=6),
    moments=st.tuples(MINUTES, MINUTES),
)
def test_the_laws_of_what_was_spent(
    pairs: list[tuple[Member | None, Record | None]], moments: tuple[float, float]
) -> None:
    """It only grows, is never more than VMs and time allow, and the parts are the sum."""
    early, late = (later(one + 600) for one in sorted(moments))
    snapshot = seen(*pairs, now=early)
    before, after = so_far(snapshot, early), so_far(snapshot, late)
    assert before.spent is not None
    assert after.spent is not None
    assert before.spent <= after.spent + 1e-9
    running = sum(member is not None and is_paid(member) for member, _ in pairs)
    for cost in (before, after):
        parts = [(one.spent or 0, one.projected) for one in cost.by_experiment.values()]
        assert cost.spent == pytest.approx(sum(spent for spent, _ in parts))
        assert all(whole is None or whole >= spent - 1e-9 for spent, whole in parts)
        assert cost.projected is None or cost.projected >= (cost.spent or 0) - 1e-9
        assert cost.running == running
    for row, (_, found) in zip(snapshot.rows, pairs, strict=True):
        elapsed = (late - BEGIN).total_seconds() + (found.spent if found else 0)
        assert after.by_experiment[row.id].seconds <= max(60.0, elapsed) + 1e-6


def test_a_final_one_is_projected_as_it_is() -> None:
    """Whatever its progress said."""
    early = record("failed", ended=later(20), progress=Progress(timesteps=1, total_timesteps=100))
    found = so_far(seen((None, early), now=later(30)), later(30))
    assert found.projected == found.spent
    assert seen((None, early), now=later(30)).rows[0].status is ExperimentStatus.FAILED
