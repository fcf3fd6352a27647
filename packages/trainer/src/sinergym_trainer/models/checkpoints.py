"""Checkpoints: all that a training needs to go on, in one file that is whole or not there.

A checkpoint is a zip archive `checkpoint-<k>.zip` (stored, as its content hardly shrinks)::

    checkpoint.json      schema, time, timesteps, the caller's state, size and SHA-256 of all else
    model.zip            as Stable-Baselines3 saves it: weights, optimizers, counters, noise
    normalization.npz    the running statistics of the observations, if there are any
    replay_buffer/*.npy  the filled rows of an off-policy algorithm's buffer
    random.json          the generators of Python, NumPy, PyTorch (CPU, CUDA) and the action space,
                         the seed, and the number of the next weather
    files/...            small files of the output folder, as they were then

What is not in it: EnergyPlus cannot be saved in the middle of an episode. A resumed training
begins a new episode, and the interrupted one never ends; `--episodes` counts those that do. Two
trainings resumed from the same checkpoint are equal to the last digit; they differ from one that
was never interrupted, as that one was inside an episode.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from sinergym_trainer.errors import ModelUnusable, one_line
from sinergym_trainer.outputs import DownloadFailed, download, objects_below

if TYPE_CHECKING:
    import numpy as np
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import ReplayBuffer

    from sinergym_trainer.algorithms import Algorithm
    from sinergym_trainer.environments.normalization import Statistics

SCHEMA = 1
FOLDER = "checkpoints"
"""The name of the folder in the output folder, and below an experiment's prefix in a bucket."""

_SLOT = re.compile(r"checkpoint-[1-9]\d*\.zip")
_CARD = "checkpoint.json"
_MODEL = "model.zip"
_STATISTICS = "normalization.npz"
_RANDOM = "random.json"
_BUFFER = "replay_buffer/"
_FILES = "files/"
_WEATHER = "weather_state"
"""What our environments tell of their series of weathers (`vector.SeededWeather`)."""
_CHUNK = 1 << 20
_LARGEST_JSON = 64 << 20

Say = Callable[[str], None]


