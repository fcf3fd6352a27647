"""Flag, environment variable, file, default: who wins, and what is said of what is wrong."""

import dataclasses
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinergym_trainer.cli import train_app
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options import Options
from sinergym_trainer.options.configuration import PREFIX, Configuration, as_yaml, flags_table
from sinergym_trainer.options.values import RunPeriod, write_yaml

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- flags: begin -->\n", "<!-- flags: end -->"

with_folder = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def parse(words: str | list[str], environ: dict[str, str] | None = None) -> Options:
    """The options of a command line, with these environment variables."""
    arguments = shlex.split(words) if isinstance(words, str) else words
    _, bound, _ = train_app(Configuration(environ or {})).parse_args(
        arguments, exit_on_error=False, print_error=False
    )
    options = bound.arguments["options"]
    assert isinstance(options, Options)
    return options


def refusal(words: str, environ: dict[str, str] | None = None) -> str:
    """What is said of a command that is refused."""
    configuration = Configuration(environ or {})
    app = train_app(configuration)
    try:
        app.parse_args(shlex.split(words), exit_on_error=False, print_error=False)
    except InvalidOptions as error:
        return configuration.explain(error)
    except CycloptsError as error:
        return " ".join(str(error).split())
    raise AssertionError("it was taken")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test writes its configuration."""
    return tmp_path / "x.yaml"


fractions = st.floats(0, 1)
counts = st.integers(1, 10**15)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
layers = st.fixed_dictionaries({}, optional={"net_arch": st.lists(counts), "x y": words})
limits = st.lists(st.floats(-50, 50), min_size=2, max_size=2).map(sorted)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "algorithm": words,
    "episodes": counts,
    "seed": st.integers(0, 2**32 - 1),
    "id": st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=100),
    "device": st.sampled_from(["auto", "cpu", "cuda:3", "mps"]),
    "n_envs": counts,
    "run_period": st.sampled_from(["1/1-7/1", "1,6,1996,2,7,1997"]).map(RunPeriod.parse),
    "reward": st.sampled_from(["linear", "exponential"]),
    "reward_kwargs": st.fixed_dictionaries({}, optional={"range_comfort_winter": limits}),
    "energy_weight": fractions,
    "normalization": st.booleans(),
    "model": words,
    "checkpoint_minutes": st.floats(0, 1e9),
    "policy_kwargs": layers,
    "tensorboard": words,
    "learning_rate": st.floats(0, 1e300),
    "gamma": fractions,
    "ent_coef": st.floats(0, 9) | st.just("auto") | st.just("auto_0.1"),
    "use_sde": st.booleans(),
    "gradient_steps": st.just(-1) | counts,
    "train_freq": counts | st.just("1 episode"),
    "target_entropy": st.floats(allow_nan=False, allow_infinity=False) | st.just("auto"),
}


@with_folder
@given(values=st.fixed_dictionaries({"environment": words}, optional=VALUES))
def test_options_survive_a_file(file: Path, values: dict[str, Any]) -> None:
    """Written as YAML and read by `--config`, they are equal, whatever the words in them."""
    options = Options(**values)
    file.write_text(as_yaml(options), encoding="utf-8")

    read = parse(["--config", str(file)])

    assert dataclasses.replace(read, config=None) == options


SOURCES = ("flag", "variable", "file")
CHOSEN: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 9),
    "gamma": fractions,
    "id": st.text(string.ascii_lowercase, min_size=1),
    "logger": st.booleans(),
    "use_sde": st.booleans(),
    "policy_kwargs": st.fixed_dictionaries({"net_arch": st.lists(st.integers(1, 9), max_size=3)}),
    "run_period": VALUES["run_period"],
}
given_by = st.fixed_dictionaries({}, optional=CHOSEN)


def text(value: Any) -> str:
    """A value as a word of a command line or a variable."""
    return write_yaml(value, flow=True).strip() if isinstance(value, dict) else str(value)


@with_folder
@given(st.fixed_dictionaries(dict.fromkeys(SOURCES, given_by)))
def test_the_stronger_source_wins(file: Path, sources: dict[str, dict[str, Any]]) -> None:
    """Each option by itself: flag, variable, file, default."""
    file.write_text(
        write_yaml(
            {
                name: str(value) if isinstance(value, RunPeriod) else value
                for name, value in sources["file"].items()
            }
        )
    )
    variables = {PREFIX + name.upper(): text(v) for name, v in sources["variable"].items()}
    flags = [
        f"--no-{name}" if name == "use_sde" and not value else f"--{name}={text(value)}"
        for name, value in sources["flag"].items()
    ]

    read = parse(["--environment", "E", f"--config={file}", *flags], variables)

    expected = sources["file"] | sources["variable"] | sources["flag"]
    assert read == Options(environment="E", config=file, **expected)


def test_a_file_alone_is_a_training(file: Path) -> None:
    """With forms that YAML has and a command line has not."""
    file.write_text(
        "# a comment\nenvironment: E\nalgorithm: SAC\nid: 007\nlogger: on\nuse_sde: no\nseed: 0\n"
        "learning_rate: 1e-4\nrun_period: [1, 1, 1991, 7, 1, 1991]\ntimesteps: null\n"
        "reward_kwargs:\n  range_comfort_winter: [20, 23.5]\npolicy_kwargs: 'net_arch: [8]'\n"
    )
    expected = Options(
        environment="E",
        algorithm="SAC",
        id="007",
        logger=True,
        use_sde=False,
        seed=0,
        learning_rate=1e-4,
        run_period=RunPeriod.parse("1/1-7/1"),
        reward_kwargs={"range_comfort_winter": [20, 23.5]},
        policy_kwargs={"net_arch": [8]},
        config=file,
    )

    assert parse(f"--config {file}") == expected
    assert parse("", {PREFIX + "CONFIG": str(file)}) == expected


def test_variables_alone_are_a_training() -> None:
    """An empty one is none; a reward's parameters are words as in a shell."""
    variables = {
        "ENVIRONMENT": "E",
        "SEED": "0",
        "GAMMA": "",
        "EVALUATION": "on",
        "REWARD_KWARGS": "lambda_energy=1e-4 range_comfort_winter='[20, 21]'",
    }

    assert parse("", {PREFIX + name: value for name, value in variables.items()}) == Options(
        environment="E",
        seed=0,
        evaluation=True,
        reward_kwargs={"lambda_energy": 1e-4, "range_comfort_winter": [20, 21]},
    )


