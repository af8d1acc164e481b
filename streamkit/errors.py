"""Every error StreamKit raises on purpose.

    StreamkitError
    ├── DefinitionError        a topology, topic, view or agent is declared wrongly; raised at import
    ├── BadRecord              a record's bytes are not a value of its topic
    ├── AgentFailed            an agent raised and its topic's error policy is `fail`
    ├── AgentStalled           an agent has not acknowledged its events in time
    ├── LogError               the broker or a topic is not what was expected
    │   ├── BrokerUnreachable
    │   ├── TopicMissing
    │   ├── TopicChanged       a topic was deleted and made again, or its partitions changed
    │   ├── OffsetOutOfRange   retention has deleted records that are still needed
    │   ├── DeliveryFailed     the broker refused a record that was sent
    │   ├── ArchiveUnreachable the object store of an archive does not answer, or refuses
    │   ├── ArchiveDamaged     an archive is not what its index says
    │   └── Fenced             this worker's partitions, or its transactional id, are another's by now
    ├── StateError             the state on disk cannot be used
    │   ├── StateLocked        another worker holds it
    │   ├── StateMissing
    │   └── DefinitionChanged  it was written by another definition of the view
    ├── RunStopped             a batch run was asked to stop, or was overtaken, before it had published
    ├── CutMismatch            batch and speed do not meet at one Cut: no exact answer exists
    ├── RunnerFailed           Spark could not be started, or a job failed there
    └── BrokerError            the embedded broker could not be started or stopped

A message says what it is about (view, agent, topic/partition/offset), what was expected, what came, and the way out.
"""

from __future__ import annotations


class StreamkitError(Exception):
    """Base of every error raised on purpose; the command line prints its message without a traceback."""


class DefinitionError(StreamkitError):
    """A declaration is wrong; the message holds the fix."""


class BadRecord(StreamkitError):
    """A record's bytes are not a value of its topic's type."""

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"{topic}/{partition}/{offset}: {reason}")
        self.topic, self.partition, self.offset, self.reason = topic, partition, offset, reason


class AgentFailed(StreamkitError):
    """An agent raised on an event and the topic's error policy is `fail`."""


class AgentStalled(StreamkitError):
    """An agent has not acknowledged its events in time."""


class LogError(StreamkitError):
    """The broker or a topic is not what was expected."""


class BrokerUnreachable(LogError):
    """No broker answers at the address."""


class TopicMissing(LogError):
    """The topic does not exist."""


class TopicChanged(LogError):
    """The topic was deleted and made again, or has other partitions than before."""


class OffsetOutOfRange(LogError):
    """Records that are still needed have been deleted from the log."""


class DeliveryFailed(LogError):
    """The broker refused a record."""


class ArchiveUnreachable(LogError):
    """The object store or folder of an archive does not answer, or refuses."""


class ArchiveDamaged(LogError):
    """A file of an archive is missing, or it is not what its index says."""


class Fenced(LogError):
    """This worker's partitions, or its transactional id, are another's by now: what it has not committed is void."""


class StateError(StreamkitError):
    """The state on disk cannot be used."""


class StateLocked(StateError):
    """Another worker holds the state."""


class StateMissing(StateError):
    """There is no state where one was expected."""


class DefinitionChanged(StateError):
    """The state was written by another definition."""


class RunStopped(StreamkitError):
    """A batch run was asked to stop, or was overtaken by another, before it had published: nothing has changed."""


class CutMismatch(StreamkitError):
    """Batch and speed do not meet at one Cut, so no exact answer exists."""


class RunnerFailed(StreamkitError):
    """Spark could not be started, or a job failed there."""


class BrokerError(StreamkitError):
    """The embedded broker could not be started or stopped."""
