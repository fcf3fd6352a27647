"""Who may do what with a bucket, through Google's storage client."""

import re
from collections.abc import Iterator

import pytest
from google.api_core import exceptions
from google.cloud import storage

from .iam_cloud import SERVER, ThreadedCloud, running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedCloud]:
    """A cloud for all tests; each has a bucket of its own."""
    with running(tmp_path_factory.mktemp("buckets") / "cloud") as cloud:
        cloud.make_account()
        yield cloud


@pytest.fixture
def bucket(cloud: ThreadedCloud, request: pytest.FixtureRequest) -> storage.Bucket:
    """A bucket of the test's own, with uniform access and an object."""
    made = cloud.storage.bucket(f"test-{abs(hash(request.node.name)) % 10**8}")
    made.iam_configuration.uniform_bucket_level_access_enabled = True
    made.iam_configuration.public_access_prevention = "enforced"
    made.versioning_enabled = True
    made.labels = {"made-by": "tests"}
    made.add_lifecycle_delete_rule(age=30)
    made = cloud.storage.create_bucket(made, location="europe-west1")
    made.blob("there").upload_from_string(b"x")
    return made


def grant(bucket: storage.Bucket, role: str, member: str = f"serviceAccount:{SERVER}") -> None:
    """Give a role on the bucket, as one should."""
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings.append({"role": role, "members": {member}})
    bucket.set_iam_policy(policy)


def test_new_bucket(cloud: ThreadedCloud, bucket: storage.Bucket) -> None:
    """It keeps what it was given; its policy lets the project's people in by their roles."""
    found = cloud.storage.get_bucket(bucket.name)
    assert found.iam_configuration.uniform_bucket_level_access_enabled
    assert found.iam_configuration.public_access_prevention == "enforced"
    assert found.versioning_enabled
    assert found.labels == {"made-by": "tests"}
    assert [rule["condition"]["age"] for rule in found.lifecycle_rules] == [30]
    owning = {"projectEditor:local", "projectOwner:local"}
    assert {role: set(members) for role, members in bucket.get_iam_policy().items()} == {
        "roles/storage.legacyBucketOwner": owning,
        "roles/storage.legacyBucketReader": {"projectViewer:local"},
        "roles/storage.legacyObjectOwner": owning,
        "roles/storage.legacyObjectReader": {"projectViewer:local"},
    }
    plain = cloud.storage.create_bucket(f"{bucket.name}-plain")
    assert set(plain.get_iam_policy()) == {
        "roles/storage.legacyBucketOwner",
        "roles/storage.legacyBucketReader",
    }
    assert plain.get_iam_policy().etag == "CAE="


def test_policy_is_guarded_by_its_etag(bucket: storage.Bucket) -> None:
    """Who read the policy before another's change is told so; a second read helps."""
    stale = bucket.get_iam_policy(requested_policy_version=3)
    grant(bucket, "roles/storage.objectUser")
    stale.bindings.append({"role": "roles/storage.objectViewer", "members": {"user:a@b.c"}})
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.set_iam_policy(stale)
    grant(bucket, "roles/storage.objectViewer", "user:a@b.c")
    roles = bucket.get_iam_policy()
    assert {"roles/storage.objectUser", "roles/storage.objectViewer"} < set(roles)


@pytest.mark.parametrize(
    ("role", "member", "error", "words"),
    [
        (
            "roles/storage.objectUser",
            "serviceAccount:none@local.iam.gserviceaccount.com",
            exceptions.BadRequest,
            "Service account none@local.iam.gserviceaccount.com does not exist.",
        ),
        ("roles/storage.objectUser", "ana", exceptions.BadRequest, "unknown type"),
        ("roles/editor", "user:ana@example.org", exceptions.BadRequest, "not supported"),
        (
            "roles/storage.objectViewer",
            "allUsers",
            exceptions.PreconditionFailed,
            "public access prevention is enforced",
        ),
    ],
)
def test_bad_bindings_are_refused(
    bucket: storage.Bucket,
    role: str,
    member: str,
    error: type[exceptions.GoogleAPICallError],
    words: str,
) -> None:
    """A binding that Google would refuse changes nothing."""
    before = bucket.get_iam_policy().etag
    with pytest.raises(error, match=words):
        grant(bucket, role, member)
    assert bucket.get_iam_policy().etag == before


