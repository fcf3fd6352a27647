"""Flags: names, forms, bounds; those of the seeds and of their successors."""

import shlex
from dataclasses import fields
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinergym_trainer.algorithms import ALGORITHMS
from sinergym_trainer.cli import train_app
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options import HYPERPARAMETERS, EvalOptions, Options
from sinergym_trainer.options.configuration import Configuration
from sinergym_trainer.options.values import RunPeriod, Settings, read_yaml, write_yaml

SEEDS = (
    "--environment Eplus-5Zone-hot-discrete-v1 --episodes 2 --algorithm DQN --logger"
    " --log_interval 1 --seed 58"
    " --evaluation --eval_freq 1 --eval_length 1 --tensorboard ./tensorboard_log --remote_store",
    "--environment Eplus-5Zone-hot-continuous-v1 --episodes 3 --algorithm PPO --logger"
    " --log_interval 300 --seed 52"
    " --evaluation --eval_freq 1 --eval_length 1 --tensorboard ./tensorboard_log --remote_store",
)
"""The two commands that the seeds print."""
ADDED = " --group_name sinergym-group"
"""What the first launcher put behind each command."""
SHORT = (
    "-env E -ep 3 -alg A2C -rw exponential -norm -mobs -log -tens t -eval -evalf 4 -evall 5"
    " -inter 6 -sd 0 -sto -mlflow -group g -del -lr .1 -g .9 -n 7 -gl .8 -ec .01 -v .4 -m .3"
    " -rms 1e-5 -bfs 8 -ls 9 -tau .2 -sig .1 -bs 64 -ne 10 -gs 1 -cr .2 -buc b -mod m -id i"
    " -rew .5 -nact"
)
NAMES_OF_THE_SEEDS = (
    "environment episodes algorithm reward normalization multiobs logger tensorboard evaluation"
    " eval_freq eval_length log_interval seed remote_store mlflow_store group_name auto_delete"
    " learning_rate gamma n_steps gae_lambda ent_coef vf_coef max_grad_norm rms_prop_eps"
    " buffer_size learning_starts tau sigma model id bucket_name energy_weight batch_size"
    " n_epochs gradient_steps clip_range"
)


def parse(line: str) -> Options:
    """The options of a command line."""
    _, bound, _ = train_app(Configuration({})).parse_args(
        shlex.split(line), exit_on_error=False, print_error=False
    )
    options = bound.arguments["options"]
    assert isinstance(options, Options)
    return options


@pytest.mark.parametrize(
    ("line", "own"),
    [
        (SEEDS[0], {"environment": "Eplus-5Zone-hot-discrete-v1", "episodes": 2, "seed": 58}),
        (SEEDS[1], {"environment": "Eplus-5Zone-hot-continuous-v1", "episodes": 3, "seed": 52}),
    ],
)
def test_the_commands_of_the_seeds_are_understood(line: str, own: dict[str, Any]) -> None:
    """As printed, and with what the first launcher added."""
    algorithm, log_interval = ("DQN", 1) if own["episodes"] == 2 else ("PPO", 300)
    expected: dict[str, Any] = {
        **own,
        "algorithm": algorithm,
        "log_interval": log_interval,
        "logger": True,
        "evaluation": True,
        "eval_freq": 1,
        "eval_length": 1,
        "tensorboard": "./tensorboard_log",
        "remote_store": True,
    }

    assert parse(line) == Options(**expected)
    assert parse(line + ADDED) == Options(**expected, group_name="sinergym-group")


def test_every_flag_of_the_seeds_is_there() -> None:
    """Those of 2021 and the later ones of 2022."""
    assert set(NAMES_OF_THE_SEEDS.split()) <= {field.name for field in fields(Options)}


