"""The job: what it refuses, what follows from what."""

import pytest
from launch_jobs import job

from gristmill.core.errors import UserError


@pytest.mark.parametrize(("given", "where"), [
    ({"name": "Toy"}, "--name"), ({"name": "-toy"}, "--name"), ({"name": "1toy"}, "--name"),
    ({"name": "toy\n"}, "--name"),
    ({"name": "t" * 64}, "--name"), ({"name": ""}, "--name"), ({"nodes": 0}, "--nodes"),
    ({"nodes": 2, "min_nodes": 3}, "--min-nodes"), ({"min_nodes": 0}, "--min-nodes"), ({"gpus": -1}, "--gpus"),
    ({"processes": 0}, "--processes"), ({"cpus": 0}, "--cpus"), ({"memory": 0}, "--memory"), ({"seconds": 0}, "--time"),
    ({"restarts": -1}, "--restarts"), ({"queue": "a b"}, "--queue"), ({"queue": "a\n#SBATCH -N 9"}, "--queue"),
    ({"account": "$(x)"}, "--account"), ({"image": "x y"}, "--image"), ({"accelerator": "h100\n"}, "--accelerator"),
    ({"environment": (("A B", "1"),)}, "--env"), ({"environment": (("A\n", "1"),)}, "--env"),
    ({"secrets": ("1A",)}, "--secret"), ({"secrets": ("A",), "environment": (("A", "1"),)}, "--secret"),
    ({"workdir": "relative"}, "workdir"), ({"arguments": ("a\0b",)}, "run options"), ({"recipe": "\ud800"}, "RECIPE"),
    ({"environment": (("A", "\0"),)}, "--env"), ({"setup": ("\0",)}, "--setup"), ({"runs_dir": ""}, "RECIPE"),
])
def test_what_no_scheduler_takes_is_refused(given, where):
    with pytest.raises(UserError) as error:
        job(**given)
    assert error.value.where == where


def test_threads_follow_from_cores_unless_the_user_says_otherwise():
    assert job(cpus=16, processes=4).variables() == {"OMP_NUM_THREADS": "4"}
    assert job(cpus=2, processes=4).variables() == {"OMP_NUM_THREADS": "1"}
    assert job(cpus=16, environment=(("OMP_NUM_THREADS", "3"),)).variables() == {"OMP_NUM_THREADS": "3"}
    assert job().variables() == {}


def test_a_recipe_that_looks_like_an_option_stays_a_recipe():
    assert job(recipe="--help").words() == ["run", "./--help", "--runs-dir=runs"]
