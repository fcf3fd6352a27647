"""Checkpoints: what is in them, which one is taken, and trainings that go on from one."""

import json
import random
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sinergym_trainer.algorithms import ALGORITHMS, find_algorithm
from sinergym_trainer.environments import (
    EnvironmentSpec,
    closing,
    episode_returns,
    make_vector,
    normalization,
)
from sinergym_trainer.errors import ModelUnusable, TrainerError
from sinergym_trainer.models import checkpoints
from sinergym_trainer.models.checkpoints import Checkpoint, Checkpoints, is_checkpoint, newest
from sinergym_trainer.options.values import RunPeriod
from sinergym_trainer.training.checkpointing import CheckpointCallback

SAC_SMALL: dict[str, Any] = {"buffer_size": 60, "learning_starts": 10, "batch_size": 16}
PPO_SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16}
NOTHING: dict[str, Any] = {"statistics": None, "state": {}, "files": {}}


def pendulums(number: int = 1, *, normalized: bool = False) -> Any:
    """A vector of Gymnasium's Pendulum, which costs nothing."""
    vec = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * number)
    return VecNormalize(vec, norm_reward=False) if normalized else vec


def learned_sac(envs: int = 1, steps: int = 100, *, normalized: bool = False) -> Any:
    """SAC after some steps; from 60 on its buffer has gone round."""
    vec = pendulums(envs, normalized=normalized)
    return SAC("MlpPolicy", vec, seed=3, device="cpu", **SAC_SMALL).learn(steps)


def random_states() -> tuple[Any, ...]:
    """The next of each global generator, which are left as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = random.random(), np.random.random(), float(torch.rand(()))
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return drawn


def weights(model: Any) -> dict[str, Any]:
    """The networks' numbers, as lists."""
    return {name: tensor.tolist() for name, tensor in model.policy.state_dict().items()}


def callback(where: Checkpoints, say: Callable[[str], None], **how: Any) -> CheckpointCallback:
    """A callback that keeps no statistics, no state and no files."""
    return CheckpointCallback(
        where,
        steps=how.get("steps"),
        minutes=how.get("minutes"),
        statistics=lambda: None,
        state=dict,
        files=dict,
        say=say,
    )


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Networks this small are slower with several threads, and tests run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sac(_one_thread: None) -> Any:
    """A small model that no test changes."""
    return learned_sac(steps=20)


@pytest.mark.parametrize(("envs", "steps"), [(1, 40), (1, 100), (2, 100)])
@pytest.mark.slow
def test_all_of_an_off_policy_model_comes_back(tmp_path: Path, envs: int, steps: int) -> None:
    """Weights, buffer, counters, statistics and generators are as they were when it was saved."""
    model = learned_sac(envs, steps, normalized=True)
    statistics = normalization.of(model.get_env())
    path = Checkpoints(tmp_path, keep=2).save(
        model, statistics=statistics, state={"name": "x", "best": np.float64(-1.5)}, files={}
    )
    expected = random_states(), model.action_space.np_random.random(3)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)

    found = newest(tmp_path)
    assert found is not None
    assert (found.path, found.timesteps, found.n_envs) == (path, steps, envs)
    assert found.state == {"name": "x", "best": -1.5}
    vec = pendulums(envs, normalized=True)
    back: Any = found.restore(find_algorithm("SAC"), vec, device="cpu")

    assert (random_states(), back.action_space.np_random.random(3).tolist()) == (
        expected[0],
        expected[1].tolist(),
    )
    assert normalization.of(vec) == statistics
    assert (back.num_timesteps, back._n_updates, back.seed) == (steps, model._n_updates, 3)
    old, new = model.replay_buffer, back.replay_buffer
    assert (new.pos, new.full, new.buffer_size) == (old.pos, old.full, old.buffer_size)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, back.policy.state_dict()[name])
    old_state = model.critic.optimizer.state_dict()["state"]
    new_state = back.critic.optimizer.state_dict()["state"]
    assert all(torch.equal(old_state[k]["exp_avg"], new_state[k]["exp_avg"]) for k in old_state)


