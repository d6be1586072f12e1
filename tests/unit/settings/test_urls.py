"""URLs in settings: what every https URL must be, and what that of a page must be besides."""

from __future__ import annotations

import pytest

from portico.settings.urls import https_url, page_url


@pytest.mark.parametrize("text", ["https://203.0.113.5:8443/hook?x=1", "https://[2001:db8::5]/", " https://hooks/a "])
def test_an_https_url_stays_as_it_is_written(text: str) -> None:
    assert https_url(text) == text.strip()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTPS://WWW.Corp.Example.Net", "https://www.corp.example.net/"),
        ("https://nls.corp.example.net:443/a", "https://nls.corp.example.net/a"),
        ("https://nls.corp.example.net:62000/a/b", "https://nls.corp.example.net:62000/a/b"),
    ],
)
def test_the_url_of_a_page_is_written_in_one_way(text: str, url: str) -> None:
    assert page_url(text) == url


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "text was expected"),
        ("http://hooks.example.net/", "https://HOST"),
        ("https:///path", "https://HOST"),
        ("https://hooks.example.net:port/", "is no URL"),
        ("https://hooks.example.net:70000/", "is no URL"),
        ("https://[::1/", "is no URL"),
        ("https://user@hooks.example.net/", "secrets"),
        ("https://user:word@hooks.example.net/", "secrets"),
        ("https://@hooks.example.net/", "secrets"),
        ("https://hooks.example.net/#top", "fragment"),
        ("https://hooks.example.net/a b", "blanks"),
        ("https://hooks.example.net/\x00", "control"),
        (f"https://hooks.example.net/{'x' * 2000}", "2000"),
    ],
)
def test_what_no_https_url_is(value: object, why: str) -> None:
    for validate in (https_url, page_url):
        with pytest.raises(ValueError, match=why):
            validate(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://nls.corp.example.net/?x=1", "query"),
        ("https://203.0.113.5/", "full domain name"),
        ("https://nls/", "full domain name"),
        ("https://-nls.example.net/", "label"),
    ],
)
def test_what_no_page_has(text: str, why: str) -> None:
    assert https_url(text) == text
    with pytest.raises(ValueError, match=why):
        page_url(text)
