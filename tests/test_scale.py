"""Two hundred VMs from one launcher."""

import pytest
from tests.clouds import OwnCloud

from gcloud_ops import containers, sweeps
from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import ContainerFailed
from gcloud_ops.launching import Launched, launch, plan
from gcloud_ops.model import ExperimentStatus, Sweep

VMS = 200


@pytest.mark.slow
def test_two_hundred_vms(inert_cloud: OwnCloud) -> None:
    """Launched and dispatched; looked at with two calls; removed entirely."""
    clients = inert_cloud.clients
    commands = [f"train --seed {n}" for n in range(VMS)]
    sweep = Sweep.of_commands("fleet", commands, dispatch=Dispatch.SSH)

    events = list(launch(plan(sweep, clients), clients, patience=120))

    assert events[-1] == Launched(sent=VMS, failed=0, waiting=0)
    calls = inert_cloud.calls()
    assert calls["compute.instanceGroupManagers.insert"] == 1
    assert calls["compute.instanceGroupManagers.createInstances"] == 1
    looking = sweeps.SweepWatch("fleet", clients)
    before = sum(inert_cloud.calls().values())
    seen = looking.refresh()
    assert sum(inert_cloud.calls().values()) - before == 2
    assert len(seen.rows) == VMS
    assert all(row.member and row.member.is_up for row in seen.rows)

    gone = sweeps.cancel("fleet", clients)

    assert gone.is_gone
    assert gone.counts == {ExperimentStatus.CANCELLED: VMS}
    assert inert_cloud.ask("status")["instances"] == []


@pytest.mark.slow
def test_each_vm_has_the_command_of_its_own_experiment(inert_cloud: OwnCloud) -> None:
    """No command goes to a wrong VM, whatever the order in which they come up."""
    clients = inert_cloud.clients
    commands = [f"train --seed {n}" for n in range(1, 21)]
    sweep = Sweep.of_commands("own", commands, dispatch=Dispatch.SSH)
    events = list(launch(plan(sweep, clients), clients, patience=120))
    assert events[-1] == Launched(sent=20, failed=0, waiting=0)

    for experiment in sweep.experiments:
        # Sending it again is accepted only because it is the same command.
        assert "accepted" in containers.send_command(clients, experiment.id, experiment.command)
    with pytest.raises(ContainerFailed, match="another"):
        containers.send_command(clients, "own-0001", "train --seed 2")
