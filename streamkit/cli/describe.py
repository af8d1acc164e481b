"""`streamkit describe`: a topology as a tree and as a Mermaid graph."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.tree import Tree

from streamkit.cli.options import TOPOLOGY, load, out
from streamkit.interval import show_seconds
from streamkit.topology import Topology
from streamkit.view import View


def describe(
    topology: TOPOLOGY,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Only the Mermaid graph, to paste or to pipe.")] = False,
) -> None:
    """Show a topology: its topics with who reads them, as a tree and as a Mermaid graph. Needs no broker.

    Examples:  streamkit describe topologies/ad_clicks.py   |   streamkit describe app.py --mermaid > app.mmd
    """
    loaded, _ = load(topology)
    if not mermaid:
        out.print(tree(loaded))
        out.print()
    out.print(graph(loaded), markup=False)


def tree(topology: Topology) -> Tree:
    root = Tree(f"topology [bold]{topology.name}[/bold]: {_promises(topology)}")
    for topic in topology.topics.values():
        key = f", key {topic.key}" if topic.key else ""
        time = topic.timestamp or "the record's timestamp"
        branch = root.add(
            f"topic [bold]{topic.name}[/bold]: {topic.schema.owner} as {topic.codec.name}, {topic.partitions} "
            f"partitions{key}, event time {time}, errors {topic.errors}"
        )
        for view in topology.views_of(topic.name):
            _add_view(branch, view)
        for agent in topology.agents_of(topic.name):
            outs = "".join(f" -> topic {to.name}" for to in agent.topics)
            branch.add(f"agent [bold]{agent.name}[/bold]{outs}, concurrency {agent.concurrency}")
    for table in topology.tables.values():
        root.add(f"table [bold]{table.name}[/bold]")
    return root


def _promises(topology: Topology) -> str:
    """
    >>> _promises(Topology("ads", recovery="5s", standbys=1))
    'exactly once, standbys 1, recovery 5 s'
    """
    pace = topology.pace
    asked = {"recovery": pace.recovery, "freshness": pace.freshness, "a Checkpoint every": pace.fixed}
    paces = [f"{name} {show_seconds(seconds)}" for name, seconds in asked.items() if seconds is not None]
    standbys = [f"standbys {topology.standbys}"] if topology.standbys else []
    return ", ".join([topology.guarantee.replace("_", " "), *standbys, *paces])


def _add_view(branch: Tree, view: View) -> None:
    keys = ", ".join(f"{name}: {kind}" for name, kind in view.key_types.items())
    node = branch.add(f"view [bold]{view.name}[/bold] by {keys} ({view.fingerprint})")
    if view.windowed:
        node.add(f"window {view.window.describe()}")
    if view.schedule is not None:
        node.add(f"batch {view.schedule}")
    if view.where is not None:
        node.add(f"where {str(view.where).replace('[', chr(92) + '[')}")
    for name, aggregate in view.aggregates.items():
        node.add(f"{name}: {type(aggregate).__name__}({', '.join(f for f in aggregate.fields if f[:2] != '__')})")


def graph(topology: Topology) -> str:
    """The topology in Mermaid's flowchart language.

    >>> print(graph(Topology("empty")))
    flowchart LR
    """
    lines = ["flowchart LR"]
    lines += [f'  {_id("t", n)}[["topic {n}"]]' for n in topology.topics]
    for view in topology.views.values():
        window = f"<br/>{view.window.describe()}" if view.windowed else ""
        lines.append(f'  {_id("v", view.name)}[("view {view.name}{window}")]')
        lines.append(f"  {_id('t', view.topic.name)} --> {_id('v', view.name)}")
    for agent in topology.agents.values():
        lines.append(f'  {_id("a", agent.name)}(["agent {agent.name}"])')
        lines.append(f"  {_id('t', agent.topic.name)} --> {_id('a', agent.name)}")
        lines += [f"  {_id('a', agent.name)} --> {_id('t', to.name)}" for to in agent.topics]
    return "\n".join(lines)


def _id(kind: str, name: str) -> str:
    return f"{kind}_{re.sub(r'[^A-Za-z0-9]', '_', name)}"
