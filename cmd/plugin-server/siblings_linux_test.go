package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// On Linux all of 127.0.0.0/8 is this machine, but only 127.0.0.1 is oneself.

// TestSiblingFillsAndMends: no operator, no registry, only another pod.
func TestSiblingFillsAndMends(t *testing.T) {
	t.Parallel()
	m := publishtest.New("a", "1", 200_000, 1)
	c := publishtest.Catalog(1, m)
	encoded, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "catalog.json.gz")
	if err := os.WriteFile(file, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	full, dir := t.TempDir(), t.TempDir()
	v := publishtest.Open(t, full, 0)
	publishtest.Put(t, v, m)
	publishtest.Publish(t, v, c)
	sibling := begin(t, "serve", "--data-dir="+full, "--listen=127.0.0.2:0", "--ops-listen=127.0.0.1:0")
	p := begin(t, arguments(dir, "http://127.0.0.1:1", "--memory-limit=17179869184", "--catalog="+file, "--peers="+strings.TrimPrefix(sibling.url, "http://"))...)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	right := func() bool {
		status, b, err := get(client, p.url+"/plugins/a/1/plugin.wasm")
		return err == nil && status == http.StatusOK && bytes.Equal(b, m.Bytes)
	}
	eventually(t, "filled", right)

	for _, suffix := range []string{"", ".gz"} { // in its place, as a disk does it
		path := filepath.Join(dir, "blobs/sha256", m.Entry.SHA256+suffix)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 1000); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "mended", func() bool {
		_, metrics, err := get(client, p.ops+"/metrics")
		return err == nil && strings.Contains(string(metrics), "plugin_server_damaged_files_total 1") && right()
	})
	if log := p.log.String(); !strings.Contains(log, "a file on the volume is damaged") {
		t.Errorf("nobody is told:\n%s", log)
	}
}
