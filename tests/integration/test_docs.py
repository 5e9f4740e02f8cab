"""The documents' code runs as it stands."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dcgan_eval.cli.main import main
from dcgan_eval.records import load_record

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]


def blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a document."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.S)


def test_own_encoder(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, six_lines, factory, _ = blocks("docs/howto/own-encoder.md", "python")
    assert len([line for line in six_lines.splitlines() if line]) == 6
    exec(checkpoint, {})
    exec(six_lines, {})
    printed = capsys.readouterr().out
    (tmp_path / "mine.py").write_text(factory)
    for line in blocks("docs/howto/own-encoder.md", "sh")[0].splitlines():
        result = run(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    record = load_record("simclr.json")
    assert record.features["cached"] == [True, True]  # the same module, weights and rules, by another door
    assert record.score == float(printed)
    assert record.score > 0.9


def test_features_that_are_there_already(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = blocks("docs/howto/own-encoder.md", "python")[3]
    exec(made, {})
    given = next(block for block in blocks("docs/howto/own-encoder.md", "sh") if "--features" in block)
    for line in given.splitlines():
        result = run(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    assert load_record("given.json").score > 0.8


DOCUMENTS = ["README.md", "docs/tutorial.md", "docs/gallery.md"]
DOCUMENTS += sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/howto/*.md"))


def commands(document: str) -> list[str]:
    """Return the lines of a document's shell blocks that call this toolkit, with what a shell would fill in."""
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    lines = [line.replace(" -m dcgan_eval ", " dcgan-eval ") for line in lines]  # under torchrun
    lines = [re.sub(r"^.*?(?=dcgan-eval )", "", line) for line in lines if "dcgan-eval " in line and "pip " not in line]
    return [line.replace("$SLURM_ARRAY_TASK_ID", "1").removesuffix(')"') for line in lines]


COMMANDS = [(document, line) for document in DOCUMENTS for line in commands(document)]


@pytest.mark.parametrize(("document", "line"), COMMANDS, ids=lambda v: v[:60])
def test_every_command_in_the_documents_is_understood(
    document: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, options and values are parsed in full; what the command would do is left to its own tests."""
    done: list[str] = []
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: done.append(context.command_path))
    words = shlex.split(line, comments=True)[1:]
    result = CliRunner().invoke(main, words, prog_name="dcgan-eval")
    assert result.exit_code == 0, result.output
    assert line.startswith(done[-1])  # the group first, then the command


@pytest.mark.parametrize(
    "line",
    [
        "dcgan-eval data list",
        "dcgan-eval weights list",
        'eval "$(dcgan-eval completion bash)"',
        "dcgan-eval show records/*.json",
    ],
)
def test_what_is_quick_among_the_commands_runs(run, line: str) -> None:  # type: ignore[no-untyped-def]
    assert line in (ROOT / "docs" / "howto" / "commands.md").read_text()
    records = ROOT / "benchmarks" / "results"
    words = re.sub(r'^eval "\$\(|\)"$', "", line).replace("records/*.json", str(records / "digits.json")).split()
    assert run(*words[1:]).exit_code == 0


def test_the_command_reference_is_current() -> None:
    reference = runpy.run_path(str(ROOT / "docs" / "make_cli_reference.py"))["reference"]
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run: python docs/make_cli_reference.py"


@pytest.mark.parametrize("document", ["docs/howto/own-data.md", "docs/howto/gpu.md"])
def test_python_in_the_how_to_pages_runs(document: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for code in blocks(document, "python"):
        exec(code, {})
        assert "converged" in capsys.readouterr().out


def test_a_store_opens_in_other_programs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ("--weights", "untrained:svhn32:0", "--cache-dir", str(tmp_path))
    store = run("features", "--data", "digits", *weights).output.strip().splitlines()[-1]
    found = []
    for code in blocks("docs/feature-store.md", "python"):
        assert len([line for line in code.splitlines() if line]) == 6
        monkeypatch.setattr(sys, "argv", ["-c", store])
        exec(code, {})
        found.append(capsys.readouterr().out)
    assert found[0].startswith("(1797, 7168) float16")
    assert found[1] == "(10, 8)\n"
    assert float(found[2]) > 0.9


def test_the_fit_under_torchrun_runs(tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(blocks("docs/howto/cluster.md", "python")[0])
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "fit.py"]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    assert "converged" in done.stdout


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
            assert "://" in target or (path.parent / target).exists(), (path, target)
