"""The ten algorithms: their table against the classes, what is refused, building and loading."""

import inspect
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.vec_env import DummyVecEnv

from sinergym_trainer.algorithms import (
    ALGORITHMS,
    Algorithm,
    check_device,
    find_algorithm,
    identify,
    whole_units,
)
from sinergym_trainer.algorithms.hyperparameters import NOISES
from sinergym_trainer.environments import EnvironmentSpec, make_environment
from sinergym_trainer.errors import InvalidOptions, ModelUnusable
from sinergym_trainer.options import HYPERPARAMETERS
from sinergym_trainer.options.values import RunPeriod

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
DISCRETE = "Eplus-5zone-hot-discrete-v1"
NOISY = ("DDPG", "SAC", "TD3", "TQC")
EVERY = tuple(ALGORITHMS.values())

LEFT_OUT = {
    "_init_setup_model": "loading's own",
    "optimize_memory_usage": "cannot be used with the truncated episodes of Sinergym",
    "stats_window_size": "changes what is printed, not what is learned",
    "tensorboard_log": "--tensorboard",
    "verbose": "the console is ours",
    "seed": "--seed",
    "device": "--device",
    "policy": "the table's",
    "use_rms_prop": "--policy_kwargs names another optimizer_class",
    "use_sde_at_warmup": "for gSDE before learning starts; never asked for",
}
CLASSES = ("env", "policy_kwargs", "action_noise")
BUFFERS = (
    *("rollout_buffer_class", "rollout_buffer_kwargs"),
    *("replay_buffer_class", "replay_buffer_kwargs"),
)

TINY: dict[str, Any] = {"buffer_size": 500, "learning_starts": 8, "batch_size": 8}
OTHERS: dict[str, Any] = {
    "learning_rate": 0.017, "gamma": 0.5, "n_steps": 3, "batch_size": 4, "n_epochs": 2,
    "gae_lambda": 0.5, "clip_range": 0.33, "clip_range_vf": 0.44, "ent_coef": 0.25,
    "vf_coef": 0.75, "max_grad_norm": 0.9, "rms_prop_eps": 0.003, "target_kl": 0.4,
    "normalize_advantage": True, "sde_sample_freq": 5, "buffer_size": 77, "learning_starts": 3,
    "train_freq": "2 episodes", "gradient_steps": 2, "tau": 0.3, "target_update_interval": 9,
    "exploration_fraction": 0.9, "exploration_initial_eps": 0.8, "exploration_final_eps": 0.2,
    "policy_delay": 4, "target_policy_noise": 0.6, "target_noise_clip": 0.7,
    "target_entropy": -3.0, "top_quantiles_to_drop_per_net": 3, "cg_max_steps": 4,
    "cg_damping": 0.2, "line_search_shrinking_factor": 0.6, "line_search_max_iter": 3,
    "n_critic_updates": 2, "sub_sampling_factor": 2, "action_noise": "ornstein-uhlenbeck",
    "sigma": 0.35,
}  # fmt: skip
"""For each hyperparameter a value that is nobody's default."""


def small(algorithm: Algorithm) -> dict[str, Any]:
    """Hyperparameters with which it learns from a few steps."""
    sizes = {"n_steps": 8, "batch_size": 8} if algorithm.on_policy else TINY
    return {name: value for name, value in sizes.items() if name in algorithm.hyperparameters}


def tiny_policy(algorithm: Algorithm) -> dict[str, Any]:
    """A network that is quickly made."""
    lstm = {"lstm_hidden_size": 8} if "lstm_hidden_size" in algorithm.policy_parameters else {}
    return {"net_arch": [8], **lstm}


def gyms(algorithm: Algorithm, n_envs: int = 1) -> DummyVecEnv:
    """Small environments of Gymnasium that it can act in."""
    name = "Pendulum-v1" if "continuous" in algorithm.actions else "CartPole-v1"
    return DummyVecEnv([lambda: gym.make(name) for _ in range(n_envs)])


