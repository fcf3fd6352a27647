"""EnergyPlus: found, safe when it fails or hangs, and quick without another result."""

import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sinergym_trainer.environments.energyplus import find_energyplus, prepare, quick_torch, quieten
from sinergym_trainer.errors import EnergyPlusFailed, EnergyPlusMissing

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
TWO_DAYS = (1, 1, 1991, 2, 1, 1991)
STEPS = 2 * 96
WEATHER = "USA_AZ_Davis-Monthan.AFB.722745_TMY3"

type Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """`make(patience=..., run_period=..., **keywords of gym.make)`: a prepared environment."""
    find_energyplus()
    import gymnasium as gym
    import sinergym  # noqa: F401 - registers the ids
    from sinergym.config import modeling

    quieten()
    made = []

    def _make(patience: float = 60.0, run_period: tuple[int, ...] = TWO_DAYS, **more: Any) -> Any:
        modeling.CWD = str(tmp_path)
        # Gymnasium's checker cannot go on after a reset that failed.
        more |= {"disable_env_checker": True, "building_config": {"runperiod": run_period}}
        env = gym.make(CONTINUOUS, **more)
        prepare(env, patience=patience)
        env.action_space.seed(1)
        made.append(env)
        return env

    yield _make
    for env in made:
        env.close()


def _episode(env: Any) -> int:
    """Go on with random actions to the end of the episode; how many steps that took."""
    steps, truncated = 0, False
    while not truncated:
        truncated = env.step(env.action_space.sample())[3]
        steps += 1
    return steps


def _at_step(env: Any, number: int, what: Callable[[], object]) -> None:
    """Let EnergyPlus's thread do something in a timestep of each episode."""
    base = env.unwrapped

    def called(_state: object) -> None:
        if base.energyplus_simulator.system_ready and base.timestep == number:
            what()

    base.register_callback("callback_begin_zone_timestep_before_init_heat_balance", called)


def test_a_wrong_path_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sinergym would say KeyError, or nothing."""
    monkeypatch.setenv("EPLUS_PATH", str(tmp_path))

    with pytest.raises(EnergyPlusMissing, match=r"has no Energy\+\.idd"):
        find_energyplus()


@pytest.mark.slow
def test_an_episode_ends_with_energyplus_and_silently(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sinergym waits two seconds for an observation that cannot come any more."""
    env = make()
    for _ in range(2):
        env.reset(seed=1)
        for _ in range(STEPS - 1):
            assert not env.step(env.action_space.sample())[3]
        begin = time.perf_counter()
        truncated = env.step(env.action_space.sample())[3]

        assert truncated
        assert time.perf_counter() - begin < 0.5
    prepare(env)  # once more does nothing
    env.close()

    assert capfd.readouterr().out == ""
    assert not [thread for thread in threading.enumerate() if thread.name == CONTINUOUS]


@pytest.mark.slow
def test_a_broken_building_is_an_error_with_what_energyplus_says(
    make: Make, tmp_path: Path
) -> None:
    """Sinergym's `reset` would wait for ever; ours can be tried again, and fails again."""
    from sinergym.utils.constants import PKG_DATA_PATH

    building = json.loads((Path(PKG_DATA_PATH) / "buildings/5ZoneAutoDXVAV.epJSON").read_text())
    surface = next(iter(building["BuildingSurface:Detailed"].values()))
    surface["construction_name"] = "paper\x1b[31m\x07wall"
    path = tmp_path / "broken.epJSON"
    path.write_text(json.dumps(building))
    env = make(building_file=str(path))

    for episode in (1, 2):
        with pytest.raises(EnergyPlusFailed) as failed:
            env.reset()
        said = str(failed.value)
        assert f"exit code 1 (episode {episode}, timestep 0)" in said
        assert "Severe" in said
        assert "invalid construction_name" in said
        assert "Fatal ** GetSurfaceData: Errors discovered, program terminates." in said
        assert " | " in said
        assert said.isprintable()


