"""Go's text/template as Matchbox's files use it: what Go prints, and what Go refuses."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot.registry.gotemplate import GoTemplate, TemplateFault

DATA: dict[str, Any] = {
    "name": "node1",
    "empty": "",
    "on": True,
    "off": False,
    "port": 8080.0,
    "million": 1000000.0,
    "half": 0.5,
    "keys": ["ssh-rsa A", "ssh-rsa B"],
    "none": None,
    "net": {"gateway": "10.0.0.1", "mtu": 9000.0, "dns": ["1.1.1.1"]},
    "request": {"query": {"mac": "52:54:00:12:34:56", "os": "installed"}, "raw_query": "mac=52-54&os=installed"},
    "hyphen-key": "h",
}

CASES: dict[str, tuple[str, str]] = {
    "text": ("plain {text} }}\n", "plain {text} }}\n"),
    "a field": ("{{.name}}", "node1"),
    "spaces inside": ("{{ .name }}", "node1"),
    "a chain": ("{{.net.gateway}} {{ .request.query.mac }}", "10.0.0.1 52:54:00:12:34:56"),
    "a float below int64": ("{{ -1e30 }}", "-1e+30"),
    "a number": ("{{.port}} {{.half}} {{.million}}", "8080 0.5 1e+06"),
    "a bool": ("{{.on}}", "true"),
    "a list": ("{{.keys}}", "[ssh-rsa A ssh-rsa B]"),
    "a map": ("{{.net}}", "map[dns:[1.1.1.1] gateway:10.0.0.1 mtu:9000]"),
    "a null": ("{{.none}}", "<no value>"),
    "if": ("{{if .on}}a{{end}}{{if .off}}b{{end}}", "a"),
    "if of an empty string, list or number": ("{{if .empty}}a{{else}}b{{end}}", "b"),
    "else if": ("{{if .off}}a{{else if .on}}b{{else}}c{{end}}", "b"),
    "else": ("{{if .off}}a{{else if .empty}}b{{else}}c{{end}}", "c"),
    "index finds what may be missing": ('{{if index . "nothing"}}a{{else}}b{{end}}', "b"),
    "index of a key with a hyphen": ('{{index . "hyphen-key"}}', "h"),
    "index of a list": ("{{index .keys 1}}", "ssh-rsa B"),
    "index, deep": ('{{index .net "dns" 0}}', "1.1.1.1"),
    "range over a list": ("{{range .keys}}- {{.}}\n{{end}}", "- ssh-rsa A\n- ssh-rsa B\n"),
    "range with variables": ("{{range $i, $k := .keys}}{{$i}}={{$k}};{{end}}", "0=ssh-rsa A;1=ssh-rsa B;"),
    "range with one variable": ("{{range $k := .keys}}{{$k}};{{end}}", "ssh-rsa A;ssh-rsa B;"),
    "range over a map goes by key": ("{{range $k, $v := .request.query}}{{$k}}={{$v}} {{end}}",
                                     "mac=52:54:00:12:34:56 os=installed "),
    "range over nothing": ("{{range index . `nothing`}}a{{else}}b{{end}}", "b"),
    "range over a number": ("{{range 3}}{{.}}{{end}}", "012"),
    "break and continue": ("{{range 9}}{{if eq . 1}}{{continue}}{{end}}{{if eq . 3}}{{break}}{{end}}{{.}}{{end}}", "02"),
    "with": ("{{with .net}}{{.gateway}}{{end}}{{with .empty}}x{{else}}y{{end}}", "10.0.0.1y"),
    "$ is the data everywhere": ("{{with .net}}{{$.name}}{{end}}{{range .keys}}{{$.port}}{{end}}", "node180808080"),
    "a variable": ("{{$x := .name}}{{$x}}-{{$x}}", "node1-node1"),
    "a variable within a block, set": ("{{$x := 1}}{{if .on}}{{$x = 2}}{{end}}{{$x}}", "2"),
    "a variable within a block, declared": ("{{$x := 1}}{{if .on}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
    "eq": ('{{if eq .name "node1"}}a{{end}}{{eq .name "x" "node1"}}', "atrue"),
    "ne": ('{{ne .name "x"}}', "true"),
    "and, or, not": ("{{and .on .name}} {{or .empty .name}} {{not .off}}", "node1 node1 true"),
    "and stops early": ("{{and .off .missing.deeper}}", "false"),
    "comparisons": ("{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 2 2}}", "truetruefalsetrue"),
    "len": ("{{len .keys}} {{len .name}} {{len .net}}", "2 5 3"),
    "printf": ('{{printf "%s-%d-%v-%q-%05d-%t-%x-%5s|%-5s|" .name 7 .port "a\\"b" 42 .on "hi" "r" "l"}}',
               'node1-7-8080-"a\\"b"-00042-true-6869-    r|l    |'),
    "printf of the wrong kind": ('{{printf "%d %s" .name}}', "%!d(string=node1) %!s(MISSING)"),
    "printf of too much": ('{{printf "a" 1}}', "a%!(EXTRA int=1)"),
    "printf of fractions": ('{{printf "%.2f %5.1f %g %e" 1.5 .half .million 12.0}}', "1.50   0.5 1e+06 1.200000e+01"),
    "print and println": ('{{print 1 2 "a" "b" 3}}{{println "a" 1}}', "1 2ab3a 1\n"),
    "a pipeline": ('{{.name | printf "%s.%s" "x"}} {{.keys | len | printf "%03d"}}', "x.node1 002"),
    "parentheses": ('{{if and (eq .name "node1") (not .off)}}a{{end}}{{(index .net "dns")}}', "a[1.1.1.1]"),
    "a field of parentheses": ('{{(index . "net").gateway}}', "10.0.0.1"),
    "slice": ("{{slice .name 1 3}} {{slice .keys 1}}", "od [ssh-rsa B]"),
    "html and urlquery": ("{{html \"<a href='x'>&\\\"\"}} {{urlquery \"a b&c\"}}", "&lt;a href=&#39;x&#39;&gt;&amp;&#34; a+b%26c"),
    "trimming": ("a \n {{- .name -}} \n b", "anode1b"),
    "trimming of one side": ("a \n{{- .name }} \n b", "anode1 \n b"),
    "a minus is no trim marker": ("a {{-3}}", "a -3"),
    "a comment": ("a{{/* not\n seen */}}b", "ab"),
    "a comment that trims": ("a {{- /* x */ -}} b", "ab"),
    "raw strings": ("{{`a\\n\"b\"`}}", 'a\\n"b"'),
    "escapes": ('{{"a\\tb\\x41\\u00e9\\\\"}}', "a\tbAé\\"),
    "characters and other numbers": ("{{'a'}} {{0x10}} {{1.5e3}} {{-2}}", "97 16 1500 -2"),
    "an action over several lines": ("{{if\n.on\n}}a{{end}}", "a"),
}  # fmt: skip


@pytest.mark.parametrize("template, text", CASES.values(), ids=CASES)
def test_what_go_prints(template: str, text: str) -> None:
    assert GoTemplate(template).render(DATA) == text


REFUSED: dict[str, tuple[str, int, str]] = {
    "a missing key": ("a\n{{.missing}}", 2, "map has no entry for key 'missing'"),
    "a missing key, deeper": ("{{.net.missing}}", 1, "map has no entry for key 'missing'"),
    "a missing query parameter": ("{{.request.query.uuid}}", 1, "map has no entry for key 'uuid'"),
    "a field of text": ("{{.name.first}}", 1, "can't evaluate field first in type string"),
    "a field of nothing": ("{{.none.x}}", 1, "nil data; no entry for key 'x'"),
    "numbers of two kinds": ("{{eq .port 8080}}", 1, "error calling eq: incompatible types for comparison"),
    "a comparison of lists": ("{{eq .keys .keys}}", 1, "error calling eq: non-comparable types"),
    "a comparison with nothing": ("{{eq 1}}", 1, "error calling eq: missing argument for comparison"),
    "an order of bools": ("{{lt true false}}", 1, "error calling lt: invalid type for comparison"),
    "an index beyond": ("{{index .keys 2}}", 1, "error calling index: index out of range: 2"),
    "an index of another kind": ('{{index .keys "a"}}', 1, "error calling index: cannot index slice/array with type string"),
    "an index of a number": ("{{index .port 1}}", 1, "error calling index: can't index item of type float64"),
    "an index of nothing": ("{{index .none 1}}", 1, "error calling index: index of untyped nil"),
    "a key that is no text": ("{{index .net 1}}", 1, "error calling index: value has type int; should be string"),
    "len of a number": ("{{len 3}}", 1, "error calling len: len of type int"),
    "a slice of a number": ("{{slice 3 1}}", 1, "error calling slice: can't slice item of type int"),
    "a slice beyond": ("{{slice .name 9}}", 1, "error calling slice: index out of range: 5"),
    "printf of no text": ("{{printf 3}}", 1, "error calling printf: wrong type for value; expected string; got int"),
    "arguments that are too few": ("{{not}}", 1, "wrong number of args for not"),
    "a range over text": ("{{range .name}}{{end}}", 1, "range can't iterate over node1"),
    "an argument for a value": ("{{1 | .name}}", 1, "can't give argument to non-function"),
    "a variable that is not there": ("{{if .on}}{{$x := 1}}{{end}}{{$x}}", 1, "undefined variable '$x'"),
    "a variable that is set and not there": ("{{$x = 1}}", 1, "undefined variable '$x'"),
}


@pytest.mark.parametrize("template, line, what", REFUSED.values(), ids=REFUSED)
def test_what_go_refuses_when_it_renders(template: str, line: int, what: str) -> None:
    compiled = GoTemplate(template)
    with pytest.raises(TemplateFault) as raised:
        compiled.render(DATA)
    assert (raised.value.line, raised.value.what) == (line, what)


FAULTS: dict[str, tuple[str, int, str]] = {
    "an open action": ("a\n{{.name", 2, "the action is not closed with }}"),
    "an open block": ("\n{{if .a}}", 2, "{{if}} without {{end}}"),
    "an end too many": ("{{end}}", 1, "{{end}} without a beginning"),
    "an else too many": ("{{range .a}}{{else}}{{else}}{{end}}", 1, "{{range}} without {{end}}"),
    "an unknown function": ("{{toUpper .a}}", 1, "function 'toUpper' not defined"),
    "define": ('{{define "a"}}{{end}}', 1, "{{define}} is not supported"),
    "template": ('{{template "a"}}', 1, "{{template}} is not supported"),
    "break without a loop": ("{{break}}", 1, "{{break}} outside {{range}}"),
    "an empty action": ("{{}}", 1, "missing value for command"),
    "an empty command": ("{{.a | }}", 1, "missing value for command"),
    "an argument of no function": ("{{.a .b}}", 1, "only a function takes arguments"),
    "an open parenthesis": ("{{(.a}}", 1, "unclosed left paren"),
    "a parenthesis too many": ("{{.a)}}", 1, "unexpected )"),
    "a sign that is none": ("{{.a ; .b}}", 1, "unexpected ';'"),
    "a comma": ("{{.a, .b}}", 1, "unexpected ','"),
    "an open string": ('{{"a}}', 1, "unexpected '\"'"),
    "an integer of 5,000 digits": ("\n{{ " + "9" * 5000 + " }}", 2, "the number 99999999999999999999 is too large"),
    "an integer beyond int64": ("{{ -0x8000000000000001 }}", 1, "the number -0x8000000000000001 is too large"),
    "a float beyond float64": ("{{ 1e999 }}", 1, "the number 1e999 is too large"),
    "a bad escape": ('{{"\\q"}}', 1, 'bad string "\\q"'),
    "else with something": ("{{if .a}}{{else range .b}}{{end}}", 1, "unexpected 'range' after else"),
    "too deep": ("{{if 1}}" * 200, 1, "blocks are nested more than 100 deep"),
    "too many parentheses": ("{{" + "(" * 200 + "1" + ")" * 200 + "}}", 1, "parentheses are nested more than 100 deep"),
}


@pytest.mark.parametrize("template, line, what", FAULTS.values(), ids=FAULTS)
def test_what_go_refuses_when_it_compiles(template: str, line: int, what: str) -> None:
    with pytest.raises(TemplateFault) as raised:
        GoTemplate(template)
    assert (raised.value.line, raised.value.what) == (line, what)


PIECES = [
    "{{",
    "}}",
    "{{-",
    "-}}",
    "if ",
    "range ",
    "end",
    "else",
    ".name",
    ".keys",
    "$x",
    ":=",
    "|",
    "(",
    ")",
    '"a"',
    " ",
    "\n",
    "eq ",
    "1",
]


@pytest.mark.slow
@settings(deadline=None)  # a busy machine is no fault of the code
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=100))
def test_any_text_is_a_template_or_a_fault(source: str) -> None:
    try:
        GoTemplate(source).render(DATA)
    except TemplateFault as fault:
        assert fault.what
