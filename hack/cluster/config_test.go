//go:build linux

package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// TestTemplates compares each rendered file with a golden one, so that a
// change of a template shows what it does to the cluster.
func TestTemplates(t *testing.T) {
	c, err := newCluster("demo", "/state")
	if err != nil {
		t.Fatal(err)
	}
	n := c.nodes()[0]
	data := nodeData{
		State: c.State, Dir: c.path(n.Name), Cgroup: c.cgroup(n), DNS: n.Address, PodNetwork: podNetwork,
		PauseImage: pauseImage, Snapshotter: "overlayfs", Runc: "/bin/runc", CNI: "/lib/cni",
		Network: c.netns() + "." + n.Name, Node: n,
	}
	registry := map[string]string{"State": c.State, "Address": registryAddress(n), "Secret": "abc"}
	cases := map[string]any{
		"containerd.toml": data, "cni.conflist": data, "kubelet.yaml": data, "kube-proxy.yaml": data,
		"registry.yaml": registry, "hosts.toml": registry,
		"coredns-rbac.json": map[string]string{"User": corednsUser},
		"Corefile": struct {
			State, RegistryHost string
			Node                node
		}{c.State, registryHost, n},
		"kubeconfig.yaml": map[string]string{"Server": c.apiURL(n), "CA": "Q0E=", "Cert": "Q0VSVA==", "Key": "S0VZ", "User": "admin"},
		"exec.sh": map[string]string{
			"Name": c.Name, "State": c.State, "Path": `'/cache/bin':"$PATH"`, "Registry": registryAddress(n),
			"RegistryHost": registryHost + ":5000", "User": registryUser, "Password": "secret",
			"Containerd": c.containerdSocket(n), "Netns": c.netnsPath(),
		},
	}
	all, err := templateFiles.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range all {
		t.Run(entry.Name(), func(t *testing.T) {
			data, ok := cases[entry.Name()]
			if !ok {
				t.Fatal("no case for this template")
			}
			got, err := render(entry.Name(), data)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", entry.Name())
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (write it with: go test ./hack/cluster -update):\n%s", golden, got)
			}
		})
	}
}

func TestRenderRefusesMissingValues(t *testing.T) {
	if got, err := render("hosts.toml", map[string]string{"State": "/state"}); err == nil {
		t.Errorf("no error, got %s", got)
	}
}
