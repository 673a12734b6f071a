"""Go's text/template, as far as Matchbox's templates use it, with Option("missingkey=error").

Fields and chains, variables, pipelines, if/else/with/range/break/continue, comments and trim markers, and the functions
and or not eq ne lt le gt ge index slice len print printf println html urlquery.  Values are those of JSON: numbers are
float64 and print as Go prints them (1000000 is 1e+06).  What is not here (define, template, block, methods) is said when a
template is compiled, not when a machine waits for it.
"""

import html as _html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus

Functions = Mapping[str, Callable[..., Any]]

_NONE: Functions = {}
DEEPEST = 100  # levels of blocks or parentheses


class TemplateFault(Exception):
    """What is wrong with a template or its data, and on which line of the template."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line, self.what = line, what


class NoValue:
    """Go's zero reflect.Value: it prints as `<no value>` and is false."""


NO_VALUE = NoValue()

# --- tokens --------------------------------------------------------------------------------------------------------------

_ACTION = re.compile(r"\{\{(?:-(?=[ \t\r\n]))?")
_COMMENT = re.compile(r"[ \t\r\n]*/\*.*?\*/[ \t\r\n]*?(?P<trim>[ \t\r\n]-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<close>(?<=[ \t\r\n])-\}\}|\}\})
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))
    |(?P<variable>\$[A-Za-z0-9_]*)
    |(?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    |(?P<dot>\.)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>:=|[|(),=])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    spaced: bool  # white space stands before it


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Action:
    tokens: tuple[_Token, ...]
    line: int


def _pieces(source: str) -> Iterator[_Text | _Action]:
    """Text and actions in turn, white space trimmed where {{- and -}} say so."""
    at, trim = 0, False
    while True:
        match = _ACTION.search(source, at)
        text = source[at : match.start() if match else len(source)]
        if trim:
            text = text.lstrip(" \t\r\n")
        if match is None:
            yield _Text(text)
            return
        if match[0].endswith("-"):
            text = text.rstrip(" \t\r\n")
        yield _Text(text)
        at = match.end()
        if comment := _COMMENT.match(source, at):
            at, trim = comment.end(), bool(comment["trim"])
            continue
        line = source.count("\n", 0, at) + 1
        tokens, at, trim = _tokens(source, at, line)
        yield _Action(tokens, line)