def test_episodes_and_timesteps_are_one_choice(file: Path) -> None:
    """The stronger source's choice stands; within one source both are a contradiction."""
    file.write_text("environment: E\nepisodes: 5\n")

    assert parse(f"--config {file} --timesteps 9").episodes == 1
    assert parse(f"--config {file}", {PREFIX + "TIMESTEPS": "9"}).timesteps == 9
    assert parse(f"--config {file} -ep 2", {PREFIX + "TIMESTEPS": "9"}).timesteps is None
    file.write_text("environment: E\nepisodes: 5\ntimesteps: 9\n")
    assert refusal(f"--config {file}") == (
        f"give --episodes or --timesteps, not both (--episodes is from {file}, line 2, --timesteps"
        f" is from {file}, line 3)"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("episode: 2", "FILE, line 1: unknown option 'episode'; did you mean episodes?"),
        ("hyperparameters: {gamma: 1}", "FILE, line 1: unknown option 'hyperparameters'"),
        ("? [a]\n: b", "FILE, line 1: unknown option 'a list or mapping'"),
        ("seed: 1\nseed: 2", "FILE, line 2: seed is on line 1 already"),
        ("config: y.yaml", "FILE, line 1: a file cannot name another"),
        ("- seed", "--config FILE is not a mapping"),
        ("seed", "--config FILE is not a mapping"),
        ("seed: [", "--config FILE, line 1 is not YAML: expected the node content"),
        ("\nseed: 1: 2", "--config FILE, line 2 is not YAML: mapping values are not allowed"),
        ("a\0", "--config FILE is not YAML: special characters are not allowed"),
        ("[" * 1000, "--config FILE is nested too deeply"),
        ("seed: two", "--seed 'two' is not a whole number (--seed is from FILE, line 1)"),
        ("seed: 1.5", "--seed '1.5' is not a whole number (--seed is from FILE, line 1)"),
        ("seed: true", "--seed 'true' is not a whole number (--seed is from FILE, line 1)"),
        ("seed: [1]", "FILE, line 1: seed takes one value, not a list"),
        ("seed: {a: 1}", "FILE, line 1: seed takes one value, not a mapping"),
        ("reward_kwargs: [1]", "FILE, line 1: reward_kwargs takes a mapping, not a list"),
        ("policy_kwargs: word", "--policy_kwargs 'word' is not a mapping such as"),
        ("policy_kwargs: {1: 2}", "FILE, line 1: policy_kwargs takes a mapping with names"),
        ("policy_kwargs: &a {a: *a}", "FILE, line 1: policy_kwargs is nested too deeply"),
        ("policy_kwargs: {a: !!python/name:os.system x}", "is not a plain value"),
        ("evaluation: maybe", '--evaluation from FILE, line 1: unable to convert "maybe"'),
        ("episodes: 0", "--episodes must be at least 1, not 0 (--episodes is from FILE, line 1)"),
        ("run_period: 7/1-1/1", "ends before it begins"),
        ("gamma: x", "--gamma 'x' is not a number (--gamma is from FILE, line 1)"),
    ],
)
def test_a_wrong_file_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    """With the file's name, the line and the option."""
    monkeypatch.chdir(file.parent)
    file.write_text(content)

    line = refusal("-env E --config x.yaml")

    assert said.replace("FILE", "x.yaml") in line
    assert "\n" not in line


