"""Which image a name means at this moment: its digest, from the registry.

The protocol is the Docker Registry's (https://distribution.github.io/distribution/spec/api/):
HEAD of a manifest answers with its digest. Google's registries take an OAuth token
(https://cloud.google.com/artifact-registry/docs/docker/authentication); it is sent to no other.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from gcloud_ops.clients import Clients, translate
from gcloud_ops.errors import InvalidRequest, NotFound, PermissionDenied, Unavailable

__all__ = ["Reference", "digest_of"]

_GOOGLE: Final = re.compile(r"(?:[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io)")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ACCEPT: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_TIMEOUT: Final = (5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image's name, taken apart as Docker does."""

    host: str
    name: str
    tag: str
    """"" where a digest is given."""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a name apart.

        Raises:
            InvalidRequest: It can't be an image's name.
        """
        rest, _, digest = text.partition("@")
        host, slash, path = rest.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, path = "registry-1.docker.io", rest if slash else f"library/{rest}"
        name, colon, tag = path.partition(":")
        good = _NAME.fullmatch(name) and (not colon or _TAG.fullmatch(tag))
        if not good or (("@" in text) and not _DIGEST.fullmatch(digest)):
            raise InvalidRequest(
                f"image: {text!r} is not a reference of an image",
                resource=f"image {text}",
                hint="such as europe-docker.pkg.dev/my-project/images/sinergym:latest",
            )
        return cls(host=host, name=name, tag="" if digest else tag or "latest", digest=digest)

    @property
    def is_of_google(self) -> bool:
        """Whether the registry is one of Google's, and takes its tokens."""
        return _GOOGLE.fullmatch(self.host) is not None


def digest_of(clients: Clients, image: str) -> str:
    """The digest of an image, `sha256:...`; "" where the registry does not tell.

    It does not tell when it can't be reached from here, or is a private one that is none of
    Google's. On another cloud than Google's its own registry is asked, for all images.

    Raises:
        NotFound: The registry has no such image.
        PermissionDenied: Google's registry does not let us look.
        InvalidRequest: It is no image's name.
    """
    reference = Reference.parse(image)
    if reference.digest:
        return reference.digest
    resource = f"image {image}"
    try:
        with translate(resource):
            reply = _ask(clients, reference)
    except Unavailable:
        return ""
    if reply.status_code == 404:
        raise NotFound(
            f"{resource}: there is no such image in its registry",
            resource=resource,
            hint="`gcloud-ops template create` takes the name that `docker push` was given",
        )
    if reply.status_code in {401, 403} and reference.is_of_google:
        raise PermissionDenied(
            f"{resource}: its registry does not let us look",
            resource=resource,
            hint="the role roles/artifactregistry.reader is needed to read images",
        )
    digest = reply.headers.get("Docker-Content-Digest", "")
    return digest if reply.status_code == 200 and _DIGEST.fullmatch(digest) else ""


def _ask(clients: Clients, reference: Reference) -> Any:
    import requests

    endpoint = clients.settings.endpoint
    root = f"https://{reference.host}" if endpoint is None else endpoint
    url = f"{root}/v2/{reference.name}/manifests/{reference.tag}"
    headers = {"Accept": _ACCEPT}
    try:
        if endpoint is None and reference.is_of_google:
            headers["Authorization"] = f"Bearer {clients.token()}"
        reply = requests.head(url, headers=headers, timeout=_TIMEOUT)
        challenge = reply.headers.get("WWW-Authenticate", "")
        if reply.status_code == 401 and endpoint is None and not reference.is_of_google:
            token = _anonymous_token(challenge)
            if token:
                headers["Authorization"] = f"Bearer {token}"
                reply = requests.head(url, headers=headers, timeout=_TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Unavailable(f"registry {reference.host}: {error}") from error
    return reply


def _anonymous_token(challenge: str) -> str:
    """The token that a public registry gives to anybody who asks where its challenge says."""
    import requests

    words = dict(re.findall(r'(realm|service|scope)="([^"]*)"', challenge))
    realm = words.pop("realm", "")
    if not challenge.startswith("Bearer ") or not realm.startswith("https://"):
        return ""
    reply = requests.get(realm, params=words, timeout=_TIMEOUT)
    if reply.status_code != 200:
        return ""
    content = reply.json()
    return str(content.get("token") or content.get("access_token") or "")
