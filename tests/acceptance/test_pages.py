"""Pages and dashboard with real processes: who may look, what is shown while runs wait, work and fail, and stopping."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import sse
from tests.deployment import FAKE_CLAUDE, KEYS, PROJECT, Deployment, eventually, free_port

MODELS = """
defaults: {absent: agent, task: small}
profiles:
  - {id: agent, model: sonnet, allowed_tools: [Bash]}
  - {id: small, model: haiku, tools: [], max_turns: 1, run_timeout_seconds: 30,
     system_prompt_mode: replace, system_prompt: You do small tasks.}
"""
LONG = json.dumps({"text": ["begun "], "repeat": 2, "interval": 600, "child": 600})
BROKEN = json.dumps({"text": ["half "], "error": "the model is <b>busy</b>"})
TASK = {"X-OpenWebUI-Task": "title_generation"}
HERE = {"Sec-Fetch-Site": "same-origin"}
OPERATOR, OWNER = "bob", "alice"


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("heartline")
    (folder / "models.yaml").write_text(MODELS)
    with Deployment(
        folder,
        replicas=2,
        models_file=Path(folder / "models.yaml"),
        operators=OPERATOR,
        worker_slots=1,
        task_slots=1,
        disconnect_grace_seconds=0.2,
    ) as running:
        yield running


@contextlib.contextmanager
def visitor(heartline: Deployment, owner: str, replica: int = 0) -> Iterator[httpx.Client]:
    """Somebody who has logged in at the first replica and looks at another, perhaps."""
    with heartline.http("", replica=0) as first:
        answer = first.post("/login", data={"key": KEYS[owner]}, headers=HERE)
        assert answer.status_code == 303
        cookies = first.cookies
    with heartline.http("", replica=replica) as client:
        client.cookies = cookies
        yield client


@contextlib.contextmanager
def runs_of_all_kinds(heartline: Deployment) -> Iterator[tuple[str, str, str]]:
    """The ids of a failed, a running and a queued run, while they are that."""
    with heartline.http(OWNER) as client:
        failed, running, queued = (
            client.post("/v1/runs", json={"prompt": prompt}).json()["id"] for prompt in (BROKEN, LONG, LONG)
        )
        eventually(lambda: heartline.run(failed)["status"] == "failed")
        eventually(lambda: heartline.run(running)["status"] == "running")
        try:
            yield failed, running, queued
        finally:
            for run_id in (queued, running):
                client.post(f"/v1/runs/{run_id}/cancel")
            for run_id in (queued, running):
                eventually(lambda run_id=run_id: heartline.run(run_id)["ended_at"])  # type: ignore[misc]


def jobs(client: httpx.Client, registry: str, lane: str = "heartline") -> list[str]:
    """The ids on that page of the dashboard."""
    answer = client.get(f"/jobs/0/data/jobs/{lane}/{registry}/200/asc/1.json")
    assert answer.status_code == 200
    return [job["id"] for job in answer.json()["jobs"]]


def job(client: httpx.Client, run_id: str) -> dict[str, Any]:
    answer = client.get(f"/jobs/0/data/job/{run_id}.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


# --- who may look -------------------------------------------------------------------------------------


def test_a_login_counts_on_every_replica_and_only_for_ones_own_runs(heartline: Deployment) -> None:
    with runs_of_all_kinds(heartline) as (_, running, _):
        with visitor(heartline, OWNER, replica=1) as owner:
            assert owner.get(f"/runs/{running}").status_code == 200
            assert owner.get(f"/v1/runs/{running}").json()["status"] == "running"
            assert owner.get("/jobs/").status_code == 403
            bobs = heartline_run(heartline, OPERATOR)
            assert owner.get(f"/runs/{bobs}").status_code == 404
            assert owner.get(f"/v1/runs/{bobs}/events").status_code == 404
        with visitor(heartline, OPERATOR) as operator:
            assert operator.get(f"/runs/{running}").status_code == 200


def heartline_run(heartline: Deployment, owner: str) -> str:
    """A short run of that owner's, which has ended."""
    with heartline.http(owner) as client:
        run_id: str = client.post("/v1/runs", json={"model": "agent", "prompt": "hello"}).json()["id"]
        client.post(f"/v1/runs/{run_id}/cancel")
        eventually(lambda: client.get(f"/v1/runs/{run_id}").json()["ended_at"])
        return run_id