def _tokens(source: str, at: int, line: int) -> tuple[tuple[_Token, ...], int, bool]:
    tokens: list[_Token] = []
    spaced = False
    while True:
        match = _TOKEN.match(source, at)
        if match is None:
            raise TemplateFault(line, "the action is not closed with }}" if at >= len(source) else f"unexpected {source[at]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind == "close":
            return tuple(tokens), at, match[0].startswith("-")
        if kind != "space":
            tokens.append(_Token(kind, match[0], line, spaced))
        spaced = kind == "space"
        line += match[0].count("\n")


# --- the tree ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Operand:
    """dot | literal | variable | function | pipe, with the fields that are looked up in it."""

    kind: str
    value: Any
    fields: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class _Pipe:
    """Commands, each the last argument of the next; declared: variables that take the value."""

    commands: tuple[tuple[_Operand, ...], ...]
    declared: tuple[str, ...]
    assigns: bool
    line: int


@dataclass(slots=True)
class _Block:
    """if | with | range, or an action alone (kind "") or text."""

    kind: str
    pipe: _Pipe | None = None
    text: str = ""
    body: list["_Block"] = field(default_factory=list)
    otherwise: list["_Block"] = field(default_factory=list)
    line: int = 0


class _Parser:
    def __init__(self, source: str, functions: Functions) -> None:
        self._functions = functions
        self._pieces = list(_pieces(source))
        self._at = 0
        self._last = source.count("\n") + 1

    def parse(self) -> list[_Block]:
        blocks, end = self._list(0, False)
        if end:
            raise TemplateFault(end.line, f"{{{{{end.tokens[0].text}}}}} without a beginning")
        return blocks

    def _list(self, depth: int, looping: bool) -> tuple[list[_Block], _Action | None]:
        """Blocks up to an {{end}} or {{else}}, which is returned; None at the end of the template."""
        if depth > DEEPEST:
            raise TemplateFault(self._last, f"blocks are nested more than {DEEPEST} deep")
        blocks: list[_Block] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if isinstance(piece, _Text):
                if piece.text:
                    blocks.append(_Block("text", text=piece.text))
                continue
            word = piece.tokens[0].text if piece.tokens and piece.tokens[0].kind == "word" else ""
            if word in ("end", "else"):
                return blocks, piece
            if word in ("if", "with", "range"):
                blocks.append(self._block(word, piece.tokens[1:], piece.line, depth, looping or word == "range"))
            elif word in ("break", "continue"):
                if not looping:
                    raise TemplateFault(piece.line, f"{{{{{word}}}}} outside {{{{range}}}}")
                blocks.append(_Block(word, line=piece.line))
            elif word in ("define", "template", "block"):
                raise TemplateFault(piece.line, f"{{{{{word}}}}} is not supported")
            else:
                blocks.append(_Block("", _Reader(piece.tokens, piece.line, self._functions).pipeline(), line=piece.line))
        return blocks, None

    def _block(self, kind: str, tokens: tuple[_Token, ...], line: int, depth: int, looping: bool) -> _Block:
        block = _Block(kind, _Reader(tokens, line, self._functions).pipeline(ranging=kind == "range"), line=line)
        block.body, end = self._list(depth + 1, looping)
        if end and end.tokens[0].text == "else":
            rest = end.tokens[1:]
            if rest:  # {{else if X}}, {{else with X}}: a block within the else that shares its {{end}}
                if rest[0].text not in ("if", "with") or kind == "range":
                    raise TemplateFault(end.line, f"unexpected {rest[0].text!r} after else")
                block.otherwise = [self._block(rest[0].text, rest[1:], end.line, depth + 1, looping)]
                return block
            block.otherwise, end = self._list(depth + 1, looping)
        if end is None or end.tokens[0].text != "end":
            raise TemplateFault(line, f"{{{{{kind}}}}} without {{{{end}}}}")
        return block


class _Reader:
    """The tokens of one action -> a pipeline."""

    def __init__(self, tokens: Sequence[_Token], line: int, functions: Functions) -> None:
        self._tokens, self._at, self._line, self._functions = tokens, 0, line, functions

    def _peek(self, ahead: int = 0) -> _Token | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def pipeline(self, ranging: bool = False, depth: int = 0) -> _Pipe:
        if depth > DEEPEST:
            raise TemplateFault(self._line, f"parentheses are nested more than {DEEPEST} deep")
        declared, assigns = self._declarations(ranging)
        commands: list[tuple[_Operand, ...]] = []
        while True:
            commands.append(self._command(depth))
            token = self._peek()
            if token is None or token.text == ")":
                break
            self._at += 1  # the |
        if depth == 0 and self._peek():
            raise TemplateFault(self._line, "unexpected )")
        return _Pipe(tuple(commands), declared, assigns, self._line)

    def _declarations(self, ranging: bool) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        at = self._at
        while (token := self._peek()) and token.kind == "variable":
            names.append(token.text)
            sign = self._peek(1)
            self._at += 2
            if sign and sign.text in (":=", "="):
                return tuple(names), sign.text == "="
            if not (ranging and len(names) == 1 and sign and sign.text == ","):
                break
        self._at = at
        return (), False

    def _command(self, depth: int) -> tuple[_Operand, ...]:
        operands: list[_Operand] = []
        while (token := self._peek()) and token.text not in ("|", ")"):
            operands.append(self._operand(token, depth))
        if not operands:
            raise TemplateFault(self._line, "missing value for command")
        first = operands[0]
        if len(operands) > 1 and first.kind != "function":
            raise TemplateFault(first.line, "only a function takes arguments")
        return tuple(operands)

    def _operand(self, token: _Token, depth: int) -> _Operand:
        self._at += 1
        kind = "literal"
        value: Any = None
        fields: list[str] = []
        match token.kind:
            case "dot":
                kind = "dot"
            case "field":
                kind, fields = "dot", [token.text[1:]]
            case "variable":
                kind, value = "variable", token.text
            case "string":
                value = _string(token)
            case "char":
                value = ord(_string(token))
            case "number":
                value = _number(token.text)
            case "word" if token.text in ("true", "false"):
                value = token.text == "true"
            case "word" if token.text == "nil":
                value = NO_VALUE
            case "word":
                if token.text not in self._functions and token.text not in _FUNCTIONS and token.text not in ("and", "or"):
                    raise TemplateFault(token.line, f"function {token.text!r} not defined")
                kind, value = "function", token.text
            case "sign" if token.text == "(":
                kind, value = "pipe", self.pipeline(depth=depth + 1)
                if self._peek() is None:
                    raise TemplateFault(token.line, "unclosed left paren")
                self._at += 1
            case _:
                raise TemplateFault(token.line, f"unexpected {token.text!r}")
        while (following := self._peek()) and following.kind == "field" and not following.spaced:
            fields.append(following.text[1:])
            self._at += 1
        return _Operand(kind, value, tuple(fields), token.line)


def _string(token: _Token) -> str:
    text = token.text
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")
    body = text[1:-1].replace("\\'", "'").replace("\\a", "\\u0007").replace("\\v", "\\u000b")
    body = re.sub(r"\\x([0-9a-fA-F]{2})", r"\\u00\1", body)
    if text.startswith("'"):
        body = body.replace('"', '\\"')
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError:
        raise TemplateFault(token.line, f"bad string {text}") from None


def _number(text: str) -> int | float:
    return int(text, 0) if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)", text) else float(text)


