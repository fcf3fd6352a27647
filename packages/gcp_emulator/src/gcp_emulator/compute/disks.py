"""Disks over REST (``disks``): those that were made with instances.

https://cloud.google.com/compute/docs/reference/rest/v1/disks. A disk goes with its instance, or
stays if it is not to be deleted automatically; what stays costs, until somebody deletes it.
"""

from aiohttp import web

from gcp_emulator.compute.nouns import Disk
from gcp_emulator.compute.operations import Operation, Operations
from gcp_emulator.compute.rest import Rest, Shelf
from gcp_emulator.compute.state import State
from gcp_emulator.compute.wording import in_use
from gcp_emulator.replies import Json, api


class Disks:
    """The routes of ``compute.disks``."""

    def __init__(self, state: State, operations: Operations) -> None:
        self._state = state
        self._operations = operations
        self._shelf = Shelf(
            collection="disks",
            noun="disk",
            place="zones/{zone}",
            found=lambda: state.disks,
            show=self._show,
        )

    def add_routes(self, rest: Rest) -> None:
        """Add them to the application."""
        rest.shelve(self._shelf, aggregates=[self._shelf])
        rest.change("DELETE", self._shelf.path + "/{name}", self.delete)

    @api("compute.disks.delete")
    def delete(self, request: web.Request, body: Json) -> Operation:
        """Delete a disk that no instance has."""
        del body
        state, disk = self._state, self._shelf.here(request, self._state)
        path = state.path(disk.place, "disks", disk.name)
        if disk.user is not None:
            raise in_use("disk", path, state.path(disk.place, "instances", disk.user.name))
        state.remove_disk(disk)
        link = state.link(disk.place, "disks", disk.name)
        return self._operations.start("delete", place=disk.place, target=link, target_id=disk.id)

    def _show(self, disk: Disk) -> Json:
        state = self._state
        body: Json = {
            "kind": "compute#disk",
            "id": disk.id,
            "creationTimestamp": disk.created,
            "name": disk.name,
            "sizeGb": str(disk.size_gb),
            "zone": f"{state.root}/{disk.place}",
            "status": "READY",
            "sourceImage": disk.image,
            "type": f"{state.root}/{disk.place}/diskTypes/{disk.type}",
            "selfLink": state.link(disk.place, "disks", disk.name),
            "physicalBlockSizeBytes": "4096",
            "labels": disk.labels,
        }
        if disk.user is not None:
            body["users"] = [state.link(disk.place, "instances", disk.user.name)]
        return body
