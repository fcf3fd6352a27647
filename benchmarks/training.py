"""What a training costs beside bare Stable-Baselines3, Sinergym's own way, and EnergyPlus alone.

All runs have the same environment, seed, hyperparameters and timesteps, with one PyTorch thread,
and each has a process of its own (`python -m benchmarks.training RUN FILE [FLAGS]`). As the
machine may do other things at the same time, the runs alternate, and a ratio is the median of the
ratios of neighbours.

Steps per second are those of the learning: timesteps by the seconds from the start of
`learn` to its end, the reset included, imports and the making of environments and models not.
All of it lies within one episode of a year: at an episode's end Sinergym waits two seconds, which
`sinergym-train` does not, and that would flatter it here. For random actions it is the same from
the `reset` to the last step; for EnergyPlus alone, of the same library with the model and weather
that Sinergym wrote, its whole year.

Two environments gain what is done beside each other: their simulation, and the choice of both
actions in one pass. What SAC learns from a step of the vector costs the same as from one of a
single environment; PPO learns from each timestep as often as before, in one process, and gains
less.
"""

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clouds import BIN, clean_environment

from benchmarks.figures import Figure, show

ENVIRONMENT = "Eplus-5zone-hot-continuous-v1"
SEED = 7
RUN_PERIOD = "1/1-31/12"
TIMESTEPS = 12_288
ROLLOUT = 2048
SAC_TIMESTEPS = 1500
ROUNDS = 3
TEN_DAYS_OF_EPISODES = ("1/1-5/1", 10 * 480, 480)
"""Run period, timesteps and rollout of ten episodes, each of which ends with an update."""
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one process measured."""

    timesteps: int
    seconds: float
    peak: float
    """The most memory that it had, in MB."""
    episodes: tuple[float, ...] = ()
    """Its memory at each reset, in MB."""

    @property
    def speed(self) -> float:
        """Timesteps per second of learning."""
        return self.timesteps / self.seconds


def main() -> list[Figure]:
    """The speed of trainings, their memory, and whether it grows."""
    with tempfile.TemporaryDirectory() as folder, _tracking_server(Path(folder)) as uri:
        lab = _Lab(Path(folder), uri)
        rounds = [
            {
                "bare": lab.run("bare"),
                "trainer": lab.train(),
                "sinergym": lab.run("sinergym"),
                "two": lab.train("--n_envs", "2", "--n_steps", str(ROLLOUT // 2)),
                "sac": lab.train(algorithm="SAC", timesteps=SAC_TIMESTEPS),
                "sac two": lab.train("--n_envs", "2", algorithm="SAC", timesteps=SAC_TIMESTEPS),
                "random": lab.run("random"),
                "prepared": lab.run("prepared"),
                "energyplus": lab.run("energyplus"),
            }
            for _ in range(ROUNDS)
        ]
        ten = TEN_DAYS_OF_EPISODES
        episodes = lab.train("--n_steps", str(ten[2]), run_period=ten[0], timesteps=ten[1])
        bare_episodes = lab.run("bare", run_period=ten[0], timesteps=ten[1], rollout=ten[2])

    def speed(name: str, what: str) -> Figure:
        return Figure(what=what, value=_median(rounds, lambda by: by[name].speed), unit="1/s")

    def ratio(name: str, to: str, what: str, at_least: float | None = None) -> Figure:
        value = _median(rounds, lambda by: by[name].speed / by[to].speed)
        return Figure(what=what, value=value, unit="", at_least=at_least)

    return [
        *show(
            f"training: PPO on {ENVIRONMENT}, {TIMESTEPS} timesteps, timesteps per second",
            [
                speed("bare", "(a) bare Stable-Baselines3 on the bare environment"),
                speed("trainer", "(b) sinergym-train with MLflow, TensorBoard, CSV"),
                speed("sinergym", "(c) with Sinergym's loggers and callback"),
                speed("random", "(d) the environment alone, random actions"),
                speed("prepared", "    the same as sinergym-train makes it"),
                speed("energyplus", "(e) EnergyPlus alone"),
                speed("two", "(f) sinergym-train --n_envs 2"),
                speed("sac", "(g) sinergym-train, SAC"),
                speed("sac two", "(h) sinergym-train --n_envs 2, SAC"),
                ratio("trainer", "bare", "b / a", 0.97),
                ratio("trainer", "sinergym", "b / c", 1.0),
                ratio("sac two", "sac", "--n_envs 2 / --n_envs 1, SAC (h / g)", 1.6),
                ratio("two", "trainer", "--n_envs 2 / --n_envs 1, PPO (f / b)", 1.6),
                ratio("trainer", "energyplus", "b / e"),
            ],
        ),
        *show(
            "training: memory",
            [
                Figure(
                    what="more than bare Stable-Baselines3",
                    value=_median(rounds, lambda by: by["trainer"].peak - by["bare"].peak),
                    unit="MB",
                    limit=150,
                    baseline=_median(rounds, lambda by: by["bare"].peak),
                    baseline_is="all of that",
                ),
                Figure(
                    # EnergyPlus itself never gives back 0.7 MB of each simulation, whoever runs
                    # it; so this is what we add. What allocators keep moves by a few MB; a leak of
                    # a megabyte an episode (2 kB a timestep) is more.
                    what="more growth than bare from episode 2 to 10",
                    value=_growth(episodes) - _growth(bare_episodes),
                    unit="MB",
                    limit=8,
                    baseline=_growth(bare_episodes),
                    baseline_is="bare itself",
                ),
            ],
        ),
    ]


def _median(rounds: list[dict[str, Run]], of: Callable[[dict[str, Run]], float]) -> float:
    return statistics.median(of(by) for by in rounds)


def _growth(run: Run) -> float:
    # At reset n + 1 episode n is over.
    return run.episodes[10] - run.episodes[2]


class _Lab:
    """Starts runs in processes of their own, one after another."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        self._folder = folder
        self._number = 0
        self._environment = clean_environment() | {
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": tracking_uri,
        }

    def train(
        self,
        *flags: str,
        algorithm: str = "PPO",
        run_period: str = RUN_PERIOD,
        timesteps: int = TIMESTEPS,
    ) -> Run:
        """`sinergym-train` with all that a training can have beside an evaluation."""
        return self._start(
            "trainer",
            *("--environment", ENVIRONMENT, "--algorithm", algorithm, "--seed", str(SEED)),
            *("--timesteps", str(timesteps), "--run_period", run_period),
            *("--normalize_action", "--logger", "--tensorboard", "./board", "--mlflow_store"),
            *("--checkpoint_steps", str(timesteps // 3), *flags),
        )

    def run(
        self,
        name: str,
        *,
        run_period: str = RUN_PERIOD,
        timesteps: int = TIMESTEPS,
        rollout: int = ROLLOUT,
    ) -> Run:
        """One of the runs below, by its name."""
        return self._start(name, run_period, str(timesteps), str(rollout))

    def _start(self, *arguments: str) -> Run:
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        command = [sys.executable, "-m", "benchmarks.training", arguments[0]]
        measured = folder / "measured.json"
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, str(measured), *arguments[1:]],
                cwd=folder,
                env=self._environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            peak = _watch(process)
        if process.returncode != 0 or not measured.exists():
            raise SystemExit(f"{arguments}: {(folder / 'log').read_text()[-2000:]}")
        return Run(peak=peak, **json.loads(measured.read_text()))


def _watch(process: "subprocess.Popen[bytes]") -> float:
    """Wait for its end; the most memory that it had, in MB."""
    peak, deadline = 0.0, time.monotonic() + _PATIENCE
    while process.poll() is None:
        peak = max(peak, _memory(process.pid, "VmHWM"))
        if time.monotonic() > deadline:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    return peak


def _memory(process: int | str, what: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def _tracking_server(folder: Path) -> Iterator[str]:
    """A real MLflow server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        env=clean_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(f"{uri}/health"):
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("the MLflow server did not start")
            time.sleep(0.2)
        yield uri
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# What follows runs in the processes.


def _trainer(measured: Path, *flags: str) -> None:
    """What the command `sinergym-train` does, with a clock around its learning."""
    from sinergym_trainer.cli import main

    resets = _watch_resets()
    with _clock(measured, resets):
        main(flags)


def _bare(measured: Path, run_period: str, timesteps: str, rollout: str) -> None:
    """As in Stable-Baselines3's own guide."""
    import gymnasium as gym
    from sinergym.utils.wrappers import NormalizeAction
    from stable_baselines3 import PPO

    resets = _watch_resets()
    env = NormalizeAction(gym.make(ENVIRONMENT, building_config=_building(run_period)))
    with _clock(measured, resets):
        model = PPO("MlpPolicy", env, seed=SEED, n_steps=int(rollout), device="cpu")
        model.learn(int(timesteps))
    env.close()


def _sinergym(measured: Path, run_period: str, timesteps: str, rollout: str) -> None:
    """As Sinergym's own training script does it; it comes to no evaluation in so few episodes."""
    from sinergym.utils.callbacks import LoggerEvalCallback
    from sinergym.utils.common import create_environment
    from stable_baselines3 import PPO

    names = ("NormalizeAction", "LoggerWrapper", "CSVLogger")
    wrappers: dict[str, dict[str, Any]] = {f"sinergym.utils.wrappers:{name}": {} for name in names}
    parameters = {"building_config": _building(run_period)}
    env = create_environment(ENVIRONMENT, parameters, wrappers)
    watching = create_environment(
        ENVIRONMENT, parameters | {"env_name": f"{ENVIRONMENT}_EVALUATION"}, wrappers
    )
    callback = LoggerEvalCallback(watching, env, n_eval_episodes=2, eval_freq_episodes=10)
    with _clock(measured):
        model = PPO("MlpPolicy", env, seed=SEED, n_steps=int(rollout), device="cpu", verbose=1)
        model.learn(int(timesteps), callback=callback)
    env.close()


def _random(measured: Path, run_period: str, *_: str, prepared: bool = False) -> None:
    """Random actions, as many as a training has timesteps."""
    import gymnasium as gym
    import sinergym  # noqa: F401 - registers the ids

    from sinergym_trainer.environments.energyplus import prepare

    env = gym.make(ENVIRONMENT, building_config=_building(run_period))
    if prepared:
        prepare(env)
    env.action_space.seed(SEED)
    begin = time.perf_counter()
    env.reset(seed=SEED)
    for _step in range(TIMESTEPS):
        env.step(env.action_space.sample())
    _write(measured, TIMESTEPS, time.perf_counter() - begin)
    env.close()


def _prepared(measured: Path, run_period: str, *_: str) -> None:
    _random(measured, run_period, prepared=True)


def _energyplus(measured: Path, run_period: str, *_: str) -> None:
    """EnergyPlus without anything of Python's, on what Sinergym wrote for an episode."""
    import gymnasium as gym
    import sinergym  # noqa: F401 - registers the ids
    from pyenergyplus.api import EnergyPlusAPI

    env = gym.make(ENVIRONMENT, building_config=_building(run_period))
    base: Any = env.unwrapped
    base.model.set_episode_working_dir()
    base.model.update_weather_path()
    base.model.adapt_building_to_epw()
    building = base.model.save_building_model()
    weather = base.model.apply_weather_variability(weather_variability=None)
    api = EnergyPlusAPI()
    state = api.state_manager.new_state()
    api.runtime.set_console_output_status(state, False)
    begin = time.perf_counter()
    code = api.runtime.run_energyplus(state, ["-w", weather, "-d", "alone", building])
    seconds = time.perf_counter() - begin
    if code:
        raise SystemExit(f"EnergyPlus ended with exit code {code}")
    _write(measured, base.timestep_per_episode, seconds)


def _building(run_period: str) -> dict[str, Any]:
    from sinergym_trainer.options.values import RunPeriod

    return {"runperiod": RunPeriod.parse(run_period).as_tuple()}


def _watch_resets() -> list[float]:
    """The memory at each reset from now on, in MB."""
    from sinergym.envs import eplus_env

    resets: list[float] = []
    environment: Any = eplus_env.EplusEnv
    reset = environment.reset

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        resets.append(_memory("self", "VmRSS"))
        return reset(self, *args, **kwargs)

    environment.reset = watched
    return resets


@contextlib.contextmanager
def _clock(measured: Path, resets: list[float] | None = None) -> Iterator[None]:
    """Write down how long `learn` takes, and how many timesteps it made."""
    from stable_baselines3 import PPO, SAC

    with contextlib.ExitStack() as at_end:
        for algorithm in (PPO, SAC):
            at_end.enter_context(_timed(algorithm, measured, resets))
        yield


@contextlib.contextmanager
def _timed(algorithm: Any, measured: Path, resets: list[float] | None) -> Iterator[None]:
    learn = algorithm.learn

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return learn(self, *args, **kwargs)
        finally:
            _write(measured, self.num_timesteps, time.perf_counter() - begin, resets)

    algorithm.learn = timed
    try:
        yield
    finally:
        algorithm.learn = learn


def _write(
    measured: Path, timesteps: int, seconds: float, resets: list[float] | None = None
) -> None:
    content = {"timesteps": timesteps, "seconds": seconds, "episodes": resets or []}
    measured.write_text(json.dumps(content))


_RUNS: dict[str, Callable[..., None]] = {
    "trainer": _trainer,
    "bare": _bare,
    "sinergym": _sinergym,
    "random": _random,
    "prepared": _prepared,
    "energyplus": _energyplus,
}

if __name__ == "__main__":
    from sinergym_trainer.environments.energyplus import find_energyplus

    find_energyplus()
    _RUNS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
