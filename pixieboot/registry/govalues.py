"""Values of JSON as Go has them: what is true, how fmt and strconv write them, and the functions of text/template."""

import html as _html
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus


class NoValue:
    """Go's zero reflect.Value: it prints as `<no value>` and is false."""


NO_VALUE = NoValue()


def truth(value: Any) -> bool:
    """As `if` takes it: zero, empty and nothing are false."""
    return not isinstance(value, NoValue) and bool(value)


def printed(value: Any, nested: bool = False) -> str:
    """As fmt.Print writes it."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float(value)
        case list():
            return f"[{' '.join(printed(item, True) for item in value)}]"
        case Mapping():
            return f"map[{' '.join(f'{key}:{printed(item, True)}' for key, item in sorted(value.items()))}]"
    return "<nil>" if nested else "<no value>"


def _float(value: float) -> str:
    """%v of a float64: the shortest form that reads back the same; an exponent below 1e-04 and from 1e+06 on."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    power = len(text) - 1 + int(exponent)
    if value and not -4 <= power < 6:
        fraction = f".{text[1:]}" if len(text) > 1 else ""
        return f"{'-' if sign else ''}{text[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02}"
    return f"{Decimal(repr(value)).normalize():f}"


def type_name(value: Any) -> str:
    """As %T writes it."""
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}")


def _index(collection: Any, *keys: Any) -> Any:
    for key in keys:
        match collection:
            case Mapping():
                if not isinstance(key, str):
                    raise ValueError(f"value has type {type_name(key)}; should be string")
                collection = collection.get(key, NO_VALUE)
            case list() | str():
                if not isinstance(key, int) or isinstance(key, bool):
                    raise ValueError(f"cannot index slice/array with type {type_name(key)}")
                if not 0 <= key < len(collection):
                    raise ValueError(f"index out of range: {key}")
                collection = ord(collection[key]) if isinstance(collection, str) else collection[key]
            case _:
                nothing = isinstance(collection, NoValue)
                raise ValueError("index of untyped nil" if nothing else f"can't index item of type {type_name(collection)}")
    return collection


def _slice(collection: Any, *bounds: Any) -> Any:
    if not isinstance(collection, (str, list)) or not all(isinstance(bound, int) for bound in bounds):
        raise ValueError(f"can't slice item of type {type_name(collection)}")
    first, last = (*bounds, *(0, len(collection))[len(bounds) :])[:2]
    if not 0 <= first <= last <= len(collection):
        raise ValueError(f"index out of range: {last}")
    return collection[first:last]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, Mapping)):
        return len(value)
    raise ValueError(f"len of type {type_name(value)}" if not isinstance(value, NoValue) else "len of nil pointer")


def _comparable(first: Any, second: Any) -> None:
    if isinstance(first, (list, Mapping)) or isinstance(second, (list, Mapping)):
        raise ValueError("non-comparable types")
    if isinstance(first, NoValue) or isinstance(second, NoValue):
        return
    if type(first) is not type(second):
        raise ValueError("incompatible types for comparison")


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    for other in others:
        _comparable(first, other)
        if (first is other) if isinstance(first, NoValue) or isinstance(other, NoValue) else first == other:
            return True
    return False


def _less(first: Any, second: Any) -> bool:
    _comparable(first, second)
    if isinstance(first, (bool, NoValue)) or isinstance(second, (bool, NoValue)):
        raise ValueError("invalid type for comparison")
    return bool(first < second)


def _sprint(*values: Any) -> str:
    """fmt.Sprint: a space between two operands when neither is a string."""
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += "<nil>" if isinstance(value, NoValue) else printed(value)
    return out


_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"'}


def quoted(text: str) -> str:
    """As strconv.Quote writes it."""
    return '"' + "".join(_ESCAPES.get(one) or (one if one.isprintable() else _escaped(ord(one))) for one in text) + '"'


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>[0-9]*)(?:\.(?P<precision>[0-9]*))?(?P<verb>.)", re.DOTALL)


def _printf(form: Any, *values: Any) -> str:
    """fmt.Sprintf with the verbs v s q d x X t f e g c %; a wrong one is written into the text, as Go does."""
    if not isinstance(form, str):
        raise ValueError(f"wrong type for value; expected string; got {type_name(form)}")
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        verb, flags, width = match["verb"], match["flags"], min(int(match["width"] or 0), 10_000)
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        text = _formatted(rest.pop(0), verb, flags, match["precision"])
        if "-" in flags:
            return text.ljust(width)
        return text.zfill(width) if "0" in flags and verb in "dxXfeg" else text.rjust(width)

    text = _VERB.sub(one, form)
    if rest:
        text += f"%!(EXTRA {', '.join(f'{type_name(value)}={printed(value)}' for value in rest)})"
    return text


def _formatted(value: Any, verb: str, flags: str, precision: str | None) -> str:
    digits = None if precision is None else min(int(precision or 0), 1000)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    sign = "+" if "+" in flags and number and value >= 0 else ""
    match verb:
        case "v":
            return sign + ("<nil>" if isinstance(value, NoValue) else printed(value))
        case "s" if isinstance(value, str):
            return value[:digits]
        case "s" if isinstance(value, (list, Mapping)):
            return printed(value)
        case "q" if isinstance(value, str):
            return quoted(value)
        case "d" if isinstance(value, int) and number:
            return f"{sign}{value}"
        case "x" if isinstance(value, str):
            return value.encode().hex()
        case "X" if isinstance(value, str):
            return value.encode().hex().upper()
        case "x" | "X" if isinstance(value, int) and number:
            return f"{value:{verb}}"
        case "c" if isinstance(value, int) and number:
            return chr(value)
        case "t" if isinstance(value, bool):
            return printed(value)
        case "f" | "e" if isinstance(value, float):
            return f"{sign}{value:.{6 if digits is None else digits}{verb}}"
        case "g" if isinstance(value, float):
            return sign + (_float(value) if digits is None else f"{value:.{digits}g}")
    return f"%!{verb}({type_name(value)}={printed(value)})"


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "not": lambda value: not truth(value),
    "eq": _eq,
    "ne": lambda first, second: not _eq(first, second),
    "lt": _less,
    "le": lambda first, second: _less(first, second) or _eq(first, second),
    "gt": lambda first, second: not _less(first, second) and not _eq(first, second),
    "ge": lambda first, second: not _less(first, second),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "print": _sprint,
    "println": lambda *values: " ".join("<nil>" if isinstance(value, NoValue) else printed(value) for value in values) + "\n",
    "printf": _printf,
    "html": lambda *values: _html.escape(_sprint(*values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "urlquery": lambda *values: quote_plus(_sprint(*values)),
}
