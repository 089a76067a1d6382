"""Reminds people of a query that waits for them. Every collaborator and the frontend register it, each with a separate webhook."""

from __future__ import annotations

from typing import Any

from temporalio import activity

from cleanroom.clients.webhook import post, read_webhook_url
from cleanroom.errors import Refused
from cleanroom.joining import parts_digest
from cleanroom.messages.query import Notified, NotifyRequest
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.settings import Settings

TEXTS = {
    "reminder": "Query {query} waits for the decision of {waiting} until {expires}.",
    "escalation": "Query {query} has waited for half of its time: the decision of {waiting} is missing, and it expires {expires}.",
    "last-reminder": "Query {query} expires soon ({expires}) without the decision of {waiting}.",
    "renewal": "The approvals of query {query} expire {expires}. Nobody can run it afterwards.",
}


class Notifications:
    """Posts reminders to the profile's webhook.

    Anyone who reaches Temporal can schedule this activity. So it reads from governance whom the query waits for, and posts nothing that
    governance does not confirm. It posts names and times only: no SQL, no signature, no secret.
    """

    def __init__(self, settings: Settings, documents: UserDocuments) -> None:
        self._settings = settings
        self._documents = documents

    @activity.defn
    async def notify(self, request: NotifyRequest) -> Notified:
        """Post a reminder if a webhook is set and governance still waits.

        Raises:
            Refused: ``CollaborationMismatch``, ``WebhookUrlRefused``.
            Unavailable: ``WebhookUnreachable``, ``WebhookFailed``.
        """
        if request.collaboration != self._settings.collaboration:
            raise Refused(
                "CollaborationMismatch",
                f"the request is for collaboration {request.collaboration!r}; this worker serves {self._settings.collaboration!r}.",
            )
        file = self._settings.notifications.url_file
        if file is None:
            return Notified(sent=False, reason="no webhook is set")
        url = read_webhook_url(file)
        waiting = await self._waiting_for(request)
        if waiting is None:
            return Notified(sent=False, reason="governance does not wait any longer")
        id = parts_digest("notification", request.collaboration, request.query, request.proposal_id, request.kind, request.recipient).hex()
        await post(url, self._body(request, waiting), id=id, ca_file=self._settings.ca_file)
        return Notified(sent=True)

    def _body(self, request: NotifyRequest, waiting: list[str]) -> dict[str, Any]:
        expires = f"{request.expires:%Y-%m-%d %H:%M} UTC"
        return {
            "type": f"cleanroom.query.{request.kind}",
            "collaboration": request.collaboration,
            "query": request.query,
            "recipient": request.recipient,
            "waitingFor": waiting,
            "expires": request.expires.isoformat(),
            "text": TEXTS[request.kind].format(query=request.query, waiting=", ".join(waiting), expires=expires),
        }

    async def _waiting_for(self, request: NotifyRequest) -> list[str] | None:
        """Return the names of the owners whose decision is missing, or None if the proposal or the approval has ended."""
        document = await self._documents.find(request.query)
        if document is None or document.proposal_id != request.proposal_id:
            return None
        if request.kind == "renewal":
            return [] if document.state == "Accepted" else None
        if document.state != "Proposed":
            return None
        status = await self._documents.client.proposal_status(document.proposal_id)
        voted = {ballot.approver_id for ballot in status.ballots}
        names = self._settings.user_names
        pending = {item.approver_id for item in document.approvers or ()} - voted
        return sorted(names.get(user, user) for user in pending) or None
