"""Columns by the compiled scanner are what msgspec makes of the same bytes, or the scanner is in doubt."""

from __future__ import annotations

import dataclasses
import enum
import json
from itertools import product
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamkit.columns import Columns
from streamkit.decode import DecodedColumns, Decoder
from streamkit.native.loader import Loops, loader
from streamkit.record import FlatBytes, FlatChunk, Record, RecordChunk, TopicPartition
from streamkit.topic import Topic

SLOW = [HealthCheck.too_slow]
"""On a busy machine the first draw of a text takes more than a second."""


class Ad(msgspec.Struct):
    ad: str
    cents: int
    price: float
    shown: bool
    note: str | None = None
    rank: int | None = None


@dataclasses.dataclass
class Plain:
    name: str
    count: int


class Kind(enum.Enum):
    SHOWN = "view"
    HIT = "a click, as it were"


class Bound(msgspec.Struct):
    kind: Kind
    way: Literal["in", "out"] | None = None


TOPIC = Topic("ads", Ad, timestamp="cents")
FIELDS = [field.name for field in TOPIC.schema.fields]


@pytest.fixture(scope="module")
def loops() -> Loops:
    found = loader.load()
    assert found is not None, loader.failure
    return found


def flat_of(records: list[bytes | None]) -> FlatBytes:
    lengths = np.array([-1 if r is None else len(r) for r in records], np.int64)
    starts = np.cumsum([0, *(max(0, n) for n in lengths)])[:-1].astype(np.int64)
    data = np.frombuffer(b"".join(r or b"" for r in records) + b"\xff" * FlatBytes.PADDING, np.uint8)
    return FlatBytes(data, starts, lengths)


def chunk_of(records: list[bytes | None]) -> FlatChunk:
    offsets = np.arange(100, 100 + 2 * len(records), 2)
    keys = flat_of([b"%d" % i for i in range(len(records))])
    return FlatChunk(TopicPartition("ads", 3), offsets, offsets * 10, flat_of(records), keys, {})


texts = st.one_of(
    st.text(max_size=30),
    st.text(alphabet=st.characters(codec="ascii", exclude_characters='"\\', min_codepoint=32), max_size=30),
)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.integers(-1000, 1000), st.floats(allow_nan=False))
scalars: st.SearchStrategy[Any] = st.one_of(texts, numbers, st.booleans(), st.none())
ads = st.fixed_dictionaries(
    {
        "ad": texts,
        "cents": st.integers(0, 10**6),
        "price": st.floats(0, 1e9) | st.integers(0, 9),
        "shown": st.booleans(),
    },
    optional={"note": st.none() | texts, "rank": st.none() | st.integers(-5, 5)},
)
others = st.dictionaries(st.sampled_from([*FIELDS, "other", ""]), scalars | st.lists(scalars, max_size=2), max_size=8)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """JSON as it may come: in any order, with blanks, unknown fields, as UTF-8 or escaped, now and then damaged."""
    value = {**draw(ads), **(draw(others) if draw(st.booleans()) else {})}
    items = draw(st.permutations(list(value.items()))) if draw(st.booleans()) else list(value.items())
    blanks = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]))
    text = json.dumps(dict(items), separators=blanks, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 2)) :]
    return text


def decoded_by_msgspec(record: bytes | None) -> Ad | None:
    try:
        return msgspec.json.decode(record or b"", type=Ad)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@settings(max_examples=400, suppress_health_check=SLOW)
@given(st.lists(documents() | st.binary(max_size=20) | st.none(), max_size=6))
def test_what_the_scanner_takes_is_what_msgspec_decodes(loops: Loops, records: list[bytes | None]) -> None:
    columns = Columns.of(Ad, FIELDS)
    assert columns is not None
    frame, taken = columns.take(loops, flat_of(records))
    for record, row, good in zip(records, frame.iter_rows(named=True), taken, strict=True):
        if good:
            expected = decoded_by_msgspec(record)
            assert expected is not None, record
            # By text: -0.0 is not 0.0.
            assert repr(row) == repr(msgspec.structs.asdict(expected)), record


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """Records laid out as the ones before them, and such that are nearly: what one teaches must hold for the next."""
    keys = draw(st.permutations([*FIELDS, *draw(st.lists(st.sampled_from(["other", "x" * 40]), unique=True))]))
    keys = keys[: draw(st.integers(4, len(keys)))]
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]))
    plain = {
        "ad": st.sampled_from(["", "a", "x" * 33, "ü", '"']), "cents": st.integers(0, 10**18), "price": st.floats(0, 9),
        "shown": st.booleans(), "note": st.sampled_from([None, "n", "m" * 13]), "rank": st.sampled_from([None, 7]),
    }  # fmt: skip
    records = []
    for _ in range(draw(st.integers(2, 6))):
        value = {key: draw(plain.get(key, scalars)) for key in keys}
        if draw(st.integers(0, 4)) == 0:
            value[draw(st.sampled_from(keys))] = draw(scalars)
        text = json.dumps(value, separators=separators, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 3)) == 0:
            at = draw(st.sampled_from([0, len(text) - 1]) | st.integers(0, len(text)))
            text = text[:at] + draw(st.sampled_from([b"]", b" "]) | st.binary(max_size=2)) + text[at + 1 :]
        records.append(text)
    return records


