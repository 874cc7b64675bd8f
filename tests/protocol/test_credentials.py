"""Who a request says that it comes from."""

from __future__ import annotations

import ast
import base64
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._protocol import credentials
from anyws._protocol.credentials import (
    Passwords,
    basic_credentials,
    bearer_token,
    challenge,
    check_realm,
)
from anyws._protocol.http import Headers


def headers(*values: str) -> Headers:
    return Headers.decode([(b"Authorization", value.encode("latin-1")) for value in values])


def basic(credentials: bytes, scheme: str = "Basic") -> Headers:
    return headers(f"{scheme} {base64.b64encode(credentials).decode()}")


# --- Basic ---


@pytest.mark.parametrize(
    ("given", "name", "password"),
    [
        (b"ada:s3cret", b"ada", b"s3cret"),
        (b"ada:", b"ada", b""),
        (b":s3cret", b"", b"s3cret"),
        (b"ada:a:b:", b"ada", b"a:b:"),
        ("josé:contraseña".encode(), "josé".encode(), "contraseña".encode()),
        (b"jos\xe9:\xff", b"jos\xe9", b"\xff"),
    ],
)
def test_basic_credentials_are_cut_at_the_first_colon(given, name, password):
    assert basic_credentials(basic(given)) == (name, password)
    assert basic_credentials(basic(given, "BASIC")) == (name, password)
    assert basic_credentials(basic(given, "basic ")) == (name, password)


@pytest.mark.parametrize("value", ["Bearer x", 'Digest username="a", realm="b"', "Negotiate YII=="])
def test_another_scheme_is_no_basic_authorization(value):
    assert basic_credentials(headers(value)) is None
    assert basic_credentials(headers()) is None


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["Basic YTpi", "Basic YTpi"], "several Authorization headers"),
        (["Bearer x", "Basic YTpi"], "several Authorization headers"),
        ([""], "is malformed"),
        (["Basic"], "is malformed"),
        (["Basic "], "is malformed"),
        (["Basic YTpi YTpi"], "is malformed"),
        (["Basic YTpi, Basic YTpi"], "is malformed"),
        (["Basic\tYTpi"], "is malformed"),
        (["Basic YT\tpi"], "is malformed"),
        (["Basic,x YTpi"], "is malformed"),
        (["Basic YTp"], "not in base64"),
        (["Basic YTpiYg"], "not in base64"),
        (["Basic YTpiYh=="], "not in base64"),
        (["Basic YTpi="], "not in base64"),
        (["Basic YTp-"], "not in base64"),
        (["Basic YWI="], "no colon"),
        (["Basic YTpiCg=="], "control character"),
        (["Basic AGE6Yg=="], "control character"),
    ],
)
def test_what_is_malformed_is_refused_and_not_shown(values, why):
    with pytest.raises(ValueError, match=why) as caught:
        basic_credentials(headers(*values))
    assert "YTp" not in str(caught.value)


@given(st.binary(max_size=60))
def test_any_header_is_credentials_or_a_value_error(data):
    value = "Basic " + data.decode("latin-1")
    for read in (basic_credentials, bearer_token):
        try:
            read(headers(value))
        except ValueError:
            pass


@pytest.mark.parametrize("read", [basic_credentials, bearer_token])
def test_the_longest_header_there_can_be_is_read_at_once(read):
    for filler in (" ", "a", "=", "a=", "-"):
        for scheme in ("Basic", "Bearer"):
            try:
                read(headers(f"{scheme} {filler * 8000}!"))
            except ValueError:
                pass


# --- Bearer ---


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("Bearer   abc", "abc"),
        ("Bearer a-._~+/b==", "a-._~+/b=="),
        ("Basic YTpi", None),
    ],
)
def test_a_bearer_token_is_what_stands_behind_its_scheme(value, token):
    assert bearer_token(headers(value)) == token


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer a b", "Bearer a,b", "Bearer =a", "Bearer \xe9"]
)
def test_a_malformed_token_is_refused(value):
    with pytest.raises(ValueError, match="is malformed"):
        bearer_token(headers(value))


# --- Passwords ---


def test_only_the_right_password_of_a_name_has_an_owner():
    """V20."""
    passwords = Passwords({"ada": "s3cret", "josé": "contraseña", "raw": b"\xff", "empty": ""})
    assert passwords.owner(b"ada", b"s3cret") == "ada"
    assert passwords.owner("josé".encode(), "contraseña".encode()) == "josé"
    assert passwords.owner(b"raw", b"\xff") == "raw"
    assert passwords.owner(b"empty", b"") == "empty"
    for name, password in [
        (b"ada", b"S3cret"),
        (b"ada", b"s3cret "),
        (b"ada", b""),
        (b"ada", "contraseña".encode()),
        (b"Ada", b"s3cret"),
        (b"bob", b"s3cret"),
        (b"", b""),
        (b"\xff", b"\xff"),
    ]:
        assert passwords.owner(name, password) is None


def test_passwords_are_compared_as_bytes_in_constant_time_and_for_a_stranger_as_well():
    """V20."""
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(inspect.getsource(Passwords.owner).lstrip()))
        if isinstance(node, ast.Call)
    ]
    assert calls.count("hmac.compare_digest") == 1
    # No other comparison, and no way around that one.
    source = ast.parse(inspect.getsource(Passwords.owner).lstrip())
    assert not [n for n in ast.walk(source) if isinstance(n, (ast.Compare, ast.If, ast.BoolOp))]
    assert len(credentials.Passwords({"a": "b"})._decoy) == 32


def test_no_password_is_kept():
    passwords = Passwords({"ada": "s3cret"})
    assert "s3cret" not in repr(vars(passwords))
    # Nor a digest that could be looked up: the key is another each time.
    assert Passwords({"ada": "s3cret"})._digests != passwords._digests


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({1: "x"}, TypeError, "a name must be a str, not int"),
        ({"a": 5}, TypeError, "a password must be str or bytes, not int"),
        ({"a:b": "x"}, ValueError, "has a colon"),
        ({"a": "x\n"}, ValueError, "control character"),
        ({"a\0": "x"}, ValueError, "control character"),
    ],
)
def test_what_nobody_could_say_is_the_caller_s_fault(given, error, why):
    with pytest.raises(error, match=why):
        Passwords(given)


# --- The challenge ---


def test_a_challenge_names_its_realm_and_quotes_it():
    assert challenge("Basic", "a b", charset="UTF-8") == 'Basic realm="a b", charset="UTF-8"'
    assert challenge("Bearer", 'say "\\"') == r'Bearer realm="say \"\\\""'


@pytest.mark.parametrize("realm", ["a\r\nX: y", "a\0", "é", "\x7f"])
def test_a_realm_that_cannot_stand_in_a_header_is_the_caller_s_fault(realm):
    """V23."""
    with pytest.raises(ValueError, match="realm must be printable ASCII"):
        check_realm(realm)
    with pytest.raises(TypeError, match="realm must be a str, not int"):
        check_realm(5)
    assert check_realm('the "back" room') == 'the "back" room'


def test_how_many_have_a_password_is_known():
    assert len(Passwords({})) == 0
    assert len(Passwords({"ada": "s3cret", "bob": ""})) == 2
