"""Tests of the interceptor, against a server in this process: `python -m unittest session_test`."""

import unittest
from concurrent import futures

import grpc
from eticket.query.v1 import query_pb2, query_pb2_grpc
from eticket.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from session import HEADER, Session


class Server(reservation_pb2_grpc.ReservationServiceServicer, query_pb2_grpc.QueryServiceServicer):
    """Sends the user as the token, and keeps the tokens that it gets."""

    sends = True
    received = None

    def ReserveTicket(self, request, context):
        self.note(context)
        if self.sends:
            context.send_initial_metadata([(HEADER, request.user_id)])
        return reservation_pb2.ReserveTicketResponse(reservation={"ticket_id": request.ticket_id})

    def GetTicketView(self, request, context):
        self.note(context)
        return query_pb2.GetTicketViewResponse()

    def WatchTicketViews(self, request, context):
        self.note(context)
        yield query_pb2.WatchTicketViewsResponse()

    def note(self, context):
        self.received = dict(context.invocation_metadata()).get(HEADER)


class SessionTest(unittest.TestCase):
    def setUp(self):
        self.service = Server()
        server = grpc.server(futures.ThreadPoolExecutor(2))
        reservation_pb2_grpc.add_ReservationServiceServicer_to_server(self.service, server)
        query_pb2_grpc.add_QueryServiceServicer_to_server(self.service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(server.stop, None)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.addCleanup(channel.close)
        self.session = Session()
        intercepted = grpc.intercept_channel(channel, self.session)
        self.reservations = reservation_pb2_grpc.ReservationServiceStub(intercepted)
        self.views = query_pb2_grpc.QueryServiceStub(intercepted)

    def reserve(self, ticket_id, token):
        self.reservations.ReserveTicket(reservation_pb2.ReserveTicketRequest(ticket_id=ticket_id, user_id=token))
        self.assertIsNone(self.service.received, "a command sends no tokens")

    def test_reads_send_the_newest_token_of_each_ticket(self):
        for ticket_id, token in [("a", "a1"), ("b", "b1"), ("a", "a2")]:
            self.reserve(ticket_id, token)
        self.views.GetTicketView(query_pb2.GetTicketViewRequest(ticket_id="a"))
        self.assertEqual(self.service.received, "b1,a2")
        self.service.received = None
        list(self.views.WatchTicketViews(query_pb2.WatchTicketViewsRequest()))
        self.assertEqual(self.service.received, "b1,a2")

    def test_the_latest_64_tokens_are_kept(self):
        for number in range(65):
            self.session.remember(str(number), f"t{number}")
        self.assertEqual(self.session.tokens(), ",".join(f"t{number}" for number in range(1, 65)))

    def test_a_server_without_tokens_changes_nothing(self):
        self.service.sends = False
        self.reserve("a", "a1")
        self.views.GetTicketView(query_pb2.GetTicketViewRequest(ticket_id="a"))
        self.assertIsNone(self.service.received)


if __name__ == "__main__":
    unittest.main()
