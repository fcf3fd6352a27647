"""AlertPolicyService: what shall be told, and when.

https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies; limits from
https://cloud.google.com/monitoring/quotas.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from google.cloud.monitoring_v3 import types
from google.protobuf import empty_pb2

from gcp_emulator.iam.errors import StatusError, failed_precondition, invalid_argument, not_found
from gcp_emulator.iam.names import Project
from gcp_emulator.monitoring.collection import (
    Collection,
    Kept,
    check_user_labels,
    field_of,
    masked,
    new_id,
    ordered,
    record,
    refuse_name,
)
from gcp_emulator.monitoring.filters import Filter, comparisons, matches, parse
from gcp_emulator.monitoring.series import check_aggregation
from gcp_emulator.monitoring.wire import Method

__all__ = ["Policies", "condition_part", "is_told_of_closing"]

_MOST_POLICIES: Final = 2_000
_MOST_CHANNELS: Final = 16
_DAY: Final = 86_400.0
_SHORTEST_CLOSE: Final = 30 * 60.0
_LONGEST_CLOSE: Final = 7 * _DAY
_POLICY: Final = "alert_policy"
_Policy: Final = types.AlertPolicy.pb()
_POLICIES: Final = Collection(
    service="AlertPolicyService",
    one="AlertPolicy",
    many="AlertPolicies",
    path="alertPolicies",
    message=_Policy,
)
_ORDERS: Final[dict[str, Callable[[Any], str]]] = {
    "name": lambda policy: policy.name,
    "display_name": lambda policy: policy.display_name,
    "displayName": lambda policy: policy.display_name,
}
_GT: Final = int(types.ComparisonType.COMPARISON_GT)
_LT: Final = int(types.ComparisonType.COMPARISON_LT)
_OPENED: Final = int(types.AlertPolicy.AlertStrategy.NotificationPrompt.OPENED)
_CLOSED: Final = int(types.AlertPolicy.AlertStrategy.NotificationPrompt.CLOSED)


class Policies:
    """The alert policies of the project.

    Args:
        project: It.
        file: Where they are kept.
        is_known: Whether a metric can be used in a policy.
        find_channel: The channel of a name, which can have the project's number.
        changed: Called after a policy was made, changed or deleted.
        now: The time, in seconds since 1970.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self,
        project: Project,
        file: Path,
        *,
        is_known: Callable[[str], bool],
        find_channel: Callable[[str], Any | None],
        changed: Callable[[], object] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._project = project
        self._is_known = is_known
        self._find_channel = find_channel
        self._changed = changed
        self._now = now
        self._policies = Kept(file, _Policy, missing="Cannot find alerting policy with name")

    @property
    def enabled(self) -> list[Any]:
        """The policies that are to be evaluated."""
        return [policy for policy in self._policies if policy.enabled.value]

    def find(self, name: str) -> Any | None:
        """The policy of this name."""
        return self._policies.find(name)

    def users_of(self, channel: str) -> list[str]:
        """The names of the policies that notify a channel."""
        return [p.name for p in self._policies if channel in p.notification_channels]

    def let_go(self, channel: str) -> None:
        """Take a channel out of all policies."""
        for name in self.users_of(channel):
            self._policies.named(name).notification_channels.remove(channel)
        self._policies.save()

    def methods(self) -> Iterator[Method]:
        """What can be called."""
        yield _POLICIES.create(self._create)
        yield _POLICIES.get(lambda request: self._policies.named(request.name))
        yield _POLICIES.list(self._list)
        yield _POLICIES.update(self._update)
        yield _POLICIES.delete(self._delete)

    def _create(self, request: Any) -> Any:
        made = _Policy()
        made.CopyFrom(request.alert_policy)
        refuse_name(made, _POLICY)
        if any(condition.name for condition in made.conditions):
            raise invalid_argument(
                f"Field {_POLICY}.conditions[0].name had an invalid value: must not be set; it is"
                " assigned."
            )
        self._check(made)
        if len(self._policies) >= _MOST_POLICIES:
            raise failed_precondition(f"A project has at most {_MOST_POLICIES} alerting policies.")
        made.name = f"{self._project.path}/alertPolicies/{new_id()}"
        made.creation_record.CopyFrom(record(self._now()))
        return self._keep(made, made.creation_record)

    def _update(self, request: Any) -> Any:
        known = self._policies.named(request.alert_policy.name)
        changed = masked(known, request.alert_policy, request.update_mask.paths, _POLICY)
        names = {condition.name for condition in known.conditions}
        for index, condition in enumerate(changed.conditions):
            if condition.name and condition.name not in names:
                raise invalid_argument(
                    f"Field {_POLICY}.conditions[{index}].name had an invalid value of"
                    f' "{condition.name}": no condition of this policy.'
                )
        self._check(changed)
        changed.creation_record.CopyFrom(known.creation_record)
        return self._keep(changed, record(self._now()))

    def _keep(self, policy: Any, mutation: Any) -> Any:
        for condition in policy.conditions:
            condition.name = condition.name or f"{policy.name}/conditions/{new_id()}"
        policy.mutation_record.CopyFrom(mutation)
        policy.ClearField("validity")
        if not policy.HasField("enabled"):
            policy.enabled.value = True
        self._policies.put(policy)
        self._changed()
        return policy

    def _delete(self, request: Any) -> empty_pb2.Empty:
        self._policies.remove(self._policies.named(request.name).name)
        self._changed()
        return empty_pb2.Empty()

    def _list(self, request: Any) -> Any:
        selected = parse(request.filter)
        found = [p for p in self._policies if matches(selected, partial(field_of, p))]
        return _POLICIES.page(request, ordered(found, request.order_by, _ORDERS))

    def _check(self, policy: Any) -> None:
        if not policy.display_name:
            raise invalid_argument(
                f"Field {_POLICY}.display_name had an invalid value: must not be empty."
            )
        if len(policy.display_name) > 512:
            raise invalid_argument(
                f"Field {_POLICY}.display_name had an invalid value: at most 512 characters."
            )
        if not 1 <= len(policy.conditions) <= 6:
            raise invalid_argument(
                f"Field {_POLICY}.conditions had an invalid value of"
                f' "size={len(policy.conditions)}": must have from 1 to 6 conditions.'
            )
        if len(policy.conditions) > 1 and not policy.combiner:
            raise invalid_argument(
                f'Field {_POLICY}.combiner had an invalid value of "COMBINE_UNSPECIFIED": must be'
                " set."
            )
        check_user_labels(policy.user_labels, _POLICY)
        _check_documentation(policy.documentation)
        _check_strategy(policy.alert_strategy)
        self._check_channels(policy)
        for index, condition in enumerate(policy.conditions):
            self._check_condition(condition, f"{_POLICY}.conditions[{index}]")

    def _check_channels(self, policy: Any) -> None:
        names = list(policy.notification_channels)
        if len(names) > _MOST_CHANNELS:
            raise invalid_argument(
                f"Field {_POLICY}.notification_channels had an invalid value of"
                f' "size={len(names)}": at most {_MOST_CHANNELS}.'
            )
        found = []
        for index, name in enumerate(names):
            channel = self._find_channel(name)
            if channel is None:
                raise not_found(
                    f"Field {_POLICY}.notification_channels[{index}] had an invalid value of"
                    f' "{name}": Cannot find notification channel with name {name}.'
                )
            found.append(channel.name)
        if len(set(found)) < len(found):
            raise invalid_argument(
                f"Field {_POLICY}.notification_channels had an invalid value: a channel is named"
                " more than once."
            )
        del policy.notification_channels[:]
        policy.notification_channels.extend(found)

    def _check_condition(self, condition: Any, where: str) -> None:
        kind = condition.WhichOneof("condition")
        if kind is None:
            raise invalid_argument(f"Field {where} had an invalid value: a condition is required.")
        if not condition.display_name:
            raise invalid_argument(
                f"Field {where}.display_name had an invalid value: must not be empty."
            )
        if kind not in ("condition_threshold", "condition_absent"):
            raise StatusError(
                501, "UNIMPLEMENTED", f"Field {where}.{kind}: the local cloud does not evaluate it"
            )
        part = getattr(condition, kind)
        where = f"{where}.{kind}"
        metric = _checked_metric(part.filter, f"{where}.filter")
        if not part.HasField("duration"):
            part.duration.SetInParent()
        duration = _seconds_of(part.duration)
        least = 0.0 if kind == "condition_threshold" else 120.0
        if duration % 60 or not least <= duration <= 2 * _DAY:
            raise invalid_argument(
                f'Field {where}.duration had an invalid value of "{duration:g}s": must be a'
                f" multiple of 60 seconds, from {least:g} seconds to two days."
            )
        if len(part.aggregations) > 1:
            raise StatusError(
                501,
                "UNIMPLEMENTED",
                f"Field {where}.aggregations: the local cloud carries out one only",
            )
        for index, aggregation in enumerate(part.aggregations):
            check_aggregation(aggregation, f"{where}.aggregations[{index}]")
        if kind == "condition_threshold":
            _check_threshold(part, where, duration)
        # Google's words: the metric is looked up last.
        if not self._is_known(metric):
            raise not_found(
                f'Cannot find metric(s) that match type = "{metric}". If a metric was created'
                " recently, it could take up to 10 minutes to become available. Please try again"
                " soon."
            )


