"""What an instance can be: Google's checks, the values it fills in, and how settings merge.

Pure functions on the JSON of ``DatabaseInstance``
(https://cloud.google.com/sql/docs/postgres/admin-api/rest/v1/instances).
"""

import re
from collections.abc import Mapping
from typing import Final

from gcp_emulator.replies import GoogleError, Json

__all__ = ["check_name", "merged", "new_settings", "region_of", "version_of"]

DEFAULT_VERSION: Final = "POSTGRES_18"
_VERSIONS: Final = frozenset(f"POSTGRES_{number}" for number in (15, 16, 17, 18))
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME: Final = 98
"""Of the project and the instance together, with a colon between them."""
_REGION_NAMES: Final = (
    "africa-south1 asia-east1 asia-east2 asia-northeast1 asia-northeast2 asia-northeast3"
    " asia-south1 asia-south2 asia-southeast1 asia-southeast2 australia-southeast1"
    " australia-southeast2 europe-central2 europe-north1 europe-north2 europe-southwest1"
    " europe-west1 europe-west10 europe-west12 europe-west2 europe-west3 europe-west4"
    " europe-west6 europe-west8 europe-west9 me-central1 me-central2 me-west1"
    " northamerica-northeast1 northamerica-northeast2 northamerica-south1 southamerica-east1"
    " southamerica-west1 us-central1 us-east1 us-east4 us-east5 us-south1 us-west1 us-west2"
    " us-west3 us-west4"
)
_REGIONS: Final = frozenset(_REGION_NAMES.split())
_SHARED_CORE: Final = frozenset({"db-f1-micro", "db-g1-small"})
_CUSTOM: Final = re.compile(r"db-custom-([1-9][0-9]?)-([1-9][0-9]{3,5})")
_PERFORMANCE: Final = re.compile(
    r"db-perf-optimized-N-(2|4|8|16|32|48|64|80|96|128)|db-c4a-highmem-(1|4|8|16|32|48|64|72)"
)
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_LABEL: Final = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_SETTING_NAMES: Final = (
    "acceleratedReplicaMode activationPolicy activeDirectoryConfig advancedMachineFeatures"
    " authorizedGaeApplications autoUpgradeEnabled availabilityType backupConfiguration collation"
    " connectionPoolConfig connectorEnforcement crashSafeReplicationEnabled dataApiAccess"
    " dataCacheConfig dataDiskProvisionedIops dataDiskProvisionedThroughput dataDiskSizeGb"
    " dataDiskType databaseFlags databaseReplicationEnabled deletionProtectionEnabled"
    " denyMaintenancePeriods edition enableDataplexIntegration enableGoogleMlIntegration"
    " finalBackupConfig insightsConfig ipConfiguration kind locationPreference maintenanceWindow"
    " passwordValidationPolicy pricingPlan replicationType retainBackupsOnDelete settingsVersion"
    " sqlServerAuditConfig storageAutoResize storageAutoResizeLimit tier timeZone"
    " userLabels"
)
_SETTINGS: Final = frozenset(_SETTING_NAMES.split())
_KINDS: Final[Mapping[str, type]] = {
    "backupConfiguration": dict,
    "ipConfiguration": dict,
    "userLabels": dict,
    "storageAutoResize": bool,
    "deletionProtectionEnabled": bool,
    "tier": str,
    "edition": str,
    "dataDiskType": str,
    "availabilityType": str,
}


def check_name(name: object, project: str) -> str:
    """The instance's name, or 400."""
    fits = isinstance(name, str) and _NAME.fullmatch(name)
    if not isinstance(name, str) or not fits or len(f"{project}:{name}") > _LONGEST_NAME:
        raise _invalid(
            f"Invalid request: instance name ({name}). Use lowercase letters, numbers, and"
            " hyphens; start with a letter; at most 98 characters with the project's id."
        )
    return name


def version_of(body: Json) -> str:
    """The database's version, or 400: the local cloud has PostgreSQL only."""
    version = body.get("databaseVersion", DEFAULT_VERSION)
    if version not in _VERSIONS:
        raise _invalid(f"Invalid value for: Unsupported database version {version}.")
    return str(version)


def region_of(body: Json, default: str) -> str:
    """The region, or 400."""
    region = body.get("region", default)
    if region not in _REGIONS:
        raise _invalid(f"Invalid request: Invalid value for region: {region}.")
    return str(region)


def new_settings(asked: object, *, zone: str) -> Json:
    """The settings of a new instance, with all that Google fills in.

    Raises:
        GoogleError: 400, saying which value can't be.
    """
    if not isinstance(asked, dict) or not asked.get("tier"):
        raise _invalid("Invalid request: Missing parameter: tier.")
    settings = merged(_defaults(zone), asked)
    settings["settingsVersion"] = "1"
    return settings


