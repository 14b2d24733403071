package eticket;

import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Makes the reads of a client include its own commands: keeps the newest consistency token of each ticket and sends the tokens with each read.
 * With servers that send no tokens it does nothing. Holds the tokens of one user; channels may share it.
 */
final class Session implements ClientInterceptor {
    static final Metadata.Key<String> HEADER =
            Metadata.Key.of("eticket-consistency-token", Metadata.ASCII_STRING_MARSHALLER);
    private static final String READS = "eticket.query.v1.QueryService";
    /** The most tokens that a server accepts. */
    private static final int LIMIT = 64;

    private final Map<String, String> tokens = new LinkedHashMap<>();

    /** Stores the token of a command on a ticket. */
    synchronized void remember(String ticketId, String token) {
        tokens.remove(ticketId);
        tokens.put(ticketId, token);
        if (tokens.size() > LIMIT) {
            tokens.remove(tokens.keySet().iterator().next());
        }
    }

    /** Returns the tokens as the metadata of a read has them; empty without any. */
    synchronized String tokens() {
        return String.join(",", tokens.values());
    }

    @Override
    public <Request, Response> ClientCall<Request, Response> interceptCall(
            MethodDescriptor<Request, Response> method, CallOptions options, Channel next) {
        return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
            @Override
            public void start(Listener<Response> listener, Metadata headers) {
                String tokens = tokens();
                if (!tokens.isEmpty() && READS.equals(method.getServiceName())) {
                    headers.put(HEADER, tokens);
                }
                super.start(new Keeping<>(listener), headers);
            }
        };
    }

    /** Stores the token of a response. */
    private final class Keeping<Response> extends SimpleForwardingClientCallListener<Response> {
        private String token;
        private String ticketId;

        Keeping(ClientCall.Listener<Response> listener) {
            super(listener);
        }

        @Override
        public void onHeaders(Metadata headers) {
            token = headers.get(HEADER);
            super.onHeaders(headers);
        }

        @Override
        public void onMessage(Response message) {
            ticketId = ticketOf(message);
            super.onMessage(message);
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            if (status.isOk() && token != null && ticketId != null) {
                remember(ticketId, token);
            }
            super.onClose(status, trailers);
        }
    }

    /** Returns the ticket_id of the ticket or reservation in the response of a command, or null. */
    private static String ticketOf(Object response) {
        if (response instanceof Message message) {
            for (String name : List.of("ticket", "reservation")) {
                FieldDescriptor field = message.getDescriptorForType().findFieldByName(name);
                if (field != null && message.hasField(field)) {
                    Message inner = (Message) message.getField(field);
                    return (String) inner.getField(inner.getDescriptorForType().findFieldByName("ticket_id"));
                }
            }
        }
        return null;
    }
}
