"""The typed client: one attribute for each subject of the API, one method for each thing that can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote

from portico.errors import NotFound
from portico.management.client.models import (
    AccountedSession,
    AccountedSummary,
    AccountingStatus,
    Authority,
    EnrolmentToken,
    IssuedCertificate,
    JoinToken,
    LoadBalancing,
    Outcome,
    RemoteClient,
    Revision,
    Revoked,
    ServerStatus,
    SettingsDocument,
)
from portico.management.client.transport import ApiClient


class Portico:
    """A server of Portico, and through it the whole cluster. A context manager.

    Every method raises the PorticoError that the server answered with, or Unavailable when it does not answer.

    Args:
        api: how the server is reached and who asks. It is closed with this.
        author: in whose name changes are made.
    """

    def __init__(self, api: ApiClient, *, author: str = "root") -> None:
        self.api = api
        self.settings = SettingsApi(api, author)
        self.load_balancing = LoadBalancingApi(api, author)
        self.cluster = ClusterApi(api, self.load_balancing, self.settings)
        self.clients = ClientsApi(api)
        self.ca = CertificatesApi(api)
        self.nat64 = Nat64Api(api)
        self.accounting = AccountingApi(api)

    def __enter__(self) -> Portico:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.api.close()

    def status(self) -> ServerStatus:
        """What the server does, and what is wrong with it."""
        return ServerStatus.model_validate(self.api.get("/v1/status"))

    def health(self, *, refresh: bool = False) -> dict[str, Any]:
        """Every server with its components: `{state, at, answered_by, servers: [{server, at, state, components}]}`."""
        found: dict[str, Any] = self.api.get("/v1/health", refresh=refresh)
        return found


class SettingsApi:
    """The settings document and its revisions."""

    def __init__(self, api: ApiClient, author: str) -> None:
        self._api = api
        self._author = author

    def show(self, revision: int | None = None) -> SettingsDocument:
        """The newest document, or that of a revision. Raises NotFound."""
        return SettingsDocument.model_validate(self._api.get("/v1/settings", revision=revision))

    def change(
        self,
        settings: dict[str, Any],
        *,
        expected: int | None,
        comment: str = "",
        dry_run: bool = False,
        source: str = "the changed settings",
    ) -> Outcome:
        """Verifies, stores and applies a document as one transaction.

        Args:
            expected: the revision the change was made on; None takes the newest there is.
            source: what the document is called in problems.
        """
        body = {
            "settings": settings,
            "expected_revision": expected,
            "comment": comment,
            "author": self._author,
            "dry_run": dry_run,
            "source": source,
        }
        return Outcome.model_validate(self._api.post("/v1/settings", body))

    def edit(
        self, how: Callable[[dict[str, Any]], dict[str, Any]], *, comment: str = "", dry_run: bool = False
    ) -> Outcome:
        """Changes the newest document by a function of its data. Raises Conflict when another is faster."""
        found = self.show()
        return self.change(how(found.settings), expected=found.revision.number, comment=comment, dry_run=dry_run)

    def history(self, *, limit: int = 50, before: int | None = None) -> list[Revision]:
        """Revisions, newest first."""
        found = self._api.get("/v1/settings/history", limit=limit, before=before)
        return [Revision.model_validate(item) for item in found]

    def rollback(self, revision: int, *, dry_run: bool = False) -> Outcome:
        """Makes an earlier revision's document the newest one."""
        body = {"revision": revision, "author": self._author, "dry_run": dry_run}
        return Outcome.model_validate(self._api.post("/v1/settings/rollback", body))


class LoadBalancingApi:
    """Load balancing as the settings have it."""

    def __init__(self, api: ApiClient, author: str) -> None:
        self._api = api
        self._author = author

    def show(self) -> LoadBalancing:
        """Raises NotFound, code LB_DISABLED, when the server serves alone."""
        return LoadBalancing.model_validate(self._api.get("/v1/load-balancing"))

    def find(self) -> LoadBalancing | None:
        """The same; None when the server serves alone or nothing is installed."""
        try:
            return self.show()
        except NotFound:
            return None

    def enable(
        self,
        *,
        internet_dedicated: Sequence[str],
        internal_dedicated: Sequence[str] = (),
        internet_virtual: Sequence[str] | None = None,
        internal_virtual: Sequence[str] | None = None,
        mode: Literal["unicast", "multicast", "igmp_multicast"] = "unicast",
        comment: str = "",
        dry_run: bool = False,
    ) -> Outcome:
        """Makes the server the first of a cluster. Addresses with mask or length."""
        return self._post(
            "enable",
            comment,
            dry_run,
            internet_dedicated_addresses=list(internet_dedicated),
            internal_dedicated_addresses=list(internal_dedicated),
            internet_virtual_addresses=list(internet_virtual) if internet_virtual is not None else None,
            internal_virtual_addresses=list(internal_virtual) if internal_virtual is not None else None,
            mode=mode,
        )

    def disable(self, *, comment: str = "", dry_run: bool = False) -> Outcome:
        """Makes the server serve alone, with the virtual addresses as its own."""
        return self._post("disable", comment, dry_run)

    def set_mode(self, mode: str, *, comment: str = "", dry_run: bool = False) -> Outcome:
        return self._post("mode", comment, dry_run, mode=mode)

    def remove(self, name: str, *, lost: bool = False, comment: str = "", dry_run: bool = False) -> Outcome:
        """Takes a server out of the cluster; `lost` also its vote."""
        return self._post("remove", comment, dry_run, name=name, lost=lost)

    def _post(self, what: str, comment: str, dry_run: bool, **body: Any) -> Outcome:
        body |= {"comment": comment, "author": self._author, "dry_run": dry_run}
        return Outcome.model_validate(self._api.post(f"/v1/load-balancing/{what}", body))