def class_of(algorithm: Algorithm) -> Any:
    """Its class."""
    return getattr(
        sys.modules.get(algorithm.module) or __import__(algorithm.module), algorithm.name
    )


def saved(algorithm: Algorithm, folder: Path, **more: Any) -> Path:
    """A model that has learned for some steps, saved."""
    given = {**small(algorithm), **more}
    model = algorithm.build(
        gyms(algorithm),
        seed=3,
        hyperparameters=given,
        device="cpu",
        policy_kwargs=tiny_policy(algorithm),
    )
    model.learn(24)
    model.save(folder / "model.zip")
    return folder / "model.zip"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Such small networks are slower with more, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each algorithm, by its name."""
    return {each.name: saved(each, tmp_path_factory.mktemp(each.name)) for each in EVERY}


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda each: each.name)
def test_the_table_is_that_of_the_classes(algorithm: Algorithm) -> None:
    """Names are parameters; parameters are names, or left out for a reason."""
    signature = inspect.signature(class_of(algorithm)).parameters
    taken = {name for name in algorithm.hyperparameters if name != "sigma"}

    assert taken <= set(signature)
    assert set(signature) - taken <= {*LEFT_OUT, *CLASSES, *BUFFERS}
    assert set(algorithm.hyperparameters) <= set(HYPERPARAMETERS)
    assert ("action_noise" in taken) == ("sigma" in algorithm.hyperparameters)
    assert {name: signature[name].default for name in algorithm.defaults} == algorithm.defaults
    policies = class_of(algorithm).policy_aliases
    policy = inspect.signature(policies[algorithm.policy]).parameters
    given = {"observation_space", "action_space", "lr_schedule", "use_sde"}
    given |= {"features_extractor_class", "features_extractor_kwargs"}
    assert set(algorithm.policy_parameters) == set(policy) - given


def test_every_hyperparameter_is_some_algorithms() -> None:
    """No flag is there in vain."""
    taken = {name for algorithm in EVERY for name in algorithm.hyperparameters}

    assert taken == set(HYPERPARAMETERS)
    assert set(OTHERS) | {"use_sde"} == taken


def test_the_table_costs_no_import_of_torch() -> None:
    """A wrong command is refused in a moment."""
    code = (
        "import sys; from sinergym_trainer.algorithms import *\n"
        "from sinergym_trainer.errors import InvalidOptions\n"
        "try: find_algorithm('dqn').check(hyperparameters={'gamma': 1}, actions='continuous',"
        f" where={CONTINUOUS!r})\n"
        "except InvalidOptions as error: print(error)\n"
        "assert not {'torch', 'stable_baselines3', 'sb3_contrib', 'sinergym', 'numpy'} &"
        " set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert f"take {DISCRETE}" in done.stdout


@pytest.mark.parametrize(
    "name", ["recurrentppo", "RecurrentPPO", "RECURRENT_PPO", "Recurrent-PPO"]
)
def test_names_are_found_in_any_case(name: str) -> None:
    """As people write them."""
    assert find_algorithm(name) is ALGORITHMS["RecurrentPPO"]


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    """And with the one that was meant."""
    with pytest.raises(InvalidOptions, match=r"did you mean SAC\? there are PPO, A2C.*TRPO"):
        find_algorithm("SACC")


@pytest.mark.parametrize(
    ("name", "actions", "where", "said"),
    [
        ("DQN", "continuous", CONTINUOUS, "take PPO, A2C, DDPG.*; or take Eplus-5zone-hot-discr"),
        ("TQC", "discrete", DISCRETE, f"take PPO, A2C, DQN.*QRDQN, TRPO; or take {CONTINUOUS}"),
        ("SAC", "multidiscrete", "Eplus-radiant-hot-discrete-v1", "or take Eplus-.*continuous-v1"),
        ("QRDQN", "continuous", "Eplus-smalldatacenter-hot-continuous-v1", "Eplus-.*-discrete-v1"),
    ],
)
def test_actions_that_do_not_fit_are_refused(
    name: str, actions: Any, where: str, said: str
) -> None:
    """With the algorithms and the environments that do."""
    with pytest.raises(InvalidOptions, match=said):
        find_algorithm(name).check(hyperparameters={}, actions=actions, where=where)


@pytest.mark.parametrize(
    ("name", "given", "n_envs", "policy", "said"),
    [
        ("PPO", {"buffer_size": 9}, 1, {}, "PPO does not take --buffer_size; it takes --learning"),
        ("PPO", {"batch_size": 64, "n_steps": 16}, 2, {}, "batch_size 64 is more than .* 32 "),
        ("PPO", {"batch_size": 4096}, 1, {}, "batch_size 4096 is more than"),
        ("TRPO", {"n_steps": 1}, 1, {}, "n_steps times --n_envs must be at least 2, not 1"),
        ("A2C", {"n_steps": 1, "normalize_advantage": True}, 1, {}, "at least 2, not 1"),
        ("RecurrentPPO", {"batch_size": 1}, 1, {}, "batch_size must be at least 2"),
        ("PPO", {"ent_coef": "auto"}, 1, {}, "auto is for SAC and TQC"),
        ("SAC", {"ent_coef": "auto_0"}, 1, {}, "such as auto_0.1"),
        ("SAC", {"ent_coef": "much"}, 1, {}, "ent_coef must be a number"),
        ("TQC", {"target_entropy": "low"}, 1, {}, "target_entropy must be a number"),
        ("DQN", {"train_freq": "1 episode"}, 2, {}, "needs one environment"),
        ("DQN", {"train_freq": "often"}, 1, {}, "train_freq is a number of steps"),
        ("TD3", {"action_noise": "pink"}, 1, {}, "normal or ornstein-uhlenbeck, not 'pink'"),
        ("TQC", {"top_quantiles_to_drop_per_net": 25}, 1, {}, "leaves none of 25"),
        ("TQC", {"top_quantiles_to_drop_per_net": 5}, 1, {"n_quantiles": 5}, "leaves none of 5"),
        ("A2C", {"rms_prop_eps": 0.1}, 1, {"optimizer_class": "Adam"}, "names another"),
        ("PPO", {}, 1, {"lstm_hidden_size": 8}, "PPO does not take 'lstm_hidden_size'.*net_arch"),
        ("PPO", {}, 1, {"net_arch": {"pi": [8]}}, r"net_arch of PPO.*\{pi: .*vf: .*not \{'pi'"),
        (
            "DQN",
            {},
            1,
            {"net_arch": {"pi": [8], "qf": [8]}},
            r"net_arch of DQN is a list of.*64\];",
        ),
        ("SAC", {}, 1, {"net_arch": [0]}, "net_arch of SAC"),
        ("SAC", {}, 1, {"net_arch": "64"}, "net_arch of SAC"),
    ],
)
def test_what_cannot_go_together_is_refused(
    name: str, given: dict[str, Any], n_envs: int, policy: dict[str, Any], said: str
) -> None:
    """In one line, before anything is made."""
    algorithm = find_algorithm(name)
    actions: Any = "continuous" if "continuous" in algorithm.actions else "discrete"
    with pytest.raises(InvalidOptions, match=said) as caught:
        algorithm.check(
            hyperparameters=given,
            actions=actions,
            where=CONTINUOUS,
            n_envs=n_envs,
            policy_kwargs=policy,
        )
    assert "\n" not in str(caught.value)


def test_sde_is_for_continuous_actions() -> None:
    """Stable-Baselines3 would find out when the environment is there."""
    with pytest.raises(InvalidOptions, match="use_sde is for continuous actions"):
        find_algorithm("PPO").check(
            hyperparameters={"use_sde": True}, actions="discrete", where=DISCRETE
        )


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda each: each.name)
def test_what_the_check_lets_pass_can_be_built(algorithm: Algorithm) -> None:
    """With every hyperparameter, and parameters of the policy."""
    given = {name: OTHERS[name] for name in algorithm.hyperparameters if name != "use_sde"}
    policy: dict[str, Any] = {"net_arch": [8, 8], "activation_fn": "torch.nn.ELU"}
    actions: Any = sorted(algorithm.actions)[0]
    given["n_steps"] = 64
    algorithm.check(hyperparameters=given, actions=actions, where=CONTINUOUS, policy_kwargs=policy)
    env = gyms(algorithm)
    model: Any = algorithm.build(
        env, seed=1, hyperparameters=given, device="cpu", policy_kwargs=policy
    )
    activations = [each for each in model.policy.modules() if isinstance(each, torch.nn.ELU)]

    assert activations
    assert model.n_steps == 64


@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO"])
def test_both_halves_of_the_network_can_be_given(name: str) -> None:
    """As Stable-Baselines3 takes them."""
    algorithm = find_algorithm(name)
    policy = {"net_arch": {"pi": [8], "vf": [16]}, "optimizer_class": "AdamW"}
    model: Any = algorithm.build(gyms(algorithm), seed=1, hyperparameters={}, policy_kwargs=policy)

    assert type(model.policy.optimizer) is torch.optim.AdamW
    assert model.policy.action_net.in_features == 8
    assert model.policy.value_net.in_features == 16


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("activation_fn", "os.system"),
        ("activation_fn", "torch.nn.Linear"),
        ("activation_fn", "torch.nn.modules.activation.ReLU"),
        ("activation_fn", "__import__"),
        ("activation_fn", "torch.optim.Adam"),
        ("activation_fn", 3),
        ("optimizer_class", "torch.optim.LBFGS"),
        ("optimizer_class", "subprocess.Popen"),
        ("optimizer_class", "lr_scheduler"),
        ("optimizer_class", "Optimizer"),
    ],
)
def test_names_of_classes_are_looked_up_nowhere_else(key: str, name: Any) -> None:
    """A name is one of PyTorch's activations or optimizers, or it is refused."""
    with pytest.raises(InvalidOptions, match=r"is not in torch\.(nn|optim); there are"):
        find_algorithm("PPO").policy_arguments({key: name})


