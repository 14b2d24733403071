// Package session makes the reads of a client include its own commands. Its interceptors keep the newest consistency token of each ticket and
// send the tokens with each read. With servers that send no tokens they do nothing.
package session

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	header = "eticket-consistency-token"
	reads  = "/eticket.query.v1.QueryService/"
	// limit is the most tokens that a server accepts.
	limit = 64
)

// Session holds the tokens of one user. Channels may share it.
type Session struct {
	mutex  sync.Mutex
	tokens map[string]string
	// order has the tickets of the tokens, the newest last.
	order []string
}

// Remember stores the token of a command on a ticket.
func (s *Session) Remember(ticket, token string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.tokens == nil {
		s.tokens = make(map[string]string)
	}
	for i, known := range s.order {
		if known == ticket {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
	s.order = append(s.order, ticket)
	s.tokens[ticket] = token
	if len(s.order) > limit {
		delete(s.tokens, s.order[0])
		s.order = s.order[1:]
	}
}

// Tokens returns the tokens as the metadata of a read has them; empty without any.
func (s *Session) Tokens() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	tokens := make([]string, 0, len(s.order))
	for _, ticket := range s.order {
		tokens = append(tokens, s.tokens[ticket])
	}
	return strings.Join(tokens, ",")
}

// Unary is for grpc.WithChainUnaryInterceptor.
func (s *Session) Unary(ctx context.Context, method string, request, response any, channel *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	var headers metadata.MD
	err := invoke(s.with(ctx, method), method, request, response, channel, append(options, grpc.Header(&headers))...)
	if token := headers.Get(header); err == nil && len(token) > 0 {
		if ticket := ticketOf(response); ticket != "" {
			s.Remember(ticket, token[0])
		}
	}
	return err
}

// Stream is for grpc.WithChainStreamInterceptor.
func (s *Session) Stream(ctx context.Context, description *grpc.StreamDesc, channel *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(s.with(ctx, method), description, channel, method, options...)
}

func (s *Session) with(ctx context.Context, method string) context.Context {
	if tokens := s.Tokens(); tokens != "" && strings.HasPrefix(method, reads) {
		return metadata.AppendToOutgoingContext(ctx, header, tokens)
	}
	return ctx
}

// ticketOf returns the ticket_id of the ticket or reservation in the response of a command.
func ticketOf(response any) string {
	message, ok := response.(proto.Message)
	if !ok {
		return ""
	}
	reflected := message.ProtoReflect()
	for _, name := range []protoreflect.Name{"ticket", "reservation"} {
		field := reflected.Descriptor().Fields().ByName(name)
		if field == nil || field.Message() == nil {
			continue
		}
		if id := field.Message().Fields().ByName("ticket_id"); id != nil {
			return reflected.Get(field).Message().Get(id).String()
		}
	}
	return ""
}