def condition_part(condition: Any) -> Any:
    """What a condition consists of: a MetricThreshold or a MetricAbsence."""
    return getattr(condition, condition.WhichOneof("condition"))


def is_told_of_closing(policy: Any) -> bool:
    """Whether notifications are sent when incidents close, too; unless said otherwise they are."""
    prompts = policy.alert_strategy.notification_prompts
    return not prompts or _CLOSED in prompts


def _checked_metric(text: str, field: str) -> str:
    """The metric that a condition is about."""
    if len(text) > 2048:
        raise invalid_argument(f"Field {field} had an invalid value: at most 2048 characters.")
    selected = parse(text, field=field)
    for name in ("metric.type", "resource.type"):
        if _only(selected, name) is None:
            raise invalid_argument(
                f'Field {field} had an invalid value of "{text}": must specify a restriction on'
                f' "{name}" in the filter; see'
                ' "https://cloud.google.com/monitoring/api/v3/filters".'
            )
    known = ("metric.", "resource.", "metadata.", "group.", "project")
    for one in comparisons(selected):
        if not one.field.startswith(known):
            raise invalid_argument(
                f'Field {field} had an invalid value of "{text}": unknown field "{one.field}".'
            )
    return str(_only(selected, "metric.type"))


def _only(selected: Filter | None, name: str) -> str | None:
    """The one value that a field must have for the filter to match."""
    for one in comparisons(selected, sure=True):
        if one.field == name and one.operator == "=" and one.function in ("", "one_of"):
            return one.values[0] if len(one.values) == 1 or name == "resource.type" else None
    return None


