package chart

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// matrix is every way to install that the checks below hold for.
func matrix() map[string]release {
	longest := strings.Repeat("n", 53)
	everything := []string{
		"ingress.enabled=true", "ingress.hosts={tickets.example.org}", "gatewayApi.enabled=true", "gatewayApi.parentRefs[0].name=public",
		"gateway.podDisruptionBudget.maxUnavailable=30%", "query.persistence.enabled=false", "telemetry.otlpEndpoint=http://otel:4317",
		"networkPolicy.gatewayFrom[0].namespaceSelector.matchLabels.name=edge", "networkPolicy.store.to[0].ipBlock.cidr=10.0.0.0/8",
		"image.digest=sha256:" + strings.Repeat("0a", 32), "commonLabels.team=a", "imagePullSecrets[0].name=registry",
		"gateway.service.annotations.a=b", "gateway.podAnnotations.a=b", "gateway.podLabels.a=b", "gateway.nodeSelector.disk=ssd",
		"gateway.tolerations[0].operator=Exists", "gateway.autoscaling.behavior.scaleDown.stabilizationWindowSeconds=60",
		"gateway.autoscaling.metrics[0].type=External", "gateway.autoscaling.metrics[0].external.metric.name=lag",
		"gateway.autoscaling.metrics[0].external.target.type=Value", "gateway.autoscaling.metrics[0].external.target.value=5",
		"serviceAccount.annotations.a=b", "ticket.store.existingSecret=own", "query.autoscaling.enabled=true",
		"query.extraVolumes[0].name=x", "query.extraVolumes[0].emptyDir.medium=Memory", "query.extraVolumeMounts[0].name=x",
		"query.extraVolumeMounts[0].mountPath=/x", "gateway.extraEnv[0].name=A", "gateway.extraEnv[0].value=b",
	}
	full := production(everything...)
	// Names that YAML could take for numbers, and numbers that Go would print with an exponent.
	numbers := production()
	numbers.values = map[string]any{
		"store":         map[string]any{"existingSecret": "1", "key": "2"},
		"bus":           map[string]any{"existingSecret": "3", "key": "4"},
		"priorityClass": map[string]any{"value": 1e6},
		"test":          map[string]any{"tokenSecret": "5", "tokenKey": "6"},
	}
	return map[string]release{
		"demo":              demo(),
		"small":             {files: []string{"demo.yaml", "small.yaml"}},
		"production":        production(),
		"tls and tokens":    tlsAndTokens(),
		"tls by secret":     tlsAndTokens("tls.certManager.enabled=false", "tls.existingSecret=own"),
		"everything":        full,
		"http route":        demo("gatewayApi.enabled=true", "gatewayApi.parentRefs[0].name=public", "gatewayApi.kind=HTTPRoute"),
		"bare":              demo("networkPolicy.enabled=false", "serviceAccount.create=false", "demo.nats.storageClassName=fast"),
		"longest names":     {name: longest, files: []string{"demo.yaml"}, set: []string{"nameOverride=" + strings.Repeat("o", 63)}},
		"full name":         demo("fullnameOverride="+strings.Repeat("f", 63), "metrics.serviceMonitor.enabled=true"),
		"as long as may be": demo("fullnameOverride=" + strings.Repeat("f", 41)),
		"cut":               demo("fullnameOverride=" + strings.Repeat("f", 42)),
		"number as name":    {name: "1234", namespace: "42", files: []string{"demo.yaml"}, set: []string{"metrics.serviceMonitor.enabled=true"}},
		"numbers as text":   numbers,
	}
}

// checks return what is wrong with a release. TestControls shows for each that it can fail.
var checks = map[string]func(rendered) []string{
	"names": checkNames, "pod security": checkPodSecurity, "probes": checkProbes, "ports": checkPorts, "selectors": checkSelectors,
	"scaling": checkScaling, "upstreams": checkUpstreams, "network": checkNetwork, "mounts": checkMounts, "secrets": checkSecrets,
	"rollout": checkRollout, "monitors": checkMonitors,
}

func TestEveryReleaseOfTheMatrix(t *testing.T) {
	for name, release := range matrix() {
		t.Run(name, func(t *testing.T) {
			result := release.mustRender(t)
			for check, run := range checks {
				for _, problem := range run(result) {
					t.Errorf("%s: %s", check, problem)
				}
			}
			again := release.mustRender(t)
			for i, object := range result.objects {
				if object.text != again.objects[i].text {
					t.Errorf("%s %s differs in a second run: an upgrade would change it", object.kind(), object.GetName())
				}
			}
		})
	}
}

