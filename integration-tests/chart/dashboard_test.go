package chart

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// dashboard is what the tests read of a dashboard of Grafana.
type dashboard struct {
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name, Type string
			Definition string
		}
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ H, W, X, Y int }
	Datasource               struct{ UID string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ RefID, Expr, LegendFormat string }
}

func readDashboard(t *testing.T, text string) dashboard {
	t.Helper()
	var decoded dashboard
	if err := json.Unmarshal([]byte(text), &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

var variable = regexp.MustCompile(`\$\{?([a-zA-Z_]+)\}?`)

// expressions are those of the panels and of the variables, as Prometheus gets them, and what is wrong with the variables in them.
func (d dashboard) expressions() (found map[string]string, problems []string) {
	found = map[string]string{}
	known := []string{"__rate_interval", "__range"}
	values := regexp.MustCompile(`^label_values\((.*), \w+\)$`)
	add := func(user, expr string) {
		found[user] = variable.ReplaceAllStringFunc(expr, func(text string) string {
			if name := variable.FindStringSubmatch(text)[1]; !slices.Contains(known, name) {
				problems = append(problems, user+": no variable "+name)
			}
			return map[bool]string{true: "5m", false: ".*"}[strings.HasPrefix(text, "$__")]
		})
	}
	for _, variable := range d.Templating.List {
		if variable.Type == "query" {
			match := values.FindStringSubmatch(variable.Definition)
			if match == nil {
				problems = append(problems, variable.Name+" is no label_values")
				continue
			}
			add("variable "+variable.Name, match[1])
		}
		known = append(known, variable.Name)
	}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			add(fmt.Sprintf("panel %s, %s", panel.Title, target.RefID), target.Expr)
		}
	}
	return found, problems
}

// check returns what is wrong with the dashboard by itself.
func (d dashboard) check() (problems []string) {
	ids, titles, taken := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
	for _, panel := range d.Panels {
		if ids[panel.ID] || titles[panel.Title] || panel.Title == "" {
			problems = append(problems, fmt.Sprintf("panel %d %q has no id or title of its own", panel.ID, panel.Title))
		}
		ids[panel.ID], titles[panel.Title] = true, true
		for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
			for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x > 23 {
					return append(problems, fmt.Sprintf("panel %s lies over %q or the edge", panel.Title, other))
				}
				taken[[2]int{x, y}] = panel.Title
			}
		}
		if panel.Type == "row" {
			continue
		}
		if panel.Datasource.UID != "${datasource}" || panel.FieldConfig.Defaults.Unit == "" || panel.Description == "" || len(panel.Targets) == 0 {
			problems = append(problems, "panel "+panel.Title+" lacks its data source, unit, description or query")
		}
	}
	return problems
}

func TestTheDashboardIsOverMetricsThatExist(t *testing.T) {
	decoded := readDashboard(t, read(t, folder+"/files/dashboard.json"))
	expressions, problems := decoded.expressions()
	problems = append(append(problems, decoded.check()...), unknownSeries(expressions, knownSeries(t))...)
	for _, problem := range problems {
		t.Error(problem)
	}
	var rows, variables []string
	for _, panel := range decoded.Panels {
		if panel.Type == "row" {
			rows = append(rows, panel.Title)
		}
	}
	for _, variable := range decoded.Templating.List {
		variables = append(variables, variable.Name)
	}
	if given := strings.Join(rows, ", "); given != "Overview, RPCs, Saga, outbox and consumers, View and prices, Stores, Gateway, Process" {
		t.Errorf("the rows are %s", given)
	}
	if given := strings.Join(variables, ", "); given != "datasource, job, service, instance" {
		t.Errorf("the variables are %s", given)
	}
	// What is on the page of metrics is to be seen.
	var used []string
	for _, expr := range expressions {
		used = append(used, metricsOf(expr)...)
	}
	for _, rule := range alertRules(t, production()).Spec.Groups[0].Rules {
		used = append(used, metricsOf(rule.Expr.String())...)
	}
	page := read(t, metricsPage)
	documented, _ := documentedMetrics(page)
	for _, name := range foreignMetrics(page) {
		documented[name] = metric{}
	}
	for name := range documented {
		if !slices.ContainsFunc(used, func(series string) bool {
			return regexp.MustCompile("^" + name + "(_bucket|_sum|_count)?$").MatchString(series)
		}) {
			t.Errorf("neither the dashboard nor an alert shows %s", name)
		}
	}
}

