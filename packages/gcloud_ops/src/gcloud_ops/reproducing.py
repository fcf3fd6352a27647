"""Launch a sweep again as it was: the same commands, on the same machines, of the same image.

    manifest  ──>  Sweep: all that a launch can repeat
              └─>  remarks: what nobody can, or what may differ all the same

Pure. A training is the same to the last digit where image, machine type, seed and number of
threads are; without a seed it never is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from gcloud_ops.contract import Manifest, Record
from gcloud_ops.model import Sweep
from gcloud_ops.results import seed_of

__all__ = ["as_launched", "remarks"]


def as_launched(manifest: Manifest, name: str, *, bucket: str | None = None) -> Sweep:
    """The sweep that the manifest is of, under another name.

    Its image is taken by its digest, where that was known.

    Args:
        manifest: Of the sweep that was.
        name: Of the one to come.
        bucket: Where it is to be; None: the setting's.

    Raises:
        InvalidRequest: The name can't be.
    """
    image, machine = manifest.image, manifest.machine
    regional = len(manifest.zones) > 0
    described = Sweep.of_commands(
        name,
        [experiment.command for experiment in manifest.experiments],
        template=manifest.template,
        zone=None if regional else manifest.zone,
        bucket=bucket,
        dispatch=manifest.dispatch,
    )
    return replace(
        described,
        zones=manifest.zones,
        machine_types=machine.types,
        spot=machine.spot,
        retry=manifest.retry,
        max_hours=None if manifest.seconds is None else manifest.seconds / 3600,
        alert_each=manifest.alert_each,
        image=image.fixed if image is not None and image.digest else None,
    )


def remarks(manifest: Manifest, records: Mapping[str, Record], *, bucket: str) -> Iterator[str]:
    """What a reader should know who wants the same results, a line for each.

    Args:
        manifest: Of the sweep that was.
        records: What its runners said, by experiment.
        bucket: Where it is.
    """
    seedless = [one.id for one in manifest.experiments if seed_of(one.command) is None]
    if seedless:
        yield (
            f"{len(seedless)} of {len(manifest.experiments)} commands have no --seed: "
            "their results will differ"
        )
    image, source = manifest.image, manifest.source
    if image is None or not image.digest:
        name = image.name if image else "the template's"
        yield f"the image's digest was not known: {name} may be another one by now"
    versions = sorted(
        {
            ", ".join(f"{name} {number}" for name, number in sorted(record.versions.items()))
            for record in records.values()
            if record.versions
        }
    )
    if versions:
        yield f"it ran with {'; and with '.join(versions)}"
    if source is not None:
        on = f" on {source.branch}" if source.branch else ""
        changes = f", with the changes in gs://{bucket}/{manifest.sweep}/source.diff"
        yield f"it was launched from commit {source.commit}{on}{changes if source.dirty else ''}"