@given(st.text())
def test_no_text_is_a_class_by_accident(name: str) -> None:
    """Whatever is given, it is an activation or an error."""
    try:
        found = find_algorithm("PPO").policy_arguments({"activation_fn": name})["activation_fn"]
    except InvalidOptions:
        return
    assert issubclass(found, torch.nn.Module)
    assert found()(torch.zeros(2, 4)) is not None


def test_arguments_that_a_class_refuses_are_one_line() -> None:
    """Such as those of an optimizer."""
    with pytest.raises(InvalidOptions, match=r"PPO cannot be made so: .*momentum"):
        find_algorithm("PPO").build(
            gyms(ALGORITHMS["PPO"]),
            seed=1,
            hyperparameters={},
            policy_kwargs={"optimizer_kwargs": {"momentum": 1}},
        )


@pytest.mark.parametrize("device", ["cuda:77", "mps", "gpu", "cuda:", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    """In one line, when the model would be built."""
    with pytest.raises(InvalidOptions, match="--device"):
        check_device(device)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices_that_are_there(device: str) -> None:
    """They are everywhere."""
    check_device(device)


@pytest.mark.parametrize(
    ("given", "kind", "sigma"),
    [
        ({"sigma": 0.3}, NormalActionNoise, 0.3),
        ({"action_noise": "normal"}, NormalActionNoise, 0.1),
        (
            {"action_noise": "ornstein-uhlenbeck", "sigma": 0.2},
            OrnsteinUhlenbeckActionNoise,
            0.2,
        ),
        ({"sigma": 0.0}, type(None), 0.0),
        ({"action_noise": "normal", "sigma": 0}, type(None), 0.0),
        ({}, type(None), 0.0),
    ],
)
@pytest.mark.parametrize("name", NOISY)
def test_action_noise_has_its_kind_and_size(
    name: str, given: dict[str, Any], kind: type, sigma: float
) -> None:
    """One number for each action."""
    algorithm = find_algorithm(name)
    model = algorithm.build(gyms(algorithm), seed=1, hyperparameters={**TINY, **given})
    noise: Any = model.action_noise
    made = type(noise)

    assert made is kind
    if sigma:
        assert noise._sigma.shape == noise().shape == (1,)
        assert noise._sigma[0] == sigma


def test_noise_is_in_halves_of_the_range_of_actions() -> None:
    """Pendulum acts in [-2, 2]: a sigma of 0.25 is 0.5 of its actions, whatever the bounds."""
    algorithm = find_algorithm("TD3")
    env = gyms(algorithm)
    given = {**TINY, "learning_starts": 0, "sigma": 0.25}
    model: Any = algorithm.build(env, seed=1, hyperparameters=given, device="cpu")
    model._setup_learn(1)
    chosen, _ = model.predict(model._last_obs, deterministic=True)
    spread = [
        float(model._sample_action(0, model.action_noise)[0].item() - chosen.item())
        for _ in range(500)
    ]

    assert np.std(spread) == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("kind", NOISES)
def test_each_of_several_environments_has_its_own_noise(kind: str, tmp_path: Path) -> None:
    """And a model that learned in two can go on in one, or in three."""
    algorithm = find_algorithm("TD3")
    given = {**TINY, "action_noise": kind}
    model = algorithm.build(gyms(algorithm, 2), seed=1, hyperparameters=given, device="cpu")
    model.learn(32)
    noise: Any = model.action_noise
    model.save(tmp_path / "model.zip")

    assert isinstance(noise, VectorizedActionNoise)
    assert noise().shape == (2, 1)
    for n_envs in (1, 3):
        again = algorithm.load(tmp_path / "model.zip", env=gyms(algorithm, n_envs), device="cpu")
        again.learn(36)
        assert again.num_timesteps == 36


EFFECTS: dict[str, Callable[[Any], Any]] = {
    "learning_rate": lambda model: model.lr_schedule(1),
    "clip_range": lambda model: model.clip_range(1),
    "clip_range_vf": lambda model: model.clip_range_vf and model.clip_range_vf(1),
    "rms_prop_eps": lambda model: (
        [group["eps"] for group in model.policy.optimizer.param_groups],
        model.policy_kwargs["optimizer_kwargs"]["eps"],
    ),
    "exploration_fraction": lambda model: model.exploration_schedule(0.5),
    "exploration_initial_eps": lambda model: model.exploration_schedule(1.0),
    "exploration_final_eps": lambda model: model.exploration_schedule(0.0),
    "ent_coef": lambda model: (
        model.ent_coef,
        getattr(model, "log_ent_coef", None),
        float(getattr(model, "ent_coef_tensor", 0)),
    ),
    "action_noise": lambda model: repr(model.action_noise),
    "sigma": lambda model: repr(model.action_noise),
    "buffer_size": lambda model: (model.buffer_size, model.replay_buffer.buffer_size),
}


def effect(model: Any, name: str) -> Any:
    """What a hyperparameter is in a model, where the learning will look."""
    if name in EFFECTS:
        return EFFECTS[name](model)
    buffer = getattr(model, "rollout_buffer", None) or model.replay_buffer
    of_buffer: dict[str, Callable[[], Any]] = {
        "n_steps": lambda: (type(buffer), getattr(buffer, "n_steps", buffer.buffer_size)),
        "gamma": lambda: getattr(buffer, "gamma", None),
        "gae_lambda": lambda: buffer.gae_lambda,
    }
    return getattr(model, name), of_buffer[name]() if name in of_buffer else None


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda each: each.name)
def test_overrides_take_the_place_of_what_is_stored(
    algorithm: Algorithm, trained_models: dict[str, Path]
) -> None:
    """Each as if the model had been built with it, and the weights are those of the file."""
    env = gyms(algorithm)
    path = trained_models[algorithm.name]
    stored = algorithm.load(path, env=env, device="cpu")
    for name in algorithm.hyperparameters:
        if name == "use_sde":
            continue
        changed = {name: OTHERS[name]}
        wanted = algorithm.build(
            env,
            seed=1,
            hyperparameters={**small(algorithm), **changed},
            device="cpu",
            policy_kwargs=tiny_policy(algorithm),
        )
        loaded = algorithm.load(path, env=env, device="cpu", overrides=changed)

        assert effect(loaded, name) == effect(wanted, name), name
        if not (name == "normalize_advantage" and algorithm.name != "A2C"):
            assert effect(loaded, name) != effect(stored, name), name
        for key, value in loaded.policy.state_dict().items():
            assert torch.equal(value, stored.policy.state_dict()[key]), key


@pytest.mark.parametrize("name", ["SAC", "TQC"])
@pytest.mark.parametrize(("first", "then"), [("auto", 0.2), (0.2, 0.3), (0.2, "auto_0.4")])
def test_the_entropy_coefficient_can_be_changed_and_learned(
    name: str, first: Any, then: Any, tmp_path: Path
) -> None:
    """From learned to fixed and back: the stored one does not come back through its tensors."""
    algorithm = find_algorithm(name)
    path = saved(algorithm, tmp_path, ent_coef=first)
    model: Any = algorithm.load(
        path, env=gyms(algorithm), device="cpu", overrides={"ent_coef": then}
    )
    if isinstance(then, float):
        assert float(model.ent_coef_tensor) == pytest.approx(then)
        assert model.ent_coef_optimizer is None
    else:
        assert model.log_ent_coef.exp().item() == pytest.approx(0.4)
    model.learn(24)
    model.save(tmp_path / "again.zip")
    again: Any = algorithm.load(tmp_path / "again.zip", device="cpu")
    assert again.ent_coef == then


def test_n_step_returns_can_be_switched_on_and_off(tmp_path: Path) -> None:
    """The buffer's class is stored too, and would keep the old ones without a word."""
    algorithm = find_algorithm("DQN")
    path = saved(algorithm, tmp_path, n_steps=3)
    env = gyms(algorithm)

    for n_steps, kind in ((3, "NStepReplayBuffer"), (1, "ReplayBuffer")):
        model: Any = algorithm.load(path, env=env, device="cpu", overrides={"n_steps": n_steps})
        assert type(model.replay_buffer).__name__ == kind
        model.learn(24)


def test_overrides_that_do_not_work_are_refused(trained_models: dict[str, Path]) -> None:
    """Against what is stored, too."""
    algorithm = find_algorithm("PPO")
    path, env = trained_models["PPO"], gyms(algorithm)
    for overrides, said in (
        ({"use_sde": True}, "part of the network"),
        ({"batch_size": 99}, "batch_size 99 is more than a rollout's 8"),
        ({"n_steps": 1}, "at least 2"),
        ({"tau": 1.0}, "does not take --tau"),
    ):
        with pytest.raises(InvalidOptions, match=said):
            algorithm.load(path, env=env, device="cpu", overrides=overrides)


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda each: each.name)
def test_a_model_for_predictions_is_small_and_leaves_generators_alone(
    algorithm: Algorithm, trained_models: dict[str, Path]
) -> None:
    """No replay buffer of a million, no seeding, and the same actions."""
    path = trained_models[algorithm.name]
    env = gyms(algorithm)
    env.seed(5)
    observation: Any = env.reset()
    trained = algorithm.load(path, env=env, device="cpu")
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    model: Any = algorithm.load(path, device="cpu")

    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (
        getattr(model, "replay_buffer", model).buffer_size == 1 if not algorithm.on_policy else 1
    )
    expected = trained.predict(observation, deterministic=True)[0]
    assert np.array_equal(model.predict(observation, deterministic=True)[0], expected)
    assert identify(path) == algorithm.name


