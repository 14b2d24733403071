package main

import "strings"

// bodies are about the JSON of requests: each of them registers a ticket, or is refused.
var bodies = []example{
	post("/v1/tickets", `{"ticketId":"{face}-1","title":"Jazz","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"ticket_id":"{face}-2","title":"Jazz","start_time":"2099-01-07T10:00:00Z","end_time":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"title":"without an id","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", ` { "ticketId" : "{face}-3" , "title" : "Spaces" ,
		"startTime":"2099-01-07T19:00:00+09:00","endTime":"2099-01-07T21:00:00.5+09:00" } `),
	post("/v1/tickets", `{"ticketId":"{face}-4","title":"한글 😀 \u00e9 \ud83c\udfab \" \\ \/","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"ticketId":"{face}-1","title":"again","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", ticketOf("{face}-5")).header("Content-Type", "application/json; charset=utf-8"),
	post("/v1/tickets", ticketOf("{face}-6")).header("Content-Type", "application/json;charset=UTF-8").differs("content type with capitals or parameters"),
	post("/v1/tickets", ticketOf("{face}-7")).header("Content-Type", "Application/JSON").differs("content type with capitals or parameters"),
	post("/v1/tickets", ticketOf("{face}-8")).header("Content-Type", "application/json; odata=verbose").differs("content type with capitals or parameters"),
	post("/v1/tickets", ticketOf("{face}-9")).header("Content-Type", "text/plain").differs("another content type"),
	post("/v1/tickets", ticketOf("{face}-10")).header("Content-Type", "application/x-www-form-urlencoded").differs("another content type"),
	post("/v1/tickets", ticketOf("{face}-11")).header("Content-Type", "application/x-protobuf").differs("another content type"),
	post("/v1/tickets", ticketOf("{face}-12")).header("Content-Type", "application/merge-patch+json").differs("another content type"),
	post("/v1/tickets", ticketOf("{face}-13")).header("Content-Type", "nonsense").differs("another content type"),
	post("/v1/tickets", ticketOf("{face}-14")).header("Content-Encoding", "gzip").differs("body that is not gzip"),
	post("/v1/tickets", ticketOf("{face}-15")).header("Content-Encoding", "br").differs("another content type"),
	post("/v1/tickets", ticketOf("{face}-16")).header("Content-Encoding", "identity"),
	send("POST", "/v1/tickets").differs("empty body"),
	post("/v1/tickets", "").differs("empty body"),

	// Bodies that are no JSON object.
	post("/v1/tickets", "{").differs("body that is no JSON object"),
	post("/v1/tickets", "}").differs("body that is no JSON object"),
	post("/v1/tickets", " ").differs("body that is no JSON object"),
	post("/v1/tickets", "nonsense").differs("body that is no JSON object"),
	post("/v1/tickets", "null").differs("body that is no JSON object"),
	post("/v1/tickets", "[]").differs("body that is no JSON object"),
	post("/v1/tickets", `"text"`).differs("body that is no JSON object"),
	post("/v1/tickets", "7").differs("body that is no JSON object"),
	post("/v1/tickets", "true").differs("body that is no JSON object"),
	post("/v1/tickets", "{} {}").differs("body that is no JSON object"),
	post("/v1/tickets", "{}x").differs("body that is no JSON object"),
	post("/v1/tickets", `{"title":"x",}`).differs("body that is no JSON object"),
	post("/v1/tickets", `{title:"x"}`).differs("body that is no JSON object"),
	post("/v1/tickets", `{'title':'x'}`).differs("body that is no JSON object"),
	post("/v1/tickets", `{"title":"x" /* comment */}`).differs("body that is no JSON object"),
	post("/v1/tickets", "{\"title\":\"a\nb\"}").differs("body that is no JSON object"),
	post("/v1/tickets", "{\"title\":\"\xff\"}").differs("body that is no JSON object"),
	post("/v1/tickets", `{"title":"\ud800"}`).differs("body that is no JSON object"),
	post("/v1/tickets", `{"title":"\x"}`).differs("body that is no JSON object"),
	post("/v1/tickets", `{"title":NaN}`).differs("body that is no JSON object"),
	post("/v1/tickets", "\ufeff{}").differs("body that is no JSON object"),
	post("/v1/tickets", "ticketId=a&title=b").differs("body that is no JSON object"),

	// Fields that are wrong.
	post("/v1/tickets", "{}"),
	post("/v1/tickets", withField(`"ticketId":"{face}-20"`, `"unknown":1`)).differs("unknown field"),
	post("/v1/tickets", withField(`"ticketId":"{face}-21"`, `"Title":"x"`)).differs("unknown field"),
	post("/v1/tickets", withField(`"ticketId":"{face}-22"`, `"title":"twice"`)).differs("member that is given twice"),
	post("/v1/tickets", withField(`"ticketId":"{face}-23"`, `"ticket_id":"{face}-23"`)).differs("member that is given twice"),
	post("/v1/tickets", withField(`"ticketId":7`, "")).differs("field of another type"),
	post("/v1/tickets", withField(`"ticketId":true`, "")).differs("field of another type"),
	post("/v1/tickets", withField(`"ticketId":["{face}-24"]`, "")).differs("field of another type"),
	post("/v1/tickets", withField(`"ticketId":{"id":"{face}-25"}`, "")).differs("field of another type"),
	post("/v1/tickets", withField(`"ticketId":"{face} 26"`, "")),
	post("/v1/tickets", withField(`"ticketId":null`, "")),
	post("/v1/tickets", withField(`"ticketId":"{face}-27"`, `"requestId":null`)),
	post("/v1/tickets", withField(`"ticketId":"{face}-28"`, `"requestId":""`)),
	post("/v1/tickets", withField(`"ticketId":"{face}-29"`, `"requestId":"nonsense"`)),
	post("/v1/tickets", withField(`"ticketId":"{face}-30"`, `"requestId":"00000000-0000-0000-0000-000000000000"`)),
	post("/v1/tickets", `{"ticketId":"{face}-31","title":null,"startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"ticketId":"{face}-32","title":"","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"ticketId":"{face}-33","title":"x","startTime":null,"endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"ticketId":"{face}-34","title":"x","startTime":"","endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-35","title":"x","startTime":"today","endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-36","title":"x","startTime":4070908800,"endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-37","title":"x","startTime":{"seconds":4070908800},"endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-38","title":"x","startTime":"2099-01-07T10:00:00","endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-39","title":"x","startTime":"2099-01-07t10:00:00z","endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-40","title":"x","startTime":"2099-01-07 10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`).differs("field of another type"),
	post("/v1/tickets", `{"ticketId":"{face}-41","title":"x","startTime":"2099-01-07T10:00:60Z","endTime":"2099-01-07T12:00:00Z"}`).differs("time in a body that Go does not read"),
	post("/v1/tickets", `{"ticketId":"{face}-42","title":"x","startTime":"2099-01-07T12:00:00Z","endTime":"2099-01-07T10:00:00Z"}`),
	post("/v1/tickets", `{"ticketId":"{face}-43","title":"a\u0000b","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets", `{"ticketId":"{face}-44","title":"x","startTime":"2019-01-07T10:00:00Z","endTime":"2019-01-07T12:00:00Z"}`),
	post("/v1/tickets", titled("{face}-45", strings.Repeat("한", 200))),
	post("/v1/tickets", titled("{face}-46", strings.Repeat("x", 201))),
	post("/v1/tickets", titled("{face}-47", strings.Repeat("x", 100_000))),
	post("/v1/tickets", titled("{face}-48", strings.Repeat("x", 5<<20))).header("Expect", "100-continue").differs("large body"),
	post("/v1/tickets", strings.Repeat("[", 100_000)).differs("body that is no JSON object"),
	post("/v1/tickets?nothing=1", ticketOf("{face}-49")).differs("unknown parameter"),
	post("/v1/tickets?title=Blues", `{"ticketId":"{face}-50","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`),
	post("/v1/tickets?title=Blues", ticketOf("{face}-51")).differs("field that is given twice"),
	get("/v1/tickets/one").header("Content-Type", "application/json").withBody("{}").differs("body of a read"),
	get("/v1/tickets/{face}-1"),
	get("/v1/tickets/{face}-4"),
}

// ticketOf is a body that registers a ticket.
func ticketOf(id string) string { return titled(id, "Jazz") }

func titled(id, title string) string {
	return `{"ticketId":"` + id + `","title":"` + title + `","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`
}

// withField is a body with these members and those that a ticket needs; the second may be left out.
func withField(first, second string) string {
	if second != "" {
		first += "," + second
	}
	return "{" + first + `,"title":"Jazz","startTime":"2099-01-07T10:00:00Z","endTime":"2099-01-07T12:00:00Z"}`
}
