"""TensorBoard: where event files go, and what is in them after a real training."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.board import Destination, destination
from sinergym_trainer.environments import EnvironmentSpec
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options.values import RunPeriod

if TYPE_CHECKING:
    from sinergym_trainer.board import BoardCallback

TWO_DAYS = RunPeriod.parse("1/1-2/1")
STEPS = 192
"""Of two days."""

Scalars = Mapping[str, Mapping[int, float]]


# Where.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("./tensorboard_log", Destination(folder=Path("out/tensorboard"))),
        ("logs/", Destination(folder=Path("out/tensorboard"))),
        ("/data/logs/", Destination(folder=Path("/data/logs/run"))),
        (
            "gs://bucket/some/path/",
            Destination(folder=Path("out/tensorboard"), bucket="bucket", prefix="some/path/run"),
        ),
        (
            "gs://bucket",
            Destination(folder=Path("out/tensorboard"), bucket="bucket", prefix="run"),
        ),
    ],
)
def test_where_event_files_go(text: str, expected: Destination) -> None:
    """Relative, absolute, and to a bucket; slashes at the end do not matter."""
    assert destination(text, output=Path("out"), name="run") == expected


@pytest.mark.parametrize(
    "text", ["", " ", "gs://", "gs:///path", "gs:/bucket", "s3://bucket/path"]
)
def test_places_that_are_none(text: str) -> None:
    """The line says what to write."""
    with pytest.raises(InvalidOptions, match="gs://BUCKET/PATH"):
        destination(text, output=Path("out"), name="run")


@given(parts=st.lists(st.sampled_from(["a", "b c", "d-1"]), max_size=3), slashes=st.integers(0, 3))
def test_a_prefix_has_no_slashes_at_its_ends(parts: list[str], slashes: int) -> None:
    """Nor two in a row: an object named `a//b` is in a folder without a name."""
    text = "gs://bucket/" + "/".join(parts) + "/" * slashes
    assert destination(text, output=Path("o"), name="run").prefix == "/".join([*parts, "run"])


def test_options_are_checked_without_pytorch() -> None:
    """`destination` imports nothing that takes seconds."""
    program = (
        "import sys; from sinergym_trainer.board import destination;"
        " print(sorted({'torch', 'stable_baselines3', 'mlflow'} & sys.modules.keys()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


# What.


def read(folder: Path) -> Scalars:
    """All scalars in a folder's event files, by name and step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_a_resumed_training_hides_what_is_repeated(tmp_path: Path) -> None:
    """Steps after the checkpoint are those of the later attempt."""
    from sinergym_trainer.board import BoardWriter

    first = BoardWriter(tmp_path)
    for step in range(1, 11):
        first.write({"a": 1.0}, {"a": ("",)}, step)
    first.close()
    second = BoardWriter(tmp_path, resumed_at=5)
    for step in range(6, 9):
        second.write({"a": 2.0, "b": 2.0}, {"a": ("",), "b": ("csv", "tensorboard")}, step)
    second.close()

    assert read(tmp_path) == {"a": dict.fromkeys(range(1, 6), 1.0) | dict.fromkeys((6, 7, 8), 2.0)}


@dataclass
class Seen:
    """What the environment was given and gave, step by step, before any normalization."""

    actions: list[Any] = field(default_factory=list)
    observations: list[Any] = field(default_factory=list)
    simulated: list[Any] = field(default_factory=list)


@dataclass
class Trained:
    """A training with a board."""

    model: Any
    board: "BoardCallback"
    seen: Seen
    scalars: Scalars
    folder: Path
    observed: tuple[str, ...]
    actuated: tuple[str, ...]


@contextmanager
def vector(spec: EnvironmentSpec, folder: Path, *, normalization: bool) -> Iterator[Any]:
    """A vector of one environment, and what passes through it."""
    import numpy as np
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize

    from sinergym_trainer.environments import make_environment

    seen = Seen()

    class Witness(VecEnvWrapper):
        """Keeps what passes."""

        def step_async(self, actions: Any) -> None:
            seen.actions.append(actions[0].copy())
            super().step_async(actions)

        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            observations, rewards, dones, infos = self.venv.step_wait()
            seen.observations.append(np.array(observations)[0])
            seen.simulated.append(list(infos[0]["action"]))
            return observations, rewards, dones, infos

    env: Any = Witness(DummyVecEnv([lambda: make_environment(spec, folder)]))
    if normalization:
        env = VecNormalize(env, norm_reward=False, clip_obs=float("inf"), epsilon=1e-8)
    try:
        yield env, seen
    finally:
        env.close()


def trained(
    folder: Path,
    algorithm: str,
    environment: str,
    *,
    episodes: int,
    log_interval: int = 1,
    board: bool = True,
    normalization: bool = False,
    spec: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> Trained:
    """A training of some episodes of two days."""
    import stable_baselines3
    from stable_baselines3.common.logger import CSVOutputFormat, Logger

    from sinergym_trainer.board import BoardCallback, BoardWriter
    from sinergym_trainer.environments import variables

    made = EnvironmentSpec(id=environment, run_period=TWO_DAYS, **(spec or {}))
    with vector(made, folder / "sinergym", normalization=normalization) as (env, seen):
        observed, actuated = variables(env)
        model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=3, **hyperparameters)
        callback = BoardCallback(observation_variables=observed, action_variables=actuated)
        writer = BoardWriter(folder / "tensorboard")
        model.set_logger(
            Logger(str(folder), [writer, CSVOutputFormat(str(folder / "progress.csv"))])
        )
        model.learn(
            episodes * STEPS, callback=callback if board else None, log_interval=log_interval
        )
        model.logger.close()
    return Trained(model, callback, seen, read(folder / "tensorboard"), folder, observed, actuated)


