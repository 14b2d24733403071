package chart

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

// operatorLabels are the labels that the Prometheus operator gives to every target of a ServiceMonitor.
var operatorLabels = []string{"namespace", "service", "pod", "container", "endpoint", "job", "instance"}

// checkMonitors finds labels of the target that hide labels of the metrics: Prometheus would store those as exported_<label>.
func checkMonitors(r rendered) (problems []string) {
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		return []string{err.Error()}
	}
	documented, _ := documentedMetrics(string(page))
	for _, monitor := range of[*monitoring.ServiceMonitor](r) {
		for _, endpoint := range monitor.Spec.Endpoints {
			hides := func(label string) bool {
				return slices.Contains(operatorLabels, label) && !slices.ContainsFunc(endpoint.RelabelConfigs, func(config monitoring.RelabelConfig) bool {
					return config.Action == "labeldrop" && regexp.MustCompile("^(?:"+config.Regex+")$").MatchString(label)
				})
			}
			for name, metric := range documented {
				for _, label := range strings.Split(metric.labels, ",") {
					if hides(label) {
						problems = append(problems, fmt.Sprintf("the ServiceMonitor hides the label %s of %s", label, name))
					}
				}
			}
		}
	}
	return problems
}