def _silent(_line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that has been found whole."""

    path: Path
    algorithm: str
    timesteps: int
    written: datetime
    n_envs: int
    state: Mapping[str, Any]
    """What the training gave to be kept: its name, options, counters, MLflow run and the like."""
    buffer: Mapping[str, Any] | None
    """Of the replay buffer: `pos`, `full`, `size`; None for an on-policy algorithm."""
    members: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """`bytes` and `sha256` of all that is in the archive beside `checkpoint.json`, by name."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the output folder that are in it, as paths below that folder."""
        return tuple(name.removeprefix(_FILES) for name in self.members if name.startswith(_FILES))

    def restore_files(self, output: Path) -> list[Path]:
        """Write the files of the output folder as they were; returns their paths.

        Raises:
            OSError: one cannot be written.
            ModelUnusable: the checkpoint has changed since it was found whole.
        """
        restored = []
        with self._archive() as archive:
            for name in self.files:
                path = output / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(_FILES + name) as inner, path.open("wb") as outer:
                    shutil.copyfileobj(inner, outer, _CHUNK)
                restored.append(path)
        return restored

    def extract_model(self, folder: Path) -> Path:
        """Write `model.zip`, and `normalization.npz` if there is one; returns the model's path."""
        with self._archive() as archive:
            for name in (_MODEL, _STATISTICS):
                if name in self.members:
                    archive.extract(name, folder)
        return folder / _MODEL

    def statistics(self) -> "Statistics | None":
        """The statistics of the observations as of the checkpoint, or None."""
        if _STATISTICS not in self.members:
            return None
        from sinergym_trainer.environments.normalization import Statistics

        with tempfile.TemporaryDirectory(prefix="sinergym-checkpoint-") as folder:
            self.extract_model(Path(folder))
            return Statistics.read(Path(folder, _STATISTICS))

    def restore(
        self, algorithm: "Algorithm", env: Any, *, device: str = "auto"
    ) -> "BaseAlgorithm":
        """Load the model with everything that its learning depends on.

        The random states come last, after all that draws from them; go on with
        `model.learn(total - model.num_timesteps, reset_num_timesteps=False)` and draw nothing in
        between. The environment begins a new episode: the one after that which was interrupted,
        in the series of weathers that the seed gives.

        Stable-Baselines3's part of it is loaded with pickle, which can run code: restore only what
        you trust.

        Args:
            algorithm: the one that the checkpoint is of.
            env: the vector of environments; its statistics become those of the checkpoint.
            device: where the model computes.

        Raises:
            ModelUnusable: the checkpoint does not fit the algorithm or the environments.
        """
        if algorithm.name != self.algorithm:
            raise ModelUnusable(
                f"{self.path} is a checkpoint of {self.algorithm}, not of {algorithm.name}"
            )
        if self.buffer is not None and env.num_envs != self.n_envs:
            raise ModelUnusable(
                f"{self.path} has the replay buffer of {self.n_envs} environments, and these are"
                f" {env.num_envs}: resume with --n_envs {self.n_envs}"
            )
        from sinergym_trainer.environments import normalization

        statistics = self.statistics()
        if statistics is not None:
            normalization.put(env, statistics, frozen=False)
        elif normalization.of(env) is not None:
            raise ModelUnusable(f"{self.path} was trained without normalized observations")
        with tempfile.TemporaryDirectory(prefix="sinergym-checkpoint-") as folder:
            model = algorithm.load(
                self.extract_model(Path(folder)), env=env, device=device, overrides={}
            )
        with self._archive() as archive:
            if self.buffer is not None:
                _restore_buffer(model, self.buffer, archive, self.path)
            states = json.loads(archive.read(_RANDOM))
        model.seed = states["seed"]
        _continue_weather(env, states, self.timesteps)
        _restore_random(model, states)
        return model

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ModelUnusable(f"{self.path} cannot be read: {one_line(error)}") from error
        with archive:
            try:
                yield archive
            except (zipfile.BadZipFile, KeyError) as error:
                raise ModelUnusable(f"{self.path} has changed: {one_line(error)}") from error


class Checkpoints:
    """The checkpoints of one training: a folder with `keep` slots, the oldest is replaced.

    Whatever happens while one is written, the others stay whole: it is written under another name,
    brought to the disk, and then renamed.

    Args:
        folder: where they are; made at the first one.
        keep: how many, from 1 on.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint has to stay")
        self.folder = folder
        self._slots = [folder / f"checkpoint-{number}.zip" for number in range(1, keep + 1)]

    def save(
        self,
        model: "BaseAlgorithm",
        *,
        statistics: "Statistics | None",
        state: Mapping[str, Any],
        files: Mapping[str, Path],
    ) -> Path:
        """Write a checkpoint into the slot whose own is missing, broken, or else the oldest.

        It draws no random number and changes nothing of the model. Call it between two steps of
        the learning: not in the middle of an update.

        Args:
            model: the model; with its replay buffer, if it has one.
            statistics: those of its observations, or None.
            state: what the training wants back when it resumes; anything that JSON can hold.
            files: what is to be kept of the output folder, by its path there. What is missing
                is left out; of a folder, all that is in it is kept.

        Raises:
            OSError: it could not be written; what was there before is untouched.
            ValueError: the learning has failed: weights are infinite or not numbers. Nothing is
                written, as the checkpoints before are better.
        """
        _check_weights(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        slot = min(self._slots, key=_age)
        # Nothing uploads a name like this one, and the next attempt writes over a leftover.
        temporary = self.folder / ".checkpoint.tmp"
        try:
            with temporary.open("wb") as file:
                _write(file, model, statistics, state, files)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(slot)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)
        return slot


def newest(where: Path, *, say: Say = _silent) -> Checkpoint | None:
    """Find the newest checkpoint that is whole, or None.

    Args:
        where: a folder of checkpoints, or a checkpoint.
        say: gets a line for each newer one that is not whole, with the reason.
    """
    if where.is_dir():
        paths = [path for path in where.iterdir() if _SLOT.fullmatch(path.name)]
    else:
        paths = [where] if where.exists() else []
    found: list[Checkpoint] = []
    for path in sorted(paths):
        try:
            found.append(_read_card(path))
        except _Broken as error:
            say(f"checkpoint {path} is not whole and is passed over: {error}")
    for checkpoint in sorted(found, key=lambda it: (it.written, it.timesteps), reverse=True):
        try:
            _check_members(checkpoint)
        except _Broken as error:
            say(f"checkpoint {checkpoint.path} is not whole and is passed over: {error}")
        else:
            return checkpoint
    return None


def is_checkpoint(path: Path) -> bool:
    """Say whether a file is a checkpoint, by its table of contents; not whether it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _CARD in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def from_bucket(
    bucket: str, prefix: str, folder: Path, *, patience: float = 600.0, say: Say = _silent
) -> Path | None:
    """Fetch the newest whole checkpoint of `gs://<bucket>/<prefix>/checkpoints/`.

    The newest object is fetched first, with those that were uploaded within two minutes of it, as
    uploads may overtake each other; the ones before only if none of these is whole.

    A bucket that does not answer is asked for `patience` seconds, and then this fails: hours of
    training may be in it, so beginning again from nothing is not for the program to decide.

    Args:
        bucket: the bucket's name.
        prefix: what comes before `checkpoints/`, such as `<sweep>/<experiment>/output`.
        folder: gets the files; made if missing.
        patience: seconds.
        say: gets a line about trouble, and about checkpoints that are not whole.

    Returns:
        The folder, for `newest`; None if the bucket has no checkpoint there, or no whole one.

    Raises:
        ModelUnusable: the bucket cannot be read.
    """
    below = f"{prefix.strip('/')}/{FOLDER}/"
    try:
        objects = [
            it
            for it in objects_below(bucket, below, patience=patience, say=say)
            if _SLOT.fullmatch(it.path)
        ]
        objects.sort(key=lambda it: it.updated, reverse=True)
        while objects:
            latest = objects[0].updated
            batch = [it for it in objects if (latest - it.updated).total_seconds() <= 120]
            objects = objects[len(batch) :]
            paths = download(bucket, batch, folder, patience=patience, say=say)
            if newest(folder, say=say):
                return folder
            for path in paths:
                path.unlink()
    except DownloadFailed as error:
        raise ModelUnusable(
            f"the checkpoints in gs://{bucket}/{below} cannot be read: {error}"
        ) from error
    return None


class _Broken(Exception):
    """A file is not a whole checkpoint of ours; the text says why."""


def _age(slot: Path) -> tuple[datetime, int]:
    try:
        card = _read_card(slot)
    except _Broken:
        return datetime.min.replace(tzinfo=UTC), 0
    return card.written, card.timesteps


# Writing


def _check_weights(model: "BaseAlgorithm") -> None:
    import torch

    for name, parameter in model.policy.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"the model's weights are no finite numbers any more ({name})")