func TestLint(t *testing.T) {
	values, err := demo().userValues()
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range lint.All(folder, values, "tickets", true).Messages {
		if message.Severity >= support.WarningSev {
			t.Error(message)
		}
	}
}

func checkNames(r rendered) (problems []string) {
	seen := map[string]bool{}
	for _, object := range r.objects {
		id := object.kind() + " " + object.GetName()
		if seen[id] {
			problems = append(problems, "twice: "+id)
		}
		seen[id] = true
		limit := 63
		if object.kind() == "StatefulSet" {
			// The label controller-revision-hash of its pods is its name and a hash of 10.
			limit = 52
		}
		invalid := validation.IsDNS1123Label(object.GetName())
		for key, value := range object.GetLabels() {
			invalid = append(invalid, validation.IsQualifiedName(key)...)
			invalid = append(invalid, validation.IsValidLabelValue(value)...)
		}
		if len(invalid) > 0 || len(object.GetName()) > limit {
			problems = append(problems, fmt.Sprintf("%s: %d characters, %v", id, len(object.GetName()), invalid))
		}
		for _, key := range []string{"name", "instance", "component", "version"} {
			if object.GetLabels()["app.kubernetes.io/"+key] == "" {
				problems = append(problems, id+" has no label "+key)
			}
		}
		if (object.GetNamespace() == "") != (object.kind() == "PriorityClass") {
			problems = append(problems, id+" has the namespace "+object.GetNamespace())
		}
	}
	return problems
}

func checkPodSecurity(r rendered) (problems []string) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		return []string{err.Error()}
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, pod := range r.pods() {
		for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
			if !result.Allowed {
				problems = append(problems, fmt.Sprintf("%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail))
			}
		}
		if token := pod.Spec.AutomountServiceAccountToken; token == nil || *token {
			problems = append(problems, name+" gets a token of its ServiceAccount")
		}
		// ETICKET_TICKET_PORT and the like of every Service.
		if links := pod.Spec.EnableServiceLinks; links == nil || *links {
			problems = append(problems, name+" gets the environment of all Services")
		}
		for _, container := range pod.Spec.Containers {
			if read := container.SecurityContext.ReadOnlyRootFilesystem; read == nil || !*read {
				problems = append(problems, name+" may write to its root")
			}
			if container.Resources.Requests.Cpu().IsZero() || container.Resources.Limits.Memory().IsZero() {
				problems = append(problems, name+" has no CPU request or no memory limit")
			}
		}
		if slices.Contains(components, name) && *pod.Spec.SecurityContext.RunAsUser != 10001 {
			problems = append(problems, name+" does not run as 10001")
		}
	}
	return problems
}

func checkProbes(r rendered) (problems []string) {
	for _, name := range components {
		pod := r.pods()[name].Spec.Containers[0]
		for probe, asked := range map[*corev1.Probe]string{pod.StartupProbe: "liveness", pod.LivenessProbe: "liveness", pod.ReadinessProbe: "readiness"} {
			grpc := probe != nil && probe.GRPC != nil && probe.GRPC.Port == ports[name] && probe.GRPC.Service != nil && *probe.GRPC.Service == asked
			path := map[string]string{"liveness": "/livez", "readiness": "/readyz"}[asked]
			http := probe != nil && probe.HTTPGet != nil && probe.HTTPGet.Path == path && probe.HTTPGet.Port.StrVal == "admin"
			tls := slices.ContainsFunc(r.pods()[name].Spec.Volumes, func(volume corev1.Volume) bool { return volume.Name == "tls" })
			if tls && !http || !tls && !grpc {
				problems = append(problems, fmt.Sprintf("%s does not ask for %s: %v", name, asked, probe))
			}
		}
	}
	return problems
}