def test_the_memory_saving_buffer_ends_its_last_row(tmp_path: Path) -> None:
    """With optimize_memory_usage the row before the new episode counts as an end."""
    how: dict[str, Any] = {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    }
    model: Any = SAC("MlpPolicy", pendulums(), seed=3, device="cpu", **SAC_SMALL, **how).learn(40)
    Checkpoints(tmp_path, keep=1).save(model, **NOTHING)
    found = newest(tmp_path)
    assert found
    with zipfile.ZipFile(found.path) as archive:
        rows = np.load(archive.open("replay_buffer/observations.npy"), allow_pickle=False)
    np.testing.assert_array_equal(rows, model.replay_buffer.observations[:41])
    fresh: Any = SAC("MlpPolicy", pendulums(), device="cpu", **SAC_SMALL, **how)
    with zipfile.ZipFile(found.path) as archive:
        assert found.buffer
        checkpoints._restore_buffer(fresh, found.buffer, archive, found.path)
    assert model.replay_buffer.dones[39] == 0.0
    assert fresh.replay_buffer.dones[39] == 1.0


def test_only_filled_rows_are_written(tmp_path: Path) -> None:
    """A buffer for a million transitions that holds a hundred costs a hundred."""
    model = SAC("MlpPolicy", pendulums(), buffer_size=1_000_000, device="cpu").learn(100)
    path = Checkpoints(tmp_path, keep=1).save(model, **NOTHING)
    with zipfile.ZipFile(path) as archive:
        sizes = {it.filename: it.file_size for it in archive.infolist()}
    assert sum(size for name, size in sizes.items() if "replay" in name) < 8_000


@pytest.mark.parametrize(("model", "how"), [(PPO, PPO_SMALL), (SAC, SAC_SMALL)])
@pytest.mark.slow
def test_checkpoints_change_nothing(model: Any, how: Any, tmp_path: Path) -> None:
    """A training with checkpoints ends with the weights of one without, to the last bit."""
    said: list[str] = []
    ends = []
    for steps in (None, 32):
        made = model("MlpPolicy", pendulums(), seed=5, device="cpu", **how)
        watching = callback(Checkpoints(tmp_path, keep=2), said.append, steps=steps)
        ends.append(made.learn(96, callback=watching).policy.state_dict())
    assert len(list(tmp_path.iterdir())) == 2
    assert said == []
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_when_checkpoints_are_made(tmp_path: Path) -> None:
    """PPO's are between its rollouts, after so many steps or so much time; save_now is at once."""
    times: list[int] = []

    class Counting(Checkpoints):
        def save(self, model: Any, **rest: Any) -> Path:
            times.append(model.num_timesteps)
            return super().save(model, **rest)

    where = Counting(tmp_path, keep=1)
    model = PPO("MlpPolicy", pendulums(), device="cpu", **PPO_SMALL)
    watching = callback(where, print, steps=50)
    model.learn(200, callback=watching)
    assert times == [64, 128, 192]
    assert watching.save_now() == tmp_path / "checkpoint-1.zip"
    assert times == [64, 128, 192, 224]
    times.clear()
    model.learn(64, callback=callback(where, print, minutes=1e-9))
    assert times == [32]
    times.clear()
    model.learn(64, callback=callback(where, print, steps=1000, minutes=60))
    assert times == []


def test_the_oldest_or_broken_slot_is_taken(tmp_path: Path, sac: Any) -> None:
    """Of three slots each new checkpoint takes the oldest one, or one that is broken."""
    where = Checkpoints(tmp_path, keep=3)
    names = [where.save(sac, **NOTHING).name for _ in range(5)]
    assert names == [f"checkpoint-{number}.zip" for number in (1, 2, 3, 1, 2)]
    slot = tmp_path / "checkpoint-2.zip"
    slot.write_bytes(slot.read_bytes()[:-30])
    assert where.save(sac, **NOTHING) == slot
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path: Path, sac: Any) -> None:
    """One that is cut, altered or foreign is passed over, with the reason."""
    where = Checkpoints(tmp_path, keep=4)
    good, cut, altered, foreign = (where.save(sac, **NOTHING) for _ in range(4))
    cut.write_bytes(cut.read_bytes()[:1000])
    content = bytearray(altered.read_bytes())
    position = content.index(b"NUMPY") + 200
    content[position] ^= 1
    altered.write_bytes(content)
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("data", "of SB3")
    (tmp_path / "checkpoint-x.zip").write_text("not ours")

    said: list[str] = []
    found = newest(tmp_path, say=said.append)
    assert found is not None
    assert found.path == good
    assert [str(path) in " ".join(said) for path in (cut, altered, foreign)] == [True] * 3
    assert len(said) == 3
    assert not any("\n" in line for line in said)
    assert newest(cut) is None
    assert newest(good) == found
    assert newest(tmp_path / "nowhere") is None
    assert [is_checkpoint(path) for path in (good, cut, foreign)] == [True, False, False]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_found(tmp_path: Path, sac: Any, place: float, bit: int, cut: bool) -> None:
    """A file that is cut is never taken; one with a bit flipped only if no content changed."""
    good = tmp_path / "good.zip"
    if not good.exists():
        Checkpoints(tmp_path, keep=1).save(sac, **NOTHING).rename(good)
    content = bytearray(good.read_bytes())
    position = int(place * len(content))
    if cut:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    damaged = tmp_path / "checkpoint-1.zip"
    damaged.write_bytes(content)

    found = newest(tmp_path)
    if found is not None:
        assert not cut
        with zipfile.ZipFile(good) as before, zipfile.ZipFile(damaged) as after:
            assert all(before.read(name) == after.read(name) for name in before.namelist())


