"""Messages between this program's own processes, over a socket, with little delay.

`multiprocessing`'s connections take two system calls to read a message, and a layer of Python for
what no step of an environment needs; and to wake a core that sleeps takes a fifth of a
millisecond, after which its caches are cold: a step takes nearly twice as long. So a message is
one call here, and who waits looks for it for a while before sleeping, if there is a core for it.
"""

import pickle
import socket
import struct
import time
from select import POLLIN, poll
from typing import Any

import numpy as np

_SPIN = 0.005
"""Seconds of looking before sleeping: more than the other side takes for a step, much less than
for an update of its networks."""
_SIZE = struct.Struct("=I")
_PIECE = 1 << 16
_ARRAY = "an array's bytes"


class Channel:
    """One end of a connection to a process of this program, which is of the same version.

    Args:
        end: a connected stream socket; the channel closes it.
        spins: whether there is a core for each side, so that who waits needn't sleep.
    """

    def __init__(self, end: socket.socket, *, spins: bool = False) -> None:
        self.spins = spins
        self._socket = end
        self._arrived = b""
        self._poll = poll()
        self._poll.register(end.fileno(), POLLIN)

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        content = pickle.dumps(_flat(message), pickle.HIGHEST_PROTOCOL)
        self._socket.sendall(_SIZE.pack(len(content)) + content)

    def receive(self) -> Any:
        """The next message; waits for it.

        Raises:
            EOFError: the other side is gone.
            OSError: the same, or it took longer than `answers_within` says.
        """
        if self.spins and not self._arrived:
            deadline = time.perf_counter() + _SPIN
            while not self.has_message(0) and time.perf_counter() < deadline:
                pass
        self._take(_SIZE.size)
        (size,) = _SIZE.unpack_from(self._arrived)
        end = _SIZE.size + size
        self._take(end)
        content, self._arrived = self._arrived[_SIZE.size : end], self._arrived[end:]
        return _whole(pickle.loads(content))  # noqa: S301 - from this program

    def has_message(self, seconds: float) -> bool:
        """Whether something arrives in that time, be it the end."""
        return bool(self._arrived) or bool(self._poll.poll(seconds * 1000))

    def answers_within(self, seconds: int) -> None:
        """Let `receive` fail when nothing comes for so long; the kernel's limit costs nothing."""
        limit = struct.pack("ll", seconds, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def close(self) -> None:
        """Close it; the other side sees the end."""
        self._socket.close()

    def _take(self, size: int) -> None:
        """Read until so many bytes have arrived."""
        while len(self._arrived) < size:
            piece = self._socket.recv(max(_PIECE, size - len(self._arrived)))
            if not piece:
                raise EOFError
            self._arrived += piece


def _flat(message: Any) -> Any:
    """The message with the bytes of the arrays in it: NumPy's own pickles take six times as long.

    Between two steps, that is, when nothing of NumPy's is in a cache. Only arrays that are members
    of a tuple are found, such as the action in `("step", action)`.
    """
    if type(message) is not tuple:
        return message
    return tuple(
        (_ARRAY, part.dtype.str, part.shape, part.tobytes())
        if type(part) is np.ndarray and not part.dtype.hasobject
        else part
        for part in message
    )


def _whole(message: Any) -> Any:
    """What `_flat` made it of; the arrays can't be written to."""
    if type(message) is not tuple:
        return message
    return tuple(
        np.frombuffer(part[3], part[1]).reshape(part[2]) if _is_flat(part) else part
        for part in message
    )


def _is_flat(part: Any) -> bool:
    return type(part) is tuple and len(part) == 4 and type(part[0]) is str and part[0] == _ARRAY