class ClusterApi:
    """The cluster as it is now."""

    def __init__(self, api: ApiClient, balancing: LoadBalancingApi, settings: SettingsApi) -> None:
        self._api = api
        self._balancing = balancing
        self._settings = settings

    def status(self) -> dict[str, Any]:
        """States, buckets, clients, counters, the last events, as the server sees them."""
        found: dict[str, Any] = self._api.get("/v1/cluster")
        return found

    def states(self) -> dict[str, str | None]:
        """Name to state in the words of Windows (`Converged`, `Draining`, ...); None for a server that is not heard."""
        return {str(item["name"]): item["state"] for item in self.status()["servers"]}

    def command(self, command: str, server: str) -> dict[str, Any]:
        """start, stop, drain, suspend or resume of a server."""
        found: dict[str, Any] = self._api.post("/v1/cluster/command", {"command": command, "server": server})
        return found

    def own_name(self) -> str:
        """The name of the server that answers. Raises NotFound when nothing is installed."""
        balancing = self._balancing.find()
        if balancing is not None:
            return balancing.own_name
        return str(self._settings.show().settings["server"]["name"])

    def addresses(self) -> dict[str, set[str]]:
        """Each server's own addresses, without lengths."""
        balancing = self._balancing.find()
        if balancing is not None:
            return {
                server.name: {
                    text.partition("/")[0]
                    for text in (*server.internet_dedicated_addresses, *server.internal_dedicated_addresses)
                }
                for server in balancing.servers
            }
        found = self._settings.show()
        internal = found.value("server.internal_ipv4")
        return {str(found.settings["server"]["name"]): {str(internal)} if internal else set()}

    def join_token(
        self,
        name: str,
        *,
        internet_dedicated: Sequence[str] = (),
        internal_dedicated: Sequence[str] = (),
        lifetime_seconds: int = 3600,
        dry_run: bool = False,
    ) -> JoinToken:
        """A token with which a new server joins the cluster once."""
        body = {
            "name": name,
            "internet_dedicated_addresses": list(internet_dedicated),
            "internal_dedicated_addresses": list(internal_dedicated),
            "lifetime_seconds": lifetime_seconds,
            "dry_run": dry_run,
        }
        return JoinToken.model_validate(self._api.post("/v1/peers/tokens", body))


class ClientsApi:
    """Remote computers."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def all(self, state: str | None = None) -> Iterator[RemoteClient]:
        """Every one, connected ones first, page by page."""
        return map(RemoteClient.model_validate, self._api.entries("/v1/clients", "clients", state=state))

    def get(self, name: str) -> RemoteClient:
        return RemoteClient.model_validate(self._api.get(f"/v1/clients/{quote(name, safe='')}"))

    def disconnect(self, name: str) -> int:
        """Closes its tunnels and returns how many there were; it may dial again."""
        return int(self._api.post(f"/v1/clients/{quote(name, safe='')}/disconnect")["closed"])

    def revoke(self, *, name: str | None = None, serial: str | None = None, reason: str = "unspecified") -> Revoked:
        return Revoked.model_validate(
            self._api.post("/v1/revocations", {"name": name, "serial": serial, "reason": reason})
        )


class CertificatesApi:
    """The built-in CA."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def show(self) -> Authority:
        """Raises PorticoError when there is none."""
        return Authority.model_validate(self._api.get("/v1/ca"))

    def tokens(self) -> Iterator[EnrolmentToken]:
        """Enrolment tokens, newest first, page by page."""
        return map(EnrolmentToken.model_validate, self._api.entries("/v1/ca/tokens", "tokens"))

    def issued(self, *, name: str | None = None, serial: str | None = None) -> Iterator[IssuedCertificate]:
        """Issued certificates, newest first, page by page."""
        found = self._api.entries("/v1/ca/certificates", "certificates", name=name, serial=serial)
        return map(IssuedCertificate.model_validate, found)


class Nat64Api:
    """Who talks to which IPv4 server."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def sessions(self, *, client: str | None = None, destination: str | None = None) -> Iterator[dict[str, Any]]:
        """The sessions that there are now, page by page. Raises Conflict when NAT64 is disabled."""
        return self._api.entries("/v1/nat64/sessions", "sessions", client=client, destination=destination)


class AccountingApi:
    """The inbox accounting store of the server that answers."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def status(self) -> AccountingStatus:
        return AccountingStatus.model_validate(self._api.get("/v1/accounting"))

    def sessions(
        self, *, start: float | None = None, end: float | None = None, name: str | None = None
    ) -> Iterator[AccountedSession]:
        """Sessions that existed between two times (seconds since the epoch), oldest first, page by page."""
        found = self._api.entries("/v1/accounting/sessions", "sessions", start=start, end=end, name=name)
        return map(AccountedSession.model_validate, found)

    def summary(self, *, start: float | None = None, end: float | None = None) -> AccountedSummary:
        return AccountedSummary.model_validate(self._api.get("/v1/accounting/summary", start=start, end=end))

    def clear(self, *, start: float | None = None, end: float | None = None, dry_run: bool = False) -> int:
        """Deletes ended sessions that existed within the time, and returns how many there are."""
        body = {"start": start, "end": end, "dry_run": dry_run}
        return int(self._api.post("/v1/accounting/clear", body)["sessions"])
