"""What the documentation says, held against the code: names, defaults, order, routes, events, links."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec
import pytest
import yaml
from dotenv import dotenv_values

import app.metrics
import core.metrics
import worker.metrics
from app import create_app, services
from app.dialects.openai_request import ChatBody
from core import events, settings
from core.profiles import Defaults, Profile
from core.settings import PREFIX, Settings
from tests import metrics
from worker.command import MINIMUM_VERSION

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "clients").glob("*/*.md")])

Rows = list[list[str]]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands below `heading` (with its #s), up to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found.group(1)


def table(text: str, first: str) -> Rows:
    """The rows of the table whose first column is headed `first`; none when there is no such table."""
    lines = iter(text.splitlines())
    rows: Rows = []
    for line in lines:
        if line.startswith(f"| {first} |"):
            next(lines)  # the line below the head
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append([cell.strip() for cell in row.strip("|").split(" | ")])
    return rows


def bare(cell: str) -> str:
    return cell.strip("`")


def shown(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as the tables write it."""
    default: Any = field.default
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    if default in (None, ""):
        return "—"
    return {"()": "`[]`", "{}": "`{}`", "True": "`true`"}.get(str(default), f"`{default}`")


def documented(rows: Rows, default_column: int) -> list[tuple[str, str]]:
    return [(bare(row[0]), row[default_column]) for row in rows]


# --- the settings ---------------------------------------------------------------------------------


def test_the_readme_lists_every_setting_with_its_default_in_order() -> None:
    expected = [(PREFIX + field.name.upper(), shown(field)) for field in msgspec.structs.fields(Settings)]
    assert documented(table(read("README.md"), "Setting"), 1) == expected


def test_the_example_lists_every_setting_commented_out_in_order() -> None:
    pairs = re.findall(r"^# \S.*\n#(HEARTLINE_\w+)=(.*)$", read(".env.example"), re.MULTILINE)
    assert pairs == [(PREFIX + field.name.upper(), str(field.default)) for field in msgspec.structs.fields(Settings)]
    assert dotenv_values(ROOT / ".env.example") == {}


def test_the_example_uncommented_is_the_defaults(tmp_path: Path) -> None:
    uncommented = re.sub(r"^#(?=HEARTLINE_)", "", read(".env.example"), flags=re.MULTILINE)
    (tmp_path / "env").write_text(uncommented, encoding="utf-8")
    assert settings.load({}, tmp_path / "env") == Settings()


def test_pages_name_no_setting_that_does_not_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.__struct_fields__}
    for page in PAGES:
        named = set(re.findall(r"HEARTLINE_[A-Z][A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
        assert named <= known, page.name


# --- the models -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "struct", "default_column"), [("## The fields of a profile", Profile, 2), ("## Defaults", Defaults, 1)]
)
def test_the_models_page_lists_every_field_with_its_default_in_order(
    heading: str, struct: type[msgspec.Struct], default_column: int
) -> None:
    rows = table(section(read("docs/models.md"), heading), "Field")
    assert documented(rows, default_column) == [(field.name, shown(field)) for field in msgspec.structs.fields(struct)]


def test_the_readme_names_the_oldest_cli() -> None:
    assert ".".join(map(str, MINIMUM_VERSION)) in read("README.md")


# --- the API --------------------------------------------------------------------------------------


def routes() -> Iterator[str]:
    built = services.build(
        Settings(
            redis_url="redis://127.0.0.1:1",
            api_keys="t:0123456789abcdef",
            models_file=str(ROOT / "models.yaml"),
        )
    )
    for rule in create_app(built).url_map.iter_rules():
        if rule.endpoint != "static":  # Flask's own
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            yield from (f"{method} {path}" for method in (rule.methods or set()) - {"HEAD", "OPTIONS"})


def test_the_http_page_describes_every_route() -> None:
    page = read("docs/http.md")
    described = re.findall(r"^### `([A-Z]+ /\S*)`$", page, re.MULTILINE)
    listed = re.findall(r"`([A-Z]+ /[^`]*)`", " ".join(row[0] for row in table(page, "Route")))
    assert sorted(described) == sorted(routes())
    assert listed == described


def test_the_http_page_describes_every_event() -> None:
    page = section(read("docs/http.md"), "## Events")
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(events.AnyEvent)}
    assert re.findall(r"^### `(\w+)`$", page, re.MULTILINE) == list(kinds)
    common = events.Event.__struct_fields__
    assert [bare(row[0]) for row in table(page, "Field")] == ["type", *common]
    for name, kind in kinds.items():
        own = [field for field in kind.__struct_fields__ if field not in common]
        assert [bare(row[0]) for row in table(section(page, f"### `{name}`"), "Field")] == own, name
    assert [bare(row[0]) for row in table(section(page, "### Usage"), "Field")] == list(events.Usage.__struct_fields__)


def test_the_http_page_lists_how_runs_fail() -> None:
    paths = [*(ROOT / "worker").glob("*.py"), ROOT / "core" / "janitor.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    codes = set(re.findall(r"(?:failed\(|Failed\(code=|Overdue\(|_end\(\w+, )\"(\w+)\"", source))
    rows = table(section(read("docs/http.md"), "## How runs fail"), "Code")
    assert {bare(row[0]) for row in rows} == codes


def test_both_pages_name_every_field_that_a_chat_request_is_read_for() -> None:
    for page in ("README.md", "docs/http.md"):
        named = set(re.findall(r"`(\w+)(?:\.\w+)?`", read(page)))
        assert set(ChatBody.__struct_fields__) <= named, page


# --- the metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "module"),
    [
        ("### Of API and worker", core.metrics),
        ("### Of the API", app.metrics),
        ("### Of the worker", worker.metrics),
    ],
)
def test_the_metrics_page_lists_every_metric_in_order(heading: str, module: ModuleType) -> None:
    rows = table(section(read("docs/metrics.md"), heading), "Metric")
    listed = [(bare(row[0]), row[1], tuple(re.findall(r"`(\w+)`", row[2]))) for row in rows]
    assert listed == [(known.name, known.kind, known.labels) for known in metrics.of(module)]


def test_the_metrics_page_explains_every_alert_in_order() -> None:
    rules = yaml.safe_load(read("deploy/prometheus/alerts.yml"))["groups"]
    names = [rule["alert"] for group in rules for rule in group["rules"]]
    assert [bare(row[0]) for row in table(read("docs/metrics.md"), "Alert")] == names


def test_the_metrics_page_has_the_words_that_the_code_counts_by() -> None:
    page = read("docs/metrics.md")
    for metric in (app.metrics.STREAMS_ENDED, app.metrics.GAPS_HEALED):
        for sample in metric.collect()[0].samples:
            assert [word for word in sample.labels.values() if f"`{word}`" not in page] == []


# --- the text itself ------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_repository_knows_nothing_of_where_it_is_written() -> None:
    """Whoever has only the repository must find everything that it speaks of."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    foreign = [word.encode() for word in ("/" + "work/", "DESIGN" + ".md", "FACTS" + ".md")]
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert paths
    found = [(str(path), word) for path in paths for word in foreign if word in path.read_bytes()]
    assert found == []
