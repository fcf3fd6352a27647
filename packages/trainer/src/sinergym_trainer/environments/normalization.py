"""The running statistics of observations: kept with a model, frozen in evaluation, restored.

Observations are normalized by Stable-Baselines3's `VecNormalize` around the vector (see
`environments.make_vector`): `(observation - mean) / sqrt(variance + 1e-8)`, as `float32`. Its own
`save` pickles the whole wrapper; here only the three numbers per variable are stored, in NumPy's
`npz` without pickles, so that a file from a bucket is data and cannot be code.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from sinergym_trainer.errors import ModelUnusable
from sinergym_trainer.process.replacing import replacing

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

EPSILON = 1e-8
"""Added to variances before the root, here and in `VecNormalize`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """Mean and variance of each observation variable, and of how many observations they are.

    Raises:
        ModelUnusable: the numbers are no such thing: other shapes, negative variances, infinities.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    count: float

    def __post_init__(self) -> None:
        try:
            mean = np.array(self.mean, dtype=np.float64)
            variance = np.array(self.variance, dtype=np.float64)
            count = float(self.count)
        except (TypeError, ValueError) as error:
            raise ModelUnusable(f"statistics of observations must be numbers: {error}") from None
        sound = (
            mean.ndim == 1
            and mean.shape == variance.shape
            and bool(np.isfinite(mean).all() and np.isfinite(variance).all())
            and bool((variance >= 0).all())
            and np.isfinite(count)
            and count > 0
        )
        if not sound:
            raise ModelUnusable(
                f"unusable statistics of observations: mean of shape {mean.shape}, variance of"
                f" shape {variance.shape}, count {count}"
            )
        mean.flags.writeable = variance.flags.writeable = False
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "variance", variance)
        object.__setattr__(self, "count", count)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistics):
            return NotImplemented
        return (
            np.array_equal(self.mean, other.mean)
            and np.array_equal(self.variance, other.variance)
            and self.count == other.count
        )

    def __hash__(self) -> int:
        return hash((self.mean.tobytes(), self.variance.tobytes(), self.count))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` has written.

        Raises:
            ModelUnusable: there is no such file, or it is broken.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(mean=file["mean"], variance=file["variance"], count=file["count"])
        except FileNotFoundError:
            raise ModelUnusable(f"{path}: no such file") from None
        except (
            *(OSError, ValueError, TypeError, KeyError, AttributeError, EOFError),
            *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError),
        ) as error:
            raise ModelUnusable(f"{path} is broken: {error}") from None
        except ModelUnusable as error:
            raise ModelUnusable(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            OSError: the disk is full, the folder read-only.
        """
        with replacing(path) as file:
            np.savez(file, mean=self.mean, variance=self.variance, count=np.float64(self.count))

    def normalize(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """An observation, or a batch of them, as a policy sees it: what `VecNormalize` gives."""
        scaled = (observation - self.mean) / np.sqrt(self.variance + EPSILON)
        return np.asarray(scaled, dtype=np.float32)


def of(vec: "VecEnv") -> Statistics | None:
    """The statistics of a vector, as they are now; None if it does not normalize."""
    normalizer = _normalizer(vec)
    if normalizer is None:
        return None
    running: Any = normalizer.obs_rms  # a dictionary of them only for Dict spaces
    return Statistics(mean=running.mean, variance=running.var, count=running.count)


def put(vec: "VecEnv", statistics: Statistics, *, frozen: bool) -> None:
    """Let a vector go on with these statistics.

    Args:
        vec: a vector with normalization.
        statistics: what to normalize by.
        frozen: whether they stay as they are (evaluation), or run on (a training resumed).

    Raises:
        ModelUnusable: they are of other observations, or the vector does not normalize.
    """
    normalizer = _normalizer(vec)
    if normalizer is None:
        raise ModelUnusable("statistics for an environment whose observations are not normalized")
    if statistics.mean.shape != vec.observation_space.shape:
        raise ModelUnusable(
            f"statistics of {statistics.mean.shape[0]} observation variables for an environment"
            f" with {vec.observation_space.shape}"
        )
    running: Any = normalizer.obs_rms
    running.mean, running.var = statistics.mean.copy(), statistics.variance.copy()
    running.count = statistics.count
    normalizer.training = not frozen


def _normalizer(vec: "VecEnv") -> "VecNormalize | None":
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    return unwrap_vec_normalize(vec)
