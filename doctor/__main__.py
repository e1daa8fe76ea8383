"""`python -m doctor`: looks into everything, says what is wrong and how to mend it. Exit code 1 when something is.

Run it where Heartline runs: in its folder, as its user, with its environment.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

import msgspec

from core import settings
from doctor.case import Case
from doctor.examination import examine
from doctor.finding import Finding, Grade

LABELS = {Grade.OK: "ok", Grade.WARNING: "warning", Grade.FAILED: "FAILED", Grade.SKIPPED: "skipped"}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m doctor", description="Says what is wrong with this Heartline.")
    parser.add_argument("--url", action="append", default=[], help="also ask through this address, a proxy's")
    parser.add_argument("--key-file", default="", help="a file with the API key to ask with; else the server's first")
    parser.add_argument("--model", default="", help="the model to run; else one with 'runner: diagnostic'")
    parser.add_argument("--quick", action="store_true", help="read no streams; saves ten seconds")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    found = parser.parse_args(argv)
    for url in found.url:
        if not url.startswith(("http://", "https://")):
            parser.error(f"--url {url}: expected an address that begins with http:// or https://")
    return found


def shown(finding: Finding) -> str:
    line = f"{LABELS[finding.grade]:<8} {finding.check:<20} {finding.said}"
    return f"{line}\n{'':<30}→ {finding.fix}" if finding.fix else line


def report(findings: Iterable[Finding], as_json: bool) -> int:
    """Prints the findings, as they come or as one JSON object; returns the exit code."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            print(shown(finding), flush=True)
    wrong = sum(finding.grade is Grade.FAILED for finding in found)
    if as_json:
        print(msgspec.json.encode({"ok": not wrong, "findings": found}).decode())
    else:
        print(f"\n{wrong} of {len(found)} checks have failed." if wrong else "\nNothing is wrong.")
    return 1 if wrong else 0


def main() -> int:
    given = arguments()
    case = Case(
        settings.environment(os.environ),
        urls=tuple(given.url),
        key_file=given.key_file,
        model=given.model,
        quick=given.quick,
    )
    return report(examine(case), given.json)


if __name__ == "__main__":
    sys.exit(main())
