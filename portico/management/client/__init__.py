"""The Python client of the REST API: `Portico` with typed answers, over `ApiClient`, which the command line uses too.

from portico.management.client import ApiClient, Portico

with Portico(ApiClient(paths.server_socket())) as portico:
    for client in portico.clients.all(state="connected"):
        print(client.name, client.sessions[0]["peer"])
"""

from portico.management.client.portico import Portico
from portico.management.client.transport import ApiClient

__all__ = ["ApiClient", "Portico"]
