"""Keys are found before they reach a file."""

import pytest
from launch_jobs import job

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.secret import check_secrets

FAKE = "hf_" + "a1B2" * 8


@pytest.mark.parametrize(("given", "where"), [
    ({"environment": (("HF_TOKEN", "x"),)}, "--env"), ({"environment": (("WANDB_API_KEY", "x"),)}, "--env"),
    ({"environment": (("AWS_SECRET_ACCESS_KEY", "x"),)}, "--env"), ({"environment": (("db_password", "x"),)}, "--env"),
    ({"environment": (("HARMLESS", FAKE),)}, "--env"), ({"arguments": (f"--set=stages.x={FAKE}",)}, "run options"),
    ({"setup": (f"export X={FAKE}",)}, "--setup"), ({"recipe_text": f"name: x\nkey: {FAKE}\n"}, "RECIPE"),
    ({"volume": "s3://me:hunter2@host/bucket"}, "--runs-volume"),
    ({"environment": (("X", "-----BEGIN RSA PRIVATE KEY-----"),)}, "--env"),
])
def test_found(given, where):
    with pytest.raises(UserError) as error:
        check_secrets(job(**given))
    assert error.value.where == where
    assert FAKE not in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("pair", [
    ("TOKENIZERS_PARALLELISM", "false"), ("MAX_TOKENS", "9"), ("KEYBOARD", "us"), ("SORT_KEY", "a"), ("HF_TOKEN", ""),
    ("URL", "https://host/a@b"), ("X", "hf_home"), ("DESK", "sk-short")])
def test_left_alone(pair):
    check_secrets(job(environment=(pair,), secrets=("HF_API_KEY",)))
