"""A file of one's own prices, over the package's table."""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.prices.table import PRICES, Family, Machine, Prices
from gcloud_ops.settings import config_file

__all__ = ["load"]


def load(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Prices:
    """The table, with what a file of one's own has instead.

    The file is TOML; all in it may be left out. `machines` are prices for whole machine types, in
    whatever region, `families` rates in us-central1, `regions` factors on these:

        date = "2027-01-15"
        address = 0.005
        [machines.g2-standard-4]
        hourly = 0.7068
        spot = 0.2827
        [families.n2]
        cpu = 0.031611
        gb = 0.004237
        spot = 0.25
        [regions]
        europe-west1 = 1.1
        [disks]
        pd-ssd = 0.17

    Args:
        path: The file; None: `$GCLOUD_OPS_PRICES`, or `prices.toml` beside the settings' file,
            which needn't be there.
        environ: The environment.

    Raises:
        InvalidRequest: The file isn't there or can't be; the message names the key.
    """
    variable = environ.get("GCLOUD_OPS_PRICES")
    named = path or (Path(variable) if variable else None)
    file = named or config_file(environ).with_name("prices.toml")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is not None:
            raise InvalidRequest(f"{file}: no such file of prices") from None
        return PRICES
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file}: can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{file}: not TOML: {error}") from error
    known = {one.name: _READERS.get(one.name, _dollars) for one in fields(Prices)}
    return replace(PRICES, **_read(content, known, str(file), ""))


# ------------------------------------------------------------------------ a file of prices
# Each reader takes a value, and where it stands; it returns what the table holds, or raises.


def _read(
    content: Mapping[str, object],
    known: Mapping[str, Callable[[object, str], Any]],
    where: str,
    prefix: str,
) -> dict[str, Any]:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise InvalidRequest(
                f"{where}: unknown key {prefix}{key}",
                hint=f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
            )
    return {key: known[key](value, f"{where}: {prefix}{key}") for key, value in content.items()}


def _table(value: object, where: str) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    raise InvalidRequest(f"{where}: must be a table, not {value!r}")


def _dollars(value: object, where: str) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if not number >= 0 or not isfinite(number):
        raise InvalidRequest(f"{where}: must be a number, not negative, not {value!r}")
    return number


def _share(value: object, where: str) -> float:
    if (found := _dollars(value, where)) <= 1:
        return found
    raise InvalidRequest(f"{where}: must be a share from 0 to 1, not {value!r}")


def _date(value: object, where: str) -> str:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", str(value)):
        return str(value)
    raise InvalidRequest(f"{where}: must be a date such as 2027-01-15, not {value!r}")


def _numbers(name: str) -> Callable[[object, str], dict[str, float]]:
    def read(value: object, where: str) -> dict[str, float]:
        own = {k: _dollars(v, f"{where}.{k}") for k, v in _table(value, where).items()}
        return {**getattr(PRICES, name), **own}

    return read


def _family(value: object, where: str) -> Family:
    return _of(Family, {"cpu": _dollars, "gb": _dollars, "spot": _share}, value, where)


def _families(value: object, where: str) -> dict[str, Family]:
    own = {k: _family(v, f"{where}.{k}") for k, v in _table(value, where).items()}
    return {**PRICES.families, **own}


def _machines(value: object, where: str) -> dict[str, Machine]:
    known = {"hourly": _dollars, "spot": _dollars}
    return {k: _of(Machine, known, v, f"{where}.{k}") for k, v in _table(value, where).items()}


def _of[T](
    kind: Callable[..., T],
    known: Mapping[str, Callable[[object, str], float]],
    value: object,
    where: str,
) -> T:
    file, _, key = where.rpartition(": ")
    found = _read(_table(value, where), known, file, f"{key}.")
    for needed in known:
        if needed not in found and needed != "spot":
            raise InvalidRequest(f"{where}.{needed}: is missing")
    return kind(**found)


_READERS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "date": _date,
    "families": _families,
    "machines": _machines,
    "regions": _numbers("regions"),
    "disks": _numbers("disks"),
}
