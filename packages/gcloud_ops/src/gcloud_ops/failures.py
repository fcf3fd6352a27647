"""Why experiments fail, in words: each kind of end (docs/contract.md), and what to do about it.

    exit kind in a record           explain("oom") -> what it means, what helps
    code of Compute Engine          of_error_code("ZONE_RESOURCE_POOL_EXHAUSTED") -> "stock_out"
    Docker's words on a console     pull_failure(text) -> why the image could not be had

Pure: words in, words out. What an experiment waits for (a stock-out, a quota) is no failure: its
group goes on trying, so these are reasons of a status and never of a final record.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["KINDS", "Explanation", "explain", "of_error_code", "pull_failure", "waits_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A kind of end, for people."""

    kind: str
    words: str
    """What has happened, as the rest of a sentence: `ran out of memory`."""
    advice: str
    """What to do about it; "" where nothing is to be done."""
    helps: bool = False
    """Whether running the same again may end otherwise."""


def _known(kind: str, words: str, advice: str = "", *, helps: bool = False) -> Explanation:
    return Explanation(kind=kind, words=words, advice=advice, helps=helps)


KINDS: Final[Mapping[str, Explanation]] = {
    one.kind: one
    for one in (
        _known("ok", "finished"),
        _known("error", "the program ended with an error", "read the end of its log"),
        _known(
            "usage",
            "the program refused its flags",
            "correct the command: the log's last lines name the flag",
        ),
        _known(
            "not_found",
            "there is no such program in the image",
            "correct the command, or take an image that has it",
        ),
        _known("signal", "a signal ended the program", "rerun it", helps=True),
        _known(
            "oom",
            "ran out of memory",
            "take a machine type with more memory (--machine-type n2-highmem-8), or fewer "
            "environments (--n_envs)",
        ),
        _known(
            "disk_full",
            "the disk is full",
            "take a larger disk (template create --disk-gb), or keep fewer checkpoints",
        ),
        _known(
            "energyplus",
            "EnergyPlus ended with a severe error",
            "read eplusout.err in the experiment's outputs: it names the object of the building",
        ),
        _known(
            "nan",
            "the training's numbers are no numbers any more",
            "lower --learning_rate, or normalize with --normalize_obs and --normalize_action",
        ),
        _known(
            "out_of_time",
            "the limit of its time is used up",
            "rerun it with a higher --max-hours: it goes on from its last checkpoint",
            helps=True,
        ),
        _known("upload", "its outputs could not be uploaded", "rerun it", helps=True),
        _known("idle", "no command came", "launch with --dispatch boot, or resume it", helps=True),
        _known("cancelled", "somebody cancelled it", "rerun it if that was a mistake", helps=True),
        _known("dispatch", "the command could not be handed over", "rerun it", helps=True),
        _known(
            "image_pull",
            "the container's image could not be had",
            "look at the image with `gcloud-ops doctor`: its name, and whether the instances' "
            "service account may read it",
        ),
        _known("lost", "its VM is gone without a word", "rerun it", helps=True),
        _known("preempted", "Compute Engine took the Spot VM back", helps=True),
        _known("unknown", "it ended without a word", helps=True),
        _known(
            "stock_out",
            "the zone has no such machines at the moment",
            "its group goes on trying; other --zones or --machine-type may be free",
            helps=True,
        ),
        _known(
            "quota",
            "the project's quota is used up",
            "its group goes on trying; ask for more quota, or wait until others have ended",
            helps=True,
        ),
        _known(
            "refused",
            "Compute Engine refuses to make the instance",
            "the message says why; cancel it, mend that, and launch again",
        ),
    )
}
"""Every kind that we know, in the contract's order, then those of waiting."""

_STOCK_OUT: Final = re.compile(r"RESOURCE_POOL_EXHAUSTED|INSUFFICIENT_?CAPACITY", re.IGNORECASE)
_QUOTA: Final = re.compile(r"QUOTA|RATE_?LIMIT|RESOURCE_OPERATION_RATE", re.IGNORECASE)
_PASSING: Final = frozenset({"INTERNAL_ERROR", "RESOURCE_NOT_READY", "UNSUPPORTED_OPERATION", ""})


def explain(kind: str) -> Explanation:
    """What a kind means; one that we don't know is shown as it is."""
    return KINDS.get(kind) or Explanation(kind=kind, words=kind.replace("_", " "), advice="")


def of_error_code(code: str) -> str:
    """The kind of a code that Compute Engine gives as why it can't make an instance.

    `stock_out`, `quota`, `refused` (it will not become better by itself), or "" for what passes.
    The codes are those that Google's own autoscaler and gcloud tell apart: a managed instance's
    `lastAttempt.errors` (https://cloud.google.com/compute/docs/instance-groups/getting-info-about-migs).
    """
    if _STOCK_OUT.search(code):
        return "stock_out"
    if _QUOTA.search(code):
        return "quota"
    return "" if code.upper() in _PASSING else "refused"


def waits_for(code: str, message: str) -> str:
    """Why there is no instance yet, in a few words: the kind's, the code, the message's quota."""
    kind = of_error_code(code)
    if not kind:
        return code.lower().replace("_", " ")
    if kind == "refused":
        return f"{code}: {message}" if message else code
    quota = re.search(r"Quota '([A-Z0-9_-]+)' exceeded\.?(?:\s+Limit: ([0-9.]+))?", message)
    detail = f" ({quota[1]}{f', limit {quota[2]}' if quota[2] else ''})" if quota else ""
    return f"{explain(kind).words}{detail}"


_PULL_FAILURES: Final = (
    (r"manifest (?:for \S+ )?(?:not found|unknown)|MANIFEST_UNKNOWN|name unknown",
     "there is no such image in the registry"),
    (r"denied|unauthorized|403 Forbidden|401 Unauthorized",
     "the registry refuses the instances' service account (role artifactregistry.reader)"),
    (r"no space left on device", "the disk is too small for the image"),
    (r"no matching manifest for", "the image is for another kind of processor"),
    (r"TLS handshake|i/o timeout|no such host|connection refused|Client\.Timeout",
     "the registry can't be reached from the instance (no address, and no private access?)"),
    (r"toomanyrequests|429 Too Many", "the registry asks to come back later"),
)  # fmt: skip


def pull_failure(text: str) -> str:
    """Why Docker could not have an image, from its words; "" if they say nothing of the kind.

    Args:
        text: What the container's unit wrote, such as the end of a serial port's output.
    """
    if not re.search(r"docker: |Error response from daemon|Unable to find image", text):
        return ""
    for pattern, words in _PULL_FAILURES:
        if re.search(pattern, text, re.IGNORECASE):
            return words
    return ""
