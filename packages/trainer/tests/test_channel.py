"""The channel between a vector and its workers: what goes in comes out, and an end is an end."""

import socket
import threading
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.environments.channel import Channel

NUMBERS = st.sampled_from([np.float32, np.float64, np.int64, np.bool_]).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, min_side=0, max_side=40))
)
PARTS = st.one_of(
    NUMBERS,
    st.none(),
    st.text(),
    st.tuples(st.text(), st.text(), st.none(), st.binary()),
    st.dictionaries(st.text(), st.floats(allow_nan=False)),
)


def pair(*, spins: bool = False) -> tuple[Channel, Channel]:
    """Two ends."""
    ours, theirs = socket.socketpair()
    return Channel(ours, spins=spins), Channel(theirs, spins=spins)


def equal(first: Any, second: Any) -> bool:
    """Whether two parts are the same, arrays with type and shape."""
    if isinstance(first, np.ndarray):
        return (
            isinstance(second, np.ndarray)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    return bool(first == second)


@given(messages=st.lists(st.one_of(st.tuples(PARTS, PARTS), st.tuples(PARTS), st.text())))
def test_messages_arrive_as_they_were_sent(messages: list[Any]) -> None:
    """In order, also several at once; arrays with every bit."""
    one, other = pair(spins=True)
    for message in messages:
        one.send(message)
    received = [other.receive() for _ in messages]
    one.close()
    other.close()
    for sent, got in zip(messages, received, strict=True):
        assert type(got) is type(sent)
        if isinstance(sent, tuple):
            assert all(equal(a, b) for a, b in zip(sent, got, strict=True))
        else:
            assert got == sent


def test_a_message_may_be_larger_than_the_kernel_holds() -> None:
    """Whoever writes waits for the reader."""
    one, other = pair()
    large = np.arange(1_000_000.0)
    sender = threading.Thread(target=one.send, args=((large, "end"),))
    sender.start()
    got, end = other.receive()
    sender.join()
    assert equal(large, got)
    assert end == "end"
    one.close()
    other.close()


def test_the_other_sides_end_is_seen() -> None:
    """In reading, after what was sent before, and in writing."""
    one, other = pair(spins=True)
    one.send("last")
    one.close()
    assert other.has_message(0)
    assert other.receive() == "last"
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        other.send("nobody")
    other.close()


def test_an_answer_is_waited_for_as_long_as_was_said() -> None:
    """Then it is an OSError."""
    one, other = pair(spins=True)
    one.answers_within(1)
    with pytest.raises(OSError, match="unavailable"):
        one.receive()
    assert not one.has_message(0)
    one.close()
    other.close()
