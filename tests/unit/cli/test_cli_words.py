"""What the command line does with words before any work: names, numbers, empty variables, remedies, imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dcgan_eval.cli import records as cli_records
from dcgan_eval.cli.main import _COMMANDS, main
from dcgan_eval.errors import DcganEvalError, unknown_name

PACKAGE = Path(__file__).parents[3] / "dcgan_eval"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), prog_name="dcgan-eval")


def walk(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, (*path, name))


OPTIONS = [(path, option) for path, command in walk() for option in command.params if isinstance(option, click.Option)]
IDS = ["-".join((*path, option.opts[-1])) for path, option in OPTIONS]


def is_number(option: click.Option) -> bool:
    kinds = option.type.types if isinstance(option.type, click.Tuple) else [option.type]
    return any(kind.name.startswith(("integer", "float")) for kind in kinds)


NUMERIC = [(path, option) for path, option in OPTIONS if is_number(option)]


def test_the_list_of_commands_says_what_each_command_says() -> None:
    context = click.Context(main)
    for name, (_, text) in _COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert text == command.get_short_help_str(limit=1_000)


def parse(path: tuple[str, ...], *words: str) -> click.Context:
    """Let a command take its words, without running it."""
    command: click.Command = main
    parent = click.Context(main, **main.context_settings)  # a command keeps the names of its help that it first had
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(parent, name) or command
    return command.make_context(path[-1] if path else "dcgan-eval", list(words), parent=parent)


@pytest.mark.parametrize(("path", "option"), NUMERIC, ids=["-".join((*p, o.opts[-1])) for p, o in NUMERIC])
def test_numbers_that_cannot_work_are_refused_at_once(path: tuple[str, ...], option: click.Option) -> None:
    for value in ("nan", "inf", "-inf", "-1", "1e400", str(2**64), "1" * 5_000, "x", "\x1b[31m", "½"):
        with pytest.raises(click.BadParameter):
            parse(path, f"{option.opts[-1]}={value}", *[value] * (option.nargs - 1))


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "a", "b", "--seed", str(2**64)),
        ("baseline", "pixels", "digits", "--tol", "0"),
        ("baseline", "pixels", "digits", "--draws", "99999999"),
        ("data", "pack", "x", "--out", "y.h5", "--size", "1000000"),
        ("svm", "digits", "--image-size", "1000000"),
    ],
    ids=" ".join,
)
def test_numbers_that_would_take_for_ever_are_refused(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=IDS)
def test_an_empty_variable_is_an_error_everywhere(path: tuple[str, ...], option: click.Option) -> None:
    if option.is_flag:
        return
    result = run(*path, option.opts[-1], "")
    assert result.exit_code == 2
    assert f"The value of {option.opts[-1]} is empty" in result.stderr


def test_an_empty_argument_is_an_error() -> None:
    assert "an argument is empty" in run("show", "").stderr
    for words in (["--weights="], ["--weights", "  "], ["--weights=\t"]):
        assert "The value of --weights is empty" in run("svm", "digits", *words).stderr


NASTY = ["\x1b[31m", "[/b]", "no/such/thing", "x" * 5_000, "../..", "--", "-", "a\nb", "%s{0}", "\udcff"]


@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=IDS)
def test_no_value_of_an_option_ends_in_a_traceback(path: tuple[str, ...], option: click.Option) -> None:
    """Up to where the command itself begins: it gets its values, or there is a sentence."""
    for value in NASTY:
        words = [option.opts[-1]] if option.is_flag else [f"{option.opts[-1]}={value}", *[value] * (option.nargs - 1)]
        try:
            parse(path, *words, "--", "x", "y")
        except click.exceptions.Exit:  # --help, --version
            pass
        except click.ClickException as error:
            assert error.exit_code == 2  # noqa: PT017


def test_debug_may_stand_anywhere() -> None:
    for words in (("--debug", "show", "none.json"), ("show", "--debug", "none.json"), ("show", "none.json", "--debug")):
        assert isinstance(run(*words).exception, DcganEvalError)
    assert run("show", "none.json").exit_code == 2
    literal = run("show", "--", "--debug")  # after -- it is the name of a file
    assert "--debug" in literal.stderr
    assert literal.exit_code == 2


def test_a_misspelt_command_names_the_closest() -> None:
    result = run("shwo")
    assert result.exit_code == 2
    assert "Did you mean show?" in result.stderr


def test_a_remedy_that_names_a_missing_option_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(remedy: str) -> Result:
        def load(path: Path) -> None:
            raise DcganEvalError("It is broken", remedy=remedy)

        monkeypatch.setattr(cli_records, "load_record", load)
        return run("verify", "r.json")

    assert "Remedy: give --data-dir" in fail("give --data-dir").stderr
    assert "Remedy: run `svm x --split train`" in fail("run `svm x --split train`").stderr  # another command's option
    wrong = fail("choose another --split").stderr
    assert "It is broken" in wrong
    assert "--split" not in wrong


def remedies() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every remedy in the package, the constant parts of f-strings joined."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "remedy":
                parts = [
                    n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                yield f"{path.relative_to(PACKAGE)}:{node.value.lineno}", " ".join(parts)


def test_every_remedy_names_options_that_exist() -> None:
    known = {name for _, option in OPTIONS for name in (*option.opts, *option.secondary_opts)}
    known |= {"--nproc-per-node"}  # torchrun's
    found = list(remedies())
    assert len(found) > 100
    wrong = [
        (place, name) for place, text in found for name in re.findall(r"--[a-z][a-z-]+", text) if name not in known
    ]
    assert wrong == []


def test_every_command_in_a_remedy_is_understood() -> None:
    """What stands in backticks after ``dcgan-eval``, or begins with a command's name, parses."""
    for _, text in remedies():
        for quoted in re.findall(r"`([^`]+)`", text):
            words = quoted.removeprefix("dcgan-eval ").split()
            if len(words) > 1 and words[0] in _COMMANDS:
                parent = click.Context(main, **main.context_settings)
                command = main.get_command(parent, words[0])
                assert command is not None
                command.make_context(words[0], words[1:], parent=parent, resilient_parsing=True)


