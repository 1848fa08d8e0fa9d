from __future__ import annotations

from pathlib import Path

import pytest

from gristmill.core.errors import UserError
from gristmill.serving.settings import Settings, hash_keys, is_loopback

KEY = "a-long-secret-key"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_without_a_key_only_loopback_is_served(host: str) -> None:
    with pytest.raises(UserError, match="without an API key"):
        Settings(host=host)
    Settings(host=host, key_digests=hash_keys([KEY], environment=False))


def test_loopback_is_known_by_address() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "10.0.0.1", "localhost.example.org", "", "::"]))


def test_keys_are_kept_as_digests_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRISTMILL_API_KEYS", "from-environment-1, from-environment-2")
    (tmp_path / "keys").write_text("# ours\nfrom-the-file-1\n\n")
    settings = Settings(key_digests=hash_keys([KEY], tmp_path / "keys"))
    for key in (KEY, "from-environment-1", "from-environment-2", "from-the-file-1"):
        assert settings.accepts(key)
        assert key not in repr(settings) + str(settings.public())
    assert not any(map(settings.accepts, ["", KEY + "x", KEY[:-1], "# ours", "\ud800", settings.key_digests[0]]))
    assert "key_digests" not in settings.public()


def test_weak_or_missing_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shorter than 8"):
        hash_keys(["short"], environment=False)
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(UserError, match="holds no key"):
        hash_keys(key_file=tmp_path / "empty")
    with pytest.raises(UserError, match="cannot be read"):
        hash_keys(key_file=tmp_path / "missing")
