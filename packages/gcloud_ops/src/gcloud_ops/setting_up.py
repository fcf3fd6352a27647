"""What a project needs before its first sweep: looked at, made, removed, as often as one likes.

The trainers' VMs act as an account of their own: `gcloud_ops.resources.trainers` says what it may
do, docs/security.md why.

    plan = look(clients, Wanted.of(clients))
    up(clients, Wanted.of(clients, image="europe-docker.pkg.dev/p/sinergym/trainer:1"), tell=print)
    down(clients, Wanted.of(clients), delete_data=False, tell=print)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from gcloud_ops import ssh, templates
from gcloud_ops.alerts import metrics
from gcloud_ops.clients import Clients
from gcloud_ops.errors import InvalidRequest, NotFound
from gcloud_ops.iap import RELAY_ADDRESSES
from gcloud_ops.resources import (
    Apis,
    Binding,
    Bucket,
    BucketPolicy,
    CustomRole,
    Finding,
    Firewall,
    Place,
    Plan,
    ProjectPolicy,
    Resource,
    Roles,
    SecretPolicy,
    Seen,
    ServiceAccount,
    Tell,
    ensure_all,
    line_if_different,
    observe_all,
    remove_all,
)
from gcloud_ops.resources.trainers import (
    ACCOUNT,
    APIS,
    BUCKET_ROLE,
    PROJECT_ROLES,
    ROLE,
    RUNNER_PERMISSIONS,
    SECRET_ROLE,
)
from gcloud_ops.tracking import SECRET

__all__ = ["IAP_FIREWALL", "Wanted", "down", "look", "ordered", "up"]

IAP_FIREWALL: Final = "allow-sinergym-ssh-iap"

_IAP_API: Final = "iap.googleapis.com"
_MADE_BY: Final = "made by gcloud-ops"
_MACHINE_TYPE: Final = "n2-highcpu-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a project shall have.

    Raises:
        InvalidRequest: Instances without addresses, but no way to reach them.
    """

    template: str
    bucket: str
    location: str
    """Where the bucket is made."""
    image: str = ""
    """The trainers' image; "" for the template's that is there, or for `default_image`."""
    default_image: str = ""
    machine_type: str = ""
    """"" for the template's that is there, or for `n2-highcpu-8`."""
    iap: bool = False
    """Whether SSH may come through IAP."""
    external_address: bool = True
    """Whether the template's instances have addresses; those without need Cloud NAT or Private
    Google Access."""
    network: str = "default"
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables of the container; no secrets."""

    def __post_init__(self) -> None:
        if not self.external_address and not self.iap:
            raise InvalidRequest(
                "instances without addresses can be reached through IAP only", hint="say --iap too"
            )

    @classmethod
    def of(
        cls,
        clients: Clients,
        *,
        image: str | None = None,
        machine_type: str | None = None,
        iap: bool = False,
        external_address: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """What the settings say, and these."""
        settings = clients.settings
        region = settings.zone.rpartition("-")[0]
        registry = f"{region}-docker.pkg.dev/{clients.project}"
        return cls(
            image=image or "",
            default_image=f"{registry}/sinergym/trainer:latest",
            template=settings.template,
            bucket=settings.bucket_name,
            location=settings.bucket_location,
            machine_type=machine_type or "",
            iap=iap,
            external_address=external_address,
            environment={
                "gce_zone": settings.zone,
                "gce_project_id": clients.project,
                **(environment or {}),
            },
        )


def look(clients: Clients, wanted: Wanted) -> Plan[Finding]:
    """See what is there, with calls that only read.

    Raises:
        GcloudOpsError: It can't be seen: no permission, no answer, a bucket of others.
    """
    place = Place(clients)
    return Plan(
        findings=tuple(
            Finding(what=one.what, holds_data=one.holds_data, seen=seen)
            for one, seen in observe_all(place, ordered(place, wanted))
        )
    )


def up(clients: Clients, wanted: Wanted, *, tell: Tell) -> Plan[Finding]:
    """Make and mend until all is there; returns what is there then.

    Raises:
        GcloudOpsError: A step can't be done; what was made stays, for another `up` or `down`.
    """
    ensure_all(ordered(Place(clients), wanted), tell)
    return look(clients, wanted)


def down(clients: Clients, wanted: Wanted, *, delete_data: bool, tell: Tell) -> Plan[Finding]:
    """Remove what `up` made, but the APIs and the SSH key; returns what is there then.

    The data are the bucket, with all sweeps and results, and the metrics with their points.

    Raises:
        GcloudOpsError: A step can't be done, such as for a template that a group uses; another
            `down` goes on there.
    """
    place = Place(clients)
    remove_all(place, ordered(place, wanted), tell, delete_data=delete_data)
    return look(clients, wanted)


def ordered(place: Place, wanted: Wanted) -> tuple[Resource, ...]:
    """All resources, in the order in which they are made; the APIs first."""
    account = ServiceAccount(
        place,
        ACCOUNT,
        title="Sinergym trainer",
        description=f"Runs the trainers' VMs; {_MADE_BY}",
    )
    member = f"serviceAccount:{account.email}"
    role = CustomRole(
        place,
        ROLE,
        title="Sinergym trainer",
        description=f"Leave its instance group, and no more; {_MADE_BY}",
        permissions=tuple(sorted(RUNNER_PERMISSIONS)),
    )

    def project() -> tuple[Binding, ...]:
        return tuple((one, member) for one in (role.name, *PROJECT_ROLES))

    found: list[Resource] = [
        Apis(place, (*APIS, _IAP_API) if wanted.iap else APIS),
        account,
        role,
        Bucket(
            place,
            wanted.bucket,
            location=wanted.location,
            label=("created-by", "gcloud-ops"),
            prefixes=(),
            versioned=False,
        ),
        Roles(place, ProjectPolicy(place), project),
        Roles(place, BucketPolicy(place, wanted.bucket), lambda: ((BUCKET_ROLE, member),)),
        Roles(place, SecretPolicy(place, SECRET), lambda: ((SECRET_ROLE, member),), optional=True),
    ]
    if place.clients.settings.has_monitoring:
        found.append(_Metrics(place))
    if wanted.iap:
        found.append(_iap_firewall(place, wanted, account.email))
    return (*found, _Template(place, wanted, account.email), _SshKey(place))


def _iap_firewall(place: Place, wanted: Wanted, email: str) -> Firewall:
    return Firewall(
        place,
        IAP_FIREWALL,
        wanted.network,
        lambda: {
            "description": f"SSH to the trainers through IAP; {_MADE_BY}",
            "allowed": [{"I_p_protocol": "tcp", "ports": ["22"]}],
            "source_ranges": [RELAY_ADDRESSES],
            "target_service_accounts": [email],
        },
    )


@dataclass(slots=True)
class _Metrics:
    """The descriptors of the metrics by which ends are told."""

    place: Place
    holds_data: ClassVar[bool] = True
    apis: ClassVar[tuple[str, ...]] = ("monitoring.googleapis.com",)
    role: ClassVar[str] = "roles/monitoring.editor"
    what: ClassVar[str] = "metrics"

    def observe(self) -> Seen:
        """See whether all are there."""
        missing = metrics.missing_metrics(self.place.clients)
        lines = tuple(f"{kind} is missing" for kind in missing)
        return Seen(state="missing" if missing else "there", differences=lines, mends=lines)

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make those that are missing."""
        del tell
        return tuple(f"made {kind}" for kind in metrics.ensure_metrics(self.place.clients))

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete them with their points."""
        del tell
        return tuple(f"deleted {kind}" for kind in metrics.remove_metrics(self.place.clients))


@dataclass(slots=True)
class _Template:
    """The instance template of sweeps that name none; one that is there is kept."""

    place: Place
    wanted: Wanted
    account: str
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ("compute.googleapis.com",)
    role: ClassVar[str] = "roles/compute.instanceAdmin.v1"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"template {self.wanted.template}"

    def observe(self) -> Seen:
        """See whether it is there; what differs is for people: a template can't be changed."""
        found = self._find()
        if found is None:
            return Seen(state="missing")
        image, kind = found.image or "none of ours", found.machine_type
        wanted = self.wanted
        lines = [
            line_if_different("image", [image], [wanted.image or image]),
            line_if_different("service account", [found.service_account], [self.account]),
            line_if_different("machine type", [kind], [wanted.machine_type or kind]),
        ]
        advice = f"`gcloud-ops template delete {found.name}` and set up again"
        return Seen.compared(leaves=[f"{line} ({advice})" for line in lines if line])

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it."""
        del tell
        if self._find() is not None:
            return ()
        templates.create_template(
            self.place.clients,
            templates.TemplateSpec(
                name=self.wanted.template,
                image=self.wanted.image or self.wanted.default_image,
                machine_type=self.wanted.machine_type or _MACHINE_TYPE,
                service_account=self.account,
                environment=self.wanted.environment,
                network=f"global/networks/{self.wanted.network}",
                external_address=self.wanted.external_address,
            ),
        )
        return ("made",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Delete it, if its instances act as our account."""
        del tell
        found = self._find()
        if found is None:
            return ()
        if found.service_account != self.account:
            return ("left it: it isn't the one that was set up",)
        templates.delete_template(self.place.clients, found.name)
        return ("deleted",)

    def _find(self) -> templates.Template | None:
        try:
            return templates.get_template(self.place.clients, self.wanted.template)
        except NotFound:
            return None


@dataclass(slots=True)
class _SshKey:
    """The key pair on this machine by which instances are reached."""

    place: Place
    holds_data: ClassVar[bool] = False
    apis: ClassVar[tuple[str, ...]] = ()
    role: ClassVar[str] = ""

    @property
    def what(self) -> str:
        """Kind and place."""
        return f"SSH key {self.place.clients.settings.ssh_key}"

    def observe(self) -> Seen:
        """See whether it is there."""
        there = self.place.clients.settings.ssh_key.exists()
        return Seen(state="there" if there else "missing")

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it, for this user alone."""
        del tell
        was_there = self.place.clients.settings.ssh_key.exists()
        ssh.public_key_line(self.place.clients.settings)
        return () if was_there else ("made",)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Leave it: instances of other projects may know it."""
        del tell
        return ()
