package chart

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// promtool runs the promtool that `cargo xtask chart` has found, in a folder.
func promtool(t *testing.T, folder string, arguments ...string) (string, error) {
	t.Helper()
	program := os.Getenv("ETICKET_PROMTOOL")
	if program == "" {
		t.Skip("ETICKET_PROMTOOL names no promtool: `cargo xtask chart` does")
	}
	command := exec.Command(program, arguments...)
	command.Dir = folder
	output, err := command.CombinedOutput()
	return string(output), err
}

// alertRules are the rules as the chart renders them.
func alertRules(t *testing.T, release release) *monitoring.PrometheusRule {
	t.Helper()
	rules := of[*monitoring.PrometheusRule](release.mustRender(t))
	if len(rules) != 1 || len(rules[0].Spec.Groups) != 1 {
		t.Fatalf("%d PrometheusRules", len(rules))
	}
	return rules[0]
}

func TestAlertsAreComplete(t *testing.T) {
	known := knownSeries(t)
	for name, release := range matrix() {
		if name != "production" && name != "longest names" {
			continue
		}
		release.set = append(release.set, "metrics.prometheusRule.enabled=true", "metrics.prometheusRule.runbookBaseUrl=https://a.example/b/")
		expressions := map[string]string{}
		for _, rule := range alertRules(t, release).Spec.Groups[0].Rules {
			expr := rule.Expr.String()
			expressions[rule.Alert] = expr
			if strings.Contains(expr, "SELECT") || strings.Contains(expr, "PODS") || !strings.Contains(expr, `namespace="tickets"`) {
				t.Errorf("%s: %s", rule.Alert, expr)
			}
			if !slices.Contains([]string{"critical", "warning"}, rule.Labels["severity"]) {
				t.Errorf("%s has the severity %q", rule.Alert, rule.Labels["severity"])
			}
			for _, text := range []string{"summary", "description"} {
				if rule.Annotations[text] == "" {
					t.Errorf("%s has no %s", rule.Alert, text)
				}
			}
			if url := rule.Annotations["runbook_url"]; url != "https://a.example/b/"+rule.Alert+".md" {
				t.Errorf("%s: runbook_url %q", rule.Alert, url)
			}
		}
		if len(expressions) < 20 {
			t.Errorf("only %d alerts", len(expressions))
		}
		for _, problem := range unknownSeries(expressions, known) {
			t.Error(problem)
		}
	}
	if found := unknownSeries(map[string]string{"A": "rate(eticket_renamed_total[5m])"}, known); len(found) != 1 {
		t.Errorf("a metric that does not exist: %v", found)
	}
}

// The pods of kube-state-metrics that alerts choose are those of the chart, and no others.
func TestAlertsChooseThePodsOfTheRelease(t *testing.T) {
	choice := regexp.MustCompile(`pod=~"([^"]+)"`)
	chosen := 0
	for _, rule := range alertRules(t, production()).Spec.Groups[0].Rules {
		match := choice.FindStringSubmatch(rule.Expr.String())
		if match == nil {
			continue
		}
		chosen++
		pods := regexp.MustCompile("^(?:" + match[1] + ")$")
		for _, component := range components {
			if !pods.MatchString("shop-eticket-" + component + "-0") {
				t.Errorf("%s does not see the pods of %s", rule.Alert, component)
			}
		}
		for _, other := range []string{"shop-eticket-test", "shop-eticket-postgresql-0", "big-shop-eticket-query-0", "shop-query-0"} {
			if pods.MatchString(other) {
				t.Errorf("%s sees %s", rule.Alert, other)
			}
		}
	}
	if chosen != 2 {
		t.Errorf("%d alerts over pods", chosen)
	}
}

// ruleTests is a file of tests for promtool, as far as it is completed here.
type ruleTests struct {
	RuleFiles          []string `json:"rule_files"`
	EvaluationInterval string   `json:"evaluation_interval"`
	Tests              []struct {
		Name        string `json:"name"`
		Interval    string `json:"interval"`
		InputSeries []struct {
			Series string `json:"series"`
			Values string `json:"values"`
		} `json:"input_series"`
		AlertRuleTest []struct {
			EvalTime  string `json:"eval_time"`
			Alertname string `json:"alertname"`
			ExpAlerts []struct {
				ExpLabels      map[string]string `json:"exp_labels"`
				ExpAnnotations map[string]string `json:"exp_annotations"`
			} `json:"exp_alerts,omitempty"`
		} `json:"alert_rule_test"`
	} `json:"tests"`
}

