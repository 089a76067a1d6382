"""The commands of the guides, in the order of their pages, and what each page needs before it can be played.

`tests/scenario/test_guides.py` plays them on one local cloud, as Bash reads them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from starters.demo import demo_data

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "docs/getting-started.md",
    "docs/guides/analyst.md",
    "docs/guides/data-owner.md",
    "docs/guides/operator.md",
    "docs/guides/auditor.md",
    "docs/audit.md",
    "docs/web-ui.md",
    "docs/guides/observability.md",
    "docs/guides/upgrades.md",
    "README.md",
)
"""In the order in which they are played."""
ELSEWHERE = {
    "make ": "tests/unit/test_guides.py",
    "cleanroom up --party": "tests/scenario/test_three_companies.py",
    "cleanroom init north": "tests/scenario/test_three_companies.py",
    "cleanroom dataset init north": "tests/scenario/test_three_companies.py",
    "cleanroom dataset init south": "tests/scenario/test_three_companies.py",
    "cleanroom dataset publish north": "tests/scenario/test_three_companies.py",
    "cleanroom dataset publish south": "tests/scenario/test_three_companies.py",
    "cleanroom dataset publish matches": "tests/scenario/test_three_companies.py",
    "cleanroom query create overlap": "tests/scenario/test_three_companies.py",
    "cleanroom query approve overlap": "tests/scenario/test_three_companies.py",
    "cleanroom run start overlap": "tests/scenario/test_three_companies.py",
    "cleanroom run result first": "tests/scenario/test_three_companies.py",
    "cleanroom init contosso --collaboration": "tests/unit/test_set_up.py",
    "cleanroom worker ": "tests/scenario/test_worker_lifecycle.py",
    "cleanroom demo ": "tests/scenario/test_demo_result.py",
    "cleanroom run conclude": "tests/scenario/test_crashes.py",
    "cleanroom versions ": "tests/scenario/test_upgrade.py",
    "cleanroom down": "tests/scenario/test_guides.py",
    "export ": "tests/scenario/test_observability.py",
    "cleanroom run start delays": "tests/scenario/test_observability.py",
    ". .venv/bin/activate": "tests/unit/test_guides.py",
    "cleanroom query lint --sql query.sql": "tests/unit/test_sql_page.py",
    "python -m tools.cluster up": "tests/cluster/conftest.py",
    "nsenter ": "tests/cluster/conftest.py",
    "sed ": "tests/unit/audit/test_report.py",
}
"""The beginnings of commands that another test executes, and that test."""


ROOTS = ".cleanroom/state/snp/attestation-trust.json"
"""Roots of the local cloud's evidence, which an auditor of real hardware does not name."""
WHOLE = {"docs/guides/backups.md": "tests/scenario/test_lost_temporal_server.py"}
"""Pages whose commands another test executes, with more around them, and that test."""


def lines(page: str) -> list[str]:
    """The commands in the code blocks of a page: each a line of Bash, without prompt and comment."""
    text = (ROOT / page).read_text("utf-8")
    found: list[str] = []
    for block in re.findall(r"^ *```(?:console|sh)\n(.*?)^ *```", text, re.M | re.S):
        prompted = re.search(r"^ *\$ ", block, re.M)
        block = re.sub(r"\\\n>?", " ", block)
        for command in re.split(r"^ *\$ ", block, flags=re.M)[1:] if prompted else block.splitlines():
            # What follows is output, except for lines that begin with the prompt of a continuation.
            first, *more = command.splitlines() or [""]
            parts = [first, *(line.removeprefix(">") for line in more if line.startswith(">"))]
            found.append("\n".join(" ".join(re.sub(r"\s+#.*", "", part).split()) for part in parts))
    return [line for line in found if line]


def elsewhere(line: str) -> str | None:
    """The test that executes a command, if it is not the one of the guides."""
    return next((test for start, test in ELSEWHERE.items() if line.startswith(start)), None)


