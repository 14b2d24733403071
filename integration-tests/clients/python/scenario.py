"""A scenario of several calls, as an application in Python makes them."""

import datetime
import time
import uuid

import grpc
from eticket.query.v1 import query_pb2, query_pb2_grpc
from eticket.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from eticket.ticket.v1 import ticket_pb2, ticket_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def run(channel, ticket_id, seconds):
    """Registers a ticket, reserves it, is refused, reads the settled view, watches, cancels, and resumes the watch."""
    tickets = ticket_pb2_grpc.TicketServiceStub(channel)
    reservations = reservation_pb2_grpc.ReservationServiceStub(channel)
    views = query_pb2_grpc.QueryServiceStub(channel)

    start = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)
    registration = ticket_pb2.RegisterTicketRequest(ticket_id=ticket_id, title="Choir", request_id=str(uuid.uuid4()))
    registration.start_time.FromDatetime(start)
    registration.end_time.FromDatetime(start + datetime.timedelta(hours=2))
    tickets.RegisterTicket(registration, timeout=seconds)

    # A retry, by the service config or by you, sends the same request with the same request_id, and gets the same response.
    request = reservation_pb2.ReserveTicketRequest(
        ticket_id=ticket_id,
        user_id="python",
        user_grade=reservation_pb2.USER_GRADE_SILVER,
        request_id=str(uuid.uuid4()),
    )
    reserved = reservations.ReserveTicket(request, timeout=seconds)

    refusal = {}
    request.user_id, request.request_id = "another", str(uuid.uuid4())
    try:
        reservations.ReserveTicket(request, timeout=seconds, metadata=[("accept-language", "ko")])
    except grpc.RpcError as error:
        refusal = details_of(error)

    request = query_pb2.GetTicketViewRequest(
        ticket_id=ticket_id, consistency_token=reserved.consistency_token, wait=query_pb2.WAIT_FOR_SETTLED
    )
    view = views.GetTicketView(request, timeout=seconds).view

    _, token = follow(views, ticket_id, "", seconds, lambda view: True)
    request = reservation_pb2.CancelReservationRequest(
        reservation_id=reserved.reservation.reservation_id, request_id=str(uuid.uuid4())
    )
    reservations.CancelReservation(request, timeout=seconds)
    # The watch missed the cancellation; its token makes it continue there.
    cancelled = reservation_pb2.RESERVATION_STATUS_CANCELLED
    changed, _ = follow(views, ticket_id, token, seconds, lambda view: view.reservation_status == cancelled)

    return {
        **refusal,
        "holder": view.user_id,
        "settled": view.settled,
        "changed": reservation_pb2.ReservationStatus.Name(changed.reservation_status),
    }


def details_of(error):
    """Returns the reason and the text for people of a refusal."""
    details = {}
    status = rpc_status.from_call(error)
    info, text = error_details_pb2.ErrorInfo(), error_details_pb2.LocalizedMessage()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            details["reason"] = info.reason
        elif detail.Unpack(text):
            details["text"] = text.message
    return details


def follow(views, ticket_id, token, seconds, wanted):
    """Watches a ticket until a view is the wanted one, and returns it with the token that continues after it. It survives broken streams."""
    found = None
    while True:
        request = query_pb2.WatchTicketViewsRequest(ticket_ids=[ticket_id], resume_token=token)
        stream = views.WatchTicketViews(request, timeout=seconds)
        try:
            for message in stream:
                if message.HasField("view") and wanted(message.view):
                    found = message.view
                # Within a snapshot only the last message has a token.
                token = message.resume_token or token
                if found and message.resume_token:
                    return found, token
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)
        finally:
            stream.cancel()