def test_short_names_are_whole_names() -> None:
    """`-env` is one flag, not -e -n -v, and 0 is a seed."""
    options = parse(SHORT)

    assert (options.environment, options.episodes, options.algorithm) == ("E", 3, "A2C")
    assert (options.seed, options.reward, options.tensorboard) == (0, "exponential", "t")
    assert (options.eval_freq, options.eval_length, options.log_interval) == (4, 5, 6)
    assert (options.model, options.id, options.energy_weight) == ("m", "i", 0.5)
    assert options.normalization
    assert options.normalize_action
    assert options.multiobs
    assert options.logger
    assert options.evaluation
    assert options.remote_store
    assert options.mlflow_store
    assert options.auto_delete
    assert len(options.hyperparameters()) == 16
    assert (options.vf_coef, options.n_steps, options.sigma) == (0.4, 7, 0.1)
    assert parse("-env E -tu .5").tau == 0.5
    assert parse("-env E -rpe .5").rms_prop_eps == 0.5


def test_every_hyperparameter_of_every_algorithm_is_a_flag() -> None:
    """And no flag is one that no algorithm takes."""
    taken = {name for algorithm in ALGORITHMS.values() for name in algorithm.hyperparameters}

    assert taken == set(HYPERPARAMETERS)


def test_forms_of_values() -> None:
    """Words, negative numbers, whole numbers with an exponent, yes and no, mappings."""
    options = parse(
        "-env E --gradient_steps -1 --target_entropy -2.5 --ent_coef auto_0.1 --train_freq"
        " '1 episode' --buffer_size 1e5 --no-normalize_advantage --use_sde --evaluation=false"
        " --policy_kwargs '{\"net_arch\": [64, 64]}'"
    )

    assert options.hyperparameters() == {
        "gradient_steps": -1,
        "target_entropy": -2.5,
        "ent_coef": "auto_0.1",
        "train_freq": "1 episode",
        "buffer_size": 100_000,
        "normalize_advantage": False,
        "use_sde": True,
    }
    assert not options.evaluation
    assert options.policy_kwargs == {"net_arch": [64, 64]}
    assert parse("-env E --policy_kwargs 'net_arch: [64, 64]'").policy_kwargs == {
        "net_arch": [64, 64]
    }
    assert parse("-env E --train_freq 4 --ent_coef 0").hyperparameters() == {
        "train_freq": 4,
        "ent_coef": 0.0,
    }


@pytest.mark.parametrize(
    "line",
    [
        "--reward_kwargs range_comfort_winter=[19,24] lambda_energy=1e-4 -sd 1",
        "--reward_kwargs range_comfort_winter='[19, 24]' --reward_kwargs lambda_energy=.0001",
        "--reward_kwargs '{range_comfort_winter: [19, 24], lambda_energy: 1e-4}'",
    ],
)
def test_forms_of_a_rewards_parameters(line: str) -> None:
    """Words and mappings say the same; a number with an exponent is one."""
    assert parse(f"-env E {line}").reward_kwargs == {
        "range_comfort_winter": [19, 24],
        "lambda_energy": 0.0001,
    }


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), plain, max_size=4))
def test_settings_keep_plain_values(value: dict[str, Any]) -> None:
    """Whatever is plain is read as it was written, in one line or more, and can be hashed."""
    kept = Settings(value)

    assert kept == value
    assert Settings.parse(str(kept)) == value
    assert hash(Settings(dict(reversed(value.items())))) == hash(kept)
    assert read_yaml(write_yaml(value)) == value


def test_settings_cannot_be_changed() -> None:
    """What they give out are copies."""
    kept = Settings({"net_arch": [64, 64]})
    kept["net_arch"].append(1)

    assert kept == {"net_arch": [64, 64]}
    with pytest.raises(InvalidOptions, match="--policy_kwargs takes plain values only"):
        Options(environment="E", policy_kwargs={"activation_fn": object})


def test_nothing_given_is_left_to_the_algorithm() -> None:
    """No hyperparameter has a default of ours."""
    assert Options(environment="E").hyperparameters() == {}


