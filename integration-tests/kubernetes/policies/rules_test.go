package main

import (
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(namespace, name, address string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: core.PodSpec{Containers: []core.Container{{
			Ports: []core.ContainerPort{{Name: "grpc", ContainerPort: 8082, Protocol: core.ProtocolTCP}},
		}}},
		Status: core.PodStatus{PodIP: address},
	}
}

func selector(app string) *meta.LabelSelector {
	return &meta.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func TestOnlyAdmittedPeersReachASelectedPod(t *testing.T) {
	port := intstr.FromString("grpc")
	now := cluster{
		pods:       []*core.Pod{pod("shop", "ticket", "10.0.0.1"), pod("shop", "gateway", "10.0.0.2"), pod("other", "gateway", "10.0.0.3")},
		namespaces: map[string]labels.Set{"shop": {}, "other": {"team": "monitoring"}},
		policies: []*networking.NetworkPolicy{{
			ObjectMeta: meta.ObjectMeta{Namespace: "shop"},
			Spec: networking.NetworkPolicySpec{
				PodSelector: *selector("ticket"),
				PolicyTypes: []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress},
				Ingress: []networking.NetworkPolicyIngressRule{{
					Ports: []networking.NetworkPolicyPort{{Port: &port}},
					From:  []networking.NetworkPolicyPeer{{PodSelector: selector("gateway")}},
				}},
				Egress: []networking.NetworkPolicyEgressRule{{
					To: []networking.NetworkPolicyPeer{{NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"team": "monitoring"}}}},
				}},
			},
		}},
	}
	rules := strings.Split(now.rules(), "\n")
	expected := []string{
		"-A POLICIES -d 10.0.0.1 -j POLICY-0-Ingress",
		"-A POLICIES -s 10.0.0.1 -j POLICY-0-Egress",
		// The gateway of the other namespace is not admitted.
		"-A POLICY-0-Ingress -s 10.0.0.2 -p tcp --dport 8082 -j RETURN",
		"-A POLICY-0-Ingress -j DROP",
		"-A POLICY-0-Egress -d 10.0.0.3 -j RETURN",
		"-A POLICY-0-Egress -j DROP",
	}
	var found []string
	for _, rule := range rules {
		if strings.HasPrefix(rule, "-A") && !strings.Contains(rule, "conntrack") {
			found = append(found, rule)
		}
	}
	if !slices.Equal(found, expected) {
		t.Errorf("the rules are\n%s\nand should be\n%s", strings.Join(found, "\n"), strings.Join(expected, "\n"))
	}
}
