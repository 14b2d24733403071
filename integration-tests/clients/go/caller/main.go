// Command caller is a gRPC client as people have one: grpc-go's own channel under the service config that ships beside the
// protos. A test drives it: each line of standard input is a number, a method and a request in hexadecimal, each line of standard
// output the number, the status code and the response. Calls run side by side.
//
//	caller SERVICE_CONFIG HOST:PORT...
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// bytes hands messages on as they are: the test knows their types.
type bytes struct{}

func (bytes) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (bytes) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (bytes) Name() string { return "proto" }

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: caller SERVICE_CONFIG HOST:PORT...")
	}
	config, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	addresses := manual.NewBuilderWithScheme("gateways")
	var state resolver.State
	for _, address := range os.Args[2:] {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	addresses.InitialState(state)
	channel, err := grpc.NewClient("gateways:///eticket",
		grpc.WithResolvers(addresses),
		grpc.WithDefaultServiceConfig(string(config)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytes{})))
	if err != nil {
		log.Fatal(err)
	}
	var calls sync.WaitGroup
	var output sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Split(lines.Text(), " ")
		if len(words) != 3 {
			log.Fatalf("expected a number, a method and a request, got %q", lines.Text())
		}
		request, err := hex.DecodeString(words[2])
		if err != nil {
			log.Fatal(err)
		}
		calls.Add(1)
		go func() {
			defer calls.Done()
			var response []byte
			err := channel.Invoke(context.Background(), "/"+words[1], &request, &response)
			failure := status.Convert(err)
			if err != nil {
				log.Printf("%s %s: %v", words[0], words[1], failure.Message())
			}
			output.Lock()
			defer output.Unlock()
			fmt.Printf("%s %d %s\n", words[0], failure.Code(), hex.EncodeToString(response))
		}()
	}
	calls.Wait()
}
