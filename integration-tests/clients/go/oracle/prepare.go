package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	queryv1 "eticket.example/go/eticket/query/v1"
	reservationv1 "eticket.example/go/eticket/reservation/v1"
	ticketv1 "eticket.example/go/eticket/ticket/v1"
)

// prepare registers the tickets that both faces read, and waits until the view shows them:
//
//	one    is available
//	two    is reserved by alice, as {reserved}
//	three  is withdrawn
//	four   had a reservation of "kim lee", as {cancelled}
//	past   is expired
func prepare(ctx context.Context, channel *grpc.ClientConn, faces []*face) error {
	tickets := ticketv1.NewTicketServiceClient(channel)
	reservations := reservationv1.NewReservationServiceClient(channel)
	tokens := map[string]string{}
	for id, start := range map[string]time.Time{
		"one": start, "two": start, "three": start.AddDate(0, 0, 1), "four": start, "past": start.AddDate(-80, 0, 0),
	} {
		token, err := register(ctx, tickets, id, start)
		if err != nil {
			return err
		}
		tokens[id] = token
	}
	reserve := func(ticket, user string) (string, error) {
		reserved, err := reservations.ReserveTicket(ctx, &reservationv1.ReserveTicketRequest{
			TicketId: ticket, UserId: user, UserGrade: reservationv1.UserGrade_USER_GRADE_VIP,
		})
		tokens[ticket] = reserved.GetConsistencyToken()
		return reserved.GetReservation().GetReservationId(), err
	}
	reserved, err := reserve("two", "alice")
	if err != nil {
		return fmt.Errorf("reserve two: %w", err)
	}
	cancelled, err := reserve("four", "kim lee")
	if err != nil {
		return fmt.Errorf("reserve four: %w", err)
	}
	cancellation, err := reservations.CancelReservation(ctx, &reservationv1.CancelReservationRequest{ReservationId: cancelled})
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	tokens["four"] = cancellation.GetConsistencyToken()
	withdrawn, err := tickets.WithdrawTicket(ctx, &ticketv1.WithdrawTicketRequest{TicketId: "three"})
	if err != nil {
		return fmt.Errorf("withdraw: %w", err)
	}
	tokens["three"] = withdrawn.GetConsistencyToken()
	for id, token := range tokens {
		if _, err := queryv1.NewQueryServiceClient(channel).GetTicketView(ctx, &queryv1.GetTicketViewRequest{
			TicketId: id, ConsistencyToken: token, Wait: queryv1.WaitFor_WAIT_FOR_SETTLED,
		}); err != nil {
			return fmt.Errorf("view of %s: %w", id, err)
		}
	}
	for _, face := range faces {
		face.saved["reserved"], face.saved["cancelled"] = reserved, cancelled
		face.saved["token of two"] = tokens["two"]
		face.saved["my request"] = uuid.NewString()
		face.register = func(id string) error {
			_, err := register(ctx, tickets, id, start)
			return err
		}
	}
	return nil
}

// start is on a Wednesday, for which the policy has a discount.
var start = time.Date(2099, 1, 7, 10, 0, 0, 0, time.UTC)

func register(ctx context.Context, tickets ticketv1.TicketServiceClient, id string, start time.Time) (string, error) {
	registered, err := tickets.RegisterTicket(ctx, &ticketv1.RegisterTicketRequest{
		TicketId: id, Title: "수요일, Jazz & \"Blues\"",
		StartTime: timestamppb.New(start), EndTime: timestamppb.New(start.Add(2 * time.Hour)),
	})
	if err != nil {
		return "", fmt.Errorf("register %s: %w", id, err)
	}
	return registered.GetConsistencyToken(), nil
}
