"""What `doctor` finds."""

import socket

from gristmill.pipeline import machine


def test_all_checks_run_and_every_lack_has_a_fix(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(machine, "cpu_supports_bf16", lambda: False)
    checks = {c.name: c for c in machine.examine(port=0)}
    assert checks["C++ compiler"].state == "warn"
    assert checks["bf16 on the CPU"].state == "warn"
    assert all(c.fix for c in checks.values() if c.state != "ok")
    assert {"python", "processor", "memory", "disk", "torch", "GPU", "Python headers", "port"} <= set(checks)


def test_a_taken_port_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check = machine._port(taken.getsockname()[1])
    assert check.state == "warn"
    assert "cannot be used" in check.found


def test_a_missing_package_is_a_failure(monkeypatch):
    monkeypatch.setattr(machine, "REQUIRED", ("torch", "package_that_is_not_here"))
    check = machine._packages()
    assert check.state == "missing"
    assert "package_that_is_not_here" in check.found
