package chart

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const metricsPage = root + "/docs/metrics.md"

// sources are the files of the servers by path.
func sources(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, top := range []string{"crates", "services", "gateway-grpc-web"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == "target") {
				return filepath.SkipDir
			}
			if err == nil && strings.HasSuffix(path, ".rs") {
				files[filepath.ToSlash(path)] = read(t, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestThePageOfMetricsIsThatOfTheSources(t *testing.T) {
	fromSources, problems := sourceMetrics(sources(t))
	documented, twice := documentedMetrics(read(t, metricsPage))
	problems = append(append(problems, twice...), compareMetrics(fromSources, documented)...)
	for _, problem := range problems {
		t.Error(problem)
	}
	if len(fromSources) < 20 {
		t.Errorf("only %d metrics found in the sources", len(fromSources))
	}
	// Each label has a row that gives its values and their number.
	_, labels, _ := strings.Cut(read(t, metricsPage), "## Labels")
	for name, metric := range documented {
		for _, label := range strings.FieldsFunc(metric.labels, func(char rune) bool { return char == ',' }) {
			if !strings.Contains(labels, "\n| `"+label+"` | ") {
				t.Errorf("docs/metrics.md has no row for the label %s of %s", label, name)
			}
		}
	}
}

// The comparison above can fail.
func TestAnyDifferenceBetweenPageAndSourcesIsFound(t *testing.T) {
	const source = `
const LOST: &str = "eticket_lost_total";
fn f() {
    metrics::counter!(LOST).increment(1);
    metrics::gauge!("eticket_depth", "service" => self.service, "owner" => owner.to_owned()).set(1.0);
    metrics::histogram!(
        "eticket_call_seconds",
        "rpc" => rpc,
    );
    metrics::histogram!("eticket_size").record(1.0);
}
#[cfg(test)]
mod tests {
    fn g() { metrics::counter!("eticket_test_total"); }
}
`
	const page = "| `eticket_lost_total` | counter | | x | y |\n| `eticket_depth` | gauge | `service`, `owner` | x | y |\n" +
		"| `eticket_call_seconds` | histogram | `rpc` | x | y |\n| `eticket_size` | summary | | x | y |\n"
	tests := []struct{ name, sourceOld, sourceNew, pageOld, pageNew, problem string }{
		{"as it should be", "", "", "", "", ""},
		{"a new metric", `"eticket_size"`, `"eticket_length"`, "", "", "eticket_length is not in docs/metrics.md"},
		{"a metric that is gone", `metrics::histogram!("eticket_size").record(1.0);`, "", "", "", "eticket_size is in docs/metrics.md only"},
		{"a new constant", "eticket_lost", "eticket_gone", "", "", "eticket_gone_total is not in docs/metrics.md"},
		{"another kind", "gauge!", "counter!", "", "", "eticket_depth is {gauge owner,service} in docs/metrics.md and {counter owner,service}"},
		{"a label more", `"eticket_size"`, `"eticket_size", "service" => x`, "", "", "eticket_size is {summary }"},
		{"a row less", "", "", "| `eticket_size` | summary | | x | y |\n", "", "eticket_size is not in docs/metrics.md"},
		{"a row without a unit", "", "", "| summary | | x | y |", "| summary | | y |", "eticket_size is not in docs/metrics.md"},
		{"a row more", "", "", "| `eticket_size`", "| `eticket_other` | gauge | | x | y |\n| `eticket_size`", "eticket_other is in docs/metrics.md only"},
		{"a row twice", "", "", "| `eticket_size`", "| `eticket_lost_total` | counter | | x | y |\n| `eticket_size`", "eticket_lost_total has two rows"},
		{"another label", "", "", "`rpc`", "`method`", "eticket_call_seconds is {histogram method}"},
		{"a name from elsewhere", "counter!(LOST)", "counter!(lost)", "", "", ""},
		{"a name that nobody has", `const LOST: &str = "eticket_lost_total";`, "", "", "", "eticket_lost_total is in docs/metrics.md only"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			found, problems := sourceMetrics(map[string]string{"a/b.rs": strings.Replace(source, test.sourceOld, test.sourceNew, 1), "a/tests.rs": `metrics::gauge!("eticket_x")`})
			documented, twice := documentedMetrics(strings.Replace(page, test.pageOld, test.pageNew, 1))
			problems = append(append(problems, twice...), compareMetrics(found, documented)...)
			if all := strings.Join(problems, "\n"); test.problem == "" && all != "" || !strings.Contains(all, test.problem) {
				t.Errorf("expected %q, found %q", test.problem, all)
			}
		})
	}
	if _, problems := sourceMetrics(map[string]string{"a.rs": "metrics::counter!(name)"}); len(problems) != 1 {
		t.Errorf("a name that is not in the file: %v", problems)
	}
	two := `metrics::counter!("eticket_a_total", "x" => 1); metrics::counter!("eticket_a_total");`
	if _, problems := sourceMetrics(map[string]string{"a.rs": two}); len(problems) != 1 {
		t.Errorf("two sets of labels: %v", problems)
	}
}

func TestNamesOfSeriesAreFoundInExpressions(t *testing.T) {
	for expr, want := range map[string][]string{
		`sum by (service, rpc) (rate(a_total{x="b"}[5m])) > 0`:                {"a_total"},
		`histogram_quantile(0.99, sum by (le)(rate(a_bucket[5m]))) > 1e3`:     {"a_bucket"},
		`a unless on (x) b offset 1h or sum(c) without (y)`:                   {"a", "b", "c"},
		`max(max_over_time(a{x=~"b|c"}[2m])) == 2 and time() - d{} > bool 86`: {"a", "d"},
	} {
		if given := metricsOf(expr); !reflect.DeepEqual(given, want) {
			t.Errorf("%s: %v instead of %v", expr, given, want)
		}
	}
}

// Everything that a process exposes is on the page. Metrics of rare events are not there yet, so only this direction is checked.
func TestWhatAProcessExposesIsOnThePage(t *testing.T) {
	response, err := http.Get("http://" + startAllInOne(t).Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	documented, _ := documentedMetrics(read(t, metricsPage))
	exposed := 0
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 4 || fields[1] != "TYPE" || !strings.HasPrefix(fields[2], "eticket_") {
			continue
		}
		exposed++
		if row, found := documented[fields[2]]; !found || row.kind != fields[3] {
			t.Errorf("%s is a %s at /metrics and %v in docs/metrics.md", fields[2], fields[3], row)
		}
	}
	if exposed < 10 {
		t.Errorf("only %d metrics are exposed", exposed)
	}
}

// knownSeries are the names that alerts and the dashboard may use.
func knownSeries(t *testing.T) []string {
	t.Helper()
	page := read(t, metricsPage)
	documented, _ := documentedMetrics(page)
	return seriesOf(documented, foreignMetrics(page))
}

// unknownSeries returns what expressions use, by what uses them, that docs/metrics.md does not have.
func unknownSeries(expressions map[string]string, known []string) (problems []string) {
	for _, user := range slices.Sorted(maps.Keys(expressions)) {
		for _, name := range metricsOf(expressions[user]) {
			if !slices.Contains(known, name) {
				problems = append(problems, fmt.Sprintf("%s: no metric %s in docs/metrics.md", user, name))
			}
		}
	}
	return problems
}
