"""Read `sweep.yaml`: what people write, checked key by key, with the line of what is wrong.

name: quick
template: sinergym-template      # this and the next two: the setting's, if left out
zone: europe-west1-b             # or zones: [europe-west1-b, europe-west1-c], of one region
bucket: my-bucket
machines: [n2-highcpu-8, n2d-highcpu-8]   # machine types, the preferred one first
spot: true                       # Spot VMs
retry: {times: 2, kinds: [error, oom], wait: 60}      # or just a number
hours: 2                         # that an experiment is expected to take
max_hours: 10                    # that it may take; max_cost: 50 (dollars) limits the whole sweep
experiments:                     # commands, as they are
  - sinergym-train --environment Eplus-5zone-hot-continuous-v1 --episodes 2
base: sinergym-train --episodes 10     # and/or a command ...
grid:                                  # ... times every combination of these flags ...
  algorithm: [PPO, A2C]
  environment: [Eplus-5zone-hot-continuous-v1, Eplus-5zone-cool-continuous-v1]
seeds: [1, 2, 3]                       # ... times these seeds; a number N means 1 to N
"""

import difflib
import itertools
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from gcloud_ops.bounds import RETRIED
from gcloud_ops.contract import Dispatch, Retry
from gcloud_ops.errors import GcloudOpsError, InvalidRequest, NotFound
from gcloud_ops.model import MAX_EXPERIMENTS, Sweep

__all__ = ["RetryPolicy", "SweepFile", "read_sweep"]

type Scalar = bool | int | float | str


class RetryPolicy(BaseModel):
    """Which failures the runner tries again by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    times: int = Field(description="How often, at most, for one experiment.")
    kinds: list[str] = Field(
        default_factory=lambda: list(RETRIED), description="Kinds of failure, such as error, oom."
    )
    wait: int | float = Field(60, description="Seconds before the first retry; then they double.")


class SweepFile(BaseModel):
    """The content of a sweep file; the fields' descriptions are its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(description="The sweep's name, and so its instance group's.")
    template: str | None = Field(None, description="Instance template.")
    zone: str | None = Field(None, description="Compute Engine zone.")
    zones: list[str] = Field(
        default_factory=list, description="Zones of one region; any of them may have instances."
    )
    bucket: str | None = Field(None, description="Bucket for the results.")
    machines: list[str] = Field(
        default_factory=list, description="Machine types, the preferred one first."
    )
    spot: bool = Field(False, description="Whether the instances are Spot VMs.")
    retry: RetryPolicy | None = Field(None, description="What is tried again, or how often.")
    hours: int | float | None = Field(None, description="Hours that an experiment will take.")
    max_hours: int | float | None = Field(None, description="Hours that an experiment may take.")
    max_cost: int | float | None = Field(None, description="Dollars that the sweep may cost.")
    dispatch: str = Field("boot", description="How commands reach the containers: boot or ssh.")
    experiments: list[str] = Field(default_factory=list, description="Commands, as they are.")
    base: str | None = Field(None, description="Command to which grid and seeds add flags.")
    grid: dict[str, list[Scalar]] = Field(
        default_factory=dict, description="Flag -> its values; every combination is an experiment."
    )
    seeds: int | list[int] = Field(
        default_factory=list, description="Values of --seed; a number N means 1 to N."
    )

    @field_validator("retry", mode="before")
    @classmethod
    def _number_alone(cls, value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return {"times": value} if is_number else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dispatch not in set(Dispatch):
            raise _Misplaced(("dispatch",), f"dispatch is boot or ssh, not {self.dispatch!r}")
        if self.zone is not None and self.zones:
            raise _Misplaced(("zones",), "zone and zones: give one of them")
        if self.base is None and (self.grid or self.seeds):
            raise ValueError("grid and seeds need a base, the command that they add flags to")
        if isinstance(self.seeds, int) and self.seeds < 1:
            raise ValueError("seeds: give a number of at least 1, or a list")
        self._refuse_flags_given_twice()
        for flag, values in self.grid.items():
            if not re.fullmatch(r"-{0,2}[A-Za-z][-\w]*", flag):
                raise ValueError(f"grid.{flag}: {flag!r} can't be a flag's name")
            if not values:
                raise ValueError(f"grid.{flag}: no values")
        return self

    def _refuse_flags_given_twice(self) -> None:
        """A program would take one of two values of a flag, silently."""
        given = _flags(self.base or "")
        has_seed = not given.isdisjoint({"--seed", "-sd"})
        varied: set[str] = {"--seed"} if self.seeds else set()
        for flag in self.grid:
            name, key = f"--{flag.lstrip('-')}", ("grid", flag)
            if name in varied:
                by = "seeds" if name == "--seed" and self.seeds else "another key"
                raise _Misplaced(key, f"grid.{flag}: {by} varies {name} already")
            if name in given or (name == "--seed" and has_seed):
                raise _Misplaced(key, f"grid.{flag}: base has {name} already")
            varied.add(name)
        if self.seeds and has_seed:
            raise _Misplaced(("base",), "base has a --seed already, and seeds would add another")

    @property
    def size(self) -> int:
        """How many experiments it makes, without making them."""
        seeds = self.seeds if isinstance(self.seeds, int) else len(self.seeds) or 1
        points = math.prod(len(values) for values in self.grid.values()) * seeds
        return len(self.experiments) + (points if self.base is not None else 0)

    def commands(self) -> Iterator[str]:
        """All commands in order: `experiments`, then the grid with the seeds varying fastest."""
        yield from self.experiments
        if self.base is None:
            return
        seeds = list(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds
        axes = [[(flag, value) for value in values] for flag, values in self.grid.items()]
        if seeds:
            axes.append([("seed", seed) for seed in seeds])
        for point in itertools.product(*axes):
            yield " ".join([self.base.strip(), *itertools.chain(*itertools.starmap(_flag, point))])

    def to_sweep(self, *, name: str | None = None) -> Sweep:
        """The sweep that the file describes, under another name if one is given.

        Raises:
            InvalidRequest: As `Sweep` does.
        """
        if self.size > MAX_EXPERIMENTS:
            raise InvalidRequest(
                f"{self.size:,} experiments, but an instance group holds at most "
                f"{MAX_EXPERIMENTS:,}",
                hint="split it into several sweeps",
            )
        described = Sweep.of_commands(
            name or self.name,
            list(self.commands()),
            template=self.template,
            zone=self.zone,
            bucket=self.bucket,
            dispatch=Dispatch(self.dispatch),
        )
        return replace(
            described,
            zones=tuple(self.zones),
            machine_types=tuple(self.machines),
            spot=self.spot,
            retry=Retry(
                times=self.retry.times, kinds=tuple(self.retry.kinds), wait=self.retry.wait
            )
            if self.retry
            else None,
            hours=self.hours,
            max_hours=self.max_hours,
            max_cost=self.max_cost,
        )


def read_sweep(path: Path, *, name: str | None = None) -> Sweep:
    """Read a sweep file.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: It isn't right; the message names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", resource=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: can't be read: {error}", resource=str(path)) from error
    return parse_sweep(text, source=str(path), name=name)


def parse_sweep(text: str, *, source: str, name: str | None = None) -> Sweep:
    """Read a sweep file's text; `source` is how errors name it.

    Raises:
        InvalidRequest: It isn't right; the message names source, line and key.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, ()))
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error)
        raise InvalidRequest(f"{where}: not YAML: {problem}", resource=source) from error
    except _DuplicateKey as error:
        raise InvalidRequest(f"{source}:{error}", resource=source) from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"{source}:1: a sweep file is a mapping of keys", resource=source)
    try:
        return SweepFile.model_validate(content).to_sweep(name=name)
    except ValidationError as error:
        raise _explain(error, source, lines) from error
    except GcloudOpsError as error:
        field = tuple(error.message.partition(":")[0].split("."))
        line = lines.get(field) or lines.get(field[:1]) or lines.get(("experiments",), 1)
        raise InvalidRequest(
            f"{source}:{line}: {error.message}", resource=source, hint=error.hint
        ) from error


