"""Evaluation: what an episode measures, models of every algorithm, and the process beside."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sinergym_trainer.algorithms import ALGORITHMS, find_algorithm
from sinergym_trainer.environments import EnvironmentSpec, closing, make_vector, normalization
from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import EvaluationFailed, ModelUnusable
from sinergym_trainer.evaluation.episodes import ModelAgent, Totals, run_episode
from sinergym_trainer.evaluation.process import Evaluation, Evaluator, Request
from sinergym_trainer.options.values import RunPeriod

SPEC = EnvironmentSpec(
    id="Eplus-5zone-hot-continuous-stochastic-v1",
    run_period=RunPeriod.parse("31/1-1/2"),
    normalize_action=True,
    multiobs=True,
)
SEED = 5
ACTIONS: dict[str, gym.spaces.Space[Any]] = {
    "continuous": gym.spaces.Box(-1.0, 1.0, (2,)),
    "discrete": gym.spaces.Discrete(4),
    "multidiscrete": gym.spaces.MultiDiscrete([2, 2, 5]),
}


class Building(gym.Env[Any, Any]):
    """Tells in `info` what Sinergym's rewards do, and ends by repeating the step before."""

    def __init__(self, steps: list[dict[str, float]], kind: str = "continuous") -> None:
        self.observation_space = gym.spaces.Box(-50.0, 50.0, (3,))
        self.action_space = ACTIONS[kind]
        self._steps = steps
        self._at = 0

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        self._at = 0
        return np.full(3, 0.5, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The next step; the reward has the action in it."""
        over = self._at == len(self._steps)
        info = dict(self._steps[self._at - 1 if over else self._at])
        self._at += not over
        reward = info["energy_penalty"] - float(np.sum(np.square(action)))
        observation = np.array([self._at % 7, reward % 5, info["month"]], dtype=np.float32)
        return observation, reward, False, over, info


def step(month: int = 1, power: float = 100.0, violation: float = 0.0) -> dict[str, float]:
    """The `info` of one step."""
    return {
        "month": month,
        "total_power_demand": power,
        "energy_penalty": -power,
        "total_temperature_violation": violation,
        "comfort_penalty": -violation,
    }


def building(steps: list[dict[str, float]], kind: str) -> Monitor[Any, Any]:
    """The building with what measures its episodes."""
    return Monitor(Building(steps, kind))


class Still:
    """Acts the same way always."""

    def begin(self) -> None:
        """Nothing to forget."""

    def act(self, _observation: Any) -> Any:
        """No change."""
        return np.zeros(2, dtype=np.float32)


def test_an_episode_is_measured_as_a_whole_and_by_month() -> None:
    """The last step counts for reward and length, as in Stable-Baselines3, for nothing else."""
    year = [step(12, 10.0, 0.5), step(12, 20.0), step(1, 30.0, 1.5), step(12, 40.0)]
    episode = run_episode(Monitor(Building(year)), Still())

    assert (episode.reward, episode.length) == (-140.0, 5)
    assert (episode.total.reward, episode.total.length, episode.total.steps) == (-140.0, 5, 4)
    assert episode.total.sums == {
        "total_power_demand": 100.0,
        "energy_penalty": -100.0,
        "total_temperature_violation": 2.0,
        "comfort_penalty": -2.0,
    }
    assert episode.total.comfort_violation == 50.0
    assert episode.total.mean("total_power_demand") == 25.0
    assert episode.total.mean("money_spent") is None
    months = [(month, totals.reward, totals.steps) for month, totals in episode.months]
    assert months == [(12, -30.0, 2), (1, -30.0, 1), (12, -80.0, 1)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.floats(0, 1e6), st.floats(0, 50)), min_size=1, max_size=30
    )
)
def test_the_months_add_up_to_the_episode(year: list[tuple[int, float, float]]) -> None:
    """Whatever months there are, in whatever order."""
    episode = run_episode(Monitor(Building([step(*each) for each in year])), Still())
    months = [totals for _, totals in episode.months]

    for name in ("length", "steps", "reward", "violations"):
        total = getattr(episode.total, name)
        assert sum(getattr(month, name) for month in months) == pytest.approx(total)
    for key, value in episode.total.sums.items():
        assert sum(month.sums.get(key, 0.0) for month in months) == pytest.approx(value)


def test_an_episode_can_be_ended_from_outside() -> None:
    """Every two hundred steps one is asked."""
    looks: list[int] = []

    def look(number: int) -> None:
        looks.append(number)
        if len(looks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_episode(Monitor(Building([step()] * 1000)), Still(), look=look)
    assert looks == [200, 400]


def test_what_an_evaluation_logs() -> None:
    """The names of 2022: sums over an episode, their means over the episodes."""
    env = Monitor(Building([step(1, 10.0, 1.0), step(1, 30.0)]))
    one = run_episode(env, Still())
    evaluation = Evaluation(timesteps=7, model=Path("m.zip"), episodes=(one, one))

    assert evaluation.columns == {
        "results": (-70.0, -70.0),
        "ep_lengths": (3, 3),
        "ep_powers": (40.0, 40.0),
        "ep_comfort_violations": (50.0, 50.0),
        "episodes_comfort_penalties": (-1.0, -1.0),
        "episodes_power_penalties": (-40.0, -40.0),
    }
    assert evaluation.scalars == {
        "eval/mean_reward": -70.0,
        "eval/std_reward": 0.0,
        "eval/mean_ep_length": 3.0,
        "eval/mean_power_consumption": 40.0,
        "eval/mean_power_demand": 20.0,
        "eval/comfort_violation(%)": 50.0,
        "eval/mean_comfort_penalty": -1.0,
        "eval/mean_power_penalty": -40.0,
    }


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_model_of_every_algorithm_acts_as_in_stable_baselines3(
    name: str, tmp_path: Path
) -> None:
    """For all actions that it can choose; a recurrent policy keeps its state in an episode."""
    algorithm = find_algorithm(name)
    year = [step(1, float(number)) for number in range(12)]
    for kind in algorithm.actions:
        vec = DummyVecEnv([partial(building, year, kind)])
        model = algorithm.build(vec, seed=3, hyperparameters={}, device="cpu")
        model.save(tmp_path / "model.zip")
        expected, _ = evaluate_policy(model, vec, 2, return_episode_rewards=True)
        env = building(year, kind)
        agent = ModelAgent(tmp_path / "model.zip", name, env)

        rewards = [run_episode(env, agent).reward for _ in range(2)]

        assert rewards == expected, kind
        assert rewards[0] == rewards[1], kind


def test_drawn_actions_repeat_with_their_seed(tmp_path: Path) -> None:
    """And differ from the most likely ones."""
    env = Monitor(Building([step()] * 20))
    model = find_algorithm("PPO").build(DummyVecEnv([lambda: env]), seed=3, hyperparameters={})
    model.save(tmp_path / "model.zip")

    def reward(**how: Any) -> float:
        agent = ModelAgent(tmp_path / "model.zip", "PPO", env, **how)
        return run_episode(env, agent).reward

    drawn = reward(deterministic=False, seed=1)
    assert drawn == reward(deterministic=False, seed=1)
    assert len({drawn, reward(deterministic=False, seed=2), reward()}) == 3


def test_a_model_of_another_environment_is_refused(tmp_path: Path) -> None:
    """Saying what it observes and acts in."""
    env = Monitor(Building([step()]))
    model = find_algorithm("PPO").build(DummyVecEnv([lambda: env]), seed=3, hyperparameters={})
    model.save(tmp_path / "model.zip")
    longer = Monitor(gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(env, 2)))
    wider = Monitor(Building([step()]))
    wider.env.action_space = gym.spaces.Box(-2.0, 2.0, (2,))

    with pytest.raises(ModelUnusable, match=r"observes \(3,\), and the environment gives \(6,\)"):
        ModelAgent(tmp_path / "model.zip", "PPO", longer)
    with pytest.raises(ModelUnusable, match=r"acts in Box\(-1.0, 1.0.* takes Box\(-2.0, 2.0"):
        ModelAgent(tmp_path / "model.zip", "PPO", wider)
    others = Statistics(mean=np.zeros(4), variance=np.ones(4), count=1.0)
    with pytest.raises(ModelUnusable, match=r"statistics are of \(4,\).* gives \(3,\)"):
        ModelAgent(tmp_path / "model.zip", "PPO", env, statistics=others)


def test_totals_of_nothing() -> None:
    """An episode that ends at once has no means."""
    nothing = Totals(length=1, steps=0, reward=-1.0, violations=0, sums={})

    assert nothing.comfort_violation == 0.0
    assert nothing.mean("total_power_demand") is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Statistics, float]:
    """A fresh PPO of a real building, statistics, and the reward that plain SB3 gives it."""
    folder = tmp_path_factory.mktemp("model")
    vec = make_vector(SPEC, folder / "sinergym", normalization=True, seed=SEED)
    with closing(vec):
        ppo = find_algorithm("PPO").build(vec, seed=SEED, hyperparameters={}, device="cpu")
        ppo.save(folder / "model.zip")
        (size,) = vec.observation_space.shape or ()
        generator = np.random.default_rng(0)
        statistics = Statistics(
            mean=generator.normal(20, 5, size), variance=generator.uniform(1, 9, size), count=96.0
        )
        normalization.put(vec, statistics, frozen=True)
        rewards, _ = evaluate_policy(ppo, vec, 1, return_episode_rewards=True)
    assert isinstance(rewards, list)
    return folder / "model.zip", statistics, rewards[0]


@pytest.fixture
def evaluator(tmp_path: Path) -> Iterator[Evaluator]:
    """The process, on the real building."""
    evaluator = Evaluator(SPEC, tmp_path / "sinergym", threads=1, seed=SEED)
    yield evaluator
    evaluator.close()


def result(evaluator: Evaluator, request: Request, until: Any) -> Evaluation:
    """Have it evaluated; at the latest in a minute."""
    evaluator.start(request)
    evaluation: Evaluation = until(lambda: evaluator.poll(0.1), 60)
    return evaluation


@pytest.mark.slow
def test_the_process_evaluates_and_survives_its_ends(
    evaluator: Evaluator, model: tuple[Path, Statistics, float], tmp_path: Path, until: Any
) -> None:
    """Rewards are plain SB3's with VecNormalize, to the last digit, also in a second process."""
    path, statistics, expected = model
    request = Request(
        timesteps=192, model=path, algorithm="PPO", episodes=2, statistics=statistics
    )

    first = result(evaluator, request, until)
    assert first.rewards[0] == expected
    assert first.rewards[0] != first.rewards[1]  # another weather
    assert first.lengths == (192, 192)
    assert (first.timesteps, first.model) == (192, path)
    assert [month for month, _ in first.episodes[0].months] == [1, 2]

    # Killed in the middle of an evaluation; what is asked next has a new process, and the same
    # weathers.
    evaluator.start(request)
    pid = evaluator.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EvaluationFailed, match=r"ended before its result, by SIGKILL"):
        until(lambda: evaluator.poll(0.1), 60)
    assert evaluator.pending is None
    again = result(evaluator, request, until)
    assert evaluator.pid != pid
    assert again.episodes == first.episodes

    # Killed while it had nothing to do: nobody notices. A model that cannot be read is told.
    pid = evaluator.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    # Its first thread may be over before the others: it has ended when it can be waited for.
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    until(lambda: os.waitid(os.P_PID, pid, ended) is not None, 10)
    (tmp_path / "broken.zip").write_bytes(path.read_bytes()[:1000])
    broken = Request(
        timesteps=1, model=tmp_path / "broken.zip", algorithm="PPO", episodes=1, statistics=None
    )
    with pytest.raises(EvaluationFailed, match=r"ModelUnusable: .*broken\.zip"):
        result(evaluator, broken, until)


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_fails_the_evaluation(
    model: tuple[Path, Statistics, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Any,
) -> None:
    """Nobody notices before there is something to evaluate; signals to the group end nothing."""
    path, statistics, expected = model
    request = Request(timesteps=1, model=path, algorithm="PPO", episodes=1, statistics=statistics)
    with monkeypatch.context() as environ:
        environ.setenv("EPLUS_PATH", str(tmp_path))
        evaluator = Evaluator(SPEC, tmp_path / "sinergym", threads=1, seed=SEED)
        try:
            with pytest.raises(EvaluationFailed, match=r"EnergyPlusMissing: .*Energy\+\.idd"):
                result(evaluator, request, until)
        finally:
            evaluator.close()
    try:
        evaluator.start(request)
        assert evaluator.pid
        until(lambda: ignores(evaluator.pid, signal.SIGTERM), 30)
        os.kill(evaluator.pid, signal.SIGTERM)
        os.kill(evaluator.pid, signal.SIGINT)
        assert until(lambda: evaluator.poll(0.1), 60).rewards == (expected,)
    finally:
        evaluator.close()


def test_without_a_seed_one_is_drawn_for_all_evaluations(tmp_path: Path) -> None:
    """So that they have the same weathers."""
    evaluator = Evaluator(SPEC, tmp_path / "sinergym", threads=1, seed=None)
    evaluator.close()

    assert 0 <= evaluator.seed < 2**32
    assert evaluator.pid is None


def status(pid: int | None) -> str:
    """What the kernel tells of a process."""
    return Path(f"/proc/{pid}/status").read_text()


def ignores(pid: int | None, number: int) -> bool:
    """Whether a process ignores a signal."""
    (mask,) = (line.split()[1] for line in status(pid).splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) & 1 << number - 1)
