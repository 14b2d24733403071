package chart

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

func TestWhatCannotWorkIsRefused(t *testing.T) {
	none := release{}
	secrets := release{set: []string{"auth.mode=jwt", "auth.jwks=https://a/jwks", "auth.issuer=a", "auth.audience=b"}}
	with := func(base release, set ...string) release {
		base.set = append(append([]string{}, base.set...), set...)
		return base
	}
	tests := []struct {
		name    string
		release release
		text    string
	}{
		{"nothing given", none, "auth.mode must be given"},
		{"off without the demo", with(none, "auth.mode=off"), "auth.mode=off makes everyone"},
		{"off as YAML reads it", release{values: map[string]any{"auth": map[string]any{"mode": false}}}, "auth.mode=off makes everyone"},
		{"another mode", demo("auth.mode=basic"), "/auth/mode"},
		{"tokens without keys", production("auth.jwks="), "give either auth.jwks"},
		{"tokens with two sets of keys", production("auth.existingConfigMap=a"), "give either auth.jwks"},
		{"tokens without an issuer", production("auth.issuer="), "needs auth.issuer and auth.audience"},
		{"no store", with(secrets, "bus.url=nats://a:4222"), "the PostgreSQL of ticket is not given"},
		{"a store missing", with(secrets, "bus.url=nats://a:4222", "ticket.store.existingSecret=a", "pricing.store.existingSecret=a"), "the PostgreSQL of reservation is not given"},
		{"no bus", with(secrets, "store.existingSecret=a"), "NATS is not given"},
		{"two buses", production("bus.url=nats://a:4222"), "give one of bus.url"},
		{"a bus and the demo's", demo("bus.url=nats://a:4222"), "give one of bus.url"},
		{"a store and the demo's", demo("store.existingSecret=a"), "demo.enabled brings a PostgreSQL"},
		{"a password in a ConfigMap", production("bus.existingSecret=", "bus.url=nats://a:b@c:4222"), "bus.url must not have a password"},
		{"a cluster of one", demo("bus.replicas=3"), "it must be 1"},
		{"too many replicas", demo("bus.replicas=6"), "replicas"},
		{"TLS without a certificate", tlsAndTokens("tls.certManager.enabled=false"), "give either tls.existingSecret"},
		{"TLS without an issuer", tlsAndTokens("tls.certManager.issuerRef.name="), "needs tls.certManager.issuerRef.name"},
		{"a certificate without TLS", demo("tls.existingSecret=a"), "for tls.enabled=true only"},
		{"an ingress for nobody", demo("ingress.enabled=true"), "needs ingress.hosts"},
		{"a route of no gateway", demo("gatewayApi.enabled=true"), "needs gatewayApi.parentRefs"},
		{"bounds that cross", demo("gateway.autoscaling.enabled=true", "gateway.autoscaling.minReplicas=11"), "minReplicas must not be above"},
		{"a key of the chart", demo("config.ticket.listen=0.0.0.0:1"), "config.ticket.listen is set by the chart"},
		{"a secret in a ConfigMap", demo("config.ticket.store.url=a"), "config.ticket.store is set by the chart: use the value store.existingSecret"},
		{"an upstream elsewhere", demo("config.reservation.upstream.ticket.url=a"), "config.reservation.upstream.ticket.url is set by the chart"},
		{"an unknown key", demo("gatewy.replicas=1"), "gatewy"},
		{"an unknown key below", demo("gateway.replica=1"), "replica"},
		{"a wrong type", demo("gateway.replicas=many"), "replicas"},
		{"a habit", demo("replicaCount=3"), "replicaCount is no value of this chart: set gateway.replicas"},
		{"another habit", demo("image.registry=a"), "image.registry is no value of this chart: set image.repository"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := test.release.render(); err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("expected %q, got %v", test.text, err)
			}
		})
	}
}

func TestEveryRenamedKeyIsRefusedWithTheNewName(t *testing.T) {
	for old, new := range renamed(t) {
		_, err := demo(old + "=a").render()
		if err == nil || !strings.Contains(err.Error(), old+" is no value of this chart: set "+new) {
			t.Errorf("%s: %v", old, err)
		}
	}
}

