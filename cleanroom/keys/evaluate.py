"""Evaluates a release policy on the claims of an attestation token, with one row per condition to explain a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from cleanroom.keys.release_policy import ClaimEquals, ConditionGroup, ReleasePolicy, same_authority

_SHOWN = 160


class ClaimRow(BaseModel):
    """One claim condition with the token's value.

    ``place`` is the path inside the policy (``anyOf[0].allOf[2]``). ``actual`` is None if the token lacks the claim. ``counted`` is False
    if the block's authority did not issue the token, so that the row has no effect.
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
    """The result of an evaluation: ``ok``, whether an authority matched, and every claim condition as a row."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    issuer: str
    authorities: tuple[str, ...]
    authority_matched: bool
    rows: tuple[ClaimRow, ...]

    @property
    def failed(self) -> tuple[ClaimRow, ...]:
        """The counted rows that failed. With anyOf, some may fail although the verdict is ``ok``."""
        return tuple(row for row in self.rows if row.counted and not row.passed)

    def table(self) -> str:
        """Return policy and token next to each other as text, with one condition per line."""

        def line(passed: bool, name: str, policy: str, token: str) -> str:
            # Policy and token are untrusted text, which must not add lines to this table.
            return printable(f"{'ok' if passed else 'NO':<4}{name}: policy {policy}; token {token}")

        lines = [line(self.authority_matched, "iss", " | ".join(self.authorities), self.issuer or "(missing)")]
        for row in self.rows:
            if row.counted or not self.authority_matched:
                lines.append(line(row.passed, row.claim, row.expected, "(missing)" if row.actual is None else row.actual))
        return "\n".join(lines)


def text_form(value: Any) -> str | None:
    """Return the text that a claim is compared by: strings verbatim, booleans as true or false, integers in decimal. Else None."""
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
    """Return untrusted text without control, bidirectional and line-breaking characters."""
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
            passed = text_form(value) == condition.equals
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
    """Evaluate ``policy`` on verified ``claims``. ``issuer`` defaults to the ``iss`` claim.

    A block counts only if its authority equals the issuer, apart from one trailing slash. All rows are computed, so that the verdict shows
    every mismatch.
    """
    claimed = claims.get("iss") if issuer is None else issuer
    actual = claimed if isinstance(claimed, str) else ""
    rows: list[ClaimRow] = []
    matched = ok = False
    for index, block in enumerate(policy.any_of):
        counted = same_authority(block.authority, actual)
        outcome = _evaluate(block, claims, f"anyOf[{index}]", block.authority, counted, rows)
        matched |= counted
        ok |= counted and outcome
    return PolicyVerdict(ok=ok, issuer=actual, authorities=policy.authorities(), authority_matched=matched, rows=tuple(rows))
