package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

var (
	rows = map[string]difference{"strict": {gateway: "400 INVALID_FIELD", vanguard: "200"}}
	ok   = read(200, []byte(`{"ticket":{"title":"x"}}`))
)

func refused(text string) outcome {
	return read(400, []byte(`{"code":3,"message":"`+text+`","details":[{"reason":"INVALID_FIELD"}]}`))
}

func TestADifferenceMustBeListedAndOccur(t *testing.T) {
	plain, listed := get("/"), get("/").differs("strict")
	for _, test := range []struct {
		example           example
		gateway, vanguard outcome
		problem           string
	}{
		{plain, ok, read(200, []byte(` {"ticket": {"title": "\u0078"}}`)), ""},
		{plain, refused("a"), refused("a"), ""},
		{plain, refused("a"), refused("b"), "not listed"},
		{plain, refused("a"), ok, "not listed"},
		{plain, ok, read(200, []byte(`{"ticket":{"title":"y"}}`)), "not listed"},
		{plain, ok, read(200, []byte(`{"ticket":{"title":"x","etag":null}}`)), "not listed"},
		{plain, ok, read(201, []byte(`{"ticket":{"title":"x"}}`)), "not listed"},
		{listed, refused("a"), ok, ""},
		{listed, ok, ok, "no longer occurs"},
		{listed, refused("a"), refused("a"), "no longer occurs"},
		{listed, ok, refused("a"), "not the difference"},
		{listed, refused("a"), read(404, []byte("not found")), "not the difference"},
		{get("/").differs("other"), refused("a"), ok, "has no row"},
	} {
		problem := judge(test.example, test.gateway, test.vanguard, rows)
		if (test.problem == "") != (problem == "") || !strings.Contains(problem, test.problem) {
			t.Errorf("%s, %s: %q instead of %q", test.gateway, test.vanguard, problem, test.problem)
		}
	}
}

func TestARowWithoutACaseIsAProblem(t *testing.T) {
	if problems := unused([]example{get("/").differs("strict")}, rows); len(problems) != 0 {
		t.Error(problems)
	}
	if problems := unused([]example{get("/")}, rows); len(problems) != 1 {
		t.Error(problems)
	}
}

func TestOutcomesNameTheReasonOrTheKindOfBody(t *testing.T) {
	for body, kind := range map[string]string{"": "404 empty", "no page": "404 text", "{} {}": "404 text", `{"code":5}`: "404"} {
		if read := read(404, []byte(body)); read.kind != kind {
			t.Errorf("%q: %s", body, read.kind)
		}
	}
	if kind := refused("a").kind; kind != "400 INVALID_FIELD" {
		t.Error(kind)
	}
}

func TestOnlyValuesMadeForEachCommandAreMadeEqual(t *testing.T) {
	body := func(face, id, time, etag string) any {
		return read(200, []byte(`{"list":[{"ticketId":"`+face+`-1","reservationId":"`+id+`"}],"updateTime":"`+time+`","etag":"`+etag+`"}`)).body
	}
	first, second := &face{name: "facea"}, &face{name: "faceb"}
	one := outcome{body: first.common(body("facea", "0190a6b2-0000-7000-8000-000000000001", "2030-01-01T00:00:00Z", "a"))}
	other := outcome{body: second.common(body("faceb", "0190a6b2-0000-7000-8000-000000000002", "2030-01-02T00:00:00Z", "b"))}
	if problem := judge(get("/"), one, other, nil); problem != "" {
		t.Error(problem)
	}
	for _, wrong := range []any{
		body("facea", "0190a6b2-0000-7000-8000-000000000002", "2030-01-02T00:00:00Z", "b"),
		body("faceb", "no UUID", "2030-01-02T00:00:00Z", "b"),
		body("faceb", "0190a6b2-0000-7000-8000-000000000002", "", "b"),
		body("faceb", "0190a6b2-0000-7000-8000-000000000002", "2030-01-02T00:00:00Z", ""),
	} {
		if judge(get("/"), one, outcome{body: second.common(wrong)}, nil) == "" {
			t.Error(wrong)
		}
	}
}

func TestTheTableIsRead(t *testing.T) {
	page := func(table string) (map[string]difference, error) {
		file := filepath.Join(t.TempDir(), "page.md")
		if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		return readDifferences(file)
	}
	head := "| a | b | c | d |\n" + heading + "\n\n| request | gateway | Vanguard | why |\n| --- | --- | --- | --- |\n"
	read, err := page(head + "| strict | `400 INVALID_FIELD` | `200` | a typo |\n\n## Other\n\n| e | f | g | h |\n")
	if err != nil || len(read) != 1 || read["strict"] != rows["strict"] {
		t.Error(read, err)
	}
	for _, wrong := range []string{"| a | b | c | d |\n", head + "| a | b | c |  |\n", head + "| a | b | c | d |\n| a | b | c | d |\n"} {
		if read, err := page(wrong); err == nil {
			t.Errorf("%s: %v", wrong, read)
		}
	}
}

func TestEveryRouteHasACase(t *testing.T) {
	variable, routes := regexp.MustCompile(`\\\{[a-z_]+\\\}`), 0
	covered := func(verb, template string) {
		routes++
		path := regexp.MustCompile("^" + variable.ReplaceAllString(regexp.QuoteMeta(template), "[^/:]+") + "(\\?|$)")
		if !slices.ContainsFunc(all(), func(test example) bool { return test.verb == verb && path.MatchString(test.path) }) {
			t.Errorf("no case has %s %s", verb, template)
		}
	}
	for _, name := range services {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Fatal(err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for index := range methods.Len() {
			rule := proto.GetExtension(methods.Get(index).Options(), annotations.E_Http).(*annotations.HttpRule)
			for _, rule := range append(rule.GetAdditionalBindings(), rule) {
				for verb, template := range map[string]string{"GET": rule.GetGet(), "POST": rule.GetPost(), "PATCH": rule.GetPatch()} {
					if template != "" {
						covered(verb, template)
					}
				}
			}
		}
	}
	if routes < 19 {
		t.Errorf("only %d routes", routes)
	}
}
