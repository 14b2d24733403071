package session

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	queryv1 "eticket.example/go/eticket/query/v1"
	reservationv1 "eticket.example/go/eticket/reservation/v1"
)

// call runs the interceptor for a server that sends this token, and returns the tokens that the server gets.
func call(t *testing.T, session *Session, method, token string, response any) []string {
	t.Helper()
	var sent []string
	invoke := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, options ...grpc.CallOption) error {
		metadataSent, _ := metadata.FromOutgoingContext(ctx)
		sent = metadataSent.Get(header)
		for _, option := range options {
			if headers, ok := option.(grpc.HeaderCallOption); ok && token != "" {
				*headers.HeaderAddr = metadata.Pairs(header, token)
			}
		}
		return nil
	}
	if err := session.Unary(context.Background(), method, nil, response, nil, invoke); err != nil {
		t.Fatal(err)
	}
	return sent
}

func reserved(ticket string) any {
	return &reservationv1.ReserveTicketResponse{Reservation: &reservationv1.Reservation{TicketId: ticket}}
}

func TestReadsSendTheNewestTokenOfEachTicket(t *testing.T) {
	session := new(Session)
	for _, command := range [][2]string{{"a", "a1"}, {"b", "b1"}, {"a", "a2"}} {
		if sent := call(t, session, reservationv1.ReservationService_ReserveTicket_FullMethodName, command[1], reserved(command[0])); sent != nil {
			t.Errorf("a command sends %v", sent)
		}
	}
	sent := call(t, session, queryv1.QueryService_GetTicketView_FullMethodName, "", new(queryv1.GetTicketViewResponse))
	if len(sent) != 1 || sent[0] != "b1,a2" {
		t.Errorf("the read sends %v", sent)
	}
}

func TestTheLatest64TokensAreKept(t *testing.T) {
	session := new(Session)
	for number := range 65 {
		session.Remember(fmt.Sprint(number), fmt.Sprintf("t%d", number))
	}
	kept := strings.Split(session.Tokens(), ",")
	if len(kept) != 64 || kept[0] != "t1" || kept[63] != "t64" {
		t.Errorf("%d tokens: %v", len(kept), kept)
	}
}

func TestAServerWithoutTokensChangesNothing(t *testing.T) {
	session := new(Session)
	call(t, session, reservationv1.ReservationService_ReserveTicket_FullMethodName, "", reserved("a"))
	if sent := call(t, session, queryv1.QueryService_GetTicketView_FullMethodName, "", new(queryv1.GetTicketViewResponse)); sent != nil {
		t.Errorf("the read sends %v", sent)
	}
}
