"""Kubernetes manifests: a batch/v1 Job for one node, a JobSet for several.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/ and https://jobset.sigs.k8s.io. The
recipe travels in a ConfigMap. A pod that was evicted is not counted as a failure, a wrong recipe (exit code 2) is not
tried again; rules of a JobSet for that need its release 0.6.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.amounts import quantity
from gristmill.pipeline.launch.job import GRACE, Job
from gristmill.pipeline.launch.manifest import yaml_text
from gristmill.pipeline.launch.shell import prelude
from gristmill.pipeline.launch.torchrun import PORT, Rendezvous, scheduled_command, torchrun_exports

GROUP = "node"
RECIPE_FOLDER = "/etc/gristmill"
GPU = "nvidia.com/gpu"
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)\Z")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")


def text(job: Job) -> str:
    """The manifest: a ConfigMap with the recipe, and the Job or JobSet."""
    return yaml_text(*documents(job))


def documents(job: Job) -> list[dict[str, Any]]:
    """The manifest's objects; raises UserError where a name breaks Kubernetes' rules."""
    _check(job)
    configuration = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(job),
                     "data": {"recipe.yaml": job.recipe_text}}
    if job.nodes == 1:
        main: dict[str, Any] = {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(job, queued=True),
                                "spec": _job_spec(job)}
    else:
        main = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": _metadata(job, queued=True),
                "spec": {
                    "network": {"enableDNSHostnames": True, "subdomain": job.name, "publishNotReadyAddresses": True},
                    "failurePolicy": {"maxRestarts": job.restarts, "rules": [
                        {"name": "wrong", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]},
                    "replicatedJobs": [{"name": GROUP, "replicas": 1, "template": {"spec": _job_spec(job)}}]}}
    return [configuration, main]


def literal(value: str) -> str:
    """`value` as it has to stand in `command`, `args` and `env`, where Kubernetes expands $(NAME) and reads $$ as $."""
    return value.replace("$", "$$")


def _metadata(job: Job, queued: bool = False) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "gristmill", "app.kubernetes.io/instance": job.name}
    if queued and job.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = job.queue
    return {"name": job.name, **({"namespace": job.namespace} if job.namespace else {}), "labels": labels}


def _job_spec(job: Job) -> dict[str, Any]:
    spec: dict[str, Any] = {"completions": job.nodes, "parallelism": job.nodes, "completionMode": "Indexed"}
    if job.seconds is not None:
        spec["activeDeadlineSeconds"] = job.seconds
    rules: list[dict[str, Any]] = [
        {"action": "FailJob", "onExitCodes": {"containerName": "gristmill", "operator": "In", "values": [2]}}]
    if job.nodes > 1:
        # One lost pod ends this Job, and the JobSet begins all of them again, but for this rule.
        spec |= {"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}
    else:
        rules.append({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})
        spec |= {"backoffLimit": job.restarts, "podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}}
    return spec | {"template": {"metadata": {"labels": _metadata(job)["labels"]}, "spec": _pod_spec(job)}}


def _pod_spec(job: Job) -> dict[str, Any]:
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"},
              {"name": "recipe", "mountPath": RECIPE_FOLDER, "readOnly": True}]
    # The default of 64 MiB is too little for processes that hand each other tensors.
    memory = {"medium": "Memory", **({"sizeLimit": quantity(max(1, job.memory // 2))} if job.memory else {})}
    volumes: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": memory},
                                     {"name": "recipe", "configMap": {"name": job.name}}]
    if job.volume is not None:
        mounts.append({"name": "runs", "mountPath": job.runs_dir})
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": job.volume}})
    container = {"name": "gristmill", "image": job.image, **_command(job), "env": _environment(job),
                 "resources": _resources(job), "volumeMounts": mounts}
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE, "containers": [container],
                           "volumes": volumes}
    if job.node_selector:
        pod["nodeSelector"] = dict(job.node_selector)
    if job.tolerations:
        pod["tolerations"] = [_toleration(*each) for each in job.tolerations]
    return pod


def _command(job: Job) -> dict[str, Any]:
    recipe = f"{RECIPE_FOLDER}/recipe.yaml"
    if job.world == 1 and not job.setup:
        return {"command": ["gristmill"], "args": [literal(word) for word in job.words(recipe)]}
    rendezvous = None
    if job.nodes > 1:
        rendezvous = Rendezvous(
            endpoint=f"{job.name}-{GROUP}-0-0.{job.name}:{PORT}", identity=shlex.quote(job.name),
            is_host='"$([ "$JOB_COMPLETION_INDEX" = 0 ] && echo true || echo false)"')
    lines = [*prelude(job, cd=False, own=False), *(torchrun_exports(job) if job.world > 1 else []),
             f"exec {scheduled_command(job, rendezvous, recipe)}", ""]  # exec: SIGTERM reaches it, not bash
    return {"command": ["bash", "-c"], "args": [literal("\n".join(lines))]}


def _environment(job: Job) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": literal(value)} for name, value in job.variables().items()]
    return plain + [{"name": name, "valueFrom": {"secretKeyRef": {"name": secret_name(job), "key": name}}}
                    for name in job.secrets]


def secret_name(job: Job) -> str:
    """The Secret that has to be there before a job with secrets starts."""
    return f"{job.name}-secrets"


def _resources(job: Job) -> dict[str, dict[str, str]]:
    asked: dict[str, str] = {}
    bounds: dict[str, str] = {}
    if job.cpus is not None:
        asked["cpu"] = str(job.cpus)  # no limit: it would stop threads for a while, and bursts cost nobody anything
    if job.memory is not None:
        asked["memory"] = bounds["memory"] = quantity(job.memory)
    if job.gpus:
        asked[GPU] = bounds[GPU] = str(job.gpus)
    return {key: value for key, value in (("requests", asked), ("limits", bounds)) if value}


def _toleration(key: str, value: str, effect: str) -> dict[str, str]:
    found = {"key": key, "operator": "Equal", "value": value} if value else {"key": key, "operator": "Exists"}
    return found | ({"effect": effect} if effect else {})


def _check(job: Job) -> None:
    # Pods of a JobSet are called NAME-node-0-INDEX-abcde, those of a Job NAME-INDEX-abcde; 63 characters at most.
    suffix = len(f"-{GROUP}-0-{job.nodes - 1}-abcde") if job.nodes > 1 else len("-0-abcde")
    _rule(len(job.name) + suffix <= 63, "--name", f"{job.name!r} is too long: the names of its pods have {suffix} "
          "characters more", f"at most {63 - suffix} characters")
    _rule(job.image is not None, "--image", "Kubernetes needs a container image with gristmill in it",
          "--image REGISTRY/NAME:TAG")
    _rule(bool(job.recipe_text), "RECIPE", "the recipe's text is needed: it travels in a ConfigMap")
    _rule(len(job.recipe_text.encode()) < 1_000_000, "RECIPE", "more than a ConfigMap holds (1 MB)")
    _rule(job.queue is None or bool(_LABEL.match(job.queue)), "--queue", f"{job.queue!r} is not the name of a queue")
    _rule(job.namespace is None or (len(job.namespace) <= 63 and bool(_SUBDOMAIN.match(job.namespace))
                                    and "." not in job.namespace),
          "--namespace", f"{job.namespace!r} is not the name of a namespace")
    _rule(job.volume is None or bool(_SUBDOMAIN.match(job.volume)), "--runs-volume",
          f"{job.volume!r} is not the name of a PersistentVolumeClaim")
    _rule(job.volume is None or (job.runs_dir.startswith("/") and ":" not in job.runs_dir), "--runs-dir",
          "a volume is mounted at an absolute path without ':'", "--runs-dir /runs")
    for key, value in job.node_selector:
        _rule(bool(_KEY.match(key)) and (not value or bool(_LABEL.match(value))), "--node-selector",
              f"{key}={value} is not a label")
    for key, value, effect in job.tolerations:
        _rule(bool(_KEY.match(key)) and (not value or bool(_LABEL.match(value))) and effect in _EFFECTS, "--toleration",
              f"{key}={value}:{effect} is not a toleration", "KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT with "
              "NoSchedule, PreferNoSchedule or NoExecute")


def _rule(condition: bool, where: str, what: str, fix: str | None = None) -> None:
    if not condition:
        raise UserError(what, where=where, fix=fix)