def merged(known: Json, asked: object) -> Json:
    """Settings after a patch: members are merged, null removes one, lists are replaced.

    Raises:
        GoogleError: 400 for a value that can't be; 412 for a ``settingsVersion`` of the past.
    """
    if not isinstance(asked, dict):
        raise _invalid("Invalid value at 'body.settings': an object expected.")
    for name, value in asked.items():
        if name not in _SETTINGS:
            raise _invalid(
                f'Invalid JSON payload received. Unknown name "{name}" at'
                " 'body.settings': Cannot find field."
            )
        kind = _KINDS.get(name)
        if kind is not None and value is not None and not isinstance(value, kind):
            raise _invalid(f"Invalid value at 'body.settings.{name}': {value!r}.")
    version = str(asked.get("settingsVersion", known.get("settingsVersion", "")))
    if version not in ("", "0", known.get("settingsVersion", version)):
        raise GoogleError(
            412, "staleData", "The settings version is not the current one of the instance."
        )
    settings = _merge(known, asked)
    settings["dataDiskSizeGb"] = _disk_size(settings.get("dataDiskSizeGb"), known)
    settings["settingsVersion"] = str(int(known.get("settingsVersion", "0")) + 1)
    _check_edition(settings)
    _check_backups(settings.get("backupConfiguration") or {})
    _check_labels(settings.get("userLabels") or {})
    if settings.get("activationPolicy") not in ("ALWAYS", "NEVER"):
        raise _invalid(f"Invalid activation policy: {settings.get('activationPolicy')}.")
    if settings.get("dataDiskType") not in ("PD_SSD", "PD_HDD", "HYPERDISK_BALANCED"):
        raise _invalid(f"Invalid disk type: {settings.get('dataDiskType')}.")
    return settings


def _merge(known: Json, asked: Json) -> Json:
    result = dict(known)
    for name, value in asked.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = _merge(result[name], value)
        else:
            result[name] = value
    return result


def _defaults(zone: str) -> Json:
    return {
        "kind": "sql#settings",
        "edition": "ENTERPRISE_PLUS",
        "activationPolicy": "ALWAYS",
        "availabilityType": "ZONAL",
        "pricingPlan": "PER_USE",
        "replicationType": "SYNCHRONOUS",
        "connectorEnforcement": "NOT_REQUIRED",
        "dataDiskType": "PD_SSD",
        "dataDiskSizeGb": "10",
        "storageAutoResize": True,
        "storageAutoResizeLimit": "0",
        "deletionProtectionEnabled": False,
        "locationPreference": {"kind": "sql#locationPreference", "zone": zone},
        "backupConfiguration": {
            "kind": "sql#backupConfiguration",
            "enabled": False,
            "startTime": "00:00",
            "transactionLogRetentionDays": 7,
            "backupRetentionSettings": {"retentionUnit": "COUNT", "retainedBackups": 7},
        },
        "ipConfiguration": {
            "ipv4Enabled": True,
            "sslMode": "ALLOW_UNENCRYPTED_AND_ENCRYPTED",
        },
    }


def _disk_size(value: object, known: Json) -> str:
    text = str(value)
    if not text.isdecimal() or not 10 <= int(text) <= 65_536:
        raise _invalid(f"Invalid request: Invalid disk size {text} GB: between 10 and 65536.")
    if int(text) < int(known.get("dataDiskSizeGb", 0)):
        raise _invalid("Invalid request: Disk size cannot be decreased.")
    return str(int(text))


def _check_edition(settings: Json) -> None:
    """Hold the tier against the edition, in Google's words."""
    edition, tier = settings.get("edition"), str(settings.get("tier"))
    match edition:
        case "ENTERPRISE":
            if tier in _SHARED_CORE or _is_custom(tier):
                return
            instead = "Use a predefined Tier like db-custom-* instead."
        case "ENTERPRISE_PLUS":
            if _PERFORMANCE.fullmatch(tier):
                return
            instead = "Use a predefined Tier like db-perf-optimized-N-* instead."
        case _:
            raise _invalid(f"Invalid value at 'body.settings.edition': {edition!r}.")
    known = tier in _SHARED_CORE or _is_custom(tier) or _PERFORMANCE.fullmatch(tier)
    if not known:
        instead = f"{instead} There is no such tier."
    raise _invalid(f"Invalid Tier ({tier}) for ({edition}) Edition. {instead}")


def _is_custom(tier: str) -> bool:
    """Whether it is ``db-custom-CPUS-MB`` within Google's limits for PostgreSQL."""
    found = _CUSTOM.fullmatch(tier)
    if not found:
        return False
    cpus, memory = int(found[1]), int(found[2])
    even = cpus == 1 or cpus % 2 == 0
    return even and cpus <= 96 and memory % 256 == 0 and 3_840 <= memory <= cpus * 6_656


def _check_backups(backups: Json) -> None:
    start = backups.get("startTime", "00:00")
    if not isinstance(start, str) or not _CLOCK.fullmatch(start):
        raise _invalid(f"Invalid request: Backup start time {start!r} is not HH:MM.")
    if backups.get("pointInTimeRecoveryEnabled") and not backups.get("enabled"):
        raise _invalid(
            "Invalid request: Point in time recovery requires automated backups to be enabled."
        )


def _check_labels(labels: Json) -> None:
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or not isinstance(value, str) or len(value) > 63:
            raise _invalid(f"Invalid request: Invalid user label {key!r}.")


def _invalid(message: str) -> GoogleError:
    return GoogleError(400, "invalid", message)
