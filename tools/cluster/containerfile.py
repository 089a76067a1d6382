"""Reads a Containerfile: its stages, and what a stage installs, runs and sets.

It supports what ``deploy/Containerfile`` uses: stages by name, lines that continue, and no variables in the instructions that are read.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One stage: the stage or image that it starts from, and its instructions, as keyword and arguments."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, keyword: str) -> tuple[str, ...]:
        """Return the arguments of all instructions with this keyword."""
        return tuple(arguments for found, arguments in self.instructions if found == keyword)


class Containerfile:
    """The stages of a file."""

    def __init__(self, file: Path) -> None:
        self.stages: dict[str, Stage] = {}
        for keyword, arguments in _instructions(file.read_text()):
            if keyword == "FROM":
                base, _, name = arguments.split()
                stage = self.stages[name] = Stage(base)
            elif self.stages:
                stage.instructions.append((keyword, arguments))

    def ancestry(self, name: str) -> list[Stage]:
        """Return the stages that ``name`` consists of, the first one first."""
        stage = self.stages[name]
        return [*(self.ancestry(stage.base) if stage.base in self.stages else []), stage]

    def packages(self, name: str) -> list[str]:
        """Return the Debian packages that the stages of ``name`` install."""
        commands = [command for run in self._runs(name) for command in _split(run) if " install " in command]
        return [word for command in commands for word in command.partition(" install ")[2].split() if not word.startswith("-")]

    def commands(self, name: str) -> list[str]:
        """Return the commands of the stages of ``name``, without those of the package manager."""
        return [command for run in self._runs(name) for command in _split(run) if "apt-get" not in command]

    def configuration(self, name: str) -> dict[str, object]:
        """Return the OCI configuration of ``name``."""
        ancestry = self.ancestry(name)
        environment: dict[str, str] = {}
        for stage in ancestry:
            for arguments in stage.arguments("ENV"):
                environment |= dict(pair.split("=", 1) for pair in shlex.split(arguments))
        last = ancestry[-1]
        return {
            "Env": [f"{key}={value}" for key, value in environment.items()],
            "WorkingDir": last.arguments("WORKDIR")[-1],
            "User": last.arguments("USER")[-1],
            "Entrypoint": json.loads(last.arguments("ENTRYPOINT")[-1]),
        }

    def _runs(self, name: str) -> list[str]:
        return [run for stage in self.ancestry(name) for run in stage.arguments("RUN")]


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, arguments = line.split(None, 1)
            yield keyword.upper(), re.sub(r"\s+", " ", arguments).strip()


def _split(run: str) -> list[str]:
    return [command.strip() for command in run.split("&&")]
