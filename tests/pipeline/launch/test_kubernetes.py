"""Manifests: schemas, names, and Kubernetes' own expansion of $(NAME).

The Job is checked against the published OpenAPI schema where `kubernetes-validate` is installed. JobSet's schema is a
custom resource of its own; `JOBSET` below is the part that we use, written from the API reference of v1alpha2.
"""

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch_jobs import NASTY, PATHS, RECIPE, VARIABLES, job

from gristmill.core.errors import UserError
from gristmill.pipeline.launch import kubernetes

IMAGE = "registry.example/gristmill:1"


def made(**given):
    return job(**{"image": IMAGE, **given})


def closed(required: list[str], **properties) -> dict:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


COUNT, TEXT = {"type": "integer", "minimum": 0}, {"type": "string"}
OBJECT = {"type": "object"}
JOBSET = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"}, kind={"const": "JobSet"}, metadata=OBJECT,
    spec=closed(
        ["replicatedJobs"],
        network=closed([], enableDNSHostnames={"type": "boolean"}, subdomain=TEXT,
                       publishNotReadyAddresses={"type": "boolean"}),
        successPolicy=closed(["operator"], operator={"enum": ["All", "Any"]}, targetReplicatedJobs={"type": "array"}),
        failurePolicy=closed([], maxRestarts=COUNT, rules={"type": "array", "items": closed(
            ["name", "action"], name=TEXT, targetReplicatedJobs={"type": "array"},
            action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob"]},
            onJobFailureReasons={"type": "array", "items": {"enum": [
                "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded",
                "PodFailurePolicy"]}})},
                             restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]}),
        startupPolicy=OBJECT, suspend={"type": "boolean"}, coordinator=OBJECT, managedBy=TEXT,
        ttlSecondsAfterFinished=COUNT,
        replicatedJobs={"type": "array", "minItems": 1, "items": closed(
            ["name", "template"], name=TEXT, replicas=COUNT, groupName=TEXT, dependsOn={"type": "array"},
            template=closed([], metadata=OBJECT, spec=closed(
                ["template"], completions=COUNT, parallelism=COUNT, backoffLimit=COUNT,
                completionMode={"enum": ["NonIndexed", "Indexed"]}, activeDeadlineSeconds=COUNT, template=OBJECT,
                podFailurePolicy=OBJECT)))}))

FULL = {
    "cpus": 16, "memory": 65536, "seconds": 7200, "queue": "team-a", "namespace": "training", "volume": "runs-claim",
    "runs_dir": "/runs", "secrets": ("HF_TOKEN",), "environment": (("A", "1e3"),), "setup": ("ulimit -n 65536",),
    "node_selector": (("cloud.example/gpu", "h100"),), "gpus": 8,
    "tolerations": (("nvidia.com/gpu", "", "NoSchedule"), ("team", "a", ""))}


def documents(job) -> list[dict]:
    return list(yaml.safe_load_all(kubernetes.text(job)))


def container(main: dict) -> dict:
    return pod(main)["containers"][0]


def pod(main: dict) -> dict:
    spec = main["spec"]
    return (spec["replicatedJobs"][0]["template"]["spec"] if main["kind"] == "JobSet" else spec)["template"]["spec"]


def expand(text: str, variables: dict[str, str]) -> str:
    """What the kubelet makes of a text: $$ is $, $(NAME) a known variable's value; written from the API reference."""
    out, at = [], 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            if text[at + 1] == "$":
                out.append("$")
                at += 2
                continue
            end = text.find(")", at)
            if text[at + 1] == "(" and end > 0:
                name = text[at + 2:end]
                out.append(variables.get(name, f"$({name})"))
                at = end + 1
                continue
        out.append(text[at])
        at += 1
    return "".join(out)


@pytest.mark.parametrize("given", [{}, FULL, FULL | {"nodes": 4, "processes": 8}, {"nodes": 2}])
def test_objects_fit_the_published_schemas(given):
    configuration, main = documents(made(**given))
    assert main["kind"] == ("JobSet" if given.get("nodes", 1) > 1 else "Job")
    if main["kind"] == "JobSet":
        jsonschema.validate(main, JOBSET)
        main = {"apiVersion": "batch/v1", "kind": "Job", "metadata": main["metadata"],
                "spec": main["spec"]["replicatedJobs"][0]["template"]["spec"]}
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for each in (configuration, main):
        validator.validate(each, "1.30", strict=True)
    with pytest.raises(validator.ValidationError):  # the check can fail
        validator.validate(main | {"spec": main["spec"] | {"parallel": 1}}, "1.30", strict=True)


