"""docs/query-life.md: the states of queries, runs and datasets, drawn from :mod:`cleanroom.lifecycle`."""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.lifecycle import dataset, query, run
from cleanroom.lifecycle.state import State, Transition
from scripts.reference.markdown import code, header, page, table

HEAD = """`cleanroom query list`, `cleanroom query show`, the Web UI and the search attribute `CrStage` show the same state, in
one word. It is what a run would meet: a query whose approvals have expired is not *Approved*. `show` prints the
command that leads on as `next`, and who gives it as `next_by`. A collaboration has no such states, because governance
closes none: it is over when its owners have withdrawn consent to their datasets (`cleanroom consent off`).
"""
QUERY_NOTE = """
A rejection or a withdrawal returns a proposal to its draft. A query that all owners accepted needs no workflow: what is
drawn in *accepted* stays true when its workflow is cancelled or terminated. A renewal of an accepted query is another
document, which is found by the first name ([decision 16](decisions/016-renewals-are-documents.md)).
"""
RUN_NOTE = """
A terminated run could not clean up. `run conclude` or `cleanup --apply` does so, and the run is then *FAILED* with the
code `RunTerminated`, or what its ledger entries say.
"""


OMITTED = (
    "query adopt",
    "query create, with another text",
    "query adopt, query create",
    "Temporal deletes it",
    "late votes without a decision",
)
"""Arrows of a query that are not drawn. The tests of its life know them."""


def render() -> str:
    """Render the page."""
    groups = {"open": query.OPEN, "accepted": (query.APPROVED, query.CONSENT_WITHDRAWN), "over": query.OVER}
    lines = [
        *header("The life of a query, a run and a dataset", "cleanroom/lifecycle", HEAD),
        "## A query\n",
        _diagram(query.TRANSITIONS, query.STATES, groups, omit=OMITTED),
        QUERY_NOTE,
        *_table(query.STATES),
        "## A run\n",
        _diagram(run.TRANSITIONS, run.STATES, {"under way": (run.PREPARING, run.SUBMITTING, run.RUNNING, run.CONCLUDING)}),
        RUN_NOTE,
        *_table(run.STATES),
        "## A dataset\n",
        _diagram(dataset.TRANSITIONS, dataset.STATES, {}),
        "",
        *_table(dataset.STATES),
    ]
    return page(lines)


def _table(states: Sequence[State]) -> list[str]:
    return table(("State", "`CrStage`", "Meaning", "Next"), map(_row, states))


def _row(state: State) -> tuple[str, str, str, str]:
    command = state.command.format(name="NAME", query="QUERY", document="DOCUMENT")
    by = {"proposer": "its author", "owners": "the pending owners", "consent": "who withdrew it", "owner": "its owner"}.get(state.by, "")
    return state.word, code(state.stage), state.meaning, code(command) + (f" ({by})" if by else "")


def _diagram(
    transitions: Sequence[Transition], states: Sequence[State], groups: dict[str, tuple[State, ...]], omit: tuple[str, ...] = ()
) -> str:
    """Draw a state diagram. An arrow that leaves every state of a group is drawn once, from the group."""
    lines = ["```mermaid", "stateDiagram-v2", "  direction TB"]
    grouped = {state for members in groups.values() for state in members}
    for name, members in groups.items():
        lines.append(f'  state "{name}" as {_key(name)} {{')
        lines += [f'    state "{state.word}" as {_key(state.word)}' for state in members]
        lines += ["  }"]
    used = {state for each in transitions for state in (each.before, each.after)}
    lines += [f'  state "{state.word}" as {_key(state.word)}' for state in states if state not in grouped and state in used]
    drawn: dict[tuple[str, str], list[str]] = {}
    for each in transitions:
        if each.event in omit:
            continue
        before = "[*]" if each.before is None else _key(each.before.word)
        for name, members in groups.items():
            if each.before in members and all(Transition(state, each.event, each.after) in transitions for state in members):
                before = _key(name)
        events = drawn.setdefault((before, _key(each.after.word)), [])
        events += [each.event] if each.event not in events else []
    lines += [f"  {before} --> {after}: {'<br>'.join(events)}" for (before, after), events in drawn.items()]
    return "\n".join([*lines, "```"])


def _key(word: str) -> str:
    return word.replace(" ", "")
