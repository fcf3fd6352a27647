"""Stochastic weather that repeats: run after run, in every episode."""

from typing import Any

import gymnasium
import numpy as np


class SeededWeather(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The same weathers in every episode of a run with the same seed.

    A stochastic id of Sinergym adds noise to the weather of each episode. Its `reset(seed=s)`
    makes one reproducible episode; a `reset()` without a seed, as vectors do between episodes,
    takes one from the operating system. Here the episodes after `reset(seed=s)` get seeds that
    follow from `s` and the number of the episode. The first one gets `s`, so it is what Sinergym
    alone makes of it; without any seed nothing changes.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._first: int | None = None
        self._next = 0
        self._continues = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode, or with a seed a new series of episodes."""
        if seed is not None and not self._continues:
            self._first, self._next = seed, 0
        self._continues = False
        seed = self._seed()
        self._next += 1
        return self.env.reset(seed=seed, options=options)

    def weather_state(self) -> tuple[int | None, int]:
        """The series' seed and the number of its next episode."""
        return self._first, self._next

    def continue_weather(self, state: tuple[int | None, int]) -> None:
        """Let the next `reset`, whatever seed it gets, begin the next episode of a series."""
        self._first, self._next = state
        self._continues = True

    def _seed(self) -> int | None:
        if self._first is None or self._next == 0:
            return self._first
        sequence = np.random.SeedSequence(self._first, spawn_key=(self._next,))
        return int(sequence.generate_state(1, np.uint64)[0])