@dataclass
class Guides:
    """Plays the commands in a folder with a local cloud."""

    folder: Path
    run: str = ""
    thumbprint: str = ""
    played: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "demo").symlink_to(ROOT / "demo")
        demo_data(self.folder / ".cleanroom/demo/data", 20_000)

    def bash(self, line: str, *, answer: str = "y\n") -> str:
        """Execute a line, and return what it prints."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLEANROOM")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["/bin/bash", "-euc", line], cwd=self.folder, env=environment, input=answer, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, line: str) -> Any:
        return json.loads(self.bash(f"{line} --output json"))

    def play(self, page: str) -> None:
        """Execute the commands of a page that no other test executes."""
        prepare = {start: act for (of, start), act in BEFORE.items() if of == page}
        found = lines(page)
        if "cleanroom up" in found:
            # The look around comes first on the page, after the demo has been played.
            start = found.index("cleanroom up")
            found = found[start:] + found[:start]
        for line in found:
            if elsewhere(line):
                continue
            for start in [start for start in prepare if line.startswith(start)]:
                prepare.pop(start)(self)
            self.bash(self.with_values(page, line))
            self.played.append(line)
            if line.startswith("cleanroom run start"):
                self.run = max(self.json("cleanroom run list --profile fabrikam"), key=lambda row: row["started"])["run"]
            if line.startswith("cleanroom deputy name"):
                self.thumbprint = self.json("cleanroom deputy list --profile contosso")[0]["kid"]

    def with_values(self, page: str, line: str) -> str:
        """Replace the placeholders of a guide."""
        today = dt.datetime.now(dt.UTC).date()
        line = re.sub(r"\b(RUN|r-1)\b", self.run, line).replace("revoke THUMBPRINT", f"revoke {self.thumbprint}")
        line = line.replace("2026-12-20", str(today)).replace("2027-01-10", str(today + dt.timedelta(days=14)))
        if page == "docs/web-ui.md" and "query approve" in line:
            line = line.replace("fabrikam-delays", "open")
        if line.startswith("cleanroom query reject"):
            line = line.replace("fabrikam-delays", "delays")
        if page == "docs/guides/data-owner.md" and re.search(r"dataset|flights\.csv", line):
            line = line.replace("contosso-flights", "contosso-guide")
        if "audit report" in line:
            return f"{line} --trust {ROOTS}"
        if "audit verify" in line:
            line = self.reference_values(line)
        return line.replace("keyring.json --use 8c1f0a4be27d9351", f"keyring.json --use {self.key_id()}")

    def reference_values(self, line: str) -> str:
        """Replace the values that an auditor gets from a trusted source by those of this cloud, and name its roots."""
        found = self.json("cleanroom collaboration show --profile operator")
        user, keys = next(iter(self.json(f"cleanroom audit verify {line.split()[3]} --trust {ROOTS}")["signers"].items()))
        line = (
            line.replace("738d85d9…=THUMBPRINT", f"{user}={keys[0]}")
            .replace("8b71…", found["cleanRooms"][0])
            .replace("6e40…", found["trust"]["sparkServices"][0])
        )
        return re.sub(r" --trust \S+|$", f" --trust {ROOTS}", line, count=1)

    def key_id(self) -> str:
        file = self.folder / "keyring.json"
        return list(json.loads(file.read_text())["keys"])[-1] if file.exists() else ""

    def write(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(value if isinstance(value, str) else yaml.safe_dump(value))


def _draft(guides: Guides) -> None:
    text = (ROOT / "demo/fabrikam-delays.yaml").read_text()
    guides.write("delays.yaml", text.replace("name: fabrikam-delays", "name: delays"))
    for name in ("fabrikam-delays.sql", "fabrikam-delays.yaml", "litware-delays.yaml"):
        shutil.copy(ROOT / "demo" / name, guides.folder / name)
    guides.write("delays.sql", "SELECT f.origin AS origin, COUNT(*) AS n FROM f GROUP BY f.origin\n")
    columns = [{"name": "origin", "type": "string"}]
    guides.write("catalogue.json", json.dumps({"views": [{"name": "f", "dataset": "flights", "owner": "u", "columns": columns}]}))


def _dataset(guides: Guides) -> None:
    shutil.copy(guides.folder / ".cleanroom/demo/data/flights.csv", guides.folder / "flights.csv")


def _rejected(guides: Guides) -> None:
    guides.bash("cleanroom query create delays.yaml --propose --profile fabrikam")


def _open(guides: Guides) -> None:
    text = (guides.folder / "delays.yaml").read_text()
    guides.write("open.yaml", text.replace("name: delays", "name: open"))
    guides.bash("cleanroom query create open.yaml --propose --profile fabrikam")


def _deputy(guides: Guides) -> None:
    config = guides.folder / ".cleanroom/cleanroom.toml"
    profile = re.search(r"^\[profile\.contosso\]\n.*?(?=^\[profile\.(?!contosso))", config.read_text(), re.M | re.S)
    assert profile is not None
    text = profile[0].replace("profile.contosso", "profile.maria").replace('party = "contosso"', 'party = "contosso"\ndeputy = true', 1)
    config.write_text(config.read_text() + "\n" + re.sub(r'keys_dir = ".*"', 'keys_dir = "maria-keys"', text))


def _running(guides: Guides) -> None:
    guides.bash("cleanroom run start fabrikam-delays --run-id to-cancel --no-wait --profile fabrikam")
    guides.run = "to-cancel"


def _ended(guides: Guides) -> None:
    guides.run = "2026-w14"


def _keyring(guides: Guides) -> None:
    guides.bash("cleanroom codec-keys keyring.json")


BEFORE: dict[tuple[str, str], Callable[[Guides], object]] = {
    ("docs/guides/analyst.md", "cleanroom query check"): _draft,
    ("docs/guides/data-owner.md", "cleanroom keyring seal"): lambda guides: guides.bash("cleanroom init litware"),
    ("docs/guides/data-owner.md", "cleanroom dataset init"): _dataset,
    ("docs/guides/data-owner.md", "cleanroom query reject"): _rejected,
    ("docs/guides/data-owner.md", "cleanroom deputy key"): _deputy,
    ("docs/web-ui.md", "cleanroom query approve"): _open,
    ("docs/guides/operator.md", "cleanroom run cancel"): _running,
    ("docs/guides/operator.md", "cleanroom codec-keys"): _keyring,
    ("docs/guides/auditor.md", "cleanroom audit list"): _ended,
}
"""By page and beginning of a command, what has to exist before it."""