def values(scalars: Scalars, kind: str, names: Sequence[str], step: int) -> list[float]:
    """The values of all variables of one kind."""
    return [scalars[f"{kind}/{name}"][step] for name in names]


@pytest.fixture(scope="module")
def on_policy(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """PPO with everything around the environment."""
    return trained(
        tmp_path_factory.mktemp("ppo"),
        "PPO",
        "Eplus-5zone-hot-continuous-v1",
        episodes=1,
        normalization=True,
        spec={"multiobs": True, "normalize_action": True},
        n_steps=64,
        batch_size=32,
        n_epochs=1,
    )


@pytest.mark.slow
def test_on_policy_the_last_step_of_each_rollout(on_policy: Trained) -> None:
    """Observations as they were and as the agent saw them; actions of agent and simulation."""
    import numpy as np

    seen, scalars, observed = on_policy.seen, on_policy.scalars, on_policy.observed
    width = len(observed)
    assert width == 17
    for step in (64, 128):
        newest = seen.observations[step - 1][-width:]
        assert np.array_equal(newest, seen.observations[step][-2 * width : -width])
        assert values(scalars, "observation", observed, step) == pytest.approx(newest)
        assert values(scalars, "action", on_policy.actuated, step) == pytest.approx(
            seen.actions[step - 1]
        )
        assert values(scalars, "action_simulation", on_policy.actuated, step) == pytest.approx(
            seen.simulated[step - 1]
        )
    assert abs(np.array(values(scalars, "action", on_policy.actuated, 64))).max() <= 1
    assert min(values(scalars, "action_simulation", on_policy.actuated, 64)) > 10
    # Normalized: by the statistics at that step, which are those at the end for the last one.
    statistics = on_policy.model.get_vec_normalize_env().obs_rms
    normalized = (seen.observations[-1] - statistics.mean) / np.sqrt(statistics.var + 1e-8)
    assert values(scalars, "normalized_observation", observed, STEPS) == pytest.approx(
        normalized[-width:], rel=1e-4, abs=1e-5
    )


@pytest.mark.slow
def test_single_variables_go_to_tensorboard_only(on_policy: Trained) -> None:
    """The table has what Stable-Baselines3 records."""
    header = (on_policy.folder / "progress.csv").read_text().splitlines()[0]
    assert "train/loss" in header
    assert "observation/" not in header
    assert "action/" not in header
    assert "action_simulation/" not in header
    assert {"train/loss", "observation/outdoor_temperature"} <= on_policy.scalars.keys()


@pytest.mark.slow
def test_watching_changes_nothing(on_policy: Trained, tmp_path: Path) -> None:
    """The same training without it has the same weights and actions, to the last digit."""
    import numpy as np

    bare = trained(
        tmp_path,
        "PPO",
        "Eplus-5zone-hot-continuous-v1",
        episodes=1,
        board=False,
        normalization=True,
        spec={"multiobs": True, "normalize_action": True},
        n_steps=64,
        batch_size=32,
        n_epochs=1,
    )
    assert np.array_equal(bare.seen.actions, on_policy.seen.actions)
    ours, theirs = on_policy.model.policy.state_dict(), bare.model.policy.state_dict()
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert not any(name.startswith("observation/") for name in bare.scalars)


@pytest.mark.slow
def test_off_policy_the_means_since_the_last_time(tmp_path: Path) -> None:
    """Of each episode with SAC; a step of it costs less than 20 microseconds."""
    import numpy as np

    sac = trained(
        tmp_path, "SAC", "Eplus-5zone-hot-continuous-v1", episodes=2, learning_starts=10_000,
        buffer_size=1000,
    )  # fmt: skip
    seen, scalars = sac.seen, sac.scalars
    assert list(scalars["observation/month"]) == [STEPS, 2 * STEPS]
    for episode in (0, 1):
        steps = slice(episode * STEPS, (episode + 1) * STEPS)
        for kind, names, passed in (
            ("observation", sac.observed, seen.observations),
            ("action", sac.actuated, seen.actions),
            ("action_simulation", sac.actuated, seen.simulated),
        ):
            expected = np.mean(np.array(passed[steps], dtype=np.float64), axis=0)
            found = values(scalars, kind, names, (episode + 1) * STEPS)
            assert found == pytest.approx(expected, rel=1e-4)
    assert not any(name.startswith("normalized_observation/") for name in scalars)

    sac.board.locals["dones"] = np.array([False])
    costs = []
    for _ in range(50):
        began = time.perf_counter()
        for _ in range(100):
            sac.board._on_step()
        costs.append((time.perf_counter() - began) / 100)
    assert min(costs) < 20e-6


@pytest.mark.slow
def test_discrete_actions(tmp_path: Path) -> None:
    """One number for all: its index, and what the simulation made of it; over two episodes."""
    import numpy as np

    dqn = trained(
        tmp_path, "DQN", "Eplus-5zone-hot-discrete-v1", episodes=2, log_interval=2,
        learning_starts=10_000, buffer_size=1000,
    )  # fmt: skip
    last = 2 * STEPS
    assert list(dqn.scalars["action/index"]) == [last]
    assert dqn.scalars["action/index"][last] == pytest.approx(np.mean(dqn.seen.actions))
    assert values(dqn.scalars, "action_simulation", dqn.actuated, last) == pytest.approx(
        np.mean(dqn.seen.simulated, axis=0)
    )