func checkPorts(r rendered) (problems []string) {
	for _, service := range of[*corev1.Service](r) {
		name := component(service)
		if !slices.Contains(components, name) {
			continue
		}
		ports := []corev1.ServicePort{{Name: "grpc", Port: ports[name]}}
		given := service.Spec.Ports
		if len(given) != 1 || given[0].Name != ports[0].Name || given[0].Port != ports[0].Port || given[0].TargetPort.StrVal != "grpc" {
			problems = append(problems, fmt.Sprintf("the Service of %s has the ports %v", name, given))
		}
		if headless := service.Spec.ClusterIP == corev1.ClusterIPNone; headless == (name == "gateway") {
			problems = append(problems, fmt.Sprintf("the Service of %s: headless %v", name, headless))
		}
	}
	for _, name := range components {
		given := map[string]int32{}
		for _, port := range r.pods()[name].Spec.Containers[0].Ports {
			given[port.Name] = port.ContainerPort
		}
		if given["grpc"] != ports[name] || given["admin"] != 9090 || len(given) != 2 {
			problems = append(problems, fmt.Sprintf("the container of %s has the ports %v", name, given))
		}
	}
	return problems
}

// checkSelectors holds every selector against the pods that it must find, and no others.
func checkSelectors(r rendered) (problems []string) {
	selectors := map[string]*metav1.LabelSelector{}
	for _, set := range of[*appsv1.StatefulSet](r) {
		selectors["StatefulSet "+component(set)] = set.Spec.Selector
	}
	for _, deployment := range of[*appsv1.Deployment](r) {
		selectors["Deployment "+component(deployment)] = deployment.Spec.Selector
	}
	for _, budget := range of[*policyv1.PodDisruptionBudget](r) {
		selectors["PodDisruptionBudget "+component(budget)] = budget.Spec.Selector
	}
	for _, network := range of[*networking.NetworkPolicy](r) {
		selectors["NetworkPolicy "+component(network)] = &network.Spec.PodSelector
	}
	for _, service := range of[*corev1.Service](r) {
		selectors["Service "+component(service)] = &metav1.LabelSelector{MatchLabels: service.Spec.Selector}
	}
	for name, pod := range r.pods() {
		for i, constraint := range pod.Spec.TopologySpreadConstraints {
			selectors[fmt.Sprintf("Spread%d %s", i, name)] = constraint.LabelSelector
		}
		if spread := len(pod.Spec.TopologySpreadConstraints); slices.Contains(components, name) && spread != 2 {
			problems = append(problems, fmt.Sprintf("%s has %d rules of spread", name, spread))
		}
	}
	for id, selector := range selectors {
		_, want, _ := strings.Cut(id, " ")
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			problems = append(problems, id+": "+err.Error())
			continue
		}
		for name, pod := range r.pods() {
			expected := name == want || want == "metrics" && slices.Contains(components, name)
			if parsed.Matches(labels.Set(pod.Labels)) != expected {
				problems = append(problems, fmt.Sprintf("%s finds %s: %v", id, name, !expected))
			}
		}
	}
	return problems
}

func checkScaling(r rendered) (problems []string) {
	scaled := map[string]bool{}
	for _, scaler := range of[*autoscaling.HorizontalPodAutoscaler](r) {
		scaled[scaler.Spec.ScaleTargetRef.Kind+" "+scaler.Spec.ScaleTargetRef.Name] = true
	}
	for _, object := range r.objects {
		var replicas *int32
		switch typed := object.typed.(type) {
		case *appsv1.Deployment:
			replicas = typed.Spec.Replicas
		case *appsv1.StatefulSet:
			replicas = typed.Spec.Replicas
		default:
			continue
		}
		id := object.kind() + " " + object.GetName()
		if (replicas == nil) != scaled[id] {
			problems = append(problems, fmt.Sprintf("%s: replicas left out %v, autoscaling %v", id, replicas == nil, scaled[id]))
		}
		delete(scaled, id)
	}
	for id := range scaled {
		problems = append(problems, "an autoscaler of nothing: "+id)
	}
	return problems
}

// tree decodes a configuration file.
func tree(text string) (map[string]any, error) {
	var decoded map[string]any
	_, err := toml.Decode(text, &decoded)
	return decoded, err
}

