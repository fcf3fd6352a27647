"""A model with its card, on disk: saved whole, and found again on disk, in a bucket or in MLflow.

A saved model is up to three files in one folder: `model.zip` as Stable-Baselines3 writes it,
`model.json` (the card: what it was trained on), and `normalization.npz` (the statistics of its
observations, if they were normalized). A zip without the others, from plain Stable-Baselines3,
works too.

Loading such a zip runs code that is in it: Stable-Baselines3 stores pickles. Load only what you
trust. `find` itself loads none; it only reads the card and the statistics, which are plain data.
"""

import contextlib
import json
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from sinergym_trainer.errors import ModelUnusable, one_line

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from sinergym_trainer.normalization import Statistics

MODEL = "model.zip"
BEST = "best_model/best_model.zip"
CARD = "model.json"
STATISTICS = "normalization.npz"
CHECKPOINTS = "checkpoints"
SCHEMA = 1

_CHECKPOINT = re.compile(r"checkpoint-\d+\.zip")
_OURS = ("model.zip", "best_model.zip")
_BESIDE = (CARD, STATISTICS)
_PAUSES = (1.0, 2.0)
"""Seconds before each further try of a passing trouble."""

type _Remote = Mapping[str, Callable[[Path], None]]
"""How to get each file of a folder elsewhere, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model was trained on: enough to make the same environment again."""

    name: str
    """Of the run."""
    algorithm: str
    environment: str
    timesteps: int
    run_period: str | None = None
    reward: str = "linear"
    reward_kwargs: Mapping[str, Any] = field(default_factory=dict)
    energy_weight: float | None = None
    normalize_action: bool = False
    multiobs: bool = False
    normalization: bool = False
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `model.json`."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read what `to_json` gave; members that are not known are passed over.

        Raises:
            ModelUnusable: it is no card, or one of another schema.
        """
        try:
            members = json.loads(text)
        except ValueError as error:
            raise ModelUnusable(f"the card is not JSON: {error}") from None
        if not isinstance(members, dict) or "schema" not in members:
            raise ModelUnusable("the card is no JSON object with a schema")
        if members["schema"] != SCHEMA:
            raise ModelUnusable(
                f"the card has schema {members['schema']!r}, and this version reads {SCHEMA}:"
                " take the version of sinergym-trainer that wrote it"
            )
        known = {each.name for each in fields(cls)}
        try:
            card = cls(**{name: value for name, value in members.items() if name in known})
        except TypeError as error:
            missing = str(error).rpartition(": ")[2]
            raise ModelUnusable(f"the card lacks {missing}") from None
        for name, kinds in _KINDS.items():
            value = getattr(card, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ModelUnusable(f"the card's {name} cannot be {value!r}")
        return card

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `model.json`.

        Raises:
            ModelUnusable: it is missing or broken.
        """
        try:
            return cls.parse(path.read_bytes())
        except OSError as error:
            raise ModelUnusable(f"{path}: {error.strerror}") from None
        except ModelUnusable as error:
            raise ModelUnusable(f"{path}: {error}") from None


