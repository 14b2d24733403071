package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
)

// difference is a row of the table of differences, with a name in its first column.
type difference struct {
	gateway, vanguard string
}

// heading begins the section with the table.
const heading = "## Differences from Vanguard"

// readDifferences reads the table in a page of the documentation.
func readDifferences(page string) (map[string]difference, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	_, section, found := strings.Cut(string(text), heading+"\n")
	if !found {
		return nil, fmt.Errorf("%s has no %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string]difference{}
	for _, line := range strings.Split(section, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| request ") {
			continue
		}
		// A row begins and ends with a bar.
		cells = cells[1:5]
		for index, cell := range cells {
			cells[index] = strings.Trim(strings.TrimSpace(cell), "`")
		}
		if _, twice := rows[cells[0]]; twice || cells[3] == "" {
			return nil, fmt.Errorf("a row is there twice or has no reason: %s", line)
		}
		rows[cells[0]] = difference{gateway: cells[1], vanguard: cells[2]}
	}
	return rows, nil
}

// judge returns what is wrong with the two outcomes of a case.
func judge(test example, gateway, vanguard outcome, rows map[string]difference) string {
	same := reflect.DeepEqual(gateway, vanguard)
	if test.row == "" {
		if same {
			return ""
		}
		return "a difference that is not listed: " + show(gateway, vanguard)
	}
	row, found := rows[test.row]
	switch {
	case !found:
		return fmt.Sprintf("the table has no row %q", test.row)
	case same:
		return fmt.Sprintf("the difference %q no longer occurs: %s", test.row, show(gateway, vanguard))
	case gateway.kind != row.gateway || vanguard.kind != row.vanguard:
		return fmt.Sprintf("not the difference %q: %s", test.row, show(gateway, vanguard))
	}
	return ""
}

// unused returns the rows that no case has.
func unused(tests []example, rows map[string]difference) []string {
	// JSON writes a list that is nil as null.
	problems := []string{}
	used := map[string]bool{}
	for _, test := range tests {
		used[test.row] = true
	}
	for name := range rows {
		if !used[name] {
			problems = append(problems, fmt.Sprintf("no case has the difference %q", name))
		}
	}
	return problems
}

func show(gateway, vanguard outcome) string {
	return fmt.Sprintf("\n  gateway:  %s\n  Vanguard: %s", gateway, vanguard)
}

func (o outcome) String() string {
	body, err := json.Marshal(o.body)
	if err != nil {
		return err.Error()
	}
	const most = 1000
	return fmt.Sprintf("%s %.*s", o.kind, most, body)
}
