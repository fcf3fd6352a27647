"""SSH to instances without a public address: through IAP's relay, as the local cloud has it."""

import asyncio
import contextlib
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import asyncssh
import pytest

from gcloud_ops import containers, groups, iap, instances, launching, ssh, sweeps, templates
from gcloud_ops.clients import Clients
from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import (
    CredentialsMissing,
    GcloudOpsError,
    HostKeyMismatch,
    PermissionDenied,
    Unavailable,
)
from gcloud_ops.model import Instance, Sweep

from .conftest import eventually

PORT = 7007


@pytest.fixture(scope="module")
def instance(clients: Clients) -> Iterator[Instance]:
    """An instance without a public address, with our key on it."""
    spec = templates.TemplateSpec(
        name="inside", image="europe-docker.pkg.dev/local/s/trainer:1", external_address=False
    )
    templates.create_template(clients, spec)
    line = ssh.public_key_line(clients.settings)
    labels = {"sinergym-sweep": "indoors"}
    groups.create_group(clients, "indoors", "inside", metadata={"ssh-keys": line}, labels=labels)
    groups.create_instances(clients, "indoors", ["indoors-0001"])

    def found() -> Instance | None:
        keys = instances.host_keys(clients, "indoors-0001")
        one = instances.get_instance(clients, "indoors-0001")
        return one if keys and one and one.status == "RUNNING" else None

    instance = eventually(found, "an instance")
    assert instance is not None
    yield instance
    groups.delete_group(clients, "indoors")


def ask(clients: Clients, path: str, body: Any) -> Any:
    """Read, or with a body post, one of the emulator's own pages."""
    request = urllib.request.Request(
        f"{clients.settings.endpoint}/emulator/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


@contextlib.contextmanager
def rule(clients: Clients, name: str, **fields: Any) -> Iterator[None]:
    """A firewall rule, as long as the block lasts."""
    resource = {"name": name, "source_ranges": [iap.RELAY_ADDRESSES], **fields}
    clients.change(
        f"rule {name}",
        clients.firewalls.insert_unary,
        project=clients.project,
        firewall_resource=resource,
    )
    try:
        yield
    finally:
        clients.change(
            f"rule {name}", clients.firewalls.delete_unary, project=clients.project, firewall=name
        )


@contextlib.asynccontextmanager
async def echo(address: str) -> AsyncIterator[None]:
    """A program on the instance that says what it is told."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, address, PORT)
    try:
        yield
    finally:
        server.close()


async def test_an_instance_without_a_public_address(clients: Clients, instance: Instance) -> None:
    """It is reached through IAP by itself, by its own key; and from outside by no other way."""
    keys = instances.host_keys(clients, instance.name)

    assert (instance.external_address, instance.address) == ("", instance.internal_address)
    async with ssh.reach(clients, instance, keys) as connection:
        found = await connection.containers()
    assert [container.name for container in found] in ([], ["sinergym"])

    outside = Clients(replace(clients.settings, iap="never"))
    with pytest.raises(Unavailable):
        async with ssh.reach(outside, instance, keys):
            pass


async def test_another_host_at_the_end_of_the_relay(clients: Clients, instance: Instance) -> None:
    """A changed key is refused and explained, through IAP as anywhere."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()

    with pytest.raises(HostKeyMismatch, match="another key than the one that the instance") as it:
        async with ssh.reach(clients, instance, [" ".join(other[:2])]):
            pass
    assert "recreated" in it.value.hint


async def test_what_goes_through_survives_cuts(clients: Clients, instance: Instance) -> None:
    """Much in both directions at once, over websockets that are cut: each byte arrives once."""
    loop = asyncio.get_running_loop()
    sent = os.urandom(3 << 20)
    allowed = [{"I_p_protocol": "tcp", "ports": [str(PORT)]}]
    with rule(clients, "echo", allowed=allowed):
        async with (
            echo(instance.internal_address),
            iap.tunnel(clients, instance, PORT) as sock,
        ):
            writing = asyncio.create_task(loop.sock_sendall(sock, sent))
            got, cuts = bytearray(), 0
            async with asyncio.timeout(30):
                while len(got) < len(sent):
                    data = await loop.sock_recv(sock, 1 << 16)
                    assert data, "the stream ended"
                    got += data
                    if len(got) > (cuts + 1) * len(sent) // 4 and cuts < 3:
                        cuts += await asyncio.to_thread(ask, clients, "iap/cut", {}) and 1
            await writing

    assert cuts == 3
    assert got == sent


async def refusal(clients: Clients, instance: Instance, port: int = PORT) -> GcloudOpsError:
    """Why a tunnel can't be had."""
    with pytest.raises(GcloudOpsError) as caught:
        async with iap.tunnel(clients, instance, port, timeout=10):
            pass
    error = caught.value
    assert "\n" not in str(error)
    assert error.resource == f"instance {instance.name}"
    return error


async def test_a_firewall_that_does_not_know_iap(clients: Clients, instance: Instance) -> None:
    """It looks as if nobody answered: the message says which rule may be missing."""
    denied = [{"I_p_protocol": "tcp", "ports": ["22"]}]
    with rule(clients, "no-ssh", denied=denied):
        shut = await refusal(clients, instance, clients.settings.ssh_port)
        with rule(clients, "but-iap", allowed=denied, priority=10):
            keys = instances.host_keys(clients, instance.name)
            async with ssh.reach(clients, instance, keys):
                pass

    assert isinstance(shut, Unavailable)
    assert "failed to connect to backend (4003)" in shut.message
    assert "35.235.240.0/20" in shut.hint


async def test_somebody_without_the_role(clients: Clients, instance: Instance) -> None:
    """IAP doesn't let in who may all with instances but not this; the role is named."""
    email = f"visitor@{clients.project}.iam.gserviceaccount.com"
    iam = clients.api("iam", "v1").projects().serviceAccounts()
    clients.execute(
        "account", iam.create(name=f"projects/{clients.project}", body={"accountId": "visitor"})
    )
    visitor = Clients(clients.settings, credentials=token_of(clients, email))

    denied = await refusal(visitor, instance)

    assert isinstance(denied, PermissionDenied)
    assert "not authorized (4033)" in denied.message
    assert "roles/iap.tunnelResourceAccessor" in denied.hint


def token_of(clients: Clients, email: str) -> Any:
    """The credentials of a service account, for an hour."""
    from google.oauth2.credentials import Credentials

    scope = ["https://www.googleapis.com/auth/cloud-platform"]
    accounts = clients.api("iamcredentials", "v1").projects().serviceAccounts()
    name = f"projects/-/serviceAccounts/{email}"
    request = accounts.generateAccessToken(name=name, body={"scope": scope})
    return Credentials(token=clients.execute("token", request)["accessToken"])  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, CredentialsMissing, "gcloud auth application-default login"),
        (403, PermissionDenied, "roles/iap.tunnelResourceAccessor"),
        (429, Unavailable, ""),
        (503, Unavailable, ""),
        (0, Unavailable, ""),
    ],
)
async def test_iap_answers_no_websocket(
    clients: Clients, instance: Instance, status: int, kind: type[GcloudOpsError], hint: str
) -> None:
    """What comes in place of a websocket is explained."""
    await asyncio.to_thread(ask, clients, "faults", {"method": "tunnel.*", "status": status})

    error = await refusal(clients, instance)

    assert type(error) is kind
    assert hint in error.hint