HEAVY = {"torch", "torchvision", "sklearn", "pandas", "matplotlib", "pyarrow", "h5py", "jinja2", "scipy"}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["list", "--help"], set()),
        (["show", "none.json"], set()),
        (["list", "none.json"], set()),
    ],
    ids=" ".join,
)
def test_what_is_quick_imports_little(words: list[str], allowed: set[str]) -> None:
    code = (
        "import sys\nfrom dcgan_eval.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit: pass\n"
        f"print(*sorted(set({sorted(HEAVY)!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert set(done.stderr.splitlines()[-1].split()) == allowed


EXPERIMENTS = {"arithmetic", "forget", "guided", "neighbours", "score-digits", "score-samples", "turn", "walk"}
"""Commands whose modules are their work."""


def test_no_help_waits_for_what_a_command_works_with() -> None:
    code = (
        "import sys\nimport click\nfrom dcgan_eval.cli.main import main\nslow = {}\n"
        f"for name in [n for n in main.list_commands(click.Context(main)) if n not in {sorted(EXPERIMENTS)!r}]:\n"
        "    try:\n        main([name, '--help'])\n    except SystemExit as end: assert not end.code\n"
        "    slow[name] = {'torch', 'torchvision', 'sklearn', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "    for module in slow[name]: del sys.modules[module]\n"
        "print({name: found for name, found in slow.items() if found}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert "svm cifar10" in done.stdout
    assert done.stderr == "{}\n"


def test_a_dry_run_does_without_the_compiler(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=np.zeros((8, 32, 32, 3), np.uint8))
    words = ["train", "svhn32", "--data", str(tmp_path / "some.npz"), "--dry-run", "--batch-size", "8"]
    code = (
        "import sys\nfrom dcgan_eval.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' in sys.modules\nassert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_completing_a_command_imports_none_of_them() -> None:
    code = (
        "import sys\nfrom click.shell_completion import BashComplete\nfrom dcgan_eval.cli.main import main\n"
        "found = BashComplete(main, {}, 'dcgan-eval', 'X').get_completions([], 're')\n"
        f"print(*[c.value for c in found], *(set({sorted(HEAVY | {'rich', 'numpy'})!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == ["regress", "report"]


def test_a_misspelt_name_names_the_closest_three() -> None:
    known = [f"conv{i}" for i in range(1, 7)] + ["linear", "pool"]
    text = str(unknown_name("layer", "conv7", known, DcganEvalError))
    assert sum(name in text for name in known) == 3
    assert "linear" in str(unknown_name("layer", "zzz", known, DcganEvalError))  # nothing is close: all of them
