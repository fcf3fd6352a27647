"""The Cloud SQL Admin API, v1 (https://cloud.google.com/sql/docs/postgres/admin-api/rest).

Instances, their databases, users, backups and operations; behind each instance is a real
PostgreSQL. What it does not do: TLS, point-in-time recovery (it is only noted), IAM users,
replicas, and the week for which Google keeps the name of a deleted instance.
"""

import asyncio
import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from gcp_emulator.iam.callers import is_permitted
from gcp_emulator.replies import GoogleError, Json, api, json_body, json_response
from gcp_emulator.sql.content import (
    Database,
    create_database,
    databases,
    delete_database,
    delete_user,
    no_database,
    no_user,
    set_password,
    users,
)
from gcp_emulator.sql.export import export, parse_export
from gcp_emulator.sql.instances import Instance, Instances
from gcp_emulator.sql.operations import Operation, Operations, timestamp
from gcp_emulator.sql.scram import scram_verifier
from gcp_emulator.sql.settings import check_name, merged, new_settings, region_of, version_of

__all__ = ["CloudSql"]

_INSTALLED: Final = "POSTGRES_18_6"
"""Every instance is run by the only PostgreSQL there is, whatever version it was asked for."""


class CloudSql:
    """Cloud SQL, from `start` to `close`.

    Args:
        folder: Where instances are kept.
        project: The only project.
        number: Its number.
        zone: Where instances are made that name no region.
        endpoint: The cloud's address, once it listens.
        environment: Variables of the servers' processes, such as the cloud's mark.
        create_seconds: How long the making of an instance takes, besides making its server.
        operation_seconds: How long the shortest operation takes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        number: str,
        zone: str,
        endpoint: Callable[[], str],
        environment: Mapping[str, str],
        create_seconds: float = 1.0,
        operation_seconds: float = 0.05,
    ) -> None:
        self._project = project
        self._number = number
        self._zone = zone
        self._endpoint = endpoint
        self._create_seconds = create_seconds
        self._instances = Instances(folder, environment)
        self._operations = Operations(project, endpoint, seconds=operation_seconds)

    async def start(self) -> None:
        """Bring up the instances that are kept.

        Raises:
            ValueError: What is kept can't be read; the message names the file.
        """
        await self._instances.start()

    async def close(self) -> None:
        """End all servers, within 10 seconds."""
        await self._operations.close()
        await self._instances.close()

    def add_routes(self, app: web.Application) -> None:
        """Add the routes of the API, and the emulator's own ``/emulator/sql/PROJECT/INSTANCE``."""
        top = "/v1/projects/{project}"
        all_, one = f"{top}/instances", f"{top}/instances/{{instance}}"
        app.add_routes(
            [
                web.get(all_, self.list),
                web.post(all_, self.insert),
                web.get(one, self.get),
                web.patch(one, self.patch),
                web.delete(one, self.delete),
                web.post(f"{one}/restart", self.restart),
                web.post(f"{one}/restoreBackup", self.restore_backup),
                web.post(f"{one}/export", self.export),
                web.get(f"{one}/connectSettings", self.connect_settings),
                web.get(f"{one}/databases", self.list_databases),
                web.post(f"{one}/databases", self.insert_database),
                web.get(f"{one}/databases/{{database}}", self.get_database),
                web.delete(f"{one}/databases/{{database}}", self.delete_database),
                web.get(f"{one}/users", self.list_users),
                web.post(f"{one}/users", self.insert_user),
                web.put(f"{one}/users", self.update_user),
                web.delete(f"{one}/users", self.delete_user),
                web.get(f"{one}/users/{{name}}", self.get_user),
                web.get(f"{one}/backupRuns", self.list_backups),
                web.post(f"{one}/backupRuns", self.insert_backup),
                web.get(f"{one}/backupRuns/{{id}}", self.get_backup),
                web.delete(f"{one}/backupRuns/{{id}}", self.delete_backup),
                web.get(f"{top}/operations", self.list_operations),
                web.get(f"{top}/operations/{{operation}}", self.get_operation),
                web.get("/emulator/sql/{project}/{instance}", self.where),
            ]
        )

    @api("sqladmin.instances.list")
    async def list(self, request: web.Request) -> web.Response:
        """All instances."""
        self._check(request, "instances.list")
        if request.query.get("filter"):
            raise GoogleError(501, "notImplemented", "The local cloud does not filter instances")
        shown = [self._shown(one) for one in self._instances.list()]
        return _list("sql#instancesList", *_page(request, shown))

    @api("sqladmin.instances.insert")
    async def insert(self, request: web.Request) -> web.Response:
        """Make an instance."""
        self._check(request, "instances.create")
        body = await json_body(request)
        name = check_name(body.get("name"), self._project)
        verifier = _verifier(body["rootPassword"]) if body.get("rootPassword") else None
        resource = self._new_resource(name, body)
        if name in self._instances:
            raise GoogleError(
                409,
                "instanceAlreadyExists",
                "The Cloud SQL instance already exists. When you delete an instance, you can't"
                " reuse the name of the deleted instance until one week from the deletion date.",
            )
        instance = self._instances.add(resource)

        async def work() -> None:
            await asyncio.sleep(self._create_seconds)
            await self._instances.create(instance, verifier=verifier)

        return _answer(self._operations.start("CREATE", name, work))

    @api("sqladmin.instances.get")
    async def get(self, request: web.Request) -> web.Response:
        """One instance."""
        return json_response(self._shown(self._named(request, "instances.get")))

    @api("sqladmin.instances.patch")
    async def patch(self, request: web.Request) -> web.Response:
        """Merge settings into an instance's."""
        instance = self._named(request, "instances.update")
        body = await json_body(request)
        settings = merged(instance.resource["settings"], body.get("settings", {}))
        operation = self._operations.start(
            "UPDATE", instance.name, lambda: self._instances.change(instance, settings)
        )
        return _answer(operation)

    @api("sqladmin.instances.delete")
    async def delete(self, request: web.Request) -> web.Response:
        """Delete an instance with its data and backups, unless it is protected."""
        instance = self._named(request, "instances.delete")
        if instance.is_protected:
            raise GoogleError(
                400,
                "invalid",
                "The instance is protected. Please disable the deletion protection and try again."
                " To disable deletion protection, update the instance settings with"
                " deletionProtectionEnabled set to false.",
            )
        operation = self._operations.start(
            "DELETE", instance.name, lambda: self._instances.delete(instance)
        )
        return _answer(operation)

    @api("sqladmin.instances.restart")
    async def restart(self, request: web.Request) -> web.Response:
        """Restart an instance's server."""
        instance = self._running(request, "instances.restart")
        operation = self._operations.start(
            "RESTART", instance.name, lambda: self._instances.restart(instance)
        )
        return _answer(operation)

    @api("sqladmin.instances.restoreBackup")
    async def restore_backup(self, request: web.Request) -> web.Response:
        """Replace an instance's data by a backup, its own or another instance's."""
        instance = self._running(request, "instances.restoreBackup")
        asked = (await json_body(request)).get("restoreBackupContext")
        if not isinstance(asked, dict) or not str(asked.get("backupRunId", "")).isdecimal():
            raise _invalid("Invalid request: Missing parameter: restoreBackupContext.backupRunId.")
        source = self._instances.get(str(asked.get("instanceId") or instance.name))
        run = _backup(source, str(asked["backupRunId"]))
        if run["status"] != "SUCCESSFUL":
            raise _invalid("Invalid request: The backup run is not successful.")
        folder = source.backup_folder(run["id"])
        operation = self._operations.start(
            "RESTORE_VOLUME", instance.name, lambda: self._instances.restore(instance, folder)
        )
        return _answer(operation)

    @api("sqladmin.instances.export")
    async def export(self, request: web.Request) -> web.Response:
        """Write a database as SQL into a bucket."""
        instance = self._running(request, "instances.export")
        asked = parse_export(await json_body(request))
        operation = self._operations.start(
            "EXPORT", instance.name, lambda: export(instance.server, asked, self._endpoint())
        )
        return _answer(operation)

    @api("sqladmin.connect.get")
    async def connect_settings(self, request: web.Request) -> web.Response:
        """What a connector needs to know.

        Google asks for ``instances.connect`` a call later, for the certificate that is not needed
        here.
        """
        self._named(request, "instances.get")
        resource = self._running(request, "instances.connect").resource
        names = ("ipAddresses", "serverCaCert", "region", "databaseVersion", "backendType")
        shown = {name: resource[name] for name in names}
        return json_response({"kind": "sql#connectSettings", **shown})

    async def where(self, request: web.Request) -> web.Response:
        """Where the stand-in for Google's proxy finds the server of an instance."""
        instance = self._instances.get(request.match_info["instance"])
        if request.match_info["project"] != self._project:
            raise _not_authorized("cloudsql.instances.connect", instance.name)
        return json_response({"socket_folder": str(instance.server.sockets)})

    @api("sqladmin.databases.list")
    async def list_databases(self, request: web.Request) -> web.Response:
        """The databases of an instance."""
        instance = self._running(request, "databases.list")
        found = await databases(instance.server)
        return _list("sql#databasesList", [self._database(instance, one) for one in found])

    @api("sqladmin.databases.insert")
    async def insert_database(self, request: web.Request) -> web.Response:
        """Make a database."""
        instance = self._running(request, "databases.create")
        body = await json_body(request)
        charset, collation = str(body.get("charset", "")), str(body.get("collation", ""))
        operation = await self._operations.carry_out(
            "CREATE_DATABASE",
            instance.name,
            lambda: create_database(
                instance.server, body.get("name"), charset=charset, collation=collation
            ),
        )
        return _answer(operation)

    @api("sqladmin.databases.get")
    async def get_database(self, request: web.Request) -> web.Response:
        """One database."""
        instance = self._running(request, "databases.get")
        for one in await databases(instance.server):
            if one.name == request.match_info["database"]:
                return json_response(self._database(instance, one))
        raise no_database()

    @api("sqladmin.databases.delete")
    async def delete_database(self, request: web.Request) -> web.Response:
        """Drop a database."""
        instance = self._running(request, "databases.delete")
        name = request.match_info["database"]
        operation = await self._operations.carry_out(
            "DELETE_DATABASE", instance.name, lambda: delete_database(instance.server, name)
        )
        return _answer(operation)

    @api("sqladmin.users.list")
    async def list_users(self, request: web.Request) -> web.Response:
        """The users of an instance."""
        instance = self._running(request, "users.list")
        found = await users(instance.server)
        return _list("sql#usersList", [self._user(instance, name) for name in found])

    @api("sqladmin.users.get")
    async def get_user(self, request: web.Request) -> web.Response:
        """One user."""
        instance = self._running(request, "users.get")
        name = request.match_info["name"]
        if name not in await users(instance.server):
            raise no_user()
        return json_response(self._user(instance, name))

    @api("sqladmin.users.insert")
    async def insert_user(self, request: web.Request) -> web.Response:
        """Make a user; one that exists gets the password."""
        instance = self._running(request, "users.create")
        body = await json_body(request)
        return await self._set_password(instance, body, body.get("name"), make=True)

    @api("sqladmin.users.update")
    async def update_user(self, request: web.Request) -> web.Response:
        """Give a user another password."""
        instance = self._running(request, "users.update")
        body = await json_body(request)
        name = request.query.get("name") or body.get("name")
        return await self._set_password(instance, body, name, make=False)

    @api("sqladmin.users.delete")
    async def delete_user(self, request: web.Request) -> web.Response:
        """Drop a user."""
        instance = self._running(request, "users.delete")
        name = request.query.get("name", "")
        operation = await self._operations.carry_out(
            "DELETE_USER", instance.name, lambda: delete_user(instance.server, name)
        )
        return _answer(operation)

    @api("sqladmin.backupRuns.list")
    async def list_backups(self, request: web.Request) -> web.Response:
        """The backups of an instance, the newest first."""
        instance = self._named(request, "backupRuns.list")
        runs = [*reversed(instance.backups.values())]
        return _list("sql#backupRunsList", *_page(request, runs))

    @api("sqladmin.backupRuns.insert")
    async def insert_backup(self, request: web.Request) -> web.Response:
        """Back up an instance: a consistent copy of everything in it, while it runs."""
        instance = self._running(request, "backupRuns.create")
        body = await json_body(request)
        number = str(max([int(n) + 1 for n in instance.backups] + [time.time_ns() // 1_000_000]))
        run: Json = {
            "kind": "sql#backupRun",
            "id": number,
            "instance": instance.name,
            "status": "ENQUEUED",
            "type": "ON_DEMAND",
            "backupKind": "SNAPSHOT",
            "databaseVersion": instance.resource["databaseVersion"],
            "location": instance.resource["region"],
            "enqueuedTime": timestamp(),
            "selfLink": f"{self._link(instance)}/backupRuns/{number}",
        }
        if body.get("description"):
            run["description"] = str(body["description"])
        operation = self._operations.start(
            "BACKUP_VOLUME", instance.name, lambda: self._instances.back_up(instance, run)
        )
        instance.backups[number] = run
        operation.more["backupContext"] = {"kind": "sql#backupContext", "backupId": number}
        return _answer(operation)

    @api("sqladmin.backupRuns.get")
    async def get_backup(self, request: web.Request) -> web.Response:
        """One backup."""
        instance = self._named(request, "backupRuns.get")
        return json_response(_backup(instance, request.match_info["id"]))

    @api("sqladmin.backupRuns.delete")
    async def delete_backup(self, request: web.Request) -> web.Response:
        """Delete a backup."""
        instance = self._named(request, "backupRuns.delete")
        number = _backup(instance, request.match_info["id"])["id"]
        operation = self._operations.start(
            "DELETE_BACKUP",
            instance.name,
            lambda: self._instances.delete_backup(instance, number),
        )
        return _answer(operation)

    @api("sqladmin.operations.list")
    async def list_operations(self, request: web.Request) -> web.Response:
        """Operations of an instance, or of all; the newest first."""
        self._check(request, "instances.list")
        found = self._operations.list(request.query.get("instance", ""))
        page, token = _page(request, found)
        return _list("sql#operationsList", [one.to_json() for one in page], token)

    @api("sqladmin.operations.get")
    async def get_operation(self, request: web.Request) -> web.Response:
        """One operation."""
        self._check(request, "instances.get")
        return _answer(self._operations.get(request.match_info["operation"]))

    def _check(self, request: web.Request, permission: str, instance: str = "") -> None:
        permission = f"cloudsql.{permission}"
        if request.match_info["project"] != self._project or not is_permitted(request, permission):
            raise _not_authorized(permission, instance or request.match_info["project"])

    def _named(self, request: web.Request, permission: str) -> Instance:
        name = request.match_info["instance"]
        self._check(request, permission, name)
        return self._instances.get(name)

    def _running(self, request: web.Request, permission: str) -> Instance:
        instance = self._named(request, permission)
        if instance.resource["state"] != "RUNNABLE" or not instance.server.is_running:
            raise _invalid("Invalid request: Invalid request since instance is not running.")
        return instance

    async def _set_password(
        self, instance: Instance, body: Json, name: object, *, make: bool
    ) -> web.Response:
        if body.get("type", "BUILT_IN") != "BUILT_IN":
            raise GoogleError(501, "notImplemented", "The local cloud has BUILT_IN users only")
        verifier = _verifier(body.get("password"))
        operation = await self._operations.carry_out(
            "CREATE_USER" if make else "UPDATE_USER",
            instance.name,
            lambda: set_password(instance.server, name, verifier, make=make),
        )
        return _answer(operation)

    def _new_resource(self, name: str, body: Json) -> Json:
        version = version_of(body)
        region = region_of(body, self._zone.rpartition("-")[0])
        here = self._zone.startswith(f"{region}-")
        zone = self._zone if here else f"{region}-b"
        settings = new_settings(body.get("settings"), zone=zone)
        print_ = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        return {
            "kind": "sql#instance",
            "name": name,
            "project": self._project,
            "region": region,
            "gceZone": zone,
            "databaseVersion": version,
            "databaseInstalledVersion": _INSTALLED,
            "instanceType": "CLOUD_SQL_INSTANCE",
            "backendType": "SECOND_GEN",
            "state": "PENDING_CREATE",
            "createTime": timestamp(),
            "connectionName": f"{self._project}:{region}:{name}",
            "serviceAccountEmailAddress": (
                f"p{self._number}-{print_[:6]}@gcp-sa-cloud-sql.iam.gserviceaccount.com"
            ),
            "ipAddresses": [{"type": "PRIMARY", "ipAddress": "127.0.0.1"}],
            # No `cert`: nothing here speaks TLS.
            "serverCaCert": {
                "kind": "sql#sslCert",
                "certSerialNumber": "0",
                "commonName": "CN=Google Cloud SQL Server CA",
                "instance": name,
                "sha1Fingerprint": print_,
            },
            "settings": settings,
        }

    def _shown(self, instance: Instance) -> Json:
        shown: Json = copy.deepcopy(instance.resource)
        text = json.dumps(shown, sort_keys=True).encode()
        return shown | {"etag": _etag(text), "selfLink": self._link(instance)}

    def _database(self, instance: Instance, one: Database) -> Json:
        return {
            "kind": "sql#database",
            "name": one.name,
            "charset": one.charset,
            "collation": one.collation,
            "instance": instance.name,
            "project": self._project,
            "etag": _etag(repr(one).encode()),
            "selfLink": f"{self._link(instance)}/databases/{one.name}",
        }

    def _user(self, instance: Instance, name: str) -> Json:
        return {
            "kind": "sql#user",
            "name": name,
            "host": "",
            "instance": instance.name,
            "project": self._project,
            "type": "BUILT_IN",
            "etag": _etag(name.encode()),
        }

    def _link(self, instance: Instance) -> str:
        return f"{self._endpoint()}/v1/projects/{self._project}/instances/{instance.name}"


def _backup(instance: Instance, number: str) -> Json:
    if number not in instance.backups:
        raise GoogleError(404, "backupRunDoesNotExist", "The backup run does not exist.")
    return instance.backups[number]


def _verifier(password: object) -> str:
    if not isinstance(password, str) or not password or "\0" in password:
        raise _invalid("Invalid request: Password cannot be empty for PostgreSQL users.")
    return scram_verifier(password)


def _etag(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _page[T](request: web.Request, found: Sequence[T]) -> tuple[Sequence[T], str]:
    """The asked page and the token of the next one."""
    size, token = request.query.get("maxResults", "0"), request.query.get("pageToken", "0")
    if not (size.isdecimal() and token.isdecimal()):
        raise _invalid("Invalid value for maxResults or pageToken.")
    first, limit = int(token), int(size) or 500
    more = len(found) > first + limit
    return found[first : first + limit], str(first + limit) if more else ""


def _list(kind: str, items: Sequence[Json], token: str = "") -> web.Response:
    shown: Json = {"kind": kind}
    if items:
        shown["items"] = [*items]
    if token:
        shown["nextPageToken"] = token
    return json_response(shown)


def _answer(operation: Operation) -> web.Response:
    return json_response(operation.to_json())


def _invalid(message: str) -> GoogleError:
    return GoogleError(400, "invalid", message)


def _not_authorized(permission: str, instance: str) -> GoogleError:
    return GoogleError(
        403,
        "forbidden",
        "boss::NOT_AUTHORIZED: Not authorized to access resource. Possibly missing permission"
        f" {permission} on resource instances/{instance}.",
    )