# --- execution -----------------------------------------------------------------------------------------------------------


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class GoTemplate:
    """A compiled template."""

    def __init__(self, source: str, functions: Functions = _NONE) -> None:
        """functions: more than Go's own.  Raises TemplateFault."""
        self._functions = functions
        self._blocks = _Parser(source, functions).parse()

    def render(self, data: Mapping[str, Any]) -> str:
        """Raises TemplateFault for a missing key or anything else that Go refuses."""
        out: list[str] = []
        self._run(self._blocks, data, [("$", data)], out)
        return "".join(out)

    def _run(self, blocks: list[_Block], dot: Any, variables: list[tuple[str, Any]], out: list[str]) -> None:
        for block in blocks:
            if block.kind == "text":
                out.append(block.text)
            elif block.kind == "break":
                raise _Break
            elif block.kind == "continue":
                raise _Continue
            elif block.pipe:
                self._block(block, block.pipe, dot, variables, out)

    def _block(self, block: _Block, pipe: _Pipe, dot: Any, variables: list[tuple[str, Any]], out: list[str]) -> None:
        if block.kind == "":
            value = self._pipe(pipe, dot, variables)
            if not pipe.declared:
                out.append(printed(value))
            return
        mark = len(variables)
        if block.kind == "range":
            self._range(block, pipe, dot, variables, out)
        else:
            value = self._pipe(pipe, dot, variables)
            if truth(value):
                self._run(block.body, value if block.kind == "with" else dot, variables, out)
            else:
                self._run(block.otherwise, dot, variables, out)
        del variables[mark:]

    def _range(self, block: _Block, pipe: _Pipe, dot: Any, variables: list[tuple[str, Any]], out: list[str]) -> None:
        value = self._pipe(_Pipe(pipe.commands, (), False, pipe.line), dot, variables)
        pairs: list[tuple[Any, Any]]
        match value:
            case Mapping():
                pairs = sorted(value.items())
            case list():
                pairs = list(enumerate(value))
            case int() if not isinstance(value, bool):
                pairs = [(number, number) for number in range(value)]
            case NoValue() | None:
                pairs = []
            case _:
                raise TemplateFault(pipe.line, f"range can't iterate over {printed(value)}")
        mark = len(variables)
        for key, element in pairs:
            if len(pipe.declared) == 1:
                variables.append((pipe.declared[0], element))
            elif pipe.declared:
                variables += [(pipe.declared[0], key), (pipe.declared[1], element)]
            try:
                self._run(block.body, element, variables, out)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del variables[mark:]
        if not pairs:
            self._run(block.otherwise, dot, variables, out)

    def _pipe(self, pipe: _Pipe, dot: Any, variables: list[tuple[str, Any]]) -> Any:
        final: tuple[Any, ...] = ()
        for command in pipe.commands:
            final = (self._command(command, final, dot, variables),)
        value = final[0]
        for name in pipe.declared:
            if pipe.assigns:
                for at in range(len(variables) - 1, -1, -1):
                    if variables[at][0] == name:
                        variables[at] = (name, value)
                        break
                else:
                    raise TemplateFault(pipe.line, f"undefined variable {name!r}")
            else:
                variables.append((name, value))
        return value

    def _command(self, command: tuple[_Operand, ...], final: tuple[Any, ...], dot: Any, variables: list[tuple[str, Any]]) -> Any:
        first = command[0]
        if first.kind != "function":
            if final:
                raise TemplateFault(first.line, "can't give argument to non-function")
            return self._operand(first, dot, variables)
        if first.value in ("and", "or"):  # the first that decides; the others are not even looked at
            value: Any = NO_VALUE
            for operand in command[1:]:
                value = self._operand(operand, dot, variables)
                if truth(value) == (first.value == "or"):
                    return value
            return final[0] if final else value
        arguments = [self._operand(operand, dot, variables) for operand in command[1:]]
        try:
            return (self._functions.get(first.value) or _FUNCTIONS[first.value])(*arguments, *final)
        except TypeError:
            raise TemplateFault(first.line, f"wrong number of args for {first.value}") from None
        except ValueError as error:
            raise TemplateFault(first.line, f"error calling {first.value}: {error}") from None

    def _operand(self, operand: _Operand, dot: Any, variables: list[tuple[str, Any]]) -> Any:
        match operand.kind:
            case "dot":
                value = dot
            case "variable":
                found = [value for name, value in variables if name == operand.value]
                if not found:
                    raise TemplateFault(operand.line, f"undefined variable {operand.value!r}")
                value = found[-1]
            case "pipe":
                value = self._pipe(operand.value, dot, variables)
            case "function":
                value = self._command((operand,), (), dot, variables)
            case _:
                value = operand.value
        for name in operand.fields:
            if isinstance(value, Mapping):
                if name not in value:
                    raise TemplateFault(operand.line, f"map has no entry for key {name!r}")
                value = value[name]
                value = NO_VALUE if value is None else value
            elif isinstance(value, NoValue) or value is None:
                raise TemplateFault(operand.line, f"nil data; no entry for key {name!r}")
            else:
                raise TemplateFault(operand.line, f"can't evaluate field {name} in type {_type(value)}")
        return value


