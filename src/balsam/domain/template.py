"""Command templates: parse, check parameters, render.

A template is shell text written by the App's author. Each `{{ name }}` becomes exactly one quoted shell word, whatever
the value contains. Used by the service (to refuse a bad template at registration), by the launcher (to render) and by
`dry_run`. A template of plain words is also rendered to an argument vector, so that the launcher can start it without
a shell, which is several times cheaper.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from balsam.domain.envelope import is_envelope

MAX_TEMPLATE_LENGTH = 65_536

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_@%+:,./=\-\t ]*\Z")
_ASSIGNMENT_OR_PATTERN = "="
# What bash would run by itself instead of looking it up on PATH.
_SHELL_WORDS = frozenset(
    """
    . : [ [[ ! { } alias bg bind break builtin caller case cd command compgen complete compopt continue coproc
    declare dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi for function
    getopts hash help history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray
    readonly return select set shift shopt source suspend test then time times trap true type typeset ulimit
    umask unalias unset until wait while
    """.split()  # noqa: SIM905 - a list of eighty strings reads worse
)


class TemplateError(ValueError):
    """The template can't be used; the text says what to change."""


class ParameterError(ValueError):
    """The parameters do not match the template; `missing` and `extra` name them."""

    def __init__(self, message: str, missing: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing
        self.extra = extra


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A `{{ name }}` in a template."""

    name: str


@dataclass(frozen=True, slots=True)
class RenderedCommand:
    """A command line ready to run: `shell` for bash, and `argv` when it needs no shell at all."""

    shell: str
    argv: tuple[str, ...] | None


@dataclass(frozen=True)
class CommandTemplate:
    """A parsed template.

    >>> template = CommandTemplate.parse("/bin/hello.app --name={{ name }}")
    >>> template.parameters
    ('name',)
    >>> template.render({"name": "it's me"}).shell
    '/bin/hello.app --name=\\'it\\'"\\'"\\'s me\\''
    >>> template.render({"name": "it's me"}).argv
    ('/bin/hello.app', "--name=it's me")
    """

    source: str
    parts: tuple[str | Placeholder, ...]

    @classmethod
    def parse(cls, source: str) -> "CommandTemplate":
        """Parse a template. Raises TemplateError for anything but plain names, and for names inside quotes."""
        if not source.strip():
            raise TemplateError("command_template is empty; write the command to run")
        if len(source) > MAX_TEMPLATE_LENGTH:
            raise TemplateError(f"command_template has {len(source)} characters; at most {MAX_TEMPLATE_LENGTH}")
        if "\0" in source:
            raise TemplateError("command_template contains a NUL character")
        if "{%" in source or "{#" in source:
            raise TemplateError(
                "command_template has '{%' or '{#': statements and comments are not allowed, only {{ name }}; "
                "compute the value where you submit the Job"
            )
        parts = tuple(_split(source))
        _check_quoting(parts)
        return cls(source, parts)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Parameter names in the order of first use."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, Placeholder)))

    @cached_property
    def _words(self) -> tuple[tuple[str | Placeholder, ...], ...] | None:
        return _direct_words(self.parts)

    @property
    def is_direct(self) -> bool:
        """Whether the command can be started without a shell and behave the same."""
        return self._words is not None

    def render(self, parameters: Mapping[str, object]) -> RenderedCommand:
        """Fill in the parameters. Raises ParameterError naming what is missing or has no text form."""
        return self._filled_in(parameters) if self.parameters else self._constant

    @cached_property
    def _constant(self) -> RenderedCommand:
        return self._filled_in({})

    def _filled_in(self, parameters: Mapping[str, object]) -> RenderedCommand:
        missing = tuple(name for name in self.parameters if name not in parameters)
        if missing:
            raise ParameterError(f"missing parameter{'s' * (len(missing) > 1)}: {', '.join(missing)}", missing=missing)
        values = {name: value_text(name, parameters[name]) for name in self.parameters}
        shell = "".join(part if isinstance(part, str) else shlex.quote(values[part.name]) for part in self.parts)
        argv = None
        if self._words is not None:
            argv = tuple(
                "".join(piece if isinstance(piece, str) else values[piece.name] for piece in word)
                for word in self._words
            )
        return RenderedCommand(shell, argv)


def value_text(name: str, value: object) -> str:
    """The text of a parameter value.

    Strings stay as they are, numbers and booleans are as Python writes them, lists and dicts as JSON.
    """
    if value is None:
        raise ParameterError(f"parameter {name!r} is None; give a value, or an empty string for an empty argument")
    if is_envelope(value):
        raise ParameterError(
            f"parameter {name!r} is no JSON value, and a command line takes text, numbers, lists and dicts only"
        )
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    if "\0" in text:
        raise ParameterError(f"parameter {name!r} contains a NUL character, which no command line can carry")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ParameterError(f"parameter {name!r} is not valid Unicode (a lone surrogate)")
    return text


def check_parameters(
    required: frozenset[str], optional: frozenset[str], given: Mapping[str, object], app_name: str
) -> None:
    """Raises ParameterError that names every missing and every unknown parameter of a submission."""
    if required <= given.keys() <= (required | optional):
        for name, value in given.items():
            value_text(name, value)
        return
    missing = tuple(sorted(required - given.keys()))
    extra = tuple(sorted(given.keys() - required - optional))
    known = ", ".join(sorted(required | optional)) or "none"
    said = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(extra)}"] * bool(extra)
    raise ParameterError(f"parameters of App {app_name!r}: {'; '.join(said)} (it takes: {known})", missing, extra)


def _split(source: str) -> list[str | Placeholder]:
    parts: list[str | Placeholder] = []
    end = 0
    for match in _PLACEHOLDER.finditer(source):
        name = match.group(1).strip()
        if not _NAME.match(name):
            raise TemplateError(
                f"command_template: {match.group(0)!r} is not a plain parameter name; "
                "expressions and filters are not allowed, compute the value where you submit the Job"
            )
        if match.start() > end:
            parts.append(source[end : match.start()])
        parts.append(Placeholder(name))
        end = match.end()
    if end < len(source):
        parts.append(source[end:])
    for part in parts:
        if isinstance(part, str) and "{{" in part:
            raise TemplateError("command_template: '{{' without its '}}'")
    return parts


def _check_quoting(parts: tuple[str | Placeholder, ...]) -> None:
    """Refuse a placeholder where a quoted word would not stay one: in quotes, backticks, ${...}, comments, heredocs."""
    scanner = _ShellScanner()
    for part in parts:
        if isinstance(part, str):
            scanner.feed(part)
        elif scanner.context:
            raise TemplateError(
                f"command_template: {{{{ {part.name} }}}} stands inside {scanner.context}; "
                "values are quoted for you: take the placeholder out of it"
            )
        else:
            scanner.in_word = True


class _ShellScanner:
    """Follows as much of the shell's quoting as decides whether text is inside quotes."""

    def __init__(self) -> None:
        self.quote = ""
        self.in_word = False
        self.braces = 0
        self.heredoc = False
        self.escaped = False

    @property
    def context(self) -> str:
        """Where the scanner stands, in words; empty when a quoted word may be put here."""
        names = {"'": "single quotes", '"': "double quotes", "`": "backticks", "#": "a comment"}
        if self.quote:
            return names[self.quote]
        if self.escaped:
            return "a backslash escape"
        if self.heredoc:
            return "a here-document"
        return "${...}" if self.braces else ""

    def feed(self, text: str) -> None:
        previous = ""
        for char in text:
            self._step(char, previous)
            previous = char

    def _step(self, char: str, previous: str) -> None:
        if self.escaped:
            self.escaped, self.in_word = False, True
        elif self.quote == "#":
            self.quote = "" if char == "\n" else "#"
        elif self.quote == "'":
            self.quote = "" if char == "'" else "'"
        elif char == "\\":
            self.escaped = True
        elif self.quote:
            self.quote = "" if char == self.quote else self.quote
        elif char in "'\"`":
            self.quote, self.in_word = char, True
        elif char == "#" and not self.in_word:
            self.quote = "#"
        else:
            self._step_unquoted(char, previous)

    def _step_unquoted(self, char: str, previous: str) -> None:
        if char == "{" and previous == "$":
            self.braces += 1
        elif char == "}" and self.braces:
            self.braces -= 1
        elif char == "<" and previous == "<":
            self.heredoc = True
        self.in_word = char not in " \t\n;&|()<>"


def _direct_words(parts: tuple[str | Placeholder, ...]) -> tuple[tuple[str | Placeholder, ...], ...] | None:
    """The words of a command that means the same with and without a shell, or None."""
    words: list[list[str | Placeholder]] = []
    open_word = False
    for part in parts:
        if isinstance(part, Placeholder):
            if not open_word:
                words.append([])
            words[-1].append(part)
            open_word = True
            continue
        pieces = _plain_pieces(part)
        if pieces is None:
            return None
        for piece in pieces:
            if piece is None:
                open_word = False
                continue
            if not open_word:
                words.append([])
            words[-1].append(piece)
            open_word = True
    return tuple(tuple(word) for word in words) if _is_plain_program(words) else None


def _is_plain_program(words: list[list[str | Placeholder]]) -> bool:
    if not words or not all(isinstance(piece, str) for piece in words[0]):
        return False
    program = "".join(piece for piece in words[0] if isinstance(piece, str))
    return bool(program) and _ASSIGNMENT_OR_PATTERN not in program and program not in _SHELL_WORDS


def _plain_pieces(text: str) -> list[str | None] | None:
    """Literal text cut at blanks (None is a blank), quotes taken off; None when a shell would see more in it."""
    pieces: list[str | None] = []
    for index, chunk in enumerate(re.split(r"('[^'\n]*'|\"[^\"\n$`\\!]*\")", text)):
        if index % 2:
            pieces.append(chunk[1:-1])
            continue
        if not _PLAIN_TEXT.match(chunk):
            return None
        for blank in re.split(r"([ \t]+)", chunk):
            if blank.strip():
                pieces.append(blank)
            elif blank:
                pieces.append(None)
    return pieces
