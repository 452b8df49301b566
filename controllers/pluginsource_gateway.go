package controllers

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// defaultProfile is the CRD's default, for sources that say nothing of gateways.
const defaultProfile = "higress-2.2"

// shownImports is how many imports stand in a message.
const shownImports = 5

// judged makes a failure of a module that gateways would not load, where the
// source wants that.
func (o *observedSource) judged(result *pipeline.Result) *pipeline.Result {
	gateway := o.source.Spec.Gateway
	if result == nil || result.State != pipeline.Fetched || gateway == nil || gateway.Policy != v1alpha1.ImportBlock {
		return result
	}
	missing := missingImports(gateway, result.Artifact)
	if missing == "" {
		return result
	}
	refused := *result
	refused.State = pipeline.Failed
	refused.Err = failure.New(failure.Upstream, failure.UnsupportedImports, nil,
		"the module is refused: %s; build it for these gateways, or allow the functions in gateway.allowedImports", missing)
	return &refused
}

// missingImports says which functions a module wants that gateways lack; empty
// if there are none.
func missingImports(gateway *v1alpha1.Gateway, a store.Artifact) string {
	profile, allowed := defaultProfile, []string(nil)
	if gateway != nil {
		profile, allowed = cmp.Or(string(gateway.Profile), defaultProfile), gateway.AllowedImports
	}
	missing, err := inspect.Missing(inspect.ParseUnusual(a.ABI, a.Imports), profile, allowed)
	switch {
	case err != nil:
		return err.Error()
	case len(missing) > 0:
		var names []string
		for _, i := range missing[:min(len(missing), shownImports)] {
			names = append(names, i.String())
		}
		if len(missing) > shownImports {
			names = append(names, fmt.Sprintf("and %d more", len(missing)-shownImports))
		}
		return fmt.Sprintf("gateways of %s lack what it imports: %s", profile, strings.Join(names, ", "))
	case a.ABI == "":
		return "it names no version of the proxy-wasm ABI, and gateways load no such module"
	}
	return ""
}
