package controllers

import (
	"bytes"
	"context"
	"io"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// ConfigMapOpener opens modules that stand in ConfigMaps, for the fetcher. The
// parts are read one after the other, when they are needed.
func ConfigMapOpener(live client.Reader) func(ctx context.Context, namespace string, names []string) (io.ReadCloser, error) {
	return func(ctx context.Context, namespace string, names []string) (io.ReadCloser, error) {
		parts := &configMapParts{ctx: ctx, live: live, namespace: namespace, names: names}
		return io.NopCloser(parts), parts.next() // the first, so that a missing one shows at once
	}
}

// configMapParts reads one ConfigMap after the other.
type configMapParts struct {
	ctx       context.Context //nolint:containedctx // of the fetch that this is the body of
	live      client.Reader
	namespace string
	names     []string // that are still to be read
	part      bytes.Reader
}

func (p *configMapParts) next() error {
	name := p.names[0]
	configMap, err := getConfigMap(p.ctx, p.live, p.namespace, name, "configMaps")
	if err != nil {
		return err
	}
	if len(configMap.BinaryData)+len(configMap.Data) != 1 {
		return failure.New(failure.Upstream, failure.InvalidConfigMap, nil,
			"ConfigMap %s/%s has %d keys: it needs exactly one, with a part of the module (kubectl create configmap --from-file makes such)",
			p.namespace, name, len(configMap.BinaryData)+len(configMap.Data))
	}
	for _, content := range configMap.BinaryData {
		p.part.Reset(content)
	}
	for _, text := range configMap.Data { // kubectl puts a part there that happens to be valid UTF-8
		p.part.Reset([]byte(text))
	}
	p.names = p.names[1:]
	return nil
}

// Read reads on in the next part where one ends.
func (p *configMapParts) Read(b []byte) (int, error) {
	for p.part.Len() == 0 {
		if len(p.names) == 0 {
			return 0, io.EOF
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	return p.part.Read(b)
}