// upstreams are the components that the configuration of each one names.
func upstreams(r rendered) (found map[string][]string, problems []string) {
	found = map[string][]string{}
	for _, config := range of[*corev1.ConfigMap](r) {
		text, isSettings := config.Data["eticket.toml"]
		if !isSettings {
			continue
		}
		name := component(config)
		decoded, err := tree(text)
		if err != nil {
			problems = append(problems, name+": "+err.Error())
		}
		all, _ := decoded["upstream"].(map[string]any)
		for upstream, keys := range all {
			found[name] = append(found[name], upstream)
			address, err := url.Parse(fmt.Sprint(keys.(map[string]any)["url"]))
			if err != nil {
				problems = append(problems, err.Error())
				continue
			}
			service := named[*corev1.Service](r, address.Hostname())
			if service == nil || component(service) != upstream || address.Port() != fmt.Sprint(service.Spec.Ports[0].Port) {
				problems = append(problems, fmt.Sprintf("%s calls %s at %s, which is no Service of it", name, upstream, address))
			}
		}
		slices.Sort(found[name])
	}
	return found, problems
}

func checkUpstreams(r rendered) []string {
	found, problems := upstreams(r)
	for name, want := range map[string]string{
		"gateway": "pricing query reservation ticket", "reservation": "ticket", "query": "pricing reservation ticket", "ticket": "", "pricing": "",
	} {
		if given := strings.Join(found[name], " "); given != want {
			problems = append(problems, fmt.Sprintf("%s calls %q instead of %q", name, given, want))
		}
	}
	return problems
}

func checkMounts(r rendered) (problems []string) {
	for name, pod := range r.pods() {
		volumes := map[string]corev1.Volume{}
		for _, volume := range pod.Spec.Volumes {
			volumes[volume.Name] = volume
		}
		for _, set := range of[*appsv1.StatefulSet](r) {
			if component(set) == name && len(set.Spec.VolumeClaimTemplates) > 0 {
				volumes["data"] = corev1.Volume{Name: "data"}
			}
		}
		for _, mount := range pod.Spec.Containers[0].VolumeMounts {
			volume, found := volumes[mount.Name]
			if !found {
				problems = append(problems, name+" mounts no volume: "+mount.Name)
			}
			delete(volumes, mount.Name)
			// A file mounted by subPath never changes.
			if mount.SubPath != "" {
				problems = append(problems, name+" mounts a subPath: "+mount.Name)
			}
			if config := volume.ConfigMap; config != nil && mount.Name != "jwks" && named[*corev1.ConfigMap](r, config.Name) == nil {
				problems = append(problems, name+" mounts no ConfigMap of the chart: "+config.Name)
			}
		}
		for volume := range volumes {
			problems = append(problems, name+" does not mount "+volume)
		}
	}
	return problems
}

var password = regexp.MustCompile(`://[^/\s"]*:[^/\s"@]*@`)

func checkSecrets(r rendered) (problems []string) {
	for _, object := range r.objects {
		if object.kind() == "Secret" {
			problems = append(problems, "a Secret is rendered: "+object.GetName())
		}
		if found := password.FindString(object.text); found != "" {
			problems = append(problems, object.GetName()+" has a password: "+found)
		}
	}
	for _, name := range components {
		given := map[string]corev1.EnvVar{}
		for _, env := range r.pods()[name].Spec.Containers[0].Env {
			given[env.Name] = env
		}
		store, found := given["ETICKET__STORE__URL"]
		if found != slices.Contains([]string{"ticket", "reservation", "pricing"}, name) {
			problems = append(problems, fmt.Sprintf("%s has a store: %v", name, found))
		}
		if demo := r.pods()["postgresql"].Spec.Containers != nil; found && (store.ValueFrom == nil) != demo {
			problems = append(problems, name+": its store's URL does not come from a Secret")
		}
	}
	return problems
}

func checkRollout(r rendered) (problems []string) {
	for _, deployment := range of[*appsv1.Deployment](r) {
		update := deployment.Spec.Strategy.RollingUpdate
		if update == nil || update.MaxUnavailable.String() != "0" || update.MaxSurge.String() != "1" {
			problems = append(problems, deployment.Name+" does not stop at the first pod that fails")
		}
	}
	for _, name := range components {
		pod := r.pods()[name]
		if pod.Annotations["checksum/config"] == "" {
			problems = append(problems, name+" does not roll with its settings")
		}
		// shutdown.hard_cap_ms is 25 s, and the process needs a moment after it.
		if grace := pod.Spec.TerminationGracePeriodSeconds; grace == nil || *grace != 30 {
			problems = append(problems, fmt.Sprintf("%s has a grace period of %v", name, grace))
		}
	}
	return problems
}
