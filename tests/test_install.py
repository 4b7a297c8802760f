"""install.py and its two modules, with a stand-in for pip that records its command and fails on demand."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_lora_train import installer, requirements_check
from lib_lora_train.missing_packages import missing_message, reason_for
from lib_lora_train.requirements_check import missing, pinned

ROOT = Path(__file__).parents[1]
A1111 = {"torch": "2.1.2", "transformers": "4.30.2", "numpy": "1.26.2", "Pillow": "9.5.0", "accelerate": "0.21.0"} | {
    "safetensors": "0.4.2",
    "PyYAML": "6.0.3",
    "tqdm": "4.70.1",
}
ADDED = {"diffusers": "0.31.0", "tomli": "2.5.0"}


class Launch:
    """The WebUI's `launch`. `brings` is what a pip run adds to `installed`; a text in `fails` is pip's output when it fails."""

    def __init__(self, installed: dict[str, str], skip_install: bool = False, fails: str = "") -> None:
        self.args = SimpleNamespace(skip_install=skip_install)
        self.installed, self.fails = installed, fails
        self.commands: list[str] = []
        self.constraints: list[str] = []

    def run_pip(self, command: str, desc: str) -> None:
        self.commands.append(command)
        self.constraints = Path(re.search(r'--constraint "(.+?)"', command)[1]).read_text().splitlines()
        if self.fails:
            raise RuntimeError(f"Couldn't install {desc}.\nError code: 1\nstderr: {self.fails}")
        self.installed.update((name, version) for name, version in ADDED.items() if f'"{name}' in command)

    @property
    def requested(self) -> list[str]:
        lines = map(shlex.split, self.commands)
        return [package for words in lines for package in words[words.index("--constraint") + 2 :]]


@pytest.fixture
def installed(monkeypatch):
    """The packages that importlib.metadata finds: A1111's own, on Python 3.10 without a GPU."""
    packages = dict(A1111)

    def version(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    def distributions():
        return [SimpleNamespace(metadata={"Name": name, "Version": value}) for name, value in packages.items()]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    monkeypatch.setattr(requirements_check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(requirements_check.sys, "version_info", (3, 10, 6))
    monkeypatch.setattr(installer, "_gpu_count", lambda: 0)
    monkeypatch.setattr(installer, "_import_problem", lambda packages: "")
    return packages


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(installer, "_gpu_count", lambda: 1)
    monkeypatch.setattr(installer, "_torch_has_cuda", lambda: True)


@pytest.fixture
def start(tmp_path):
    """start(launch): one start of the WebUI."""
    return lambda launch: installer.add_missing(lambda: launch, tmp_path / "memory")


class TestAddedPackages:
    def test_are_in_versions_that_fit_a1111(self, installed, start):
        launch = Launch(installed)
        start(launch)
        assert launch.requested == ["diffusers==0.31.0", "tomli"]
        assert missing() == []

    def test_leave_out_those_that_are_installed_in_any_version(self, installed, start):
        installed["diffusers"] = "0.29.2"
        launch = Launch(installed)
        start(launch)
        assert launch.requested == ["tomli"]
        assert "diffusers==0.29.2" in launch.constraints

    def test_are_in_versions_that_pip_chooses_beside_a_newer_transformers(self, installed):
        installed["transformers"] = "5.2.0"
        assert pinned(["diffusers", "accelerate"]) == ["diffusers", "accelerate"]

    def test_leave_out_tomli_if_python_reads_toml(self, installed, monkeypatch):
        monkeypatch.setattr(requirements_check.sys, "version_info", (3, 11, 0))
        assert missing() == ["diffusers"]

    def test_leave_out_one_that_is_installed_without_metadata(self, installed, monkeypatch):
        monkeypatch.setattr(requirements_check.importlib.util, "find_spec", lambda name: name == "yaml" or None)
        del installed["PyYAML"]
        assert missing() == ["diffusers", "tomli"]

    def test_never_include_the_hosts_own(self, installed, start):
        del installed["torch"], installed["numpy"]
        launch = Launch(installed)
        start(launch)
        assert {"torch", "numpy"}.isdisjoint(launch.requested)


class TestConstraints:
    def test_pin_everything_that_is_installed(self, installed, start):
        launch = Launch(installed)
        start(launch)
        assert sorted(launch.constraints) == sorted(f"{name.lower()}=={version}" for name, version in A1111.items())

    def test_pin_a_local_version_unchanged(self, installed, start):
        installed["torch"] = "2.1.2+cu121"
        launch = Launch(installed)
        start(launch)
        assert "torch==2.1.2+cu121" in launch.constraints

    @pytest.mark.parametrize(
        ("name", "version"), [(None, "1.0"), ("odd", None), ("odd", "dev-abc"), ("odd", "1.0\n-r evil")]
    )
    def test_leave_out_what_pip_cannot_parse(self, installed, start, monkeypatch, name, version):
        odd = [SimpleNamespace(metadata={"Name": name, "Version": version})]
        known = importlib.metadata.distributions()
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: odd + known)
        launch = Launch(installed)
        start(launch)
        assert len(launch.constraints) == len(A1111)

    def test_pin_the_installation_that_is_imported_if_there_are_two(self, installed, start, monkeypatch):
        shadowed = [SimpleNamespace(metadata={"Name": "TQDM", "Version": "1.0"})]
        known = importlib.metadata.distributions()
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: known + shadowed)
        launch = Launch(installed)
        start(launch)
        assert [line for line in launch.constraints if "tqdm" in line] == ["tqdm==4.70.1"]

    @pytest.mark.parametrize(
        "version",
        ["1.0", "2023.11.5", "1!2.0", "1.0a1", "1.0rc2", "1.0.post3", "1.0.dev4", "0.0.1+git.abc", "2.1.2+cu121"],
    )
    def test_accept_every_form_of_version(self, version):
        assert installer.VERSION.fullmatch(version)


