module github.com/higress-group/plugin-server-operator/hack/plugins

go 1.26.0

require github.com/higress-group/proxy-wasm-go-sdk v0.0.0-20250611100342-5654e89a7a80