func TestOffAsYAMLReadsItIsTheDemosMode(t *testing.T) {
	plain := release{values: map[string]any{"auth": map[string]any{"mode": false}, "demo": map[string]any{"enabled": true}}}
	for name, text := range plain.mustRender(t).settings(t) {
		if !strings.Contains(text, `auth.mode = "off"`) || !strings.Contains(text, "auth.allow_off_anywhere = true") {
			t.Errorf("%s:%s", name, text)
		}
	}
}

// A change of settings rolls the pods; what a pod's process does not read, does not.
func TestPodsRollWithTheirSettingsOnly(t *testing.T) {
	pods := func(release release) map[string]corev1.PodTemplateSpec { return release.mustRender(t).pods() }
	before := pods(demo())
	for _, same := range []release{
		demo("pricing.policy=version: 2"), demo("gateway.replicas=5"), demo("networkPolicy.enabled=false"), demo("metrics.prometheusRule.enabled=true"),
		demo("gateway.service.annotations.a=b"), {files: []string{"demo.yaml"}, edits: map[string][2]string{"templates/configmaps.yaml": {"data:\n  eticket.toml", "  annotations: {a: b}\ndata:\n  eticket.toml"}}},
	} {
		after := pods(same)
		// The test's pod is made anew with each run.
		delete(after, "test")
		for name, pod := range after {
			if !reflect.DeepEqual(pod, before[name]) {
				t.Errorf("%v %v: %s rolls", same.set, same.edits, name)
			}
		}
	}
	after := pods(demo("config.ticket.sweep.interval_ms=500"))
	for _, name := range components {
		same := after[name].Annotations["checksum/config"] == before[name].Annotations["checksum/config"]
		if same == (name == "ticket") {
			t.Errorf("a setting of ticket: the checksum of %s is the same: %v", name, same)
		}
	}
	labelled := pods(demo("ticket.podAnnotations.a=b", "commonLabels.a=b"))
	for _, name := range components {
		if labelled[name].Annotations["checksum/config"] != before[name].Annotations["checksum/config"] {
			t.Errorf("%s: labels or annotations are in the checksum", name)
		}
	}
}

func TestSettingsKeepTheirTypes(t *testing.T) {
	given := map[string]any{"config": map[string]any{"reservation": map[string]any{
		"limits":   map[string]any{"concurrency": 1000000.0},
		"upstream": map[string]any{"ticket": map[string]any{"deadline_ms": 900.0, "breaker": map[string]any{"failure_ratio": 0.25}}},
		"log":      map[string]any{"format": `te"xt`},
	}, "gateway": map[string]any{"cors": map[string]any{"allowed_origins": []any{"https://a", "https://b"}}}}}
	release := demo()
	release.values = given
	settings := release.mustRender(t).settings(t)
	decoded, err := tree(settings["reservation"])
	if err != nil {
		t.Fatal(err)
	}
	upstream := decoded["upstream"].(map[string]any)["ticket"].(map[string]any)
	for _, pair := range [][2]any{
		{decoded["limits"].(map[string]any)["concurrency"], int64(1000000)}, {upstream["deadline_ms"], int64(900)},
		{upstream["breaker"].(map[string]any)["failure_ratio"], 0.25}, {decoded["log"].(map[string]any)["format"], `te"xt`},
		{upstream["url"], "http://shop-eticket-ticket:8082"}, {decoded["listen"], "0.0.0.0:8081"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%#v instead of %#v", pair[0], pair[1])
		}
	}
	if !strings.Contains(settings["gateway"], `cors.allowed_origins = "https://a,https://b"`) {
		t.Error(settings["gateway"])
	}
}

func TestGracePeriodFollowsTheHardCap(t *testing.T) {
	pods := demo("config.gateway.shutdown.hard_cap_ms=60500").mustRender(t).pods()
	if grace := *pods["gateway"].Spec.TerminationGracePeriodSeconds; grace != 66 {
		t.Errorf("%d s", grace)
	}
}

