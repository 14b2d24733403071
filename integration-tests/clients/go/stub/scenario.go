package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	queryv1 "eticket.example/go/eticket/query/v1"
	reservationv1 "eticket.example/go/eticket/reservation/v1"
	ticketv1 "eticket.example/go/eticket/ticket/v1"
)

// result is what the scenario has seen.
type result struct {
	Reason  string `json:"reason"`
	Text    string `json:"text"`
	Holder  string `json:"holder"`
	Settled bool   `json:"settled"`
	Changed string `json:"changed"`
}

// scenario registers a ticket, reserves it, is refused a second time, reads the settled view, watches, cancels, and resumes the watch.
func scenario(ctx context.Context, channel *grpc.ClientConn, id string) (seen result, err error) {
	tickets := ticketv1.NewTicketServiceClient(channel)
	reservations := reservationv1.NewReservationServiceClient(channel)
	views := queryv1.NewQueryServiceClient(channel)

	start := time.Now().Add(30 * 24 * time.Hour)
	if _, err = tickets.RegisterTicket(ctx, &ticketv1.RegisterTicketRequest{
		TicketId:  id,
		Title:     "Choir",
		StartTime: timestamppb.New(start),
		EndTime:   timestamppb.New(start.Add(2 * time.Hour)),
		RequestId: uuid.NewString(),
	}); err != nil {
		return seen, fmt.Errorf("register: %w", err)
	}

	// A retry, by the service config or by you, sends the same request with the same request_id, and gets the same response.
	reserved, err := reservations.ReserveTicket(ctx, &reservationv1.ReserveTicketRequest{
		TicketId: id, UserId: "go", UserGrade: reservationv1.UserGrade_USER_GRADE_SILVER, RequestId: uuid.NewString(),
	})
	if err != nil {
		return seen, fmt.Errorf("reserve: %w", err)
	}

	_, refused := reservations.ReserveTicket(metadata.AppendToOutgoingContext(ctx, "accept-language", "ko"),
		&reservationv1.ReserveTicketRequest{
			TicketId: id, UserId: "another", UserGrade: reservationv1.UserGrade_USER_GRADE_GOLD, RequestId: uuid.NewString(),
		})
	for _, detail := range status.Convert(refused).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			seen.Reason = detail.GetReason()
		case *errdetails.LocalizedMessage:
			seen.Text = detail.GetMessage()
		}
	}

	read, err := views.GetTicketView(ctx, &queryv1.GetTicketViewRequest{
		TicketId: id, ConsistencyToken: reserved.GetConsistencyToken(), Wait: queryv1.WaitFor_WAIT_FOR_SETTLED,
	})
	if err != nil {
		return seen, fmt.Errorf("view: %w", err)
	}
	seen.Holder, seen.Settled = read.GetView().GetUserId(), read.GetView().GetSettled()

	token, err := follow(ctx, views, id, "", func(*queryv1.TicketView) bool { return true })
	if err != nil {
		return seen, fmt.Errorf("watch: %w", err)
	}
	if _, err = reservations.CancelReservation(ctx, &reservationv1.CancelReservationRequest{
		ReservationId: reserved.GetReservation().GetReservationId(), RequestId: uuid.NewString(),
	}); err != nil {
		return seen, fmt.Errorf("cancel: %w", err)
	}
	// The watch missed the cancellation; its token makes it continue there.
	_, err = follow(ctx, views, id, token, func(view *queryv1.TicketView) bool {
		seen.Changed = view.GetReservationStatus().String()
		return view.GetReservationStatus() == reservationv1.ReservationStatus_RESERVATION_STATUS_CANCELLED
	})
	if err != nil {
		return seen, fmt.Errorf("resumed watch: %w", err)
	}
	return seen, nil
}

// follow watches a ticket until a view is the wanted one, and returns the token that continues after it. It survives broken streams.
func follow(ctx context.Context, views queryv1.QueryServiceClient, id, token string, wanted func(*queryv1.TicketView) bool) (string, error) {
	// Leaving the loop ends the stream.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for {
		found := false
		stream, err := views.WatchTicketViews(ctx, &queryv1.WatchTicketViewsRequest{TicketIds: []string{id}, ResumeToken: token})
		for err == nil {
			var message *queryv1.WatchTicketViewsResponse
			if message, err = stream.Recv(); err != nil {
				break
			}
			if view := message.GetView(); view != nil {
				found = wanted(view) || found
			}
			// Within a snapshot only the last message has a token.
			if next := message.GetResumeToken(); next != "" {
				token = next
				if found {
					return token, nil
				}
			}
		}
		if status.Code(err) != codes.Unavailable {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func runScenario(channel *grpc.ClientConn, id string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	seen, err := scenario(ctx, channel, id)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}
