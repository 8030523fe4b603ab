"""Where files go that can be made again. That writes are whole is tested in tests/engine/test_checkpoint.py."""

from pathlib import Path

import pytest

from vsr.utils.files import cache_root


def test_the_cache_is_below_the_users_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VSR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/vsr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "vsr"
    monkeypatch.setenv("VSR_CACHE", "/scratch/mine")
    assert cache_root() == Path("/scratch/mine")
