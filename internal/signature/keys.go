package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
)

const (
	// maxKeys is how many keys a Verifier takes.
	maxKeys = 8
	// maxPEM is the size of the keys' text in bytes.
	maxPEM = 64 << 10
	// Sizes of an RSA key in bits. Larger ones only take time.
	minRSA, maxRSA = 2048, 8192
)

// Verifier checks signatures with public keys; one that fits is enough.
type Verifier struct {
	keys []key
}

// key is a public key: all ways in which cosign signs with its kind.
type key []sigstore.Verifier

// New makes a Verifier with the public keys in PEM blocks. The error tells the
// user what is wrong with them.
func New(pemKeys []byte) (*Verifier, error) {
	if len(pemKeys) > maxPEM {
		return nil, fmt.Errorf("the public keys have %d bytes, %d are allowed", len(pemKeys), maxPEM)
	}
	v := &Verifier{}
	rest := pemKeys
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if len(v.keys) == maxKeys {
			return nil, fmt.Errorf("there are more than %d public keys: remove those that are not used", maxKeys)
		}
		k, err := newKey(block)
		if err != nil {
			return nil, fmt.Errorf("public key %d %w", len(v.keys)+1, err)
		}
		v.keys = append(v.keys, k)
	}
	// Decode skips what it does not understand, but every key was meant to be used.
	if begun := bytes.Count(pemKeys, []byte("-----BEGIN")); begun != len(v.keys) {
		return nil, fmt.Errorf("%d of %d PEM blocks are malformed: copy them again, whole and with their line breaks", begun-len(v.keys), begun)
	}
	if len(v.keys) == 0 {
		return nil, errors.New("there is no public key: put the content of cosign.pub there, from -----BEGIN PUBLIC KEY----- on")
	}
	return v, nil
}

// newKey parses one PEM block. The error follows the words "public key 1".
func newKey(block *pem.Block) (key, error) {
	switch kind := cryptoutils.PEMType(block.Type); {
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, errors.New("is a private key: take it away from here, put the public one there (cosign public-key), and use another pair if others could read it")
	case kind == "CERTIFICATE":
		return nil, errors.New("is a certificate: take the key out of it (openssl x509 -pubkey -noout)")
	case kind != cryptoutils.PublicKeyPEMType && kind != cryptoutils.PKCS1PublicKeyPEMType:
		return nil, errors.New("is another kind of PEM block: it has to be a PUBLIC KEY")
	}
	public, err := parsePublic(block)
	if err != nil {
		return nil, fmt.Errorf("is malformed: %w", err)
	}
	return load(public)
}

func parsePublic(block *pem.Block) (crypto.PublicKey, error) {
	if cryptoutils.PEMType(block.Type) == cryptoutils.PKCS1PublicKeyPEMType {
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// load makes the verifiers of a key. cosign used SHA-256 with every curve, and
// later the hash that has the curve's size.
func load(public crypto.PublicKey) (key, error) {
	var k key
	var err error
	add := func(verifier sigstore.Verifier, e error) {
		err = errors.Join(err, e)
		k = append(k, verifier)
	}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		hashes := map[int][]crypto.Hash{256: {crypto.SHA256}, 384: {crypto.SHA384, crypto.SHA256}, 521: {crypto.SHA512, crypto.SHA256}}
		size := p.Curve.Params().BitSize
		if hashes[size] == nil {
			return nil, fmt.Errorf("has the curve %s: make one with P-256, P-384 or P-521", p.Curve.Params().Name)
		}
		for _, hash := range hashes[size] {
			add(sigstore.LoadECDSAVerifier(p, hash))
		}
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits < minRSA || bits > maxRSA {
			return nil, fmt.Errorf("is an RSA key of %d bits: make one with %d to %d", bits, minRSA, maxRSA)
		}
		add(sigstore.LoadRSAPKCS1v15Verifier(p, crypto.SHA256))
	case ed25519.PublicKey:
		add(sigstore.LoadED25519Verifier(p))
		add(sigstore.LoadED25519phVerifier(p))
	default:
		return nil, errors.New("is of a kind that is not supported: make an ECDSA, RSA or Ed25519 key (cosign generate-key-pair)")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be used: %w", err)
	}
	return k, nil
}

// verify is nil if one of the keys made the signature of the message.
func verify(keys []key, signature, message []byte) error {
	made := slices.ContainsFunc(keys, func(k key) bool {
		return slices.ContainsFunc(k, func(v sigstore.Verifier) bool {
			return v.VerifySignature(bytes.NewReader(signature), bytes.NewReader(message)) == nil
		})
	})
	if !made {
		return anotherKey
	}
	return nil
}