async def test_where_nobody_is(clients: Clients, instance: Instance) -> None:
    """An instance that is not there, a port without a program, a program that says nothing."""
    gone = await refusal(clients, replace(instance, name="indoors-0002"))
    allowed = [{"I_p_protocol": "tcp", "ports": [str(PORT)]}]
    with rule(clients, "nobody", allowed=allowed):
        closed = await refusal(clients, instance)
    await asyncio.to_thread(
        ask, clients, "faults", {"method": "tunnel.*", "status": 200, "delay": 5}
    )
    with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
        async with iap.tunnel(clients, instance, PORT, timeout=0.2):
            pass

    assert "4047" in gone.message
    assert "4003" in closed.message
    assert isinstance(gone, Unavailable)


async def test_a_session_that_is_forgotten(clients: Clients, instance: Instance) -> None:
    """When IAP doesn't take the session up again, that is the end of the stream, and no hang."""
    loop = asyncio.get_running_loop()
    allowed = [{"I_p_protocol": "tcp", "ports": [str(PORT)]}]
    with rule(clients, "forgotten", allowed=allowed):
        async with echo(instance.internal_address), iap.tunnel(clients, instance, PORT) as sock:
            await loop.sock_sendall(sock, b"here")
            assert await loop.sock_recv(sock, 10) == b"here"
            fault = {"method": "tunnel.reconnect", "status": 403}
            await asyncio.to_thread(ask, clients, "faults", fault)
            await asyncio.to_thread(ask, clients, "iap/cut", {})
            async with asyncio.timeout(10):
                assert await loop.sock_recv(sock, 10) == b""


@pytest.mark.slow
def test_a_sweep_without_public_addresses(clients: Clients, instance: Instance) -> None:
    """Launched, looked at, listened to and removed, over nothing but the relay."""
    sweep = Sweep.of_commands("hidden", ["train 1", "train 2"], template="inside")
    sweep = replace(sweep, dispatch=Dispatch.SSH)

    events = list(launching.launch(launching.plan(sweep, clients), clients))

    end = events[-1]
    assert isinstance(end, launching.Launched)
    assert (end.sent, end.failed) == (2, 0)
    found = containers.list_containers(clients, "hidden")
    assert {name: [c.name for c in of] for name, of in found.items()} == {  # type: ignore[union-attr]
        "hidden-0001": ["sinergym"],
        "hidden-0002": ["sinergym"],
    }
    assert containers.run_shell(clients, "hidden-0001", "true") == 0
    assert ask(clients, "stats", None)["calls"]["tunnel.connect"] >= 5
    sweeps.cancel("hidden", clients)
