#!/bin/bash
# The container has not started (its image could not be had, as a rule), or was killed again and again.
# So there is no runner to say so and to remove this instance, which would cost money for ever.
# systemd runs this when sinergym.service has failed (docs/contract.md, section 4).
set -u
export LC_ALL=C

metadata="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1"
compute=${CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE:-https://compute.googleapis.com/compute/v1/}
storage=${STORAGE_EMULATOR_HOST:-https://storage.googleapis.com}
monitoring=${CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING:-https://monitoring.googleapis.com/}

state=$(docker inspect --format '{{.State.StartedAt}} {{.State.ExitCode}}' sinergym 2>/dev/null)
kind=image_pull
case $state in
'' | 0001-*) began='' ;;
*' 2') began='' kind=error ;; # it could not even begin: a full disk, say
*' 137' | *' 75') began=yes ;; # killed, or to be tried again
*) exit 0 ;; # The runner has been there to its end: all else is its own.
esac

ask() {
    curl --silent --show-error --fail --retry 6 --retry-connrefused --max-time 20 "$@"
}
meta() {
    ask --header 'Metadata-Flavor: Google' "$metadata/$1"
}
# The token comes to curl through a pipe: a command line can be read by every process.
google() {
    ask --config <(printf 'header = "Authorization: Bearer %s"\n' "$token") \
        --header 'Content-Type: application/json' "$@"
}
member() {
    sed -n "s/.*\"$1\" *: *\"\\([^\"]*\\)\".*/\\1/p" | head -n 1
}
# What others wrote, as the inside of a JSON string.
plain() {
    tr -dc '[:print:]' | tr -d '"\\' | cut -c 1-300
}

token=$(meta instance/service-accounts/default/token | tr -d '\n' | member access_token)
project=$(meta project/project-id)
name=$(meta instance/name)
id=$(meta instance/id)
zone=$(meta instance/zone) && zone=${zone##*/}
group=$(meta instance/attributes/created-by)
bucket=$(meta instance/attributes/sinergym-bucket)
sweep=$(meta instance/attributes/sinergym-sweep)
image=$(meta instance/attributes/sinergym-image | plain)
why=$(journalctl --unit sinergym.service --output cat --lines 50 | grep -a 'docker: ' | tail -n 1 | plain)
now=$(date --utc +%Y-%m-%dT%H:%M:%SZ)
hint="the container could not be started: ${why:-docker gave no reason}"
[ $kind = error ] && hint="the runner could not begin: $(docker logs --tail 1 sinergym 2>&1 | plain)"
[ -n "$began" ] && hint='the runner was started too often'
echo "sinergym: $hint"

write_record() {
    google --output /dev/null --data-binary @- \
        "$storage/upload/storage/v1/b/$bucket/o?uploadType=media&name=$sweep%2Frecords%2F$name.json&ifGenerationMatch=0" <<EOF
{"schema": 1, "sweep": "$sweep", "experiment": "$name", "attempt": 1, "state": "failed",
 "instance": "$name", "instance_id": "$id", "spent": 0, "history": [], "command": null,
 "image": "$image", "versions": {}, "started": "$now", "updated": "$now", "ended": "$now",
 "progress": {}, "mlflow": null, "outputs": null, "signal": null,
 "exit": {"code": 125, "signal": null, "kind": "$kind", "hint": "$hint"}}
EOF
}
signal() {
    google --output /dev/null --data-binary @- "${monitoring}v3/projects/$project/timeSeries" <<EOF
{"timeSeries": [{
  "metric": {"type": "custom.googleapis.com/sinergym/experiment_finished", "labels": {
    "sweep": "$sweep", "experiment": "$name", "status": "failed", "kind": "$kind",
    "notify": "sweep", "duration": "0 s", "mean_reward": "no mean reward",
    "hint": "hint: ${hint:0:200}"}},
  "resource": {"type": "global", "labels": {"project_id": "$project"}},
  "metricKind": "GAUGE", "valueType": "INT64",
  "points": [{"interval": {"endTime": "$now"}, "value": {"int64Value": "1"}}]}]}
EOF
}
# Only where there is no record yet. One of a runner that was killed says more than this can: it
# becomes that of a lost experiment, by whoever finds its instance gone.
[ -z "$began" ] && write_record && signal

[ "$(meta instance/attributes/sinergym-keep 2>/dev/null)" = TRUE ] && exit 0
# Through the group, never directly: the group would make a deleted member again. The last one takes
# the group with it. Instances that fail together would all think that others are left; so none is
# in a hurry. (An empty group that stays costs nothing, and goes with the next look at the sweep.)
sleep "$((RANDOM % 15))"
if google "$compute$group" | grep -q '"targetSize": *1\b'; then
    google --output /dev/null --request DELETE "$compute$group"
    exit
fi
google --output /dev/null --data-binary @- "$compute$group/deleteInstances" <<EOF
{"instances": ["zones/$zone/instances/$name"], "skipInstancesOnValidationError": true}
EOF
