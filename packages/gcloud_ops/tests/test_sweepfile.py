"""Sweep files: what they expand to, and which line is named when they are wrong."""

import itertools
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.bounds import RETRIED
from gcloud_ops.contract import Dispatch, Retry
from gcloud_ops.errors import InvalidRequest, NotFound
from gcloud_ops.model import MAX_EXPERIMENTS, Sweep
from gcloud_ops.sweepfile import parse_sweep, read_sweep


def commands(sweep: Sweep) -> list[str]:
    """The commands alone."""
    return [experiment.command for experiment in sweep.experiments]


def test_all_keys() -> None:
    """Every key arrives where it belongs; commands come before the grid, seeds vary fastest."""
    sweep = parse_sweep(
        """
name: q
template: t
zone: europe-west1-c
bucket: some-bucket
dispatch: boot
experiments:
  - first --flag 'a b'
base: train
grid:
  algorithm: [PPO, A2C]
  --normalization: [true, false]
seeds: 2
""",
        source="f.yaml",
    )

    assert (sweep.name, sweep.template, sweep.zone) == ("q", "t", "europe-west1-c")
    assert (sweep.bucket, sweep.dispatch) == ("some-bucket", Dispatch.BOOT)
    assert commands(sweep) == [
        "first --flag 'a b'",
        "train --algorithm PPO --normalization --seed 1",
        "train --algorithm PPO --normalization --seed 2",
        "train --algorithm PPO --seed 1",
        "train --algorithm PPO --seed 2",
        "train --algorithm A2C --normalization --seed 1",
        "train --algorithm A2C --normalization --seed 2",
        "train --algorithm A2C --seed 1",
        "train --algorithm A2C --seed 2",
    ]
    assert [e.id for e in sweep.experiments[:2]] == ["q-0001", "q-0002"]


def test_how_experiments_are_to_run() -> None:
    """Zones, machines, Spot, retries and limits; what is left out is none of it, and boot."""
    sweep = parse_sweep(
        """
name: q
base: train
zones: [europe-west1-b, europe-west1-c]
machines: [n2-highcpu-8, n2d-highcpu-8]
spot: true
retry: {times: 2, kinds: [oom], wait: 5}
hours: 2
max_hours: 10.5
max_cost: 50
""",
        source="f.yaml",
    )

    assert sweep.zones == ("europe-west1-b", "europe-west1-c")
    assert sweep.machine_types == ("n2-highcpu-8", "n2d-highcpu-8")
    assert sweep.spot
    assert sweep.retry == Retry(times=2, kinds=("oom",), wait=5)
    assert (sweep.hours, sweep.max_hours, sweep.max_cost) == (2, 10.5, 50)
    plain = parse_sweep("name: q\nbase: train\nretry: 3\n", source="f.yaml")
    assert plain.retry == Retry(times=3, kinds=RETRIED)
    assert (plain.dispatch, plain.spot, plain.zones) == (Dispatch.BOOT, False, ())
    assert plain.renamed("r").experiments[0].id == "r-0001"
    assert plain.renamed("r").retry == plain.retry