@pytest.mark.slow
def test_energyplus_that_fails_in_the_middle_is_an_error(make: Make, tmp_path: Path) -> None:
    """And no end of an episode; the environment can be reset afterwards."""
    from sinergym.utils.constants import PKG_DATA_PATH

    lines = (Path(PKG_DATA_PATH) / f"weather/{WEATHER}.epw").read_text().splitlines(keepends=True)
    # No weather from 3 January on; EnergyPlus reads a day ahead.
    (tmp_path / "broken.epw").write_text("".join(lines[: 8 + 2 * 24 + 5]))
    shutil.copy(Path(PKG_DATA_PATH) / f"weather/{WEATHER}.ddy", tmp_path / "broken.ddy")
    env = make(weather_files=str(tmp_path / "broken.epw"), run_period=(1, 1, 1991, 4, 1, 1991))

    for episode in (1, 2):
        env.reset()
        assert not env.step(env.action_space.sample())[3]
        with pytest.raises(EnergyPlusFailed, match="in middle of reading EPW file") as failed:
            _episode(env)
        assert f"exit code 1 (episode {episode}, timestep 96)" in str(failed.value)


@pytest.mark.slow
def test_a_slow_step_is_no_end_of_an_episode(make: Make) -> None:
    """Sinergym would end it as truncated after two seconds."""
    env = make()
    _at_step(env, 5, lambda: threading.Event().wait(2.5))
    env.reset()

    assert _episode(env) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before its first timestep", "in an episode"])
def test_energyplus_that_hangs_is_an_error(make: Make, when: str) -> None:
    """`close` returns; `reset` refuses, until that simulation has ended after all."""
    env = make(patience=1.0)
    released = threading.Event()
    if when == "in an episode":
        _at_step(env, 5, lambda: released.wait(60))
    else:
        env.unwrapped.register_callback(
            "callback_begin_new_environment", lambda _state: released.wait(60)
        )

    def run() -> None:
        env.reset()
        _episode(env)

    try:
        for _ in range(2):
            with pytest.raises(EnergyPlusFailed, match="hangs: nothing came from it for 1 s"):
                run()
        begin = time.perf_counter()
        env.close()
        assert time.perf_counter() - begin < 0.5
    finally:
        released.set()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == CONTINUOUS)
    thread.join(30)
    env.close()
    env.unwrapped.clear_callbacks()
    env.reset()

    assert _episode(env) == STEPS


@pytest.mark.slow
def test_what_an_environment_returns_stays_the_same(tmp_path: Path) -> None:
    """Every observation, reward, flag and info of two episodes, beside Sinergym alone."""
    runs = {}
    for how in ("plain", "prepared"):
        (tmp_path / how).mkdir()
        command = [sys.executable, "-c", _RECORD, how, str(tmp_path / f"{how}.pickle")]
        runs[how] = subprocess.Popen(command, cwd=tmp_path / how, stdout=subprocess.DEVNULL)
    assert [run.wait(120) for run in runs.values()] == [0, 0]
    plain, prepared = (pickle.loads((tmp_path / f"{how}.pickle").read_bytes()) for how in runs)

    assert len(plain) == 2 * (1 + STEPS)
    assert prepared == plain
    *_, before, last = plain
    assert last[0] == before[0]  # Sinergym repeats the last observation
    assert last[3]
    assert plain[:193] != plain[193:]


_RECORD = """
import pickle, sys
from pathlib import Path
from sinergym_trainer.environments.energyplus import find_energyplus, prepare
find_energyplus()
import gymnasium as gym, sinergym
config = {"runperiod": (1, 1, 1991, 2, 1, 1991)}
env = gym.make("Eplus-5zone-hot-continuous-stochastic-v1", building_config=config)
if sys.argv[1] == "prepared":
    prepare(env)
env.action_space.seed(3)
seen = []
for episode in range(2):
    observation, info = env.reset(seed=5 + episode)
    seen.append((observation.dtype, observation.tobytes(), dict(info)))
    truncated = False
    while not truncated:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        seen.append((observation.tobytes(), reward, terminated, truncated, dict(info)))
env.close()
Path(sys.argv[2]).write_bytes(pickle.dumps(seen))
"""


def test_quick_torch_learns_the_same() -> None:
    """The weights are equal to the last digit."""
    import torch
    from stable_baselines3 import PPO

    def learn() -> list[Any]:
        model = PPO("MlpPolicy", "Pendulum-v1", n_steps=64, n_epochs=2, seed=3, device="cpu")
        model.learn(128)
        return list(model.policy.state_dict().values())

    before = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(True)
        checked = learn()
        quick_torch()
        assert not torch.distributions.Distribution._validate_args
        unchecked = learn()
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)

    assert all(torch.equal(one, other) for one, other in zip(checked, unchecked, strict=True))
