"""A model with its card, on disk: saved whole, and found again on disk, in a bucket or in MLflow.

A saved model is up to three files in one folder: `model.zip` as Stable-Baselines3 writes it,
`model.json` (the card: what it was trained on), and `normalization.npz` (the statistics of its
observations, if they were normalized). A zip without the others, from plain Stable-Baselines3,
works too.

Loading such a zip runs code that is in it: Stable-Baselines3 stores pickles. Load only what you
trust. `find` itself loads none; it only reads the card and the statistics, which are plain data.
"""

import json
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from sinergym_trainer.errors import ModelUnusable, one_line
from sinergym_trainer.process.replacing import replacing

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from sinergym_trainer.environments.normalization import Statistics

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

_PATIENCE = 60.0
"""Seconds to wait for a bucket that is away."""


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
    model: "BaseAlgorithm | Path",
    folder: Path,
    card: Card,
    statistics: "Statistics | None",
    *,
    name: str = MODEL,
) -> Path:
    """Save a model, its card and statistics in a folder; each file whole or not at all.

    Args:
        model: the model, or the zip file that it was saved in.
        folder: made if missing.
        card: what it was trained on.
        statistics: of its observations, or None if they are not normalized.
        name: of the zip in the folder.

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
    with replacing(folder / CARD) as file:
        file.write(card.to_json().encode())
    with replacing(folder / name) as file:
        if isinstance(model, Path):
            file.write(model.read_bytes())
        else:
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
        return _find_remote(_Bucket(bucket), path, scratch, prefer_best)
    if location.startswith("runs:/"):
        run, _, path = location.removeprefix("runs:").strip("/").partition("/")
        return _find_remote(_Run(run), path, scratch, prefer_best)
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
    from sinergym_trainer.environments.normalization import Statistics

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


def _find_remote(place: "_Bucket | _Run", path: str, scratch: Path, prefer_best: bool) -> Found:
    """Download what `_find_local` looks for, and no more; then look."""
    where = PurePosixPath(path.strip("/"))
    shown = f"{place.root}{path}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        here = Path(tempfile.mkdtemp(prefix="model-", dir=scratch))
        if where.suffix != ".zip":
            folder = "" if str(where) == "." else str(where)
            wanted = _wanted(place.below(folder), prefer_best)
            place.fetch(folder, wanted, here)
            if wanted:
                return _in_folder(here, shown, prefer_best)
            where = where.with_name(f"{where.name}.zip") if where.name else where
        if where.name:
            folder = "" if str(where.parent) == "." else str(where.parent)
            place.fetch(folder, place.those(folder, (where.name, *_BESIDE)), here)
    except ModelUnusable:
        raise
    except Exception as error:  # credentials, the network, what the other side refuses, the disk
        why = one_line(error).removeprefix("DownloadFailed: ")
        raise ModelUnusable(f"{shown} cannot be had: {why}") from error
    if not where.name or not (here / where.name).is_file():
        raise ModelUnusable(
            f"{shown}: there is no such model: neither a zip file, nor {MODEL}, {BEST} or"
            f" {CHECKPOINTS}/ below it"
        )
    return _in_file(here / where.name, shown)


def _wanted(names: Iterable[str], prefer_best: bool) -> list[str]:
    """Those of a folder's files that `_in_folder` can make use of, by their paths in it."""
    there = set(names)
    models = [name for name in (MODEL, "best_model.zip", BEST) if name in there]
    zips = [name for name in there if name.endswith(".zip") and "/" not in name]
    foreign = [name for name in zips if not _CHECKPOINT.fullmatch(name)]
    if not models and len(foreign) == 1:
        models = foreign
    beside = [
        str(PurePosixPath(model).with_name(name))
        for model in models
        for name in _BESIDE
        if str(PurePosixPath(model).with_name(name)) in there
    ]
    checkpoints = [name for name in there if _CHECKPOINT.fullmatch(_below_checkpoints(name))]
    if prefer_best and models:
        checkpoints = []
    return sorted({*models, *beside, *checkpoints})


def _below_checkpoints(name: str) -> str:
    return name.removeprefix(f"{CHECKPOINTS}/")


class _Bucket:
    """Files in a bucket; `outputs` compares their checksums and tries again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.root = f"gs://{name}/"

    def below(self, folder: str) -> list[str]:
        """The paths of all files in a folder, relative to it."""
        from sinergym_trainer.outputs import objects_below

        prefix = f"{folder}/" if folder else ""
        return [it.path for it in objects_below(self._name, prefix, patience=_PATIENCE)]

    def those(self, folder: str, names: Sequence[str]) -> list[str]:
        """Those of the files directly in a folder that are there."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        from sinergym_trainer.outputs import connect

        bucket = connect(self._name)
        retry = DEFAULT_RETRY.with_timeout(_PATIENCE)
        paths = {name: f"{folder}/{name}" if folder else name for name in names}
        return [
            name
            for name, path in paths.items()
            if bucket.get_blob(path, retry=retry, timeout=(5, 20)) is not None
        ]

    def fetch(self, folder: str, names: Iterable[str], here: Path) -> None:
        """Download files of a folder to where they are in it."""
        from sinergym_trainer.outputs import Stored, download

        objects = [
            Stored(
                name=f"{folder}/{name}" if folder else name,
                path=name,
                size=0,
                updated=datetime.min.replace(tzinfo=UTC),
            )
            for name in names
        ]
        download(self._name, objects, here, patience=_PATIENCE)


class _Run:
    """Artifacts of a run in MLflow."""

    def __init__(self, run: str) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise ModelUnusable(f"runs:/{run}: MLFLOW_TRACKING_URI must name the tracking server")
        # MLflow's own tries would take minutes to give up.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        self._run = run
        self._client = MlflowClient(uri)
        self.root = f"runs:/{run}/"

    def below(self, folder: str) -> list[str]:
        """The paths of the files in a folder and in those within it, relative to it."""
        found = []
        for artifact in self._listed(folder):
            if artifact.is_dir:
                found += [each.path for each in self._listed(artifact.path) if not each.is_dir]
            else:
                found.append(artifact.path)
        return [path.removeprefix(f"{folder}/") for path in found]

    def those(self, folder: str, names: Sequence[str]) -> list[str]:
        """Those of the files directly in a folder that are there."""
        there = {PurePosixPath(each.path).name for each in self._listed(folder) if not each.is_dir}
        return [name for name in names if name in there]

    def fetch(self, folder: str, names: Iterable[str], here: Path) -> None:
        """Download files of a folder to where they are in it."""
        for name in names:
            path = f"{folder}/{name}" if folder else name
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=here) as aside:
                self._download(path, aside).replace(here / name)

    def _download(self, path: str, aside: str) -> Path:
        return Path(_patiently(lambda: self._client.download_artifacts(self._run, path, aside)))

    def _listed(self, folder: str) -> Any:
        return _patiently(lambda: self._client.list_artifacts(self._run, folder or None))


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
