"""The plain Python loop that every Answer is compared with: json, dictionaries and for, nothing of StreamKit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Raw = tuple[int, int, bytes]
"""Partition, offset and payload of a record."""

Expected = dict[tuple[str, tuple[int, int] | None], dict[str, Any]]


def events_before(records: Iterable[Raw], offsets: Mapping[int, int]) -> list[dict[str, Any]]:
    """The valid events before a Cut."""
    events = []
    for partition, offset, payload in records:
        if offset < offsets.get(partition, 0):
            try:
                events.append(json.loads(payload))
            except ValueError:
                continue
    return events


def tumbling(events: Iterable[dict[str, Any]], size: int) -> Expected:
    out: Expected = {}
    for e in events:
        start = e["at"] // size * size
        _count(out, e, (start, start + size))
    return out


def hopping(events: Iterable[dict[str, Any]], size: int, every: int) -> Expected:
    out: Expected = {}
    for e in events:
        start = e["at"] // every * every
        while start + size > e["at"]:
            _count(out, e, (start, start + size))
            start -= every
    return out


def unbounded(events: Iterable[dict[str, Any]]) -> Expected:
    out: Expected = {}
    for e in events:
        _count(out, e, None)
    return out


def sessions(events: Iterable[dict[str, Any]], gap: int) -> Expected:
    out: Expected = {}
    by_key: dict[str, list[dict[str, Any]]] = {}
    for e in events:
        by_key.setdefault(e["campaign"], []).append(e)
    for own in by_key.values():
        own.sort(key=lambda e: e["at"])
        session: list[dict[str, Any]] = []
        for click in own:
            if session and click["at"] - session[-1]["at"] >= gap:
                _close(out, session, gap)
                session = []
            session.append(click)
        _close(out, session, gap)
    return out


def _close(out: Expected, session: list[dict[str, Any]], gap: int) -> None:
    for click in session:
        _count(out, click, (session[0]["at"], session[-1]["at"] + gap))


def _count(out: Expected, e: dict[str, Any], window: tuple[int, int] | None) -> None:
    state = out.setdefault((e["campaign"], window), {"clicks": 0, "cents": 0, "dearest": None, "users": set()})
    state["clicks"] += 1
    state["cents"] += e["cents"]
    state["dearest"] = e["cents"] if state["dearest"] is None else max(state["dearest"], e["cents"])
    state["users"].add(e["user"])


def results(expected: Expected, pick: Callable[[dict[str, Any]], dict[str, Any]]) -> Expected:
    return {slot: pick(state) for slot, state in expected.items()}