def test_one_node_is_a_job():
    configuration, main = documents(made(**FULL | {"processes": 1}))
    assert configuration["data"] == {"recipe.yaml": RECIPE}
    assert main["apiVersion"] == "batch/v1"
    assert main["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert main["metadata"]["namespace"] == configuration["metadata"]["namespace"] == "training"
    spec = main["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (
        1, 1, 3, 7200)
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"] == {
        "containerName": "gristmill", "operator": "In", "values": [UserError.exit_code]}
    assert pod(main)["restartPolicy"] == "Never"
    assert pod(main)["nodeSelector"] == {"cloud.example/gpu": "h100"}
    assert pod(main)["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a"}]
    assert container(main)["resources"] == {
        "requests": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "8"}}
    assert container(main)["env"] == [
        {"name": "A", "value": "1e3"}, {"name": "OMP_NUM_THREADS", "value": "16"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "toy-secrets", "key": "HF_TOKEN"}}}]
    mounted = {mount["name"]: mount["mountPath"] for mount in container(main)["volumeMounts"]}
    assert mounted == {"shared-memory": "/dev/shm", "recipe": "/etc/gristmill", "runs": "/runs"}
    volumes = {volume["name"]: volume for volume in pod(main)["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    assert volumes["runs"]["persistentVolumeClaim"] == {"claimName": "runs-claim"}
    assert set(volumes) == set(mounted)


@pytest.mark.parametrize("index", [0, 3])
def test_several_nodes_are_a_jobset_that_meets_at_its_first_pod(stubs, index):
    _, main = documents(made(nodes=4, processes=8, cpus=16))
    assert main["spec"]["failurePolicy"] == {"maxRestarts": 3, "rules": [
        {"name": "wrong", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]}
    assert main["spec"]["network"]["subdomain"] == "toy"
    template = main["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (template["completions"], template["parallelism"], template["completionMode"], template["backoffLimit"]) == (
        4, 4, "Indexed", 0)
    assert [rule["action"] for rule in template["podFailurePolicy"]["rules"]] == ["FailJob"]
    words = [expand(word, {"JOB_COMPLETION_INDEX": "no"}) for word in container(main)["args"]]
    assert container(main)["command"] == ["bash", "-c"]
    assert stubs.bash("-c", *words, JOB_COMPLETION_INDEX=str(index)).returncode == 0
    assert stubs.called["argv"] == [
        "-m", "gristmill.pipeline.launch.nanny",
        "--nnodes=4", "--nproc-per-node=8", "--max-restarts=0", "--rdzv-backend=c10d",
        "--rdzv-endpoint=toy-node-0-0.toy:29500", "--rdzv-id=toy",
        f"--rdzv-conf=is_host={'true' if index == 0 else 'false'}", "-m", "gristmill", "run",
        "/etc/gristmill/recipe.yaml", "--runs-dir=runs"]


@settings(max_examples=80, deadline=None)
@given(runs=PATHS, arguments=st.lists(NASTY, max_size=3), variables=VARIABLES, text=NASTY)
def test_the_program_gets_the_very_texts(runs, arguments, variables, text):
    configuration, main = documents(made(runs_dir=runs, arguments=tuple(arguments), recipe_text=text,
                                         environment=tuple(variables.items())))
    assert configuration["data"]["recipe.yaml"] == text
    known = {each["name"]: expand(each["value"], {}) for each in container(main)["env"]}
    assert known == variables
    assert [expand(word, known | {"X": "wrong"}) for word in container(main)["args"]] == [
        "run", "/etc/gristmill/recipe.yaml", f"--runs-dir={runs}", *arguments]


@settings(max_examples=20, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(runs=PATHS, arguments=st.lists(NASTY, max_size=3))
def test_with_setup_lines_it_is_bash_that_gets_them(stubs, runs, arguments):
    _, main = documents(made(runs_dir=runs, arguments=tuple(arguments), setup=("export FROM=$((1 + 1))",)))
    done = stubs.bash("-c", *[expand(word, {"X": "wrong"}) for word in container(main)["args"]])
    assert done.returncode == 0, done.stderr
    assert stubs.called["argv"] == ["run", "/etc/gristmill/recipe.yaml", f"--runs-dir={runs}", *arguments]
    assert stubs.called["environment"]["FROM"] == "2"


@pytest.mark.parametrize(("given", "where"), [
    ({"image": None}, "--image"), ({"recipe_text": ""}, "RECIPE"), ({"recipe_text": "é" * 500_000}, "RECIPE"),
    ({"name": "t" * 56}, "--name"), ({"name": "t" * 48, "nodes": 101}, "--name"), ({"queue": "a@b"}, "--queue"),
    ({"namespace": "A"}, "--namespace"), ({"namespace": "a.b"}, "--namespace"), ({"volume": "A_b"}, "--runs-volume"),
    ({"volume": "claim"}, "--runs-dir"), ({"node_selector": (("a b", "c"),)}, "--node-selector"),
    ({"node_selector": (("a", "c d"),)}, "--node-selector"), ({"tolerations": (("a", "", "Never"),)}, "--toleration"),
])
def test_what_kubernetes_would_refuse(given, where):
    with pytest.raises(UserError) as error:
        kubernetes.text(made(**given))
    assert error.value.where == where


@pytest.mark.parametrize(("nodes", "longest"), [(1, 55), (2, 48), (101, 46)])
def test_the_longest_name_still_fits_a_pod(nodes, longest):
    kubernetes.text(made(name="t" * longest, nodes=nodes))
    pod_name = f"{'t' * longest}-{f'node-0-{nodes - 1}' if nodes > 1 else '0'}-abcde"
    assert len(pod_name) == 63
    with pytest.raises(UserError, match="too long"):
        kubernetes.text(made(name="t" * (longest + 1), nodes=nodes))
