package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"

	"connectrpc.com/vanguard"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	// Error details in responses are looked up in the registry of types.
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"

	pricingv1 "eticket.example/go/eticket/pricing/v1"
	queryv1 "eticket.example/go/eticket/query/v1"
	reservationv1 "eticket.example/go/eticket/reservation/v1"
	ticketv1 "eticket.example/go/eticket/ticket/v1"
)

// services are those with REST paths.
var services = []string{
	ticketv1.TicketService_ServiceDesc.ServiceName,
	reservationv1.ReservationService_ServiceDesc.ServiceName,
	pricingv1.PricingService_ServiceDesc.ServiceName,
	queryv1.QueryService_ServiceDesc.ServiceName,
}

// transcoder serves the annotations of the contract by Vanguard, as gRPC calls of the gateway at this address.
func transcoder(gateway string) (http.Handler, error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	grpc := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(&url.URL{Scheme: "http", Host: gateway})
			// It is about the connection to Vanguard.
			request.Out.Header.Del("Expect")
		},
		Transport:     &http.Transport{Protocols: protocols},
		FlushInterval: -1,
	}
	var served []*vanguard.Service
	for _, name := range services {
		served = append(served, vanguard.NewService(name, grpc,
			vanguard.WithTargetProtocols(vanguard.ProtocolGRPC),
			vanguard.WithTargetCodecs(vanguard.CodecProto),
			vanguard.WithNoTargetCompression()))
	}
	return vanguard.NewTranscoder(served, vanguard.WithCodec(newCodec))
}

// codec writes the forms of proto3 JSON that the gateway has chosen: default values in messages and not in errors, and nothing for a
// message that is not set. What it reads is Vanguard's choice.
type codec struct {
	*vanguard.JSONCodec
	errors protojson.MarshalOptions
}

func newCodec(types vanguard.TypeResolver) vanguard.Codec {
	json := vanguard.NewJSONCodec(types)
	json.MarshalOptions = protojson.MarshalOptions{Resolver: types, EmitDefaultValues: true}
	return codec{JSONCodec: json, errors: protojson.MarshalOptions{Resolver: types}}
}

func (c codec) MarshalAppend(base []byte, message proto.Message) ([]byte, error) {
	if _, is := message.(*status.Status); is {
		return c.errors.MarshalAppend(base, message)
	}
	return c.JSONCodec.MarshalAppend(base, message)
}