class TestSecondStart:
    def test_uses_neither_pip_nor_launch_nor_torch(self, installed, tmp_path, capsys):
        installed.update(ADDED)

        def launcher():
            raise AssertionError("launch was imported")

        installer.add_missing(launcher, tmp_path / "memory")
        assert capsys.readouterr().out == ""

    def test_imports_nothing_large(self, tmp_path):
        code = (
            "import runpy, sys\n"
            f"runpy.run_path({str(ROOT / 'install.py')!r})\n"
            "from lib_lora_train.missing_packages import missing_message\n"
            "missing_message()\n"
            "print([name for name in ('torch', 'diffusers', 'peft', 'numpy', 'pip') if name in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert result.stdout.strip() == "[]"


class TestBitsandbytes:
    def test_is_added_with_cuda(self, installed, start, cuda):
        launch = Launch(installed)
        start(launch)
        assert launch.requested[-1] == "bitsandbytes==0.45.5"
        assert len(launch.commands) == 2

    def test_is_not_added_without_cuda(self, installed, start):
        launch = Launch(installed)
        start(launch)
        assert "bitsandbytes" not in " ".join(launch.requested)

    def test_that_failed_is_not_tried_again_and_the_others_stay(self, installed, start, cuda, capsys):
        installed.update(ADDED)
        start(Launch(installed, fails="ERROR: No matching distribution found for bitsandbytes"))
        assert "Only the 8-bit optimizer needs it" in capsys.readouterr().out
        again = Launch(installed)
        start(again)
        assert again.commands == []

    def test_that_failed_is_tried_again_with_another_torch(self, installed, start, cuda):
        installed.update(ADDED)
        start(Launch(installed, fails="ERROR: no"))
        installed["torch"] = "2.7.0"
        again = Launch(installed)
        start(again)
        assert again.requested == ["bitsandbytes"]

    @pytest.mark.parametrize(
        ("text", "built_for_cuda"),
        [
            ("cuda = '12.1'\nhip = None", True),
            ("cuda: Optional[str] = '12.8'\n", True),
            ("cuda: Optional[str] = None\nhip: Optional[str] = '6.0'", False),
            ("__version__ = '2.1.2+cu121'\ncuda = None", False),
        ],
    )
    def test_cuda_is_detected_by_torchs_version_file(self, tmp_path, monkeypatch, text, built_for_cuda):
        (tmp_path / "version.py").write_text(text)
        place = SimpleNamespace(locate_file=lambda name: tmp_path / "version.py")
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: place)
        assert installer._torch_has_cuda() == built_for_cuda


