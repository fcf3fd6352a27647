"""Flags: names, forms, bounds."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinergym_trainer.cli import app
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options import HYPERPARAMETERS, Options, RunPeriod

SEEDS = (
    "--environment Eplus-5Zone-hot-discrete-v1 --episodes 2 --algorithm DQN --logger"
    " --log_interval 1 --seed 58"
    " --evaluation --eval_freq 1 --eval_length 1 --tensorboard ./tensorboard_log --remote_store"
)
SHORT = (
    "-env E -ep 3 -alg A2C -rw exponential -norm -mobs -log -tens t -eval -evalf 4 -evall 5"
    " -inter 6 -sd 0 -sto"
    " -mlflow -group g -del -lr .1 -g .9 -n 7 -gl .8 -ec .01 -v .4 -m .3 -rms 1e-5 -bfs 8 -ls 9"
    " -tau .2 -sig .1"
    " -bs 64 -ne 10 -gs 1 -cr .2 -buc b"
)


def parse(line: str) -> Options:
    """The options of a command line."""
    _, bound, _ = app.parse_args(line.split(), exit_on_error=False, print_error=False)
    options = bound.arguments["options"]
    assert isinstance(options, Options)
    return options


def test_the_command_of_the_seeds_is_understood() -> None:
    """The first of the two commands that the seeds print."""
    expected = Options(
        environment="Eplus-5Zone-hot-discrete-v1",
        episodes=2,
        algorithm="DQN",
        logger=True,
        log_interval=1,
        seed=58,
        evaluation=True,
        eval_freq=1,
        eval_length=1,
        tensorboard="./tensorboard_log",
        remote_store=True,
    )

    assert parse(SEEDS) == expected


def test_short_names_are_whole_names() -> None:
    """`-env` is one flag, not -e -n -v, and 0 is a seed."""
    options = parse(SHORT)

    assert (options.environment, options.episodes, options.algorithm) == ("E", 3, "A2C")
    assert (options.seed, options.reward, options.tensorboard) == (0, "exponential", "t")
    assert (options.eval_freq, options.eval_length, options.log_interval) == (4, 5, 6)
    assert options.normalization
    assert options.multiobs
    assert options.logger
    assert options.evaluation
    assert options.remote_store
    assert options.mlflow_store
    assert options.auto_delete
    assert set(options.hyperparameters()) == set(HYPERPARAMETERS)
    assert (options.vf_coef, options.n_steps, options.sigma) == (0.4, 7, 0.1)
    assert parse("-env E -tu .5").tau == 0.5
    assert parse("-env E -rpe .5").rms_prop_eps == 0.5


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
        ({"episodes": 0}, "--episodes"),
        ({"eval_freq": 0}, "--eval_freq"),
        ({"eval_length": -1}, "--eval_length"),
        ({"timesteps": 0}, "--timesteps"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"learning_rate": -0.1}, "--learning_rate"),
        ({"n_steps": 0}, "--n_steps"),
        ({"episodes": 2, "timesteps": 5}, "not both"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float], named: str) -> None:
    """One line that names the flag."""
    with pytest.raises(InvalidOptions, match=named):
        Options(environment="E", **wrong)  # type: ignore[arg-type]
