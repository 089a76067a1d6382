"""Command line of ``make mutants``: ``python -m scripts.mutants cleanroom/keys [--sample 100]``."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from scripts.mutants.faults import Fault, faults_of
from scripts.mutants.runner import KILLED, NOT_RUN, SURVIVED, TIMED_OUT, Mutants, end_with_parent

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Put faults into the given modules and report those that no test notices.

    Returns:
        1 when a module has a fault that survived and that ``equivalent.toml`` does not list; 0 otherwise.
    """
    options = _options(arguments)
    known = {entry["fault"]: entry["reason"] for entry in tomllib.loads((FOLDER / "equivalent.toml").read_text()).get("equivalent", [])}
    tests = tomllib.loads((FOLDER / "tests.toml").read_text())
    survivors = 0
    for target in options.targets or tests:
        faults = [item for item in _faults(target) if options.only in item.name]
        if options.sample and options.sample < len(faults):
            faults = random.Random(options.seed).sample(faults, options.sample)
        chosen = options.tests or _tests(target, tests)
        results = _run(faults, chosen, options)
        survivors += _report(target, results, known, names=options.names)
    return 1 if survivors else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.mutants", description=main.__doc__)
    parser.add_argument("targets", nargs="*", help="modules or packages; default: all in tests.toml")
    parser.add_argument("--tests", nargs="*", help="test files; default: those that tests.toml names")
    parser.add_argument("--sample", type=int, default=0, help="number of faults per target, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--only", default="", help="only faults whose name contains this text")
    parser.add_argument("--names", action="store_true", help="print the name of each surviving fault, for equivalent.toml")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at the same time")
    parser.add_argument("--seconds", type=float, default=10, help="seconds of tests per fault at most")
    return parser.parse_args(arguments)


def _faults(target: str) -> list[Fault]:
    path = ROOT / target
    return [fault for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path]) for fault in faults_of(file, ROOT)]


def _tests(target: str, tests: dict[str, list[str]]) -> list[str]:
    """The tests of the longest entry of ``tests.toml`` that contains ``target``."""
    entries = [entry for entry in tests if target == entry or target.startswith(f"{entry}/") or entry.startswith(f"{target.rstrip('/')}/")]
    if not entries:
        sys.exit(f"{target}: scripts/mutants/tests.toml names no tests for it")
    return sorted({name for entry in entries for name in tests[entry]})


def _run(faults: list[Fault], tests: list[str], options: argparse.Namespace) -> list[tuple[Fault, str]]:
    # One process per target: pytest and the modules under test keep state.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        end_with_parent()
        settings.register_profile(
            "mutants", deadline=None, max_examples=20, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
        )
        plugin = Mutants(faults, ROOT, jobs=options.jobs, seconds=options.seconds)
        pytest.main(
            [
                "-q",
                "-s",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "--hypothesis-profile=mutants",
                "-m",
                "not scenario and not spark",
                *tests,
            ],
            plugins=[plugin],
        )
        number = {id(fault): index for index, fault in enumerate(faults)}
        with os.fdopen(writer, "w") as out:
            out.writelines(f"{number[id(fault)]} {result}\n" for fault, result in plugin.results)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as source:
        lines = [line.split(" ", 1) for line in source]
    os.waitpid(pid, 0)
    return [(faults[int(index)], result.strip()) for index, result in lines]


def _report(target: str, results: list[tuple[Fault, str]], known: dict[str, str], *, names: bool) -> int:
    modules: dict[str, Counter[str]] = {}
    survivors = []
    for fault, result in sorted(results, key=lambda item: (item[0].file, item[0].first_line)):
        noticed = result in (KILLED, TIMED_OUT)
        kind = "killed" if noticed else "equivalent" if fault.name in known else result
        modules.setdefault(fault.file, Counter())[kind] += 1
        if kind in (SURVIVED, NOT_RUN):
            survivors.append(fault)
            print(f"{fault.file}:{fault.first_line} {result} ({fault.kind}) in {fault.function or 'module'}")
            print(f"  - {fault.before}\n  + {fault.after}" + (f"\n  = {fault.name}" if names else ""))
    print(f"\n{target}")
    total: Counter[str] = Counter()
    for file, counts in (*modules.items(), ("total", total)):
        total.update(counts if file != "total" else ())
        killed, alive = counts["killed"], counts[SURVIVED] + counts[NOT_RUN]
        rate = 100 * killed / (killed + alive) if killed + alive else 100.0
        print(f"  {file:<44} {killed:>5} killed {alive:>4} survived {counts['equivalent']:>3} equivalent  {rate:5.1f} %")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())