class TestAddedPackagesThatDoNotFit:
    """What was added can keep a WebUI from starting, if its own packages then import what does not fit them."""

    @pytest.fixture
    def commands(self, installed, monkeypatch):
        """The commands that were run. Removing a package takes it out of `installed`; diffusers cannot be imported."""
        commands: list[list[str]] = []

        def run(command):
            commands.append(command)
            for name in command[command.index("--disable-pip-version-check") + 1 :]:
                installed.pop(name)
            return SimpleNamespace(returncode=0, stderr="")

        monkeypatch.setattr(installer, "_run", run)
        monkeypatch.setattr(installer, "_import_problem", lambda packages: "diffusers: no name HybridCache")
        return commands

    def test_are_removed_again_and_nothing_else_is(self, installed, start, commands, capsys):
        start(Launch(installed))
        assert installed == A1111
        assert [command[1:4] for command in commands] == [["-m", "pip", "uninstall"]]
        assert "no name HybridCache; it was removed again" in capsys.readouterr().out

    def test_are_not_tried_again_and_the_tab_shows_why(self, installed, start, commands, tmp_path):
        start(Launch(installed))
        again = Launch(installed)
        start(again)
        assert again.commands == []
        assert "no name HybridCache" in missing_message(tmp_path / "memory")
        assert str(tmp_path / "memory") in missing_message(tmp_path / "memory")

    def test_are_tried_again_when_the_webuis_packages_have_changed(self, installed, start, commands):
        start(Launch(installed))
        installed["transformers"] = "4.48.1"
        again = Launch(installed)
        start(again)
        assert again.requested == ["diffusers==0.31.0", "tomli"]

    def test_are_removed_alone_when_only_the_optional_package_does_not_fit(
        self, installed, start, commands, cuda, monkeypatch
    ):
        def problem(packages):
            return "bitsandbytes: no CUDA" if packages == ["bitsandbytes"] else ""

        monkeypatch.setattr(installer, "_import_problem", problem)
        monkeypatch.setitem(ADDED, "bitsandbytes", "0.45.5")
        launch = Launch(installed)
        start(launch)
        assert launch.requested == ["diffusers==0.31.0", "tomli", "bitsandbytes==0.45.5"]
        assert installed == A1111 | {"diffusers": "0.31.0", "tomli": "2.5.0"}

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"diffusers": 1}', '{"diffusers": {"beside": {}}}'])
    def test_are_forgotten_if_the_file_is_damaged(self, installed, tmp_path, content):
        (tmp_path / "memory").write_text(content)
        assert reason_for("diffusers", tmp_path / "memory") == ""


