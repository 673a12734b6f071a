"""Jinja as operators may use it: templates compiled, kept in their bounds, and every error told with template, line and name.

Templates are the operator's, and run in Jinja's sandbox; an undefined name is an error, never an empty string.  A template
that would print without end or turn in circles is stopped: one answer may cost a daemon neither its memory nor its time.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import CodeType
from typing import Any
from urllib.parse import urlsplit

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.bccache import Bucket
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pixieboot.errors import OperatorError

BUILT_IN = "pixieboot/"  # templates of ours; an operator's template of the same name takes its place
LARGEST = 8 << 20  # characters of one rendered text
TURNS = 100_000  # of all loops of one rendering: a tenth of a second
LONGEST_CLIENT_VALUE = 64
IPXE_OPERATORS = ("||", "&&", ";")  # as words of their own they end a command
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")

_HOSTILE = re.compile(r"[^A-Za-z0-9._:-]")
_AT_EDGES = re.compile(r"^[-:]|:$")  # would begin an option, or a list or key of YAML
_MARKUP = re.compile(r"\{[{%#]")
_BITS = 4096  # of a number that `**` makes


class RenderError(OperatorError):
    """A template that cannot be rendered.  str() tells the operator all; short is for the machine's screen."""

    @property
    def short(self) -> str:
        return f"pixieboot: {self.where}: {self.what}"


# --- what may stand in a script ------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """A value from the wire as it may stand in a script, on a kernel's command line, in JSON and in YAML."""
    return _AT_EDGES.sub("_", _HOSTILE.sub("_", text[:LONGEST_CLIENT_VALUE]))


def screen(text: str) -> str:
    """Text for `echo` and `item`: one line, no settings expanded, no word that ends the command."""
    text = CONTROL.sub(" ", text).replace("${", "$ {")
    return " ".join(f"'{word}'" if word in IPXE_OPERATORS or word.startswith("#") else word for word in text.split())


