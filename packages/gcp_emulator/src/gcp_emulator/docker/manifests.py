"""What a registry has: which images there are, and the manifest that stands for each. Pure.

An image is a name here, and nothing behind it can be downloaded; but its manifest is one, and its
digest is the manifest's, as in https://github.com/opencontainers/image-spec/blob/main/manifest.md.
"""

import hashlib
import json
import re
from collections.abc import Collection
from typing import Final

from gcp_emulator.docker.words import check_image, image_id, name_and_tag

__all__ = ["MEDIA_TYPE", "Images", "digest_of"]

MEDIA_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"

_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_HOST: Final = re.compile(r"(?:[^/]*[.:][^/]*|localhost)/")


class Images:
    """The images of all registries, by their names without the registry.

    Args:
        known: The only ones that exist, with tag (``latest`` without); None: whatever is asked
            for.

    Raises:
        DockerError: One of them can't be an image's name.
    """

    def __init__(self, known: Collection[str] | None = None) -> None:
        for image in known or ():
            check_image(image)
        self._known = None if known is None else {_plain(image) for image in known}
        self._by_digest = {digest_of(image): image for image in self._known or ()}

    def has(self, image: str) -> bool:
        """Whether there is an image, by its name with tag or digest."""
        name, _, digest = image.partition("@")
        path, _, tag = _plain(name).rpartition(":")
        return self._known is None or self.manifest(path, digest or tag) is not None

    def manifest(self, repository: str, reference: str) -> bytes | None:
        """The manifest of a tag or digest in a repository (a path without its registry).

        Where all images exist, digests are known of those whose tags were asked for.
        """
        if not reference.startswith("sha256:"):
            image = f"{repository}:{reference}"
            if self._known is not None and image not in self._known:
                return None
            self._by_digest[digest_of(image)] = image
            return _manifest(image)
        image = self._by_digest.get(reference, "")
        return _manifest(image) if image.rpartition(":")[0] == repository else None


def digest_of(image: str) -> str:
    """The digest of an image's manifest, ``sha256:...``, whichever registry it is in."""
    return "sha256:" + hashlib.sha256(_manifest(_plain(image))).hexdigest()


def _manifest(image: str) -> bytes:
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE,
        "config": {"mediaType": _CONFIG, "size": len(image), "digest": image_id(image)},
        "layers": [],
    }
    return json.dumps(manifest, indent=3).encode()


def _plain(image: str) -> str:
    """``PATH:TAG``, as a registry knows it: Docker Hub's short names have ``library/``."""
    name, tag = name_and_tag(image.partition("@")[0])
    path = _HOST.sub("", name, count=1)
    return f"{path if '/' in path else 'library/' + path}:{tag}"
