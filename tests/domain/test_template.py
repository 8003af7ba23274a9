"""Templates: what is refused, and that every value arrives as exactly the one argument it is.

The round trip goes through real bash and, where the template allows it, through the argument vector that starts a
program without a shell; both must carry the same words.
"""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam.domain.template import (
    MAX_TEMPLATE_LENGTH,
    CommandTemplate,
    ParameterError,
    TemplateError,
    check_parameters,
    value_text,
)

REFUSED = [
    ("", "empty"),
    ("   \n", "empty"),
    ("x" * (MAX_TEMPLATE_LENGTH + 1), "characters"),
    ("echo \0", "NUL"),
    ("{% if x %}", "not allowed"),
    ("{# note #}", "not allowed"),
    ("echo {{ a + b }}", "plain parameter name"),
    ("echo {{ a | upper }}", "plain parameter name"),
    ("echo {{ a.b }}", "plain parameter name"),
    ("echo {{}}", "plain parameter name"),
    ("echo {{ 7 }}", "plain parameter name"),
    ("echo {{ name", "without its"),
    ("echo '{{ name }}'", "single quotes"),
    ('echo "{{ name }}"', "double quotes"),
    ('echo "a {{ name }} b"', "double quotes"),
    ("echo `ls {{ name }}`", "backticks"),
    ("echo ${HOME:-{{ name }}}", r"\$\{\.\.\.\}"),
    ("echo # {{ name }}", "a comment"),
    ("echo \\{{ name }}", "backslash"),
    ("cat <<EOF\n{{ name }}\nEOF", "here-document"),
]


@pytest.mark.parametrize(("source", "said"), REFUSED)
def test_what_could_break_out_is_refused_with_the_fix(source: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        CommandTemplate.parse(source)


@pytest.mark.parametrize(
    "source",
    [
        "/bin/hello.app --name={{ name }}",
        "cd /tmp && ./run {{ name }} > out.txt 2>&1",
        "./run {{ name }}; ./post 'it is' \"done\"",
        "echo a#{{ name }}",
        "(./a {{ name }}) | tee log",
        "echo 'single' {{ name }} \"double\"",
        "echo ${HOME} {{name}}",
    ],
)
def test_shell_text_of_the_author_is_kept(source: str) -> None:
    template = CommandTemplate.parse(source)
    assert template.parameters == ("name",)
    shell = template.render({"name": "x"}).shell
    assert "{{" not in shell
    assert shell == source.replace("{{ name }}", "x").replace("{{name}}", "x")


@pytest.mark.parametrize(
    ("source", "direct"),
    [
        ("/bin/echo {{ x }}", True),
        ("./run a 'b c' \"d\" --x={{ x }}/y", True),
        ("echo {{ x }}", False),
        ("./run {{ x }}{{ y }}", True),
        ("{{ x }} now", False),
        ("cd {{ x }}", False),
        ("exec ./run {{ x }}", False),
        ("A=1 ./run {{ x }}", False),
        ("./run {{ x }} > out", False),
        ("./run {{ x }} && ./b", False),
        ("./run $HOME {{ x }}", False),
        ("./run *.txt", False),
        ("./run ~/x", False),
        ("./run {a,b}", False),
        ("./run {{ x }}\n./b", False),
        ('./run "$x"', False),
        ("./run a\\ b", False),
    ],
)
def test_only_plain_commands_start_without_a_shell(source: str, direct: bool) -> None:
    assert CommandTemplate.parse(source).is_direct is direct


def test_missing_and_unknown_parameters_are_all_named() -> None:
    with pytest.raises(ParameterError, match="missing: a, b; unknown: x, y") as error:
        check_parameters(frozenset("ab"), frozenset("c"), {"x": 1, "y": 2}, "hello")
    assert error.value.missing == ("a", "b")
    assert error.value.extra == ("x", "y")
    assert "it takes: a, b, c" in str(error.value)
    check_parameters(frozenset("ab"), frozenset("c"), {"a": 1, "b": [1]}, "hello")
    with pytest.raises(ParameterError, match="missing parameters: a, b"):
        CommandTemplate.parse("echo {{ a }} {{ b }}").render({})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        ("", ""),
        (3, "3"),
        (2.5, "2.5"),
        (True, "True"),
        ([1, "a"], '[1, "a"]'),
        ({"k": None}, '{"k": null}'),
    ],
)
def test_values_have_one_text(value: object, text: str) -> None:
    assert value_text("p", value) == text