def _grub_word(text: str) -> str:
    """One word of a GRUB command: quoted where GRUB would read more than a word."""
    return text if re.fullmatch(r"[A-Za-z0-9_./:=,@%+-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _grub_url(url: str) -> str:
    """http://HOST:PORT/PATH as GRUB writes it: (http,HOST:PORT)/PATH; a path stays one below $root.  No HTTPS, no %xx."""
    if url.startswith("/"):
        return _grub_word(url)
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise jinja2.UndefinedError(f"GRUB cannot fetch {url}: it speaks http only\nPut the file below assets.")
    return _grub_word(f"(http,{parts.netloc}){parts.path}" + (f"?{parts.query}" if parts.query else ""))


# --- bounds --------------------------------------------------------------------------------------------------------------


class _Spent:
    """What one rendering has used up so far."""

    __slots__ = ("characters", "turns")

    def __init__(self) -> None:
        self.turns = self.characters = 0

    def turn(self) -> None:
        self.turns += 1
        if self.turns > TURNS:
            raise jinja2.TemplateRuntimeError(f"its loops turn more than {TURNS} times\nLet it loop over less.")

    def printed(self, count: int) -> None:
        self.characters += count
        if self.characters > LARGEST:
            raise jinja2.TemplateRuntimeError(f"it prints more than {LARGEST >> 20} MiB\nServe a file that large below assets.")


_spent: ContextVar[_Spent] = ContextVar("spent")


@jinja2.pass_context
def _turns(context: jinja2.runtime.Context, values: Any) -> Iterator[Any]:
    """The values of a `for`, counted."""
    spent = _spent.get()
    for value in values:
        spent.turn()
        yield value


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if numbers and abs(numbers[-1] - numbers[0]) // abs(numbers.step) >= TURNS:
        raise jinja2.TemplateRuntimeError(f"a range of more than {TURNS} numbers\nTake a shorter one.")
    return numbers


def _finalize(value: Any) -> Any:
    """What {{ }} prints: never Python's own words for what is no value."""
    if value is None:
        raise jinja2.UndefinedError("this value is empty (null)\nGive it a value, or a stand-in with `| default('…', true)`.")
    if callable(value) and not isinstance(value, jinja2.Undefined):
        raise jinja2.UndefinedError("this is a function, not a value\nCall it, as in url('ignition').")
    if isinstance(value, str) and (spent := _spent.get(None)):
        spent.printed(len(value))
    return value


# --- the sandbox ---------------------------------------------------------------------------------------------------------


class Names(dict[str, Any]):
    """A mapping that templates know by name, so that a message can say `vars.role`."""

    def __init__(self, _title: str, _values: Mapping[str, Any]) -> None:
        super().__init__(_values)
        self._title = _title


class _Undefined(jinja2.StrictUndefined):
    """Says what was looked for where, and what comes nearest."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, where = self._undefined_name, self._undefined_obj
        if self._undefined_hint:
            return self._undefined_hint
        if not isinstance(where, dict):
            return super()._undefined_message
        title = f"{where._title}.{name}" if isinstance(where, Names) else str(name)
        near = difflib.get_close_matches(str(name), list(map(str, where)), 1, 0.6)
        return f"{title} is not defined\n" + (f"Did you mean {near[0]!r}?" if near else "")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with no way out of the values it is given.  Data come before methods: vars.items is the variable of that name."""

    intercepted_binops = frozenset(["*", "**"])

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Multiplication that stays in bounds."""
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _BITS:
            raise jinja2.TemplateRuntimeError(f"{operator} makes a number of more than {_BITS} bits\nCalculate with less.")
        for one, times in ((left, right), (right, left)):
            if operator == "*" and isinstance(times, int) and isinstance(one, (str, list, tuple)) and len(one) * times > LARGEST:
                raise jinja2.TemplateRuntimeError(f"{operator} makes more than {LARGEST >> 20} MiB\nRepeat it less often.")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every loop counts its turns: a range of ranges would else never end, and print nothing."""
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_turns", [], [], None, None, lineno=loop.iter.lineno)
        template.set_environment(self)
        return template


class _Compiled(jinja2.BytecodeCache):
    """What templates were compiled to, by name: each edit of the registry makes new Templates, and seldom of new texts."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, CodeType | None]] = {}  # key -> checksum of the text, code

    def load_bytecode(self, bucket: Bucket) -> None:
        checksum, code = self._known.get(bucket.key, ("", None))
        if checksum == bucket.checksum:
            bucket.code = code

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._known[bucket.key] = bucket.checksum, bucket.code


_compiled = _Compiled()


def _sandbox(loader: jinja2.BaseLoader | None) -> _Sandbox:
    sandbox = _Sandbox(
        loader=loader,
        bytecode_cache=_compiled,
        undefined=_Undefined,
        finalize=_finalize,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    sandbox.filters |= {"screen": screen, "grub": _grub_word, "grub_url": _grub_url, "_turns": _turns}
    sandbox.globals["range"] = _range
    return sandbox


_PACKAGE = jinja2.PackageLoader("pixieboot")
_SYNTAX = _sandbox(None)  # compiles, and looks nothing up


class Templates:
    """The compiled templates of one inventory."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self._sandbox = _sandbox(jinja2.FunctionLoader(self._load))
        self._strings: dict[str, jinja2.Template] = {}
        self._calls: dict[str, bool] = {}

    def _load(self, name: str) -> tuple[str, str, Callable[[], bool]] | None:
        if (text := self.texts.get(name)) is not None:
            return text, f"templates/{name}", lambda: True
        if name.startswith(BUILT_IN):
            try:
                text, _, _ = _PACKAGE.get_source(self._sandbox, name.removeprefix(BUILT_IN))
            except jinja2.TemplateNotFound:
                return None
            return text, f"templates/{name} (built in)", lambda: True
        return None

    def calls_secret(self, name: str) -> bool:
        """Does this template, or one that it takes in by a fixed name, ask for a secret?"""
        if (known := self._calls.get(name)) is None:
            self._calls[name] = False  # a template that includes itself
            found = self._load(name)
            try:
                known = found is not None and (
                    bool(secrets_of(found[0])) or any(self.calls_secret(other) for _, other in references(found[0]))
                )
            except jinja2.TemplateSyntaxError:  # it cannot be rendered either
                known = False
            self._calls[name] = known
        return known

    def render(self, name: str, names: Mapping[str, Any]) -> str:
        """A template by its name.  Raises RenderError, or what a name that it called raised as OperatorError."""
        where = f"templates/{name}"
        try:
            template = self._sandbox.get_template(name)
            return _rendered(template, names)
        except OperatorError:
            raise
        except Exception as error:  # whatever an expression of the operator's may raise
            raise _error(error, where) from error

    def value(self, text: str, names: Mapping[str, Any], where: str, title: str) -> str:
        """A text that may hold expressions.  title and where: what it is and where it stands, for the RenderError."""
        if not has_markup(text):
            return text
        try:
            template = self._strings.get(text)
            if template is None:
                code = self._sandbox.compile(text, _VALUE, _VALUE)
                template = jinja2.Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))
                self._strings[text] = template
            return _rendered(template, names)
        except OperatorError:
            raise
        except Exception as error:
            raise _error(error, where, f"{title}: ") from error


