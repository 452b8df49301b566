//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// authority signs the cluster's certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

// identity is a certificate with its key, both as PEM.
type identity struct{ cert, key string }

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificateTemplate(name)
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: encodePEM("CERTIFICATE", der)}, nil
}

// issue signs a certificate that is good for both sides of a connection. The
// user's groups are the organizations, as Kubernetes wants it; names are DNS
// names and addresses.
func (a *authority) issue(user string, groups []string, names ...string) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	template := certificateTemplate(user)
	template.Subject.Organization = groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return identity{}, err
	}
	keyPEM, err := encodeKey(key)
	return identity{cert: encodePEM("CERTIFICATE", der), key: keyPEM}, err
}

func certificateTemplate(name string) *x509.Certificate {
	serial := new(big.Int).SetBytes(randomBytes(16))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
}

func encodeKey(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return encodePEM("EC PRIVATE KEY", der), err
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says its documentation
	return b
}

func randomHex(bytes int) string { return hex.EncodeToString(randomBytes(bytes)) }

func base64String(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// writePKI creates all keys of the cluster, and a kubeconfig for each of its
// programs and for the administrator.
func (c *cluster) writePKI(nodes []node) error {
	ca, err := newAuthority("pso-cluster-ca")
	if err != nil {
		return err
	}
	front, err := newAuthority("pso-front-proxy-ca")
	if err != nil {
		return err
	}
	serviceAccounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serviceAccountsPEM, err := encodeKey(serviceAccounts)
	if err != nil {
		return err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"ca.crt": ca.pem, "ca.key": caKey, "front-proxy-ca.crt": front.pem, "service-accounts.key": serviceAccountsPEM,
	} {
		if err := c.write(content, "pki", name); err != nil {
			return err
		}
	}
	proxy, err := front.issue("front-proxy-client", nil)
	if err != nil {
		return err
	}
	if err := c.writeIdentity("front-proxy-client", proxy); err != nil {
		return err
	}
	return c.writeIdentities(ca, nodes)
}

func (c *cluster) writeIdentities(ca *authority, nodes []node) error {
	masters := []string{"system:masters"}
	type holder struct {
		file, user string
		groups     []string
		names      []string
	}
	holders := []holder{
		{"kube-apiserver", "kube-apiserver", nil, []string{nodes[0].Address, "127.0.0.1", serviceIP, "localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
		{"kubelet-client", "kube-apiserver-kubelet-client", masters, nil},
		{"admin", "kubernetes-admin", masters, nil},
		{"kube-controller-manager", "system:kube-controller-manager", nil, nil},
		{"kube-scheduler", "system:kube-scheduler", nil, nil},
		{"kube-proxy", "system:kube-proxy", nil, nil},
		{"coredns", corednsUser, nil, nil},
	}
	for _, n := range nodes {
		holders = append(holders, holder{n.Name, "system:node:" + n.Name, []string{"system:nodes"}, []string{n.Name, n.Address}})
	}
	for _, h := range holders {
		id, err := ca.issue(h.user, h.groups, h.names...)
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", h.user, err)
		}
		if err := c.writeIdentity(h.file, id); err != nil {
			return err
		}
		config, err := render("kubeconfig.yaml", map[string]string{
			"Server": c.apiURL(nodes[0]), "CA": base64String(ca.pem), "Cert": base64String(id.cert), "Key": base64String(id.key), "User": h.user,
		})
		if err != nil {
			return err
		}
		if err := c.write(config, "pki", h.file+".kubeconfig"); err != nil {
			return err
		}
		if h.file == "admin" {
			if err := c.write(config, "kubeconfig"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) writeIdentity(name string, id identity) error {
	if err := c.write(id.cert, "pki", name+".crt"); err != nil {
		return err
	}
	return c.write(id.key, "pki", name+".key")
}
