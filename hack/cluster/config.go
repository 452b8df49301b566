//go:build linux

package main

import (
	"embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(templateFiles, "templates/*"))

// render fills one of the files in templates/.
func render(name string, data any) (string, error) {
	var out strings.Builder
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		return "", fmt.Errorf("render %s: %w", name, err)
	}
	return out.String(), nil
}

// writeRendered fills a template and writes it below the state folder.
func (c *cluster) writeRendered(name string, data any, elements ...string) error {
	content, err := render(name, data)
	if err != nil {
		return err
	}
	return c.write(content, elements...)
}
