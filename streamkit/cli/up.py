"""`streamkit up`: all of a topology by one command."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from streamkit.broker import BrokerSettings, EmbeddedBroker
from streamkit.broker.probe import describe_cluster
from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, create_topics, err, load, open_log, out
from streamkit.cli.signals import asked_to_stop
from streamkit.cli.supervise import Part, Supervisor
from streamkit.folder import DataFolder
from streamkit.settings import DEFAULT_BROKERS, Connection
from streamkit.topology import Topology

_LOOK_SECONDS = 0.1
SERVER, SCHEDULER, WORKERS, BROKER = range(4)
"""Who is stopped first: nobody may need what is gone already."""


def up(
    topology: TOPOLOGY,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes, which share the partitions.")] = 2,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the server; 0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Address the server listens at; 0.0.0.0 for all networks.")] = "127.0.0.1",
    broker: Annotated[
        bool, typer.Option(help="Run a broker, too; not where --brokers or a client's settings name one.")
    ] = True,
    broker_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0: any that is free.", show_default="of last time, at first 9092"),
    ] = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Run a topology: a broker, its topics, workers, a scheduler where a View has batch_every, and the HTTP server.

    Each is a process of its own, started again when it is killed, or when it starts while no broker answers; one that
    fails for good stops all, with the reason last. Ctrl-C or SIGTERM stops the server, the scheduler, the workers, the
    broker, in this order; topics and state stay for the next time. A broker that runs in the data folder already is
    used, and left running.

    Examples:  streamkit up topologies/ad_clicks.py   |   streamkit up app.py --workers 4 --brokers kafka:9092
    """
    loaded, folder = load(topology, data)
    os.environ["STREAMKIT_DATA"] = str(folder.root.absolute())
    named = Connection.from_environment(brokers, client_config)
    if client_config is not None:
        os.environ["STREAMKIT_CLIENT_CONFIG"] = str(client_config)
    own = broker and brokers is None and named.brokers == DEFAULT_BROKERS
    with asked_to_stop() as stop, Supervisor() as supervisor:
        address: str | None = named.brokers
        if own:
            address = _broker(supervisor, folder, broker_port, stop)
        if address is not None:
            os.environ["STREAMKIT_BROKERS"] = address
            _start(supervisor, loaded, topology, address, workers, host, port, client_config)
            status = supervisor.watch(stop)
        else:
            status = supervisor.stop()
    if reason := supervisor.reason():
        hint = (
            " (here the broker's port is --broker-port)" if reason.startswith("broker") and "--port" in reason else ""
        )
        err.print(f"all were stopped: {reason}{hint}", style="red", markup=False)
    elif not status:
        err.print("all are stopped")
    sys.exit(status)


def _broker(supervisor: Supervisor, folder: DataFolder, port: int | None, stop: threading.Event) -> str | None:
    """The address of the broker in the data folder, which is started unless it runs; None where it fails."""
    path = folder.root.absolute() / "broker"
    embedded = EmbeddedBroker(BrokerSettings(path))
    running = embedded.status()
    if running.running:
        err.print(f"a broker runs already at {running.address}: it is used, and left running", markup=False)
        return running.address
    port_option = [] if port is None else ["--port", str(port)]
    supervisor.start(Part("broker", "broker", ["broker", "run", "--data", str(path), *port_option], BROKER, keeps=True))
    while supervisor.look() and not stop.wait(_LOOK_SECONDS):
        address = embedded.status().address
        if address is not None and _answers(address):
            return address
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    found = describe_cluster(host, int(port))
    return found is not None and bool(found.brokers)


def _start(
    supervisor: Supervisor,
    topology: Topology,
    spec: str,
    address: str,
    workers: int,
    host: str,
    port: int,
    client_config: Path | None,
) -> None:
    with open_log(address, client_config) as log:
        made = [name for name, new in create_topics(log, topology).items() if new]
    if made:
        err.print(f"topics made: {', '.join(made)}", markup=False)
    for number in range(1, workers + 1):
        supervisor.start(Part(f"worker {number}", f"worker {number}", ["worker", spec], WORKERS, patient=True))
    if scheduled := any(view.schedule for view in topology.views.values()):
        supervisor.start(Part("scheduler", "scheduler", ["scheduler", spec], SCHEDULER, patient=True))
    serve = ["serve", spec, "--host", host, "--port", str(port)]
    supervisor.start(Part("server", "server", serve, SERVER, patient=True))
    parts = [f"broker {address}", f"{workers} workers", *(["scheduler"] if scheduled else []), "server"]
    out.print(f"topology {topology.name!r}: {', '.join(parts)}; Ctrl-C stops all", markup=False)
    if not scheduled:
        out.print('no view says batch_every="1h" or the like, so there is no scheduler', markup=False)
    out.print(f"try, elsewhere: export STREAMKIT_BROKERS={address}", markup=False)
    for line in _tries(topology, spec):
        out.print(f"  {line}", markup=False)


def _tries(topology: Topology, spec: str) -> list[str]:
    """Commands that show something, whatever the topology.

    >>> _tries(Topology("ads"), "app.py")
    ['streamkit describe app.py']
    """
    generated = [f"streamkit generate {spec} {topic} --count 100000" for topic in topology.generators]
    queried = [f"streamkit query {spec} {view}" for view in list(topology.views)[:1]]
    batches = [f"streamkit batch history {spec}"] if topology.views else [f"streamkit describe {spec}"]
    return [*generated, *queried, *batches]
