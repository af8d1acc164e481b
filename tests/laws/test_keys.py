"""Keys of the shuffle: what is encoded comes back, and its bytes are in its order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamkit.keys import decode_key, encode_key, encode_keys

_floats = st.floats(allow_nan=False)
_parts = st.none() | st.binary(max_size=4) | st.text(max_size=4) | st.integers() | _floats | st.booleans()
_keys = st.recursive(_parts, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
_kinds: Any = [st.text(), st.integers(), _floats, st.binary(), st.tuples(st.text(), st.integers())]


@given(_keys)
def test_a_key_is_what_it_was(key: Any) -> None:
    # By repr: 1 == 1.0 == True, and they are three keys.
    assert repr(decode_key(encode_key(key))) == repr(key)


@given(st.lists(st.text(max_size=3)))
def test_many_are_encoded_as_each_is(keys: list[str]) -> None:
    assert encode_keys(keys) == [encode_key(key) for key in keys]


@given(st.sampled_from(_kinds).flatmap(lambda kind: st.tuples(kind, kind)))
def test_keys_are_in_the_order_of_their_bytes(pair: tuple[Any, Any]) -> None:
    left, right = pair
    first, second = encode_key(left), encode_key(right)
    if first != second and left != right:  # 0.0 and -0.0 are equal, and two keys
        assert (left < right) == (first < second)
