"""Recordings of two branches are merged without Spark."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sparkapp import recorded_plans


def packed(recording: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps(recording).encode(), compresslevel=1)


def test_each_text_has_the_plan_of_the_branch_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content, file = recorded_plans.FILE.read_bytes(), tmp_path / "plans.json.gz"
    monkeypatch.setattr(recorded_plans, "FILE", file)
    whole = json.loads(gzip.decompress(content))
    texts = {name: (None, [text for text, _ in pairs]) for name, pairs in whole["accepted"].items()}
    monkeypatch.setattr(recorded_plans, "accepted", lambda: copy.deepcopy(texts))
    monkeypatch.setattr(recorded_plans, "mistakes", lambda: [(text, code) for text, code, _ in whole["refused"]])
    monkeypatch.setattr(recorded_plans, "TEXTS", {})
    guarded, refused = whole["accepted"]["guarded"], whole["refused"]
    one = {"accepted": whole["accepted"] | {"guarded": guarded[:5]}, "refused": refused[1:]}
    other = {"accepted": whole["accepted"] | {"guarded": guarded[5:]}, "refused": refused[:1]}
    recorded_plans.merge([packed(one), packed(other)])
    assert file.read_bytes() == content
    with pytest.raises(SystemExit, match="record with Spark"):
        recorded_plans.merge([packed(one)])
