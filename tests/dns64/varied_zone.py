"""A zone with everything that a zone may hold, signed or not, and the questions that are asked about it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

SIX = "fd7c:1a2b:3c4d:1::"

TEXTS = "".join(f"texts TXT {' '.join(f'{number:03d}-{part}' for part in 'abcdef')}\n" for number in range(12))
UTMOST = "".join(f"utmost TXT {number:02d} {' '.join(letter * 250 for letter in 'uvwx')}\n" for number in range(63))
LONG_LABEL = "l" * 63
LONG_NAME = f"{LONG_LABEL}.{'m' * 63}.{'n' * 63}"
BODY = rf"""
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
@ NS ns2
@ MX 10 mail
@ MX 20 mail6
@ CAA 0 issue "ca.example.net; policy=ev"
@ CAA 128 tbs "unknown tag"
@ TXT "v=spf1 -all"
ns A 127.0.0.1
ns AAAA ::1
ns2 A 127.0.0.2
mail A 10.0.0.25
mail AAAA {SIX}25
mail6 AAAA {SIX}26

; Addresses.
four A 10.0.0.4
six AAAA {SIX}6
both A 10.0.0.5
both AAAA {SIX}5
mapped A 10.0.0.6
mapped AAAA ::ffff:10.0.0.6
halfmapped A 10.0.0.7
halfmapped AAAA ::ffff:10.0.0.7
halfmapped AAAA {SIX}7
zero 0 AAAA {SIX}70
week 604800 AAAA {SIX}71
{"".join(f"pool 900 A 10.1.0.{host}" + chr(10) for host in range(1, 31))}
{"".join(f"pool6 900 AAAA {SIX}1:{host:x}" + chr(10) for host in range(1, 31))}
{"".join(f"crowd AAAA {SIX}2:{host:x}" + chr(10) for host in range(1, 91))}

; Aliases.
alias CNAME both
alias4 CNAME four
alias6 CNAME six
Chain1 CNAME CHAIN2
chain2 CNAME chain3
chain3 CNAME chain4
chain4 CNAME six
dangling CNAME nowhere
barren CNAME texts
abroad CNAME host.abroad.example.
loop1 CNAME loop2
loop2 CNAME loop1
totree CNAME six.tree
toescaped CNAME a\.b\000c
towild CNAME anything.wild6
tochild CNAME www.child
tree DNAME sub
tree TXT "above the tree"
bush DNAME tree
four.sub A 10.0.0.40
six.sub AAAA {SIX}60
both.sub A 10.0.0.50
both.sub AAAA {SIX}50
alias.sub CNAME six.sub
srv.sub SRV 0 0 1 six
https.sub HTTPS 1 . alpn=h2 ipv6hint={SIX}60
odd.sub TYPE65280 \# 4 c00cffff
*.sub TXT "anything"
grove DNAME {LONG_NAME}

; Wildcards.
*.wild A 10.0.0.10
*.wild TXT "wild"
*.wild6 AAAA {SIX}10
*.wildalias CNAME both
*.wildmx MX 10 mail6
there.wild6 TXT "blocks the wildcard"
below.there2.wild6 TXT "makes an empty name, which blocks it too"
*.*.wild6 TXT "a literal asterisk"

; Names without records of their own.
a.b.empty AAAA {SIX}11

; Delegations: with glue, signed, without glue.
child NS ns.child
child NS ns2.child
ns.child A 127.0.0.3
ns.child AAAA {SIX}31
ns2.child A 127.0.0.4
kept NS ns.kept
kept DS 12345 13 2 49fd46e6c4b45c55d4ac69cbd3cd34ac1afe51de1234567890abcdef01234567
ns.kept A 127.0.0.5
gone NS ns.elsewhere.example.

; Names that need care.
a\.b\000c AAAA {SIX}100
a\.b AAAA {SIX}101
b AAAA {SIX}102
\000 AAAA {SIX}103
\255\254\128 AAAA {SIX}104
sp\032ace AAAA {SIX}105
semi\;quote\"paren\(\)at\@dollar\$back\\slash AAAA {SIX}106
\195\188ber AAAA {SIX}107
UPPER.Case AAAA {SIX}108
upper2 CNAME Upper.CASE
_under._score TXT "underscores"
1.2.3.4 TXT "digits"
\064\091\096\123 TXT "what stands beside letters"
{LONG_LABEL} AAAA {SIX}109
{LONG_NAME} AAAA {SIX}10a
xn--ber-goa AAAA {SIX}10b

