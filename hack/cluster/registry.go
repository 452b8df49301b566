//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// registryAddress is where the cluster's image registry listens. Nodes, pods
// and commands run by "exec" all reach it there, and by the name registryHost.
func registryAddress(n node) string {
	return net.JoinHostPort(n.Address, strconv.Itoa(registryPort))
}

// prepareRegistry makes what a real registry needs, with TLS of an authority of its
// own and a login: what the product meets in the field.
func (s *starter) prepareRegistry() error {
	first := s.nodes[0]
	ca, err := newAuthority("pso-registry-ca")
	if err != nil {
		return err
	}
	server, err := ca.issue(registryHost, nil, registryHost, first.Address)
	if err != nil {
		return err
	}
	password := randomHex(16)
	login, err := s.bcrypt(registryUser, password)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"ca.crt": ca.pem, "tls.crt": server.cert, "tls.key": server.key, "htpasswd": login, "password": password,
	} {
		if err := s.c.write(content, "registry", name); err != nil {
			return err
		}
	}
	data := map[string]string{"State": s.c.State, "Address": registryAddress(first), "Secret": randomHex(16)}
	if err := s.c.writeRendered("registry.yaml", data, "registry", "config.yaml"); err != nil {
		return err
	}
	// With this, a pod's image can come from the registry too.
	if err := s.c.writeRendered("hosts.toml", data, "registries", registryAddress(first), "hosts.toml"); err != nil {
		return err
	}
	return os.MkdirAll(s.c.path("registry", "data"), 0o755)
}

func (s *starter) startRegistry() error {
	program, err := s.tools.find("docker-registry")
	if err != nil {
		return err
	}
	_, err = s.c.start(s.nodes[0].Netns, registryUnit, s.tools.env(), program, "serve", s.c.path("registry", "config.yaml"))
	return err
}

// bcrypt makes a line of a password file. The registry takes no other hash,
// and the standard library does not have this one.
func (s *starter) bcrypt(user, password string) (string, error) {
	program, err := s.tools.find("htpasswd")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, "-niB", "-C", "5", user)
	cmd.Env = s.tools.env()
	cmd.Stdin = strings.NewReader(password)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("htpasswd: %w: %s", err, stderr.String())
	}
	return string(output), nil
}
