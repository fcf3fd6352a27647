"""Run experiments of a sweep again: those that failed, those that never were, or those named.

    marker away  ->  records `again`, by compare-and-swap  ->  instances  (->  commands over SSH)

The rules are docs/contract.md's, section 2. The record decides: of two laptops that ask at once,
one writes `again`, and its instance claims the one new attempt. Killed in between, the experiment
waits as `again`; `launching.resume`, or the same call once more, goes on.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gcloud_ops.bucket import ask_again
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch, Record
from gcloud_ops.dispatch import AT_ONCE
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.finishing import remove_marker
from gcloud_ops.launching import LaunchEvent, NothingToDo, Reopened, bring_up, check_key
from gcloud_ops.model import ExperimentStatus, Observation, Snapshot
from gcloud_ops.raising import PATIENCE
from gcloud_ops.sweeps import SweepWatch, select

__all__ = ["choose", "rerun"]

_WRITERS: Final = 16


def rerun(
    name: str,
    clients: Clients,
    *,
    experiments: Collection[str] = (),
    failed: bool = False,
    missing: bool = False,
    bucket: str | None = None,
    patience: float = PATIENCE,
    at_once: int = AT_ONCE,
) -> Iterator[LaunchEvent]:
    """Have experiments run again, telling each step; ends with `Launched`, or `NothingToDo`.

    Those that go on are never touched. An experiment that goes on from a checkpoint does so.

    Args:
        name: The sweep's.
        clients: The cloud.
        experiments: Which, as `sweeps.select` takes them, also those that finished.
        failed: All that ended otherwise than well: failed, lost or cancelled.
        missing: All that have neither a record nor an instance: they never began.
        bucket: Where it is; None: the setting's.
        patience: As of `launching.launch`.
        at_once: As of `launching.launch`.

    Raises:
        NotFound: There is no such sweep in the bucket, or no such experiment in it.
        InvalidRequest: Nothing is chosen, or an experiment that is named goes on.
        GcloudOpsError: As `raising.raise_members` does. What there is stays.
    """
    if not experiments and not failed and not missing:
        raise InvalidRequest(
            f"sweep {name}: which experiments are to run again?",
            resource=f"sweep {name}",
            hint="name them, or say --failed or --missing",
        )
    looking = SweepWatch(name, clients, bucket=bucket)
    seen = looking.refresh()
    chosen = choose(seen, experiments=experiments, failed=failed, missing=missing)
    if not chosen:
        counts = ", ".join(f"{count} {status}" for status, count in seen.counts.items())
        yield NothingToDo(why=f"none of its experiments is of that kind: {counts}")
        return
    manifest = looking.manifest
    if seen.group_exists and manifest.dispatch is Dispatch.SSH:
        check_key(clients, manifest)
    # First of all: who finds all records final while we write ours must not find it settled.
    remove_marker(clients, looking.bucket, manifest)

    def reopen(row: Observation) -> Record | None:
        if row.record is None or not row.record.is_final:
            return row.record
        return ask_again(clients, looking.bucket, manifest.sweep, row.record)

    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="rerun") as pool:
        records = list(pool.map(reopen, chosen))
    ours = [
        row
        for row, now in zip(chosen, records, strict=True)
        if row.record is None or now is not None
    ]
    reopened = tuple(row.id for row in ours if row.record is not None and row.record.is_final)
    if reopened:
        # Again: in between somebody may have taken the sweep for ended once more.
        remove_marker(clients, looking.bucket, manifest)
        yield Reopened(experiments=reopened)
    if not ours:
        yield NothingToDo(why="somebody else has them run again at this moment")
        return
    # An instance whose attempt has ended may not have removed itself yet.
    leaving = {row.id: row.record.instance_id for row in ours if row.record is not None}
    yield from bring_up(
        clients,
        manifest,
        [row.experiment for row in ours],
        bucket=looking.bucket,
        leaving=leaving,
        patience=patience,
        at_once=at_once,
    )


def choose(
    seen: Snapshot,
    *,
    experiments: Collection[str] = (),
    failed: bool = False,
    missing: bool = False,
) -> tuple[Observation, ...]:
    """The experiments that are meant, in their order; each of them can run again.

    Raises:
        NotFound: The sweep has no such experiment.
        InvalidRequest: An experiment that is named goes on.
    """
    named = set(select(seen, experiments)) if experiments else set[str]()
    for row in seen.rows:
        if row.id in named and not _has_stopped(row):
            raise InvalidRequest(
                f"{row.id}: is {row.status}, and runs only once at a time",
                resource=f"experiment {row.id}",
                hint=f"cancel it first: gcloud-ops sweep cancel {seen.name} {row.id}",
            )
    return tuple(
        row
        for row in seen.rows
        if row.id in named
        or (failed and row.status.is_final and not row.status.is_good and _has_stopped(row))
        or (missing and row.record is None and row.member is None)
    )


def _has_stopped(row: Observation) -> bool:
    """Whether nothing goes on: its record is final, or asks for a rerun; or there is no instance.

    Lost by its looks alone, an instance that is there may still say a word.
    """
    if row.record is not None and (row.record.is_final or row.record.state == "again"):
        return True
    return row.member is None and row.status in {
        ExperimentStatus.PENDING,
        ExperimentStatus.LOST,
    }