class Broken(DummyVecEnv):
    """A vector that answers nothing any more, as one whose process has ended."""

    def has_attr(self, attr_name: str) -> bool:
        """Raise, as `vector.Workers` does then."""
        raise TrainerError(f"{attr_name}: its process was ended by SIGKILL")


def test_a_broken_environment_does_not_stop_a_checkpoint(tmp_path: Path) -> None:
    """What was learned until a simulation died is kept; the next weather has another number."""
    vec = Broken([lambda: gymnasium.make("Pendulum-v1")])
    model = PPO("MlpPolicy", vec, seed=3, device="cpu", **PPO_SMALL)
    Checkpoints(tmp_path, keep=1).save(model, **NOTHING)
    found = newest(tmp_path)
    assert found is not None
    fresh = pendulums()
    assert found.restore(find_algorithm("PPO"), fresh, device="cpu").seed == 3
    assert fresh._seeds == [3]


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    """After a learning that diverged the checkpoint before stays the newest."""
    model = PPO("MlpPolicy", pendulums(), device="cpu", **PPO_SMALL)
    where = Checkpoints(tmp_path, keep=2)
    where.save(model, **NOTHING)
    with torch.no_grad():
        next(model.policy.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="no finite numbers"):
        where.save(model, **NOTHING)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_on(tmp_path: Path, name: str) -> None:
    """Each of the ten learns on from its checkpoint, twice the same."""
    algorithm = find_algorithm(name)
    id = "Pendulum-v1" if "continuous" in algorithm.actions else "CartPole-v1"
    wanted = {"n_steps": 16, "learning_starts": 8, "buffer_size": 500, "batch_size": 8}
    how = {key: value for key, value in wanted.items() if key in algorithm.hyperparameters}
    model = algorithm.build(
        DummyVecEnv([lambda: gymnasium.make(id)]), seed=2, hyperparameters=how, device="cpu"
    )
    Checkpoints(tmp_path, keep=1).save(model.learn(32), **NOTHING)
    found = newest(tmp_path)
    assert found is not None

    ends = []
    for _ in range(2):
        vec = DummyVecEnv([lambda: gymnasium.make(id)])
        resumed = found.restore(algorithm, vec, device="cpu")
        begun = weights(resumed)
        resumed.learn(32, reset_num_timesteps=False)
        assert (resumed.num_timesteps, resumed.seed) == (64, 2)
        assert begun == weights(model)
        ends.append((weights(resumed), random_states()))
    assert ends[0] == ends[1]
    assert ends[0][0] != weights(model)


def test_files_of_the_output_folder_come_back(tmp_path: Path, sac: Any) -> None:
    """Files and folders are restored as they were; what was missing is left out."""
    output = tmp_path / "output"
    (output / "best_model").mkdir(parents=True)
    (output / "best_model" / "best_model.zip").write_bytes(b"best")
    (output / "progress.csv").write_text("1\n")
    names = ("best_model", "progress.csv", "evaluations.npz")
    Checkpoints(output / "checkpoints", keep=1).save(
        sac, statistics=None, state={}, files={name: output / name for name in names}
    )
    (output / "progress.csv").write_text("1\n2\n")

    found = newest(output / "checkpoints")
    assert found is not None
    empty = tmp_path / "empty"
    restored = found.restore_files(empty)
    assert {str(path.relative_to(empty)): path.read_bytes() for path in restored} == {
        "best_model/best_model.zip": b"best",
        "progress.csv": b"1\n",
    }


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_files_stay_in_the_output_folder(tmp_path: Path, sac: Any, name: str) -> None:
    """A checkpoint that would write elsewhere is not taken."""
    (tmp_path / "source").write_text("x")
    files = {name: tmp_path / "source"}
    Checkpoints(tmp_path, keep=1).save(sac, statistics=None, state={}, files=files)
    said: list[str] = []
    assert newest(tmp_path, say=said.append) is None
    assert "outside of the output folder" in said[0]