@pytest.mark.parametrize(
    ("value", "said"), [(None, "is None"), ("a\0", "NUL"), ("\ud800", "Unicode"), ("ok\udfff", "Uni")]
)
def test_values_without_a_text_are_refused(value: object, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        value_text("p", value)
    with pytest.raises(ParameterError, match=said):
        check_parameters(frozenset("p"), frozenset(), {"p": value}, "hello")


# The round trip: a program that writes its arguments, each ended by NUL, to standard output.
PRINT_WORDS = 'import os, sys\nos.write(1, b"".join(os.fsencode(w) + b"\\0" for w in sys.argv[1:]))'
NASTY = st.text(
    st.one_of(
        st.sampled_from("'\"`$(){}[]<>|&;*?~#!\\ \t\n\r-=%éß漢😀{{}}"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=20,
)
PER_RUN = 50
RUNS = 200  # x PER_RUN = 10,000 values each way


def words_of(argv: list[str]) -> list[str]:
    done = subprocess.run(argv, capture_output=True, check=True)
    return [word.decode() for word in done.stdout.split(b"\0")[:-1]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("template") / "words.py"
    path.write_text(f"#!{sys.executable} -SIE\n{PRINT_WORDS}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_values_arrive_as_one_argument_each_through_bash_and_directly(program: str) -> None:
    names = [f"p{number}" for number in range(PER_RUN)]
    source = program + "".join(f" --v={{{{ {name} }}}}" for name in names)
    template = CommandTemplate.parse(source)
    count = 0

    @settings(max_examples=RUNS, deadline=None, database=None)
    @given(st.lists(NASTY, min_size=PER_RUN, max_size=PER_RUN))
    def round_trip(values: list[str]) -> None:
        nonlocal count
        rendered = template.render(dict(zip(names, values, strict=True)))
        expected = [f"--v={value}" for value in values]
        assert rendered.argv is not None
        assert list(rendered.argv) == [program, *expected]
        assert words_of(["bash", "-c", rendered.shell]) == expected
        assert words_of(list(rendered.argv)) == expected
        count += PER_RUN

    round_trip()
    assert count >= RUNS * PER_RUN


@pytest.mark.parametrize(
    "source",
    [
        "#P# {{ a }} x{{ b }}y {{ a }}{{ b }}",
        "#P# 'one word' {{ a }} \"two words\" {{ b }}",
        "true && #P# {{ a }} '' {{ b }} | cat",
        'X={{ a }}; #P# "$X" {{ b }}',
    ],
)
@pytest.mark.parametrize("a", ["", "it's", "$(reboot)", "a\nb", "*", "{{ b }}", "-n", "\\", "😀 ü"])
def test_bash_and_direct_start_agree_in_every_position(program: str, source: str, a: str) -> None:
    rendered = CommandTemplate.parse(source.replace("#P#", program)).render({"a": a, "b": "B b"})
    through_bash = words_of(["bash", "-c", rendered.shell])
    assert a in "".join(through_bash)
    if rendered.argv is not None:
        assert words_of(list(rendered.argv)) == through_bash
    else:
        assert source.startswith(("true", "X="))


def test_a_command_without_parameters_is_the_same_for_all() -> None:
    template = CommandTemplate.parse("/bin/echo 'a b'  c")
    assert template.render({}) is template.render({"not": "asked for"})
    assert template.render({}).argv == ("/bin/echo", "a b", "c")
