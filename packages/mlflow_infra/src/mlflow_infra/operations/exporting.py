"""All that the tracking server knows, as JSON lines: what any program can read later.

    experiments.jsonl   each MLflow experiment, also deleted ones, as the REST API gives it
    runs.jsonl          each run: its `info`, and `data` with params, tags and last metrics
    metrics.jsonl       each point of each metric: run_id, key, value, timestamp, step
    artifacts/RUN/...   the runs' files, where they are asked for

Everything is read in pages and written at once: the server may hold more than this machine.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from gcloud_ops.errors import GcloudOpsError, InvalidRequest
from gcloud_ops.text import one_line
from mlflow_infra.operations.tracking import Tracking

__all__ = ["Exported", "export"]

_API = "/api/2.0/mlflow"
_EXPERIMENTS_A_PAGE: Final = 1000
_RUNS_A_PAGE: Final = 100  # each with up to 1,000 metrics, params and tags
_POINTS_A_PAGE: Final = 10_000
_FILES = ("experiments", "runs", "metrics")
_UNUSUAL = re.compile(r'[\x00-\x1f\x7f%:*?"<>|\\]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to."""

    folder: Path
    experiments: int
    runs: int
    points: int
    """Of metrics."""
    artifacts: int
    """Files."""
    failed: int
    """Files that could not be brought."""


def export(
    server: Tracking,
    folder: Path,
    *,
    artifacts: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write everything into a folder that is empty or not there yet.

    The files get their names when they are complete.

    Args:
        server: The server, as a user who may read all: the admin.
        folder: Where to.
        artifacts: Also bring the runs' files.
        tell: Takes a line for each experiment, and for each file that can't be brought.

    Raises:
        InvalidRequest: The folder can't be made, or has something in it.
        GcloudOpsError: The server refuses, or doesn't answer.
    """
    _make_empty(folder)
    counts = dict.fromkeys(("experiments", "runs", "points", "artifacts", "failed"), 0)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / f"{name}.jsonl.part").open("w", encoding="utf-8"))
            for name in _FILES
        }
        for experiment in _pages(
            server,
            f"{_API}/experiments/search",
            "experiments",
            view_type="ALL",
            max_results=_EXPERIMENTS_A_PAGE,
        ):
            _write(files["experiments"], experiment)
            counts["experiments"] += 1
            before = counts["runs"]
            for run in _pages(
                server,
                f"{_API}/runs/search",
                "runs",
                experiment_ids=[experiment["experiment_id"]],
                run_view_type="ALL",
                max_results=_RUNS_A_PAGE,
            ):
                _write(files["runs"], run)
                counts["runs"] += 1
                counts["points"] += _write_metrics(server, run, files["metrics"])
                if artifacts:
                    brought, failed = _bring_artifacts(server, run, folder, tell)
                    counts["artifacts"] += brought
                    counts["failed"] += failed
            tell(f"{one_line(str(experiment.get('name')))}: {counts['runs'] - before} runs")
    for name in _FILES:
        (folder / f"{name}.jsonl.part").rename(folder / f"{name}.jsonl")
    return Exported(folder=folder, **counts)


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidRequest(
                f"{folder}: there is something in it", hint="name a new or empty folder"
            )
    except OSError as error:
        raise InvalidRequest(f"{folder}: {error.strerror}", resource=str(folder)) from error


def _pages(
    server: Tracking, path: str, member: str, **request: object
) -> Iterator[Mapping[str, Any]]:
    """All entries of a search, a page at a time."""
    token = ""
    while True:
        reply = server.post(path, {**request, **({"page_token": token} if token else {})})
        yield from reply.get(member, [])
        token = str(reply.get("next_page_token") or "")
        if not token:
            return


def _write(file: IO[str], content: Mapping[str, Any]) -> None:
    file.write(json.dumps(content, ensure_ascii=False) + "\n")


def _write_metrics(server: Tracking, run: Mapping[str, Any], file: IO[str]) -> int:
    run_id = str(run["info"]["run_id"])
    count = 0
    for key in [str(it["key"]) for it in run.get("data", {}).get("metrics", [])]:
        token = ""
        while True:
            reply = server.get(
                f"{_API}/metrics/get-history",
                run_id=run_id,
                metric_key=key,
                max_results=_POINTS_A_PAGE,
                **({"page_token": token} if token else {}),
            )
            for point in reply.get("metrics", []):
                _write(file, {"run_id": run_id, **point})
                count += 1
            token = str(reply.get("next_page_token") or "")
            if not token:
                break
    return count


# ---------------------------------------------------------------------------- artifacts


def _bring_artifacts(
    server: Tracking, run: Mapping[str, Any], folder: Path, tell: Callable[[str], None]
) -> tuple[int, int]:
    """Download a run's files; how many came, and how many could not."""
    run_id = str(run["info"]["run_id"])
    root = folder / "artifacts" / _part(run_id)
    brought = failed = 0
    waiting = [""]
    try:
        while waiting:
            for path, is_folder in _listing(server, run_id, waiting.pop()):
                if is_folder:
                    waiting.append(path)
                    continue
                try:
                    _download(server, run_id, path, root)
                    brought += 1
                except (GcloudOpsError, OSError) as error:
                    failed += 1
                    tell(f"{run_id}: {one_line(path)}: {one_line(str(error))}")
    except GcloudOpsError as error:  # a run whose artifacts are elsewhere has no listing here
        failed += 1
        tell(f"{run_id}: its artifacts can't be listed: {one_line(str(error))}")
    return brought, failed


def _listing(server: Tracking, run_id: str, path: str) -> Iterator[tuple[str, bool]]:
    token = ""
    while True:
        parameters = {"path": path} if path else {}
        parameters |= {"page_token": token} if token else {}
        reply = server.get(f"{_API}/artifacts/list", run_id=run_id, **parameters)
        for entry in reply.get("files", []):
            yield str(entry["path"]), bool(entry.get("is_dir"))
        token = str(reply.get("next_page_token") or "")
        if not token:
            return


def _download(server: Tracking, run_id: str, path: str, root: Path) -> None:
    target = _inside(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    with unfinished.open("wb") as file:
        for chunk in server.download("/get-artifact", run_id=run_id, path=path):
            file.write(chunk)
    unfinished.rename(target)


def _inside(root: Path, path: str) -> Path:
    """Where a file of the server's goes: never outside of the folder.

    Raises:
        InvalidRequest: Its path leads elsewhere.
    """
    parts = PurePosixPath(path).parts
    if not parts or posixpath.isabs(path) or any(part in {"..", "."} for part in parts):
        raise InvalidRequest(f"{one_line(path)}: not a path inside of a run's artifacts")
    return root.joinpath(*(_part(part) for part in parts))


def _part(name: str) -> str:
    """A name that every file system takes: what some don't is written as %XX."""
    return _UNUSUAL.sub(lambda found: f"%{ord(found[0]):02X}", name)
