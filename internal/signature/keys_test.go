package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := p256(t).pem
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t)
	// GenerateKey makes no small RSA keys, so the number alone has to do.
	small := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	small.N.Rsh(small.N, 1024)
	private := must(x509.MarshalPKCS8PrivateKey(p224))(t)
	for name, tt := range map[string]struct {
		pem  []byte
		want string
	}{
		"nothing":          {nil, "no public key"},
		"no PEM":           {[]byte("c29tZXRoaW5n"), "no public key"},
		"cut off":          {good[:len(good)-10], "1 of 1 PEM blocks are malformed"},
		"one is cut off":   {append(bytes.Clone(good), good[:len(good)-10]...), "1 of 2 PEM blocks are malformed"},
		"no key in it":     {block("PUBLIC KEY", []byte("x")), "public key 1 is malformed"},
		"the second":       {append(bytes.Clone(good), block("PUBLIC KEY", nil)...), "public key 2 is malformed"},
		"private":          {block("PRIVATE KEY", private), "is a private key"},
		"private, cosign":  {block("ENCRYPTED SIGSTORE PRIVATE KEY", private), "is a private key"},
		"certificate":      {block("CERTIFICATE", []byte("x")), "is a certificate"},
		"something else":   {block("PGP PUBLIC KEY BLOCK", nil), "another kind of PEM block"},
		"P-224":            {block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(p224.Public()))(t)), "has the curve P-224"},
		"RSA 1024":         {block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&small.PublicKey)), "is an RSA key of 1024 bits"},
		"too many":         {bytes.Repeat(good, maxKeys+1), "more than 8 public keys"},
		"too much":         {bytes.Repeat([]byte(" "), maxPEM+1), "bytes"},
		"X25519 in a PKIX": {block("PUBLIC KEY", append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00}, make([]byte, 32)...)), "not supported"},
	} {
		if _, err := New(tt.pem); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

func TestNewTakes(t *testing.T) {
	t.Parallel()
	key := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	pkcs1 := block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&key.PublicKey))
	text := append([]byte("# the keys of the team\r\n"), bytes.ReplaceAll(pkcs1, []byte("\n"), []byte("\r\n"))...)
	text = append(text, bytes.Repeat(ecdsaKey(t, elliptic.P384(), crypto.SHA384).pem, maxKeys-1)...)
	if v, err := New(text); err != nil || len(v.keys) != maxKeys {
		t.Errorf("got %v, %v", v, err)
	}
}

// A Verifier without keys trusts nothing.
func TestNoKey(t *testing.T) {
	t.Parallel()
	r, k := newRegistry(t, withReferrers()), p256(t)
	r.tag(r.image, r.signedBy(k))
	requireError(t, (&Verifier{}).Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "another key")
}
