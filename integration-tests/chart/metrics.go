package chart

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// metric is the type and the labels of a metric.
type metric struct {
	kind string
	// Sorted, and joined by commas.
	labels string
}

var (
	macro    = regexp.MustCompile(`metrics::(counter|gauge|histogram)!\(`)
	literal  = regexp.MustCompile(`"(eticket_[a-z0-9_]+)"`)
	label    = regexp.MustCompile(`"([a-z_]+)"\s*=>`)
	constant = regexp.MustCompile(`^(\w+::)*[A-Z_]+$`)
	unitTest = regexp.MustCompile(`#\[cfg\(test\)\]\s*mod \w+ \{`)
)

// sourceMetrics are the metrics that Rust files record, by name. Tests do not count. A name that is a constant or an argument of a
// function is looked for in the file of the macro.
func sourceMetrics(files map[string]string) (found map[string]metric, problems []string) {
	found = map[string]metric{}
	add := func(path, name string, new metric) {
		if old, known := found[name]; known && old != new {
			problems = append(problems, fmt.Sprintf("%s: %s is %v here and %v elsewhere", path, name, new, old))
		}
		found[name] = new
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if strings.Contains(path, "/tests/") || strings.HasSuffix(path, "/tests.rs") || strings.HasSuffix(path, "/contract.rs") {
			continue
		}
		text := files[path]
		if begin := unitTest.FindStringIndex(text); begin != nil {
			text = text[:begin[0]]
		}
		var indirect *metric
		rest := text
		for at := macro.FindStringSubmatchIndex(rest); at != nil; at = macro.FindStringSubmatchIndex(rest) {
			arguments := balanced(rest[at[1]:])
			new := metric{kind: rest[at[2]:at[3]]}
			var labels []string
			for _, match := range label.FindAllStringSubmatch(arguments, -1) {
				labels = append(labels, match[1])
			}
			slices.Sort(labels)
			new.labels = strings.Join(labels, ",")
			first, _, _ := strings.Cut(arguments, ",")
			first = strings.TrimSpace(first)
			if name := literal.FindStringSubmatch(first); name != nil {
				add(path, name[1], exposed(name[1], new))
			} else if indirect != nil && *indirect != new {
				problems = append(problems, path+": two metrics whose names are not in the macro")
			} else {
				indirect = &new
			}
			// A name within the macro is not the name of another, indirect metric.
			rest = rest[:at[0]] + rest[at[1]+len(arguments):]
			if name := literal.FindString(first); name == "" && !constant.MatchString(first) && !literal.MatchString(rest) {
				problems = append(problems, fmt.Sprintf("%s: no name of a metric for %q", path, first))
			}
		}
		if indirect != nil {
			for _, match := range literal.FindAllStringSubmatch(rest, -1) {
				add(path, match[1], exposed(match[1], *indirect))
			}
		}
	}
	return found, problems
}

// exposed is how the exporter shows it: only histograms whose names end in _seconds have buckets.
func exposed(name string, m metric) metric {
	if m.kind == "histogram" && !strings.HasSuffix(name, "_seconds") {
		m.kind = "summary"
	}
	return m
}

// balanced is the text before the parenthesis that closes the one before it.
func balanced(text string) string {
	depth := 1
	for i, char := range text {
		switch char {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 {
			return text[:i]
		}
	}
	return text
}

var (
	documentedRow = regexp.MustCompile("(?m)^\\| `(eticket_[a-z0-9_]+)` \\| ([a-z]+) \\|([^|]*)\\| ([^|]+) \\| ([^|]+) \\|$")
	foreignRow    = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [^|`]+ \\| [^|]+ \\|$")
)

// documentedMetrics are the metrics in the rows of docs/metrics.md.
func documentedMetrics(page string) (found map[string]metric, problems []string) {
	found = map[string]metric{}
	for _, row := range documentedRow.FindAllStringSubmatch(page, -1) {
		if _, twice := found[row[1]]; twice {
			problems = append(problems, row[1]+" has two rows")
		}
		labels := strings.FieldsFunc(row[3], func(char rune) bool { return strings.ContainsRune("` ,", char) })
		slices.Sort(labels)
		found[row[1]] = metric{kind: row[2], labels: strings.Join(labels, ",")}
	}
	return found, problems
}

// foreignMetrics are those that docs/metrics.md lists in its section of metrics that others provide.
func foreignMetrics(page string) (found []string) {
	_, section, _ := strings.Cut(page, "## Metrics of others")
	for _, row := range foreignRow.FindAllStringSubmatch(section, -1) {
		found = append(found, row[1])
	}
	return found
}

// compareMetrics returns what differs between the sources and the page.
func compareMetrics(sources, documented map[string]metric) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		row, found := documented[name]
		if !found {
			problems = append(problems, name+" is not in docs/metrics.md")
		} else if row != sources[name] {
			problems = append(problems, fmt.Sprintf("%s is %v in docs/metrics.md and %v in the sources", name, row, sources[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if _, found := sources[name]; !found {
			problems = append(problems, name+" is in docs/metrics.md only")
		}
	}
	return problems
}

var (
	noMetrics  = regexp.MustCompile(`"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\boffset\s+\w+`)
	identifier = regexp.MustCompile(`\b[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	keywords   = []string{"and", "or", "unless", "bool"}
)

// metricsOf are the names of series in an expression of PromQL.
func metricsOf(expr string) (names []string) {
	for _, word := range identifier.FindAllString(noMetrics.ReplaceAllString(expr, " "), -1) {
		word = strings.TrimSpace(word)
		if !strings.HasSuffix(word, "(") && !slices.Contains(keywords, word) {
			names = append(names, word)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// seriesOf are the names under which Prometheus stores the metrics of docs/metrics.md.
func seriesOf(documented map[string]metric, foreign []string) (names []string) {
	names = append(names, foreign...)
	for name, metric := range documented {
		switch metric.kind {
		case "histogram":
			names = append(names, name+"_bucket", name+"_sum", name+"_count")
		case "summary":
			names = append(names, name, name+"_sum", name+"_count")
		default:
			names = append(names, name)
		}
	}
	return names
}
