"""A receiver of alerts: HTTPS POST only, checks signature and time, keeps every body it accepts as a line of a file.

    hooks.py ADDRESS PORT CERTIFICATE KEY SECRET-FILE OUTPUT

Written after docs/operate.md alone, as a receiver of somebody else would be.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OLDEST = 300
"""Seconds; an older timestamp is somebody who repeats what was sent once."""


class Hook(BaseHTTPRequestHandler):
    secret = b""
    output = Path()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        timestamp = self.headers["Portico-Timestamp"]
        mac = hmac.new(self.secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        genuine = hmac.compare_digest(f"sha256={mac}", self.headers["Portico-Signature"])
        if not genuine or abs(time.time() - int(timestamp)) > OLDEST:
            self.send_error(403)
            return
        with self.output.open("a") as file:
            file.write(json.dumps(json.loads(body)) + "\n")
        self.send_response(204)
        self.end_headers()


def main(address: str, port: str, certificate: str, key: str, secret: str, output: str) -> None:
    Hook.secret = Path(secret).read_bytes().rstrip(b"\n")
    Hook.output = Path(output)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((address, int(port)), Hook)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