// loadAlertTests reads alerts/*.yaml, completed by what the rules say. Returns them by name of the file.
func loadAlertTests(t *testing.T, rules []monitoring.Rule) map[string]ruleTests {
	t.Helper()
	byName := map[string]monitoring.Rule{}
	for _, rule := range rules {
		byName[rule.Alert] = rule
	}
	paths, err := filepath.Glob("alerts/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no tests of alerts: %v", err)
	}
	files := map[string]ruleTests{}
	for _, path := range paths {
		var tests ruleTests
		text := strings.ReplaceAll(read(t, path), "SELECT", `job="shop-eticket-metrics", namespace="tickets"`)
		if err := yaml.UnmarshalStrict([]byte(text), &tests); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, test := range tests.Tests {
			for _, alert := range test.AlertRuleTest {
				rule, found := byName[alert.Alertname]
				if !found {
					t.Fatalf("%s: no alert %s", test.Name, alert.Alertname)
				}
				for _, expected := range alert.ExpAlerts {
					expected.ExpLabels["severity"] = rule.Labels["severity"]
					expected.ExpAnnotations["description"] = rule.Annotations["description"]
					expected.ExpAnnotations["runbook_url"] = rule.Annotations["runbook_url"]
				}
			}
		}
		files["test-"+filepath.Base(path)] = tests
	}
	return files
}

// runAlertTests has promtool run these tests of these rules.
func runAlertTests(t *testing.T, rules []monitoring.Rule, files map[string]ruleTests) (string, error) {
	t.Helper()
	folder := t.TempDir()
	write := func(name string, content any) {
		text, err := yaml.Marshal(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// A PrometheusRule's spec is a file of rules.
	write("alerts.yaml", monitoring.PrometheusRuleSpec{Groups: []monitoring.RuleGroup{{Name: "eticket", Rules: rules}}})
	for name, tests := range files {
		write(name, tests)
	}
	return promtool(t, folder, append([]string{"test", "rules"}, slices.Sorted(maps.Keys(files))...)...)
}

// only leaves the assertions that an alert fires, or those that it stays quiet, and says which alerts have one.
func only(fire bool, files map[string]ruleTests) (left map[string]ruleTests, alerts map[string]bool) {
	left, alerts = map[string]ruleTests{}, map[string]bool{}
	for name, tests := range files {
		tests.Tests = slices.Clone(tests.Tests)
		for i, test := range tests.Tests {
			tests.Tests[i].AlertRuleTest = nil
			for _, assertion := range test.AlertRuleTest {
				if (len(assertion.ExpAlerts) > 0) == fire {
					tests.Tests[i].AlertRuleTest = append(tests.Tests[i].AlertRuleTest, assertion)
					alerts[assertion.Alertname] = true
				}
			}
		}
		left[name] = tests
	}
	return left, alerts
}

// promtool tests the rules that the chart renders. Then all alerts are broken in two ways, and each one's own tests must notice.
func TestAlertsFireAndStayQuiet(t *testing.T) {
	rules := alertRules(t, production()).Spec.Groups[0].Rules
	files := loadAlertTests(t, rules)
	if output, err := runAlertTests(t, rules, files); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, broken := range []struct {
		how, expr string
		fire      bool
	}{{"never fires", "vector(0) > 1", true}, {"always fires", "vector(1)", false}} {
		wrong := slices.Clone(rules)
		for i := range wrong {
			// Its `for` stays: what holds always fires after that time too.
			wrong[i].Expr = intstr.FromString(broken.expr)
		}
		left, alerts := only(broken.fire, files)
		output, _ := runAlertTests(t, wrong, left)
		for _, rule := range rules {
			if !alerts[rule.Alert] || !strings.Contains(output, "alertname: "+rule.Alert+",") {
				t.Errorf("no test notices that %s %s", rule.Alert, broken.how)
			}
		}
		if t.Failed() {
			t.Log(output)
		}
	}
}
