"""docs/security.md says of the trainers' account what the code says."""

import re
from pathlib import Path

from gcloud_ops.doctor import PERMISSIONS
from gcloud_ops.resources.trainers import (
    BUCKET_ROLE,
    PROJECT_ROLES,
    ROLE,
    RUNNER_PERMISSIONS,
    SECRET_ROLE,
)

PAGE = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_table_of_permissions_is_the_role() -> None:
    """Each permission with its reason, in the words of the code, and no others."""
    rows = re.findall(r"^\| `(compute\.[\w.]+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert dict(rows) == dict(RUNNER_PERMISSIONS)
    assert f"custom role `{ROLE}`" in PAGE
    assert not any(one.startswith("compute.instances.") for one in RUNNER_PERMISSIONS)


def test_the_table_of_roles_is_what_is_granted() -> None:
    """In the project, on the bucket, on the secret."""
    section = PAGE.partition("## The VMs")[2].partition("### What a stolen")[0]
    rows = re.findall(r"^\| `(roles/[\w./]+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    of_project = {role: why for role, where, why in rows if where == "the project"}
    assert of_project == dict(PROJECT_ROLES)
    others = {role for role, where, _ in rows if where != "the project"}
    assert others == {BUCKET_ROLE, SECRET_ROLE}


def test_no_permission_is_asked_for_twice() -> None:
    """Who launches, watches and cancels needs each for one of these."""
    asked = [one for group in PERMISSIONS.values() for one in group]
    assert len(asked) == len(set(asked))
    assert len(asked) <= 100  # of one call of testIamPermissions
