"""Runs agents as Faust agents, fed by the worker: the only module that imports Faust.

Faust runs in client-only mode, in a thread and an event loop of its own, without consumer, producer, web server or
files. Actors, concurrency, timers and cron lines are Faust's; membership, offsets and outputs are the worker's, in its
Checkpoint. What an agent yields goes to its sinks from here: by Faust's own way it costs twice as much an output.

An agent that raises is started again here, on the same events, and not by Faust's supervisor: that one sees a second
failure only at its next five-second poll (measured: 3 bad events in a row took 10 s), and 100 restarts a second make it
raise SystemExit. It remains the watch on what should not happen.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, NamedTuple, cast

import faust
from faust.app.base import BootStrategy
from faust.utils.cron import secs_for_next
from mode.utils.trees import Node

from streamkit.agent import Agent, Calls, Timer, running_calls
from streamkit.errors import AgentFailed, AgentStalled, DefinitionError, StreamkitError
from streamkit.speed.events import Event, EventBatch, Events
from streamkit.speed.frames import Frames
from streamkit.speed.tables import TableTask
from streamkit.table import running_tables
from streamkit.topic import Topic


class Emitted(NamedTuple):
    """An agent's output, and the event it was at when it yielded it. `only` is the one topic that it is for, if any."""

    agent: Agent
    value: Any
    cause: Event
    only: Topic | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An event on which an agent raised."""

    agent: Agent
    event: Event
    traceback: str
    error: BaseException


@dataclass
class _Lane:
    """One agent's way through the host: how many events it is behind, and its runs (`concurrency` of them)."""

    agent: Agent
    channel: Any = None
    backlog: int = 0
    runs: list[Events | Frames] = field(default_factory=list)

    def __str__(self) -> str:
        places = ", ".join(place for place in (run.place for run in self.runs) if place)
        return f"agent {self.agent.name!r} is at {places or 'no event'} with {self.backlog} events not acknowledged"


class _NoConsumer:
    """Stands where Faust looks for its Kafka consumer: there is none, so nothing can reach for a broker."""

    def __init__(self) -> None:
        self.beacon = Node(self)
        self.unacked = self._unacked_messages = set[Any]()

    def assignment(self) -> set[Any]:
        return set()

    def stop_flow(self) -> None: ...
    def resume_flow(self) -> None: ...


class _Boot(BootStrategy):
    """Starts the agents and nothing of Kafka's."""

    def client_only(self) -> Iterable[Any]:
        return [self.app.agents]


class _App(faust.App):
    BootStrategy = _Boot

    def __init__(self) -> None:
        super().__init__("streamkit", store="memory://", web_enabled=False)
        self.consumer = cast("Any", _NoConsumer())

    async def on_first_start(self) -> None:
        """Without the base's, which makes a data directory."""


