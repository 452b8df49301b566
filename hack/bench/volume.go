//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
	"github.com/higress-group/plugin-server-operator/internal/publish"
)

// plugin is one that is served.
type plugin struct {
	name   string
	size   int
	sha256 string
	module []byte // only until it is on a volume
}

const pluginVersion = "1.0.0"

func (p plugin) path() string { return "/plugins/" + p.name + "/" + pluginVersion + "/plugin.wasm" }

// letters has some more often than others, so that a module of them shrinks 3.5
// times, as official ones do (3.5 to 3.8).
const letters = "aaabcdee"

// newPlugin makes a module.
func newPlugin(name string, size int, seed uint64) plugin {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	for i := range b {
		b[i] = letters[b[i]%8]
	}
	inspecttest.Frame(b)
	sum := sha256.Sum256(b)
	return plugin{name: name, size: size, sha256: hex.EncodeToString(sum[:]), module: b}
}

// official makes n plugins of the sizes that official ones have, evenly from
// low to high.
func official(n, low, high int, seed uint64) (all []plugin) {
	for i := range n {
		all = append(all, newPlugin(fmt.Sprintf("plugin-%d", i), low+(high-low)*i/max(n-1, 1), seed+uint64(i)))
	}
	return all
}

func (p plugin) entry() catalog.Entry {
	sum := md5.Sum(p.module) // metadata.txt shows it
	return catalog.Entry{Name: p.name, Version: pluginVersion, SHA256: p.sha256, MD5: hex.EncodeToString(sum[:]), Size: int64(p.size)}
}

func (p plugin) zipped() ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.HuffmanOnly) // there is nothing else to find in it
	if err != nil {
		return nil, err
	}
	_, err = w.Write(p.module)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

// volume makes a volume with plugins as sync makes it, and forgets the modules:
// their bytes are on the volume now.
func (b *bench) volume(name string, plugins []plugin) (dir string, err error) {
	dir = filepath.Join(b.dir, name)
	v, err := publish.Open(dir, 0)
	if err != nil {
		return "", err
	}
	defer v.Close()
	c := &catalog.Catalog{Sequence: time.Now().UnixMilli()}
	for i := range plugins {
		zipped, err := plugins[i].zipped()
		if err != nil {
			return "", err
		}
		if err := v.PutGzip(context.Background(), plugins[i].sha256, int64(plugins[i].size), bytes.NewReader(zipped)); err != nil {
			return "", err
		}
		c.Entries = append(c.Entries, plugins[i].entry())
		plugins[i].module = nil
	}
	_, err = v.Publish(context.Background(), c)
	return dir, err
}
