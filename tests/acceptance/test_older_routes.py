"""POST /chat/stream and /execute/stream: sessions by the client's own names, on the native events."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import sse
from tests.deployment import KEYS, MODELS, Deployment, eventually
from tests.doubles.anthropic_api import ScriptedApi, Text, ToolUse, Turn

LONG = json.dumps({"text": ["begun "], "repeat": 2, "interval": 600, "child": 600})
CHAT, EXECUTE = "/chat/stream", "/execute/stream"


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"), heartbeat_seconds=0.2, disconnect_grace_seconds=0.5
    ) as deployment:
        yield deployment


class Answer:
    """One answer, read to its end."""

    def __init__(self, heartline: Deployment, message: str, path: str = CHAT, owner: str = "alice", **fields: Any):
        body = {"message": message, "user_id": "u1", **fields}
        with heartline.http(owner) as client:
            answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found = list(sse.frames(answer.text.split("\n")))
        accepted = found[0]
        assert accepted.event == "accepted"
        assert accepted.id is None
        self.session: str = accepted.json["session_id"]
        self.run_id: str = accepted.json["run_id"]
        assert answer.headers["X-Run-Id"] == self.run_id
        self.frames = found[1:]
        self.run = heartline.run(self.run_id, owner)

    @property
    def text(self) -> str:
        return "".join(frame.json["text"] for frame in self.frames if frame.event == "text")


def test_an_answer_is_the_runs_events_with_their_ids(heartline: Deployment) -> None:
    answer = Answer(heartline, "Hello you", session_id="s1", colour="blue", temperature=1)
    assert answer.session == "s1"
    assert answer.text.strip() == "Hello you"
    events = [frame for frame in answer.frames if frame.id is not None]
    assert [int(frame.id or 0) for frame in events] == list(range(1, len(events) + 1))
    assert (events[0].event, events[-1].event) == ("started", "completed")
    assert {frame.json["run_id"] for frame in events} == {answer.run_id}
    assert answer.run["profile"] == "chat"


def test_an_answer_that_takes_its_time_is_kept_alive_with_comments(heartline: Deployment) -> None:
    answer = Answer(heartline, json.dumps({"sleep_before": 1, "text": ["late"]}))
    assert "heartbeat" in [frame.comment for frame in answer.frames]
    assert answer.text == "late"


def test_each_route_has_its_own_model_and_its_own_sessions(heartline: Deployment) -> None:
    chat, agent = Answer(heartline, "a", session_id="both"), Answer(heartline, "b", EXECUTE, session_id="both")
    assert (chat.run["profile"], agent.run["profile"]) == ("chat", "agent")
    assert agent.run["parent"] is None
    assert chat.run["conversation"] != agent.run["conversation"]


def test_a_session_goes_on_behind_its_newest_completed_run(heartline: Deployment) -> None:
    first = Answer(heartline, "one")
    second = Answer(heartline, "two", session_id=first.session)
    failed = Answer(heartline, json.dumps({"error": "no"}), session_id=first.session)
    third = Answer(heartline, "three", session_id=first.session)
    assert first.run["parent"] is None
    assert second.run["parent"] == first.run_id
    assert failed.run["status"] == "failed"
    assert third.run["parent"] == second.run_id
    assert {answer.run["conversation"] for answer in (second, third)} == {first.run["conversation"]}


def test_sessions_without_a_name_are_new_ones(heartline: Deployment) -> None:
    answers = [Answer(heartline, "hello"), Answer(heartline, "hello", session_id=None), Answer(heartline, "hello")]
    assert len({answer.session for answer in answers}) == 3
    assert [answer.run["parent"] for answer in answers] == [None] * 3


@pytest.mark.parametrize("other", [{"user_id": "u2"}, {"owner": "bob"}], ids=["user", "key"])
def test_nobody_else_shares_a_session(heartline: Deployment, other: dict[str, Any]) -> None:
    mine = Answer(heartline, "mine", session_id="shared")
    theirs = Answer(heartline, "theirs", **{"session_id": "shared", **other})
    again = Answer(heartline, "mine again", session_id="shared")
    assert theirs.run["parent"] is None
    assert theirs.run["conversation"] != mine.run["conversation"]
    assert again.run["parent"] == mine.run_id


def test_a_session_whose_runs_have_expired_begins_anew_in_the_same_folder(heartline: Deployment) -> None:
    first = Answer(heartline, "one", session_id="old")
    heartline.redis.delete(*heartline.redis.keys(f"heartline:{{{first.run_id}}}:*"))
    second = Answer(heartline, "two", session_id="old")
    assert second.text.strip() == "two"
    assert second.run["parent"] is None
    assert second.run["conversation"] == first.run["conversation"]


@pytest.mark.parametrize("path", [CHAT, EXECUTE])
def test_a_client_that_aborts_stops_its_run(heartline: Deployment, path: str) -> None:
    with heartline.http() as client, client.stream("POST", path, json={"message": LONG, "user_id": "u"}) as answer:
        next(frame for frame in sse.of(answer) if frame.event == "text")
        assert heartline.marked_now()
    run_id = answer.headers["X-Run-Id"]
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled")
    assert heartline.marked_processes() == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"user_id": "u"}, "message"),
        ({"message": "  ", "user_id": "u"}, "message"),
        ({"message": 7, "user_id": "u"}, "message"),
        ({"message": "hi"}, "user_id"),
        ({"message": "hi", "user_id": ""}, "user_id"),
        ({"message": "hi", "user_id": "u" * 201}, "user_id"),
        ({"message": "hi", "user_id": "u", "session_id": 4}, "session_id"),
        ({"message": "hi", "user_id": "u", "session_id": "s" * 201}, "session_id"),
    ],
)
def test_bad_input_is_named(heartline: Deployment, body: dict[str, Any], param: str) -> None:
    with heartline.http() as client:
        answer = client.post(CHAT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_key_is_wanted(heartline: Deployment) -> None:
    with heartline.http(owner="") as client:
        for path in (CHAT, EXECUTE):
            assert client.post(path, json={"message": "hi", "user_id": "u"}).status_code == 401


def test_a_replica_that_drains_ends_the_stream_with_a_word(heartline: Deployment) -> None:
    part = heartline.start_replica(drain_seconds=2, stop_grace_seconds=1)
    heartline.wait_until_ready()
    body = {"message": LONG, "user_id": "u"}
    with (
        heartline.http(replica=len(heartline.replicas) - 1) as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        frames = sse.of(answer)
        next(frame for frame in frames if frame.event == "text")
        part.process.send_signal(signal.SIGTERM)
        last = list(frames)[-1]
    assert last.event == "lost"
    assert last.json["message"].startswith("The server is being restarted")
    assert part.stop() == 0
    heartline.parts.remove(part)


def test_without_a_model_in_the_file_the_routes_are_not_there(heartline: Deployment, tmp_path: Path) -> None:
    models = yaml.safe_load(MODELS.read_text(encoding="utf-8"))
    del models["defaults"]["execute_stream"]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")
    part = heartline.start_replica(models_file=tmp_path / "models.yaml")
    heartline.wait_until_ready()
    with httpx.Client(base_url=part.url, headers={"Authorization": f"Bearer {KEYS['alice']}"}) as client:
        answer = client.post(EXECUTE, json={"message": "hi", "user_id": "u"})
    assert answer.status_code == 404
    assert "defaults.execute_stream" in answer.json()["error"]["message"]
    assert part.stop() == 0
    heartline.parts.remove(part)


def test_the_real_cli_remembers_a_session_with_its_tools(tmp_path: Path, claude_bin: str) -> None:
    sandbox = "bwrap" if shutil.which("bwrap") else "off"
    with (
        ScriptedApi() as api,
        Deployment(
            tmp_path,
            claude_bin=claude_bin,
            sandbox=sandbox,
            environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
        ) as heartline,
    ):
        first, second = f"note it {os.urandom(4).hex()}", f"what was it {os.urandom(4).hex()}"
        api.script(first, Turn(ToolUse("Bash", {"command": "echo 42 > note; cat note"})), Turn(Text("Noted.")))
        api.script(second, Turn(ToolUse("Bash", {"command": "cat note"})), Turn(Text("42.")))
        begun = Answer(heartline, first, EXECUTE)
        assert begun.text == "Noted."
        assert Answer(heartline, second, EXECUTE, session_id=begun.session).text == "42."
        sent = json.dumps(api.requests_for(second)[-1].body["messages"])
        assert first in sent
        assert "tool_result" in sent