def _check_threshold(part: Any, where: str, duration: float) -> None:
    if part.comparison not in (_GT, _LT):
        name = types.ComparisonType(part.comparison).name
        raise invalid_argument(
            f'Field {where}.comparison had an invalid value of "{name}": must be COMPARISON_GT or'
            " COMPARISON_LT."
        )
    for name in ("denominator_filter", "denominator_aggregations"):
        if getattr(part, name):
            raise StatusError(
                501, "UNIMPLEMENTED", f"Field {where}.{name}: the local cloud knows no ratios"
            )
    if part.HasField("forecast_options"):
        raise StatusError(
            501, "UNIMPLEMENTED", f"Field {where}.forecast_options: the local cloud can't foresee"
        )
    if part.evaluation_missing_data and duration < 60:
        raise invalid_argument(
            f"Field {where}.evaluation_missing_data had an invalid value: the duration must be at"
            " least 60 seconds."
        )


def _check_documentation(documentation: Any) -> None:
    field = f"{_POLICY}.documentation"
    content, subject = documentation.content, documentation.subject
    if len(content) > 8_192 or len(content.encode()) > 10_240:
        raise invalid_argument(
            f"Field {field}.content had an invalid value: at most 8192 characters and 10240 bytes."
        )
    if len(subject.encode()) > 10_240:
        raise invalid_argument(f"Field {field}.subject had an invalid value: at most 10240 bytes.")
    if "\n" in subject or "\r" in subject:
        raise invalid_argument(f"Field {field}.subject had an invalid value: one line only.")
    if documentation.mime_type not in ("", "text/markdown"):
        raise invalid_argument(
            f'Field {field}.mime_type had an invalid value of "{documentation.mime_type}": must be'
            " text/markdown."
        )
    if content and not documentation.mime_type:
        documentation.mime_type = "text/markdown"
    if len(documentation.links) > 3:
        raise invalid_argument(f"Field {field}.links had an invalid value: at most 3 links.")
    for link in documentation.links:
        if not 1 <= len(link.display_name) <= 63 or not 1 <= len(link.url) <= 2083:
            raise invalid_argument(f"Field {field}.links had an invalid value: name or url.")


def _check_strategy(strategy: Any) -> None:
    field = f"{_POLICY}.alert_strategy"
    if strategy.HasField("notification_rate_limit"):
        raise invalid_argument(
            f"Field {field}.notification_rate_limit had an invalid value: only log-based alerting"
            " policies may specify a notification rate limit."
        )
    if strategy.HasField("auto_close"):
        seconds = _seconds_of(strategy.auto_close)
        if not _SHORTEST_CLOSE <= seconds <= _LONGEST_CLOSE:
            raise invalid_argument(
                f'Field {field}.auto_close had an invalid value of "{seconds:g}s": must be from'
                " 30 minutes to 7 days."
            )
    prompts = set(strategy.notification_prompts)
    if prompts and (_OPENED not in prompts or not prompts <= {_OPENED, _CLOSED}):
        raise invalid_argument(
            f"Field {field}.notification_prompts had an invalid value: must be OPENED, or OPENED"
            " and CLOSED."
        )
    if strategy.notification_channel_strategy:
        raise StatusError(
            501,
            "UNIMPLEMENTED",
            f"Field {field}.notification_channel_strategy: the local cloud sends no reminders",
        )


def _seconds_of(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