@settings(max_examples=600, suppress_health_check=SLOW)
@given(alike())
def test_of_records_laid_out_alike_each_is_what_msgspec_decodes(loops: Loops, records: list[bytes]) -> None:
    columns = Columns.of(Ad, FIELDS)
    assert columns is not None
    frame, taken = columns.take(loops, flat_of([*records]))
    for record, row, good in zip(records, frame.iter_rows(named=True), taken, strict=True):
        # In doubt or not goes by the record, not by what was before it.
        assert good == columns.take(loops, flat_of([record]))[1][0], record
        if good:
            expected = decoded_by_msgspec(record)
            assert expected is not None, record
            assert repr(row) == repr(msgspec.structs.asdict(expected)), record


def test_a_record_in_doubt_teaches_nothing(loops: Loops) -> None:
    columns = Columns.of(Ad, FIELDS)
    assert columns is not None
    rest = b',"price":1.5,"shown":true}'
    first, doubtful = b'{"ad":"a","cents":1' + rest, b'{"cents":1,"ad":"\\u00e9"' + rest
    both = b'{"cents":1,"cents":2' + rest  # the first's layout, but for one field of the doubtful one's
    assert columns.take(loops, flat_of([first, doubtful, both]))[1].tolist() == [1, 0, 0]


@settings(max_examples=200, suppress_health_check=SLOW)
@given(ads)
def test_plain_records_are_taken(loops: Loops, value: dict[str, Any]) -> None:
    record = json.dumps(value, ensure_ascii=False).encode()
    columns = Columns.of(Ad, ["ad"])
    assert columns is not None
    simple = (
        b"\\" not in record
        and abs(value["cents"]) < 10**18
        and b"e" not in json.dumps(value["price"]).encode()
        and len(repr(value["price"])) < 16
    )
    if simple and not any(ord(c) < 32 for c in value["ad"] + (value.get("note") or "")):
        assert columns.take(loops, flat_of([record]))[1].tolist() == [1]


@settings(max_examples=200, suppress_health_check=SLOW)
@given(st.lists(documents() | st.none(), max_size=5), st.integers(0, 8))
def test_a_decoder_gives_the_same_by_columns_and_by_objects(
    loops: Loops, records: list[bytes | None], cut: int
) -> None:
    del loops
    good = b'{"ad":"a","cents":1,"price":0.5,"shown":true}'
    records = [*records, *[good] * 70]
    chunk = chunk_of(records)
    rows = zip(chunk.offsets, chunk.timestamps, chunk.keys, records, strict=True)
    plain = RecordChunk([Record("ads", 3, o, t, k, v) for o, t, k, v in rows])
    decode = Decoder(TOPIC, FIELDS)
    (left, bad), (right, also_bad) = decode(chunk), decode(plain)
    assert bad == also_bad
    for ours, theirs in (
        (left, right),
        (left.since(100 + cut), right.since(100 + cut)),
        (left.before(108), right.before(108)),
    ):
        assert list(ours.offsets) == list(theirs.offsets)
        assert list(ours.timestamps) == list(theirs.timestamps)
        assert list(ours.picked) == list(theirs.picked)
        assert list(ours.values) == list(theirs.values)
        try:
            expected = theirs.frame(FIELDS)
        except OverflowError:
            with pytest.raises(OverflowError):
                ours.frame(FIELDS)
        else:
            assert repr(ours.frame(FIELDS).rows()) == repr(expected.rows())
            assert ours.frame(FIELDS).schema == expected.schema


EDGES = [0x00, 0x22, 0x5C, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0]
"""Where ranges of second and later bytes begin and end."""


def test_texts_are_taken_exactly_where_they_are_utf_8(loops: Loops) -> None:
    columns = Columns.of(Plain, ["name"])
    assert columns is not None
    runs = [
        bytes([first, *rest]) for first in range(0x80, 0x100) for n in range(4) for rest in product(EDGES, repeat=n)
    ]
    records: list[bytes | None] = [b'{"name":"%s","count":1}' % run for run in runs]
    frame, taken = columns.take(loops, flat_of(records))
    for run, name, good in zip(runs, frame["name"].cast(pl.Binary), taken, strict=True):
        try:
            plain = not any(c < 32 or c in b'"\\' for c in run) and bool(run.decode())
        except UnicodeDecodeError:
            plain = False
        assert bool(good) == plain, run
        assert not good or name == run


WHOLE = ["", "0", "7", "10", "00", "01", "123456789012345678", "1234567890123456789", "9223372036854775808", "1" * 40]
TAILS = [
    "",
    ".",
    ".0",
    ".5",
    ".25e",
    "e",
    "e5",
    "E+5",
    "e-5",
    "e22",
    "e-23",
    "e400",
    "e00005",
    "x",
    " ",
    ".1234567890123456",
]


