package chart

import (
	"fmt"
	"slices"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// stranger is a pod in the same namespace that is none of ours.
const stranger = "stranger"

// network answers whether pods of this release reach each other.
type network struct {
	policies []*networking.NetworkPolicy
	labels   map[string]labels.Set
	// Container ports by component and name.
	ports map[string]map[string]int32
}

func newNetwork(r rendered) network {
	result := network{of[*networking.NetworkPolicy](r), map[string]labels.Set{stranger: {}}, map[string]map[string]int32{}}
	for name, pod := range r.pods() {
		result.labels[name] = pod.Labels
		result.ports[name] = map[string]int32{}
		for _, port := range pod.Spec.Containers[0].Ports {
			result.ports[name][port.Name] = port.ContainerPort
		}
	}
	return result
}

// reaches follows NetworkPolicies as a cluster does: what no policy selects is open, in each direction.
func (n network) reaches(from, to, port string) bool {
	out, in := true, true
	for _, policy := range n.policies {
		if n.matches(&policy.Spec.PodSelector, from) && slices.Contains(policy.Spec.PolicyTypes, networking.PolicyTypeEgress) {
			out = slices.ContainsFunc(policy.Spec.Egress, func(rule networking.NetworkPolicyEgressRule) bool {
				return n.allows(rule.Ports, rule.To, to, to, port)
			})
		}
		if n.matches(&policy.Spec.PodSelector, to) && slices.Contains(policy.Spec.PolicyTypes, networking.PolicyTypeIngress) {
			in = slices.ContainsFunc(policy.Spec.Ingress, func(rule networking.NetworkPolicyIngressRule) bool {
				return n.allows(rule.Ports, rule.From, from, to, port)
			})
		}
	}
	return out && in
}

func (n network) allows(ports []networking.NetworkPolicyPort, peers []networking.NetworkPolicyPeer, peer, to, port string) bool {
	number := n.ports[to][port]
	fits := func(given networking.NetworkPolicyPort) bool {
		return given.Port == nil || given.Port.StrVal == port || given.Port.IntVal == number
	}
	return (len(ports) == 0 || slices.ContainsFunc(ports, fits)) &&
		(len(peers) == 0 || slices.ContainsFunc(peers, func(given networking.NetworkPolicyPeer) bool {
			// Of other namespaces only those are known that are all: they have strangers too.
			all := given.NamespaceSelector != nil && len(given.NamespaceSelector.MatchLabels) == 0
			return all || given.NamespaceSelector == nil && given.PodSelector != nil && n.matches(given.PodSelector, peer)
		}))
}

func (n network) matches(selector *metav1.LabelSelector, name string) bool {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(n.labels[name])
}

// checkNetwork holds what the policies let through against who calls whom.
func checkNetwork(r rendered) (problems []string) {
	network := newNetwork(r)
	if len(network.policies) == 0 {
		return nil
	}
	callers := map[string]string{
		"ticket grpc": "gateway reservation query", "reservation grpc": "gateway query", "pricing grpc": "gateway query", "query grpc": "gateway",
		"postgresql postgresql": "ticket reservation pricing", "nats nats": "ticket reservation pricing query",
	}
	for _, name := range components {
		if callers[name+" admin"] = ""; len(of[*monitoring.ServiceMonitor](r)) > 0 {
			callers[name+" admin"] = "test " + stranger
		}
	}
	limited := slices.ContainsFunc(network.policies, func(policy *networking.NetworkPolicy) bool {
		return component(policy) == "gateway" && len(policy.Spec.Ingress[0].From) > 0
	})
	callers["gateway grpc"] = "test"
	if !limited {
		callers["gateway grpc"] = "test " + stranger
	}
	for target, allowed := range callers {
		to, port, _ := strings.Cut(target, " ")
		if network.ports[to] == nil {
			continue
		}
		for from := range network.labels {
			expected := slices.Contains(strings.Fields(allowed), from)
			if reached := network.reaches(from, to, port); from != to && reached != expected {
				problems = append(problems, fmt.Sprintf("%s reaches %s of %s: %v", from, port, to, reached))
			}
		}
	}
	return problems
}
