"""`python -m gristmill.pipeline.launch.ray_nodes`: start one script on N different nodes of a Ray cluster.

Every node gets HEAD, PORT, NODE_RANK and NODE_ADDRESS. The first that fails ends the others; its exit code is ours.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from typing import Any

from gristmill.pipeline.launch.job import GRACE


def start(script: str, environment: dict[str, str], grace: float = GRACE) -> int:
    """Run `script` with bash and return its exit code; if we are interrupted it gets SIGTERM and `grace` seconds."""
    child = subprocess.Popen(["bash", "-c", script], env={**os.environ, **environment})
    try:
        while True:  # Ray cancels a task by an exception, not by a signal: an endless wait would not notice
            try:
                return child.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(grace)
            except subprocess.TimeoutExpired:
                child.kill()


def meeting_point() -> tuple[str, int]:
    """This node's address in the cluster, and a port that is free now."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def on_node(script: str, rank: int, head: str, port: int, job: str) -> int:
    """The task of one node."""
    import ray

    return start(script, {"HEAD": head, "PORT": str(port), "NODE_RANK": str(rank), "RAY_JOB_ID": job,
                          "NODE_ADDRESS": ray.util.get_node_ip_address()})


def run(script: str, nodes: int, cpus: int, gpus: int, memory: int = 0) -> int:
    """Run `script` on `nodes` different nodes, with `cpus`, `gpus` and `memory` MiB on each; returns an exit code."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(ignore_reinit_error=True, log_to_driver=True)
    bundle: dict[str, float] = {"CPU": cpus, **({"GPU": gpus} if gpus else {}),
                                **({"memory": memory * 2**20} if memory else {})}
    group = placement_group([bundle] * nodes, strategy="STRICT_SPREAD")
    try:
        print(f"waiting for {nodes} nodes with {bundle} each", file=sys.stderr, flush=True)
        ray.get(group.ready())

        def place(function: Any, index: int) -> Any:
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            return ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, memory=memory * 2**20 or None,
                                                max_retries=0, scheduling_strategy=strategy)

        head, port = ray.get(place(meeting_point, 0).remote())
        job = ray.get_runtime_context().get_job_id()
        left = [place(on_node, rank).remote(script, rank, head, port, job) for rank in range(nodes)]
        code = 0
        try:
            while left and code == 0:
                done, left = ray.wait(left)
                code = ray.get(done[0])
        finally:
            for task in left:
                ray.cancel(task)
            ray.wait(left, num_returns=len(left), timeout=GRACE) if left else None
        return code
    finally:
        remove_placement_group(group)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--nodes", "--cpus", "--gpus", "--memory"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("script")
    given = parser.parse_args(arguments)
    return run(given.script, given.nodes, given.cpus, given.gpus, given.memory)


if __name__ == "__main__":
    sys.exit(main())
