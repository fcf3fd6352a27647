"""The metrics and policies that we want, in the JSON that Monitoring's API documents.

Pure: nothing is asked, nothing of Google's is imported.

Each end is announced by exactly one policy. A sweep that has each experiment announced
(`notify` is `each`) has its ends told one by one; of any other, failures are told, all that come
within half an hour of another as one incident. The end of a sweep is told always.

That the tracking server is down is told when its signs of life stay away, whatever the reason; not
where there never was one.

References: https://cloud.google.com/monitoring/api/v3/filters,
https://cloud.google.com/monitoring/alerts/doc-variables
"""

from collections.abc import Mapping
from typing import Any, Final

from gcloud_ops.signals import EXPERIMENT_FINISHED, SWEEP_FINISHED, TRACKING_SERVER_UP

__all__ = [
    "EACH_LABEL",
    "MADE_BY",
    "METRICS",
    "WHICH_LABEL",
    "experiment_labels",
    "policies",
]

type Json = dict[str, Any]

MADE_BY: Final = {"made-by": "gcloud-ops"}
"""User label of all that we make."""
WHICH_LABEL: Final = "sinergym"
"""User label that says which of our policies one is."""
EACH_LABEL: Final = "each"
"""User label of policies that announce each experiment of every sweep."""

_EXPERIMENT_LABELS: Final = {
    "sweep": "The sweep.",
    "experiment": "The experiment: the sweep and a number.",
    "status": "finished, failed or lost.",
    "kind": "How the command ended: ok, error, signal, oom...",
    "notify": "each: this end is to be announced by itself; sweep: failures of a sweep together.",
    "duration": "How long it took, as text.",
    "mean_reward": "The last mean reward, as text: mean reward -212.50.",
    "hint": "Why it ended as it did, where there is more to say: hint: ...",
}
_SWEEP_LABELS: Final = {
    "sweep": "The sweep.",
    "status": "finished: all experiments well; failed: some not.",
    "experiments": "How many experiments it has.",
    "failed": "How many of them did not finish.",
    "duration": "How long it took, as text.",
    "best_reward": "The highest mean reward, as text: best mean reward -212.50.",
}


def _metric(kind: str, name: str, description: str, labels: Mapping[str, str]) -> Json:
    return {
        "type": kind,
        "displayName": name,
        "description": description,
        "metricKind": "GAUGE",
        "valueType": "INT64",
        "unit": "1",
        "labels": [
            {"key": key, "valueType": "STRING", "description": text}
            for key, text in labels.items()
        ],
    }


METRICS: Final[tuple[Json, ...]] = (
    _metric(
        EXPERIMENT_FINISHED,
        "Sinergym: experiment ended",
        "1 when an experiment of a sweep has ended; the labels say which one, and how.",
        _EXPERIMENT_LABELS,
    ),
    _metric(
        SWEEP_FINISHED,
        "Sinergym: sweep ended",
        "1 when all experiments of a sweep have ended.",
        _SWEEP_LABELS,
    ),
    _metric(
        TRACKING_SERVER_UP,
        "Sinergym: tracking server up",
        "1 every minute in which the MLflow tracking server answers.",
        {},
    ),
)
"""The descriptors (`MetricDescriptor`) of what the runner and the tracking server write."""


def experiment_labels(**given: str) -> dict[str, str]:
    """All labels of `EXPERIMENT_FINISHED`: these, and "" for the others."""
    return {**dict.fromkeys(_EXPERIMENT_LABELS, ""), **given}


def policies(project: str, *, each: bool, google: bool) -> dict[str, Json]:
    """The policies (`AlertPolicy`), by what they announce.

    Args:
        project: Its id, for the commands and links in the messages.
        each: Announce each experiment of every sweep, also of those that ask for less.
        google: Whether this is Google Cloud; elsewhere the commands say `--local`, and there is
            no console to link to.
    """
    cloud = f"--project {project}" if google else "--local"
    of_each = "" if each else ' AND metric.label.notify="each"'

    def ended(status: str) -> str:
        return f'metric.type="{EXPERIMENT_FINISHED}"{of_each} AND metric.label.status="{status}"'

    def failing(status: str) -> Json:
        return _condition(
            f"An experiment {'has failed' if status == 'failed' else 'is lost'}",
            f'metric.type="{EXPERIMENT_FINISHED}" AND metric.label.notify="sweep" AND '
            f'metric.label.status="{status}"',
            by=("sweep", "status"),
        )

    texts = _Texts(cloud)
    found = {
        "experiment-finished": _policy(
            "Sinergym: experiment finished",
            [_condition("An experiment has finished", ended("finished"))],
            "Finished: ${metric.label.experiment}",
            texts.experiment("has finished"),
        ),
        "experiment-failed": _policy(
            "Sinergym: experiment failed",
            [_condition("An experiment has failed", ended("failed"))],
            "FAILED: ${metric.label.experiment}",
            texts.experiment("has failed"),
            severity="ERROR",
        ),
        "heartbeat-lost": _policy(
            "Sinergym: heartbeat lost",
            [_condition("An experiment is lost", ended("lost"))],
            "LOST: ${metric.label.experiment}",
            texts.experiment("gave no sign of life any more, and its instance is gone"),
            severity="ERROR",
        ),
        "experiments-failed": _policy(
            "Sinergym: experiments of a sweep failed",
            [failing("failed"), failing("lost")],
            "FAILED: experiments of sweep ${metric.label.sweep} (${metric.label.status})",
            texts.failures(),
            severity="ERROR",
        ),
        "sweep-finished": _policy(
            "Sinergym: sweep finished",
            [_condition("A sweep is over", f'metric.type="{SWEEP_FINISHED}"')],
            "Sweep ${metric.label.sweep}: ${metric.label.status}, "
            "${metric.label.failed} of ${metric.label.experiments} failed",
            texts.sweep(),
        ),
        "tracking-server-down": _policy(
            "Sinergym: tracking server down",
            [_absence("No sign of life", TRACKING_SERVER_UP, seconds=300)],
            f"DOWN: the tracking server of {project}",
            texts.tracking_server(project),
            severity="ERROR",
            close_after=86_400,  # Monitoring looks for the absence of a day's series, no longer
        ),
    }
    if each:  # then failures are told one by one, and must not be told again
        del found["experiments-failed"]
    for which, policy in found.items():
        policy["userLabels"] = {**MADE_BY, WHICH_LABEL: which, EACH_LABEL: "yes" if each else "no"}
        if google:
            policy["documentation"]["links"] = _links(project)
    return found


