// Package chart makes the schema and the table of values of charts/eticket from the comments in its values.yaml, and tests the chart.
package chart

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one key of values.yaml with what its comment says.
type value struct {
	path        string
	node        *yaml.Node
	description string
	schema      map[string]any
	// The section that describes the keys that have no comment here.
	like     string
	children []*value
}

// parseValues reads values.yaml. A line `# -- text` begins the description of the key below it, and `# @schema {...}` adds to its schema.
func parseValues(text []byte) (*value, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	root := &value{node: document.Content[0], schema: map[string]any{}}
	return root, root.parseChildren()
}

func (v *value) parseChildren() error {
	if v.node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(v.node.Content); i += 2 {
		key := v.node.Content[i]
		child := &value{path: strings.TrimPrefix(v.path+"."+key.Value, "."), node: v.node.Content[i+1], schema: map[string]any{}}
		if err := child.parseComment(key.HeadComment); err != nil {
			return fmt.Errorf("%s: %w", child.path, err)
		}
		if err := child.parseChildren(); err != nil {
			return err
		}
		v.children = append(v.children, child)
	}
	return nil
}

func (v *value) parseComment(comment string) error {
	// What stands above a blank line is about the file.
	comment = comment[strings.LastIndex(comment, "\n\n")+1:]
	described := false
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if schema, found := strings.CutPrefix(line, "@schema "); found {
			described = false
			if err := yaml.Unmarshal([]byte(schema), &v.schema); err != nil {
				return err
			}
			v.like, _ = v.schema["like"].(string)
			delete(v.schema, "like")
		} else if text, found := strings.CutPrefix(line, "-- "); found {
			described = true
			v.description = text
		} else if described {
			v.description += " " + line
		}
	}
	return nil
}

func (v *value) child(name string) *value {
	for _, child := range v.children {
		if strings.HasSuffix("."+child.path, "."+name) {
			return child
		}
	}
	return nil
}

// adopt completes the sections that are like another with what that one says.
func (v *value) adopt(model *value) {
	for _, child := range v.children {
		like := model.child(child.path[strings.LastIndex(child.path, ".")+1:])
		if like == nil {
			continue
		}
		if len(child.schema) == 0 {
			child.schema = like.schema
		}
		child.adopt(like)
	}
}

var types = map[string]string{"!!str": "string", "!!int": "integer", "!!float": "number", "!!bool": "boolean", "!!seq": "array", "!!map": "object"}

func (v *value) jsonSchema() map[string]any {
	result := map[string]any{"type": types[v.node.Tag]}
	if v.description != "" {
		result["description"] = v.description
	}
	if v.node.Kind == yaml.MappingNode {
		result["additionalProperties"] = false
		properties := map[string]any{}
		for _, child := range v.children {
			properties[child.path[strings.LastIndex(child.path, ".")+1:]] = child.jsonSchema()
		}
		if len(properties) > 0 {
			result["properties"] = properties
		}
	}
	maps.Copy(result, v.schema)
	return result
}

// makeSchema is values.schema.json. Renamed keys pass, so that the templates can say what to set instead.
func makeSchema(root *value, renamed map[string]string) ([]byte, error) {
	for _, child := range root.children {
		if child.like != "" {
			child.adopt(root.child(child.like))
		}
	}
	schema := root.jsonSchema()
	for _, path := range slices.Sorted(maps.Keys(renamed)) {
		at := schema
		steps := strings.Split(path, ".")
		for i, step := range steps {
			properties, _ := at["properties"].(map[string]any)
			if properties == nil {
				properties = map[string]any{}
				at["properties"] = properties
			}
			next, _ := properties[step].(map[string]any)
			if next == nil {
				next = map[string]any{"description": "No value of this chart: set " + renamed[path]}
				properties[step] = next
			} else if i == len(steps)-1 {
				return nil, fmt.Errorf("%s is renamed, and a value", path)
			}
			at = next
		}
	}
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = "Values of the chart eticket"
	text, err := json.MarshalIndent(schema, "", "  ")
	return append(text, '\n'), err
}

// makeTable is the table of values in the chart's README.
func makeTable(root *value) string {
	var table strings.Builder
	table.WriteString("| value | default | meaning |\n| --- | --- | --- |\n")
	for _, child := range root.children {
		var model *value
		if child.like != "" {
			model = root.child(child.like)
			fmt.Fprintf(&table, "| `%s` | | Every key of `%s` but `service`, and: |\n", child.path, child.like)
		}
		child.rows(&table, model)
	}
	return table.String()
}

func (v *value) rows(table *strings.Builder, model *value) {
	if len(v.children) > 0 && v.node.Style&yaml.FlowStyle == 0 && v.schema["additionalProperties"] == nil || v.path == "global" {
		if v.description != "" {
			fmt.Fprintf(table, "| `%s` | | %s |\n", v.path, v.description)
		}
		for _, child := range v.children {
			var like *value
			if model != nil {
				like = model.child(child.path[strings.LastIndex(child.path, ".")+1:])
			}
			child.rows(table, like)
		}
		return
	}
	shown := v.shown()
	if model != nil && model.shown() == shown && v.description == "" {
		return
	}
	fmt.Fprintf(table, "| `%s` | `%s` | %s |\n", v.path, shown, strings.ReplaceAll(v.description, "|", `\|`))
}

// shown is the default as JSON.
func (v *value) shown() string {
	var decoded any
	if err := v.node.Decode(&decoded); err != nil {
		return err.Error()
	}
	text, err := json.Marshal(decoded)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