class _Misplaced(ValueError):
    """What is wrong with one key, when it is seen beside the others."""

    def __init__(self, path: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path


class _DuplicateKey(Exception):
    pass


def _flags(command: str) -> set[str]:
    """The flags in a command, with their hyphens and without their values."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is never closed: the shell will say so
        words = command.split()
    return {match[0] for word in words if (match := re.match(r"--?[A-Za-z][-\w]*", word))}


def _flag(flag: str, value: Scalar) -> list[str]:
    """`true` is the flag alone, `false` is no flag."""
    if value is False:
        return []
    name = f"--{flag.lstrip('-')}"
    return [name] if value is True else [name, shlex.quote(str(value))]


def _lines(
    node: yaml.Node | None, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """The line of every key and item; YAML's own loader silently keeps the last of two keys."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise _DuplicateKey(f"{line}: {key.value} is there twice (line {seen[key.value]})")
            seen[key.value] = line
            yield (*path, key.value), line
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines(item, (*path, index))


def _explain(
    error: ValidationError, source: str, lines: dict[tuple[str | int, ...], int]
) -> InvalidRequest:
    found: list[Any] = list(error.errors())
    # A key that is mistyped is also one that is missing: the former says more.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    # pydantic appends the member of a union that it tried: only what is in the file counts.
    loc: tuple[str | int, ...] = first["loc"]
    if isinstance(cause := first.get("ctx", {}).get("error"), _Misplaced):
        loc = cause.path
    while loc and loc not in lines:
        loc = loc[:-1]
    field = ".".join(str(part) for part in loc)
    hint = ""
    match first["type"]:
        case "extra_forbidden":
            nested = RetryPolicy if loc[0] == "retry" else SweepFile
            known = list(nested.model_fields)
            near = difflib.get_close_matches(str(loc[-1]), known, 1)
            problem = f"unknown key {field!r}"
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
        case "missing":
            problem = f"the key {'.'.join(str(part) for part in first['loc'])!r} is missing"
        case "value_error":
            problem = str(first["ctx"]["error"])
        case _:
            problem = f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return InvalidRequest(f"{source}:{lines.get(loc, 1)}: {problem}", resource=source, hint=hint)
