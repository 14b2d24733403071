// Command policies enforces NetworkPolicy objects on a cluster with one node, by iptables. It shows what a policy admits; products
// that enforce policies may differ in detail. IPv6, SCTP and exceptions of blocks are left out.
//
// Its rules are in the table mangle: there a packet to a Service already has the address of a pod, and kube-proxy has accepted nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/exec"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// pause bounds how often the rules are written.
const pause = 100 * time.Millisecond

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	pods, namespaces := factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default: // A change is noted already.
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { note() },
		UpdateFunc: func(any, any) { note() },
		DeleteFunc: func(any) { note() },
	}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			log.Fatal(err)
		}
	}
	never := context.Background().Done()
	factory.Start(never)
	factory.WaitForCacheSync(never)

	written := ""
	for range changed {
		now := cluster{namespaces: map[string]labels.Set{}}
		all, err := pods.Lister().List(labels.Everything())
		if err != nil {
			log.Fatal(err)
		}
		for _, pod := range all {
			ended := pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed
			if pod.Status.PodIP != "" && !pod.Spec.HostNetwork && !ended {
				now.pods = append(now.pods, pod)
			}
		}
		slices.SortFunc(now.pods, func(one, other *core.Pod) int { return strings.Compare(string(one.UID), string(other.UID)) })
		if now.policies, err = policies.Lister().List(labels.Everything()); err != nil {
			log.Fatal(err)
		}
		list, err := namespaces.Lister().List(labels.Everything())
		if err != nil {
			log.Fatal(err)
		}
		for _, namespace := range list {
			now.namespaces[namespace.Name] = namespace.Labels
		}
		if rules := now.rules(); rules != written {
			if err := write(rules); err != nil {
				log.Print(err)
			} else {
				written = rules
			}
		}
		time.Sleep(pause)
	}
}

// write replaces the rules, and makes sure that packets pass them: FORWARD sees those from pod to pod, INPUT those from a pod to the
// node. Probes of the kubelet leave the node by OUTPUT, which no policy restricts.
func write(rules string) error {
	if err := run(rules, "iptables-restore", "--wait", "--noflush"); err != nil {
		return err
	}
	for _, hook := range []string{"FORWARD", "INPUT"} {
		rule := []string{hook, "--jump", "POLICIES"}
		table := []string{"iptables", "--wait", "--table", "mangle"}
		if run("", slices.Concat(table, []string{"--check"}, rule)...) == nil {
			continue
		}
		if err := run("", slices.Concat(table, []string{"--append"}, rule)...); err != nil {
			return err
		}
	}
	return nil
}

func run(input string, command ...string) error {
	program := exec.Command(command[0], command[1:]...)
	program.Stdin = strings.NewReader(input)
	if output, err := program.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, output)
	}
	return nil
}