# --- values as Go has them -----------------------------------------------------------------------------------------------


def truth(value: Any) -> bool:
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


def _type(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}")


def _index(collection: Any, *keys: Any) -> Any:
    for key in keys:
        match collection:
            case Mapping():
                if not isinstance(key, str):
                    raise ValueError(f"value has type {_type(key)}; should be string")
                collection = collection.get(key, NO_VALUE)
            case list() | str():
                if not isinstance(key, int) or isinstance(key, bool):
                    raise ValueError(f"cannot index slice/array with type {_type(key)}")
                if not 0 <= key < len(collection):
                    raise ValueError(f"index out of range: {key}")
                collection = ord(collection[key]) if isinstance(collection, str) else collection[key]
            case _:
                nothing = isinstance(collection, NoValue)
                raise ValueError("index of untyped nil" if nothing else f"can't index item of type {_type(collection)}")
    return collection


def _slice(collection: Any, *bounds: Any) -> Any:
    if not isinstance(collection, (str, list)) or not all(isinstance(bound, int) for bound in bounds):
        raise ValueError(f"can't slice item of type {_type(collection)}")
    first, last = (*bounds, *(0, len(collection))[len(bounds) :])[:2]
    if not 0 <= first <= last <= len(collection):
        raise ValueError(f"index out of range: {last}")
    return collection[first:last]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, Mapping)):
        return len(value)
    raise ValueError(f"len of type {_type(value)}" if not isinstance(value, NoValue) else "len of nil pointer")


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
        raise ValueError(f"wrong type for value; expected string; got {_type(form)}")
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
        text += f"%!(EXTRA {', '.join(f'{_type(value)}={printed(value)}' for value in rest)})"
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
    return f"%!{verb}({_type(value)}={printed(value)})"


_FUNCTIONS: dict[str, Callable[..., Any]] = {
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