def _write(
    file: IO[bytes],
    model: "BaseAlgorithm",
    statistics: "Statistics | None",
    state: Mapping[str, Any],
    files: Mapping[str, Path],
) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        writer = _Writer(archive)
        content = io.BytesIO()  # PyTorch reports a full disk as an error without a cause
        model.save(content)
        content.seek(0)
        # Not by its `getbuffer`: after an error CPython 3.12.1 crashes when it is collected.
        with writer.member(_MODEL) as member:
            shutil.copyfileobj(content, member, _CHUNK)
        if statistics is not None:
            with tempfile.TemporaryDirectory(prefix="sinergym-checkpoint-") as folder:
                path = Path(folder, _STATISTICS)
                statistics.write(path)
                writer.put(_STATISTICS, path.read_bytes())
        buffer = _buffer_of(model)
        if buffer is not None:
            for name, rows in _filled(buffer).items():
                with writer.member(f"{_BUFFER}{name}.npy") as member:
                    _write_array(member, rows)
        writer.put(_RANDOM, _json(_random_states(model)))
        for name, path in _walk(files):
            with (
                contextlib.suppress(FileNotFoundError),
                path.open("rb") as source,
                writer.member(_FILES + name) as member,
            ):
                shutil.copyfileobj(source, member, _CHUNK)
        card = {
            "schema": SCHEMA,
            "written": datetime.now(UTC).isoformat(),
            "algorithm": type(model).__name__,
            "timesteps": int(model.num_timesteps),
            "n_envs": int(model.n_envs),
            "state": dict(state),
            "buffer": None if buffer is None else _shape_of(buffer),
            "members": writer.members,
        }
        archive.writestr(_CARD, _json(card))


