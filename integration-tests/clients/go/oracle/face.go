package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// face is one of the two servers of REST.
type face struct {
	// name is unlike any other text, so that it can be found in responses.
	name    string
	address string
	// saved has values of earlier responses by name.
	saved map[string]string
	// register registers a ticket.
	register func(id string) error
}

// outcome is what a client sees of a response.
type outcome struct {
	// kind is the status, and the reason of an error or what the body is instead of JSON.
	kind string
	body any
}

var client = &http.Client{
	Transport: &http.Transport{DisableCompression: true, ExpectContinueTimeout: 10 * time.Second},
	Timeout:   20 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

// run sends the request of a case, and keeps values of the response for later cases.
func (f *face) run(ctx context.Context, number int, test example) (outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if strings.Contains(test.path+test.body, "{fresh}") {
		f.saved["fresh"] = fmt.Sprint(f.name, "-fresh-", number)
		if err := f.register(f.saved["fresh"]); err != nil {
			return outcome{}, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, test.verb, "http://"+f.address, strings.NewReader(f.fill(test.body)))
	if err != nil {
		return outcome{}, err
	}
	// An opaque target is sent as it stands, also if it is malformed.
	request.URL = &url.URL{Scheme: "http", Host: f.address, Opaque: f.fill(test.path)}
	for name, value := range test.headers {
		request.Header.Set(name, f.fill(value))
	}
	response, err := client.Do(request)
	if err != nil {
		return outcome{}, err
	}
	defer response.Body.Close()
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		return outcome{kind: fmt.Sprint(response.StatusCode, " events")}, nil
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return outcome{}, err
	}
	result := read(response.StatusCode, body)
	for name, path := range test.saves {
		value, _ := at(result.body, strings.Split(path, ".")).(string)
		if value == "" {
			return outcome{}, fmt.Errorf("the response has no %s: %s", path, body)
		}
		f.saved[name] = value
	}
	if test.isOwn() {
		result.body = f.common(result.body)
	}
	return result, nil
}

// fill replaces the names of the face and of saved values.
func (f *face) fill(text string) string {
	text = strings.ReplaceAll(text, "{face}", f.name)
	for name, value := range f.saved {
		text = strings.ReplaceAll(text, "{"+name+"}", value)
	}
	return text
}

// read reads a response.
func read(status int, body []byte) outcome {
	kind := fmt.Sprint(status)
	if len(body) == 0 {
		return outcome{kind: kind + " empty"}
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil || decoder.More() {
		return outcome{kind: kind + " text", body: string(body)}
	}
	details, _ := at(value, []string{"details"}).([]any)
	for _, detail := range details {
		if reason, is := at(detail, []string{"reason"}).(string); is {
			kind += " " + reason
		}
	}
	return outcome{kind: kind, body: value}
}

// at returns the value at a path of members.
func at(value any, path []string) any {
	for _, name := range path {
		members, _ := value.(map[string]any)
		value = members[name]
	}
	return value
}

// made are the members that a server makes anew for each command.
var made = map[string]bool{
	"consistencyToken": true, "createTime": true, "etag": true, "reserveTime": true, "updateTime": true,
}

var uuids = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// common replaces what differs because the faces have tickets of their own.
func (f *face) common(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			if text, is := member.(string); is && made[name] && text != "" {
				value[name] = "made by the server"
			} else {
				value[name] = f.common(member)
			}
		}
		return value
	case []any:
		for index, element := range value {
			value[index] = f.common(element)
		}
		return value
	case string:
		return uuids.ReplaceAllString(strings.ReplaceAll(value, f.name, "{face}"), "a UUID")
	default:
		return value
	}
}
