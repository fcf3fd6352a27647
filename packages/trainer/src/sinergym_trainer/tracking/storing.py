"""Files and the model into an MLflow run, by a short-lived process of its own.

Only MLflow itself knows all stores of artifacts. It costs some hundred MB when it logs a model:
memory that the training's process does not have to have, and gets back at once.
"""

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from sinergym_trainer.errors import TrainerError, one_line
from sinergym_trainer.process import cores
from sinergym_trainer.tracking.servers import quiet_mlflow
from sinergym_trainer.tracking.spool import Head

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

MODEL = "model"
"""The stored model's name: `mlflow.pyfunc.load_model("runs:/<run id>/model")`."""

_NEEDED = ("mlflow", "numpy", "gymnasium", "torch", "stable-baselines3")
_MODULES = ("stable_baselines3", "sb3_contrib")
_PROGRAM = "from sinergym_trainer.tracking.storing import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A saved model, and what MLflow's signature of it needs."""

    path: Path
    """`model.zip`."""
    normalization: Path | None
    """`normalization.npz`, if the model sees normalized observations."""
    module: str
    algorithm: str
    """Its class, in `module`."""
    observation: tuple[str, tuple[int, ...]]
    """Type (NumPy's name) and shape of one observation."""
    action: tuple[str, tuple[int, ...]]

    @classmethod
    def of(
        cls, model: "BaseAlgorithm", path: Path, normalization: Path | None = None
    ) -> "ServedModel":
        """Describe a model that was saved at `path`."""
        spaces = [
            (str(space.dtype), tuple(int(size) for size in space.shape or ()))
            for space in (model.observation_space, model.action_space)
        ]
        return cls(
            path=path,
            normalization=normalization,
            module=type(model).__module__.partition(".")[0],
            algorithm=type(model).__name__,
            observation=spaces[0],
            action=spaces[1],
        )

    def as_json(self, folder: Path) -> dict[str, Any]:
        """The same in JSON, with files relative to a folder."""
        return {
            "path": os.path.relpath(self.path, folder),
            "normalization": self.normalization and os.path.relpath(self.normalization, folder),
            "module": self.module,
            "algorithm": self.algorithm,
            "observation": self.observation,
            "action": self.action,
        }


def start(uri: str, run_id: str, folder: Path, head: Head) -> subprocess.Popen[str]:
    """Begin to store the head's artifacts and model, in a new process."""
    job = {
        "uri": uri,
        "run_id": run_id,
        "folder": str(folder.absolute()),
        "artifacts": list(head.artifacts),
        "served": head.served,
    }
    with cores.all_for_a_child():
        child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    # Not in its arguments: an address may have a password in it.
    with contextlib.suppress(BrokenPipeError), cast("IO[str]", child.stdin) as stdin:
        stdin.write(json.dumps(job))
    return child


def follow(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Wait for the process; yield what is left of the job in the head, whenever that changes.

    Raises:
        TrainerError: something could not be stored.
    """
    problem = ""
    with cast("IO[str]", child.stdout) as answers:
        for line in answers:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and "problem" in said:
                problem = str(said["problem"])
            elif isinstance(said, dict) and "left" in said:
                yield dict(said["left"])
    if child.wait() or problem:
        raise TrainerError(problem or f"storing artifacts ended with exit code {child.returncode}")


def main() -> None:
    """Do the job on standard input; say what is left on standard output, a line each."""
    job = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever MLflow prints is no answer
    try:
        for left in _store(job):
            answers.write(json.dumps({"left": left}) + "\n")
            answers.flush()
    except Exception as error:
        answers.write(json.dumps({"problem": one_line(error)}) + "\n")
        answers.flush()
        sys.exit(1)


def _store(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    quiet_mlflow()
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"  # the working directory is no project of ours
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient, set_tracking_uri

    set_tracking_uri(job["uri"])
    client = MlflowClient(job["uri"])
    folder = Path(job["folder"])
    left = list(job["artifacts"])
    while left:
        path = _within(folder, left[0])
        if path.is_dir():
            client.log_artifacts(job["run_id"], str(path), path.name)
        elif path.exists():
            client.log_artifact(job["run_id"], str(path))
        left.pop(0)
        yield {"artifacts": left}
    if job["served"]:
        if _within(folder, job["served"]["path"]).exists():
            _store_model(client, job["run_id"], folder, job["served"])
        yield {"served": None}


def _store_model(client: Any, run_id: str, folder: Path, served: Mapping[str, Any]) -> None:
    """Log the model with signature and requirements: nothing is inferred, nothing is loaded."""
    import mlflow
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    if served["module"] not in _MODULES:
        raise TrainerError(f"{served['module']!r} is no package of algorithms")

    def schema(name: str) -> Schema:
        kind, shape = served[name]
        return Schema([TensorSpec(np.dtype(kind), (-1, *shape))])

    artifacts = {"model": str(_within(folder, served["path"]))}
    if served["normalization"]:
        artifacts["normalization"] = str(_within(folder, served["normalization"]))
    # A model belongs to MLflow's current experiment, not to that of its run.
    experiment_id = client.get_run(run_id).info.experiment_id
    mlflow.set_experiment(experiment_id=experiment_id)
    found = client.search_logged_models([experiment_id], f"name = '{MODEL}'")
    earlier = [model.model_id for model in found if model.source_run_id == run_id]
    with tempfile.TemporaryDirectory(prefix="sinergym-model-") as scratch:
        # Not as `model_config`: MLflow would add that to the run's parameters.
        algorithm = Path(scratch) / "algorithm.txt"
        algorithm.write_text(f"{served['module']}:{served['algorithm']}", encoding="utf-8")
        Model.log(
            artifact_path=None,
            name=MODEL,
            run_id=run_id,
            flavor=mlflow.pyfunc,
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={**artifacts, "algorithm": str(algorithm)},
            signature=ModelSignature(inputs=schema("observation"), outputs=schema("action")),
            pip_requirements=_requirements(served["module"]),
        )
    for model_id in earlier:  # of an attempt that was resumed, or not whole
        client.delete_logged_model(model_id)


def _within(folder: Path, name: str) -> Path:
    """A file of the folder. What `sync` reads comes from outside: it names no others."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise TrainerError(f"{name} is not in {folder}")
    return path


def _requirements(module: str) -> list[str]:
    packages = [*_NEEDED, *(["sb3-contrib"] if module == "sb3_contrib" else [])]
    # Without the local part, such as `+cpu`: no index has versions with it.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in packages]