func TestTokensAndTLSAreConfiguredForAll(t *testing.T) {
	result := tlsAndTokens().mustRender(t)
	for name, text := range result.settings(t) {
		decoded, err := tree(text)
		if err != nil {
			t.Fatal(err)
		}
		auth := decoded["auth"].(map[string]any)
		want := map[string]any{"mode": "jwt", "jwks": "/etc/eticket/jwks/jwks.json", "issuer": "https://login.example.org", "audience": "eticket", "anonymous_reads": false}
		if !reflect.DeepEqual(auth, want) {
			t.Errorf("%s: %v", name, auth)
		}
		tls := decoded["tls"].(map[string]any)
		if _, asked := tls["client_ca_file"]; asked == (name == "gateway") {
			t.Errorf("%s asks for a client's certificate: %v", name, asked)
		}
		if strings.Contains(text, "http://") {
			t.Errorf("%s calls without TLS: %s", name, text)
		}
		if token := result.pods()["test"].Spec.Containers[0].Env[3]; token.ValueFrom == nil {
			t.Errorf("the test has no token: %v", token)
		}
	}
	if names := named[*corev1.Service](result, "shop-eticket-gateway").Spec.Ports[0].AppProtocol; names == nil || *names != "https" {
		t.Errorf("appProtocol %v", names)
	}
}

func TestImages(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for want, image := range map[string]map[string]any{
		"eticket:0.1.0":     {},
		"a/b:2":             {"repository": "a/b", "tag": "2"},
		"eticket@" + digest: {"digest": digest, "tag": "2"},
	} {
		for registry, prefix := range map[string]string{"": "", "mirror:5000/": "mirror:5000/"} {
			release := demo("global.imageRegistry=" + registry)
			release.values = map[string]any{"image": image}
			if given := release.mustRender(t).pods()["ticket"].Spec.Containers[0].Image; given != prefix+want {
				t.Errorf("%s instead of %s", given, prefix+want)
			}
		}
	}
}

// The demo runs on the versions that the tests and compose.yaml have.
func TestTheDemosServersAreThoseOfCompose(t *testing.T) {
	compose := read(t, root+"/compose.yaml")
	pods := demo().mustRender(t).pods()
	for _, name := range []string{"postgresql", "nats"} {
		if image := pods[name].Spec.Containers[0].Image; !strings.Contains(compose, "image: "+image+"\n") {
			t.Errorf("compose.yaml does not run %s", image)
		}
	}
}

func TestTwoLongReleasesStayApart(t *testing.T) {
	long := strings.Repeat("n", 52)
	names := map[string]bool{}
	for _, name := range []string{long + "a", long + "b"} {
		for _, set := range of[*appsv1.StatefulSet](release{name: name, files: []string{"demo.yaml"}}.mustRender(t)) {
			if names[set.Name] {
				t.Errorf("%s is of both", set.Name)
			}
			names[set.Name] = true
		}
	}
}

func TestNamesFollowTheirOverrides(t *testing.T) {
	for want, release := range map[string]release{
		"shop-eticket-query": demo(), "eticket-query": {name: "eticket", files: []string{"demo.yaml"}}, "shop-tickets-query": demo("nameOverride=tickets"),
		"own-query": demo("fullnameOverride=own"),
	} {
		set := named[*appsv1.StatefulSet](release.mustRender(t), want)
		if set == nil || set.Spec.ServiceName != want {
			t.Errorf("no StatefulSet %s", want)
		}
	}
}

func TestExtraObjectsAreTemplates(t *testing.T) {
	release := demo()
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}"
	mapping := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "{{ .Release.Name }}-mapping"}}
	release.values = map[string]any{"extraObjects": []any{text, mapping}}
	result := release.mustRender(t)
	for _, name := range []string{"shop-text", "shop-mapping"} {
		if named[*corev1.ConfigMap](result, name) == nil {
			t.Errorf("no %s", name)
		}
	}
}

