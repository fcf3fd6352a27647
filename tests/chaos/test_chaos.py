"""Whatever happens, in whatever order: nothing is lost, nothing is done twice, nothing is left.

`make chaos` plays 500 schedules; the ordinary suite a few. The seed is printed; with
`CHAOS_SEED=... CHAOS_SCHEDULES=...` the same are played again.
"""

import os
import random
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.chaos.laws import broken
from tests.chaos.schedules import SCHEDULES, Schedule
from tests.chaos.world import World

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
SCHEDULES_WANTED = int(os.environ.get("CHAOS_SCHEDULES") or 8)
SHARDS = int(os.environ.get("CHAOS_SHARDS") or 1)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def tell(line: str) -> None:
    """Say it to whoever runs the tests."""
    sys.stderr.write(f"{line}\n")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A local cloud of its own for each shard."""
    with World(tmp_path) as made:
        yield made


@pytest.mark.parametrize("shard", range(SHARDS))
def test_chaos(world: World, shard: int) -> None:
    """After each schedule all laws hold; the first that is broken ends it, with its schedule."""
    numbers = count(1)
    begin = SEED + shard

    @seed(begin)
    @settings(
        max_examples=-(-SCHEDULES_WANTED // SHARDS),
        deadline=None,
        database=None,
        # What happens depends on the moment, too: a smaller schedule may fail for other reasons.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEDULES)
    def play(schedule: Schedule) -> None:
        name = f"chaos-{shard}-{next(numbers):04d}"
        try:
            world.play(name, schedule)
            found = broken(world, name, schedule)
        except BaseException:
            world.calm()
            tell(f"CHAOS_SEED={begin} ({name}): {schedule}")
            raise
        assert not found, f"CHAOS_SEED={begin} ({name}): {schedule}\n" + "\n".join(found)

    tell(f"CHAOS_SEED={begin}")
    play()
    struck = ", ".join(f"{what} {times}" for what, times in sorted(world.struck.items()))
    tell(f"CHAOS_SEED={begin}: {next(numbers) - 1} schedules, all laws hold; {struck}")
