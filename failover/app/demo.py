"""`failover demo`: a whole tour on loopback. A stand-in primary with sample studies, and the three processes.

The stand-in is a second archive, supervised beside the others, so that it can be killed, stopped and started
again by command. Replication begins when it is filled: its first look finds all that there is. Everything
lies in one folder, made anew at each start.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Final

import aiohttp
from pydicom.dataset import Dataset

from failover.app import samples
from failover.app.supervisor import Child, Supervisor, command, supervise
from failover.clock import SystemClock
from failover.config import Configuration, load
from failover.control import ask, socket_path
from failover.durable import make_folder, write_file
from failover.errors import ConfigurationError, ControlError

MARK: Final = ".failover-demo"
_READY_WITHIN_S: Final = 60.0
_PER_REQUEST: Final = 20

_PORTS: Final = {
    "web": 8080, "dicom": 11112, "admin": 9470,
    "archive_web": 8043, "archive_dicom": 11113,
    "primary_web": 8042, "primary_dicom": 4242,
}  # fmt: skip


def configurations(port_offset: int) -> dict[str, str]:
    """Return the two files of the demo by name. `port_offset` is added to every port."""
    port = {name: number + port_offset for name, number in _PORTS.items()}
    site = {
        "site": "demo",
        "state_dir": "./state",
        "listen": {
            "web": {"port": port["web"]},
            "dicom": {"port": port["dicom"], "ae_title": "PACS"},
            "admin": {"port": port["admin"]},
        },
        "primary": {
            "web": {"url": f"http://127.0.0.1:{port['primary_web']}"},
            "dicomweb": {"path": "/dicom-web"},
            "dicom": {"host": "127.0.0.1", "port": port["primary_dicom"], "ae_title": "ORTHANC"},
        },
        "archive": {
            "data_dir": "./archive",
            "web": {"port": port["archive_web"]},
            "dicom": {"port": port["archive_dicom"], "ae_title": "MINIPACS"},
            "retention": {"min_free_bytes": "100MB"},
        },
        "policy": {"hold_down": "10s"},
    }
    primary = {
        "site": "stand-in primary",
        "state_dir": "./primary/state",
        "archive": {
            "data_dir": "./primary/archive",
            "web": {"port": port["primary_web"]},
            "dicom": {"port": port["primary_dicom"], "ae_title": "ORTHANC"},
            "retention": {"days": 36500, "min_free_bytes": "100MB"},
            "compression": "none",
        },
    }
    return {
        "failover.yaml": _yaml(site),
        "primary.yaml": "# The stand-in for the hospital's PACS: a second archive.\n" + _yaml(primary),
    }


def _yaml(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"  # JSON is YAML


def make_anew(folder: Path, port_offset: int) -> None:
    """Empty `folder` and write the configurations. Raises ConfigurationError: it holds something else."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARK).exists():
            raise ConfigurationError([f"{folder}: not a folder of an earlier demo; name another with --dir"])
        shutil.rmtree(folder)
    make_folder(folder)
    write_file(folder / MARK, b"made by failover demo, removed by the next one\n")
    for name, text in configurations(port_offset).items():
        write_file(folder / name, text.encode())


def run(folder: Path, port_offset: int = 0) -> int:
    """Run the demo in `folder` until SIGTERM or Ctrl-C. Raises ConfigurationError, PortTaken."""
    folder = folder.absolute()
    if _runs(folder):
        raise ConfigurationError([f"{folder}: a demo runs there; end it first, or name another with --dir"])
    make_anew(folder, port_offset)
    configuration = load(folder / "failover.yaml")
    stand_in = Child("primary", command("archive", folder / "primary.yaml"), ends_with="archive")

    async def after_start(supervisor: Supervisor) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            try:
                await _fill(session, configuration)
            except aiohttp.ClientError:
                _say(["the stand-in primary went away while it was filled"])
            finally:
                supervisor.start("replicator")
            await _until_copied(session, f"http://127.0.0.1:{configuration.listen.admin.port}")
        _say(what_to_try(configuration, folder))

    return supervise(
        configuration,
        folder / "failover.yaml",
        extra=[stand_in],
        later=["replicator"],
        after_start=after_start,
        hangup_ends=True,
    )


def _runs(folder: Path) -> bool:
    """Return whether a demo runs in `folder`, whose files must then stay."""
    try:
        asyncio.run(ask(socket_path(folder / "state", "supervisor"), "children"))
    except ControlError:
        return False
    return True


