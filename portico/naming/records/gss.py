"""Kerberos signatures for DNS updates, as Active Directory wants them (GSS-TSIG, RFC 3645). Blocking.

The library (python gssapi over MIT Kerberos) is an optional part: it is imported only when a deployment uses it.
Credentials live in memory of this process and end with it.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TKEY
import dns.tsig
import dns.tsigkeyring

from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.naming.records.keys import check_keytab
from portico.settings.addresses import DnsServer

MAXIMUM_ROUNDS = 5
"""Messages in each direction until both ends have the key; Kerberos needs one."""

_GSS_TSIG = dns.name.from_text("gss-tsig.")
_GSS_MODE = 3
"""Key agreement by GSS-API (RFC 2930 section 2.5)."""


class GssSigner:
    """A key that was agreed with one DNS server. A context manager: it gives the key up at the end.

    Args:
        host: the server's full name, for its service principal DNS/host.
        principal: whose key of the keytab is used.

    Raises:
        Unavailable: code GSSAPI_MISSING, the library is not installed; GSS_TSIG_FAILED.
        NotPermitted: code KERBEROS_REFUSED; no ticket can be had.
        PorticoError: the keytab cannot be used.
    """

    def __init__(self, server: DnsServer, host: str, keytab: Path, principal: str, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        check_keytab(keytab)
        if not host:
            raise _failed(server, "its name is not known, and a Kerberos ticket is for a name")
        gssapi = _library()
        try:
            name = gssapi.Name(principal, gssapi.NameType.kerberos_principal)
            store = {"client_keytab": f"FILE:{keytab}", "ccache": f"MEMORY:{secrets.token_hex(8)}"}
            credentials = gssapi.Credentials(name=name, usage="initiate", store=store)
            target = gssapi.Name(f"DNS@{host}", gssapi.NameType.hostbased_service)
            mechanism = gssapi.MechType.kerberos
            context = gssapi.SecurityContext(name=target, creds=credentials, usage="initiate", mech=mechanism)
            self._key = self._agree(context)
        except gssapi.exceptions.GSSError as error:
            raise NotPermitted(
                f"No Kerberos ticket can be had for the DNS server {host}",
                why=str(error)[:500],
                resolution=f"Look at the account and its key: kinit -k -t {keytab} {principal}; clocks must agree",
                code="KERBEROS_REFUSED",
            ) from None

    def __enter__(self) -> GssSigner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._key

    def sign(self, message: dns.message.Message) -> None:
        """Has the message signed when it is sent, and its answer verified."""
        message.use_tsig(self._key)

    def _agree(self, context: Any) -> dns.tsig.Key:
        """The dialogue of TKEY messages (RFC 3645 section 3.1)."""
        name = dns.name.from_text(f"{secrets.randbelow(1 << 32)}.sig-{secrets.token_hex(8)}.")
        key = dns.tsig.Key(name, context, _GSS_TSIG)
        # It steps the context by the token of a signed answer before that answer is verified with it.
        keyring = dns.tsig.GSSTSigAdapter({name: key})  # type: ignore[no-untyped-call]
        token = context.step()
        for _ in range(MAXIMUM_ROUNDS):
            if token is None:
                break
            answer = self._ask(name, token, keyring)
            if context.complete:
                return key
            token = context.step(_token(answer, name))
            if context.complete and token is None:
                return key
        if not context.complete:
            raise _failed(self._server, f"no key after {MAXIMUM_ROUNDS} rounds")
        return key

    def _ask(self, name: dns.name.Name, token: bytes, keyring: Any) -> dns.message.Message:
        now = int(time.time())
        offer = dns.rdtypes.ANY.TKEY.TKEY(  # type: ignore[no-untyped-call]
            dns.rdataclass.ANY, dns.rdatatype.TKEY, _GSS_TSIG, now, now + 3600, _GSS_MODE, dns.rcode.NOERROR, token
        )
        query = dns.message.make_query(name, dns.rdatatype.TKEY, dns.rdataclass.ANY)
        query.flags = 0
        query.keyring = keyring
        section = query.additional
        query.find_rrset(section, name, dns.rdataclass.ANY, dns.rdatatype.TKEY, create=True).add(offer)
        try:
            answer = dns.query.tcp(query, str(self._server.address), timeout=self._timeout, port=self._server.port)
        except dns.exception.Timeout:
            raise _failed(self._server, f"no answer within {self._timeout:g} s") from None
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise _failed(self._server, str(error) or type(error).__name__) from None
        if answer.rcode() != dns.rcode.NOERROR:
            raise _failed(self._server, f"it answers {dns.rcode.to_text(answer.rcode())}")
        return answer


def _token(answer: dns.message.Message, name: dns.name.Name) -> bytes:
    for rrset in answer.answer:
        if rrset.name == name and rrset.rdtype == dns.rdatatype.TKEY:
            key = rrset[0]
            if key.error != dns.rcode.NOERROR:
                raise Unavailable(
                    "The DNS server refuses the key", why=f"TKEY error {key.error}", code="GSS_TSIG_FAILED"
                )
            return bytes(key.key)
    raise Unavailable("The DNS server refuses the key", why="its answer has no TKEY record", code="GSS_TSIG_FAILED")


def _library() -> Any:
    try:
        import gssapi
    except ImportError as error:
        raise Unavailable(
            "Kerberos cannot be used",
            why=f"the Python module gssapi is not there ({error})",
            resolution="Install it: apt-get install python3-gssapi, or pip install 'portico[kerberos]'",
            code="GSSAPI_MISSING",
        ) from None
    return gssapi


def _failed(server: DnsServer, why: str) -> PorticoError:
    return Unavailable(
        f"No Kerberos key can be agreed with the DNS server {server}",
        why=why,
        resolution="Check that it takes secure updates, and its service principal: setspn -L, or samba-tool spn list",
        code="GSS_TSIG_FAILED",
    )