def test_account_without_a_role_is_kept_out(cloud: ThreadedCloud, bucket: storage.Bucket) -> None:
    """Reading, listing, writing, deleting and asking for the bucket are all refused."""
    theirs = cloud.as_account(SERVER).storage.bucket(bucket.name)
    words = f"{SERVER} does not have storage.objects.get access to the Google Cloud Storage object"
    with pytest.raises(exceptions.Forbidden, match=re.escape(words)):
        theirs.blob("there").reload()
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.list"):
        list(theirs.list_blobs())
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.create"):
        theirs.blob("new").upload_from_string(b"x")
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.delete"):
        theirs.blob("there").delete()
    with pytest.raises(exceptions.Forbidden, match=r"storage\.buckets\.get"):
        theirs.reload()
    with pytest.raises(exceptions.Forbidden, match=r"storage\.buckets\.create"):
        cloud.as_account(SERVER).storage.create_bucket("of-an-account")
    assert bucket.blob("there").download_as_bytes() == b"x"
    assert bucket.get_blob("new") is None


def test_object_user_of_this_bucket_only(cloud: ThreadedCloud, bucket: storage.Bucket) -> None:
    """A role on one bucket opens its objects, not the bucket itself, nor another bucket."""
    other = cloud.storage.create_bucket(f"{bucket.name}-other")
    grant(bucket, "roles/storage.objectUser")
    client = cloud.as_account(SERVER).storage
    theirs = client.bucket(bucket.name)
    theirs.blob("new").upload_from_string(b"1")
    theirs.blob("new").upload_from_string(b"2")
    assert theirs.blob("new").download_as_bytes() == b"2"
    assert [blob.name for blob in theirs.list_blobs()] == ["new", "there"]
    theirs.copy_blob(theirs.blob("there"), theirs, "copy")
    theirs.blob("copy").delete()
    asked = ["storage.objects.create", "storage.buckets.get"]
    assert theirs.test_iam_permissions(asked) == asked[:1]
    with pytest.raises(exceptions.Forbidden):
        client.get_bucket(bucket.name)
    with pytest.raises(exceptions.Forbidden):
        client.bucket(other.name).blob("x").upload_from_string(b"x")
    with pytest.raises(exceptions.Forbidden):
        theirs.copy_blob(theirs.blob("there"), client.bucket(other.name), "copy")


def test_object_creator_replaces_nothing(cloud: ThreadedCloud, bucket: storage.Bucket) -> None:
    """Who may make objects needs the right to delete in order to replace one."""
    grant(bucket, "roles/storage.objectCreator")
    theirs = cloud.as_account(SERVER).storage.bucket(bucket.name)
    theirs.blob("new").upload_from_string(b"1")
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.delete"):
        theirs.blob("there").upload_from_string(b"2")
    large = theirs.blob("there", chunk_size=1 << 18)
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.delete"):
        large.upload_from_string(b"2" * (1 << 19))
    assert bucket.blob("there").download_as_bytes() == b"x"


@pytest.mark.parametrize("uniform", [True, False])
def test_default_compute_account_works_with_the_projects_buckets(
    cloud: ThreadedCloud, bucket: storage.Bucket, uniform: bool
) -> None:
    """The project's editors read, write and delete, with uniform access or without."""
    name = bucket.name if uniform else f"{bucket.name}-plain"
    if not uniform:
        cloud.storage.create_bucket(name)
    email = f"{cloud.number}-compute@developer.gserviceaccount.com"
    theirs = cloud.as_account(email).storage.get_bucket(name)
    theirs.blob("new").upload_from_string(b"1")
    theirs.blob("new").upload_from_string(b"2")
    assert theirs.blob("new").download_as_bytes() == b"2"
    theirs.blob("new").delete()
    with pytest.raises(exceptions.NotFound):
        theirs.blob("new").reload()


def test_somebody_elses_bucket(cloud: ThreadedCloud) -> None:
    """A name that is taken can't be had, and what it holds can't be seen."""
    with pytest.raises(exceptions.Conflict, match="The requested bucket name is not available"):
        cloud.storage.create_bucket("taken-artifacts")
    with pytest.raises(exceptions.Forbidden, match=r"does not have storage\.buckets\.get"):
        cloud.storage.get_bucket("taken-artifacts")
    with pytest.raises(exceptions.Forbidden):
        cloud.storage.bucket("taken-artifacts").get_iam_policy()
    with pytest.raises(exceptions.Forbidden):
        cloud.storage.bucket("taken-artifacts").blob("x").upload_from_string(b"x")
    assert "taken-artifacts" not in [found.name for found in cloud.storage.list_buckets()]
