"""Makes one measured call as an application in Python does: with generated stubs, under the service config that ships beside the protos.

Prints how the call ended as one line of JSON. Or it runs a scenario of several calls, and prints what it has seen.

    stub.py SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS

CALL is reserve, view, tickets or scenario. The generated modules are on PYTHONPATH.
"""

import json
import sys
import time

import grpc
import scenario
from eticket.query.v1 import query_pb2, query_pb2_grpc
from eticket.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from eticket.ticket.v1 import ticket_pb2, ticket_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from session import Session


def call(channel, name, ticket_id, seconds):
    if name == "reserve":
        request = reservation_pb2.ReserveTicketRequest(
            ticket_id=ticket_id, user_id="python", user_grade=reservation_pb2.USER_GRADE_SILVER
        )
        reservation_pb2_grpc.ReservationServiceStub(channel).ReserveTicket(request, timeout=seconds)
    elif name == "view":
        request = query_pb2.GetTicketViewRequest(ticket_id=ticket_id, wait=query_pb2.WAIT_FOR_APPLIED)
        query_pb2_grpc.QueryServiceStub(channel).GetTicketView(request, timeout=seconds)
    elif name == "tickets":
        ticket_pb2_grpc.TicketServiceStub(channel).ListTickets(ticket_pb2.ListTicketsRequest(), timeout=seconds)
    else:
        sys.exit(f"no such call: {name}")


def reason_of(error):
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def main():
    if len(sys.argv) != 6:
        sys.exit("usage: stub.py SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS")
    config, address, name, ticket_id, deadline = sys.argv[1:]
    with open(config, encoding="utf-8") as file:
        options = [("grpc.service_config", file.read())]
    with grpc.insecure_channel(address, options) as plain:
        channel = grpc.intercept_channel(plain, Session())
        if name == "scenario":
            print(json.dumps(scenario.run(channel, ticket_id, int(deadline) / 1000)))
            return
        # The first call, which is refused, connects. Only the second one is measured.
        try:
            first = reservation_pb2.CancelReservationRequest(reservation_id="none")
            reservation_pb2_grpc.ReservationServiceStub(channel).CancelReservation(first)
        except grpc.RpcError as error:
            print("first call:", reason_of(error), file=sys.stderr)
        code, reason = 0, ""
        begin = time.monotonic()
        try:
            call(channel, name, ticket_id, int(deadline) / 1000)
            took = time.monotonic() - begin
        except grpc.RpcError as error:
            took = time.monotonic() - begin
            code, reason = error.code().value[0], reason_of(error)
            print(error.code(), error.details(), file=sys.stderr)
    print(json.dumps({"code": code, "reason": reason, "millis": int(took * 1000)}))


main()
