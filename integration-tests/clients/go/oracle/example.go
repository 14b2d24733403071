package main

import (
	"maps"
	"slices"
	"strings"
)

// example is a request. `{face}` in it is the name of the face, so that each has tickets of its own; names of saved values are
// replaced too, and those that differ between the faces begin with `my`.
type example struct {
	verb, path, body string
	headers          map[string]string
	// row is the difference that the table lists; empty: none.
	row string
	// saves are paths in the response by the name under which later cases use the values.
	saves map[string]string
}

func get(path string) example { return send("GET", path) }

// send makes a request without a body.
func send(verb, path string) example { return example{verb: verb, path: path} }

func post(path, body string) example { return command("POST", path, body) }

func patch(path, body string) example { return command("PATCH", path, body) }

func command(verb, path, body string) example {
	return example{verb: verb, path: path, body: body, headers: map[string]string{"Content-Type": "application/json"}}
}

func (e example) header(name, value string) example {
	e.headers = maps.Clone(e.headers)
	if e.headers == nil {
		e.headers = map[string]string{}
	}
	e.headers[name] = value
	return e
}

func (e example) withBody(body string) example {
	e.body = body
	return e
}

func (e example) differs(row string) example {
	e.row = row
	return e
}

func (e example) save(name, path string) example {
	e.saves = map[string]string{name: path}
	return e
}

// isOwn returns whether the request is about a ticket of the face, or may create one.
func (e example) isOwn() bool {
	return e.verb != "GET" || strings.Contains(e.path, "{face}") || strings.Contains(e.path, "{my ")
}

func (e example) String() string {
	text := e.verb + " " + e.path
	for _, name := range slices.Sorted(maps.Keys(e.headers)) {
		text += " " + name + "=" + e.headers[name]
	}
	const most = 200
	return text + " " + e.body[:min(len(e.body), most)]
}
