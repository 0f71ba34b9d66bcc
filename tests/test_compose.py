"""compose.yaml and the image, as far as they can be checked without running containers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

from taskengine.cli.app import app
from taskengine.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_the_services_are_there_and_the_two_that_scale_do() -> None:
    assert set(SERVICES) == {"postgres", "valkey", "migrate", "frontend", "proxy", "worker"}
    assert SERVICES["frontend"]["scale"] > 1
    assert SERVICES["worker"]["scale"] > 1


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_ours_exists_in_the_cli_with_its_options(name: str) -> None:
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    lines = [OURS[name]["command"]]
    if "healthcheck" in OURS[name] and OURS[name]["healthcheck"]["test"][1] == "taskengine":
        lines.append(OURS[name]["healthcheck"]["test"][2:])
    for command, *arguments in lines:
        parser = group.commands[command]
        given = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", argument) for argument in arguments]
        parser.make_context(command, given)  # raises for an option or an argument it does not take


@pytest.mark.parametrize("name", OURS)
def test_every_setting_that_is_given_exists(name: str) -> None:
    for variable in OURS[name]["environment"]:
        assert variable.removeprefix(PREFIX).lower() in Settings.model_fields


def test_no_secret_stands_in_the_file() -> None:
    for line in TEXT.splitlines():
        for name in ("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "REDISCLI_AUTH", "VALKEYCLI_AUTH"):
            found = re.search(rf"\b{name}: +(\S+)", line)
            assert not found or found[1].startswith("${"), line
    assert not re.search(r"://[^$\s]*:[^$@/\s]+@", TEXT)


def test_a_missing_secret_stops_compose() -> None:
    for name in ("POSTGRES_PASSWORD", "VALKEY_PASSWORD"):
        assert re.search(rf"\$\{{{name}:\?", TEXT)


def test_everything_that_stays_up_is_looked_after() -> None:
    for name in ("postgres", "valkey", "frontend", "worker"):
        assert SERVICES[name]["healthcheck"]["test"]
        assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES["migrate"]["restart"] == "no"


def test_nothing_starts_before_what_it_needs() -> None:
    for name in ("frontend", "worker"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert SERVICES[name]["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_a_stop_waits_longer_than_a_drain_takes() -> None:
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().drain_grace.total_seconds()
    grace = int(SERVICES["frontend"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().shutdown_grace.total_seconds()


def test_only_loopback_is_published() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_made_of_files_that_exist_and_runs_as_nobody_special() -> None:
    text = (ROOT / OURS["worker"]["build"]["dockerfile"]).read_text()
    for line in text.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert 'ENTRYPOINT ["taskengine"]' in text


def test_the_image_installs_the_versions_the_tests_run_with() -> None:
    def pinned(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9._-]+==[^ \\]+)", (ROOT / name).read_text(), re.MULTILINE))

    assert pinned("workers/requirements.txt")
    assert pinned("workers/requirements.txt") <= pinned("constraints.txt")
