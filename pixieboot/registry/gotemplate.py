"""Go's text/template, as far as Matchbox's templates use it, with Option("missingkey=error").

Fields and chains, variables, pipelines, if/else/with/range/break/continue, comments and trim markers, and the functions
and or not eq ne lt le gt ge index slice len print printf println html urlquery.  Values are those of JSON: numbers are
float64 and print as Go prints them (1000000 is 1e+06).  What is not here (define, template, block, methods) is said when a
template is compiled, not when a machine waits for it.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pixieboot.registry.govalues import FUNCTIONS, NO_VALUE, NoValue, printed, truth, type_name

Functions = Mapping[str, Callable[..., Any]]

_NONE: Functions = {}
DEEPEST = 100  # levels of blocks or parentheses
BUDGET, STEP = 4 << 20, 8  # characters that one rendering may make, and what each action counts as


class TemplateFault(Exception):
    """What is wrong with a template or its data, and on which line of the template."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line, self.what = line, what


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
                value = _number(token)
            case "word" if token.text in ("true", "false"):
                value = token.text == "true"
            case "word" if token.text == "nil":
                value = NO_VALUE
            case "word":
                if token.text not in self._functions and token.text not in FUNCTIONS and token.text not in ("and", "or"):
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


def _number(token: _Token) -> int | float:
    """Raises TemplateFault for what fits into neither int64 nor float64, as Go's parser does."""
    text = token.text
    number: int | float
    if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)", text):
        number = int(text, 0) if len(text) <= 20 else math.inf  # as many as -(2**63) has; Python itself reads up to 4,300
        fits = -(1 << 63) <= number < 1 << 63
    else:
        number = float(text)
        fits = math.isfinite(number)
    if not fits:
        raise TemplateFault(token.line, f"the number {text[:20]} is too large")
    return number


# --- execution -----------------------------------------------------------------------------------------------------------


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Variables(list[tuple[str, Any]]):
    """The variables of one rendering, and what it may still cost: characters made, and STEP for each action."""

    def __init__(self, data: Any) -> None:
        super().__init__([("$", data)])
        self._left = BUDGET

    def spend(self, cost: int, line: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise TemplateFault(line, "the template takes too long, or makes too much text")


class GoTemplate:
    """A compiled template."""

    def __init__(self, source: str, functions: Functions = _NONE) -> None:
        """functions: more than Go's own.  Raises TemplateFault."""
        self._functions = functions
        self._blocks = _Parser(source, functions).parse()

    def render(self, data: Mapping[str, Any]) -> str:
        """Raises TemplateFault for a missing key or anything else that Go refuses."""
        out: list[str] = []
        self._run(self._blocks, data, _Variables(data), out)
        return "".join(out)

    def _run(self, blocks: list[_Block], dot: Any, variables: _Variables, out: list[str]) -> None:
        for block in blocks:
            variables.spend(STEP + len(block.text), block.line)
            if block.kind == "text":
                out.append(block.text)
            elif block.kind == "break":
                raise _Break
            elif block.kind == "continue":
                raise _Continue
            elif block.pipe:
                self._block(block, block.pipe, dot, variables, out)

    def _block(self, block: _Block, pipe: _Pipe, dot: Any, variables: _Variables, out: list[str]) -> None:
        if block.kind == "":
            value = self._pipe(pipe, dot, variables)
            if not pipe.declared:
                out.append(printed(value))
                variables.spend(len(out[-1]), block.line)
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

    def _range(self, block: _Block, pipe: _Pipe, dot: Any, variables: _Variables, out: list[str]) -> None:
        value = self._pipe(_Pipe(pipe.commands, (), False, pipe.line), dot, variables)
        pairs: list[tuple[Any, Any]]
        match value:
            case Mapping():
                pairs = sorted(value.items())
            case list():
                pairs = list(enumerate(value))
            case int() if not isinstance(value, bool):
                variables.spend(STEP * max(value, 0), pipe.line)
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

    def _pipe(self, pipe: _Pipe, dot: Any, variables: _Variables) -> Any:
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

    def _command(self, command: tuple[_Operand, ...], final: tuple[Any, ...], dot: Any, variables: _Variables) -> Any:
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
            made = (self._functions.get(first.value) or FUNCTIONS[first.value])(*arguments, *final)
            variables.spend(len(made) if isinstance(made, str) else 0, first.line)
            return made
        except TypeError:
            raise TemplateFault(first.line, f"wrong number of args for {first.value}") from None
        except ValueError as error:
            raise TemplateFault(first.line, f"error calling {first.value}: {error}") from None

    def _operand(self, operand: _Operand, dot: Any, variables: _Variables) -> Any:
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
                raise TemplateFault(operand.line, f"can't evaluate field {name} in type {type_name(value)}")
        return value