def test_the_stored_seed_holds_unless_another_is_given(trained_models: dict[str, Path]) -> None:
    """When a training goes on."""
    algorithm, path = find_algorithm("A2C"), trained_models["A2C"]
    env = gyms(algorithm)

    assert algorithm.load(path, env=env, device="cpu").seed == 3
    assert algorithm.load(path, env=env, device="cpu", seed=9).seed == 9
    assert algorithm.load(path, env=env, device="cpu", seed=None).seed is None


def test_models_that_cannot_be_used_are_refused(
    trained_models: dict[str, Path], tmp_path: Path
) -> None:
    """Missing, broken in several ways, another algorithm's, for another environment."""
    ppo = find_algorithm("PPO")
    whole = trained_models["PPO"].read_bytes()
    (tmp_path / "text.zip").write_text("no zip at all")
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", "[]")
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("letter.txt", "hello")
    with (
        zipfile.ZipFile(trained_models["PPO"]) as source,
        zipfile.ZipFile(tmp_path / "less.zip", "w") as archive,
    ):
        archive.writestr("data", source.read("data"))
    for path, said in (
        (tmp_path / "none.zip", "there is no model"),
        (tmp_path / "text.zip", "no model of Stable-Baselines3, or broken"),
        (tmp_path / "cut.zip", "no model of Stable-Baselines3, or broken"),
        (tmp_path / "damaged.zip", "broken|cannot be loaded as PPO"),
        (tmp_path / "other.zip", "no model of Stable-Baselines3, or broken"),
        (tmp_path / "bare.zip", "no model of Stable-Baselines3, or broken"),
        (tmp_path / "less.zip", "cannot be loaded as PPO"),
        (tmp_path, "broken"),
        *(
            (trained_models[name], f"model of {name}, not of PPO")
            for name in ALGORITHMS
            if name != "PPO"
        ),
    ):
        with pytest.raises(ModelUnusable, match=said) as caught:
            ppo.load(path, device="cpu")
        assert "\n" not in str(caught.value)
    acrobot = DummyVecEnv([lambda: gym.make("Acrobot-v1")])
    with pytest.raises(ModelUnusable, match="made for another environment") as caught:
        ppo.load(trained_models["PPO"], env=acrobot, device="cpu")
    assert "\n" not in str(caught.value)


