// Command push puts a Wasm module into an OCI registry, in one of the shapes in
// which plugins are found there, and prints the digest of its manifest.
//
//	REGISTRY_PASSWORD=… go run ./hack/push -shape tar -ca ca.crt -user plugins \
//	    my-auth-1.0.0.wasm registry.example.com/plugins/my-auth:1.0.0
//
// The shapes are raw (one layer that is the module), tar (as the official
// plugins until mid-2026: documents, and last a tar.gz with plugin.wasm in it) and
// docker (as docker build makes it from a scratch image with plugin.wasm in it).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// target says where to push to, and how.
type target struct {
	reference string
	ca        string // file with PEM certificates; empty for the system's
	user      string
	password  string
	plainHTTP bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("push", flag.ContinueOnError)
	to := target{password: os.Getenv("REGISTRY_PASSWORD")}
	shape := flags.String("shape", "raw", "raw, tar or docker")
	description := flags.String("description", "", "a line for people, kept as an annotation of the manifest")
	flags.StringVar(&to.ca, "ca", "", "file with the PEM certificates to trust")
	flags.StringVar(&to.user, "user", "", "user of the registry; the password is read from REGISTRY_PASSWORD")
	flags.BoolVar(&to.plainHTTP, "plain-http", false, "speak plain HTTP")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("usage: push [flags] FILE.wasm REGISTRY/REPOSITORY:TAG")
	}
	to.reference = flags.Arg(1)
	module, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	pack, known := shapes[*shape]
	if !known {
		return fmt.Errorf("-shape %q is none of raw, tar, docker", *shape)
	}
	digest, err := push(ctx, pack, module, *description, to)
	if err != nil {
		return fmt.Errorf("push %s to %s: %w", flags.Arg(0), to.reference, err)
	}
	fmt.Println(digest)
	return nil
}

// push packs the module in memory and copies the result to the registry.
func push(ctx context.Context, pack packer, module []byte, description string, to target) (string, error) {
	repository, err := remote.NewRepository(to.reference)
	if err != nil {
		return "", err
	}
	client, err := to.client()
	if err != nil {
		return "", err
	}
	repository.Client = client
	repository.PlainHTTP = to.plainHTTP

	store := memory.New()
	manifest, err := pack(ctx, store, module, annotations(description))
	if err != nil {
		return "", err
	}
	tag := repository.Reference.Reference
	if tag == "" {
		return "", errors.New("the reference has no tag")
	}
	if err := store.Tag(ctx, manifest, tag); err != nil {
		return "", err
	}
	copied, err := oras.Copy(ctx, store, tag, repository, tag, oras.DefaultCopyOptions)
	if err != nil {
		return "", err
	}
	return copied.Digest.String(), nil
}

func (t target) client() (*auth.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", t.ca)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	client := &auth.Client{Client: &http.Client{Transport: retry.NewTransport(transport)}}
	if t.user != "" {
		client.Credential = func(context.Context, string) (auth.Credential, error) {
			return auth.Credential{Username: t.user, Password: t.password}, nil
		}
	}
	return client, nil
}
