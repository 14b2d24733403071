package chart

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const runbooks = root + "/docs/runbooks"

var headings = []string{"## Meaning", "## Impact", "## Diagnosis", "## Mitigation"}

// checkRunbooks returns what is wrong with the pages, by name, of these alerts.
func checkRunbooks(pages map[string]string, alerts []string) (problems []string) {
	for _, alert := range alerts {
		page, found := pages[alert]
		if !found {
			problems = append(problems, alert+" has no page")
			continue
		}
		var given []string
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "###") {
				given = append(given, strings.TrimSpace(line))
			}
		}
		// A `#` at the start of a line may also be a comment in a block of code; pages have none.
		if !slices.Equal(given, append([]string{"# " + alert}, headings...)) {
			problems = append(problems, alert+" has the headings "+strings.Join(given, ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		if !slices.Contains(alerts, name) && name != "README" {
			problems = append(problems, name+" is no alert")
		}
	}
	return problems
}

func TestEachAlertHasARunbook(t *testing.T) {
	var alerts []string
	for _, rule := range alertRules(t, production()).Spec.Groups[0].Rules {
		alerts = append(alerts, rule.Alert)
		// Without a base, the link is the path of the page in the repository.
		if _, err := os.Stat(filepath.Join(root, rule.Annotations["runbook_url"])); err != nil {
			t.Errorf("%s: %v", rule.Alert, err)
		}
	}
	paths, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for _, path := range paths {
		pages[strings.TrimSuffix(filepath.Base(path), ".md")] = read(t, path)
	}
	for _, problem := range checkRunbooks(pages, alerts) {
		t.Error(problem)
	}
	for _, alert := range alerts {
		if !strings.Contains(pages["README"], "["+alert+"]("+alert+".md)") {
			t.Errorf("docs/runbooks/README.md does not list %s", alert)
		}
	}
}

var (
	searched  = regexp.MustCompile(`kubectl logs .*\| grep (?:-\w+ )?(?:'([^']+)'|(\w+))`)
	separator = regexp.MustCompile(`[()|":]+|\.\*`)
	continued = regexp.MustCompile(`\\\n\s*`)
)

// unknownTexts returns the texts that a page searches in logs, and that no source has.
func unknownTexts(page, sources string) (unknown []string) {
	for _, match := range searched.FindAllStringSubmatch(page, -1) {
		for _, text := range separator.Split(match[1]+match[2], -1) {
			if text = strings.TrimSpace(text); !strings.Contains(sources, strings.ToLower(text)) {
				unknown = append(unknown, text)
			}
		}
	}
	return unknown
}

func TestRunbooksSearchTextsThatAreLogged(t *testing.T) {
	var sources strings.Builder
	for _, folder := range []string{"crates", "services", "gateway-grpc-web/src"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, _ os.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".rs" {
				sources.WriteString(strings.ToLower(continued.ReplaceAllString(read(t, path), "")))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	paths, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, path := range paths {
		page := read(t, path)
		count += len(searched.FindAllString(page, -1))
		for _, text := range unknownTexts(page, sources.String()) {
			t.Errorf("%s searches %q, which nothing logs", filepath.Base(path), text)
		}
	}
	if count == 0 {
		t.Error("no page searches a log")
	}
	// The check above can fail.
	page := "kubectl logs POD | grep -E '\"message\":\"(the bus|gone .* away)'"
	if unknown := unknownTexts(page, `"message" the bus gone`); !slices.Equal(unknown, []string{"away"}) {
		t.Error(unknown)
	}
}

// The check above can fail.
func TestARunbookThatIsNotCompleteIsFound(t *testing.T) {
	good := "# A\n\n" + strings.Join(headings, "\n\ntext\n\n") + "\n"
	for name, test := range map[string]struct {
		pages   map[string]string
		problem string
	}{
		"as it should be":  {map[string]string{"A": good, "README": ""}, ""},
		"no page":          {map[string]string{}, "A has no page"},
		"no alert":         {map[string]string{"A": good, "B": good}, "B is no alert"},
		"a heading less":   {map[string]string{"A": strings.Replace(good, "## Impact", "", 1)}, "A has the headings"},
		"another title":    {map[string]string{"A": strings.Replace(good, "# A", "# B", 1)}, "A has the headings"},
		"the wrong order":  {map[string]string{"A": "# A\n## Impact\n## Meaning\n## Diagnosis\n## Mitigation\n"}, "A has the headings"},
		"a heading beyond": {map[string]string{"A": good + "## More\n"}, "A has the headings"},
	} {
		problems := strings.Join(checkRunbooks(test.pages, []string{"A"}), "\n")
		if test.problem == "" && problems != "" || !strings.Contains(problems, test.problem) {
			t.Errorf("%s: %q", name, problems)
		}
	}
}

// The commands on the pages are those that README lists, and those that the program has.
func TestRunbooksNameCommandsThatExist(t *testing.T) {
	_, operations, _ := strings.Cut(read(t, root+"/README.md"), "## Operations")
	source := read(t, root+"/crates/runtime/src/process/admin_command.rs")
	command := regexp.MustCompile(`eticket admin ([a-z-]+)([^\n` + "`" + `|]*)`)
	used := 0
	paths, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		for _, found := range command.FindAllStringSubmatch(read(t, path), -1) {
			used++
			listed := strings.Contains(operations, "| `"+found[1]+"`") || strings.Contains(operations, "| `"+found[1]+" ")
			if !listed || !strings.Contains(source, `"`+found[1]+`"`) {
				t.Errorf("%s: there is no `eticket admin %s`", filepath.Base(path), found[1])
			}
			if !strings.Contains(found[2], "--address 127.0.0.1:8088") {
				t.Errorf("%s: %q has no address", filepath.Base(path), found[0])
			}
			for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(found[2], -1) {
				if flag != "--address" && flag != "--service" {
					t.Errorf("%s: there is no flag %s", filepath.Base(path), flag)
				}
			}
		}
	}
	if used < 8 {
		t.Errorf("only %d commands found", used)
	}
}

// The queries on the pages parse, and are over metrics that exist.
func TestRunbooksHaveQueriesThatWork(t *testing.T) {
	paths, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	expressions := map[string]string{}
	for _, path := range paths {
		for _, block := range regexp.MustCompile("(?s)```promql\n(.*?)\n```").FindAllStringSubmatch(read(t, path), -1) {
			for expr := range strings.Lines(block[1]) {
				expressions[filepath.Base(path)+": "+strings.TrimSpace(expr)] = strings.TrimSpace(expr)
			}
		}
	}
	for _, problem := range unknownSeries(expressions, knownSeries(t)) {
		t.Error(problem)
	}
	if len(expressions) < 10 {
		t.Errorf("only %d queries found", len(expressions))
	}
	if output, err := parse(t, slices.Sorted(maps.Values(expressions))); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}
