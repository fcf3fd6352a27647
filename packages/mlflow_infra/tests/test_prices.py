"""The table of prices: what adds up to a month."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.prices import Machine
from mlflow_infra.prices import HOURS, PRICES


@pytest.mark.parametrize(
    ("tier", "least", "most"),
    [
        ("db-f1-micro", 7, 8),
        ("db-g1-small", 25, 26),
        ("db-custom-1-3840", 49, 50),
        ("db-custom-2-7680", 98, 99),
    ],
)
def test_a_tier_costs_what_its_page_says(tier: str, least: float, most: float) -> None:
    """Shared-core tiers have a price of their own; others that of their CPUs and memory."""
    monthly = PRICES.database(tier, 0)
    assert monthly is not None
    assert least < monthly < most


@pytest.mark.parametrize("tier", ["db-perf-optimized-N-2", "db-custom-1", "db-n1-standard-1", ""])
def test_an_unknown_tier_has_no_price(tier: str) -> None:
    """None, and not 0: nobody shall think that it costs nothing."""
    assert PRICES.database(tier, 10) is None


def test_an_unknown_machine_type_has_no_price() -> None:
    """As with tiers."""
    assert PRICES.server("a2-highgpu-1g", 10) is None


@given(
    tier=st.sampled_from(["db-f1-micro", "db-custom-4-16384"]),
    size=st.integers(10, 65536),
    more=st.integers(1, 1000),
)
def test_each_gb_costs_the_same(tier: str, size: int, more: int) -> None:
    """The storage is in the price, by its size."""
    small, large = PRICES.database(tier, size), PRICES.database(tier, size + more)
    assert small is not None
    assert large is not None
    assert large - small == pytest.approx(more * PRICES.database_gb, abs=1e-6)


def test_whoever_pays_other_prices_replaces_them() -> None:
    """The table is a value."""
    machines, disks = {"e2-medium": Machine(hourly=1.0)}, {"pd-balanced": 0.0}
    own = replace(PRICES.compute, machines=machines, disks=disks, address=0.5)
    mine = replace(PRICES, compute=own)
    assert mine.server("e2-medium", 10) == HOURS
    assert mine.external_address() == HOURS / 2
