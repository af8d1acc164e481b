"""`streamkit serve`: the serving layer over HTTP."""

from __future__ import annotations

import socket
from typing import Annotated
from urllib.parse import urlencode

import typer
import uvicorn

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, check_topics, err, load, open_log, out
from streamkit.cli.signals import calling
from streamkit.errors import StreamkitError
from streamkit.serving.connect import open_serving
from streamkit.serving.http import make_app
from streamkit.topology import Topology

GOODBYE_SECONDS = 5
"""How long requests under way may take once the end was asked for."""


def serve(
    topology: TOPOLOGY,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    stale_seconds: Annotated[
        float, typer.Option(min=0, help="How old an Answer's look at the state may be; 0 asks the broker each time.")
    ] = 0.05,
    follow: Annotated[
        bool,
        typer.Option(
            help="Keep a copy of all state by following the changelogs, so that Answers go on, and say how far they "
            "are behind, whatever becomes of the workers and their disks."
        ),
    ] = True,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Answer for a topology's Views over HTTP, as JSON, until Ctrl-C or SIGTERM.

    /openapi.json describes it: /views, /views/VIEW/answer[s], /mapreduce/JOB/answer, /health, /metrics. It has no
    authentication: put a proxy that has before it, where others can reach HOST.

    Examples:  streamkit serve topologies/ad_clicks.py   |   streamkit serve app.py --port 9000 --stale-seconds 0
    """
    loaded, folder = load(topology, data)
    with (
        _listen(host, port) as listening,
        open_log(brokers, client_config) as log,
        open_serving(loaded, log, folder, stale_seconds=stale_seconds, follow=follow) as serving,
    ):
        check_topics(log, loaded, topology)
        config = uvicorn.Config(
            make_app(loaded, serving), log_level="warning", access_log=False, timeout_graceful_shutdown=GOODBYE_SECONDS
        )
        server = uvicorn.Server(config)
        address = _address(host, listening.getsockname()[1])
        out.print(f"topology {loaded.name!r} is served at {address}; /openapi.json says how", markup=False)
        out.print(f"try: {example(loaded, address)}", markup=False)

        def stop() -> None:
            server.should_exit = True

        # uvicorn takes the signals itself, and raises them again at its end: without handlers of ours, that would kill
        # the process before the reader's directory is removed.
        with calling(stop):
            server.run(sockets=[listening])
    err.print("stopped")


def example(topology: Topology, address: str) -> str:
    """A command line that asks for something that is there, whatever the keys.

    >>> example(Topology("ads"), "http://127.0.0.1:8080")
    "curl 'http://127.0.0.1:8080/views'"
    """
    for name in topology.views:
        return f"curl '{address}/views/{name}/answers?{urlencode({'limit': 3})}'"
    return f"curl '{address}/views'"


def _address(host: str, port: int) -> str:
    """
    >>> _address("::1", 80)
    'http://[::1]:80'
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """Before all else, and not by uvicorn, which would leave with a log line."""
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        raise StreamkitError(
            f"cannot listen at {host}:{port}: {error.strerror or error}. Is another server running there? "
            f"Choose another --port (0: any that is free) or --host"
        ) from None
    # asyncio does this only for sockets that say they are TCP, which create_server's do not. Without it the body waits
    # for the client's delayed acknowledgement of the head: 47 ms an answer instead of 2.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
