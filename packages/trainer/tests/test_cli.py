"""The commands: help, errors in one line, exit codes, and the seeds' commands."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONTINUOUS = "Eplus-5zone-hot-continuous-v1"
DAY = ("--run_period", "1/1-1/1")
COMMAND = (sys.executable, "-m", "sinergym_trainer")
SEED = (
    "--environment Eplus-5Zone-hot-discrete-v1 --episodes 2 --algorithm DQN --logger"
    " --log_interval 1 --seed 58 --evaluation --eval_freq 1 --eval_length 1"
    " --tensorboard ./tensorboard_log --remote_store"
)


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_help_names_the_flags_and_imports_nothing_heavy(tmp_path: Path) -> None:
    """Neither help nor a refused command waits for PyTorch."""
    code = (
        "import sys\n"
        "from sinergym_trainer.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'sinergym', 'mlflow',"
        " 'stable_baselines3', 'numpy', 'gymnasium'} & set(sys.modules)))\n"
    )
    for arguments, ending in (
        (["--help"], "0 []"),
        (["-env", CONTINUOUS, "-alg", "DQN"], "2 []"),
        (["-env", "Eplus-5zone-hot-v1"], "2 []"),
    ):
        before = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == ending
        assert time.monotonic() - before < 5  # generous: the machine may be busy
        if arguments == ["--help"]:
            assert "--eval_freq -evalf" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "--environment"),
        ("-env Eplus-5zone-hot-continuous-v1 --foo 1", "--foo"),
        ("-env Eplus-5zone-hot-continuous-v1 -ep none", "none"),
        ("-env Eplus-5zone-hot-continuous-v1 -ep 0", "--episodes must be at least 1, not 0"),
        ("-env Eplus-5zone-hot-continuous-v1 --run_period 7/1-1/1", "ends before it begins"),
        ("-env Eplus-5zone-hot-continuous-v1 -rw square", "exponential"),
        ("-env Eplus-5zone-hot-continuous-v1 -alg PPOO", "did you mean PPO"),
        ("-env Eplus-5zone-hot-continuous-v1 --gamma 2", "--gamma must be from 0 to 1"),
        ("-env Eplus-5zone-hot-continuous-v1 --config no.yaml", "no.yaml: No such file"),
        ("sync", "FOLDER"),
        ("sync nowhere", "nowhere is not a folder"),
        ("-env Eplus-5zone-hot-continuous-v1 extra", "extra"),
        ("-env Eplus-5zone-hot-contnuous-v1", "did you mean Eplus-5zone-hot-continuous-v1"),
    ],
)
def test_bad_input_is_one_line_and_creates_nothing(
    tmp_path: Path, arguments: str, said: str
) -> None:
    """Exit code 2, standard output empty, no folder."""
    done = run(*arguments.split(), cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sinergym-train: ")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


HEADINGS = (
    "Experiment",
    "Environment",
    "Model and checkpoints",
    "Evaluation",
    "Logs and results",
    "Hyperparameters",
    "Accepted, done by the runner",
)


def test_help_groups_the_flags(tmp_path: Path) -> None:
    """Each flag of a long list stands below its heading, and the headings in their order."""
    shown = run("--help", cwd=tmp_path).stdout
    titles = re.findall(r"^╭─ (.+?) (?:\(.*\) )?─+╮$", shown, re.MULTILINE)

    assert titles == ["Commands", *HEADINGS]
    _, _, below = shown.partition("Model and checkpoints")
    assert "--checkpoint_steps" in below.partition("Evaluation")[0]
    assert "sync" in shown.partition("Experiment")[0]


def test_variables_and_file_reach_the_command(tmp_path: Path) -> None:
    """A wrong value says where it is from, with exit code 2 and nothing made."""
    (tmp_path / "x.yaml").write_text("environment: Eplus-5zone-hot-continuous-v1\nepisodes: 0\n")
    from_file = run("--config", "x.yaml", cwd=tmp_path)
    from_variable = run("--config", "x.yaml", cwd=tmp_path, SINERGYM_TRAIN_EPISODES="none")

    assert (from_file.returncode, from_variable.returncode) == (2, 2)
    assert from_file.stderr == (
        "sinergym-train: --episodes must be at least 1, not 0"
        " (--episodes is from x.yaml, line 2)\n"
    )
    assert from_variable.stderr == (
        "sinergym-train: --episodes 'none' is not a whole number"
        " (--episodes is from SINERGYM_TRAIN_EPISODES)\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


EVALUATE = (sys.executable, "-c", "from sinergym_trainer.cli import evaluate_main as e; e()")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "--model"),
        ("-mod random", "--model random needs an --environment"),
        ("-mod m.zip -ep 0", "--episodes must be at least 1, not 0"),
        ("-mod m.zip --deterministic --stochastics", "--stochastic"),
        ("-mod m.zip -rew 2", "--energy_weight must be from 0 to 1"),
    ],
)
def test_bad_input_of_the_evaluation_is_one_line(
    tmp_path: Path, arguments: str, said: str
) -> None:
    """As that of a training."""
    done = subprocess.run(
        [*EVALUATE, *arguments.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sinergym-eval: ")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_that_hangs_cannot_keep_the_process(tmp_path: Path) -> None:
    """Neither its thread nor a child with such a thread: the error's line, then the end."""
    code = (
        "import multiprocessing, threading\n"
        "from cyclopts import App\n"
        "from sinergym_trainer.cli import run_app\n"
        "from sinergym_trainer.errors import EnergyPlusFailed\n"
        "def hang():\n"
        "    threading.Event().wait()\n"
        "def command():\n"
        "    threading.Thread(target=hang).start()\n"
        "    child = multiprocessing.get_context('fork').Process(target=hang)\n"
        "    child.start()\n"
        "    print(child.pid)\n"
        "    raise EnergyPlusFailed('it hangs')\n"
        "app = App(name='x')\n"
        "app.default(command)\n"
        "run_app(app, [])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, "x: it hangs\n")
    deadline = time.monotonic() + 10
    while _lives(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be looked at does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def evaluations_of(pid: int) -> list[str]:
    """The evaluation processes of a training, by their ids."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for child in children:
        with contextlib.suppress(OSError):  # one that has just ended
            if b".evaluation" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


@pytest.mark.parametrize("place", ["file/output", "/proc/output"])
def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path: Path, place: str) -> None:
    """It ends before anything heavy is loaded, and names the folder and the reason."""
    (tmp_path / "file").touch()
    output = str(tmp_path / place)
    done = run("-env", CONTINUOUS, "-nact", cwd=tmp_path, SINERGYM_OUTPUT=output)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sinergym-train: the output folder cannot be made: ")
    assert output in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """The last line says what is full, without a traceback."""
    output = tmp_path / "output"
    output.mkdir()
    (output / "monitor.csv").symlink_to("/dev/full")
    done = run("-env", CONTINUOUS, *DAY, cwd=tmp_path, SINERGYM_OUTPUT=str(output))

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"sinergym-train: the results cannot be written: No space left on device: {output}"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_of_the_seeds_trains(tmp_path: Path) -> None:
    """As written but for a shorter run period, as `python3 DRL_battery.py` below a runner."""
    script = tmp_path / "DRL_battery.py"
    script.write_text("from sinergym_trainer.cli import main\nmain()\n")
    output, progress = tmp_path / "output", tmp_path / "progress.json"
    done = subprocess.run(
        [sys.executable, script.name, *SEED.split(), *DAY],
        cwd=tmp_path,
        env={
            **os.environ,
            "SINERGYM_OUTPUT": str(output),
            "SINERGYM_EXPERIMENT": "seeds-0001",
            "SINERGYM_PROGRESS": str(progress),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "is Eplus-5zone-hot-" in done.stdout
    assert "the runner uploads the results" in done.stdout
    # --log_interval 1: Stable-Baselines3's table after each episode, and few lines beside.
    assert done.stdout.count("| rollout/ ") == 2
    assert len([line for line in done.stdout.splitlines() if line[0] not in "|-"]) < 20
    members = json.loads(progress.read_text())
    assert (members["episode"], members["timesteps"]) == (2, 2 * 96)
    assert (output / "model.zip").is_file()
    assert (output / "best_model" / "best_model.zip").is_file()
    assert list((output / "tensorboard").glob("events.*"))
    present = {path.name for path in tmp_path.iterdir()}
    assert present == {"DRL_battery.py", "output", "progress.json"}


@pytest.mark.slow
def test_sigterm_ends_a_training_with_its_model_saved(
    tmp_path: Path, until: Callable[..., Any]
) -> None:
    """Exit code 143, also with an evaluation under way; no process is left."""
    output, progress = tmp_path / "output", tmp_path / "progress.json"
    training = subprocess.Popen(
        [*COMMAND, *f"-env {CONTINUOUS} -ep 500 -eval -evalf 1 -evall 50 -n 96".split(), *DAY],
        cwd=tmp_path,
        env={**os.environ, "SINERGYM_OUTPUT": str(output), "SINERGYM_PROGRESS": str(progress)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:

        def members() -> dict[str, Any]:
            return dict(json.loads(progress.read_text())) if progress.exists() else {}

        until(lambda: members().get("episode", 0) >= 1, 100)
        (evaluation,) = until(lambda: evaluations_of(training.pid), 20)
        training.send_signal(signal.SIGTERM)
        said, _ = training.communicate(timeout=25)
    finally:
        training.kill()

    assert training.returncode == 143
    assert "stopped by SIGTERM" in said
    assert (output / "model.zip").is_file()
    assert not Path(f"/proc/{evaluation}").exists()