def test_a_file_that_cannot_be_read_is_one_line(file: Path) -> None:
    """Missing, a folder, or no text."""
    assert refusal(f"--config {file}") == f"--config {file}: No such file or directory"
    assert refusal(f"--config {file.parent}") == f"--config {file.parent}: Is a directory"
    file.write_bytes(b"\xff\xfe\x00")
    assert refusal(f"--config {file}") == f"--config {file} is not a text in UTF-8"
    file.write_text("")
    assert "--environment" in refusal(f"--config {file}")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SEDE", "1", "SINERGYM_TRAIN_SEDE sets nothing; did you mean SINERGYM_TRAIN_SEED?"),
        ("seed", "1", "SINERGYM_TRAIN_seed sets nothing; did you mean SINERGYM_TRAIN_SEED?"),
        ("SEED", "x", "--seed 'x' is not a whole number (--seed is from SINERGYM_TRAIN_SEED)"),
        ("SEED", "-1", "not -1 (--seed is from SINERGYM_TRAIN_SEED)"),
        ("LOGGER", "maybe", "--logger from SINERGYM_TRAIN_LOGGER"),
        ("REWARD_KWARGS", "a='", "SINERGYM_TRAIN_REWARD_KWARGS: no closing quotation"),
        ("REWARD_KWARGS", "a=1 b", "is not key=value: 'b'"),
        ("REWARD_KWARGS", "a=1 a=2", "has a twice"),
        ("POLICY_KWARGS", "{", "is not YAML"),
    ],
)
def test_a_wrong_variable_is_one_line(name: str, value: str, said: str) -> None:
    """With its name."""
    assert said in refusal("-env E", {PREFIX + name: value})


def test_the_readmes_table_is_that_of_the_code() -> None:
    """`python -m sinergym_trainer.options.configuration` prints what is between the markers."""
    written = README.read_text().partition(BEGIN)[2].partition(END)[0]

    assert written == flags_table(), (
        "put the output of `python -m sinergym_trainer.options.configuration` between the markers"
    )
    assert all(f"| `--{field.name}`" in written for field in dataclasses.fields(Options))
