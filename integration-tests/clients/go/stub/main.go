// Command stub makes one measured call as an application in Go does: with generated stubs, under the service config that ships beside the
// protos. It prints how the call ended as one line of JSON.
//
//	stub SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS
//
// CALL is reserve, view or tickets.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"eticket/integration-tests/clients/go/gen/query"
	"eticket/integration-tests/clients/go/gen/reservation"
	"eticket/integration-tests/clients/go/gen/ticket"
)

type outcome struct {
	Code   uint32 `json:"code"`
	Reason string `json:"reason"`
	Millis int64  `json:"millis"`
}

func call(ctx context.Context, channel *grpc.ClientConn, name, id string) (err error) {
	switch name {
	case "reserve":
		request := &reservation.ReserveTicketRequest{
			TicketId: id, UserId: "go", UserGrade: reservation.UserGrade_USER_GRADE_SILVER,
		}
		_, err = reservation.NewReservationServiceClient(channel).ReserveTicket(ctx, request)
	case "view":
		request := &query.GetTicketViewRequest{TicketId: id, Wait: query.WaitFor_WAIT_FOR_APPLIED}
		_, err = query.NewQueryServiceClient(channel).GetTicketView(ctx, request)
	case "tickets":
		_, err = ticket.NewTicketServiceClient(channel).ListTickets(ctx, &ticket.ListTicketsRequest{})
	default:
		log.Fatalf("no such call: %s", name)
	}
	return err
}

func reason(failure *status.Status) string {
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 6 {
		log.Fatal("usage: stub SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS")
	}
	config, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	deadline, err := strconv.Atoi(os.Args[5])
	if err != nil {
		log.Fatal(err)
	}
	channel, err := grpc.NewClient(os.Args[2],
		grpc.WithDefaultServiceConfig(string(config)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	// The first call, which is refused, connects. Only the second one is measured.
	first := &reservation.CancelReservationRequest{ReservationId: "none"}
	_, err = reservation.NewReservationServiceClient(channel).CancelReservation(context.Background(), first)
	log.Printf("first call: %s", reason(status.Convert(err)))
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(deadline)*time.Millisecond)
	defer cancel()
	failure := status.Convert(call(ctx, channel, os.Args[3], os.Args[4]))
	took := time.Since(begin).Milliseconds()
	log.Printf("%s: %s", failure.Code(), failure.Message())
	if err := json.NewEncoder(os.Stdout).Encode(outcome{uint32(failure.Code()), reason(failure), took}); err != nil {
		log.Fatal(err)
	}
}
