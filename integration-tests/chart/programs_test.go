package chart

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// binary is a built program of ours, where `cargo xtask` has built them.
func binary(t *testing.T, name string) string {
	t.Helper()
	folder := os.Getenv("ETICKET_BINARIES")
	if folder == "" {
		t.Skip("ETICKET_BINARIES names no built programs: `cargo xtask test` does")
	}
	return filepath.Join(folder, name)
}

// The programs themselves take the settings that the chart writes.
func TestTheServersTakeTheirSettings(t *testing.T) {
	for _, release := range []release{demo(), demo("config.reservation.upstream.ticket.retries=1", "config.ticket.sweep.interval_ms=500"), demo("telemetry.otlpEndpoint=http://otel:4317")} {
		result := release.mustRender(t)
		for name, text := range result.settings(t) {
			output, err := checkConfig(t, result, name, text)
			if err != nil || !strings.Contains(output, "listen") {
				t.Errorf("%s: %v\n%s\n%s", name, err, output, text)
			}
			if output, err := checkConfig(t, result, name, text+"\nno_such_key = 1\n"); err == nil {
				t.Errorf("%s takes anything: %s", name, output)
			}
		}
	}
}

// A server does not start with an unknown key. Here a value may be refused, for a file or a Secret that is not there, but no key.
func TestTheServersKnowTheKeysOfEveryScenario(t *testing.T) {
	for _, release := range []release{production("telemetry.otlpEndpoint=http://otel:4317"), tlsAndTokens()} {
		result := release.mustRender(t)
		for name, text := range result.settings(t) {
			if output, _ := checkConfig(t, result, name, text); strings.Contains(output, "unknown key") {
				t.Errorf("%s: %s\n%s", name, output, text)
			}
			if output, _ := checkConfig(t, result, name, "tls.no_such_key = 1\n"+text); !strings.Contains(output, "unknown key") {
				t.Errorf("%s: an unknown key does not come first: %s", name, output)
			}
		}
	}
}

func checkConfig(t *testing.T, r rendered, name, text string) (string, error) {
	t.Helper()
	mounts := t.TempDir()
	policy := named[*corev1.ConfigMap](r, "shop-eticket-pricing-policy").Data["policy.yaml"]
	file := filepath.Join(mounts, "eticket.toml")
	text = strings.ReplaceAll(text, "/etc/eticket/policy", mounts)
	for path, content := range map[string]string{file: text, filepath.Join(mounts, "policy.yaml"): policy} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := exec.Command(binary(t, "eticket-"+name), "--config", file, "--check-config")
	check.Env = []string{}
	for _, env := range r.pods()[name].Spec.Containers[0].Env {
		value := env.Value
		if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
			// The content of a Secret that the chart only names.
			value = map[bool]string{true: "nats://a:4222", false: "postgres://a/b"}[strings.Contains(env.Name, "BUS")]
		}
		check.Env = append(check.Env, env.Name+"="+value)
	}
	output, err := check.CombinedOutput()
	return string(output), err
}

// What `helm test` runs passes against the real servers, and fails where nobody answers.
func TestTheScriptOfHelmTest(t *testing.T) {
	gateway := startAllInOne(t).Gateway
	script := func(address string) (string, error) {
		test := exec.Command("sh", filepath.Join(folder, "files", "test.sh"))
		path := "PATH=" + unavailableAtFirst(t) + string(os.PathListSeparator) + os.Getenv("PATH")
		test.Env = append(os.Environ(), "GATEWAY="+address, "PLAIN=1", "TOKEN=", "CA=", path)
		output, err := test.CombinedOutput()
		return string(output), err
	}
	output, err := script(gateway)
	for _, step := range []string{"register", "view: priced", "reserve", "view: reserved", "cancel", "view: free again", "withdraw"} {
		if err != nil || !strings.Contains(output, "ok   "+step+"\n") {
			t.Fatalf("%s: %v\n%s", step, err, output)
		}
	}
	if output, err := script("127.0.0.1:1"); err == nil || !strings.Contains(output, "FAIL register") {
		t.Errorf("without a server: %v\n%s", err, output)
	}
}

// unavailableAtFirst returns a folder with a grpcurl whose first call finds the gateway without a service.
func unavailableAtFirst(t *testing.T) string {
	t.Helper()
	grpcurl, err := exec.LookPath("grpcurl")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	program := fmt.Sprintf(`#!/bin/sh
if [ -e %[1]s/called ]; then exec %[2]s "$@"; fi
: > %[1]s/called
echo "ERROR:"; echo "  Code: Unavailable"; exit 78
`, folder, grpcurl)
	if err := os.WriteFile(filepath.Join(folder, "grpcurl"), []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

// ready has the addresses of a process that has started.
type ready struct{ Gateway, Admin string }

// startAllInOne starts the five servers in one process, and ends it with the test.
func startAllInOne(t *testing.T) ready {
	t.Helper()
	server := exec.Command(binary(t, "eticket"), "--data", t.TempDir())
	for _, name := range components {
		server.Env = append(server.Env, "ETICKET__"+strings.ToUpper(name)+"__LISTEN=127.0.0.1:0")
	}
	output, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil {
			t.Errorf("the servers ended with %v", err)
		}
	})
	line, err := bufio.NewReader(output).ReadBytes('\n')
	var started ready
	if err != nil || json.Unmarshal(line, &started) != nil || started.Gateway == "" || started.Admin == "" {
		t.Fatalf("not ready: %v %s", err, line)
	}
	return started
}