// The checks above can fail.
func TestWhatIsWrongWithADashboardIsFound(t *testing.T) {
	good := read(t, folder+"/files/dashboard.json")
	for _, test := range []struct{ old, new, problem string }{
		{"", "", ""},
		{"eticket_outbox_sent_total", "eticket_outbox_gone_total", "no metric eticket_outbox_gone_total"},
		{`service=~\"$service\"`, `service=~\"$services\"`, "no variable services"},
		{`"id": 3,`, `"id": 2,`, "has no id or title of its own"},
		{`"title": "Outbox"`, `"title": "Rate"`, "has no id or title of its own"},
		{`"x": 8,`, `"x": 7,`, "lies over"},
		{`"unit": "reqps"`, `"unit": ""`, "lacks its data source, unit"},
		{`"uid": "${datasource}"}, "gridPos"`, `"uid": "prometheus"}, "gridPos"`, "lacks its data source, unit"},
	} {
		text := strings.Replace(good, test.old, test.new, 1)
		decoded := readDashboard(t, text)
		expressions, problems := decoded.expressions()
		problems = append(append(problems, decoded.check()...), unknownSeries(expressions, knownSeries(t))...)
		all := strings.Join(problems, "\n")
		if test.old != "" && text == good || test.problem == "" && all != "" || !strings.Contains(all, test.problem) {
			t.Errorf("%q in place of %q: %q", test.new, test.old, all)
		}
	}
}

// parse has promtool parse these expressions.
func parse(t *testing.T, expressions []string) (string, error) {
	t.Helper()
	var rules []map[string]string
	for i, expr := range expressions {
		rules = append(rules, map[string]string{"record": fmt.Sprintf("parsed:%d", i), "expr": expr})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "parsed", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "rules.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return promtool(t, folder, "check", "rules", "rules.yaml")
}

func TestTheExpressionsOfTheDashboardParse(t *testing.T) {
	expressions, _ := readDashboard(t, read(t, folder+"/files/dashboard.json")).expressions()
	all := slices.Sorted(maps.Values(expressions))
	if output, err := parse(t, all); err != nil || !strings.Contains(output, "rules found") {
		t.Errorf("%v\n%s", err, output)
	}
	if output, err := parse(t, append(all, "sum by (rate(a[5m])")); err == nil {
		t.Errorf("promtool takes anything: %s", output)
	}
}

func TestTheChartDeliversTheDashboard(t *testing.T) {
	find := func(release release) *corev1.ConfigMap {
		return named[*corev1.ConfigMap](release.mustRender(t), "shop-eticket-dashboard")
	}
	if find(demo()) != nil {
		t.Error("a dashboard that nobody asked for")
	}
	config := find(demo("metrics.dashboard.enabled=true", "metrics.dashboard.annotations.grafana_folder=eTicket"))
	if config == nil || config.Labels["grafana_dashboard"] != "1" || config.Annotations["grafana_folder"] != "eTicket" {
		t.Fatalf("%v", config)
	}
	if strings.TrimSpace(config.Data["eticket.json"]) != strings.TrimSpace(read(t, folder+"/files/dashboard.json")) {
		t.Error("the ConfigMap has another dashboard than the file")
	}
	other := production("metrics.dashboard.labels.dashboards=yes", "metrics.dashboard.labels.grafana_dashboard=null")
	if labels := find(other).Labels; labels["dashboards"] != "yes" || labels["grafana_dashboard"] != "" {
		t.Errorf("%v", labels)
	}
}