def test_what_does_not_fit_is_refused(tmp_path: Path, sac: Any) -> None:
    """Another algorithm, number of environments or normalization: one line that says so."""
    Checkpoints(tmp_path, keep=1).save(sac, **NOTHING)
    found = newest(tmp_path)
    assert found is not None
    for algorithm, vec, why in (
        ("TD3", pendulums(), "a checkpoint of SAC, not of TD3"),
        ("SAC", pendulums(2), "--n_envs 1"),
        ("SAC", pendulums(normalized=True), "without normalized observations"),
    ):
        with pytest.raises(ModelUnusable, match=why):
            found.restore(find_algorithm(algorithm), vec)


def test_a_full_disk_costs_one_line(tmp_path: Path) -> None:
    """Where no more can be written (EFBIG), it is said once, and training goes on to its end.

    The checkpoint before stays whole, nothing else is left, and later ones are written again.
    """
    how = SAC_SMALL | {"learning_starts": 1000}
    model = SAC("MlpPolicy", pendulums(), device="cpu", **how)
    where = Checkpoints(tmp_path, keep=2)
    where.save(model, **NOTHING)
    said: list[str] = []
    watching = callback(where, said.append, steps=20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        model.learn(90, callback=watching)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert model.num_timesteps == 90
    assert len(said) == 1
    assert "could not be written, training goes on: OSError: [Errno 27]" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1.zip"]
    first = newest(tmp_path)
    assert first is not None
    assert first.timesteps == 0
    assert watching.save_now() == tmp_path / "checkpoint-2.zip"
    assert said[1:] == ["checkpoints are written again"]
    second = newest(tmp_path)
    assert second is not None
    assert second.timesteps == 90


ONE_DAY = EnvironmentSpec(
    id="Eplus-5zone-hot-continuous-stochastic-v1",
    run_period=RunPeriod.parse("1/1-1/1"),
    normalize_action=True,
)


def a_day_more(found: Checkpoint, name: str, folder: Path) -> tuple[Any, ...]:
    """Go on from a checkpoint for 120 timesteps, which is a whole episode and more."""
    vec = make_vector(ONE_DAY, folder, normalization=True)
    with closing(vec):
        model: Any = found.restore(find_algorithm(name), vec, device="cpu")
        begun = model.num_timesteps
        model.learn(120, reset_num_timesteps=False)
        statistics = normalization.of(vec)
        returns = episode_returns(vec)
    return begun, model.num_timesteps, returns, statistics, random_states(), weights(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [("PPO", {"n_steps": 40, "batch_size": 20}), ("TD3", {"learning_starts": 20, "sigma": 0.1})],
)
def test_resuming_twice_is_the_same(tmp_path: Path, name: str, how: Any) -> None:
    """Two trainings that go on from one checkpoint are equal to the last digit.

    With EnergyPlus, noise in the weather, normalized observations, and noise on the actions. The
    weather is that of the next episode, not of the first one again.
    """
    algorithm = find_algorithm(name)
    vec = make_vector(ONE_DAY, tmp_path / "first", normalization=True, seed=11)
    with closing(vec):
        model = algorithm.build(vec, seed=11, hyperparameters=how, device="cpu")
        model.learn(120)
        statistics = normalization.of(vec)
        Checkpoints(tmp_path / "checkpoints", keep=1).save(
            model, statistics=statistics, state={}, files={}
        )
        states = vec.env_method("weather_state")
    found = newest(tmp_path / "checkpoints")
    assert found is not None

    once = a_day_more(found, name, tmp_path / "once")
    random.seed()
    np.random.seed()
    torch.seed()
    again = a_day_more(found, name, tmp_path / "again")

    assert once == again
    assert once[:2] == (120, 240)
    assert len(once[2][0]) == 1
    with zipfile.ZipFile(found.path) as archive:
        kept = json.loads(archive.read("random.json"))["weather"]
    assert [tuple(state) for state in kept] == states == [(11, 2)]
    assert once[-1] != weights(model)
