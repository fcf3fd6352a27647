"""Evaluation in a process of its own, beside the training.

Two EnergyPlus simulations in one process break each other (see `environments.make_environment`),
and whatever an evaluation would draw from Python's, NumPy's or PyTorch's global generators would
change the training. A process of its own can do neither, and the training goes on meanwhile.

The child is this module (`python -m sinergym_trainer.evaluation FD`). It is not made by
`multiprocessing`, which imports the caller's main module again. On the connection `FD` it reads
pickled messages: first `(EnvironmentSpec, folder, threads, seed)`, then one `Request` after
another, each answered by `Evaluation` or a text that says what went wrong. It ends when the
connection does.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sinergym_trainer.environments import EnvironmentSpec, closing, make_environment
from sinergym_trainer.errors import EvaluationFailed

_STEPS_BETWEEN_LOOKS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Evaluate the model in a file for some episodes."""

    timesteps: int
    """Of training, when the model was saved."""
    model: Path
    algorithm: str
    episodes: int
    normalization: tuple[Any, Any, float] | None = None
    """Mean, variance and count of the training's observations; the evaluation keeps them so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation gave: one reward and length for each episode."""

    timesteps: int
    model: Path
    rewards: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean_reward(self) -> float:
        """The mean over the episodes."""
        return sum(self.rewards) / len(self.rewards)


class Evaluator:
    """The evaluation's process, seen from the training.

    It is started at once, so that its imports and the making of its environment, some seconds, are
    over when the first request comes.

    Args:
        spec: the environment to evaluate on.
        folder: where its Sinergym writes.
        threads: PyTorch's threads there.
        seed: the weather's, in stochastic environments; the same weathers in every evaluation.
    """

    def __init__(
        self, spec: EnvironmentSpec, folder: Path, *, threads: int, seed: int | None
    ) -> None:
        self._first = (spec, folder, threads, seed)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = self._launch()
        self.pending: Request | None = None
        """What is being evaluated."""

    def start(self, request: Request) -> None:
        """Begin an evaluation; returns at once. There must be none pending."""
        if self.pending:
            raise RuntimeError("an evaluation is still pending")
        try:
            if self._connection is None:
                self._connection = self._launch()
            self._connection.send(request)
        except OSError as error:
            self.close()
            raise EvaluationFailed(f"the evaluation's process is gone: {error}") from error
        self.pending = request

    def poll(self, seconds: float = 0.0) -> Evaluation | None:
        """The pending evaluation's result, when it is there within some seconds.

        Raises:
            EvaluationFailed: it broke; the next request starts a new process.
        """
        if self._connection is None or self.pending is None:
            return None
        try:
            if not self._connection.poll(seconds):
                return None
            answer = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            raise EvaluationFailed("the evaluation's process ended before its result") from None
        self.pending = None
        if isinstance(answer, Evaluation):
            return answer
        self.close()
        raise EvaluationFailed(str(answer))

    def wait(self, stop: Callable[[], bool]) -> Evaluation | None:
        """The pending evaluation's result; None without one, or when `stop()` became true."""
        while self.pending and not stop():
            if result := self.poll(0.2):
                return result
        return None

    def close(self) -> None:
        """End the process, also in the middle of an evaluation."""
        self.pending = None
        if self._connection:
            self._connection.close()
            self._connection = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _launch(self) -> "Connection[Any, Any]":
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sinergym_trainer.evaluation", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        ours.send(self._first)
        return ours


class _Abandoned(Exception):
    """Nobody waits for the result any more."""


def main(descriptor: int) -> None:
    """Answer requests until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's to handle
    connection: Connection[Any, Any] = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError, _Abandoned):
        spec, folder, threads, seed = connection.recv()
        import torch

        torch.set_num_threads(threads)
        try:
            made = make_environment(spec, folder)
        except Exception as error:
            connection.recv()
            connection.send(f"{type(error).__name__}: {error}")
            return
        with closing(made) as env:
            while True:
                request = connection.recv()
                try:
                    answer: Evaluation | str = _evaluate(env, request, seed)
                except _Abandoned:
                    raise
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                connection.send(answer)


def _evaluate(env: Any, request: Request, seed: int | None) -> Evaluation:
    """Run the model's deterministic actions; the Monitor measures, as in SB3's `EvalCallback`."""
    import numpy as np
    import stable_baselines3

    # A replay buffer is no part of a decision: without this, DQN would set aside one of a million
    # steps.
    model = getattr(stable_baselines3, request.algorithm).load(
        request.model, device="cpu", custom_objects={"buffer_size": 1}
    )
    if request.normalization:
        mean, variance, count = request.normalization
        statistics = env.get_wrapper_attr("obs_rms")
        statistics.mean, statistics.var, statistics.count = mean, variance, count
        env.get_wrapper_attr("deactivate_update")()
    dtype = env.observation_space.dtype
    rewards, lengths = [], []
    for episode in range(request.episodes):
        observation, step = env.reset(seed=None if seed is None else seed + episode)[0], 0
        while True:
            observation = np.asarray(observation, dtype=dtype)
            action, _ = model.policy.predict(observation, deterministic=True)
            # [()] makes a scalar of an array without dimensions, which is what a vector
            # environment hands on.
            observation, _, terminated, truncated, info = env.step(action[()])
            if terminated or truncated:
                break
            step += 1
            if step % _STEPS_BETWEEN_LOOKS == 0 and os.getppid() != _PARENT:
                raise _Abandoned
        rewards.append(float(info["episode"]["r"]))
        lengths.append(int(info["episode"]["l"]))
    return Evaluation(
        timesteps=request.timesteps,
        model=request.model,
        rewards=tuple(rewards),
        lengths=tuple(lengths),
    )


_PARENT = os.getppid()

if __name__ == "__main__":
    # Classes are unpickled by their module's name: in the module of that name, not in __main__.
    from sinergym_trainer import evaluation  # noqa: PLW0406

    evaluation.main(int(sys.argv[1]))