class _Writer:
    """Puts members into an archive and notes their sizes and checksums."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.members: dict[str, dict[str, Any]] = {}

    def put(self, name: str, content: bytes) -> None:
        """Add a member."""
        with self.member(name) as member:
            member.write(content)

    @contextlib.contextmanager
    def member(self, name: str) -> "Iterator[_Measured]":
        """Add a member piece by piece."""
        with self._archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as inner:
            measured = _Measured(inner)
            yield measured
        self.members[name] = {"bytes": measured.bytes, "sha256": measured.sha256.hexdigest()}


class _Measured:
    """A file to write to, with the size and the checksum of what went through."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes | memoryview) -> int:
        self.bytes += len(content)
        self.sha256.update(content)
        return self._inner.write(content)


def _write_array(member: _Measured, array: "np.ndarray[Any, Any]") -> None:
    """Write a `.npy` file (numpy.lib.format) without a copy of the array."""
    import numpy as np

    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    member.write(header.getvalue())
    flat = memoryview(array.reshape(-1).view(np.uint8))
    for start in range(0, len(flat), _CHUNK):
        member.write(flat[start : start + _CHUNK])


def _walk(files: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for name, path in sorted(files.items()):
        if path.is_file():  # nothing that never ends, such as a device
            yield name, path
        for inner in sorted(path.rglob("*")):
            if inner.is_file():
                yield f"{name.rstrip('/')}/{inner.relative_to(path).as_posix()}", inner


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, default=_plain).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a checkpoint's state cannot hold {type(value).__name__}: {value!r}")


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk (fsync(2)); not all file systems can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading


