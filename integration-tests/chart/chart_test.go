package chart

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	helmchart "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

const (
	root   = "../.."
	folder = root + "/charts/eticket"
)

var components = []string{"gateway", "reservation", "ticket", "pricing", "query"}

// ports of the contract.
var ports = map[string]int32{"gateway": 8088, "reservation": 8081, "ticket": 8082, "pricing": 8083, "query": 8084}

// release is one call of helm: scenario files, then --set, for a release of this name.
type release struct {
	name      string
	namespace string
	files     []string
	set       []string
	// Values of the kind that --set cannot write.
	values map[string]any
	// Edits of the chart's own files, as old and new text, by path.
	edits map[string][2]string
}

func demo(set ...string) release { return release{files: []string{"demo.yaml"}, set: set} }

func production(set ...string) release {
	return release{files: []string{"production.yaml"}, set: set}
}

func tlsAndTokens(set ...string) release {
	return release{files: []string{"production.yaml", "tls-and-tokens.yaml"}, set: set}
}

// object is one rendered manifest.
type object struct {
	metav1.Object
	typed runtime.Object
	text  string
}

func (o object) kind() string { return o.typed.GetObjectKind().GroupVersionKind().Kind }

// rendered is what `helm template` would print.
type rendered struct {
	objects []object
	notes   string
}

var decoder = func() runtime.Decoder {
	all := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, gateway.Install, monitoring.AddToScheme, certmanager.AddToScheme} {
		if err := add(all); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(all, serializer.EnableStrict).UniversalDeserializer()
}()

func (r release) load() (*helmchart.Chart, error) {
	chart, err := loader.LoadDir(folder)
	if err != nil {
		return nil, err
	}
	used := 0
	for _, files := range [][]*helmchart.File{chart.Templates, chart.Files} {
		for _, file := range files {
			if edit, found := r.edits[file.Name]; found {
				changed := bytes.ReplaceAll(file.Data, []byte(edit[0]), []byte(edit[1]))
				if bytes.Equal(changed, file.Data) {
					return nil, fmt.Errorf("%s has no %q", file.Name, edit[0])
				}
				file.Data = changed
				used++
			}
		}
	}
	if used != len(r.edits) {
		return nil, fmt.Errorf("the chart does not have all files of %v", slices.Collect(maps.Keys(r.edits)))
	}
	return chart, nil
}

func (r release) userValues() (map[string]any, error) {
	values := map[string]any{}
	for _, name := range r.files {
		file, err := chartutil.ReadValuesFile(filepath.Join(folder, "values", name))
		if err != nil {
			return nil, err
		}
		values = chartutil.CoalesceTables(file, values)
	}
	if r.values != nil {
		values = chartutil.CoalesceTables(r.values, values)
	}
	for _, set := range r.set {
		if err := strvals.ParseInto(set, values); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// render does what `helm template` does: the schema, the templates, and a strict look at every manifest.
func (r release) render() (rendered, error) {
	chart, err := r.load()
	if err != nil {
		return rendered{}, err
	}
	values, err := r.userValues()
	if err != nil {
		return rendered{}, err
	}
	options := chartutil.ReleaseOptions{Name: "shop", Namespace: "tickets", IsInstall: true, Revision: 1}
	if r.name != "" {
		options.Name = r.name
	}
	if r.namespace != "" {
		options.Namespace = r.namespace
	}
	all, err := chartutil.ToRenderValues(chart, values, options, chartutil.DefaultCapabilities)
	if err != nil {
		return rendered{}, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return rendered{}, err
	}
	var result rendered
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(path, "NOTES.txt") {
			result.notes = files[path]
			continue
		}
		for _, text := range strings.Split("\n"+files[path], "\n---") {
			if strings.TrimSpace(text) == "" {
				continue
			}
			decoded, err := decode(text)
			if err != nil {
				return rendered{}, fmt.Errorf("%s: %w\n%s", path, err, text)
			}
			result.objects = append(result.objects, decoded)
		}
	}
	return result, nil
}

func decode(text string) (object, error) {
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return object{}, err
	}
	typed, _, err := decoder.Decode(data, nil, nil)
	if err != nil {
		return object{}, err
	}
	meta, _ := typed.(metav1.Object)
	return object{Object: meta, typed: typed, text: text}, nil
}

func (r release) mustRender(t *testing.T) rendered {
	t.Helper()
	result, err := r.render()
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// of returns the objects of one type.
func of[T runtime.Object](r rendered) []T {
	var found []T
	for _, object := range r.objects {
		if typed, fits := object.typed.(T); fits {
			found = append(found, typed)
		}
	}
	return found
}

// named returns the object of one type with this name, or the zero value.
func named[T interface {
	runtime.Object
	metav1.Object
}](r rendered, name string) T {
	for _, object := range of[T](r) {
		if object.GetName() == name {
			return object
		}
	}
	var none T
	return none
}

// pods are the pod templates by component.
func (r rendered) pods() map[string]corev1.PodTemplateSpec {
	pods := map[string]corev1.PodTemplateSpec{}
	for _, deployment := range of[*appsv1.Deployment](r) {
		pods[component(deployment)] = deployment.Spec.Template
	}
	for _, set := range of[*appsv1.StatefulSet](r) {
		pods[component(set)] = set.Spec.Template
	}
	for _, pod := range of[*corev1.Pod](r) {
		pods[component(pod)] = corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
	}
	return pods
}

// settings are the configuration files by component.
func (r rendered) settings(t *testing.T) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for _, config := range of[*corev1.ConfigMap](r) {
		if text, found := config.Data["eticket.toml"]; found {
			settings[component(config)] = text
		}
	}
	if len(settings) != len(components) {
		t.Fatalf("settings of %v", slices.Collect(maps.Keys(settings)))
	}
	return settings
}

func component(object metav1.Object) string { return object.GetLabels()["app.kubernetes.io/component"] }

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