class TestTheImportInAProcessOfItsOwn:
    def test_succeeds_with_packages_that_fit(self):
        assert installer._import_problem(["diffusers"]) == ""

    def test_names_the_package_and_the_reason(self, tmp_path, monkeypatch):
        (tmp_path / "odd_package.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        problem = installer._import_problem(["odd_package"])
        assert problem == "odd_package: operator torchvision::nms does not exist"

    @pytest.mark.parametrize("code", ["import os; os._exit(3)", "import os; os.abort()", "raise SystemExit('bye')"])
    def test_notices_a_package_that_ends_the_process(self, tmp_path, monkeypatch, code):
        (tmp_path / "odd_package.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        assert installer._import_problem(["odd_package"])


class TestFailures:
    @pytest.mark.parametrize(
        ("output", "words"),
        [
            (
                "WARNING: Retrying after connection broken by NewConnectionError\nERROR: No matching distribution",
                "cannot be reached",
            ),
            ("ERROR: ResolutionImpossible: for help visit", "no version fits"),
            ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
            ("error: externally-managed-environment", "managed by the system"),
            ("noise\nERROR: something new\n", "ERROR: something new"),
        ],
    )
    def test_are_printed_in_one_line_with_the_reason(self, installed, start, capsys, output, words):
        start(Launch(installed, fails=output))
        printed = capsys.readouterr().out.strip().splitlines()
        assert len(printed) == 1
        assert words in printed[0]
        assert "diffusers and tomli" in printed[0]

    def test_skip_install_is_respected(self, installed, start, capsys):
        launch = Launch(installed, skip_install=True)
        start(launch)
        assert launch.commands == []
        assert "--skip-install" in capsys.readouterr().out

    def test_of_a_pip_that_reports_success_but_installs_nothing(self, installed, start, capsys, monkeypatch):
        launch = Launch(installed)
        monkeypatch.setattr(launch, "run_pip", lambda command, desc: None)
        start(launch)
        assert "they are still missing" in capsys.readouterr().out

    def test_that_are_unexpected_do_not_stop_the_webui(self, installed, tmp_path, capsys):
        def launcher():
            raise ImportError("half a WebUI")

        installer.add_missing(launcher, tmp_path / "memory")
        assert "half a WebUI" in capsys.readouterr().out

    def test_of_a_launch_that_exits_do_not_stop_the_webui(self, installed, tmp_path, capsys):
        def launcher():
            raise SystemExit(2)

        installer.add_missing(launcher, tmp_path / "memory")
        assert "checking the packages that training needs failed" in capsys.readouterr().out

    def test_outside_a_webui_are_those_of_pip_itself(self, installed, tmp_path, capsys, monkeypatch):
        def run(command, **_):
            assert command.startswith(f'"{sys.executable}" -m pip install ')
            return SimpleNamespace(returncode=1, stdout="", stderr="ERROR: ResolutionImpossible")

        monkeypatch.setattr(installer.subprocess, "run", run)
        installer.add_missing(lambda: None, tmp_path / "memory")
        assert "no version fits" in capsys.readouterr().out


class TestMessageOfTheTab:
    def test_is_empty_when_nothing_is_missing(self, installed):
        installed.update(ADDED)
        assert missing_message() == ""

    def test_names_missing_packages_and_the_command_that_adds_them(self, installed):
        message = missing_message()
        assert "diffusers and tomli" in message
        assert f'"{sys.executable}" -m pip install diffusers==0.31.0 tomli' in message

    def test_says_when_the_webuis_own_packages_are_missing(self, installed):
        del installed["torch"]
        assert "torch" in missing_message()
        assert "pip install" not in missing_message()

    def test_explains_packages_that_do_not_work_together(self, installed, monkeypatch):
        installed.update(ADDED, diffusers="0.36.0")

        def import_module(name):
            if name == "diffusers":
                raise ImportError("cannot import name 'Cache' from 'transformers'\nmore")
            return SimpleNamespace(**dict.fromkeys(requirements_check.USED[name]))

        monkeypatch.setattr(requirements_check.importlib, "import_module", import_module)
        message = requirements_check.import_problem()
        assert "diffusers 0.36.0" in message
        assert "(cannot import name 'Cache' from 'transformers')" in message
        assert "diffusers==0.31.0" in message

    def test_is_empty_for_packages_that_work_together(self):
        assert requirements_check.import_problem() == ""