def _condition(name: str, filtered: str, *, by: tuple[str, ...] = ()) -> Json:
    """Any point at all opens an incident: for each series, or for each combination of `by`."""
    aggregation = {
        "alignmentPeriod": "60s",
        "perSeriesAligner": "ALIGN_MAX",
        "crossSeriesReducer": "REDUCE_SUM" if by else "REDUCE_NONE",
        "groupByFields": [f"metric.label.{label}" for label in by],
    }
    return {
        "displayName": name,
        "conditionThreshold": {
            "filter": f'{filtered} AND resource.type="global"',
            "comparison": "COMPARISON_GT",
            "thresholdValue": 0,
            "duration": "0s",
            "trigger": {"count": 1},
            "aggregations": [aggregation],
        },
    }


def _absence(name: str, metric: str, *, seconds: int) -> Json:
    """An incident when a series that was written stays away; three minutes are the least.

    See https://cloud.google.com/monitoring/alerts/metric-absence.
    """
    return {
        "displayName": name,
        "conditionAbsent": {
            "filter": f'metric.type="{metric}" AND resource.type="global"',
            "duration": f"{seconds}s",
            "trigger": {"count": 1},
            "aggregations": [{"alignmentPeriod": "60s", "perSeriesAligner": "ALIGN_MAX"}],
        },
    }


def _policy(
    name: str,
    conditions: list[Json],
    subject: str,
    content: str,
    *,
    severity: str | None = None,
    close_after: int = 1_800,
) -> Json:
    return {
        "displayName": name,
        "combiner": "OR",
        "conditions": conditions,
        "documentation": {"subject": subject, "content": content, "mimeType": "text/markdown"},
        "alertStrategy": {
            # Half an hour is the least that Google takes. Nobody is told of a close: what has
            # ended stays ended.
            "autoClose": f"{close_after}s",
            "notificationPrompts": ["OPENED"],
        },
        **({"severity": severity} if severity else {}),
    }


def _links(project: str) -> list[Json]:
    console = "https://console.cloud.google.com"
    return [
        {
            "displayName": "Results",
            "url": f"{console}/storage/browser?project={project}",
        },
        {
            "displayName": "Instance groups",
            "url": f"{console}/compute/instanceGroups/list?project={project}",
        },
        {
            "displayName": "Incidents",
            "url": f"{console}/monitoring/alerting/incidents?project={project}",
        },
    ]


class _Texts:
    """What the messages say, in Markdown; the hint, text from outside, stands in a code block."""

    def __init__(self, cloud: str) -> None:
        self._cloud = cloud

    def experiment(self, what: str) -> str:
        return (
            f"Experiment `${{metric.label.experiment}}` of sweep `${{metric.label.sweep}}` "
            f"{what}.\n\n"
            # Before the list: after it, what is indented would be a part of its last item.
            "    ${metric.label.hint}\n\n"
            + _list(
                ("Status", "${metric.label.status} (${metric.label.kind})"),
                ("Duration", "${metric.label.duration}"),
                ("Result", "${metric.label.mean_reward}"),
            )
            + self._look_further(
                "sweep status ${metric.label.sweep}",
                "sweep logs ${metric.label.sweep} ${metric.label.experiment}",
                "bucket ls ${metric.label.sweep}/${metric.label.experiment}",
            )
        )

    def failures(self) -> str:
        return (
            "Experiments of sweep `${metric.label.sweep}` did not finish: "
            "`${metric.label.status}`.\n\n"
            "Further ones that end so within half an hour belong to this message.\n"
            + self._look_further(
                "sweep status ${metric.label.sweep}", "sweep logs ${metric.label.sweep} --tail 20"
            )
        )

    def sweep(self) -> str:
        return (
            "All experiments of sweep `${metric.label.sweep}` have ended.\n\n"
            + _list(
                ("Status", "${metric.label.status}"),
                ("Experiments", "${metric.label.experiments}"),
                ("Did not finish", "${metric.label.failed}"),
                ("Duration", "${metric.label.duration}"),
                ("Result", "${metric.label.best_reward}"),
            )
            + self._look_further(
                "sweep status ${metric.label.sweep}", "bucket pull ${metric.label.sweep}"
            )
        )

    def tracking_server(self, project: str) -> str:
        return (
            f"The MLflow tracking server of `{project}` has given no sign of life for five "
            "minutes: MLflow, its database or its VM does not answer, or `mlflow-infra down` "
            "has taken it down.\n\n"
            "Trainings go on without it, and hand over later what they can.\n"
            + self._look_further("status", "logs --lines 50", program="mlflow-infra")
        )

    def _look_further(self, *commands: str, program: str = "gcloud-ops") -> str:
        lines = "".join(f"    {program} {self._cloud} {words}\n" for words in commands)
        return f"\nLook further:\n\n{lines}"


def _list(*rows: tuple[str, str]) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in rows)
