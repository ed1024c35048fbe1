"""The command line helps, and reports what a user got wrong in one line."""

import subprocess
import sys

import pytest

import internimage
from internimage.tasks import cli

pytestmark = pytest.mark.once

TASK_COMMANDS = [f"{name} {task}" for name, row in cli.COMMANDS.items() for task in getattr(row, "tasks", ())]


@pytest.mark.parametrize("command", ["", *cli.COMMANDS, *TASK_COMMANDS])
def test_help_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command.split(), "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    words = command.removeprefix("predict classification") or ("predict" if command else "demo")
    assert f"examples:\n  internimage {words}" in text


WRONG = ["", "fly", "demo --fast", "predict", "train", "train flying", "eval classification", "demo --epochs many"]


@pytest.mark.parametrize("argv", [words.split() for words in WRONG])
def test_wrong_usage_exits_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert "usage: internimage" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"internimage {internimage.__version__}\n"


def test_a_users_error_is_one_line_without_a_traceback(capsys):
    assert cli.main(["demo", "--epochs", "0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "internimage: error: --epochs must be at least 1, got 0\n"


@pytest.mark.parametrize("argv", [["--debug", "demo", "--epochs", "0"], ["demo", "--epochs", "0", "--debug"]])
def test_debug_raises_the_error(argv):
    with pytest.raises(ValueError, match="--epochs"):
        cli.main(argv)


def test_the_environment_can_ask_for_debugging(monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_DEBUG", "1")
    with pytest.raises(ValueError, match="--epochs"):
        cli.main(["demo", "--epochs", "0"])


def test_an_interruption_is_no_traceback(monkeypatch, capsys):
    def interrupt(*, build: bool) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("internimage.doctor.report", interrupt)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_file_error_names_the_file(monkeypatch, capsys):
    def fail(*, build: bool) -> str:
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr("internimage.doctor.report", fail)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "internimage: error: /cache: Permission denied\n"


def test_an_unknown_device_is_a_users_error(capsys):
    assert cli.main(["demo", "--device", "abacus"]) == 1
    assert "--device abacus: not available here" in capsys.readouterr().err


def test_the_doctor_reports(capsys):
    assert cli.main(["doctor"]) == 0
    assert internimage.__version__ in capsys.readouterr().out


def test_general_help_does_not_wait_for_the_commands_libraries():
    script = (
        "import sys; from internimage.tasks.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('cv2', 'matplotlib', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_traceback():
    script = "from internimage.tasks.cli import main; import sys; sys.exit(main(['doctor']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in error