@given(
    first=st.dates(date(1950, 1, 1), date(2100, 1, 1)),
    days=st.integers(0, 400),
)
def test_a_run_period_survives_writing_and_reading(first: date, days: int) -> None:
    """Six numbers are read as they are written."""
    period = RunPeriod(first, first + timedelta(days=days))

    assert RunPeriod.parse(str(period)) == period
    assert RunPeriod.parse(str(period.as_tuple())) == period


@pytest.mark.parametrize(
    "text", ["1/1-7/1", "1/1/1991-7/1", "1/1/1991-7/1/1991", "1,1,1991,7,1,1991"]
)
def test_forms_of_a_run_period(text: str) -> None:
    """Short and long forms say the same week, also on the command line."""
    assert RunPeriod.parse(text).as_tuple() == (1, 1, 1991, 7, 1, 1991)
    assert parse(f"-env E --run_period {text}").run_period == RunPeriod.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a run period"),
        ("1,1,7,1", "not a run period"),
        ("30/2-1/3", "day"),
        ("1/13-2/13", "month"),
        ("7/1-1/1", "ends before it begins"),
        ("a,b,c,d,e,f", "not a run period"),
        ("1,1,99999999999999999999,1,1,1", "run_period"),
    ],
)
def test_a_wrong_run_period_is_refused(text: str, why: str) -> None:
    """With the text and the reason."""
    with pytest.raises(InvalidOptions, match=why):
        RunPeriod.parse(text)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"episodes": 0}, "--episodes must be at least 1, not 0"),
        ({"eval_freq": 0}, "--eval_freq"),
        ({"eval_length": -1}, "--eval_length"),
        ({"timesteps": 0}, "--timesteps"),
        ({"n_envs": 0}, "--n_envs must be at least 1"),
        ({"threads": 0}, "--threads"),
        ({"log_interval": 0}, "--log_interval"),
        ({"seed": -1}, "--seed must be from 0 to 4294967295"),
        ({"seed": 2**32}, "--seed"),
        ({"checkpoint_keep": 0}, "--checkpoint_keep"),
        ({"checkpoint_steps": 0}, "--checkpoint_steps"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint_minutes must be at least 0"),
        ({"energy_weight": 1.5}, "--energy_weight must be from 0 to 1, not 1.5"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"gamma": 1.1}, "--gamma must be from 0 to 1"),
        ({"learning_rate": -0.1}, "--learning_rate"),
        ({"learning_rate": float("inf")}, "--learning_rate"),
        ({"n_steps": 0}, "--n_steps"),
        ({"gradient_steps": 0}, "--gradient_steps must be at least 1, or -1, not 0"),
        ({"gradient_steps": -2}, "--gradient_steps"),
        ({"clip_range_vf": 0.0}, "--clip_range_vf must be more than 0"),
        ({"exploration_fraction": 0.0}, "--exploration_fraction must be more than 0, up to 1"),
        ({"target_entropy": float("nan")}, "--target_entropy must be a finite number"),
        ({"train_freq": 0}, "--train_freq"),
        ({"ent_coef": -1.0}, "--ent_coef"),
        ({"id": "a b"}, "--id is at most 100 letters"),
        ({"id": "a/b"}, "--id"),
        ({"id": "x" * 101}, "--id"),
        ({"id": ""}, "--id must not be empty"),
        ({"model": ""}, "--model must not be empty"),
        ({"device": "gpu"}, "--device is auto, cpu, cuda"),
        ({"episodes": 2, "timesteps": 5}, "not both"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any], named: str) -> None:
    """One line that names the flag."""
    with pytest.raises(InvalidOptions, match=named) as caught:
        Options(environment="E", **wrong)
    assert "\n" not in str(caught.value)


def test_a_baseline_needs_an_environment() -> None:
    """A model has its own, in its card."""
    assert EvalOptions(model="model.zip").environment is None
    assert EvalOptions(model="random", environment="E").deterministic
    for baseline in ("random", "rule-based"):
        with pytest.raises(InvalidOptions, match="needs an --environment"):
            EvalOptions(model=baseline)