async def _fill(session: aiohttp.ClientSession, configuration: Configuration) -> None:
    """Store the samples on the stand-in, as soon as it answers."""
    assert configuration.primary is not None
    assert configuration.primary.web is not None
    primary = f"{configuration.primary.web.url}{configuration.primary.dicomweb_path}/studies"
    if await _until_answers(session, primary):
        stored = 0
        for batch in _batches(samples.sample_studies(_today()), _PER_REQUEST):
            boundary = "failover-demo-samples-8c1f0e6a5f2b4d77"
            parts = [
                b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n"
                for part in batch
            ]
            kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
            body = b"".join(parts) + b"--" + boundary.encode() + b"--\r\n"
            async with session.post(primary, data=body, headers={"Content-Type": kind}) as answer:
                if answer.status != 200:
                    _say([f"the stand-in took only a part of the samples: {answer.status}"])
            stored += len(batch)
            _say([f"storing sample images on the stand-in primary: {stored}"], end="\r")
        _say([f"stored {stored} sample images on the stand-in primary      "])


async def _until_answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether it answered within the time that we wait, and say so when it did not."""
    clock = SystemClock()
    until_s = clock.monotonic() + _READY_WITHIN_S
    while clock.monotonic() < until_s:
        try:
            async with session.get(url) as answer:
                if answer.status < 500:
                    return True
        except (aiohttp.ClientError, TimeoutError):
            pass  # not there yet: that is what we wait for
        await clock.sleep(0.1)
    _say([f"no answer from {url} within {_READY_WITHIN_S:.0f} s: see the log above"])
    return False


async def _until_copied(session: aiohttp.ClientSession, admin: str) -> None:
    """Wait until the router is ready and the archive holds what the stand-in holds."""
    clock = SystemClock()
    until_s = clock.monotonic() + _READY_WITHIN_S
    if not await _until_answers(session, f"{admin}/-/ready"):
        return
    while clock.monotonic() < until_s:
        async with session.get(f"{admin}/api/status") as answer:
            held = (await answer.json())["replication"]["coverage_ratio"]
        if held == 1.0:
            _say(["the archive holds a copy of each            "])
            return
        _say([f"copying them to the archive: {held or 0:.0%}"], end="\r")
        await clock.sleep(0.2)
    _say([f"not all was copied to the archive within {_READY_WITHIN_S:.0f} s: see the log above"])


def _batches(instances: Iterable[Dataset], size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for instance in instances:
        batch.append(samples.part10(instance))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _today() -> date:
    return SystemClock().wall().astimezone().date()


def what_to_try(configuration: Configuration, folder: Path) -> list[str]:
    """Return what a newcomer is told, ready to be typed."""
    web, dicom, admin = (
        configuration.listen.web.port,
        configuration.listen.dicom.port,
        configuration.listen.admin.port,
    )
    at = "" if folder == Path("demo-data").absolute() else f" --dir {folder}"
    where = "" if admin == _PORTS["admin"] else f" --admin http://127.0.0.1:{admin}"
    command = _our_name()
    tries = {
        f"{command} status --watch{where}": "",
        f"{command} demo stop-primary{at}": "the primary dies; searches go on",
        f"{command} demo start-primary{at}": "it comes back; so does the traffic, 10 s later",
        f"{command} demo stop-primary --how stop{at}": "it hangs",
        f"{command} force backup --reason upgrade --dry-run{where}": "",
        f"{command} events --follow{where}": "",
    }
    told = max(len(line) for line, what in tries.items() if what)
    return [
        "",
        "It runs. Where to look:",
        f"  status page      http://127.0.0.1:{admin}/",
        f"  viewer           http://127.0.0.1:{web}/.failover/",
        f"  DICOMweb         http://127.0.0.1:{web}/dicom-web/studies",
        f"  DICOM            127.0.0.1:{dicom}, AE title {configuration.listen.dicom.ae_title}",
        "",
        "What to try, in another terminal, in this folder:",
        *(f"  {line:{told}}   {what}".rstrip() for line, what in tries.items()),
        "",
        "Ctrl-C ends it.",
    ]


def _our_name() -> str:
    """Return what calls us from this folder: the environment of `make run` is in nobody's PATH."""
    ours = Path(sys.argv[0]).absolute()
    if ours.name != "failover":
        return f"{Path(sys.executable).name} -m failover"
    on_path = shutil.which("failover")
    if on_path is not None and Path(on_path).absolute() == ours:
        return "failover"
    here = Path.cwd()
    return str(ours.relative_to(here) if ours.is_relative_to(here) else ours)


def _say(lines: list[str], *, end: str = "\n") -> None:
    sys.stdout.write("\n".join(lines) + end)
    sys.stdout.flush()


def stop_primary(folder: Path, how: str) -> None:
    """Kill (`kill`) or stop (`stop`, SIGSTOP) the stand-in of the demo in `folder`. Raises ControlError."""
    _ask_supervisor(folder, "stop", {"name": "primary", "how": how})


def start_primary(folder: Path) -> None:
    """Let the stand-in go on, or start it again. Raises ControlError: no demo runs in `folder`."""
    _ask_supervisor(folder, "start", {"name": "primary"})


def _ask_supervisor(folder: Path, method: str, question: dict[str, str]) -> None:
    path = socket_path(folder.absolute() / "state", "supervisor")
    asyncio.run(ask(path, method, question))
