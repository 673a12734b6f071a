"""Frames as scapy makes them, and told again as if made anew."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pixieboot.wire.frame import Repeatable, udp_frame

CLIENT = bytes.fromhex("525400123456")
SERVER = bytes.fromhex("525400000001")


@given(st.binary(max_size=1472))
def test_frames_are_what_scapy_would_make(payload: bytes) -> None:
    frame = udp_frame(CLIENT, SERVER, "192.168.77.1", 67, "192.168.77.100", 68, payload)
    addressed = IP(src="192.168.77.1", dst="192.168.77.100", id=0, flags="DF")
    assert frame == bytes(Ether(dst=CLIENT, src=SERVER) / addressed / UDP(sport=67, dport=68) / payload)


@given(st.binary(min_size=8, max_size=600), st.binary(min_size=4, max_size=4))
def test_a_frame_told_again_is_as_if_made_anew(payload: bytes, xid: bytes) -> None:
    again = payload[:4] + xid + payload[8:]
    made, wanted = (udp_frame(CLIENT, SERVER, "192.168.77.1", 67, "255.255.255.255", 68, each) for each in (payload, again))
    assert Repeatable(made).to(xid) == wanted
