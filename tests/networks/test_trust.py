"""Runs that this user made here, and those that only look like it."""

import json

import pytest

from dreamstill.networks.trust import signed, trusts, trusts_file


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder of this user's, with a key of its own."""
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    about = {"own": signed([("mine:make", {"width": 4})], ["f" * 64])}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(about))
    return tmp_path / "run"


def test_what_this_user_named_is_trusted_with_the_same_arguments_alone(run):
    assert trusts(run, "mine:make", {"width": 4})
    assert trusts(run / "student.safetensors", "mine:make", {"width": 4})
    assert not trusts(run, "mine:make", {"width": 5})
    assert not trusts(run, "mine:other", {"width": 4})
    assert not trusts(None, "mine:make", {"width": 4})
    assert trusts_file(run, "f" * 64)
    assert not trusts_file(run, "e" * 64)


def test_a_changed_manifest_is_not(run):
    about = json.loads((run / "manifest.json").read_text())
    about["own"]["code"].append(["os:system", {}])
    (run / "manifest.json").write_text(json.dumps(about))
    assert not trusts(run, "os:system", {})
    assert not trusts(run, "mine:make", {"width": 4})


@pytest.mark.parametrize("content", ["", "[]", '{"own": 1}', '{"own": {"code": [], "files": [], "signature": 1}}'])
def test_a_broken_manifest_is_not(run, content):
    (run / "manifest.json").write_text(content)
    assert not trusts(run, "mine:make", {"width": 4})


def test_another_users_run_is_not(run, monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "other"))
    assert not trusts(run, "mine:make", {"width": 4})


def test_a_key_that_others_can_read_is_none(run, tmp_path):
    (key,) = (tmp_path / "cache").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    assert not trusts(run, "mine:make", {"width": 4})
    assert signed([("mine:make", {})], []) is None


def test_nothing_is_kept_where_no_code_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "cache"))
    assert signed([], []) is None
    assert not (tmp_path / "cache").exists()
