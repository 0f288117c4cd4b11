# ruff: noqa: E501 - a table of sentences reads best unbroken
"""Every configuration problem is one line: file, line, key path, what would be right, what is there."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from failover.config.load import load, load_listen_admin, parse
from failover.errors import ConfigurationError

PRIMARY = "primary: {web: {url: http://127.0.0.1:8042}}\n"


def problems(text: str, *, archive_alone: bool = False) -> list[str]:
    """What is wrong with `text`, a file called f.yaml."""
    with pytest.raises(ConfigurationError) as caught:
        parse(dedent(text), name="f.yaml", folder=Path("/nowhere"), archive_alone=archive_alone)
    assert all(line.isprintable() for line in caught.value.problems), "one line each"
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("listen: {web: {port: 80800}}", "listen.web.port: must be 1 to 65535, is 80800"),
        ("listen: {web: {port: 0}}", "listen.web.port: must be 1 to 65535, is 0"),
        ("listen: {web: {port: -1}}", "listen.web.port: must be 1 to 65535, is -1"),
        ("listen: {web: {port: 80.5}}", "listen.web.port: must be a whole number, is 80.5"),
        ("listen: {web: {port: [80]}}", "listen.web.port: must be a whole number, is a list"),
        ("listen: {web: {port: {a: b}}}", "listen.web.port: must be a whole number, is a block of keys"),
        ("listen: {web: {port: null}}", "listen.web.port: must not be null; left out it has its default"),
        ("listen: {web: 80}", "listen.web: must be a block of keys, is 80"),
        ("listen: {web: [1]}", "listen.web: must be a block of keys, is a list"),
        ("listen: {web: {prot: 80}}", "listen.web.prot: unknown key"),
        ("listen: {web: {host: http://x}}", "listen.web.host: must be a name or an address alone, is http://x"),
        ("listen: {web: {host: 300.1.1.1}}", "listen.web.host: must be a name or an address alone, is 300.1.1.1"),
        ("listen: {web: {max_connections: 0}}", "listen.web.max_connections: must be at least 1, is 0"),
        ("listen: {web: {max_head_bytes: 1B}}", "listen.web.max_head_bytes: must be at least 1024B, is 1B"),
        (
            "listen: {web: {max_head_bytes: 64}}",
            "listen.web.max_head_bytes: must be a size such as 64MiB or 1.2TB, is 64",
        ),
        (
            "listen: {web: {trusted_proxies: 10.0.0.1}}",
            "listen.web.trusted_proxies: must be a list such as [a, b], is 10.0.0.1",
        ),
        ("listen: {dicom: {artim: 40s}}", "listen.dicom.artim: must be at most 10s, is 40s"),
        ("listen: {dicom: {artim: 0s}}", "listen.dicom.artim: must be more than 0s, is 0s"),
        (
            "listen: {dicom: {ae_title: A_TITLE_FAR_TOO_LONG}}",
            "listen.dicom.ae_title: must have 1 to 16 characters, has 20 (an AE title)",
        ),
        (
            "listen: {dicom: {ae_title: 'A\\B'}}",
            "listen.dicom.ae_title: must be ASCII without backslash and control characters (an AE title)",
        ),
        ("listen: {dicom: {ae_title: ' '}}", "listen.dicom.ae_title: must have 1 to 16 characters, has 0 (an AE title)"),
        (
            "archive: {compression: zip}",
            "archive.compression: must be none, jpeg-lossless, jpeg-ls or htj2k, is zip",
        ),
        ("archive: {retention: {days: 0}}", "archive.retention.days: must be at least 1, is 0"),
        ("archive: {move_destinations: any}", "archive.move_destinations: must be a block of keys, is any"),
        ("archive: {move_destinations: {W: {host: h}}}", "archive.move_destinations.W.port: must be given"),
        (
            "archive: {move_destinations: {SEVENTEEN_LETTERS: {host: h, port: 1}}}",
            "archive.move_destinations.SEVENTEEN_LETTERS: must have 1 to 16 characters, has 17 (an AE title)",
        ),
        ("policy: {fail_after: 5}", "policy.fail_after: must be a duration such as 200ms, 5s, 10m, 2h or 7d, is 5"),
        ("policy: {fail_after: -5s}", "policy.fail_after: must be a duration such as 200ms, 5s, 10m, 2h or 7d, is -5s"),
        ("policy: {together: maybe}", "policy.together: must be true or false, is maybe"),
        ("policy: {failback: later}", "policy.failback: must be auto or manual, is later"),
        ("health: fast", "health: must be a block of keys, is fast"),
        ("health: {rise: x}", "health.rise: must be a whole number, is x"),
        ("health: {web: {status: 99}}", "health.web.status: must be a status or a range such as 200 or 200-399, is 99"),
        ("health: {web: {status: 400-200}}", "health.web.status: must be a range from low to high, is 400-200"),
        (
            "health: {web: {method: GET, body_pattern: '('}}",
            "health.web.body_pattern: must be a regular expression"
            " (missing ), unterminated subpattern), is (",
        ),
        ("health: {web: {body_pattern: ok}}", "health.web.body_pattern: needs method: GET, a body comes with nothing else"),
        ("health: {web: {json_value: ok}}", "health.web.json_value: needs json_pointer: where it should stand"),
        ("site: ''", "site: must be text, is empty"),
        ('site: "a\\nb"', "site: must be one line of printable text"),
        ("state_dir: [a]", "state_dir: must be a path, is a list"),
        ("access: {dicom: all}", "access.dicom: must be any, or AE titles with their networks such as "
         "{CT1: [10.1.2.0/24]}, is all"),
        ("access: {dicom: [CT1]}", "access.dicom: must be any, or AE titles with their networks such as "
         "{CT1: [10.1.2.0/24]}, is a list"),
        ("access: {dicom: {CT1: 10.0.0.1}}", "access.dicom.CT1: must be a list such as [a, b], is 10.0.0.1"),
        ("access: {dicom: {CT1: [10.0.0.0/40]}}", "access.dicom.CT1.0: must be an address or a network such as "
         "10.1.2.0/24, is 10.0.0.0/40"),
        ("access: {dicom: {}}", "access.dicom: names no AE title, so nobody could connect (`any` must be written out)"),
        ("access: {dicom: {CT1: []}}", "access.dicom.CT1: has no network, so nobody could connect under this AE title"),
        ("access: {web: {addresses: [here]}}", "access.web.addresses.0: must be an address or a network such as "
         "10.1.2.0/24, is here"),
        ("backup: other", "backup: must be embedded, or a block like primary, is other"),
        ("backup: [a]", "backup: must be embedded, or a block like primary, is a list"),
        ("backup: {}", "backup: must have web, dicom or both"),
        ("backup: {web: {url: nothing}}", "backup.web.url: must be http://host:port or https://host:port, is nothing"),
        ("backup: {dicom: {host: h, port: 1}}", "backup.dicom.ae_title: must be given"),
        ("backup: {web: {url: http://h/pacs}}", "backup.web.url: must be scheme, host and port alone "
         "(its URL space is the callers'), is http://h/pacs"),
        ("nonsense: 1", "nonsense: unknown key"),
        (f"site: {'x' * 70}", "site: must have at most 64 characters, has 70"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_sentence(line: str, sentence: str) -> None:
    assert problems(PRIMARY + line) == [f"f.yaml:2: {sentence}"]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
        listen:
          web: {host: 0.0.0.0, port: 80800}
          dicom:
            max_associations: 0
          admin: {host: 10.0.0.1}
        primary:
          dicom: {host: pacs, port: 104}
        policy: {fail_after: soon, together: 2}
        archive: {dicom: {host: "::"}}
        backup: {nope: 1}
    """
    assert [line.split(": ", 2)[:2] for line in problems(text)] == [
        ["f.yaml:2", "listen.web.host"],
        ["f.yaml:2", "listen.web.port"],
        ["f.yaml:4", "listen.dicom.max_associations"],
        ["f.yaml:5", "listen.admin.host"],
        ["f.yaml:7", "primary.dicom.ae_title"],
        ["f.yaml:8", "policy.fail_after"],
        ["f.yaml:8", "policy.together"],
        ["f.yaml:10", "backup.nope"],
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "f.yaml:1: primary: must be given: web, dicom or both"),
        ("# nothing\n", "f.yaml:1: primary: must be given: web, dicom or both"),
        ("primary:\n", "f.yaml:1: primary: must be given: web, dicom or both"),
        ("site: x\nprimary: {}\n", "f.yaml:2: primary: must have web, dicom or both"),
        ("primary: {dicomweb: {path: /x}}", "f.yaml:1: primary: must have web, dicom or both"),
        ("- a\n- b\n", "f.yaml:1: file: must be a mapping of keys such as `primary:`"),
        ("primary", "f.yaml:1: file: must be a mapping of keys such as `primary:`"),
        ("a: [1\nb: 2\n", "f.yaml:2: file: not YAML: expected ',' or ']', but got ':'"),
        ("primary:\n\tweb: x\n", "f.yaml:2: file: not YAML: a tab indents this line: use spaces"),
        ("a: \x00\n", "f.yaml:1: file: not YAML: the character 0x00 is not allowed"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: file: not YAML: but found another document"),
        ("a: *nobody\n", "f.yaml:1: file: not YAML: found undefined alias 'nobody'"),
        ("a: &a [*a]\n", "f.yaml:1: file: nested too deeply, or far too long for a configuration"),
        ("[" * 5000, "f.yaml:1: file: nested too deeply for a configuration"),
    ],
)
def test_a_file_that_is_no_configuration(text: str, sentence: str) -> None:
    assert problems(text) == [sentence]


