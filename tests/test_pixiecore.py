"""Pixiecore's API from its other side: every form of answer, byte for byte what its users' machines got of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot import render
from pixieboot.errors import WireError
from pixieboot.inventory import Inventory
from pixieboot.model import Boot, Client, Loader, Mac, Stage
from pixieboot.registry.pixiecore import MACHINES, PixiecoreMachines, Spec, prefix_of, question, spec_of
from pixieboot.remote import Remote, path_of
from tests.test_render import SITE

API = "pixiecore+http://api.example:8000/boot"
MAC = Mac("52:54:00:12:34:56")
CLIENT = Client(MAC, loader=Loader.IPXE, stage=Stage.SCRIPT)


def answer(**keys: Any) -> bytes:
    return json.dumps({"kernel": "http://h/k"} | keys).encode()


def link(url: str) -> str:
    return f"{SITE.http_url}{path_of(SITE.link_key, Remote(url))}"


def script(body: bytes, files: bool = False) -> str:
    """The iPXE script that a machine gets after this answer."""
    machines = PixiecoreMachines()
    assert machines.learn(MAC, spec_of(body, API, files))
    inventory: Inventory = machines.load(1)
    assignment = inventory.assign(CLIENT, SITE)
    assert assignment.profile and assignment.machine and assignment.known
    return render.ipxe(Boot(assignment.profile, {}, "because"), CLIENT, assignment, SITE, inventory)


def kernel_line(body: bytes) -> str:
    return next(line for line in script(body).splitlines() if line.startswith("kernel "))


def args(body: bytes) -> str:
    return kernel_line(body).removeprefix(f"kernel --name kernel {link('http://h/k')}").removesuffix(" || goto failed").lstrip()


@pytest.mark.parametrize("prefix", ["http://h", "http://h/", "https://h:8/a/b", "https://h:8/a/b/"])
def test_what_is_asked(prefix: str) -> None:
    assert question(f"pixiecore+{prefix}", MAC) == f"{prefix.rstrip('/')}/v1/boot/52:54:00:12:34:56"
    assert prefix_of(f"pixiecore+{prefix}").endswith("/")


URLS = {
    "absolute": ("https://h/k", "https://h/k"),
    "below the prefix": ("img/k", "http://api.example:8000/boot/img/k"),
    "from the root": ("/img/k", "http://api.example:8000/img/k"),
    "another host": ("//other/k", "http://other/k"),
    "up": ("../k", "http://api.example:8000/k"),
    "a file, by its path only": ("file://elsewhere/srv/k", "file:///srv/k"),
}


@pytest.mark.parametrize("said, meant", URLS.values(), ids=URLS)
def test_addresses(said: str, meant: str) -> None:
    spec = spec_of(answer(kernel=said, initrd=[said]), API, files=True)
    assert (spec.kernel, spec.initrd) == (meant, (meant,))


CMDLINES: dict[str, tuple[Any, str]] = {
    "none": (None, ""),
    "a text": ("  console=ttyS0 quiet\n", "console=ttyS0 quiet"),
    "URL": ('a={{ URL "cfg/{x}" }} b', f"a={link('http://api.example:8000/boot/cfg/{x}')} b"),
    "URL, piped and trimmed": ('a={{- "/c" | URL -}} ', f"a={link('http://api.example:8000/c')}"),
    "Go's own functions": ('{{ printf "%d-%s" 3 "x" }} {{ if eq "a" "a" }}y{{ end }}', "3-x y"),
    "what would be a template of ours": ("{{ `{{ vars.x }}{% if %}{#` }}", "{{ vars.x }}{% if %}{#"),
    "quotes": ('a="b  c" d', 'a="b  c" d'),
    "an object": ({"b": "2 3", "a": True, "z": False, "c": {"url": "/c"}}, f'a b="2 3" c={link("http://api.example:8000/c")} z'),
    "an object with all that is quoted": ({"k": 'a"b\\c\u00e9'}, 'k="a\\"b\\\\c\u00e9"'),
    "an object with a line break": ({"k": "a\nb\x01"}, 'k="a\\nb\\x01"'),
    "an empty value": ({"k": ""}, 'k=""'),
}


@pytest.mark.parametrize("cmdline, meant", CMDLINES.values(), ids=CMDLINES)
def test_cmdline(cmdline: Any, meant: str) -> None:
    assert args(answer(cmdline=cmdline)) == meant


def test_kernel_and_initrds_are_links_of_ours_and_the_message_is_shown() -> None:
    text = script(answer(initrd=["/one", "http://h/two"], message="Hello {{ 7 }}\nthere"))
    assert "echo Hello {{ 7 }}" in text and "echo there" in text
    names = [line.split()[2:4] for line in text.splitlines() if line.startswith("initrd ")]
    assert names == [["one", link("http://api.example:8000/one")], ["two", link("http://h/two")]]
    assert "initrd=one initrd=two" in kernel_line(answer(initrd=["/one", "http://h/two"]))


@pytest.mark.parametrize("text", ["#!ipxe\necho {{ x }} {% y %} \\ \"'\nshell\n", "#!ipxe\r\nécho \U0001f600{#\n"])
def test_a_script_is_served_as_it_is(text: str) -> None:
    assert script(answer(**{"ipxe-script": text, "kernel": 7, "message": "dropped"})) == text


@given(st.text())
def test_any_script_and_any_message(text: str) -> None:
    spec = spec_of(answer(**{"ipxe-script": f"#!ipxe\n{text}"}), API)
    assert spec.script == f"#!ipxe\n{text}"
    script(answer(message=text))


def test_keys_that_nobody_knows_are_left_out() -> None:
    assert spec_of(answer(extra={"a": 1}, initrd=None, cmdline=None, message=None), API) == Spec("http://h/k")


WRONG: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"<html>", "not JSON"),
    "no UTF-8": (b"\xff\xfe{", "not JSON"),
    "no object": (b"[1]", "not a JSON object"),
    "no kernel": (b"{}", "neither a kernel nor an ipxe-script"),
    "a kernel that is no text": (answer(kernel=1), "kernel is not a text"),
    "an initrd that is no list": (answer(initrd="a"), "initrd is not a list"),
    "initrds that are no texts": (answer(initrd=[1]), "initrd is not a list"),
    "a file": (answer(kernel="file:///etc/passwd"), "pixiecore.files is not set"),
    "another scheme": (answer(kernel="ftp://h/k"), "no address of http"),
    "no address": (answer(kernel="http://["), "is no address"),
    "a space": (answer(kernel="http://h/a b"), "no address of http"),
    "a line break in an address": (answer(initrd=["http://h/a\u2028b"]), "no address of http"),
    "a line break": (answer(cmdline="a\nb"), "line break"),
    "a control character": (answer(cmdline="a\x1bb"), "control character"),
    "a NUL": (answer(cmdline="a\0000\0"), "NUL"),
    "a template that is none": (answer(cmdline="{{ if }}"), "cmdline: "),
    "a function that there is not": (answer(cmdline='{{ ID "x" }}'), "function 'ID' not defined"),
    "a missing key": (answer(cmdline="{{ .x }}"), "cmdline: "),
    "URL of nothing": (answer(cmdline="{{ URL 7 }}"), "URL wants a text"),
    "a number": (answer(cmdline=7), "neither a text nor an object"),
    "an object with a number": (answer(cmdline={"a": 1}), "value of a is neither"),
    "an object with a wrong address": (answer(cmdline={"a": {"url": "ftp://h"}}), "no address of http"),
    "a key with a line break": (answer(cmdline={"a\nb": True}), "line break"),
    "a message that is no text": (answer(message=[]), "message is not a text"),
}


@pytest.mark.parametrize("body, words", WRONG.values(), ids=WRONG)
def test_answers_that_cannot_be(body: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words.replace("(", r"\(")):
        spec_of(body, API)


@given(st.binary() | st.builds(lambda value: json.dumps(value).encode(), st.recursive(
    st.none() | st.booleans() | st.text(max_size=9) | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["kernel", "initrd", "cmdline", "message", "ipxe-script", "url"]), inner, max_size=5),
)))  # fmt: skip
def test_any_answer_is_understood_or_refused(body: bytes) -> None:
    try:
        spec_of(body, API)
    except WireError:
        pass


def test_the_last_answer_is_kept_and_only_news_are_news() -> None:
    machines = PixiecoreMachines()
    spec = spec_of(answer(), API)
    assert not machines.learn(MAC, None) and machines.learn(MAC, spec) and not machines.learn(MAC, spec)
    templates = machines.load(1).templates
    assert machines.learn(MAC, spec_of(answer(kernel="/x"), API)) and machines.load(2).templates is templates
    assert machines.learn(MAC, Spec(None, script="#!ipxe\n")) and list(machines.load(3).templates) == [f"{MAC.dashed}.ipxe"]
    assert machines.learn(MAC, None) and not machines.knows(MAC) and not machines.load(4).templates
    for number in range(MACHINES + 1):
        machines.learn(Mac.of(number.to_bytes(6)), spec)
    assert len(machines.load(5).machines) == MACHINES and not machines.knows(Mac.of(bytes(6)))
    assert machines.signature() == {}


@pytest.mark.parametrize(
    "body",
    [
        b'{"kernel": "http://x/k", "cmdline": ' + b"[" * 100_000,
        b'{"kernel": "http://x/k", "cmdline": "a=\\ud800"}',
        b'{"ipxe-script": "\\ud800"}',
        b'{"kernel": "http://x/k", "cmdline": "{{range 1000000000}}x{{end}}"}',
        b'{"kernel": "http://x/k", "cmdline": "{{range 1000}}{{range 1000}}{{end}}{{end}}"}',
        b'{"kernel": "http://x/k", "cmdline": "{{$a := `x`}}{{range 40}}{{$a = print $a $a}}{{end}}"}',
        b'{"kernel": "http://x/k", "cmdline": "' + b"a" * 65_537 + b'"}',
    ],
    ids=["too deep", "half a character", "half in a script", "too long a loop", "loops", "doubled again and again", "too long"],
)
def test_an_answer_that_would_take_all_memory_is_the_peers_fault(body: bytes) -> None:
    with pytest.raises(WireError):
        spec_of(body, "pixiecore+http://127.0.0.1/")
