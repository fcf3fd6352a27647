"""Things of a project, one small class for each kind, all of the shape of `Resource`.

`gcloud_ops.setting_up` and `mlflow_infra` say which of them they want. `access` and `roles` hold
who may do what, `buckets` and `network` what both have of these, and `steps` looks at them, makes
them and removes them in order.
"""

from gcloud_ops.resources.access import Apis, CustomRole, ServiceAccount
from gcloud_ops.resources.buckets import Bucket, delete_versions
from gcloud_ops.resources.network import Firewall
from gcloud_ops.resources.roles import (
    Binding,
    BucketPolicy,
    Policy,
    ProjectPolicy,
    Roles,
    SecretPolicy,
)
from gcloud_ops.resources.shape import (
    Begun,
    Done,
    Event,
    Place,
    Progressed,
    Resource,
    Seen,
    Tell,
    line_if_different,
    wait_until,
)
from gcloud_ops.resources.steps import Finding, Plan, ensure_all, observe_all, remove_all

__all__ = [
    "Apis",
    "Begun",
    "Binding",
    "Bucket",
    "BucketPolicy",
    "CustomRole",
    "Done",
    "Event",
    "Finding",
    "Firewall",
    "Place",
    "Plan",
    "Policy",
    "Progressed",
    "ProjectPolicy",
    "Resource",
    "Roles",
    "SecretPolicy",
    "Seen",
    "ServiceAccount",
    "Tell",
    "delete_versions",
    "ensure_all",
    "line_if_different",
    "observe_all",
    "remove_all",
    "wait_until",
]
