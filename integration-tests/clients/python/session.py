"""Makes the reads of a client include its own commands.

An interceptor keeps the newest consistency token of each ticket and sends the tokens with each read. With servers that send no tokens it does
nothing.
"""

import threading
from collections import OrderedDict

import grpc

HEADER = "eticket-consistency-token"
READS = "/eticket.query.v1.QueryService/"
# The most tokens that a server accepts.
LIMIT = 64


class _Details(grpc.ClientCallDetails):
    """The details of a call with other metadata."""

    def __init__(self, details, metadata):
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class Session(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """The tokens of one user: `grpc.intercept_channel(channel, session)`. Channels may share it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._tokens = OrderedDict()

    def remember(self, ticket_id, token):
        """Stores the token of a command on a ticket."""
        with self._lock:
            self._tokens[ticket_id] = token
            self._tokens.move_to_end(ticket_id)
            if len(self._tokens) > LIMIT:
                self._tokens.popitem(last=False)

    def tokens(self):
        """Returns the tokens as the metadata of a read has them; empty without any."""
        with self._lock:
            return ",".join(self._tokens.values())

    def intercept_unary_unary(self, continuation, client_call_details, request):
        call = continuation(self._with_tokens(client_call_details), request)
        call.add_done_callback(self._keep)
        return call

    def intercept_unary_stream(self, continuation, client_call_details, request):
        return continuation(self._with_tokens(client_call_details), request)

    def _with_tokens(self, details):
        tokens = self.tokens()
        # Its type was once bytes.
        method = details.method if isinstance(details.method, str) else details.method.decode()
        if not tokens or not method.startswith(READS):
            return details
        return _Details(details, [*(details.metadata or ()), (HEADER, tokens)])

    def _keep(self, call):
        if call.code() is not grpc.StatusCode.OK:
            return
        token = dict(call.initial_metadata() or ()).get(HEADER)
        ticket_id = _ticket_of(call.result())
        if token and ticket_id:
            self.remember(ticket_id, token)


def _ticket_of(response):
    """Returns the ticket_id of the ticket or reservation in the response of a command."""
    for field in ("ticket", "reservation"):
        ticket_id = getattr(getattr(response, field, None), "ticket_id", None)
        if ticket_id:
            return ticket_id
    return None