class AgentHost:
    """Runs `agents`; single use: start, feed and drain as often as needed, stop.

    `emit` and `failed` are called in the host's thread, in event order within an agent's run. What they raise stops the
    host: the next `feed` or `drain` raises it. `feed` blocks while an agent is `capacity` events or more behind.
    `tables` is where the agents' Tables are, `calls` what `cast` goes through; `timers` run beside the agents. Raises
    DefinitionError for two agents of one name, or a cron line that is none.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        *,
        emit: Callable[[Emitted], None],
        failed: Callable[[Failure], None],
        tables: TableTask | None = None,
        calls: Calls | None = None,
        timers: Sequence[Timer] = (),
        capacity: int = 20_000,
    ) -> None:
        self._emit, self._failed, self._tables, self._capacity = emit, failed, tables, capacity
        self._calls, self._timers = calls, timers
        self._lanes = {agent.name: _Lane(agent) for agent in agents}
        if len(self._lanes) < len(agents):
            names = sorted(agent.name for agent in agents)
            raise DefinitionError(f"agents need names of their own, but these were given: {', '.join(names)}")
        for timer in timers:
            _check_cron(timer)
        self._by_topic: dict[str, list[_Lane]] = {}
        for lane in self._lanes.values():
            self._by_topic.setdefault(lane.agent.topic.name, []).append(lane)
        self._changed = threading.Condition()  # guards what follows, and backlogs
        self._inbox: deque[tuple[_Lane, EventBatch]] = deque()
        self._open = False
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamkit-agents", daemon=True)

    @property
    def app(self) -> faust.App:
        """The Faust app, for a look inside; only after `start`."""
        return self._app

    def start(self) -> None:
        """Start Faust and every agent; raises what kept them from starting."""
        if self._thread.ident is not None:
            raise StreamkitError("an agent host starts once: make a new one")
        self._thread.start()
        self._ready.wait()
        self._check()

    def feed(self, batch: EventBatch, *, agent: Agent | None = None) -> None:
        """Give `batch` to `agent`, or to every agent of its topic; raises what made the host stop.

        Blocks while one of them is too far behind.
        """
        lanes = self._by_topic.get(batch.source.topic, []) if agent is None else [self._lanes[agent.name]]
        with self._changed:
            self._changed.wait_for(lambda: not self._open or all(lane.backlog < self._capacity for lane in lanes))
            self._check()
            if not lanes or not len(batch):
                return
            for lane in lanes:
                lane.backlog += len(batch)
            ring = not self._inbox  # otherwise the bell has rung and the loop has yet to look
            self._inbox.extend((lane, batch) for lane in lanes)
        if ring:
            self._ring()

    def drain(self, timeout: float | None = None) -> None:
        """The Checkpoint's barrier: returns when every event fed has been acknowledged by every agent of its topic.

        Raises what made the host stop, and AgentStalled after `timeout` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._open or not self._behind(), timeout)
            self._check()
            if late := self._behind():
                places = "; ".join(map(str, late))
                raise AgentStalled(
                    f"a checkpoint waited {timeout} s for the agents: {places}. It waits for an event as long as the "
                    "agent does not ask for the next one: look for an await without a time limit"
                )

    def stop(self, timeout: float = 10.0) -> None:
        """Cancel the agents and end the thread; what they had not acknowledged is not reported. May be called again.

        Raises AgentStalled if an agent blocks the event loop, or swallows its cancellation, for `timeout` seconds.
        """
        if self._thread.ident is None:
            return
        self._close()
        self._thread.join(timeout)
        if self._thread.is_alive():
            places = "; ".join(map(str, self._behind())) or "no agent is behind"
            raise AgentStalled(
                f"the agents did not stop within {timeout} s: {places}. An agent must let asyncio.CancelledError pass "
                "and must not call blocking code outside of asyncio.to_thread"
            )

    def _behind(self) -> list[_Lane]:
        return [lane for lane in self._lanes.values() if lane.backlog]

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._open:
            raise StreamkitError("the agent host is not running: it was not started, or was stopped")

    def _close(self, error: BaseException | None = None) -> None:
        """No more events, no more outputs; `error` is what the worker will be told."""
        with self._changed:
            if self._open or not self._ready.is_set():
                self._error = self._error or error
            self._open = False
            self._changed.notify_all()
        self._ring()

    def _fail(self, message: str, cause: BaseException | None) -> None:
        failed = AgentFailed(message)
        failed.__cause__ = cause
        self._close(failed)

    def _ring(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to wake
                self._loop.call_soon_threadsafe(self._bell.set)

    # What follows runs in the host's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # SystemExit too: an agent's sys.exit() would otherwise end only this thread
            self._fail(f"the thread that runs the agents ended with {error!r}", error)
        finally:
            self._close()
            self._ready.set()

    async def _main(self) -> None:
        self._bell, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._app = _App()
        running_calls.set(self._calls)
        for timer in self._timers:
            self._declare_timer(timer)
        for lane in self._lanes.values():
            lane.channel = self._app.channel(maxsize=0)  # without bound: `feed` counts events instead
            self._declare(lane)
        try:
            self._open = True  # before the agents start: they end at once in a host that is not open
            await self._app.start_client()
            self._ready.set()
            await self._pump()
        finally:
            await self._app.stop()

    def _declare(self, lane: _Lane) -> None:
        def run(stream: Any) -> Awaitable[None]:
            return self._serve(lane, stream)

        name = run.__name__ = run.__qualname__ = lane.agent.name  # what Faust's log calls it
        self._app.agent(lane.channel, name=name, concurrency=lane.agent.concurrency)(run)

    def _declare_timer(self, timer: Timer) -> None:
        async def run() -> None:
            try:
                await timer.function()
            except Exception as error:
                self._fail(f"timer {timer.name!r} failed: {error!r}", error)

        run.__name__ = run.__qualname__ = timer.name
        if timer.interval is None:
            self._app.crontab(timer.cron)(run)
        else:
            self._app.timer(timer.interval)(run)

    async def _pump(self) -> None:
        """Carry batches from the worker's thread to the Faust channels of their agents."""
        crashed = asyncio.create_task(self._app.wait_until_stopped())
        crashed.add_done_callback(lambda _: self._bell.set())
        while self._open and not crashed.done():
            await self._bell.wait()
            self._bell.clear()
            with self._changed:
                arrived = list(self._inbox)
                self._inbox.clear()
            for lane, batch in arrived:
                await lane.channel.put(batch)
        if crashed.done():
            self._fail(f"Faust stopped by itself: {self._app.crash_reason!r}", self._app.crash_reason)
        crashed.cancel()

    async def _serve(self, lane: _Lane, stream: Any) -> None:
        """What Faust runs as the agent: the agent's function, again and again, on one `Events` or `Frames`."""
        run = self._make_run(lane, stream)
        lane.runs.append(run)
        running_tables.set(run.tables)
        while self._goes_on(run):
            start = run.position
            error: BaseException | None = None
            try:
                await self._call(lane.agent, run)
                if self._goes_on(run) and run.position > start:
                    await run.settle()
            except asyncio.CancelledError as cancelled:
                if _is_cancelled():
                    self._close(AgentFailed(f"agent {lane.agent.name!r} was cancelled, and not by its host"))
                    raise
                error = cancelled  # of something that the agent waited for
            except Exception as raised:
                error = raised
            if self._goes_on(run) and (error is not None or run.position == start):
                self._ended(lane.agent, run, error)
        if run.ended:
            self._close(AgentFailed(f"Faust ended the stream of agent {lane.agent.name!r}"))  # unless we close already

    def _make_run(self, lane: _Lane, stream: Any) -> Events | Frames:
        def done(batch: EventBatch) -> None:
            self._acknowledge(lane, batch)

        async def call(value: Any) -> None:
            for sink in lane.agent.functions:
                taken = sink(value)
                if isawaitable(taken):
                    await taken

        def send(value: Any, cause: Event, only: Topic | None = None) -> None:
            self._send(Emitted(lane.agent, value, cause, only))

        if lane.agent.batches:
            return Frames(aiter(stream), done=done, call=call, send=send, tables=self._tables)
        events = Events(aiter(stream), done=done, call=call, send=send, tables=self._tables)
        events.follow()
        return events

    async def _call(self, agent: Agent, run: Events | Frames) -> None:
        """One call of the agent's function, and what it yields; it may be a plain coroutine function, too."""
        running = agent.function(run)
        if isinstance(running, Awaitable):
            await running
            return
        if not isinstance(running, AsyncGenerator):
            raise DefinitionError(f"agent {agent.name!r} must be an `async def` function; calling it gave {running!r}")
        async with aclosing(running):
            async for value in running:
                if self._goes_on(run):  # otherwise its last words: no Checkpoint will follow
                    await run.yielded(value)
                if not self._goes_on(run):
                    return

    def _goes_on(self, run: Events | Frames) -> bool:
        return self._open and not run.ended

    def _ended(self, agent: Agent, run: Events | Frames, error: BaseException | None) -> None:
        """The agent's function has failed: report the events it failed on, or stop where it would only spin."""
        if error is None:
            message = f"agent {agent.name!r} returned without taking an event; it must iterate: `async for e in events`"
            return self._fail(message, None)
        culprits = run.failed()
        if culprits is None:
            message = f"agent {agent.name!r} failed with no event in hand to skip or to dead-letter: {error!r}. "
            rule = "It must neither yield nor raise before it takes an event, nor while it waits for one"
            return self._fail(message + rule, error)
        try:
            trace = "".join(traceback.format_exception(error)) if culprits else ""
            for event in culprits:
                self._failed(Failure(agent, event, trace, error))
        except Exception as refused:
            return self._close(refused)
        return run.release()

    def _send(self, output: Emitted) -> None:
        if self._open:
            try:
                self._emit(output)
            except Exception as error:
                self._close(error)

    def _acknowledge(self, lane: _Lane, batch: EventBatch) -> None:
        with self._changed:
            lane.backlog -= len(batch)
            self._changed.notify_all()


def _check_cron(timer: Timer) -> None:
    try:
        secs_for_next(timer.cron or "* * * * *")
    except ValueError as error:
        raise DefinitionError(f"timer {timer.name!r}: {timer.cron!r} is no cron line: {error}") from None


def _is_cancelled() -> bool:
    """True if this task is being cancelled; otherwise a CancelledError comes from something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
