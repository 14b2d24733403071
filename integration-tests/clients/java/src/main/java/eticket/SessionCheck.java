package eticket;

import com.eticket.query.v1.GetTicketViewRequest;
import com.eticket.query.v1.GetTicketViewResponse;
import com.eticket.query.v1.QueryServiceGrpc;
import com.eticket.query.v1.WatchTicketViewsRequest;
import com.eticket.query.v1.WatchTicketViewsResponse;
import com.eticket.reservation.v1.Reservation;
import com.eticket.reservation.v1.ReservationServiceGrpc;
import com.eticket.reservation.v1.ReserveTicketRequest;
import com.eticket.reservation.v1.ReserveTicketResponse;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Objects;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Checks the interceptor against a server in this process; throws if it does something else than it should. */
final class SessionCheck {
    /** Sends a token, unless it is null, and keeps the tokens that it gets. */
    private static final class Tokens implements ServerInterceptor {
        volatile String sent;
        volatile String received;

        @Override
        public <Request, Response> ServerCall.Listener<Request> interceptCall(
                ServerCall<Request, Response> call, Metadata headers, ServerCallHandler<Request, Response> next) {
            received = headers.get(Session.HEADER);
            return next.startCall(new SimpleForwardingServerCall<>(call) {
                @Override
                public void sendHeaders(Metadata response) {
                    if (sent != null) {
                        response.put(Session.HEADER, sent);
                    }
                    super.sendHeaders(response);
                }
            }, headers);
        }
    }

    private static final class Reservations extends ReservationServiceGrpc.ReservationServiceImplBase {
        @Override
        public void reserveTicket(ReserveTicketRequest request, StreamObserver<ReserveTicketResponse> observer) {
            Reservation reservation = Reservation.newBuilder().setTicketId(request.getTicketId()).build();
            observer.onNext(ReserveTicketResponse.newBuilder().setReservation(reservation).build());
            observer.onCompleted();
        }
    }

    private static final class Views extends QueryServiceGrpc.QueryServiceImplBase {
        @Override
        public void getTicketView(GetTicketViewRequest request, StreamObserver<GetTicketViewResponse> observer) {
            observer.onNext(GetTicketViewResponse.getDefaultInstance());
            observer.onCompleted();
        }

        @Override
        public void watchTicketViews(
                WatchTicketViewsRequest request, StreamObserver<WatchTicketViewsResponse> observer) {
            observer.onCompleted();
        }
    }

    private SessionCheck() {}

    public static void main(String[] arguments) throws IOException {
        Tokens tokens = new Tokens();
        Server server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0))
                .addService(new Reservations())
                .addService(new Views())
                .intercept(tokens)
                .build()
                .start();
        Session session = new Session();
        ManagedChannel channel = NettyChannelBuilder.forAddress("127.0.0.1", server.getPort())
                .usePlaintext()
                .intercept(session)
                .build();
        var reservations = ReservationServiceGrpc.newBlockingStub(channel);
        var views = QueryServiceGrpc.newBlockingStub(channel);

        reservations.reserveTicket(ReserveTicketRequest.newBuilder().setTicketId("a").build());
        views.getTicketView(GetTicketViewRequest.getDefaultInstance());
        expect("a server without tokens changes nothing", null, tokens.received);

        for (String token : new String[] {"a1", "b1", "a2"}) {
            tokens.sent = token;
            reservations.reserveTicket(ReserveTicketRequest.newBuilder().setTicketId(token.substring(0, 1)).build());
            expect("a command sends no tokens", null, tokens.received);
        }
        tokens.sent = null;
        views.getTicketView(GetTicketViewRequest.getDefaultInstance());
        expect("a read sends the newest token of each ticket", "b1,a2", tokens.received);
        tokens.received = null;
        views.watchTicketViews(WatchTicketViewsRequest.getDefaultInstance()).forEachRemaining(message -> {});
        expect("a watch sends the newest token of each ticket", "b1,a2", tokens.received);

        IntStream.range(0, 65).forEach(number -> session.remember("" + number, "t" + number));
        String latest = IntStream.range(1, 65).mapToObj(number -> "t" + number).collect(Collectors.joining(","));
        expect("the latest 64 tokens are kept", latest, session.tokens());

        channel.shutdownNow();
        server.shutdownNow();
    }

    private static void expect(String rule, String expected, String found) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError(rule + ": expected " + expected + ", found " + found);
        }
    }
}
