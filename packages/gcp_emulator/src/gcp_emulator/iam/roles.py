"""What the predefined roles permit, as far as anything in this cloud asks.

A small part of https://cloud.google.com/iam/docs/roles-permissions: a role that is missing here
can be granted, and permits nothing.
"""

from fnmatch import fnmatchcase
from typing import Final

_READ: Final = ("*.get", "*.list")
_BUCKET_READ: Final = ("storage.buckets.get", "storage.objects.list")
_BUCKET_WRITE: Final = (
    *_BUCKET_READ,
    "storage.objects.create",
    "storage.objects.delete",
    "storage.multipartUploads.*",
)
_OBJECT_READ: Final = ("storage.objects.get", "storage.objects.list")
_OBJECT_USE: Final = (
    *_OBJECT_READ,
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.update",
    "storage.multipartUploads.*",
)
# Who edits channels can't have the code of one that is verified, which would verify others.
_CHANNEL_EDIT: Final = (
    "monitoring.notificationChannelDescriptors.*",
    "monitoring.notificationChannels.create",
    "monitoring.notificationChannels.delete",
    "monitoring.notificationChannels.get",
    "monitoring.notificationChannels.list",
    "monitoring.notificationChannels.sendVerificationCode",
    "monitoring.notificationChannels.update",
    "monitoring.notificationChannels.verify",
)

_PERMITS: Final[dict[str, tuple[str, ...]]] = {
    "roles/owner": ("*",),
    "roles/editor": ("*",),
    "roles/viewer": _READ,
    "roles/browser": ("resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy"),
    "roles/cloudsql.admin": ("cloudsql.*",),
    "roles/cloudsql.editor": ("cloudsql.*",),
    "roles/cloudsql.viewer": ("cloudsql.*.get", "cloudsql.*.list"),
    "roles/cloudsql.client": ("cloudsql.instances.connect", "cloudsql.instances.get"),
    "roles/cloudsql.instanceUser": ("cloudsql.instances.get", "cloudsql.instances.login"),
    "roles/compute.admin": ("compute.*",),
    "roles/compute.instanceAdmin.v1": (
        "compute.instances.*",
        "compute.instanceGroupManagers.*",
        "compute.instanceGroups.*",
        "compute.instanceTemplates.*",
        "compute.disks.*",
        "compute.machineTypes.*",
        "compute.zones.*",
        "compute.regions.*",
        "compute.projects.get",
        *("compute.networks.get", "compute.networks.list"),
        *("compute.addresses.get", "compute.addresses.list"),
        *("compute.zoneOperations.get", "compute.zoneOperations.list"),
        *("compute.regionOperations.get", "compute.regionOperations.list"),
        *("compute.globalOperations.get", "compute.globalOperations.list"),
    ),
    "roles/compute.viewer": ("compute.*.get", "compute.*.list"),
    "roles/secretmanager.admin": ("secretmanager.*",),
    "roles/secretmanager.secretAccessor": ("secretmanager.versions.access",),
    "roles/secretmanager.secretVersionAdder": ("secretmanager.versions.add",),
    "roles/secretmanager.viewer": (
        "secretmanager.secrets.get",
        "secretmanager.secrets.list",
        "secretmanager.versions.get",
        "secretmanager.versions.list",
    ),
    "roles/storage.admin": ("storage.*",),
    "roles/storage.objectAdmin": ("storage.objects.*", "storage.multipartUploads.*"),
    "roles/storage.objectUser": _OBJECT_USE,
    "roles/storage.objectViewer": _OBJECT_READ,
    "roles/storage.objectCreator": ("storage.objects.create", "storage.multipartUploads.*"),
    "roles/storage.legacyBucketOwner": (
        *_BUCKET_WRITE,
        "storage.buckets.getIamPolicy",
        "storage.buckets.setIamPolicy",
        "storage.buckets.update",
    ),
    "roles/storage.legacyBucketWriter": _BUCKET_WRITE,
    "roles/storage.legacyBucketReader": _BUCKET_READ,
    "roles/storage.legacyObjectOwner": (
        "storage.objects.get",
        "storage.objects.update",
        "storage.objects.getIamPolicy",
        "storage.objects.setIamPolicy",
    ),
    "roles/storage.legacyObjectReader": ("storage.objects.get",),
    "roles/logging.logWriter": ("logging.logEntries.create",),
    "roles/monitoring.admin": ("monitoring.*",),
    "roles/monitoring.editor": (
        "monitoring.alertPolicies.*",
        "monitoring.alerts.*",
        "monitoring.metricDescriptors.*",
        "monitoring.monitoredResourceDescriptors.*",
        *_CHANNEL_EDIT,
        "monitoring.timeSeries.*",
    ),
    "roles/monitoring.viewer": ("monitoring.*.get", "monitoring.*.list"),
    "roles/monitoring.alertPolicyEditor": ("monitoring.alertPolicies.*",),
    "roles/monitoring.alertPolicyViewer": (
        "monitoring.alertPolicies.get",
        "monitoring.alertPolicies.list",
    ),
    "roles/monitoring.notificationChannelEditor": _CHANNEL_EDIT,
    "roles/monitoring.notificationChannelViewer": (
        "monitoring.notificationChannelDescriptors.*",
        "monitoring.notificationChannels.get",
        "monitoring.notificationChannels.list",
    ),
    "roles/monitoring.metricWriter": (
        "monitoring.metricDescriptors.create",
        "monitoring.metricDescriptors.get",
        "monitoring.metricDescriptors.list",
        "monitoring.monitoredResourceDescriptors.*",
        "monitoring.timeSeries.create",
    ),
    "roles/iap.tunnelResourceAccessor": ("iap.tunnelInstances.accessViaIAP",),
    "roles/artifactregistry.reader": (
        "artifactregistry.*.get",
        "artifactregistry.*.list",
        "artifactregistry.repositories.downloadArtifacts",
    ),
    "roles/iam.roleAdmin": (
        "iam.roles.*",
        "resourcemanager.projects.get",
        "resourcemanager.projects.getIamPolicy",
    ),
    "roles/iam.serviceAccountTokenCreator": (
        "iam.serviceAccounts.get",
        "iam.serviceAccounts.list",
        "iam.serviceAccounts.getAccessToken",
    ),
    "roles/iam.serviceAccountUser": (
        "iam.serviceAccounts.actAs",
        "iam.serviceAccounts.get",
        "iam.serviceAccounts.list",
    ),
}
# The basic roles come to objects through what a bucket's own policy says of projectEditor and
# the like: https://cloud.google.com/storage/docs/access-control/iam-roles#basic-roles
_WITHHELD: Final[dict[str, tuple[str, ...]]] = {
    "roles/owner": ("storage.objects.*",),
    "roles/editor": (
        "storage.objects.*",
        "*.setIamPolicy",
        "secretmanager.versions.access",
        *("iap.*", "iam.roles.create", "iam.roles.delete", "iam.roles.update"),
        "iam.serviceAccounts.getAccessToken",
    ),
    "roles/viewer": ("storage.objects.*",),
}


def permits(role: str, permission: str) -> bool:
    """Whether a role has a permission, such as ``secretmanager.versions.access``."""
    if any(fnmatchcase(permission, pattern) for pattern in _WITHHELD.get(role, ())):
        return False
    return any(fnmatchcase(permission, pattern) for pattern in _PERMITS.get(role, ()))