def test_a_foreign_page_cannot_make_a_browser_stop_a_run(heartline: Deployment) -> None:
    with runs_of_all_kinds(heartline) as (_, running, _), visitor(heartline, OWNER) as owner:
        for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = owner.post(f"/v1/runs/{running}/cancel", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
        assert heartline.run(running)["status"] == "running"
        assert owner.post(f"/v1/runs/{running}/cancel", headers=HERE).status_code == 200
        eventually(lambda: heartline.run(running)["status"] == "cancelled")


def test_a_login_makes_no_runs(heartline: Deployment) -> None:
    with visitor(heartline, OWNER) as owner:
        for path in ("/v1/runs", "/v1/chat/completions"):
            assert owner.post(path, json={"prompt": "hello"}, headers=HERE).status_code == 401


def test_the_page_that_looks_on_does_not_keep_a_chat_alive(heartline: Deployment) -> None:
    """Stop in Open WebUI closes the connection, and must end the agent although a browser shows its page."""
    body = {"messages": [{"role": "user", "content": LONG}], "stream": True}
    with visitor(heartline, OWNER) as looker, heartline.http(OWNER) as client, contextlib.ExitStack() as connected:
        chat = connected.enter_context(client.stream("POST", "/v1/chat/completions", json=body))
        run_id = chat.headers["X-Run-Id"]
        with looker.stream("GET", f"/v1/runs/{run_id}/events") as page:
            frames = sse.of(page)
            eventually(lambda: heartline.run(run_id)["status"] == "running")
            connected.close()
            assert [frame.event for frame in frames][-1] == "cancelled"


@pytest.mark.parametrize(("scheme", "is_secure"), [("https", True), ("http", False)])
def test_a_cookie_that_came_by_https_stays_there(heartline: Deployment, scheme: str, is_secure: bool) -> None:
    """gunicorn believes the proxy on this machine."""
    with heartline.http("") as client:
        answer = client.post("/login", data={"key": KEYS[OWNER]}, headers={**HERE, "X-Forwarded-Proto": scheme})
    assert ("Secure" in answer.headers["Set-Cookie"].split("; ")) == is_secure


def test_the_key_that_make_run_makes_is_an_operators(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    bind = f"127.0.0.1:{free_port()}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(PROJECT),
        "HEARTLINE_BIND": bind,
        "HEARTLINE_MODELS_FILE": str(PROJECT / "tests" / "models.yaml"),
        "HEARTLINE_CLAUDE_BIN": str(FAKE_CLAUDE),
    }
    command = [sys.executable, "-m", "stack"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as stack:
        assert stack.stdout is not None
        try:
            key = next(line.split()[-1] for line in stack.stdout if "API key" in line)
            answer = httpx.get(f"http://{bind}/v1/overview", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
        finally:
            stack.terminate()
            assert stack.wait(60) == 0


# --- what an operator sees ----------------------------------------------------------------------------


def test_the_overview_tells_what_runs_waits_and_failed(heartline: Deployment) -> None:
    with runs_of_all_kinds(heartline) as (failed, running, _), heartline.http(OPERATOR, replica=1) as operator:
        seen = operator.get("/v1/overview").json()
        assert [run["id"] for run in seen["running"]] == [running]
        assert (seen["running"][0]["owner"], seen["running_count"]) == (OWNER, 1)
        assert [(lane["lane"], lane["queued"]) for lane in seen["lanes"]] == [("heartline", 1), ("heartline-tasks", 0)]
        assert seen["lanes"][0]["oldest_created_at"] <= seen["at"]
        (worker,) = seen["workers"]
        assert [(slot["name"], slot["run"]) for slot in worker["slots"]] == [("slot1", running), ("task1", None)]
        assert not worker["leaving"]
        newest = seen["failures"][0]
        assert (newest["id"], newest["code"]) == (failed, "cli_error")
        assert "the model is <b>busy</b>" in newest["message"]
        assert seen["usage_today"]["owners"][OWNER]["failed"] >= 1
        assert {replica["address"] for replica in seen["replicas"]} == {
            part.url.removeprefix("http://") for part in heartline.replicas
        }


def test_a_replica_that_leaves_is_seen_to_go(heartline: Deployment) -> None:
    def addresses() -> set[str]:
        with heartline.http(OPERATOR) as operator:
            return {replica["address"] for replica in operator.get("/v1/overview").json()["replicas"]}

    third = heartline.start_replica()
    address = third.url.removeprefix("http://")
    try:
        eventually(lambda: address in addresses())
    finally:
        third.stop()
        heartline.parts.remove(third)
    assert address not in addresses()


# --- the dashboard ------------------------------------------------------------------------------------


def test_the_dashboard_shows_every_job_where_it_is(heartline: Deployment) -> None:
    with runs_of_all_kinds(heartline) as (failed, running, queued), visitor(heartline, OPERATOR) as operator:
        assert failed in jobs(operator, "failed")
        assert jobs(operator, "started") == [running]
        assert jobs(operator, "queued") == [queued]
        assert [job(operator, run_id)["status"] for run_id in (failed, running, queued)] == [
            "failed", "started", "queued",
        ]  # fmt: skip
        assert job(operator, running)["description"] == f"run {running} · agent · {OWNER}"
        counts = {queue["name"]: queue for queue in operator.get("/jobs/0/data/queues.json").json()["queues"]}
        assert counts["heartline"]["count"] == counts["heartline"]["started_job_registry_count"] == 1
        for path in ("", "0/view/queues", "0/view/jobs", "0/view/workers", f"0/view/job/{running}"):
            assert operator.get(f"/jobs/{path}").status_code == 200
        workers = operator.get("/jobs/0/data/workers.json").json()["workers"]
        assert sorted((each["state"], *each["queues"]) for each in workers) == [
            ("busy", "heartline"), ("idle", "heartline-tasks"),
        ]  # fmt: skip
        (busy,) = (each for each in workers if each["state"] == "busy")
        assert busy["current_job"]["job_id"] == running


def test_the_dashboard_shows_tasks_in_their_own_lane(heartline: Deployment) -> None:
    with visitor(heartline, OPERATOR) as operator, heartline.http(OWNER) as client:
        body = {"messages": [{"role": "user", "content": "a title"}]}
        run_id = client.post("/v1/chat/completions", json=body, headers=TASK).headers["X-Run-Id"]
        eventually(lambda: run_id in jobs(operator, "finished", "heartline-tasks"))
        assert job(operator, run_id)["result"] == "completed"


@pytest.mark.parametrize("kind", ["running", "queued"])
def test_stop_in_the_dashboard_stops_the_run(heartline: Deployment, kind: str) -> None:
    with runs_of_all_kinds(heartline) as (_, running, queued), visitor(heartline, OPERATOR, replica=1) as operator:
        run_id = running if kind == "running" else queued
        assert operator.post(f"/jobs/{run_id}/stop").status_code == 403
        assert operator.post(f"/jobs/{run_id}/stop", headers=HERE).status_code == 200
        eventually(lambda: heartline.run(run_id)["status"] == "cancelled")
        wanted = "stopped" if kind == "running" else "canceled"
        eventually(lambda: job(operator, run_id)["status"] == wanted)


def test_nobody_else_stops_anything_there(heartline: Deployment) -> None:
    with runs_of_all_kinds(heartline) as (_, running, _), visitor(heartline, OWNER) as owner:
        assert owner.post(f"/jobs/{running}/stop", headers=HERE).status_code == 403
        assert heartline.run(running)["status"] == "running"


def test_what_would_change_jobs_is_not_there(heartline: Deployment) -> None:
    with runs_of_all_kinds(heartline) as (failed, _, queued), visitor(heartline, OPERATOR) as operator:
        for path in (
            f"job/{queued}/delete",
            f"job/{failed}/requeue",
            "requeue/heartline",
            "queue/heartline/queued/empty",
            "queue/heartline/failed/empty",
            "queue/heartline/compact",
        ):
            assert operator.post(f"/jobs/{path}", headers=HERE).status_code == 405, path
            assert operator.get(f"/jobs/{path}", headers=HERE).status_code == 404, path
        assert job(operator, failed)["status"] == "failed"
        assert job(operator, queued)["status"] == "queued"
