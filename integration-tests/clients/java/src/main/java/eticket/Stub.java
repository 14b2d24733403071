package eticket;

import com.eticket.query.v1.GetTicketViewRequest;
import com.eticket.query.v1.QueryServiceGrpc;
import com.eticket.query.v1.WaitFor;
import com.eticket.reservation.v1.CancelReservationRequest;
import com.eticket.reservation.v1.ReservationServiceGrpc;
import com.eticket.reservation.v1.ReserveTicketRequest;
import com.eticket.reservation.v1.UserGrade;
import com.eticket.ticket.v1.ListTicketsRequest;
import com.eticket.ticket.v1.TicketServiceGrpc;
import com.google.gson.Gson;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * Makes one measured call as an application in Java does: with generated stubs, under the service config that ships beside the protos. Prints
 * how the call ended as one line of JSON. Or runs a scenario of several calls, and prints what it has seen.
 *
 * <p>{@code Stub SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS}, where CALL is reserve, view, tickets or scenario.
 */
public final class Stub {
    private record Outcome(int code, String reason, long millis) {}

    private Stub() {}

    public static void main(String[] arguments) throws IOException, InterruptedException {
        if (arguments.length != 5) {
            throw new IllegalArgumentException("usage: Stub SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS");
        }
        Map<String, ?> config = new Gson().fromJson(Files.readString(Path.of(arguments[0])), Map.class);
        ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments[1])
                .usePlaintext()
                .defaultServiceConfig(config)
                .intercept(new Session())
                .build();
        if (arguments[2].equals("scenario")) {
            Scenario scenario = new Scenario(channel, arguments[3], Long.parseLong(arguments[4]));
            System.out.println(new Gson().toJson(scenario.run()));
            channel.shutdownNow();
            return;
        }
        // The first call, which is refused, connects. Only the second one is measured.
        try {
            ReservationServiceGrpc.newBlockingStub(channel)
                    .cancelReservation(CancelReservationRequest.newBuilder().setReservationId("none").build());
        } catch (StatusRuntimeException error) {
            System.err.println("first call: " + reasonOf(error));
        }
        int code = 0;
        String reason = "";
        long took;
        long begin = System.nanoTime();
        try {
            call(channel, arguments[2], arguments[3], Long.parseLong(arguments[4]));
            took = System.nanoTime() - begin;
        } catch (StatusRuntimeException error) {
            took = System.nanoTime() - begin;
            System.err.println(error.getMessage());
            code = error.getStatus().getCode().value();
            reason = reasonOf(error);
        }
        System.out.println(new Gson().toJson(new Outcome(code, reason, TimeUnit.NANOSECONDS.toMillis(took))));
        channel.shutdownNow();
    }

    private static void call(ManagedChannel channel, String name, String id, long millis) {
        switch (name) {
            case "reserve" -> {
                ReserveTicketRequest request = ReserveTicketRequest.newBuilder()
                        .setTicketId(id)
                        .setUserId("java")
                        .setUserGrade(UserGrade.USER_GRADE_SILVER)
                        .build();
                ReservationServiceGrpc.newBlockingStub(channel)
                        .withDeadlineAfter(millis, TimeUnit.MILLISECONDS)
                        .reserveTicket(request);
            }
            case "view" -> {
                GetTicketViewRequest request = GetTicketViewRequest.newBuilder()
                        .setTicketId(id)
                        .setWait(WaitFor.WAIT_FOR_APPLIED)
                        .build();
                QueryServiceGrpc.newBlockingStub(channel)
                        .withDeadlineAfter(millis, TimeUnit.MILLISECONDS)
                        .getTicketView(request);
            }
            case "tickets" -> TicketServiceGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(millis, TimeUnit.MILLISECONDS)
                    .listTickets(ListTicketsRequest.getDefaultInstance());
            default -> throw new IllegalArgumentException("no such call: " + name);
        }
    }

    private static String reasonOf(StatusRuntimeException error) throws InvalidProtocolBufferException {
        com.google.rpc.Status status = StatusProto.fromThrowable(error);
        if (status != null) {
            for (com.google.protobuf.Any detail : status.getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    return detail.unpack(ErrorInfo.class).getReason();
                }
            }
        }
        return "";
    }
}
