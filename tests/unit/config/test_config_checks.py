"""What several keys together make wrong, unsafe or unwise."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest

from failover.clock import SystemClock
from failover.config import checks
from failover.config.checks import advice
from failover.config.load import file_advice, parse
from failover.config.schema import Backup, Configuration
from failover.config.tls_files import tls_advice
from failover.credentials.password_file import set_password
from failover.errors import ConfigurationError
from tests.peers.authority import Authority


def read(text: str, *, folder: Path = Path("/nowhere"), archive_alone: bool = False) -> Configuration:
    return parse(dedent(text), name="f.yaml", folder=folder, archive_alone=archive_alone)


def problems(text: str, *, folder: Path = Path("/nowhere"), archive_alone: bool = False) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(text, folder=folder, archive_alone=archive_alone)
    return caught.value.problems


PRIMARY = "primary: {web: {url: http://127.0.0.1:8042}, dicom: {host: localhost, port: 4242, ae_title: P}}\n"


def test_the_example_of_the_contract_is_fine() -> None:
    configuration = read(PRIMARY)
    assert checks.problems(configuration) == []
    assert checks.advice(configuration) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "listen: {admin: {host: 0.0.0.0}}",
            "listen.admin.host: beyond loopback needs listen.admin.token_file",
        ),
        ("listen: {admin: {host: '::'}}", "listen.admin.host: beyond loopback needs listen.admin.token_file"),
        (
            "listen: {web: {host: 10.1.2.3}}",
            "listen.web.host: beyond loopback needs access.web: whom the archive may answer",
        ),
        (
            "listen: {dicom: {host: pacs.example}}",
            "listen.dicom.host: beyond loopback needs access.dicom (`any` must be written out)",
        ),
        ("archive: {web: {host: 10.1.2.3}}", "archive.web.host: beyond loopback needs archive.access"),
        ("archive: {dicom: {host: 10.1.2.3}}", "archive.dicom.host: beyond loopback needs archive.access"),
    ],
)
def test_a_door_beyond_loopback_needs_its_guard(line: str, sentence: str) -> None:
    assert problems(PRIMARY + line) == [f"f.yaml:2: {sentence}"]


def test_the_earliest_second_question_is_not_later_than_the_latest() -> None:
    text = f"{PRIMARY}policy: {{hedge: {{after_min: 3s}}}}\n"
    assert problems(text) == [
        "f.yaml:2: policy.hedge.after_min: must not be longer than policy.hedge.after_max"
    ]
    read(f"{PRIMARY}policy: {{hedge: {{after_min: 2s, after_max: 2s}}}}\n")


def test_a_door_with_its_guard_is_fine() -> None:
    read(PRIMARY + "listen: {web: {host: 0.0.0.0}}\naccess: {web: {addresses: [10.0.0.0/8]}}")
    read(PRIMARY + "listen: {dicom: {host: 0.0.0.0}}\naccess: {dicom: any}")
    read(PRIMARY + "archive: {web: {host: 0.0.0.0}, access: {web: {addresses: [10.0.0.0/8]}}}")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("listen: {admin: {port: 8080}}", "listen.admin.port: is the port of listen.web too: 8080"),
        ("archive: {web: {port: 8080}}", "archive.web.port: is the port of listen.web too: 8080"),
        ("archive: {dicom: {port: 11112}}", "archive.dicom.port: is the port of listen.dicom too: 11112"),
        (
            "listen: {admin: {host: localhost, port: 8080}}",
            "listen.admin.port: is the port of listen.web too: 8080",
        ),
    ],
)
def test_our_own_listeners_do_not_collide(line: str, sentence: str) -> None:
    assert problems(PRIMARY + line) == [f"f.yaml:2: {sentence}"]


def test_one_port_on_two_addresses_is_fine() -> None:
    read(PRIMARY + "listen: {admin: {host: 127.0.0.2, port: 8080}}")
    read(PRIMARY + "archive: {web: {port: 8080}}\nbackup: {web: {url: http://other}}")  # no archive then


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("primary: {web: {url: http://localhost:8080}}", "primary.web.url: is our own listen.web"),
        ("primary: {web: {url: 'http://[::1]:8043'}}", "primary.web.url: is our own archive.web"),
        (
            "primary: {dicom: {host: localhost, port: 11112, ae_title: A}}",
            "primary.dicom.port: is our own listen.dicom",
        ),
        (
            "primary: {web: {url: http://a:81}}\nbackup: {web: {url: http://a:81}}",
            "backup.web.url: is the address of primary.web.url too, a:81: primary and backup must be two"
            " systems",
        ),
    ],
)
def test_no_request_goes_round_in_a_circle(text: str, sentence: str) -> None:
    (line,) = problems(text)
    assert line.split(": ", 1)[1] == sentence


def test_another_machine_may_use_our_ports() -> None:
    read(
        "primary: {web: {url: http://pacs.example:8080}, "
        "dicom: {host: pacs.example, port: 11112, ae_title: PACS}}"
    )


def test_the_archive_alone_needs_no_primary() -> None:
    configuration = read("listen: {admin: {host: 0.0.0.0}}\n", archive_alone=True)
    assert configuration.primary is None
    assert problems("archive: {web: {host: 0.0.0.0}}", archive_alone=True) == [
        "f.yaml:1: archive.web.host: beyond loopback needs archive.access"
    ]


def test_files_that_cannot_serve_are_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    (tmp_path / "tokens").write_text("alice short\n")
    text = PRIMARY + "listen: {admin: {token_file: tokens}}\n"
    assert problems(text, folder=tmp_path) == [
        f"f.yaml:1: state_dir: must be a folder, {tmp_path}/data is none",
        f"f.yaml:2: listen.admin.token_file: {tmp_path}/tokens:"
        " line 1: the token must have at least 16 characters",
    ]
    (tmp_path / "data").unlink()
    assert problems(PRIMARY + "listen: {admin: {token_file: none}}\n", folder=tmp_path) == [
        f"f.yaml:2: listen.admin.token_file: {tmp_path}/none: cannot be read: No such file or directory"
    ]


def test_what_is_unwise_runs_and_is_told() -> None:
    configuration = read(
        PRIMARY
        + "health: {interval: 100ms, timeout: 2s}\npolicy: {fail_after: 2s}\n"
        + "listen: {dicom: {max_associations: 5}}\nreplication: {window_days: 365}\n"
    )
    assert [".".join(key) for key, _ in checks.advice(configuration)] == [
        "health.fast_interval",
        "health.timeout",
        "health.dicom.timeout",
        "listen.dicom.reserve",
        "replication.window_days",
    ]


def test_web_and_dicom_of_one_system_cannot_share_a_port() -> None:
    text = "primary: {web: {url: http://pacs:104}, dicom: {host: pacs, port: 104, ae_title: P}}\n"
    told = "is the address of primary.web.url too, pacs:104: one port speaks either HTTP or DICOM"
    assert problems(text) == [f"f.yaml:1: primary.dicom.port: {told}"]


def test_a_backup_of_another_make_is_told_what_it_costs() -> None:
    [(key, sentence)] = checks.advice(read(PRIMARY + "backup: {web: {url: http://b.example}}\n"))
    assert key == ("backup",)
    assert "reads never return by themselves" in sentence
    assert "`failover force primary --reason …`" in sentence


def test_a_token_file_that_others_can_read_is_advice(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ops 0123456789abcdef\n")
    tokens.chmod(0o640)
    configuration = read(PRIMARY + f"listen: {{admin: {{token_file: {tokens}}}}}\n")
    [(key, sentence)] = file_advice(configuration)
    assert key == ("listen", "admin", "token_file")
    assert "mode 0640" in sentence
    assert f"chmod 0600 {tokens}" in sentence
    tokens.chmod(0o600)
    assert file_advice(configuration) == []


def test_what_tls_files_make_wrong_is_told_with_key_and_cause(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, other = authority.issue("router", file="good"), authority.issue("other", file="other")
    text = f"""\