func TestEgressOfExternalBackends(t *testing.T) {
	result := production("networkPolicy.store.ports={6432}", "networkPolicy.store.to[0].ipBlock.cidr=10.1.0.0/16").mustRender(t)
	open := func(name string) map[int32]bool {
		found := map[int32]bool{}
		for _, rule := range named[*networking.NetworkPolicy](result, "shop-eticket-"+name).Spec.Egress {
			for _, port := range rule.Ports {
				found[port.Port.IntVal] = len(rule.To) > 0
			}
		}
		return found
	}
	// The port, and whether it is open to some addresses only. 443 is for the keys that sign tokens.
	for name, want := range map[string]map[int32]bool{
		"ticket": {53: false, 6432: true, 4222: false, 443: false}, "gateway": {53: false, 443: false, 8081: true, 8082: true, 8083: true, 8084: true},
		"query": {53: false, 4222: false, 443: false, 8081: true, 8082: true, 8083: true},
	} {
		if given := open(name); !maps.Equal(given, want) {
			t.Errorf("%s: %v instead of %v", name, given, want)
		}
	}
}

func TestDefaultPolicyIsTheServices(t *testing.T) {
	embedded := read(t, root+"/services/pricing/policy.yaml")
	if read(t, folder+"/files/policy.yaml") != embedded {
		t.Error("charts/eticket/files/policy.yaml is no copy of services/pricing/policy.yaml")
	}
	given := named[*corev1.ConfigMap](demo().mustRender(t), "shop-eticket-pricing-policy").Data["policy.yaml"]
	if strings.TrimSpace(given) != strings.TrimSpace(embedded) {
		t.Error(given)
	}
}

func TestNotesNameWhatExists(t *testing.T) {
	result := demo().mustRender(t)
	resource := regexp.MustCompile(`(deployment|statefulset|service)/([a-z0-9-]+)`)
	found := resource.FindAllStringSubmatch(result.notes, -1)
	if len(found) < 7 || !strings.Contains(result.notes, "This is a demo") {
		t.Fatal(result.notes)
	}
	for _, match := range found {
		exists := false
		for _, object := range result.objects {
			exists = exists || strings.EqualFold(object.kind(), match[1]) && object.GetName() == match[2]
		}
		if !exists {
			t.Errorf("the notes name %s, which is not there", match[0])
		}
	}
}

func renamed(t *testing.T) map[string]string {
	t.Helper()
	var all map[string]string
	if err := yaml.UnmarshalStrict([]byte(read(t, folder+"/files/renamed.yaml")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// The schema and the README's table are made from values.yaml; with UPDATE set they are written.
func TestGeneratedFilesAreUpToDate(t *testing.T) {
	values, err := parseValues([]byte(read(t, folder+"/values.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := makeSchema(values, renamed(t))
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- values -->\n", "<!-- end of values -->"
	readme := read(t, folder+"/README.md")
	before, rest, found := strings.Cut(readme, begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatal("README.md has no place for the table")
	}
	for path, want := range map[string]string{
		folder + "/values.schema.json": string(schema),
		folder + "/README.md":          before + begin + makeTable(values) + end + after,
	} {
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if current, err := os.ReadFile(path); err != nil || string(current) != want {
			t.Errorf("%s is not up to date with values.yaml: run `cargo xtask chart --update`", filepath.Base(path))
		}
	}
}

func TestTheSchemaIsStrict(t *testing.T) {
	values, err := parseValues([]byte("# @schema {like: b}\na:\n  x: 1\n  y: {}\nb:\n  # -- What it is,\n  # and more\n  # @schema {minimum: 1}\n  x: 1\n  # @schema {additionalProperties: true}\n  y: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := makeSchema(values, map[string]string{"old.key": "b.x"})
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if err := yaml.Unmarshal(schema, &decoded); err != nil {
		t.Fatal(err)
	}
	section := func(x map[string]any) map[string]any {
		y := map[string]any{"type": "object", "additionalProperties": true}
		return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{"x": x, "y": y}}
	}
	gone := "No value of this chart: set b.x"
	want := map[string]any{
		"a":   section(map[string]any{"type": "integer", "minimum": 1.0}),
		"b":   section(map[string]any{"type": "integer", "minimum": 1.0, "description": "What it is, and more"}),
		"old": map[string]any{"description": gone, "properties": map[string]any{"key": map[string]any{"description": gone}}},
	}
	if !reflect.DeepEqual(decoded["properties"], want) || decoded["additionalProperties"] != false {
		t.Errorf("%v instead of %v", decoded, want)
	}
}