_TEXT, _MAYBE = (str,), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "name": _TEXT,
    "algorithm": _TEXT,
    "environment": _TEXT,
    "timesteps": (int,),
    "run_period": (str, _MAYBE),
    "reward": _TEXT,
    "reward_kwargs": (dict,),
    "energy_weight": (int, float, _MAYBE),
    "normalize_action": (bool,),
    "multiobs": (bool,),
    "normalization": (bool,),
    "seed": (int, _MAYBE),
    "versions": (dict,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is at a location; the files are on this machine."""

    source: str
    """Where the model or the checkpoints came from, for people."""
    model: Path | None = None
    card: Card | None = None
    statistics: "Statistics | None" = None
    checkpoints: Path | None = None
    """A folder with `checkpoint-<n>.zip` files, or one such file."""


def save(
    model: "BaseAlgorithm",
    folder: Path,
    card: Card,
    statistics: "Statistics | None",
    *,
    name: str = MODEL,
) -> Path:
    """Save a model, its card and statistics in a folder; each file whole or not at all.

    Returns:
        The path of the zip, which is written last: where it is, the others are.

    Raises:
        OSError: the disk is full, the folder read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if statistics is None:
        (folder / STATISTICS).unlink(missing_ok=True)
    else:
        statistics.write(folder / STATISTICS)
    with _replacing(folder / CARD) as file:
        file.write(card.to_json().encode())
    with _replacing(folder / name) as file:
        model.save(file)
    return folder / name


def find(location: str, scratch: Path, *, prefer_best: bool = False) -> Found:
    """Find a model or checkpoints, and bring them here if they are elsewhere.

    Args:
        location: a file or folder, `gs://BUCKET/PATH` of either, or `runs:/RUN_ID[/PATH]` of an
            MLflow run (in the server that MLFLOW_TRACKING_URI names).
        scratch: where downloads go, below a new folder of their own.
        prefer_best: take the best model of an output folder, and let checkpoints be where there is
            a model: for an evaluation. Otherwise checkpoints are taken too, and the last model.

    Raises:
        ModelUnusable: nothing of use is there, or it cannot be had; says what was looked for.
    """
    if location.startswith("gs://"):
        bucket, _, path = location.removeprefix("gs://").partition("/")
        return _find_remote(
            location, path, lambda folder: _bucket_files(bucket, folder), scratch, prefer_best
        )
    if location.startswith("runs:/"):
        run, _, path = location.removeprefix("runs:").strip("/").partition("/")
        return _find_remote(
            location, path, lambda folder: _run_files(run, folder), scratch, prefer_best
        )
    if "://" in location:
        raise ModelUnusable(
            f"{location}: a model is a path, gs://BUCKET/PATH, or runs:/RUN_ID of MLflow"
        )
    return _find_local(Path(location).expanduser(), location, prefer_best)


def _find_local(path: Path, shown: str, prefer_best: bool) -> Found:
    if path.is_dir():
        return _in_folder(path, shown, prefer_best)
    if not path.exists() and path.suffix != ".zip":  # as Stable-Baselines3's own load
        path = path.with_name(f"{path.name}.zip")
    if not path.is_file():
        raise ModelUnusable(f"{shown}: there is no such file or folder")
    return _in_file(path, shown)


def _in_folder(folder: Path, shown: str, prefer_best: bool) -> Found:
    try:
        names = [each.name for each in folder.iterdir() if each.is_file()]
        checkpoints = next(
            (each for each in (folder / CHECKPOINTS, folder) if _has_checkpoints(each)), None
        )
    except OSError as error:
        raise ModelUnusable(f"{shown}: {error.strerror}") from None
    order = (BEST, "best_model.zip", MODEL) if prefer_best else (MODEL, BEST, "best_model.zip")
    model = next((folder / name for name in order if (folder / name).is_file()), None)
    if model is None:
        zips = [name for name in names if name.endswith(".zip") and not _CHECKPOINT.match(name)]
        model = folder / zips[0] if len(zips) == 1 else None
    if model is None and checkpoints is None:
        raise ModelUnusable(
            f"{shown}: there is neither {MODEL} nor {BEST} nor {CHECKPOINTS}/ with checkpoints"
        )
    if checkpoints and (model is None or not prefer_best):
        below = f"/{CHECKPOINTS}" if checkpoints != folder else ""
        source = f"{shown.rstrip('/')}{below}"
        if model is None:
            return Found(source=source, checkpoints=checkpoints)
        return _with_card(model, source, checkpoints)
    assert model is not None  # noqa: S101 - for the type checker
    return _with_card(model, f"{shown.rstrip('/')}/{model.relative_to(folder)}", None)


def _in_file(path: Path, shown: str) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelUnusable(f"{shown} is no model: {error}") from None
    if "checkpoint.json" in names:
        return Found(source=shown, checkpoints=path)
    return _with_card(path, shown, None)


def _with_card(model: Path, source: str, checkpoints: Path | None) -> Found:
    """The card beside a model, and its statistics; those beside a foreign zip are another's."""
    from sinergym_trainer.normalization import Statistics

    card = statistics = None
    if model.name in _OURS or not any((model.parent / name).exists() for name in _OURS):
        if (model.parent / CARD).exists():
            card = Card.read(model.parent / CARD)
        if (model.parent / STATISTICS).exists():
            statistics = Statistics.read(model.parent / STATISTICS)
    if card and card.normalization and statistics is None:
        raise ModelUnusable(
            f"{source}: it was trained on normalized observations, and {STATISTICS} is not"
            " beside it"
        )
    return Found(
        source=source, model=model, card=card, statistics=statistics, checkpoints=checkpoints
    )


def _has_checkpoints(folder: Path) -> bool:
    return folder.is_dir() and any(_CHECKPOINT.fullmatch(each.name) for each in folder.iterdir())


def _find_remote(
    shown: str,
    path: str,
    files: Callable[[str], _Remote],
    scratch: Path,
    prefer_best: bool,
) -> Found:
    """Download what `_find_local` looks for, and no more; then look.

    Args:
        shown: the location as it was given.
        path: in the bucket or the run.
        files: gives the files directly in a folder.
        scratch: where downloads go.
        prefer_best: see `find`.
    """
    where = PurePosixPath(path.strip("/"))
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        here = Path(tempfile.mkdtemp(prefix="model-", dir=scratch))
        if where.suffix != ".zip":
            _fetch_folder(str(where), files, here, prefer_best)
            if any(here.iterdir()):
                return _in_folder(here, shown, prefer_best)
            where = where.with_name(f"{where.name}.zip") if where.name else where
        wanted = (where.name, *_BESIDE)
        _fetch(files(str(where.parent)), wanted, here)
    except ModelUnusable:
        raise
    except Exception as error:  # credentials, the network, what the other side refuses, the disk
        raise ModelUnusable(f"{shown} cannot be had: {one_line(error)}") from error
    if not (here / where.name).is_file():
        raise ModelUnusable(
            f"{shown}: there is no such model: neither a zip file, nor {MODEL}, {BEST} or"
            f" {CHECKPOINTS}/ below it"
        )
    return _in_file(here / where.name, shown)


def _fetch_folder(
    path: str, files: Callable[[str], _Remote], here: Path, prefer_best: bool
) -> None:
    """Download what an output folder, a `checkpoints` folder or a model's folder has for us."""
    below = PurePosixPath(path)
    there, best = files(path), files(str(below / "best_model"))
    models = [name for name in (MODEL, "best_model.zip") if name in there]
    others = [name for name in there if name.endswith(".zip") and not _CHECKPOINT.match(name)]
    if not models and not best and len(others) == 1:
        models = others
    if models:
        _fetch(there, (*models, *_BESIDE), here)
    if best:
        _fetch(best, ("best_model.zip", *_BESIDE), here / "best_model")
    if prefer_best and (models or best):
        return
    _fetch(there, filter(_CHECKPOINT.fullmatch, there), here)
    kept = files(str(below / CHECKPOINTS))
    _fetch(kept, filter(_CHECKPOINT.fullmatch, kept), here / CHECKPOINTS)


def _fetch(there: _Remote, names: Any, here: Path) -> None:
    for name in names:
        if name in there:
            here.mkdir(exist_ok=True)
            there[name](here / name)


def _bucket_files(name: str, folder: str) -> _Remote:
    """Objects directly in a folder of a bucket; the client compares their checksums."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    from sinergym_trainer.outputs import connect

    retry = DEFAULT_RETRY.with_timeout(30.0)
    bucket = connect(name)
    prefix = "" if folder in {"", "."} else f"{folder.strip('/')}/"
    blobs = bucket.client.list_blobs(bucket, prefix=prefix, delimiter="/", retry=retry, timeout=20)

    def fetching(blob: Any) -> Callable[[Path], None]:
        return lambda path: blob.download_to_filename(str(path), retry=retry, timeout=(5, 60))

    return {blob.name.removeprefix(prefix): fetching(blob) for blob in blobs}


def _run_files(run: str, folder: str) -> _Remote:
    """Artifacts directly in a folder of an MLflow run."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ModelUnusable(f"runs:/{run}: MLFLOW_TRACKING_URI must name the tracking server")
    # MLflow's own tries would take minutes to give up.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    path = "" if folder in {"", "."} else folder.strip("/")
    listed = _patiently(lambda: client.list_artifacts(run, path or None))

    def fetching(artifact: str) -> Callable[[Path], None]:
        def fetch(target: Path) -> None:
            with tempfile.TemporaryDirectory(dir=target.parent) as aside:
                got = _patiently(lambda: client.download_artifacts(run, artifact, aside))
                Path(got).replace(target)

        return fetch

    return {
        PurePosixPath(each.path).name: fetching(each.path) for each in listed if not each.is_dir
    }


def _patiently[T](ask: Callable[[], T]) -> T:
    """Ask MLflow, and again after passing trouble."""
    from mlflow.exceptions import MlflowException

    for pause in _PAUSES:
        try:
            return ask()
        except MlflowException as error:
            status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
            if status < 500:
                raise
        time.sleep(pause)
    return ask()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A file to write that takes the place of `path` when all of it is on disk."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
