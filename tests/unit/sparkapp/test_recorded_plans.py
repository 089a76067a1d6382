"""Recordings of two branches are merged without Spark."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sparkapp import recorded_plans

SOME = 10
"""Plans of each catalogue in the recordings of this test, which packs and reads them several times."""


def packed(recording: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps(recording).encode())


def test_each_text_has_the_plan_of_the_branch_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorded = json.loads(gzip.decompress(recorded_plans.FILE.read_bytes()))
    file = tmp_path / "plans.json.gz"
    monkeypatch.setattr(recorded_plans, "FILE", file)
    whole = {"accepted": {name: pairs[:SOME] for name, pairs in recorded["accepted"].items()}, "refused": recorded["refused"][:SOME]}
    texts = {name: (None, [text for text, _ in pairs]) for name, pairs in whole["accepted"].items()}
    monkeypatch.setattr(recorded_plans, "accepted", lambda: copy.deepcopy(texts))
    monkeypatch.setattr(recorded_plans, "mistakes", lambda: [(text, code) for text, code, _ in whole["refused"]])
    monkeypatch.setattr(recorded_plans, "TEXTS", {})
    one, other = {**whole, "accepted": {**whole["accepted"]}}, {**whole, "accepted": {**whole["accepted"]}}
    one["accepted"]["guarded"], one["refused"] = whole["accepted"]["guarded"][:5], whole["refused"][1:]
    other["accepted"]["guarded"], other["refused"] = whole["accepted"]["guarded"][5:], whole["refused"][:1]
    recorded_plans.merge([packed(one), packed(other)])
    assert json.loads(gzip.decompress(file.read_bytes())) == whole
    with pytest.raises(SystemExit, match="record with Spark"):
        recorded_plans.merge([packed(one)])
