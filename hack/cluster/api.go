//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func (c *cluster) apiURL(n node) string { return fmt.Sprintf("https://%s:%d", n.Address, apiPort) }

// api is as much of a client of the API server as starting a cluster takes.
// It works only inside the cluster's network namespace.
type api struct {
	url    string
	client *http.Client
}

func (c *cluster) newAPI(n node) (*api, error) {
	id, err := tls.LoadX509KeyPair(c.path("pki", "admin.crt"), c.path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{id}}}
	return &api{url: c.apiURL(n), client: &http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// get reads a path; into may be nil.
func (a *api) get(path string, into any) error {
	return a.do(http.MethodGet, path, nil, into)
}

// create posts an object; one that exists already is fine.
func (a *api) create(path string, object []byte) error {
	return a.do(http.MethodPost, path, object, nil)
}

func (a *api) do(method, path string, body []byte, into any) error {
	request, err := http.NewRequest(method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	exists := method == http.MethodPost && response.StatusCode == http.StatusConflict
	if response.StatusCode >= 300 && !exists {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, response.Status, content)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(content, into)
}

// checkNode asks whether a node is ready for pods.
func (a *api) checkNode(name string) error {
	var n struct {
		Spec struct {
			Taints []struct{ Key string }
		}
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := a.get("/api/v1/nodes/"+name, &n); err != nil {
		return err
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == "Ready" && condition.Status != "True" {
			return fmt.Errorf("node %s is not ready: %s", name, condition.Message)
		}
	}
	for _, taint := range n.Spec.Taints {
		if taint.Key == "node.kubernetes.io/not-ready" {
			return fmt.Errorf("node %s still carries the taint %s", name, taint.Key)
		}
	}
	return nil
}

// checkServiceAccount asks for the account without which no pod is admitted.
func (a *api) checkServiceAccount() error {
	return a.get("/api/v1/namespaces/default/serviceaccounts/default", nil)
}

// checkDNS asks CoreDNS for a name of the cluster.
func checkDNS(server string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server, "53"))
	}}
	const name = "kubernetes.default.svc.cluster.local."
	addresses, err := resolver.LookupHost(ctx, name)
	if err != nil {
		return fmt.Errorf("CoreDNS: %w", err)
	}
	if len(addresses) != 1 || addresses[0] != serviceIP {
		return fmt.Errorf("CoreDNS: %s is %v, want %s", name, addresses, serviceIP)
	}
	return nil
}
