"""Ignition as Go's encoder writes the types of spec 3.4."""

import json

import pytest

from pixieboot.registry.ignition import marshalled

EMPTY = (
    '{"ignition":{"config":{"replace":{"verification":{}}},"proxy":{},"security":{"tls":{}},"timeouts":{},"version":"3.4.0"},'
    '"kernelArguments":{},"passwd":{},"storage":{},"systemd":{}}'
)
SHAPES: dict[str, tuple[str, str]] = {
    "nothing but a version": ('{"ignition": {"version": "3.0.0"}}', EMPTY),
    "unknown keys and empty lists go": ('{"ignition": {"version": "3.4.0"}, "x": 1, "systemd": {"units": []}}', EMPTY),
    "version 2 is passed on": ('{ "ignition": {"version": "2.2.0"} }', '{ "ignition": {"version": "2.2.0"} }'),
    "a file": (
        '{"ignition": {"version": "3.3.0"}, "storage": {"files": [{"contents": {"source": "data:,a"}, "mode": 420, "path": "/a"}'
        "]}}",
        EMPTY.replace(
            '"storage":{}',
            '"storage":{"files":[{"group":{},"path":"/a","user":{},"contents":{"source":"data:,a","verification":{}},"mode":420}]}',
        ),
    ),
    "a user": (
        '{"ignition": {"version": "3.3.0"}, "passwd": {"users": [{"sshAuthorizedKeys": ["k"], "name": "core", "groups": ["a"]}]}}',
        EMPTY.replace('"passwd":{}', '"passwd":{"users":[{"groups":["a"],"name":"core","sshAuthorizedKeys":["k"]}]}'),
    ),
    "false is not nothing": (
        '{"ignition": {"version": "3.3.0"}, "systemd": {"units": [{"name": "a.service", "enabled": false, "mask": null}]}}',
        EMPTY.replace('"systemd":{}', '"systemd":{"units":[{"enabled":false,"name":"a.service"}]}'),
    ),
    "kernel arguments": (
        '{"ignition": {"version": "3.3.0"}, "kernelArguments": {"shouldExist": ["a&b"]}}',
        EMPTY.replace('"kernelArguments":{}', '"kernelArguments":{"shouldExist":["a\\u0026b"]}'),
    ),
}


@pytest.mark.parametrize("text, served", SHAPES.values(), ids=SHAPES)
def test_marshalled(text: str, served: str) -> None:
    assert marshalled(text).decode() == served
    json.loads(served)


WRONG = {
    "no JSON": ("{", "this is not JSON"),
    "no version": ('{"ignition": {}}', "it has no ignition.version"),
    "a list": ("[]", "it has no ignition.version"),
    "a version that is no text": ('{"ignition": {"version": 3}}', "ignition.version is no text"),
    "a version to come": (
        '{"ignition": {"version": "3.9.0"}}',
        r"Ignition 3\.9\.0 is not known here, want 2\.x or 3\.0\.0 to 3\.4\.0",
    ),
    "a list that is none": ('{"ignition": {"version": "3.0.0"}, "systemd": {"units": {"a": 1}}}', "units is no list"),
    "an object that is none": ('{"ignition": {"version": "3.0.0"}, "systemd": {"units": [1]}}', "an entry of units is no object"),
}


@pytest.mark.parametrize("text, what", WRONG.values(), ids=WRONG)
def test_what_is_not_served(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        marshalled(text)
