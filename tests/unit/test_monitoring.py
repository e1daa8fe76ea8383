"""What is in `deploy` for Prometheus and Grafana, held against the metrics in the code."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import app.metrics
import core.metrics
import worker.metrics
from tests.metrics import Known, of

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
KNOWN = [*of(core.metrics), *of(app.metrics), *of(worker.metrics)]
SERIES = {series: known for known in KNOWN for series in known.series}
PROCESS = {"process_resident_memory_bytes", "up"}
FUNCTIONS = {"rate", "increase", "sum", "max", "min", "histogram_quantile"}
WORDS = {"by", "le", "and", "or", "unless", "instance", "job"}
SERVICES = {"api": "heartline-api", "worker": "heartline-worker"}


def load(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(ALERTS)["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load(DEPLOY / "grafana" / "heartline.json")["panels"]
    return found


def queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    for panel in panels():
        yield from (target["expr"] for target in panel.get("targets", []))


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """The series that a query names, each with the labels that it is asked for by."""
    for name, inner in re.findall(r"\b((?:heartline|process)_\w+|up)\b(?:\{([^}]*)\})?", query):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inner))


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_a_query_asks_for_metrics_and_labels_that_there_are(query: str) -> None:
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", query)
    labels: set[str] = set()
    found = list(selectors(query))
    assert found
    for name, asked in found:
        assert name in SERIES or name in PROCESS, name
        own = set(SERIES[name].labels) if name in SERIES else set()
        assert asked <= own | {"job", "instance"}, name
        labels |= own
    words = set(re.findall(r"[a-z_][a-z_0-9]*", plain)) - SERIES.keys() - PROCESS
    assert words <= FUNCTIONS | WORDS | labels, query
    assert plain.count("(") == plain.count(")")


def test_counters_are_asked_for_their_rate_and_gauges_are_not() -> None:
    for query in queries():
        for name, _ in selectors(query):
            if name in SERIES:
                rated = re.search(rf"(rate|increase)\({name}\b", query) is not None
                assert rated == (SERIES[name].kind != "gauge"), query


def test_every_metric_has_its_place_on_the_dashboard() -> None:
    shown = {SERIES[name].name for panel in panels() for target in panel.get("targets", [])
             for name, _ in selectors(target["expr"]) if name in SERIES}  # fmt: skip
    assert shown == {known.name for known in KNOWN}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_names_follow_the_conventions(known: Known) -> None:
    assert re.fullmatch(r"heartline_[a-z]+(_[a-z]+)*", known.name)
    assert known.name.endswith("_total") == (known.kind == "counter")
    assert known.name.endswith("_seconds") == (known.kind == "histogram")


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        for text in rule["annotations"].values():
            assert text.endswith(".")
            assert "\n" not in text
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_an_alert_writes_only_labels_that_its_query_keeps() -> None:
    for rule in rules():
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert f"by ({label}" in rule["expr"] or f", {label})" in rule["expr"] or label == "instance", rule["alert"]


def test_prometheus_reads_every_replica_and_worker_and_the_alerts() -> None:
    config = load(DEPLOY / "prometheus" / "prometheus.yml")
    assert config["rule_files"] == [ALERTS.name]
    found = {job["dns_sd_configs"][0]["names"][0]: job["job_name"] for job in config["scrape_configs"]}
    assert found == SERVICES
    assert set(re.findall(r'job=~?"([\w-]+)"', " ".join(rule["expr"] for rule in rules()))) == set(SERVICES.values())


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_promtool_finds_nothing_wrong(folder: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here")
    shown = [{"alert": "Panel", "expr": query.replace("$__rate_interval", "1m")} for query in queries()]
    (folder / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": shown}]}))
    for path in (ALERTS, folder / "panels.yml"):
        done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
