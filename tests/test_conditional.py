"""Ranges and conditions as values; the same rules over the wire are in test_serve_httpd.py."""

from hypothesis import given
from hypothesis import strategies as st

from pixieboot.serve.conditional import Answer, Version, answer, part

VERSION = Version(1000, 1_600_000_000_123_456_789, 42)
HEADERS = (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range")
VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [VERSION.etag, b"W/" + VERSION.etag, b'"other"', b"*", VERSION.last_modified, b"Thu, 01 Jan 1970 00:00:00 GMT"]
    ),
    st.from_regex(rb"bytes=[0-9]{0,30}-[0-9]{0,30}", fullmatch=True),
    st.sampled_from([b"Mon, 99 Foo 0000 99:99:99 GMT", b"Mon, 01 Jan 99999 00:00:00 +9999"]),
)


@given(st.dictionaries(st.sampled_from(HEADERS), VALUES), st.integers(0, 10**12))
def test_whatever_a_client_sends_the_answer_lies_within_the_file(headers: dict[bytes, bytes], size: int) -> None:
    got = answer(headers, Version(size, VERSION.mtime_ns, VERSION.inode))
    assert got.status in (200, 206, 304, 412, 416)
    if got.status == 200:
        assert (got.first, got.count) == (0, size)
    elif got.status == 206:
        assert 0 < got.count and 0 <= got.first and got.first + got.count <= size
    else:
        assert (got.first, got.count) == (0, 0)


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_a_closed_range_is_what_python_would_cut_out(size: int, first: int, last: int) -> None:
    octets = bytes(number % 251 for number in range(size))
    got = part(b"bytes=%d-%d" % (first, last), size)
    if last < first:
        assert got == Answer(200, 0, size)
    elif first >= size:
        assert got == Answer(416, 0, 0)
    else:
        assert octets[got.first : got.first + got.count] == octets[first : last + 1]


def test_etags_tell_versions_apart() -> None:
    other = [Version(1001, VERSION.mtime_ns, 42), Version(1000, VERSION.mtime_ns + 1, 42), Version(1000, VERSION.mtime_ns, 43)]
    assert len({VERSION.etag, *(version.etag for version in other)}) == 4
    assert VERSION.etag[:1] == VERSION.etag[-1:] == b'"'
    assert VERSION.last_modified == b"Sun, 13 Sep 2020 12:26:40 GMT"
