// Command stub makes one measured call as an application in Go does: with generated stubs, under the service config that ships beside the
// protos. It prints how the call ended as one line of JSON. Or it runs a scenario of several calls, and prints what it has seen.
//
//	stub SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS
//
// CALL is reserve, view, tickets or scenario.
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

	queryv1 "eticket.example/go/eticket/query/v1"
	reservationv1 "eticket.example/go/eticket/reservation/v1"
	ticketv1 "eticket.example/go/eticket/ticket/v1"
	"eticket/integration-tests/clients/go/session"
)

type outcome struct {
	Code   uint32 `json:"code"`
	Reason string `json:"reason"`
	Millis int64  `json:"millis"`
}

func call(ctx context.Context, channel *grpc.ClientConn, name, id string) (err error) {
	switch name {
	case "reserve":
		request := &reservationv1.ReserveTicketRequest{
			TicketId: id, UserId: "go", UserGrade: reservationv1.UserGrade_USER_GRADE_SILVER,
		}
		_, err = reservationv1.NewReservationServiceClient(channel).ReserveTicket(ctx, request)
	case "view":
		request := &queryv1.GetTicketViewRequest{TicketId: id, Wait: queryv1.WaitFor_WAIT_FOR_APPLIED}
		_, err = queryv1.NewQueryServiceClient(channel).GetTicketView(ctx, request)
	case "tickets":
		_, err = ticketv1.NewTicketServiceClient(channel).ListTickets(ctx, &ticketv1.ListTicketsRequest{})
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
	own := new(session.Session)
	channel, err := grpc.NewClient(os.Args[2],
		grpc.WithChainUnaryInterceptor(own.Unary),
		grpc.WithChainStreamInterceptor(own.Stream),
		grpc.WithDefaultServiceConfig(string(config)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	if os.Args[3] == "scenario" {
		if err := runScenario(channel, os.Args[4], time.Duration(deadline)*time.Millisecond); err != nil {
			log.Fatal(err)
		}
		return
	}
	// The first call, which is refused, connects. Only the second one is measured.
	first := &reservationv1.CancelReservationRequest{ReservationId: "none"}
	_, err = reservationv1.NewReservationServiceClient(channel).CancelReservation(context.Background(), first)
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