primary:
  web: {{url: "http://pacs:80", tls: {{verify: no}}}}
  dicom: {{host: pacs, port: 104, ae_title: PACS1, tls: {{ca_file: gone.pem, cert_file: good.pem}}}}
listen:
  web:
    tls:
      cert_file: {good.cert}
      key_file: {other.key}
  dicom: {{port: 2762, tls: {{port: 2762, cert_file: {good.cert}, key_file: {good.key}}}}}
"""
    with pytest.raises(ConfigurationError) as caught:
        parse(text, name="failover.yaml", folder=tmp_path)
    told = caught.value.problems
    assert any(line.startswith("failover.yaml:8: listen.web.tls.key_file:") for line in told), told
    assert any("primary.web.tls: needs an https URL" in line for line in told), told
    assert any("primary.dicom.tls.cert_file: needs key_file too" in line for line in told), told
    assert any("primary.dicom.tls.ca_file" in line and "cannot be read" in line for line in told), told
    assert any("listen.dicom.tls.port: is the port of listen.dicom too: 2762" in line for line in told), told


def test_an_expired_certificate_is_advice_not_a_refusal(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("router")
    issued.key.chmod(0o644)
    text = f"""\
primary: {{web: {{url: "https://pacs", tls: {{verify: no}}}}}}
listen: {{web: {{tls: {{cert_file: {issued.cert}, key_file: {issued.key}}}}}}}
"""
    configuration = parse(text, name="failover.yaml", folder=tmp_path)
    later = SystemClock().wall() + timedelta(days=100)
    told = {".".join(key): sentence for key, sentence in tls_advice(configuration, later)}
    assert told["listen.web.tls.cert_file"].startswith("expired on ")
    assert "every user of this machine" in told["listen.web.tls.key_file"]
    assert tls_advice(configuration, SystemClock().wall())[0][0][-1] == "key_file"
    assert ("primary", "web", "tls", "verify") in [key for key, _ in checks.advice(configuration)]


REMEMBERED = "access: {web: {remembered: {}}}\n"


@pytest.mark.parametrize(("text", "problem"), [
    ("primary: {dicom: {host: a, port: 104, ae_title: A}}\n" + REMEMBERED,
     "access.web.remembered: needs primary.web: it is its logins that are remembered"),
    ("primary: {web: {url: http://a.example}, dicomweb: {path: null}}\n" + REMEMBERED,
     "access.web.remembered: needs paths: the primary has no DICOMweb"),
    ("primary: {web: {url: http://a.example, names: [a b]}}\n",
     "primary.web.names.0: must be a name with or without a port, is a b"),
    ("primary: {web: {url: http://a.example, pass_credentials: true}}\n", "pass_credentials: "),
    ("primary: {web: {url: http://a.example}}\naccess: {web: {password_file: none}}\n",
     "none: cannot be read: No such file or directory"),
    ("primary: {web: {url: http://a.example}}\narchive: {access: {web: {remembered: {}}}}\n",
     "archive.access.web.remembered: "),
])  # fmt: skip
def test_doors_that_cannot_work(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(text, name="f.yaml", folder=tmp_path)
    assert problem in "\n".join(error.value.problems)


def test_doors_that_work(tmp_path: Path) -> None:
    set_password(tmp_path / "passwords", "anna", "correct horse")
    text = (
        "primary: {web: {url: http://a.example, names: ['PACS.internal:8443', '[fd00::1]']}}\n"
        "backup: {web: {url: http://b.example}, pass_credentials: true}\n"
        "listen: {web: {host: 0.0.0.0}}\n"
        "access: {web: {password_file: passwords, remembered: {paths: [/api/me], hold: 8h}}}\n"
    )
    configuration = parse(text, name="f.yaml", folder=tmp_path)
    assert configuration.primary is not None
    assert configuration.primary.web is not None
    assert configuration.primary.web.names == ["pacs.internal:8443", "[fd00::1]"]
    assert isinstance(configuration.backup, Backup)
    assert configuration.backup.pass_credentials
    assert "without listen.web.tls passwords cross the network in the clear" in [
        sentence for _, sentence in advice(configuration)
    ]


OIDC = PRIMARY + "access: {web: {oidc: {client_id: failover, public_url: 'https://Pacs.example', %s}}}\n"
GROUPS = "issuer: 'https://idp.example/realm', groups: [radiology]"


def test_an_identity_provider_as_it_should_be() -> None:
    configuration = read(OIDC % GROUPS)
    assert advice(configuration) == []
    oidc = configuration.access.web and configuration.access.web.oidc
    assert oidc
    assert (oidc.issuer, oidc.origin, oidc.scopes) == (
        "https://idp.example/realm", "https://pacs.example", ["openid"],
    )  # fmt: skip
    elsewhere = read((OIDC % GROUPS).replace("Pacs.example", "pacs.example:8443"))
    assert elsewhere.access.web
    assert elsewhere.access.web.oidc
    assert elsewhere.access.web.oidc.origin == "https://pacs.example:8443"
    assert read(OIDC % "issuer: 'http://127.0.0.1:8081/realm'")


@pytest.mark.parametrize(("more", "key", "sentence"), [
    ("issuer: 'http://idp.example'", "issuer", "must be https: whoever sits in between"),
    ("issuer: 'idp.example'", "issuer", "must be the https URL"),
    ("issuer: 'https://idp.example/?a=b'", "issuer", "without query and fragment"),
    (f"{GROUPS}, scopes: [profile]", "scopes", "must name openid"),
    ("issuer: 'https://idp.example', groups: []", "groups", "names no group, so nobody could log in"),
    (f"{GROUPS}, client_secret_file: secret", "client_secret_file", "cannot be read"),
    (f"{GROUPS}, ca_file: ca.pem", "ca_file", "ca.pem"),
    ("issuer: 'http://localhost:1', ca_file: ca.pem", "ca_file", "needs an https issuer"),
])  # fmt: skip
def test_an_identity_provider_that_cannot_be(more: str, key: str, sentence: str) -> None:
    found = problems(OIDC % more)
    assert len([one for one in found if f"access.web.oidc.{key}: " in one and sentence in one]) == 1, found


def test_a_door_that_is_wider_than_it_looks() -> None:
    text = (OIDC % "issuer: 'https://idp.example'").replace("https://Pacs", "http://pacs")
    assert advice(read(text)) == [
        (("access", "web", "oidc", "groups"),
         "is not given: everyone with an account at the provider may see all images"),
        (("access", "web", "oidc", "public_url"), "is http: sessions cross the network in the clear"),
    ]  # fmt: skip


@pytest.mark.parametrize(("content", "mode", "sentence"), [
    ("secret\n", 0o644, "must be for its owner alone (chmod 600), is 644"),
    ("", 0o600, "must hold the secret"),
    ("two\nlines", 0o600, "must hold the secret"), ("x" * 5000, 0o600, "must hold the secret"),
    ("secret\n", 0o600, ""),
])  # fmt: skip
def test_the_secret_of_a_client(tmp_path: Path, content: str, mode: int, sentence: str) -> None:
    (tmp_path / "secret").write_text(content)
    (tmp_path / "secret").chmod(mode)
    text = OIDC % f"{GROUPS}, client_secret_file: secret"
    if not sentence:
        assert read(text, folder=tmp_path)
    else:
        (line,) = problems(text, folder=tmp_path)
        assert sentence in line
        assert "lines" not in line
