"""Statistics of observations: what a policy sees, kept on disk, frozen or running on."""

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sinergym_trainer.environments import (
    EnvironmentSpec,
    closing,
    make_environment,
    make_vector,
    normalization,
)
from sinergym_trainer.environments.normalization import Statistics
from sinergym_trainer.errors import ModelUnusable
from sinergym_trainer.options.values import RunPeriod

SOME = Statistics(mean=np.array([1.0, -2.0]), variance=np.array([4.0, 0.0]), count=7.0)
_FINITE = st.floats(-1e12, 1e12)
_POSITIVE = st.floats(0, 1e12)


def _pendulums(count: int) -> Any:
    """Quick environments with observations of three numbers, normalized as ours are."""
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vec = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1") for _ in range(count)])
    vec.seed(1)
    vec.action_space.seed(1)
    return VecNormalize(vec, norm_reward=False, clip_obs=np.inf, epsilon=1e-8)


def _steps(vec: Any, count: int) -> list[Any]:
    """Observations of some steps with random actions."""
    return [
        vec.step(np.stack([vec.action_space.sample() for _ in range(vec.num_envs)]))[0]
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_normalized_as_by_stable_baselines(count: int) -> None:
    """To the last digit, in each step, for one environment and for several."""
    with closing(_pendulums(count)) as vec:
        seen = vec.reset()
        for _ in range(250):
            statistics = normalization.of(vec)
            assert statistics is not None
            ours = statistics.normalize(vec.get_original_obs())
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours, seen)
            (seen,) = _steps(vec, 1)


def test_frozen_statistics_stay_and_others_run_on() -> None:
    """Evaluation must not learn from what it sees; a training that is resumed must."""
    with closing(_pendulums(1)) as training, closing(_pendulums(1)) as other:
        training.reset()
        _steps(training, 20)
        learned = normalization.of(training)
        assert learned is not None

        normalization.put(other, learned, frozen=True)
        other.reset()
        _steps(other, 20)
        assert normalization.of(other) == learned

        normalization.put(other, learned, frozen=False)
        _steps(other, 20)
        assert normalization.of(other) != learned
        assert normalization.of(training) == learned


def test_a_training_goes_on_with_what_was_put() -> None:
    """Restored statistics give the same observations as those that were never stored."""
    with closing(_pendulums(1)) as one, closing(_pendulums(1)) as other:
        for vec in (one, other):
            vec.reset()
            _steps(vec, 10)
        learned = normalization.of(one)
        assert learned is not None
        normalization.put(other, learned, frozen=False)

        np.testing.assert_array_equal(_steps(one, 30), _steps(other, 30))


def test_statistics_of_other_observations_are_refused() -> None:
    """As is a vector that does not normalize."""
    with closing(_pendulums(1)) as vec:
        with pytest.raises(ModelUnusable, match="2 observation variables"):
            normalization.put(vec, SOME, frozen=True)
        with pytest.raises(ModelUnusable, match="not normalized"):
            normalization.put(vec.venv, SOME, frozen=True)
        assert normalization.of(vec.venv) is None


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_is_written_is_read(data: st.DataObject) -> None:
    """Every number, to the last digit."""
    size = data.draw(st.integers(1, 40))
    statistics = Statistics(
        mean=data.draw(arrays.arrays(np.float64, size, elements=_FINITE)),
        variance=data.draw(arrays.arrays(np.float64, size, elements=_POSITIVE)),
        count=data.draw(st.floats(1e-4, 1e12)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "normalization.npz"
        statistics.write(path)

        assert Statistics.read(path) == statistics
        assert hash(Statistics.read(path)) == hash(statistics)
        assert [each.name for each in Path(folder).iterdir()] == ["normalization.npz"]


@settings(max_examples=100, deadline=None)
@given(where=st.integers(0, 10_000), what=st.binary(max_size=40), cut=st.booleans())
def test_a_damaged_file_is_said_to_be_unusable(where: int, what: bytes, cut: bool) -> None:
    """Whatever became of it; or what it still holds is whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "normalization.npz"
        SOME.write(path)
        content = path.read_bytes()
        where %= len(content)
        rest = b"" if cut else content[where + len(what) :]
        path.write_bytes(content[:where] + what + rest)
        try:
            said = repr(Statistics.read(path))
        except ModelUnusable as error:
            said = str(error)

        assert said.startswith(("Statistics(", str(path)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"mean": [1.0], "variance": [-1.0], "count": 1.0}, "unusable"),
        ({"mean": [1.0], "variance": [1.0, 2.0], "count": 1.0}, "unusable"),
        ({"mean": [np.nan], "variance": [1.0], "count": 1.0}, "unusable"),
        ({"mean": [1.0], "variance": [1.0], "count": 0.0}, "unusable"),
        ({"mean": [1.0], "variance": [1.0], "count": [1.0, 2.0]}, "must be numbers"),
        ({"mean": ["a"], "variance": [1.0], "count": 1.0}, "must be numbers"),
        ({"mean": [1.0], "variance": [1.0]}, "broken"),
        ({"mean": np.array([{}], dtype=object), "variance": [1.0], "count": 1.0}, "broken"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    """Pickled objects are not even looked at."""
    path = tmp_path / "normalization.npz"
    np.savez(path, **content)

    with pytest.raises(ModelUnusable, match=said):
        Statistics.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """None, a folder, an empty one, text, an archive of something else."""
    path = tmp_path / "normalization.npz"
    with pytest.raises(ModelUnusable, match="no such file"):
        Statistics.read(path)
    with pytest.raises(ModelUnusable, match="broken"):
        Statistics.read(tmp_path)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("mean.npy", "no array")
    for content in (b"", b"text", b"\x93NUMPY", other.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ModelUnusable, match="broken"):
            Statistics.read(path)


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """And no unfinished one."""
    path = tmp_path / "normalization.npz"
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(IsADirectoryError):
        SOME.write(path)

    assert [each.name for each in tmp_path.iterdir()] == ["normalization.npz"]


@pytest.mark.slow
def test_the_first_episode_is_normalized_as_by_sinergym(tmp_path: Path) -> None:
    """One environment, up to float32: `NormalizeObservation` gives float64."""
    spec = EnvironmentSpec(
        id="Eplus-5zone-hot-continuous-v1", run_period=RunPeriod.parse("1/1-1/1")
    )
    action = np.array([20.0, 25.0], dtype=np.float32)
    with closing(make_vector(spec, tmp_path, normalization=True)) as vec:
        ours: list[Any] = [np.asarray(vec.reset())[0]]
        ours += [np.asarray(vec.step(action[None])[0])[0] for _ in range(95)]

    from sinergym.utils.wrappers import NormalizeObservation

    with closing(make_environment(spec, tmp_path)) as inner:
        env = NormalizeObservation(inner)
        theirs = [env.reset()[0]] + [env.step(action)[0] for _ in range(95)]

    assert np.asarray(ours).dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
