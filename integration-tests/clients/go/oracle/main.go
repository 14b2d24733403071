// Command oracle sends the same requests to the REST of a gateway and to Vanguard, which serves the same annotations in front of
// the gRPC of the same gateway. Both must respond with the same status and JSON. Differences are rows of a table in the
// documentation; one that is not there is an error, and so is a row that no longer holds.
//
//	oracle HOST:PORT PAGE.md
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// summary is written to standard output.
type summary struct {
	Cases    int      `json:"cases"`
	Listed   int      `json:"listed"`
	Problems []string `json:"problems"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: oracle HOST:PORT PAGE.md")
	}
	result, err := run(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func run(gateway, page string) (result summary, err error) {
	rows, err := readDifferences(page)
	if err != nil {
		return result, err
	}
	handler, err := transcoder(gateway)
	if err != nil {
		return result, err
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	// The names have the same length, because fields have limits.
	faces := []*face{
		{name: "facea", address: gateway, saved: map[string]string{}},
		{name: "faceb", address: server.Listener.Addr().String(), saved: map[string]string{}},
	}
	channel, err := grpc.NewClient(gateway, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return result, err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := prepare(ctx, channel, faces); err != nil {
		return result, fmt.Errorf("cannot prepare tickets: %w", err)
	}
	tests := all()
	result.Problems = unused(tests, rows)
	for number, test := range tests {
		problem := ""
		for attempt := range attempts(test) {
			var outcomes [2]outcome
			for index, face := range faces {
				if outcomes[index], err = face.run(ctx, number, test); err != nil {
					return result, fmt.Errorf("%s: %s: %w", test, face.name, err)
				}
			}
			if problem = judge(test, outcomes[0], outcomes[1], rows); problem == "" {
				break
			}
			log.Printf("%s: attempt %d: %s", test, attempt, problem)
		}
		if problem != "" {
			result.Problems = append(result.Problems, fmt.Sprintf("%s: %s", test, problem))
		}
		result.Cases++
		if test.row != "" {
			result.Listed++
		}
	}
	return result, nil
}

// attempts returns how often a case may run. What a read shows may change between its two requests: the ticket service announces the
// expiry of a ticket at a time of its own. A difference between the faces is there again in each attempt.
func attempts(test example) int {
	if test.verb == "GET" {
		return 3
	}
	return 1
}

// all returns the cases. Reads come first: commands change what a list shows between the two requests of a case.
func all() []example {
	return slices.Concat(paths, parameters, views, bodies, commands)
}
