"""What the HTTP API takes and gives, for its OpenAPI document; `answer_json` writes bodies without these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

KEY = (
    "The key's parts, in the View's order, each as its own `key=`: text; a whole number; `true` or `false`; bytes in "
    "base64; `\\N` for null."
)
TIME = "Milliseconds since the epoch, or ISO 8601 (UTC unless it has an offset)."
VALUES = (
    "Results by the Aggregates' names. Whole numbers beyond 2^53 - 1, Decimals, NaN and infinities are strings, bytes "
    "base64."
)
_VALUE: dict[str, Any] = {"views": 914, "spend": 2284105340, "users": 888}


class Body(BaseModel):
    """Nothing but what is named: a mistyped parameter is refused, and a body is just what the document says."""

    model_config = ConfigDict(extra="forbid")


class AnswerQuery(Body):
    key: list[str] = Field(description=KEY, examples=[["c42"]])
    at: str | None = Field(None, description=f"A moment in the window. {TIME}", examples=["2023-11-14T22:13:20Z"])
    start: str | None = Field(None, description=f"The window's start. {TIME}", examples=["1700000000000"])
    end: str | None = Field(None, description=f"The window's end, exclusive. {TIME}", examples=["1700000010000"])


class AnswersQuery(Body):
    key: list[str] | None = Field(None, description=f"{KEY} Without it: all keys.", examples=[["c42"]])
    start: str | None = Field(None, description=f"Windows that end after it. {TIME}", examples=["2023-11-14"])
    end: str | None = Field(None, description=f"Windows that start before it. {TIME}", examples=["2023-11-15"])
    limit: int = Field(100, ge=1, le=10_000, description="At most so many Answers on a page.")
    after: str | None = Field(None, description="`next` of the page before.")


class CutBody(Body):
    """A vector of offsets; ends are exclusive."""

    topic: str = Field(examples=["ad-events"])
    topic_id: str = Field(description="Changes when the topic is deleted and made again.", examples=["0hi6IO55QU2se3E"])
    offsets: dict[str, int] = Field(description="Next offset by partition.", examples=[{"0": 120, "1": 133}])


class WindowBody(Body):
    """`[start, end)`."""

    start: int | str = Field(description="Milliseconds since the epoch.", examples=[1700000000000])
    end: int | str = Field(description="Milliseconds since the epoch, exclusive.", examples=[1700000010000])
    start_time: str = Field(description="The same in ISO 8601.", examples=["2023-11-14T22:13:20Z"])
    end_time: str = Field(description="The same in ISO 8601.", examples=["2023-11-14T22:13:30Z"])


class AnswerBody(Body):
    """A value and where it is exact: the sum of all records before `cut`, and of none other."""

    view: str = Field(description="NAME@VERSION where a version after the first answers.", examples=["campaign"])
    key: dict[str, Any] = Field(description="The key's parts by name.", examples=[{"campaign_id": "c42"}])
    window: WindowBody | None = Field(description="null where the View has no windows.")
    found: bool = Field(description="false where no record before the Cut has the key and window.")
    value: dict[str, Any] = Field(description=VALUES, examples=[_VALUE])
    batch: dict[str, Any] | None = Field(description="The BatchView's part; null for none.", examples=[_VALUE])
    speed: dict[str, Any] | None = Field(description="The Segments' part; null for none.", examples=[None])
    errors: dict[str, dict[str, Any]] = Field(
        description="Bounds of the Aggregates that are sketches.",
        examples=[{"users": {"lower": 880, "upper": 896, "confidence": 0.95}}],
    )
    cut: CutBody
    lag: int | None = Field(
        description="Records on the log that are not in the Answer; null while the broker is away, as nobody knows.",
        examples=[0],
    )
    as_of: str = Field(
        description="When the newest Checkpoint or BatchView in it was made: how old it is, where `lag` is not 0.",
        examples=["2023-11-14T22:13:31.25Z"],
    )


class PageBody(Body):
    """Answers at one Cut, in order of key and time (among keys, shorter texts come first).

    Pages are each exact at a Cut of their own: between two of them records may have come.
    """

    view: str = Field(description="NAME@VERSION where a version after the first answers.", examples=["campaign"])
    cut: CutBody
    lag: int | None = Field(
        description="Records on the log that are in none of these Answers; null while the broker is away.", examples=[0]
    )
    answers: list[AnswerBody]
    next: str | None = Field(description="Give it as `after` for the page that follows; null on the last one.")


class ResultQuery(Body):
    key: list[str] = Field(description="The key's parts, each as its own `key=`, as its columns' types have them.")


class ResultBody(Body):
    """What a MapReduce result has for a key: made of all records before `cut`, and of none other."""

    mapreduce: str = Field(examples=["words"])
    key: list[Any] = Field(examples=[["the"]])
    found: bool = Field(description="false where the result has nothing for the key.")
    value: dict[str, Any] = Field(description="The result's columns, without those of the key.", examples=[{"n": 9}])
    cut: CutBody
    lag: int | None = Field(description="Records on the log that came after the Cut.", examples=[0])
    as_of: str = Field(description="When the result was published.", examples=["2023-11-14T22:13:31.25Z"])


class KeyPart(Body):
    name: str = Field(examples=["campaign_id"])
    type: str = Field(description="text, integer, boolean or bytes.", examples=["text"])


class AggregateBody(Body):
    aggregate: str = Field(description="Its class.", examples=["Sum"])
    fields: list[str] = Field(description="The topic's fields it reads.", examples=[["price_micros"]])
    approximate: bool = Field(description="true for sketches: right within the bounds in `errors`.")


class ProofBody(Body):
    """What comparing the BatchView with the one before it and its Segments gave, before it was published."""

    slots: int = Field(description="Keys and windows compared.")
    differences: int = Field(description="0 unless one of the layers was wrong.")
    first: str = Field(description="The first divergence; empty for none.")
    against: str = Field(
        description="The id of the BatchView that it was compared with, at the Cut of that one, where no Segments lead "
        "to its own Cut; else empty."
    )


class BatchBody(Body):
    """The BatchView in force."""

    id: str = Field(examples=["18eaef657595ba49"])
    cut: CutBody
    created: int = Field(description="Milliseconds since the epoch.", examples=[1700000000000])
    created_time: str = Field(description="The same in ISO 8601.", examples=["2023-11-14T22:13:20Z"])
    slots: int = Field(description="Keys and windows in it.")
    events: int = Field(description="Records it was computed from.")
    rejected: int = Field(description="Records that could not be used.")
    proof: ProofBody | None = Field(description="null where there was nothing to compare with.")


class VersionBody(Body):
    """A version that is declared, and kept up to date by the workers."""

    name: str = Field(description="Asks for this version, in force or not.", examples=["campaign@2"])
    version: int = Field(examples=[2])
    in_force: bool = Field(description="Does it answer for the View's name?")
    fingerprint: str = Field(description="Hash of its definition.")
    cut: CutBody | None = Field(description="Where its Answers are exact now; null where refused.")
    refused: str | None = Field(description="Why it has no Answer now; null where it has one.", examples=[None])


class ViewBody(Body):
    name: str = Field(examples=["campaign"])
    version: int | None = Field(
        description="The version that is in force; null where that is one that is not declared any more.", examples=[1]
    )
    topic: str = Field(examples=["ad-events"])
    key: list[KeyPart]
    window: str | None = Field(description="null where it has none.", examples=["Tumbling(10s)"])
    aggregates: dict[str, AggregateBody]
    fingerprint: str = Field(description="Hash of the definition; states of another one are refused.")
    cut: CutBody | None = Field(description="Where Answers are exact now; null where refused.")
    batch: BatchBody | None = Field(description="The BatchView that Answers are merged from; null for none.")
    segments: dict[str, list[tuple[int, int]]] = Field(
        description="By partition, the speed layer's Segments `[start, end)` that lead from the BatchView to the Cut.",
        examples=[{"0": [[100, 120]], "1": []}],
    )
    refused: str | None = Field(description="Why there is no Answer now; null where there is one.", examples=[None])
    versions: list[VersionBody] = Field(description="Oldest first.")


class ViewsBody(Body):
    topology: str = Field(examples=["ads"])
    views: list[ViewBody]


class ViewHealth(Body):
    lag: int | None = Field(description="Records on the log that are in no Answer yet; null where refused.")
    refused: str | None = Field(description="Why this View has no Answer now; null where it has one.")


class HealthBody(Body):
    status: str = Field(examples=["ok"])
    views: dict[str, ViewHealth]


class Problem(BaseModel):
    """RFC 9457: what is wrong, and in `detail` what was expected, what came, and the way out."""

    type: str = Field(examples=["urn:streamkit:error:CutMismatch"])
    title: str = Field(examples=["Batch and speed do not meet at one Cut, so no exact answer exists."])
    status: int = Field(examples=[409])
    detail: str
    instance: str = Field(description="The path asked for.", examples=["/views/campaign/answer"])