def test_aliases_of_aliases_end_soon() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10))
    (line,) = problems(f"l0: &l0 [x]\n{levels}\n")
    assert "far too long" in line


def test_yaml_oddities_mean_what_they_say() -> None:
    text = """\
        site: no
        listen:
          web:
          dicom: {port: 011112, ae_title: ON}
        base: &door {host: localhost}
        primary: {dicom: {host: 1.2.3.4, port: 0104, ae_title: 007}}
        """
    assert problems(text) == ["f.yaml:5: base: unknown key"]
    configuration = parse(
        dedent(text).replace("base: &door {host: localhost}\n", ""), name="f", folder=Path()
    )
    assert configuration.site == "no"
    assert configuration.listen.web.port == 8080
    assert (configuration.listen.dicom.port, configuration.listen.dicom.ae_title) == (11112, "ON")
    assert configuration.primary is not None
    assert configuration.primary.dicom is not None
    assert (configuration.primary.dicom.port, configuration.primary.dicom.ae_title) == (104, "007")


def test_an_anchor_may_be_used_again() -> None:
    text = """\
        primary: {dicom: {host: &pacs pacs.example, port: 104, ae_title: A}, web: {url: "http://pacs.example"}}
        backup: {dicom: {host: *pacs, port: 105, ae_title: B}}
        """
    configuration = parse(dedent(text), name="f", folder=Path())
    assert configuration.backup_upstream.dicom is not None
    assert configuration.backup_upstream.dicom.host == "pacs.example"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("site: a\nsite: b\n", "f.yaml:2: site: is given twice, first on line 1"),
        (
            "listen: {web: {port: 1},\n web: {port: 2}}\n",
            "f.yaml:2: listen.web: is given twice, first on line 1",
        ),
        ("site: !secret x\n", "f.yaml:1: site: the tag !secret is not known here"),
        ("<<: {site: x}\n", "f.yaml:1: file: merge keys (<<) are not known here: write the keys out"),
        ("? [a, b]\n: c\n", "f.yaml:1: file: a key must be plain text"),
    ],
)
def test_what_yaml_offers_and_a_configuration_never_needs(text: str, sentence: str) -> None:
    assert problems(text + PRIMARY) == [sentence]


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "failover.yaml"
    path.write_text("\ufeff" + PRIMARY, encoding="utf-8")
    configuration = load(path)
    assert configuration.state_dir == tmp_path / "data"
    assert configuration.archive.data_dir == tmp_path / "data/archive"
    path.write_text(PRIMARY + "state_dir: /var/lib/failover\n")
    assert load(path).archive.data_dir == Path("/var/lib/failover/archive")
    for content, expected in [
        (b"site: x\nsite: \xe4\n", "failover.yaml:2: file: not UTF-8 at byte 14"),
        (PRIMARY.encode("utf-16"), "failover.yaml:1: file: not UTF-8 at byte 0"),
        (b"#" * (2**20 + 1), f"{path}: has more than 1 MiB: no configuration"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert caught.value.problems == [expected]
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load(tmp_path)


def test_listen_admin_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "failover.yaml"
    path.write_text("primary: nonsense\nlisten:\n  web: {port: 99999}\n  admin: {port: 9999}\n")
    assert load_listen_admin(path).port == 9999
    path.write_text("primary: nonsense\n")
    assert load_listen_admin(path).port == 9470
    path.write_text("listen:\n  admin:\n    port: 99999\n")
    with pytest.raises(ConfigurationError) as caught:
        load_listen_admin(path)
    assert caught.value.problems == ["failover.yaml:3: listen.admin.port: must be 1 to 65535, is 99999"]
    path.write_text("listen: [")
    with pytest.raises(ConfigurationError, match="not YAML"):
        load_listen_admin(path)
