"""Writes records by DNS updates (RFC 2136), signed with a shared key (RFC 8945) or Kerberos (RFC 3645). Blocking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from portico.errors import InvalidInput, NotPermitted, PorticoError, Unavailable
from portico.naming.records.gss import GssSigner
from portico.naming.records.keys import read_tsig_key
from portico.naming.records.plan import RecordChange
from portico.settings.addresses import DnsServer
from portico.settings.location import CorporateDns

TIMEOUT = 5.0
MAXIMUM_CHANGES = 500
"""Records in one update; a deployment has a handful."""

Sign = Callable[[dns.message.Message], None]


def write(section: CorporateDns, zone: str, server: DnsServer, host: str, changes: Sequence[RecordChange]) -> bool:
    """Sends changes as one update, which the server carries out whole or not at all.

    Args:
        host: the DNS server's name, which Kerberos needs.

    Returns:
        Whether the answer could be verified. Samba up to at least 4.17 signs its answers to Kerberos updates in a way
        that no client can verify (nsupdate says "tsig verify failure"); what it did then shows only in its records.

    Raises:
        NotPermitted: code DNS_UPDATE_REFUSED; the server does not let this key change these names.
        Unavailable: code DNS_UPDATE_FAILED; it does not answer, or whether it did so is not known.
        PorticoError: the key cannot be used.
    """
    if len(changes) > MAXIMUM_CHANGES:
        raise InvalidInput("The DNS update is too large", why=f"{len(changes)} records; {MAXIMUM_CHANGES} at most")
    message = build(zone, changes, section.ttl_seconds)
    if section.update == "tsig":
        assert section.key_file is not None
        _sign_tsig(message, Path(section.key_file))
        _exchange(message, server)
        return True
    if section.update == "gss-tsig":
        assert section.keytab is not None and section.principal is not None
        with GssSigner(server, host, Path(section.keytab), section.principal, TIMEOUT) as signer:
            signer.sign(message)
            try:
                _exchange(message, server)
            except _Unverified:
                return False
            return True
    raise NotPermitted(
        "DNS records are not written by Portico",
        why="corporate_dns.update is none",
        resolution="Set it to tsig or gss-tsig, or enter the records by hand: portico dns records",
        code="DNS_UPDATE_NOT_CONFIGURED",
    )


class _Unverified(Unavailable):
    """There is an answer, and its signature is wrong."""

    code = "DNS_UPDATE_FAILED"


def build(zone: str, changes: Sequence[RecordChange], ttl: int) -> dns.update.UpdateMessage:
    """The update message, unsigned: deletions of single records, then additions."""
    message = dns.update.UpdateMessage(dns.name.from_text(zone))
    for change in changes:
        name = dns.name.from_text(change.name)
        if change.action == "delete":
            message.delete(name, change.record, change.value)
        else:
            message.add(name, ttl, change.record, change.value)
    return message


def _sign_tsig(message: dns.message.Message, path: Path) -> None:
    key = read_tsig_key(path)
    message.use_tsig(dns.tsig.Key(dns.name.from_text(key.name), key.secret, dns.name.from_text(key.algorithm)))


def _exchange(message: dns.message.Message, server: DnsServer) -> None:
    """By TCP: a signed update by UDP that is lost may have been carried out."""
    where = f"The DNS server {server}"
    try:
        answer = dns.query.tcp(message, str(server.address), timeout=TIMEOUT, port=server.port)
    except dns.tsig.PeerError as error:
        raise _refused(where, _peer_error(error)) from None
    except dns.tsig.BadSignature:
        raise _Unverified(
            f"{where} did not prove that it took the records",
            why="the signature of its answer is wrong: it may be somebody else's",
            resolution="'portico dns check' shows what it has",
        ) from None
    except dns.exception.Timeout:
        raise _failed(where, f"no answer within {TIMEOUT:g} s") from None
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise _failed(where, str(error) or type(error).__name__) from None
    code = answer.rcode()
    if code in (dns.rcode.REFUSED, dns.rcode.NOTAUTH):
        raise _refused(where, f"it answers {dns.rcode.to_text(code)}")
    if code != dns.rcode.NOERROR:
        raise _failed(where, f"it answers {dns.rcode.to_text(code)}")
    if not answer.had_tsig:
        raise _failed(where, "its answer is not signed, so it may be somebody else's")


def _peer_error(error: dns.tsig.PeerError) -> str:
    reasons = {
        "PeerBadKey": "it does not know the key",
        "PeerBadSignature": "the key's secret is another one there",
        "PeerBadTime": "its clock and this machine's differ by more than five minutes",
    }
    return reasons.get(type(error).__name__, str(error) or type(error).__name__)


def _refused(where: str, why: str) -> NotPermitted:
    return NotPermitted(
        f"{where} does not let Portico write the records",
        why=why,
        resolution="Allow the key or the account to change these names (BIND: update-policy; Active Directory: "
        "security of the records), or enter them by hand: portico dns records",
        code="DNS_UPDATE_REFUSED",
    )


def _failed(where: str, why: str) -> PorticoError:
    return Unavailable(
        f"{where} did not take the records",
        why=why,
        resolution="It is tried again by itself; look at the server's log, or name another one in "
        "corporate_dns.update_server",
        code="DNS_UPDATE_FAILED",
    )