def _rendered(template: jinja2.Template, names: Mapping[str, Any]) -> str:
    token = _spent.set(_Spent())
    try:
        text = template.render(names)
        _Spent().printed(len(text))  # what it prints of itself counts too
        return text
    finally:
        _spent.reset(token)


_VALUE = "<value>"
_REFERENCES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_latest: list[Templates] = []


def templates_of(texts: Mapping[str, str]) -> Templates:
    """The compiled templates of an inventory; those of the last two are kept (one in force, one being looked at)."""
    for known in _latest:
        if known.texts is texts:
            return known
    _latest.insert(0, Templates(texts))
    del _latest[2:]
    return _latest[0]


# --- what the registry asks at load --------------------------------------------------------------------------------------


def syntax_fault(text: str) -> tuple[int, str] | None:
    """(line, what) of the first syntax error of a template; None if it can be compiled."""
    try:
        _SYNTAX.compile(text)
    except jinja2.TemplateSyntaxError as error:
        return error.lineno, (error.message or "syntax error").rstrip(".")
    return None


def references(text: str) -> list[tuple[int, str]]:
    """(line, name) of every template that this one includes, imports or extends by a fixed name."""
    found = []
    for node in _SYNTAX.parse(text).find_all(_REFERENCES):
        named = getattr(node, "template", None)
        if isinstance(named, nodes.Const) and isinstance(named.value, str) and not getattr(node, "ignore_missing", False):
            found.append((node.lineno, named.value))
    return found


def secrets_of(text: str) -> list[tuple[int, str | None]]:
    """(line, name) of every secret that a template asks for; None for a name that only shows when it is rendered."""
    found: list[tuple[int, str | None]] = []
    for call in _SYNTAX.parse(text).find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "secret":
            first = call.args[0] if call.args else None
            found.append((call.lineno, first.value if isinstance(first, nodes.Const) and isinstance(first.value, str) else None))
    return found


def built_in_names() -> list[str]:
    return [f"{BUILT_IN}{name}" for name in _PACKAGE.list_templates()]


def has_markup(text: str) -> bool:
    return bool(_MARKUP.search(text))


def _error(error: Exception, where: str, prefix: str = "") -> RenderError:
    """What went wrong, at the template's line that the traceback tells."""
    line: int | None = None
    if isinstance(error, jinja2.TemplateSyntaxError):
        where, line = error.filename or where, error.lineno
    elif isinstance(error, jinja2.TemplateNotFound):
        mend = "Templates live below templates/ of the registry."
        return RenderError(where, f"{prefix}the template {error.name!r} does not exist", mend)
    trace = error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith("templates/"):
            where, line = file, trace.tb_lineno
        trace = trace.tb_next
    what, _, mend = str(error).partition("\n")
    if not isinstance(error, jinja2.TemplateError):
        what = f"{what} ({type(error).__name__})"
    if not mend:
        undefined = isinstance(error, jinja2.UndefinedError)
        mend = "Define it under vars of the machine, its group or the default group." if undefined else "Correct the template."
    what = re.sub(r"^'([^']*)' is undefined$", r"\1 is not defined", what)
    return RenderError(f"{where}:{line}" if line else where, f"{prefix}{what.rstrip('.')}", mend)
