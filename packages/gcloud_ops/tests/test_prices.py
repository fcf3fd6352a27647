"""The table of prices: machines by their names, regions, Spot, disks; and a file of one's own."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.prices import BASE_REGION, HOURS_A_MONTH, PRICES, load, shape

from .commands import runner


@pytest.mark.parametrize(
    ("machine_type", "hourly"),
    [  # whole machines, as Google's page and repositories that read its catalogue had them
        ("e2-medium", 0.033506),
        ("e2-standard-2", 0.067011),
        ("n1-standard-4", 0.189992),
        ("n2-standard-4", 0.194236),
        ("n2d-standard-4", 0.168984),
        ("t2d-standard-4", 0.168984),
        ("n4-highmem-16", 0.995104),
        ("c2-standard-4", 0.20872),
        ("c3-standard-4", 0.201608),
        ("c4-standard-4", 0.19767),
        ("n2-custom-8-16384", 1.05 * (8 * 0.031611 + 16 * 0.004237)),
        ("custom-2-4096", 1.05 * (2 * 0.031611 + 4 * 0.004237)),
    ],
)
def test_a_machine_costs_what_its_cpus_and_memory_cost(machine_type: str, hourly: float) -> None:
    """The name tells vCPUs and memory; the kind tells the rates."""
    found = PRICES.hourly(machine_type, region=BASE_REGION, spot=False, address=False)
    assert found == pytest.approx(hourly, rel=1e-4)


@pytest.mark.parametrize(
    ("machine_type", "expected"),
    [
        ("n2-highcpu-8", ("n2", 8, 8)),
        ("n1-highcpu-8", ("n1", 8, 7.2)),
        ("n2-highmem-128", ("n2", 128, 864)),
        ("c3d-highcpu-30", ("c3d", 30, 59)),
        ("e2-small", ("e2", 0.5, 2)),
        ("n2-custom-8-16384", ("n2", 8, 16)),
    ],
)
def test_a_name_tells_what_a_machine_is(
    machine_type: str, expected: tuple[str, float, float]
) -> None:
    """Kind, vCPUs as billed, GB of memory."""
    assert shape(machine_type) == expected


@pytest.mark.parametrize(
    "machine_type",
    [
        "",
        "n2",
        "n2-highcpu-7",
        "n9-standard-4",
        "a2-highgpu-1g",
        "c3-standard-4-lssd",
        "n2-custom-8-65536-ext",
        "n2-highcpu-8 ",
    ],
)
def test_what_is_not_known_has_no_price(machine_type: str) -> None:
    """None, and never 0 or a guess; and it is said what it is."""
    assert PRICES.hourly(machine_type, region=BASE_REGION, spot=False) is None
    said = PRICES.unknown(machine_type, region=BASE_REGION, spot=False)
    assert said == f"the machine type {machine_type}"


def test_a_region_and_a_disk_may_be_unknown_too() -> None:
    """Each is named."""
    assert PRICES.hourly("n2-highcpu-8", region="mars-north1", spot=False) is None
    assert PRICES.unknown("n2-highcpu-8", region="mars-north1", spot=True) == (
        "the region mars-north1"
    )
    wanted = {"region": BASE_REGION, "spot": False, "disk_gb": 20, "disk_type": "tape"}
    assert PRICES.hourly("n2-highcpu-8", **wanted) is None  # type: ignore[arg-type]
    assert PRICES.unknown("n2-highcpu-8", **wanted) == "the disk type tape"  # type: ignore[arg-type]
    assert PRICES.unknown("n2-highcpu-8", region=BASE_REGION, spot=True) == ""


@given(
    region=st.sampled_from(sorted(PRICES.regions)),
    kind=st.sampled_from(["n2-highcpu-8", "c4-standard-4", "e2-medium"]),
    disk=st.sampled_from(sorted(PRICES.disks)),
    size=st.integers(10, 65536),
)
def test_parts_add_up(region: str, kind: str, disk: str, size: int) -> None:
    """A VM is its machine, its disk by the GB, its address; Spot is cheaper, but not the disk."""
    bare = PRICES.hourly(kind, region=region, spot=False, address=False)
    whole = PRICES.hourly(kind, region=region, spot=False, disk_gb=size, disk_type=disk)
    spot = PRICES.hourly(kind, region=region, spot=True, disk_gb=size, disk_type=disk)
    assert bare is not None
    assert whole is not None
    assert spot is not None
    gb = size * PRICES.disks[disk] * PRICES.regions[region] / HOURS_A_MONTH
    assert whole == pytest.approx(bare + gb + PRICES.address)
    assert gb < spot < whole


def test_without_a_file_it_is_the_package_s_table(tmp_path: Path) -> None:
    """Nothing is needed."""
    assert load(environ={"GCLOUD_OPS_CONFIG": str(tmp_path / "config.toml")}) is PRICES


def test_a_file_of_one_s_own_is_over_the_table(tmp_path: Path) -> None:
    """Beside the settings' file, or where the variable says; what isn't in it stays."""
    file = tmp_path / "prices.toml"
    file.write_text(
        'date = "2027-01-15"\naddress = 0.5\n'
        "[machines.g2-standard-4]\nhourly = 0.7\n"
        "[families.n2]\ncpu = 1\ngb = 0\nspot = 0.25\n"
        "[regions]\nmars-north1 = 2.0\n"
        "[disks]\ntape = 7.3\n"
    )
    beside = load(environ={"GCLOUD_OPS_CONFIG": str(tmp_path / "config.toml")})
    assert beside == load(environ={"GCLOUD_OPS_PRICES": str(file)}) == load(file)
    assert beside.date == "2027-01-15"
    assert beside.hourly("n2-highcpu-8", region="mars-north1", spot=False) == 16.5
    assert beside.hourly("n2-highcpu-8", region="mars-north1", spot=True, address=False) == 4.0
    assert beside.hourly("g2-standard-4", region="venus", spot=False, address=False) == 0.7
    assert beside.hourly("g2-standard-4", region="venus", spot=True) is None
    assert beside.unknown("g2-standard-4", region="venus", spot=True) == (
        "the machine type g2-standard-4 as Spot VM"
    )
    assert beside.disk(100, "tape", region=BASE_REGION) == pytest.approx(1.0)
    assert beside.families["e2"] == PRICES.families["e2"]


def test_the_file_in_the_docs_is_one(tmp_path: Path) -> None:
    """docs/costs.md shows all that there is."""
    page = Path(__file__).parents[3] / "docs/costs.md"
    (block,) = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    file = tmp_path / "prices.toml"
    file.write_text(block)
    own = load(file)
    assert own.hourly("g2-standard-4", region=BASE_REGION, spot=True, address=False) == 0.2827
    assert own.families["n2"].spot == 0.25


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("adress = 1", "unknown key adress (did you mean address?)"),
        ("address = 'free'", "address: must be a number"),
        ("address = -1", "address: must be a number"),
        ("address = nan", "address: must be a number"),
        ("date = 'soon'", "date: must be a date"),
        ("families = 1", "families: must be a table"),
        ("[families.n2]\ncpu = 1", "families.n2.gb: is missing"),
        ("[families.n2]\ncpu = 1\ngb = 1\nspot = 2", "families.n2.spot: must be a share"),
        ("[families.n2]\ncpus = 1", "unknown key families.n2.cpus (did you mean cpu?)"),
        ("[machines.a9]\nspot = 1", "machines.a9.hourly: is missing"),
        ("[regions]\nmars = true", "regions.mars: must be a number"),
        ("[disks", "not TOML"),
    ],
)
def test_a_bad_file_is_one_line_with_the_key(tmp_path: Path, content: str, said: str) -> None:
    """What and where."""
    file = tmp_path / "prices.toml"
    file.write_text(content)
    with pytest.raises(InvalidRequest) as raised:
        load(file)
    assert said in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    """A wrong path is no table of one's own."""
    with pytest.raises(InvalidRequest, match="no such file of prices"):
        load(environ={"GCLOUD_OPS_PRICES": str(tmp_path / "none.toml")})


def test_the_command_shows_what_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for the zone's region; and what has no price is said, and is the exit code."""
    run = runner({"GCLOUD_OPS_ZONE": "europe-west1-b"}, monkeypatch, capsys)
    shown = run("prices", "n2-highcpu-8", "--disk-gb", "20", "--disk-type", "pd-ssd", "--address")
    assert shown.code == 0
    assert [line.split() for line in shown.out.splitlines()][1:] == [
        ["n2-highcpu-8", "8", "8", "$0.326", "$0.134"]
    ]
    assert shown.err.startswith(f"prices of {PRICES.date} for europe-west1, an estimate")
    assert len(run("prices", "--output", "json").json) > 10
    unknown = run("prices", "a2-highgpu-1g")
    assert unknown.code == 3
    assert "no price is known for the machine type a2-highgpu-1g" in unknown.err