@pytest.mark.parametrize("field", ["cents", "price"])
def test_numbers_are_what_msgspec_makes_of_them(loops: Loops, field: str) -> None:
    columns = Columns.of(Ad, ["cents", "price"])
    assert columns is not None
    value = {"ad": '"a"', "cents": "1", "price": "1", "shown": "true"}
    texts = [sign + whole + tail for sign in ("", "-", "+") for whole in WHOLE for tail in TAILS]
    objects = [", ".join(f'"{k}": {v}' for k, v in {**value, field: text}.items()) for text in texts]
    records: list[bytes | None] = [f"{{{text}}}".encode() for text in objects]
    frame, taken = columns.take(loops, flat_of(records))
    assert taken.sum() > 10
    for record, found, good in zip(records, frame[field], taken, strict=True):
        decoded = decoded_by_msgspec(record)
        assert not good or repr(getattr(decoded, field)) == repr(found), record


def test_of_a_field_that_comes_twice_the_last_one_counts_as_ever(loops: Loops) -> None:
    records: list[bytes | None] = [
        b'{"ad":"a","cents":1,"price":0.5,"shown":true,"note":null,"note":"x"}',
        b'{"ad":"a","cents":1,"price":0.5,"shown":true,"note":"x","note":null}',
        b'{"ad":"a","ad":"b","cents":1,"price":0.5,"shown":true}',
    ]
    decoded, rejected = Decoder(TOPIC, FIELDS)(chunk_of([*records, *[records[2]] * 70]))
    assert not rejected
    assert decoded.frame(["ad", "note"])[:3].rows() == [("a", "x"), ("a", None), ("b", None)]
    columns = Columns.of(Ad, FIELDS)
    assert columns is not None
    assert columns.take(loops, flat_of(records))[1].tolist() == [0, 0, 0]


def test_a_chunk_with_one_strange_record_stays_columns(loops: Loops) -> None:
    del loops
    good = b'{"ad":"a","cents":1,"price":0.5,"shown":true}'
    strange = b'{"ad":"tab\\t and more than twelve bytes","cents":2,"price":0.5,"shown":true}'
    decoded, rejected = Decoder(TOPIC, ["ad", "cents"])(chunk_of([good, strange, b"{", *[good] * 97]))
    assert isinstance(decoded, DecodedColumns)
    assert decoded.frame(["ad", "cents"])[:3].rows() == [("a", 1), ("tab\t and more than twelve bytes", 2), ("a", 1)]
    assert [r.offset for r in rejected] == [104]
    assert rejected[0].reason == "not a Ad: Input data was truncated"


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 100])
def test_texts_of_every_length_are_themselves(loops: Loops, length: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(length))
    columns = Columns.of(Plain, ["name"])
    assert columns is not None
    records = [json.dumps({"name": text, "count": i}).encode() for i in range(3)]
    frame, taken = columns.take(loops, flat_of([*records, None]))
    assert taken.tolist() == [1, 1, 1, 0]
    assert frame["name"][:3].to_list() == [text] * 3
    assert frame.group_by("name").len().filter(pl.col("name") == text)["len"].to_list() == [4 if not text else 3]


def test_types_with_rules_of_their_own_are_left_to_the_codec() -> None:
    class Tagged(msgspec.Struct, tag="t"):
        a: int

    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        a: int

    class Array(msgspec.Struct, array_like=True):
        a: int

    class Constrained(msgspec.Struct):
        a: Annotated[int, msgspec.Meta(ge=0)]

    class Checked(msgspec.Struct):
        a: int

        def __post_init__(self) -> None:
            raise ValueError

    class Nested(msgspec.Struct):
        a: list[int]

    class Either(msgspec.Struct):
        a: int | str

    class Numbered(msgspec.Struct):
        a: Literal[1, 2]

    for kind in (Tagged, Strict, Array, Constrained, Checked, Nested, Either, Numbered):
        assert Columns.of(kind, ["a"]) is None, kind


def test_texts_that_are_bound_are_checked(loops: Loops) -> None:
    columns = Columns.of(Bound, ["way", "kind"])
    assert columns is not None
    records: list[bytes | None] = [
        b'{"kind":"view","way":"out"}', b'{"kind":"a click, as it were","way":null}', b'{"way":"in","kind":"view"}',
        b'{"kind":"SHOWN"}', b'{"kind":"vie"}', b'{"kind":"view","way":"ou"}', b'{"kind":"kind"}', b'{"kind":"in"}',
    ]  # fmt: skip
    frame, taken = columns.take(loops, flat_of(records))
    assert taken.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert frame[:3].rows() == [("out", "view"), (None, "a click, as it were"), ("in", "view")]


def test_renamed_fields_are_found_by_their_names_on_the_log(loops: Loops) -> None:
    class Renamed(msgspec.Struct, rename="camel"):
        ad_id: str

    columns = Columns.of(Renamed, ["ad_id"])
    assert columns is not None
    frame, taken = columns.take(loops, flat_of([b'{"adId":"x"}', b'{"ad_id":"x"}']))
    assert (frame["ad_id"][0], taken.tolist()) == ("x", [1, 0])
