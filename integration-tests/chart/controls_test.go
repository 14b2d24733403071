package chart

import "testing"

// TestControls takes one guard after the other out of the templates: the check named for it must notice.
func TestControls(t *testing.T) {
	pod, helpers, network := "templates/_pod.tpl", "templates/_helpers.tpl", "templates/networkpolicies.yaml"
	tests := []struct{ check, file, old, new string }{
		{"names", helpers, "gt (len $name) 41", "gt (len $name) 42"},
		{"names", "templates/configmaps.yaml", `"name" "pricing-policy"`, `"name" "pricing"`},
		{"pod security", helpers, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"},
		{"pod security", helpers, "runAsNonRoot: true", "runAsNonRoot: false"},
		{"pod security", helpers, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"},
		{"pod security", helpers, "drop: [ALL]", "drop: [NET_RAW]"},
		{"pod security", helpers, "type: RuntimeDefault", "type: Unconfined"},
		{"pod security", helpers, "automountServiceAccountToken: false", "automountServiceAccountToken: true"},
		{"pod security", helpers, "enableServiceLinks: false", "enableServiceLinks: true"},
		{"pod security", pod, `(dict "user" 10001)`, `(dict "user" 1000)`},
		{"probes", pod, `"service" "readiness" "path" "/readyz"`, `"service" "liveness" "path" "/livez"`},
		{"probes", pod, `"service" "liveness" "path" "/livez"`, `"service" "bus" "path" "/livez"`},
		{"ports", "templates/services.yaml", "clusterIP: None", "type: ClusterIP"},
		{"ports", helpers, `"gateway" 8088`, `"gateway" 8080`},
		{"ports", pod, "containerPort: 9090", "containerPort: 9091"},
		{"selectors", helpers, "app.kubernetes.io/component: {{ .component }}\n", ""},
		{"selectors", pod, "with $own.topologySpreadConstraints }}", "with list dict }}"},
		{"scaling", "templates/deployments.yaml", "if not $own.autoscaling.enabled", "if true"},
		{"scaling", "templates/autoscaling.yaml", `"StatefulSet" "Deployment"`, `"Deployment" "Deployment"`},
		{"upstreams", helpers, `"reservation" "ticket" "query"`, `"reservation" "pricing" "query"`},
		{"upstreams", "templates/_settings.tpl", `"url" (printf "%s://%s-%s:%s"`, `"url" (printf "%s://x%s-%s:%s"`},
		{"network", helpers, `"ticket" "reservation gateway query"`, `"ticket" "reservation gateway pricing"`},
		{"network", network, `if ne $component "gateway"`, `if ne $component "query"`},
		{"network", network, "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]"},
		{"network", network, "- port: admin", "- port: grpc"},
		{"mounts", pod, "mountPath: /etc/eticket/policy\n", "mountPath: /etc/eticket/policy\n          subPath: policy.yaml\n"},
		{"mounts", pod, "name: {{ $fullname }}-pricing-policy", "name: {{ $fullname }}-policy"},
		{"secrets", pod, "if $values.demo.enabled }}\n  value: postgres://eticket@", "if true }}\n  value: postgres://eticket@"},
		{"secrets", pod, "value: postgres://eticket@", "value: postgres://eticket:secret@"},
		{"rollout", pod, "checksum/config:", "checksum/other:"},
		{"rollout", pod, "add 5 (ceil", "add 0 (ceil"},
		{"rollout", "templates/deployments.yaml", "maxUnavailable: 0", "maxUnavailable: 1"},
		{"monitors", "templates/monitoring.yaml", "regex: service", "regex: instance"},
	}
	covered := map[string]bool{}
	for _, test := range tests {
		covered[test.check] = true
		t.Run(test.check+" "+test.old, func(t *testing.T) {
			noticed := false
			for _, release := range matrix() {
				release.edits = map[string][2]string{test.file: {test.old, test.new}}
				result, err := release.render()
				if err != nil {
					// An edit that no release can be rendered with shows nothing, and fails below.
					continue
				}
				if noticed = len(checks[test.check](result)) > 0; noticed {
					break
				}
			}
			if !noticed {
				t.Errorf("%s: %q in place of %q goes unnoticed", test.file, test.new, test.old)
			}
		})
	}
	for check := range checks {
		if !covered[check] {
			t.Errorf("no control shows that the check %s can fail", check)
		}
	}
}
