"""Evaluation of a release policy on the claims of an attestation token, row by row, so that a refusal can be explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from cleanroom.keys.policy import ClaimEquals, ConditionGroup, ReleasePolicy, same_authority

_SHOWN = 160


class ClaimRow(BaseModel):
    """One claim condition beside what the token says.

    ``place`` is the path inside the policy (``anyOf[0].allOf[2]``); ``actual`` is None when the token lacks the claim;
    ``counted`` is False when the block's authority did not issue the token, so that the row had no say.
    """

    model_config = ConfigDict(frozen=True)

    place: str
    authority: str
    claim: str
    expected: str
    actual: str | None
    passed: bool
    counted: bool


class PolicyVerdict(BaseModel):
    """The verdict of a policy: ``ok``, whether any authority matched, and every claim condition as a row."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    issuer: str
    authorities: tuple[str, ...]
    authority_matched: bool
    rows: tuple[ClaimRow, ...]

    @property
    def failed(self) -> tuple[ClaimRow, ...]:
        """The rows that counted and did not hold (in a policy with anyOf some may fail although the verdict is ok)."""
        return tuple(row for row in self.rows if row.counted and not row.passed)

    def table(self) -> str:
        """Policy and token side by side as text, one condition a line."""

        def line(passed: bool, name: str, policy: str, token: str) -> str:
            # Policy and token are other parties' texts: no line of theirs looks like one of ours.
            return printable(f"{'ok' if passed else 'NO':<4}{name}: policy {policy}; token {token}")

        lines = [line(self.authority_matched, "iss", " | ".join(self.authorities), self.issuer or "(missing)")]
        for row in self.rows:
            if row.counted or not self.authority_matched:
                lines.append(line(row.passed, row.claim, row.expected, "(missing)" if row.actual is None else row.actual))
        return "\n".join(lines)


def text_form(value: Any) -> str | None:
    """The text that a claim is compared by: strings verbatim, booleans true/false, integers decimal; all else never matches."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return None


_MISSING = object()


def _lookup(claims: Mapping[str, Any], path: str) -> Any:
    value: Any = claims
    for segment in path.split("."):
        if not isinstance(value, Mapping) or segment not in value:
            return _MISSING
        value = value[segment]
    return value


def printable(text: str) -> str:
    """Somebody else's text without control, bidirectional and line-breaking characters."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _shown(value: Any) -> str | None:
    if value is _MISSING:
        return None
    text = text_form(value)
    if text is None:
        return f"({'null' if value is None else type(value).__name__})"
    shown = printable(text[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _evaluate(group: ConditionGroup, claims: Mapping[str, Any], place: str, authority: str, counted: bool, rows: list[ClaimRow]) -> bool:
    outcomes: list[bool] = []
    for index, condition in enumerate(group.conditions):
        here = f"{place}.{group.operator}[{index}]"
        if isinstance(condition, ClaimEquals):
            value = _lookup(claims, condition.claim)
            passed = value is not _MISSING and text_form(value) == condition.equals
            rows.append(
                ClaimRow(
                    place=here,
                    authority=authority,
                    claim=condition.claim,
                    expected=condition.equals,
                    actual=_shown(value),
                    passed=passed,
                    counted=counted,
                )
            )
            outcomes.append(passed)
        else:
            outcomes.append(_evaluate(condition, claims, here, authority, counted, rows))
    return all(outcomes) if group.operator == "allOf" else any(outcomes)


def evaluate(policy: ReleasePolicy, claims: Mapping[str, Any], issuer: str | None = None) -> PolicyVerdict:
    """Evaluate ``policy`` on verified ``claims``. ``issuer`` defaults to the ``iss`` claim; never raises on a well-formed policy.

    A block counts only when its authority equals the issuer (modulo one trailing slash); all rows are computed, none is
    skipped, so that the verdict tells everything at once.
    """
    claimed = claims.get("iss") if issuer is None else issuer
    actual = claimed if isinstance(claimed, str) else ""
    rows: list[ClaimRow] = []
    matched = ok = False
    for index, block in enumerate(policy.any_of):
        counted = bool(actual) and same_authority(block.authority, actual)
        outcome = _evaluate(block, claims, f"anyOf[{index}]", block.authority, counted, rows)
        matched |= counted
        ok |= counted and outcome
    return PolicyVerdict(ok=ok, issuer=actual, authorities=policy.authorities(), authority_matched=matched, rows=tuple(rows))
