"""What is taken of a configuration that was read again, what needs a restart, and what changes nothing."""

from __future__ import annotations

from pathlib import Path

from docs.configuration_page import key_paths
from failover.app.reload import USES, Reloader, components
from failover.config import Configuration, load
from failover.config.changes import changed, is_below, with_changes

PRIMARY = "primary: {web: {url: http://127.0.0.1:8042}}\n"


class Scene:
    """A file that is changed, and what one component takes of it."""

    def __init__(self, folder: Path, before: str, component: str = "router") -> None:
        self.file = folder / "failover.yaml"
        self.file.write_text(PRIMARY + before)
        self.taken: list[Configuration] = []
        self.reloader = Reloader(component, self.file, load(self.file))
        self.reloader.takes(self._take)

    def _take(self, configuration: Configuration) -> list[str]:
        self.taken.append(configuration)
        return []

    def write(self, text: str) -> None:
        self.file.write_text(PRIMARY + text)


async def test_what_can_change_does_and_what_cannot_is_named(tmp_path: Path) -> None:
    on = Scene(tmp_path, "policy: {hold_down: 60s}\n")
    on.write("policy: {hold_down: 5s}\nlisten: {web: {port: 9999}}\narchive: {retention: {days: 5}}\n")
    said = await on.reloader.reload()
    assert said.changed == ["policy.hold_down"]
    assert said.needs_restart == ["listen.web.port"]
    assert said.problems == []
    taken = on.taken[-1]
    assert taken.policy.hold_down == 5.0
    assert taken.listen.web.port == 8080, "what needs a restart stays as it runs"
    again = await on.reloader.reload()
    assert again.changed == []
    assert again.needs_restart == ["listen.web.port"], "it is said until it is done"


async def test_each_process_minds_its_own_keys(tmp_path: Path) -> None:
    scenes = {name: Scene(tmp_path, "", name) for name in USES}
    text = "archive: {retention: {days: 5}, compression: none}\n"
    text += "health: {rise: 5}\nreplication: {poll_every: 20s}\n"
    scenes["router"].write(text)
    said = {name: await on.reloader.reload() for name, on in scenes.items()}
    assert said["router"].changed == ["health.rise"]
    assert said["archive"].changed == ["archive.retention.days"]
    assert said["archive"].needs_restart == ["archive.compression"]
    assert said["replicator"].changed == ["archive.retention.days", "replication.poll_every"]
    assert said["router"].needs_restart == said["replicator"].needs_restart == []


async def test_a_broken_file_changes_nothing_and_says_where(tmp_path: Path) -> None:
    on = Scene(tmp_path, "")
    on.write("policy: {hold_down: soon}\n")
    said = await on.reloader.reload()
    assert said.problems[0].startswith("failover.yaml:2: policy.hold_down:")
    assert on.taken == []
    on.write("policy: {hold_down: 7s}\n")
    assert (await on.reloader.reload()).changed == ["policy.hold_down"]


async def test_half_of_a_change_that_would_leave_a_door_open_is_refused(tmp_path: Path) -> None:
    on = Scene(tmp_path, "listen: {dicom: {host: 0.0.0.0}}\naccess: {dicom: {CT1: [10.0.0.0/8]}}\n")
    on.write("listen: {dicom: {host: 127.0.0.1}}\n")
    said = await on.reloader.reload()
    assert "beyond loopback needs access.dicom" in said.problems[0]
    assert "until a restart takes listen.dicom.host" in said.problems[0]
    assert on.taken == []


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    on = Scene(tmp_path, "")
    on.write("policy: {hold_down: 5s}\n")
    assert (await on.reloader.reload(dry_run=True)).changed == ["policy.hold_down"]
    assert on.taken == []
    assert (await on.reloader.reload()).changed == ["policy.hold_down"]


async def test_replaced_files_are_looked_at_though_nothing_differs(tmp_path: Path) -> None:
    on = Scene(tmp_path, "")
    assert (await on.reloader.reload()).changed == []
    assert len(on.taken) == 1


def test_every_key_is_used_by_a_process_so_that_no_change_is_silent() -> None:
    known = {key for uses in USES.values() for key in uses.all}
    paths = [tuple(key.split(".")) for key in key_paths()]
    leaves = [path for path in paths if not any(other[: len(path)] == path != other for other in paths)]
    assert [path for path in leaves if not is_below(path, known)] == []


def test_what_is_live_is_a_key_and_used() -> None:
    keys = key_paths()
    for uses in USES.values():
        for key in uses.live:
            assert key in keys, key
            assert is_below(tuple(key.split(".")), uses.all), key


def test_a_block_that_comes_or_goes_is_one_change(tmp_path: Path) -> None:
    plain = Configuration.model_validate(
        {"primary": {"web": {"url": "http://a"}}}, context={"folder": tmp_path}
    )
    given = {"primary": {"web": {"url": "http://a"}}, "access": {"dicom": {"CT1": ["10.0.0.0/8"]}}}
    with_access = Configuration.model_validate(given, context={"folder": tmp_path})
    assert changed(plain, with_access) == [("access", "dicom")]
    assert changed(plain, plain) == []
    assert with_changes(plain, with_access, [("access", "dicom")]) == with_access


async def test_each_web_worker_reads_the_file_too(tmp_path: Path) -> None:
    before = "listen: {web: {workers: 3}}\n"
    on = Scene(tmp_path, before, "web-3")
    assert components(on.reloader.running) == ["router", "archive", "replicator", "web-2", "web-3"]
    on.write("listen: {web: {workers: 2, keep_alive: 5s}}\npolicy: {hold_down: 5s}\n")
    said = await on.reloader.reload()
    assert said.changed == ["listen.web.keep_alive"]
    assert said.needs_restart == ["listen.web.workers"]
