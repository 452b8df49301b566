//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// The control plane runs in the network namespace of the first node, as plain
// processes.

// startStorage starts etcd, and the API server, which is not waited for.
func (s *starter) startStorage() (apiserver *daemon, err error) {
	etcd, err := s.startEtcd()
	if err != nil {
		return nil, err
	}
	if err := waitFor("etcd", etcd, 20*time.Second, dial("127.0.0.1:2379")); err != nil {
		return nil, err
	}
	return s.startAPIServer()
}

// startControllers starts what needs the API server.
func (s *starter) startControllers() error {
	if _, err := s.startControllerManager(); err != nil {
		return err
	}
	if err := s.allowCoreDNS(); err != nil {
		return fmt.Errorf("permissions of CoreDNS: %w", err)
	}
	if _, err := s.startCoreDNS(); err != nil {
		return err
	}
	_, err := s.startScheduler()
	return err
}

func (s *starter) startEtcd() (*daemon, error) {
	return s.c.start(s.nodes[0].Netns, "etcd", nil, s.envtest("etcd"),
		"--data-dir="+s.c.path("etcd"),
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--log-level=warn",
		"--unsafe-no-fsync", // the data does not outlive the cluster anyway
	)
}

func (s *starter) startAPIServer() (*daemon, error) {
	pki := func(name string) string { return s.c.path("pki", name) }
	address := s.nodes[0].Address
	return s.c.start(s.nodes[0].Netns, "kube-apiserver", s.tools.env(), s.envtest("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+address,
		"--secure-port="+strconv.Itoa(apiPort),
		"--cert-dir="+s.c.path("kube-apiserver"),
		"--tls-cert-file="+pki("kube-apiserver.crt"),
		"--tls-private-key-file="+pki("kube-apiserver.key"),
		"--client-ca-file="+pki("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--allow-privileged=true",
		"--service-cluster-ip-range="+serviceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki("service-accounts.key"),
		"--service-account-signing-key-file="+pki("service-accounts.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"),
		"--kubelet-client-certificate="+pki("kubelet-client.crt"),
		"--kubelet-client-key="+pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+pki("front-proxy-client.crt"),
		"--proxy-client-key-file="+pki("front-proxy-client.key"),
	)
}

func (s *starter) startControllerManager() (*daemon, error) {
	pki := func(name string) string { return s.c.path("pki", name) }
	return s.c.start(s.nodes[0].Netns, "kube-controller-manager", s.tools.env(), s.node("kube-controller-manager"),
		"--kubeconfig="+pki("kube-controller-manager.kubeconfig"),
		"--authentication-kubeconfig="+pki("kube-controller-manager.kubeconfig"),
		"--authorization-kubeconfig="+pki("kube-controller-manager.kubeconfig"),
		"--bind-address=127.0.0.1",
		"--cert-dir="+s.c.path("kube-controller-manager"),
		"--leader-elect=false", // there is only one
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+pki("service-accounts.key"),
		"--root-ca-file="+pki("ca.crt"),
		"--cluster-signing-cert-file="+pki("ca.crt"),
		"--cluster-signing-key-file="+pki("ca.key"),
		"--cluster-cidr="+podNetwork,
		"--service-cluster-ip-range="+serviceCIDR,
		"--allocate-node-cidrs=false", // the nodes are started with theirs
		// Each controller first asks for a token of its own, which takes 5 s at
		// the default of 20 requests a second.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	)
}

func (s *starter) startScheduler() (*daemon, error) {
	config := s.c.path("pki", "kube-scheduler.kubeconfig")
	return s.c.start(s.nodes[0].Netns, "kube-scheduler", s.tools.env(), s.node("kube-scheduler"),
		"--kubeconfig="+config,
		"--authentication-kubeconfig="+config,
		"--authorization-kubeconfig="+config,
		"--bind-address=127.0.0.1",
		"--cert-dir="+s.c.path("kube-scheduler"),
		"--leader-elect=false",
	)
}

// corednsUser is the user in CoreDNS' client certificate.
const corednsUser = "system:coredns"

// startCoreDNS runs CoreDNS as a process on the node's address, so that it
// needs neither an image nor a Service.
func (s *starter) startCoreDNS() (*daemon, error) {
	first := s.nodes[0]
	data := struct {
		State, RegistryHost string
		Node                node
	}{s.c.State, registryHost, first}
	if err := s.c.writeRendered("Corefile", data, "coredns", "Corefile"); err != nil {
		return nil, err
	}
	return s.c.start(first.Netns, "coredns", nil, s.node("coredns"),
		"-conf="+s.c.path("coredns", "Corefile"))
}

// allowCoreDNS lets CoreDNS read Services and their endpoints.
func (s *starter) allowCoreDNS() error {
	content, err := render("coredns-rbac.json", map[string]string{"User": corednsUser})
	if err != nil {
		return err
	}
	var objects []struct {
		Path   string
		Object json.RawMessage
	}
	if err := json.Unmarshal([]byte(content), &objects); err != nil {
		return err
	}
	for _, o := range objects {
		if err := s.api.create("/apis/rbac.authorization.k8s.io/v1/"+o.Path, o.Object); err != nil {
			return err
		}
	}
	return nil
}
