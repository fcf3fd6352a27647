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

from gcloud_ops import groups, iap, instances, ssh, templates
from gcloud_ops.clients import Clients
from gcloud_ops.errors import (
    HostKeyMismatch,
    Unavailable,
)
from gcloud_ops.model import Instance

from .conftest import eventually, inert_cloud, settings_of

PORT = 7007


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients of a cloud of its own: firewall rules are for all of it."""
    with inert_cloud(tmp_path_factory.mktemp("iap")) as cloud:
        yield Clients.connect(settings_of(cloud, tmp_path_factory.mktemp("key") / "id_ed25519"))


@pytest.fixture(scope="module")
def instance(clients: Clients) -> Instance:
    """An instance without a public address, with our key on it."""
    spec = templates.TemplateSpec(
        name="inside", image="europe-docker.pkg.dev/local/s/trainer:1", external_address=False
    )
    templates.create_template(clients, spec)
    line = ssh.public_key_line(clients.settings)
    labels = {"sinergym-sweep": "hosts"}
    groups.create_group(clients, "hosts", "inside", metadata={"ssh-keys": line}, labels=labels)
    groups.create_instances(clients, "hosts", ["hosts-0001"])

    def found() -> Instance | None:
        keys = instances.host_keys(clients, "hosts-0001")
        one = instances.get_instance(clients, "hosts-0001")
        return one if keys and one and one.status == "RUNNING" else None

    instance = eventually(found, "an instance")
    assert instance is not None
    return instance


def ask(clients: Clients, path: str, body: Any) -> Any:
    """Post to one of the emulator's own pages."""
    request = urllib.request.Request(
        f"{clients.settings.endpoint}/emulator/{path}",
        data=json.dumps(body).encode(),
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
