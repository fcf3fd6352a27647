"""What happens when: schedules of mishaps, drawn by hypothesis."""

from dataclasses import dataclass
from typing import Final, Literal

from hypothesis import strategies as st

__all__ = ["SCHEDULES", "Experiment", "Mishap", "Schedule"]

type Kind = Literal["good", "slow", "bad", "flaky", "full"]
type What = Literal[
    "preempt",
    "kill-vm",
    "kill-container",
    "stock-out",
    "fault",
    "kill-launcher",
    "resume",
    "resume-twice",
    "cancel-some",
    "hang-ssh",
    "refuse-ssh",
    "cut-ssh",
]

SERVICES: Final = (
    "compute.instanceGroupManagers.insert",
    "compute.instanceGroupManagers.createInstances",
    "compute.instanceGroupManagers.listManagedInstances",
    "compute.instanceGroupManagers.deleteInstances",
    "compute.instanceGroupManagers.*",
    "compute.zoneOperations.*",
    "compute.instances.*",
    "compute.*",
    "storage.objects.insert",
    "storage.objects.get",
    "storage.objects.list",
    "storage.objects.*",
    "monitoring.*",
)
"""Methods whose calls fail for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What its command does."""

    kind: Kind
    """good and slow end well; bad with code 3; full finds no space; flaky fails at first."""

    @property
    def ends(self) -> tuple[str, str]:
        """The state and the kind of exit that it comes to, whatever happens on the way."""
        match self.kind:
            case "bad":
                return "failed", "error"
            case "full":
                return "failed", "disk_full"
            case _:
                return "finished", "ok"

    def command(self) -> str:
        """For `/bin/sh -c`: it says where it is, leaves an output, and ends as its kind says."""
        begin = 'echo "begin $SINERGYM_EXPERIMENT $SINERGYM_ATTEMPT"'
        output = 'echo "$SINERGYM_EXPERIMENT" > "$SINERGYM_OUTPUT/result"'
        end = 'echo "end $SINERGYM_EXPERIMENT $SINERGYM_ATTEMPT"'
        seconds = 2.0 if self.kind == "slow" else 0.3
        done = {
            "bad": "exit 3",
            "full": "echo 'OSError: [Errno 28] No space left on device' >&2; exit 1",
            # Fails until something has failed: a preempted attempt is none.
            "flaky": '[ "$SINERGYM_ATTEMPT" -gt 1 ] || exit 1',
        }.get(self.kind, ":")
        return f"{begin}; sleep {seconds}; {output}; {done}; {end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """Something that goes wrong, so many seconds after the launch has begun."""

    at: float
    what: What
    whom: int = 0
    """Which experiment or launcher, counted round."""
    service: str = ""
    status: int = 503
    count: int = 1
    after: bool = False
    """The call is carried out, and its answer is lost."""
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A sweep, and all that happens to it."""

    experiments: tuple[Experiment, ...]
    mishaps: tuple[Mishap, ...]
    ssh: bool
    """Whether the launcher sends the commands, instead of the runners reading them."""
    spot: bool
    skew: int
    """Seconds by which the clock of every second VM is wrong."""
    rerun: bool
    """Whether what has failed is asked to run again in the end, from two laptops at once."""


_TIMES = st.floats(0.0, 3.0).map(lambda seconds: round(seconds, 2))

_FAULTS = st.builds(
    Mishap,
    at=_TIMES,
    what=st.just("fault"),
    service=st.sampled_from(SERVICES),
    # 0 cuts the connection; with 200 only the delay is left.
    status=st.sampled_from([429, 500, 502, 503, 0, 200]),
    count=st.integers(1, 12),
    after=st.booleans(),
    delay=st.sampled_from([0.0, 0.0, 0.1, 1.5]),
)
_OTHERS = st.builds(
    Mishap,
    at=_TIMES,
    what=st.sampled_from(
        [
            "preempt",
            "preempt",
            "preempt",
            "kill-vm",
            "kill-vm",
            "kill-container",
            "stock-out",
            "kill-launcher",
            "resume",
            "resume-twice",
            "cancel-some",
        ]
    ),
    whom=st.integers(0, 7),
)
_OF_SSH = st.builds(
    Mishap,
    at=_TIMES,
    what=st.sampled_from(["hang-ssh", "refuse-ssh", "cut-ssh", "kill-launcher", "resume-twice"]),
    whom=st.integers(0, 7),
)
_EXPERIMENTS = st.sampled_from(["good", "good", "slow", "slow", "bad", "flaky", "full"]).map(
    lambda kind: Experiment(kind=kind)  # type: ignore[arg-type]
)


@st.composite
def _schedules(draw: st.DrawFn) -> Schedule:
    ssh = draw(st.sampled_from([False, False, False, True]))
    mishaps = st.one_of(_FAULTS, _OTHERS, _OF_SSH) if ssh else st.one_of(_FAULTS, _OTHERS)
    drawn = draw(st.lists(mishaps, min_size=1, max_size=6))
    return Schedule(
        experiments=tuple(draw(st.lists(_EXPERIMENTS, min_size=1, max_size=4))),
        mishaps=tuple(sorted(drawn, key=lambda mishap: mishap.at)),
        ssh=ssh,
        spot=draw(st.booleans()),
        skew=draw(st.sampled_from([0, 0, -7200, 90, 86400])),
        rerun=draw(st.sampled_from([False, False, True])),
    )


SCHEDULES: Final[st.SearchStrategy[Schedule]] = _schedules()
