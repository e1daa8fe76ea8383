"""Fixtures that all tiers share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from core.errors import ConfigurationError
from core.settings import Settings
from stack.valkey import EmbeddedValkey
from worker import cli


def skip_unless_ci(reason: str) -> None:
    """A test that needs what a machine may lack: skipped here, failed in CI, where it should be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def claude_bin() -> str:
    """The real Claude CLI."""
    try:
        return cli.find(Settings(claude_bin=os.environ.get("HEARTLINE_CLAUDE_BIN", "")), os.environ)
    except ConfigurationError as error:
        skip_unless_ci(f"no Claude CLI: {error}")
        raise


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    process = server.start()
    yield server
    process.terminate()
    assert process.wait(20) == 0


@pytest.fixture
def redis_url(_valkey: EmbeddedValkey) -> Iterator[str]:
    """A real Valkey, empty."""
    client = Redis.from_url(_valkey.url)
    client.flushall()
    yield _valkey.url
    client.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator["Redis"]:
    """A client of the real Valkey, empty."""
    client = Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the test's own."""
    return tmp_path