; Types.
{TEXTS}
strings TXT "" "a" "" "\000\255" "quote\"d" "semi;colon"
blank TXT ""
full TXT "{"x" * 255}" "{"y" * 255}"
_ldap._tcp SRV 0 100 389 both
_ldap._tcp SRV 10 0 389 six
_sip._udp SRV 0 0 0 .
naptr NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.net!" .
naptr NAPTR 100 20 "s" "SIP+D2U" "" _sip._udp
_443._tcp TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
_443._tcp TLSA 2 0 0 00
svc SVCB 0 both
_dns SVCB 1 six alpn=dot port=853 mandatory=alpn,port
web HTTPS 1 . alpn=h2,h3 ipv4hint=10.0.0.4,10.0.0.5 ipv6hint={SIX}5 ech=AAT+DQAA
web HTTPS 2 both port=8443 key65280="opaque\000bytes" no-default-alpn alpn=h2
web A 10.0.0.44
webalias HTTPS 0 web
sshfp SSHFP 4 2 123456789abcdef67890123456789abcdef67890123456789abcdef123456789
loc LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
hinfo HINFO "amd64" "Linux"
rp RP admin texts
afsdb AFSDB 1 both
uri URI 10 1 "https://example.net/path"
cert CERT PGP 0 0 AQIDBAUG
kx KX 10 both
dhcid DHCID AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA=
eui EUI48 00-00-5e-00-53-2a
eui EUI64 00-00-5e-ef-10-00-00-2a
apl APL 1:10.0.0.0/8 !1:10.1.0.0/16 2:fd00::/8
smime SMIMEA 3 0 0 0102030405
pgp OPENPGPKEY AQIDBAUG
nid NID 10 0014:4fff:ff20:ee64
nid L32 10 10.1.2.0
nid L64 10 2001:0db8:1140:1000
nid LP 10 both
csync CSYNC 66 3 A NS AAAA
odd TYPE65280 \# 5 c00c00ffc0
odd TYPE65280 \# 0
odd TYPE731 \# 6 abcdef012345
mixed A 10.0.0.77
mixed AAAA {SIX}77
mixed MX 5 mail
mixed TXT "mixed"
mixed TYPE65280 \# 1 00

; Large: more than 512, 1232 and 4096 bytes, and nearly all that TCP carries.
{"".join(f'medium TXT "{number:02d}{"m" * 200}"' + chr(10) for number in range(4))}
{"".join(f'large TXT "{number:02d}{"l" * 200}"' + chr(10) for number in range(12))}
{"".join(f'giant TXT "{number:03d}{"g" * 240}"' + chr(10) for number in range(60))}
{UTMOST}
{"".join(f"manymx MX {number} mx{number}.exchange" + chr(10) for number in range(20))}
{"".join(f"mx{number}.exchange AAAA {SIX}3:{number:x}" + chr(10) for number in range(20))}
"""

# Asked about every name.
COMMON = ("A", "AAAA", "CNAME", "TXT", "NS", "DS", "HTTPS", "TYPE65280")
# Asked below the names of the zone as well: names that do not exist, wildcards, redirections, other servers' names.
BELOW = (
    *("", "four", "six", "alias", "wild", "wild6", "wildalias", "wildmx", "tree", "bush", "grove", "empty", "b.empty"),
    *("child", "kept", "gone", "there.wild6", "there2.wild6", "*.wild6", "\\000", "upper.case", LONG_LABEL),
)
PREFIXES = ("x", "FOUR", "six", "both", "alias", "srv", "https", "odd", "a.b", "\\000\\255", "*", "x.*")


def owners() -> dict[str, set[str]]:
    """The names of the zone's records, relative to it, and the types each has."""
    found: dict[str, set[str]] = {}
    for line in BODY.splitlines():
        if not line or line[0] in ";$":
            continue
        name, kind, *rest = line.split(" ", 2)
        if kind.isdigit():
            kind = rest[0].split(" ", 1)[0]
        found.setdefault("" if name == "@" else name, set()).add(kind)
    return found


def questions(zone: str) -> Iterator[tuple[str, str]]:
    """(name, type) of every question worth asking."""
    everything = owners()
    names = {name: {*COMMON, *kinds} for name, kinds in everything.items()}
    for name in BELOW:
        for prefix in PREFIXES:
            names.setdefault(f"{prefix}.{name}" if name else prefix, set()).update(("AAAA", "TXT"))
    names["x.wildmx"].add("MX")
    names["x.wild"].add("A")
    for name in ("tree", "bush"):
        for prefix, kind in (("srv", "SRV"), ("https", "HTTPS"), ("odd", "TYPE65280")):
            names[f"{prefix}.{name}"].update(("A", kind))
    for name in ("", "both", "alias", "tree", "mixed", "nowhere", "x.wild", "x.tree"):
        names.setdefault(name, set()).update(("ANY", "RRSIG", "DNSKEY", "NSEC", "SOA", "NSEC3PARAM"))
    for name in sorted(names):
        for kind in sorted(names[name]):
            yield (f"{name}.{zone}" if name else zone), kind
    # Another spelling of the same.
    for name in ("SIX", "aLiAs", "uPPER.cASE", "X.WiLd6", "Six.Tree", "NoWhere", "x.WILDalias"):
        for kind in ("A", "AAAA", "TXT"):
            yield f"{name}.{zone}", kind


def sign(zone: str, directory: Path, *, hashed: bool = False) -> tuple[Path, str]:
    """Signs the zone, with NSEC or NSEC3; returns its file and the trust anchor of its key as named.conf writes it."""
    keys = directory / f"keys-{zone}"
    keys.mkdir()
    source, signed = directory / f"{zone}.zone", directory / f"{zone}.signed"
    source.write_text(BODY)

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=60).stdout

    generate = ("dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-K", str(keys))
    run(*generate, zone)
    anchor = run(*generate, "-f", "KSK", zone).strip()
    hashes = ("-3", "ab12", "-H", "1") if hashed else ()
    run("dnssec-signzone", "-S", "-K", str(keys), *hashes, "-o", zone, "-f", str(signed), str(source))
    digest = run("dnssec-dsfromkey", "-2", str(keys / anchor)).split(" IN DS ")[1].split()
    return signed, f'"{zone}" static-ds {" ".join(digest[:3])} "{"".join(digest[3:])}";'
