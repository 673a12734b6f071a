"""Ignition configurations (JSON) in the form in which Matchbox passes them on: the types of spec 3.4, fields in their order.

Known fields only, empty lists left out, empty objects kept: that is what Go's encoder makes of them.  Older 3.x versions become
3.4.0, as they are all valid there; 2.x is passed on as it is.  The sequence of fields is the specification's alphabet.
"""

import json
from collections.abc import Mapping
from typing import Any

from pixieboot.registry.foreign import to_json

VERSION = "3.4.0"
_COMPATIBLE = ("3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0")

# A schema: name -> what it holds.  OPTIONAL is left out when it is absent, REQUIRED is an empty text then.
OPTIONAL, REQUIRED = "optional", "required"
Schema = Mapping[str, Any]


def _optional(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, OPTIONAL)


_RESOURCE: Schema = {
    "compression": OPTIONAL,
    "httpHeaders": [{"name": REQUIRED, "value": OPTIONAL}],
    "source": OPTIONAL,
    "verification": {"hash": OPTIONAL},
}
_OWNER: Schema = {"id": OPTIONAL, "name": OPTIONAL}
_NODE: Schema = {"group": _OWNER, "overwrite": OPTIONAL, "path": REQUIRED, "user": _OWNER}
_CLEVIS: Schema = {
    "custom": _optional("config", "needsNetwork", "pin"),
    "tang": [_optional("advertisement", "thumbprint", "url")],
    **_optional("threshold", "tpm2"),
}
_CONFIG: Schema = {
    "ignition": {
        "config": {"merge": [_RESOURCE], "replace": _RESOURCE},
        "proxy": {"httpProxy": OPTIONAL, "httpsProxy": OPTIONAL, "noProxy": []},
        "security": {"tls": {"certificateAuthorities": [_RESOURCE]}},
        "timeouts": _optional("httpResponseHeaders", "httpTotal"),
        "version": REQUIRED,
    },
    "kernelArguments": {"shouldExist": [], "shouldNotExist": []},
    "passwd": {
        "groups": [{"gid": OPTIONAL, "name": REQUIRED, **_optional("passwordHash", "shouldExist", "system")}],
        "users": [
            {
                "gecos": OPTIONAL,
                "groups": [],
                "homeDir": OPTIONAL,
                "name": REQUIRED,
                **_optional("noCreateHome", "noLogInit", "noUserGroup", "passwordHash", "primaryGroup", "shell", "shouldExist"),
                "sshAuthorizedKeys": [],
                **_optional("system", "uid"),
            }
        ],
    },
    "storage": {
        "directories": [{**_NODE, "mode": OPTIONAL}],
        "disks": [
            {
                "device": REQUIRED,
                "partitions": [
                    _optional(
                        "guid", "label", "number", "resize", "shouldExist", "sizeMiB", "startMiB", "typeGuid", "wipePartitionEntry"
                    )
                ],
                "wipeTable": OPTIONAL,
            }
        ],
        "files": [{**_NODE, "append": [_RESOURCE], "contents": _RESOURCE, "mode": OPTIONAL}],
        "filesystems": [
            {
                "device": REQUIRED,
                **_optional("format", "label"),
                "mountOptions": [],
                "options": [],
                **_optional("path", "uuid", "wipeFilesystem"),
            }
        ],
        "links": [{**_NODE, **_optional("hard", "target")}],
        "luks": [
            {
                "clevis": _CLEVIS,
                **_optional("device", "discard"),
                "keyFile": _RESOURCE,
                "label": OPTIONAL,
                "name": REQUIRED,
                "openOptions": [],
                "options": [],
                **_optional("uuid", "wipeVolume"),
            }
        ],
        "raid": [{"devices": [], "level": OPTIONAL, "name": REQUIRED, "options": [], "spares": OPTIONAL}],
    },
    "systemd": {
        "units": [
            {
                "contents": OPTIONAL,
                "dropins": [{"contents": OPTIONAL, "name": REQUIRED}],
                **_optional("enabled", "mask"),
                "name": REQUIRED,
            }
        ]
    },
}


def marshalled(text: str) -> bytes:
    """The configuration as it is served.  Raises ValueError with a clause."""
    try:
        value = json.loads(text)
        version = value["ignition"]["version"]
    except ValueError as error:
        raise ValueError(f"this is not JSON ({error})") from None
    except (KeyError, TypeError):
        raise ValueError("this is no Ignition configuration: it has no ignition.version") from None
    if not isinstance(version, str):
        raise ValueError("ignition.version is no text")
    if version.startswith(("1", "2.")):
        return text.encode("utf-8", "surrogateescape")
    if version not in _COMPATIBLE:
        raise ValueError(f"Ignition {version} is not known here, want 2.x or 3.0.0 to {VERSION}")
    value["ignition"]["version"] = VERSION
    return to_json(_shaped(value, _CONFIG, "the configuration"))


def _shaped(value: Any, schema: Schema, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    shaped: dict[str, Any] = {}
    for key, kind in schema.items():
        inner = value.get(key)
        if isinstance(kind, list):
            if inner and not isinstance(inner, list):
                raise ValueError(f"{key} is no list")
            if inner:
                shaped[key] = [_shaped(item, kind[0], f"an entry of {key}") for item in inner] if kind else inner
        elif isinstance(kind, Mapping):
            shaped[key] = _shaped({} if inner is None else inner, kind, key)
        elif kind == REQUIRED:
            shaped[key] = inner or ""
        elif inner is not None:
            shaped[key] = inner
    return shaped
