"""Credentials are taken out of any text; what is no credential stays."""

import urllib.parse

import pytest

from schemas.errors import UserError
from schemas.remote import filesystem
from schemas.secrets import holds_password, redacted, redacted_by_form

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/a.jsonl: no answer",
        f"ftp://user:{urllib.parse.quote(SECRET, safe='')}@host/a",
        f"https://{urllib.parse.quote(SECRET, safe='')}@host/a",
        f"https://bucket.host/a?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}%2F20260101&x=1",
        f"https://bucket.host/a?x=1&X-Amz-Security-Token={SECRET}",
        f"https://storage.host/a?X-Goog-Signature={SECRET}&X-Goog-Credential={SECRET}",
        f"https://account.host/c/a?sv=2022&sig={SECRET}&se=1",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};EndpointSuffix=e",
        f"SharedAccessSignature={SECRET}",
        f"{{'aws_secret_access_key': '{SECRET}', 'x': 1}}",
        f'{{"secret": "{SECRET}", "key": "a", "token": b"{SECRET}"}}',
        f"S3FileSystem(secret={SECRET!r}, anon=False)",
        f"Authorization: Bearer {SECRET}",
        f"Authorization: AWS4-HMAC-SHA256 Credential={SECRET}/20260101, Signature={SECRET}",
        f"x-amz-security-token: {SECRET}",
        f"access_token={SECRET}",
        f"https://user:p@ss{SECRET}@host/a: no answer",
        f"https://user:pa'ss{SECRET}@host/a",
        f"'https://user:{SECRET}\"@host/a', then",
        f"https://user:1234/{SECRET}@host/a",
        f"https://{SECRET}@{SECRET}@host/a".replace("/K7", ""),
        f"token=b{SECRET}",
        f"session token={SECRET}",
    ],
)
def test_credentials_in_text_are_hidden(text: str) -> None:
    shown = redacted(text)
    assert SECRET not in shown
    assert urllib.parse.quote(SECRET, safe="") not in shown
    assert "***" in shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_SAS_TOKEN", "FSSPEC_S3_SECRET", "FTP_PASSWORD"],
)
def test_values_of_the_environment_are_hidden_wherever_they_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    quoted = urllib.parse.quote(SECRET, safe="")
    assert redacted(f"they said ({SECRET}) and {quoted}.") == "they said (***) and ***."


def test_values_of_fsspecs_configuration_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("fsspec").config.conf, "s3", {"client_kwargs": {"aws_secret_access_key": SECRET}})
    assert redacted(f"x{SECRET}y") == "x***y"


@pytest.mark.parametrize(
    "text",
    [
        "abfs://container@account.dfs.core.windows.net/data: no such file",
        "neural:/data/meta/proxy?coder=codebook&bits=12&sha256=0123",
        "tokenizer: /cache/tokenizer.json (trained before on this corpus)",
        "s3://bucket/a b/part-00000-of-00001-01234567.parquet: 5 tokens; 12:30@noon",
        "http://host:8080/a/b; 'http://host/a:b@c', {'x': 'y@z'}",
        '{"url":"http://host:8080/a","x":"y@z"}',
        "/home/me/key=value/secret/file.py",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("text", ["token=bcdefghi", "https://user:p@ss@host", "https://us:pa'ss@host", "ftp://u:1/5@h"])
def test_nothing_of_a_credential_is_left(text: str) -> None:
    assert redacted(text) in ("token=***", "https://***@host", "ftp://***@h")


def test_what_is_hidden_by_form_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"page?token={SECRET}&n=abcdefghijkl"
    shown = redacted_by_form(text)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefghijkl")
    assert redacted_by_form(text) == shown == "page?token=***&n=abcdefghijkl"


def test_a_port_is_not_refused_as_a_password() -> None:
    assert not any(
        map(holds_password, ("http://host:8080/a@b", "http://host:80?a@b", "s3://bucket/a:b@c", "http://h:80"))
    )
    assert all(map(holds_password, ("http://u:p@h", "http://u:p@s@h/a", "http://u:p/q@h", "ftp://u:12@h")))


def test_a_password_in_a_url_is_refused_without_showing_it() -> None:
    with pytest.raises(UserError, match=r"ftp://\*\*\*@host/a: a URL must not hold a password"):
        filesystem("ftp://user:pa55word@host/a")


@pytest.mark.parametrize("name", ["key", "code", "auth", "KEY"])
def test_keys_in_queries_are_hidden_and_words_before_an_equals_sign_are_not(name: str) -> None:
    url = f"https://host/f.jsonl?alt=media&{name}=AIzaSy-0123&more=1"
    assert redacted_by_form(url) == f"https://host/f.jsonl?alt=media&{name}=***&more=1"
    assert redacted_by_form(f"/home/me/{name}=value/x") == f"/home/me/{name}=value/x"