def _read_card(path: Path) -> Checkpoint:
    """Read what a checkpoint says of itself, and hold its table of contents against that."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if sizes.get(_CARD, _LARGEST_JSON) >= _LARGEST_JSON:
                raise _Broken(f"it has no {_CARD}")
            card = json.loads(archive.read(_CARD))
        if card["schema"] != SCHEMA:
            raise _Broken(f"its schema is {card['schema']}, and this program reads {SCHEMA}")
        checkpoint = Checkpoint(
            path=path,
            algorithm=str(card["algorithm"]),
            timesteps=int(card["timesteps"]),
            written=datetime.fromisoformat(card["written"]).astimezone(UTC),
            n_envs=int(card["n_envs"]),
            state=dict(card["state"]),
            buffer=card["buffer"],
            members=dict(card["members"]),
        )
        del sizes[_CARD]
        if sizes != {name: entry["bytes"] for name, entry in checkpoint.members.items()}:
            raise _Broken("its content is not what it says")
    except _Broken:
        raise
    except Exception as error:  # whatever a damaged archive makes of its readers
        raise _Broken(one_line(error)) from error
    if not {_MODEL, _RANDOM} <= checkpoint.members.keys():
        raise _Broken("a part of it is missing")
    unsafe = [name for name in checkpoint.files if not _stays_below(name)]
    if unsafe:
        raise _Broken(f"it would write outside of the output folder: {unsafe[0]!r}")
    return checkpoint


def _check_members(checkpoint: Checkpoint) -> None:
    try:
        with zipfile.ZipFile(checkpoint.path) as archive:
            for name, entry in checkpoint.members.items():
                with archive.open(name) as member:
                    digest = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]
                if digest != entry["sha256"]:
                    raise _Broken(f"{name} has been altered")
    except _Broken:
        raise
    except Exception as error:  # as above
        raise _Broken(one_line(error)) from error


def _stays_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


# The replay buffer


def _buffer_of(model: "BaseAlgorithm") -> "ReplayBuffer | None":
    return getattr(model, "replay_buffer", None)


def _rows(buffer: "ReplayBuffer") -> int:
    # One more than filled: with `optimize_memory_usage` the last row's next observation is there.
    return int(buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size))


def _arrays(buffer: "ReplayBuffer") -> "dict[str, np.ndarray[Any, Any]]":
    """The arrays of a buffer with a row for each transition, by attribute."""
    import numpy as np

    return {
        name: value
        for name, value in vars(buffer).items()
        if isinstance(value, np.ndarray) and value.shape[:1] == (buffer.buffer_size,)
    }


def _filled(buffer: "ReplayBuffer") -> "dict[str, np.ndarray[Any, Any]]":
    return {name: array[: _rows(buffer)] for name, array in _arrays(buffer).items()}


def _shape_of(buffer: "ReplayBuffer") -> dict[str, Any]:
    return {"pos": int(buffer.pos), "full": bool(buffer.full), "size": int(buffer.buffer_size)}


def _restore_buffer(
    model: "BaseAlgorithm", shape: Mapping[str, Any], archive: zipfile.ZipFile, path: Path
) -> None:
    import numpy as np

    buffer = _buffer_of(model)
    if buffer is None or buffer.buffer_size != shape["size"]:
        size = shape["size"] * model.n_envs
        raise ModelUnusable(f"{path} has a replay buffer of another size: --buffer_size {size}")
    arrays = _arrays(buffer)
    stored = {name for name in archive.namelist() if name.startswith(_BUFFER)}
    if stored != {f"{_BUFFER}{name}.npy" for name in arrays}:
        raise ModelUnusable(f"{path} has the replay buffer of another Stable-Baselines3")
    for name, array in arrays.items():
        with archive.open(f"{_BUFFER}{name}.npy") as member:
            rows = np.lib.format.read_array(member, allow_pickle=False)
        if rows.shape[1:] != array.shape[1:] or rows.dtype != array.dtype:
            raise ModelUnusable(f"{path} has the replay buffer of another environment ({name})")
        array[: len(rows)] = rows
    buffer.pos, buffer.full = int(shape["pos"]), bool(shape["full"])
    if buffer.optimize_memory_usage and (buffer.full or buffer.pos > 0):
        # The new episode's first observation takes the place of the next one of the last row:
        # that row has to count as an end, as in OffPolicyAlgorithm._setup_learn.
        buffer.dones[buffer.pos - 1] = 1.0


# The random states


def _random_states(model: "BaseAlgorithm") -> dict[str, Any]:
    import numpy as np
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in cuda],
        "action_space": model.action_space.np_random.bit_generator.state,
        "seed": model.seed,
        "weather": _weathers(model.get_env()),
    }


def _weathers(env: Any) -> list[Any]:
    try:
        return list(env.env_method(_WEATHER)) if env.has_attr(_WEATHER) else []
    except Exception:
        # The environment's process is gone, which is why this checkpoint is made: it is worth more
        # than the next weather's number.
        return []


def _continue_weather(env: Any, states: Mapping[str, Any], timesteps: int) -> None:
    if env.has_attr(_WEATHER) and len(states["weather"]) == env.num_envs:
        for index, state in enumerate(states["weather"]):
            env.env_method("continue_weather", state, indices=index)
    elif states["seed"] is not None:
        # Other environments than those of the checkpoint: at least not the first weather again.
        env.seed((states["seed"] + timesteps) % 2**31)


def _restore_random(model: "BaseAlgorithm", states: Mapping[str, Any]) -> None:
    import numpy as np
    import torch

    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = dict(states["numpy"])
    words = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    numpy_state["state"] = {**numpy_state["state"], "key": words}
    np.random.set_state(numpy_state)
    torch.set_rng_state(_tensor(states["torch"]))
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_tensor(state) for state in states["cuda"]])
    model.action_space.np_random.bit_generator.state = states["action_space"]


def _text(state: Any) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
