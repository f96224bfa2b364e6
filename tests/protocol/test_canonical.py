import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_protocol.canonical import (
    CanonicalError,
    check_nesting,
    decode_object,
    decode_strict,
    encode,
    parse_object,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_decodes_what_it_encoded(value):
    assert decode_strict(encode(value), 1 << 16) == value


@given(st.binary(max_size=40))
def test_accepted_bytes_have_one_spelling(data):
    try:
        value = decode_strict(data, 100)
    except CanonicalError:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":null}',
        b'{"a":-0}',
        b'{"a":"\\u0041"}',
        b'{"a":"\xc3\xa9"}',
        b'{"a":"\\ud800"}',
        b'{"a":9223372036854775808}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 40 + b"]" * 40,
        b"[" * 9000,
        b"",
    ],
)
def test_refuses_every_other_spelling(data):
    with pytest.raises(CanonicalError):
        decode_strict(data, 1 << 16)


@pytest.mark.parametrize("value", [1.5, None, float("nan"), b"x", (1,), {1: "a"}, "\ud800"])
def test_refuses_to_encode_ambiguous_values(value):
    with pytest.raises(CanonicalError):
        encode(value)


def test_refuses_input_longer_than_the_bound():
    with pytest.raises(CanonicalError, match="longer than 6"):
        decode_strict(b'{"a":1}', 6)


def test_refuses_another_outermost_type_where_an_object_is_due():
    with pytest.raises(CanonicalError):
        decode_object(b"[]", 10)


def test_parse_object_allows_spacing_but_not_duplicates():
    assert parse_object(b'{ "b": 1, "a": "x" }', 100) == {"a": "x", "b": 1}
    with pytest.raises(CanonicalError):
        parse_object(b'{"a": 1, "a": 2}', 100)


@pytest.mark.parametrize("text", ["[" * 17, '{"a":' * 17, '["\\"",' * 17, '["]",' * 17])
def test_refuses_deep_nesting_before_parsing(text):
    with pytest.raises(CanonicalError, match="deeper"):
        check_nesting(text)


@pytest.mark.parametrize(
    "deepest",
    [
        b"[" * 16 + b"]" * 16,
        b"[" * 16 + b"1" + b"]" * 16,
        b'{"a":' * 15 + b"{}" + b"}" * 15,
        b'{"a":' * 16 + b"1" + b"}" * 16,
    ],
)
def test_sixteen_levels_are_read_and_written_and_seventeen_are_not(deepest):
    value = decode_strict(deepest, 1000)
    assert encode(value) == deepest
    with pytest.raises(CanonicalError, match="deeper"):
        decode_strict(b"[" + deepest + b"]", 1000)
    with pytest.raises(CanonicalError, match="deeper"):
        encode([value])


def test_escapes_are_the_short_ones_and_otherwise_four_digits():
    text = "".join(map(chr, range(0x20))) + '"\/\x7fé😀'
    short = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    control = "".join(short.get(chr(n), f"\\u{n:04x}") for n in range(0x20))
    spelt = f'"{control}\\"\\\\/\\u007f\\u00e9\\ud83d\\ude00"'.encode()
    assert encode(text) == spelt
    assert decode_strict(spelt, 1000) == text
    for other in (b'"\\u000a"', b'"\\/"', b'"\\u0022"', b'"\\u00E9"', b'"\x7f"', b'"\n"'):
        with pytest.raises(CanonicalError):
            decode_strict(other, 1000)


def test_brackets_inside_strings_do_not_nest():
    check_nesting('["' + "[" * 1000 + '\\"' + "{" * 1000 + '"]')
    check_nesting("[" + "[]," * 1000 + "[]]")


@pytest.mark.parametrize("data", [b'{"a":"\\ud800"}', b'{"a":null}', b'{"a":18446744073709551616}'])
def test_parse_object_refuses_what_cannot_be_encoded(data):
    with pytest.raises(CanonicalError):
        parse_object(data, 100)