def test_ddpg_and_td3_are_told_apart(trained_models: dict[str, Path], tmp_path: Path) -> None:
    """One is the other's class with other defaults."""
    ddpg, td3 = find_algorithm("DDPG"), find_algorithm("TD3")
    for algorithm, other in ((ddpg, "TD3"), (td3, "DDPG")):
        with pytest.raises(ModelUnusable, match=f"a model of {other}, not of {algorithm.name}"):
            algorithm.load(trained_models[other], device="cpu")
    model = ddpg.build(
        gyms(ddpg),
        seed=1,
        hyperparameters=TINY,
        policy_kwargs={"n_critics": 2, "activation_fn": "Tanh"},
    )
    model.save(tmp_path / "two-critics.zip")
    assert ddpg.load(tmp_path / "two-critics.zip", device="cpu").policy is not None


@pytest.mark.parametrize(
    ("name", "given", "n_envs", "wanted"),
    [
        ("PPO", {"n_steps": 8, "batch_size": 8}, 1, 20),
        ("PPO", {"n_steps": 8, "batch_size": 8}, 3, 50),
        ("A2C", {}, 2, 31),
        ("RecurrentPPO", {"n_steps": 4, "batch_size": 4}, 2, 16),
        ("DQN", {"buffer_size": 50}, 1, 30),
        ("DQN", {"buffer_size": 50, "train_freq": 3}, 3, 40),
        ("SAC", {"buffer_size": 50}, 2, 11),
    ],
)
def test_as_many_timesteps_run_as_was_said(
    name: str, given: dict[str, Any], n_envs: int, wanted: int
) -> None:
    """Whole rollouts in all environments."""
    algorithm = find_algorithm(name)
    env = gyms(algorithm, n_envs)
    model = algorithm.build(env, seed=1, hyperparameters=given, device="cpu")
    total, unit = whole_units(model, wanted, n_envs)
    model.learn(wanted)

    assert model.num_timesteps == total
    assert total % unit == 0
    assert total - unit < wanted <= total


