//go:build wasip1

// Command plugins is a genuine Higress Wasm plugin, made with Higress's Go SDK:
// it adds a header to every response. Name and version are set by the linker, so
// that several plugins that differ come from this one source; see build.sh.
//
// Configuration, as JSON, all of it optional:
//
//	{"header": "x-my-plugin", "value": "1.0.0"}
package main

import (
	"encoding/json"
	"fmt"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
)

// Set with -ldflags "-X main.name=… -X main.version=…".
var (
	name    = "demo"
	version = "0.0.0"
)

// main is never called: the module is a WASI reactor, whose host calls init
// and then the exported functions.
func main() {}

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &pluginContext{} })
}

// config is what the user may set.
type config struct {
	Header string `json:"header"`
	Value  string `json:"value"`
}

func parse(data []byte) (config, error) {
	result := config{Header: "x-" + name, Value: version}
	if len(data) == 0 {
		return result, nil
	}
	if err := json.Unmarshal(data, &result); err != nil {
		return config{}, fmt.Errorf("the configuration of plugin %s is not the JSON object that is expected: %w", name, err)
	}
	if result.Header == "" {
		return config{}, fmt.Errorf("the configuration of plugin %s has an empty header", name)
	}
	return result, nil
}

type pluginContext struct {
	types.DefaultPluginContext
	config config
}

// OnPluginStart reads the configuration. A bad one is reported and refused, so
// that the gateway keeps what it had.
func (p *pluginContext) OnPluginStart(size int) types.OnPluginStartStatus {
	var data []byte
	if size > 0 {
		var err error
		if data, err = proxywasm.GetPluginConfiguration(); err != nil {
			proxywasm.LogCriticalf("plugin %s %s cannot read its configuration: %v", name, version, err)
			return types.OnPluginStartStatusFailed
		}
	}
	parsed, err := parse(data)
	if err != nil {
		proxywasm.LogCritical(err.Error())
		return types.OnPluginStartStatusFailed
	}
	p.config = parsed
	return types.OnPluginStartStatusOK
}

func (p *pluginContext) NewHttpContext(uint32) types.HttpContext {
	return &httpContext{config: p.config}
}

type httpContext struct {
	types.DefaultHttpContext
	config config
}

// OnHttpResponseHeaders adds the header. The request goes on whatever happens.
func (h *httpContext) OnHttpResponseHeaders(int, bool) types.Action {
	if err := proxywasm.ReplaceHttpResponseHeader(h.config.Header, h.config.Value); err != nil {
		proxywasm.LogWarnf("plugin %s %s cannot set header %s: %v", name, version, h.config.Header, err)
	}
	return types.ActionContinue
}
