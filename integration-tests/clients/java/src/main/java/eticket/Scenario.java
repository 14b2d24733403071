package eticket;

import com.eticket.query.v1.GetTicketViewRequest;
import com.eticket.query.v1.QueryServiceGrpc;
import com.eticket.query.v1.TicketView;
import com.eticket.query.v1.WaitFor;
import com.eticket.query.v1.WatchTicketViewsRequest;
import com.eticket.query.v1.WatchTicketViewsResponse;
import com.eticket.reservation.v1.CancelReservationRequest;
import com.eticket.reservation.v1.ReservationServiceGrpc;
import com.eticket.reservation.v1.ReservationStatus;
import com.eticket.reservation.v1.ReserveTicketRequest;
import com.eticket.reservation.v1.ReserveTicketResponse;
import com.eticket.reservation.v1.UserGrade;
import com.eticket.ticket.v1.RegisterTicketRequest;
import com.eticket.ticket.v1.TicketServiceGrpc;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Timestamp;
import com.google.rpc.ErrorInfo;
import com.google.rpc.LocalizedMessage;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;

/** A scenario of several calls, as an application in Java makes them. */
final class Scenario {
    /** What the scenario has seen. */
    record Result(String reason, String text, String holder, boolean settled, String changed) {}

    /** What a refusal says. */
    private record Refusal(String reason, String text) {}

    /** A view from a watch, and the token that continues after it. */
    private record Found(TicketView view, String token) {}

    private final Channel channel;
    private final String ticketId;
    private final long millis;

    Scenario(Channel channel, String ticketId, long millis) {
        this.channel = channel;
        this.ticketId = ticketId;
        this.millis = millis;
    }

    /** Registers a ticket, reserves it, is refused, reads the settled view, watches, cancels, and resumes the watch. */
    Result run() throws InvalidProtocolBufferException, InterruptedException {
        var tickets = TicketServiceGrpc.newBlockingStub(channel).withDeadlineAfter(millis, TimeUnit.MILLISECONDS);
        var reservations = ReservationServiceGrpc.newBlockingStub(channel).withDeadlineAfter(millis, TimeUnit.MILLISECONDS);
        var views = QueryServiceGrpc.newBlockingStub(channel).withDeadlineAfter(millis, TimeUnit.MILLISECONDS);

        Instant start = Instant.now().plus(30, ChronoUnit.DAYS);
        tickets.registerTicket(RegisterTicketRequest.newBuilder()
                .setTicketId(ticketId)
                .setTitle("Choir")
                .setStartTime(timestamp(start))
                .setEndTime(timestamp(start.plus(2, ChronoUnit.HOURS)))
                .setRequestId(UUID.randomUUID().toString())
                .build());

        // A retry, by the service config or by you, sends the same request with the same request_id, and gets the same response.
        ReserveTicketRequest request = ReserveTicketRequest.newBuilder()
                .setTicketId(ticketId)
                .setUserId("java")
                .setUserGrade(UserGrade.USER_GRADE_SILVER)
                .setRequestId(UUID.randomUUID().toString())
                .build();
        ReserveTicketResponse reserved = reservations.reserveTicket(request);

        Metadata korean = new Metadata();
        korean.put(Metadata.Key.of("accept-language", Metadata.ASCII_STRING_MARSHALLER), "ko");
        Refusal refusal = new Refusal("", "");
        try {
            reservations.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(korean))
                    .reserveTicket(request.toBuilder()
                            .setUserId("another")
                            .setRequestId(UUID.randomUUID().toString())
                            .build());
        } catch (StatusRuntimeException error) {
            refusal = refusal(error);
        }

        TicketView view = views.getTicketView(GetTicketViewRequest.newBuilder()
                        .setTicketId(ticketId)
                        .setConsistencyToken(reserved.getConsistencyToken())
                        .setWait(WaitFor.WAIT_FOR_SETTLED)
                        .build())
                .getView();

        Found snapshot = follow(views, "", any -> true);
        reservations.cancelReservation(CancelReservationRequest.newBuilder()
                .setReservationId(reserved.getReservation().getReservationId())
                .setRequestId(UUID.randomUUID().toString())
                .build());
        // The watch missed the cancellation; its token makes it continue there.
        Found changed = follow(views, snapshot.token(), changedView ->
                changedView.getReservationStatus() == ReservationStatus.RESERVATION_STATUS_CANCELLED);

        return new Result(refusal.reason(), refusal.text(), view.getUserId(), view.getSettled(),
                changed.view().getReservationStatus().name());
    }

    private static Timestamp timestamp(Instant instant) {
        return Timestamp.newBuilder().setSeconds(instant.getEpochSecond()).setNanos(instant.getNano()).build();
    }

    private static Refusal refusal(StatusRuntimeException error) throws InvalidProtocolBufferException {
        String reason = "";
        String text = "";
        com.google.rpc.Status status = StatusProto.fromThrowable(error);
        for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                reason = detail.unpack(ErrorInfo.class).getReason();
            } else if (detail.is(LocalizedMessage.class)) {
                text = detail.unpack(LocalizedMessage.class).getMessage();
            }
        }
        return new Refusal(reason, text);
    }

    /** Watches the ticket until a view is the wanted one. It survives broken streams. */
    private Found follow(QueryServiceGrpc.QueryServiceBlockingStub views, String token, Predicate<TicketView> wanted)
            throws InterruptedException {
        TicketView found = null;
        while (true) {
            // A blocking stream ends with its context.
            Context.CancellableContext context = Context.current().withCancellation();
            Context before = context.attach();
            try {
                Iterator<WatchTicketViewsResponse> stream = views.watchTicketViews(WatchTicketViewsRequest.newBuilder()
                        .addTicketIds(ticketId)
                        .setResumeToken(token)
                        .build());
                while (stream.hasNext()) {
                    WatchTicketViewsResponse message = stream.next();
                    if (message.hasView() && wanted.test(message.getView())) {
                        found = message.getView();
                    }
                    // Within a snapshot only the last message has a token.
                    if (!message.getResumeToken().isEmpty()) {
                        token = message.getResumeToken();
                        if (found != null) {
                            return new Found(found, token);
                        }
                    }
                }
            } catch (StatusRuntimeException error) {
                if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
                    throw error;
                }
                TimeUnit.SECONDS.sleep(1);
            } finally {
                context.detach(before);
                context.cancel(null);
            }
        }
    }
}