def test_timesteps_of_a_train_freq_in_episodes() -> None:
    """Pendulum's have 200 timesteps."""
    algorithm = find_algorithm("SAC")
    given = {"buffer_size": 50, "train_freq": "2 episodes", "learning_starts": 5000}
    model = algorithm.build(gyms(algorithm), seed=1, hyperparameters=given, device="cpu")
    model.learn(250)

    assert whole_units(model, 250, 1, episode_length=200) == (400, 400)
    assert whole_units(model, 250, 1) == (250, 1)
    assert model.num_timesteps == 400


ONE_DAY = RunPeriod.parse("1/1-1/1")
STEPS = 200
"""More than two episodes of one day, 96 timesteps."""


@pytest.fixture(scope="module", params=[CONTINUOUS, DISCRETE])
def building(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, DummyVecEnv]]:
    """The environment of one kind; only one can be alive, so one is closed before the other."""
    spec = EnvironmentSpec(id=request.param, run_period=ONE_DAY)
    env = make_environment(spec, tmp_path_factory.mktemp("sinergym"))
    vector = DummyVecEnv([lambda: env])
    yield ("continuous" if request.param == CONTINUOUS else "discrete"), vector
    vector.close()


@pytest.mark.slow
def test_each_algorithm_learns_in_a_building(
    building: tuple[str, DummyVecEnv], tmp_path: Path
) -> None:
    """Over an episode's end; and what is saved and loaded decides the same."""
    actions, env = building
    learners = [
        each
        for each in EVERY
        if ("continuous" if "continuous" in each.actions else "discrete") == actions
    ]
    for number, algorithm in enumerate(learners):
        given = {**small(algorithm), "n_steps": 20} if algorithm.on_policy else small(algorithm)
        if "sigma" in algorithm.hyperparameters:
            given["action_noise"] = NOISES[number % 2]
        if algorithm.on_policy and "batch_size" in given:
            given["batch_size"] = 10
        model = algorithm.build(
            env,
            seed=1,
            hyperparameters=given,
            device="cpu",
            policy_kwargs=tiny_policy(algorithm),
        )
        before = {key: value.clone() for key, value in model.policy.state_dict().items()}
        model.learn(STEPS)
        model.save(tmp_path / "model.zip")
        loaded = algorithm.load(tmp_path / "model.zip", device="cpu")

        assert model.num_timesteps == STEPS, algorithm.name
        learned = model.policy.state_dict()
        assert any(not torch.equal(value, before[key]) for key, value in learned.items())
        rng = np.random.default_rng(1)
        seen = [rng.normal(size=(1, *env.observation_space.shape)) for _ in range(3)]  # type: ignore[misc]
        assert decisions(model, seen) == decisions(loaded, seen), algorithm.name
    assert {each.name for each in learners} >= (
        {"DQN", "QRDQN"} if actions == "discrete" else {"RecurrentPPO", "TRPO", *NOISY}
    )


def decisions(model: Any, observations: list[Any]) -> list[list[Any]]:
    """Deterministic actions for one observation after another, with a recurrent policy's state."""
    state, starts, chosen = None, np.ones(1, dtype=bool), []
    for observation in observations:
        action, state = model.predict(
            observation, state=state, episode_start=starts, deterministic=True
        )
        starts = np.zeros(1, dtype=bool)
        chosen.append(np.asarray(action).tolist())
    return chosen