def test_another_name(tmp_path: Path) -> None:
    """A name that is given replaces the file's, also in the experiments' ids."""
    path = tmp_path / "f.yaml"
    path.write_text("name: q\nbase: train\n")

    sweep = read_sweep(path, name="r")

    assert (sweep.name, sweep.experiments[0].id) == ("r", "r-0001")


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("- a\n", 1, "mapping"),
        ("", 1, "mapping"),
        ("name: q\nbase: [\n", 3, "not YAML"),
        ("name: q\n\texperiments: [a]\n", 2, "not YAML"),
        ("name: q\nexperimnts: [a]\n", 2, "did you mean 'experiments'?"),
        ("name: q\nbase: a\nnmae: q\n", 3, "unknown key 'nmae'"),
        ("name: q\nbase: a\nname: r\n", 3, "name is there twice (line 1)"),
        ("base: a\ngrid:\n  x: [1]\n  x: [2]\nname: q\n", 4, "x is there twice (line 3)"),
        ("base: a\n", 1, "'name' is missing"),
        ("name: Q_1\nbase: a\n", 1, "can't name a sweep"),
        ("base: a\n\nname: q-\n", 3, "can't name a sweep"),
        ("name: 7\nbase: a\n", 1, "name: input should be a valid string"),
        ("name: q\n", 1, "no experiments"),
        ("name: q\nexperiments: []\n", 2, "no experiments"),
        ("name: q\nexperiments:\n  - a\n  - 7\n", 4, "experiments.1"),
        ("name: q\nexperiments:\n  - a\n  - ' '\n", 2, "q-0002 is empty"),
        ("name: q\nexperiments: a\n", 2, "experiments: input should be a valid list"),
        ("name: q\ngrid:\n  x: [1]\n", 1, "need a base"),
        ("name: q\nbase: a\ngrid:\n  x: 1\n", 4, "grid.x"),
        ("name: q\nbase: a\ngrid:\n  x: [1]\n  y: [{}]\n", 5, "grid.y.0"),
        ("name: q\nbase: a\nseeds: 0\n", 1, "at least 1"),
        ("name: q\nbase: a\nseeds: [1, b]\n", 3, "seeds"),
        ("name: q\nbase: a\ndispatch: pigeon\n", 3, "boot or ssh"),
        ("name: q\nbase: a\n\nzones: [europe-west1-b, us-east1-b]\n", 4, "different regions"),
        ("name: q\nbase: a\nzones: [here]\n", 3, "'here' is not a zone"),
        ("name: q\nbase: a\nzone: b\nzones: [europe-west1-b]\n", 4, "give one of them"),
        ("name: q\nbase: a\nmachines: [N 2]\n", 3, "is not a machine type"),
        ("name: q\nbase: a\nmachines: n2-highcpu-8\n", 3, "machines: input should be a valid"),
        ("name: q\nbase: a\nspot: maybe\n", 3, "spot: input should be a valid boolean"),
        ("name: q\nbase: a\nretry: -1\n", 3, "retry.times: -1 is not between"),
        ("name: q\nbase: a\nretry:\n  times: 2\n  kinds: [oops]\n", 5, "'oops' is no kind"),
        ("name: q\nbase: a\nretry:\n  times: 2\n  kinds: []\n", 5, "nothing would be tried"),
        ("name: q\nbase: a\nretry:\n  times: 2\n  wait: 7200\n", 5, "between 0 and 3600"),
        ("name: q\nbase: a\nretry: {tims: 2}\n", 3, "unknown key 'retry.tims'"),
        ("name: q\nbase: a\nhours: 0\n", 3, "hours: 0 is not a number above 0"),
        ("name: q\nbase: a\nmax_hours: -2\n", 3, "max_hours: -2 is not a number above 0"),
        ("name: q\nbase: a\nmax_cost: .nan\n", 3, "max_cost: nan is not a number above 0"),
        ("name: q\nbase: a\nmax_cots: 3\n", 3, "unknown key 'max_cots'"),
        ("name: q\nbase: a\nseeds: 1001\n", 1, "1,001 experiments"),
        ("name: q\nbase: a\nseeds: 2\ngrid:\n  seed: [1]\n", 5, "seeds varies --seed already"),
        ("name: q\nseeds: [1]\nbase: a --seed=3\n", 3, "base has a --seed already"),
        ("name: q\nseeds: [1]\n\nbase: a -sd 3\n", 4, "base has a --seed already"),
        ("name: q\nbase: a -sd 3\ngrid:\n  --seed: [1]\n", 4, "base has --seed already"),
        ("name: q\nbase: a --lr 3\ngrid:\n  x: [1]\n  lr: [1]\n", 5, "base has --lr already"),
        ("name: q\nbase: a\ngrid:\n  lr: [1]\n  --lr: [2]\n", 5, "another key varies --lr"),
    ],
)
def test_what_is_wrong_is_named(text: str, line: int, named: str) -> None:
    """One line: source, the line in it, the key, what to do."""
    with pytest.raises(InvalidRequest) as raised:
        parse_sweep(text, source="f.yaml")

    assert str(raised.value).startswith(f"f.yaml:{line}: ")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_grid_too_large_is_counted_not_made() -> None:
    """A grid of 10^12 points is refused at once."""
    axis = list(range(1000))
    text = yaml.safe_dump({"name": "q", "base": "a", "grid": {f"f{n}": axis for n in range(4)}})

    with pytest.raises(InvalidRequest, match="1,000,000,000,000 experiments"):
        parse_sweep(text, source="f.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file is not found, a folder and bytes that are no text are refused."""
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(NotFound, match="no such file"):
        read_sweep(tmp_path / "no.yaml")
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(InvalidRequest, match="can't be read"):
            read_sweep(path)


FLAG = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda flag: flag != "seed")
VALUE = st.one_of(
    st.booleans(),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
)


@given(
    experiments=st.lists(st.just("some command"), max_size=3),
    grid=st.dictionaries(FLAG, st.lists(VALUE, min_size=1, max_size=3), max_size=3),
    seeds=st.one_of(st.integers(1, 4), st.lists(st.integers(0, 99), max_size=3)),
)
def test_expansion(
    experiments: list[str], grid: dict[str, list[object]], seeds: int | list[int]
) -> None:
    """Every combination once, in order; a shell reads back the values that were written."""
    document = {
        "name": "q",
        "experiments": experiments,
        "base": "train -x",
        "grid": grid,
        "seeds": seeds,
    }
    sweep = parse_sweep(
        yaml.safe_dump(document, allow_unicode=True, sort_keys=False), source="f.yaml"
    )

    written = [list(range(1, seeds + 1)) if isinstance(seeds, int) else seeds]
    axes: list[list[Any]] = [*grid.values(), *(axis for axis in written if axis)]
    names = [*grid, "seed"]
    expected = []
    for point in itertools.product(*axes):
        words = ["train", "-x"]
        for name, value in zip(names, point, strict=False):
            if value is not False:
                words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        expected.append(words)
    assert len(sweep.experiments) == len(experiments) + len(expected) <= MAX_EXPERIMENTS
    assert commands(sweep)[: len(experiments)] == experiments
    assert [shlex.split(c) for c in commands(sweep)[len(experiments) :]] == expected
    assert [e.id for e in sweep.experiments] == [
        f"q-{number:04d}" for number in range(1, len(sweep.experiments) + 1)
    ]
