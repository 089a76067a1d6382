"""``cleanroom logs``: the log of a run's pod, or of a service of the local cloud. Also ``python -m starters.logs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cleanroom.errors import NotFound, PreconditionFailed
from starters.local import RunningState
from starters.operations.local_cloud import find_state, list_local_cloud
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, error_boundary, out, print_json, safe

app = typer.Typer()


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="ID of a run, or name of a service in `cleanroom ps`, such as worker.frontend or frontend.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines, from the end.")] = 50,
    state: RunningState = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the end of the log of a run's driver pod, or of a service of the local cloud.

    The pod's log comes from the cluster in the profile with the boundary spark-service, which the operator has. Clusters keep it while
    the pod exists.

    Example: cleanroom logs worker.frontend
    """
    with error_boundary(output):
        folder = find_state(state)
        services = {str(item["name"]): item for item in (list_local_cloud(folder) if (folder / "services.json").exists() else [])}
        service = services.get(name) or services.get(f"worker.{name}")
        found = _tail(service, lines) if service is not None else _run(name, lines, config, services)
        if output is Format.JSON:
            print_json({"name": name, "lines": found})
        else:
            for line in found:
                out.print(safe(line, 10_000), highlight=False)


def _tail(service: dict[str, Any], lines: int) -> list[str]:
    file = Path(service["log"])
    try:
        return file.read_text("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError as error:
        raise NotFound("LogNotFound", f"{file} does not exist.", hint=f"{service['name']} has written nothing yet.") from error


def _run(run_id: str, lines: int, config: str | None, services: dict[str, Any]) -> list[str]:
    from cleanroom.identifiers import require_name
    from starters.operations.explain import cluster_settings, run_log

    known = f" Services: {', '.join(services)}." if services else ""
    settings = cluster_settings(config)
    if settings is None:
        raise PreconditionFailed(
            "ClusterUnknown",
            f"{run_id!r} is not a service here, and no profile says which cluster runs the pods.",
            hint="Logs of a run need a cleanroom.toml with a profile of the boundary spark-service, as the operator has."
            + (known or " `cleanroom ps` lists the services of a local cloud."),
        )
    return run_log(settings, require_name("NAME", run_id), lines)


if __name__ == "__main__":
    main(app)
