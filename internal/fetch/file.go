package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// download is one file that comes by HTTP. Its session has no repository.
type download struct {
	*session
	url        *url.URL
	client     *http.Client
	credential auth.Credential
}

// openFile prepares downloads of a file. The login goes out over HTTPS, and
// over plain HTTP only where the source asks for that.
func (f *Fetcher) openFile(ctx context.Context, r Request) (*download, error) {
	u, err := reference.ParseFile(r.URL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "http" && r.SHA256 == "" {
		return nil, failure.New(failure.Spec, failure.InvalidReference, nil, "what comes from http:// needs its sha256, since anybody on the way can change it")
	}
	ref := reference.Reference{Registry: u.Host, Repository: strings.TrimPrefix(u.EscapedPath(), "/")}
	client, loggedIn, err := f.connect(ctx, ref, r.Access)
	if err != nil {
		return nil, err
	}
	opened := &download{url: u, client: client.Client, session: &session{fetcher: f, ref: ref, access: r.Access, login: loggedIn}}
	if loggedIn && (u.Scheme == "https" || r.Access.PlainHTTP) {
		opened.credential, err = client.Credential(ctx, ref.Host())
	}
	return opened, err
}

// statusError is an answer other than the one that was hoped for.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// get asks for the file. The answer has status 200, or 304 where the request
// was conditional.
func (d *download) get(ctx context.Context, condition http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header = condition.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", d.fetcher.userAgent)
	switch c := d.credential; {
	case c.AccessToken != "":
		req.Header.Set("Authorization", "Bearer "+c.AccessToken)
	case c.Username != "":
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password)))
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotModified && condition != nil {
		return resp, nil
	}
	return nil, errors.Join(statusError(resp.StatusCode), resp.Body.Close())
}

// fetchFile brings the module of a file into the store. The file's digest
// stands where an artifact has its manifest's.
func (f *Fetcher) fetchFile(ctx context.Context, r Request) (store.Artifact, error) {
	d, err := f.openFile(ctx, r)
	if err != nil {
		return store.Artifact{}, err
	}
	var artifact store.Artifact
	err = f.run(ctx, d.session, func(ctx context.Context, _ *session) error {
		var content *hashed
		var header http.Header
		blob, err := f.storeModule(ctx, r.SHA256, func() (io.ReadCloser, container, error) {
			resp, err := d.get(ctx, nil)
			if err != nil {
				return nil, container{}, err
			}
			content, header = newHashed(resp.Body, r.Digest), resp.Header
			return resp.Body, container{content, resp.ContentLength, true}, nil
		})
		if err != nil {
			return err
		}
		artifact = store.Artifact{Digest: content.digest(), Blob: blob, Created: lastModified(header)}
		f.seen.set(d.url.String(), header, artifact.Digest)
		return f.store.PutArtifact(artifact)
	})
	if err != nil {
		return store.Artifact{}, err
	}
	return artifact, nil
}

func lastModified(header http.Header) time.Time {
	t, err := http.ParseTime(header.Get("Last-Modified"))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// resolveFile gives the digest that a file has now. Where the server gave a
// validator with what was read last, the file is read again only if it changed.
func (f *Fetcher) resolveFile(ctx context.Context, r Request) (string, error) {
	d, err := f.openFile(ctx, r)
	if err != nil {
		return "", err
	}
	var digest string
	err = f.run(ctx, d.session, func(ctx context.Context, _ *session) error {
		condition, before := f.seen.condition(d.url.String())
		resp, err := d.get(ctx, condition)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotModified {
			digest = before
			return nil
		}
		content := newHashed(resp.Body, "")
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
		digest = content.digest()
		f.seen.set(d.url.String(), resp.Header, digest)
		return nil
	})
	return digest, err
}

// fetchConfigMaps brings a module that stands in ConfigMaps into the store.
func (f *Fetcher) fetchConfigMaps(ctx context.Context, r Request) (store.Artifact, error) {
	if f.configMaps == nil {
		return store.Artifact{}, failure.New(failure.Spec, failure.InvalidReference, nil, "there is no cluster here whose ConfigMaps could be read")
	}
	if r.SHA256 == "" {
		return store.Artifact{}, failure.New(failure.Spec, failure.InvalidReference, nil, "a plugin from configMaps needs its sha256")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, errTimeout)
	defer cancel()
	namespace, names := reference.ParseConfigMaps(r.URL)
	var content *hashed
	blob, err := f.storeModule(ctx, r.SHA256, func() (io.ReadCloser, container, error) {
		body, err := f.configMaps(ctx, namespace, names)
		if err != nil {
			return nil, container{}, err
		}
		content = newHashed(body, "")
		return body, container{content, -1, true}, nil
	})
	if err != nil {
		return store.Artifact{}, explainConfigMaps(err, names)
	}
	artifact := store.Artifact{Digest: content.digest(), Blob: blob}
	return artifact, f.store.PutArtifact(artifact)
}

func explainConfigMaps(err error, names []string) error {
	where := "ConfigMaps " + strings.Join(names, ", ")
	if errors.Is(err, errNoModule) {
		return failure.New(failure.Upstream, failure.NoWasmLayer, nil, "%s", cut(where+" hold an archive without a .wasm file: put the module itself there, gzipped"))
	}
	e := failure.Of(err)
	return failure.New(e.Class, e.Reason, e.Err, "%s", cut(where+": "+e.Message))
}

// hashed hashes foreign bytes whose hash is not known beforehand, or only as
// what was recorded.
type hashed struct {
	reader   io.Reader
	hash     hash.Hash
	n        int64
	recorded string
}

func newHashed(r io.Reader, recorded string) *hashed {
	return &hashed{reader: r, hash: sha256.New(), recorded: recorded}
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.reader.Read(p)
	h.hash.Write(p[:n])
	if h.n += int64(n); h.n > maxExpanded {
		return 0, tooLarge("a file of more than %d MiB", int64(maxExpanded)>>20)
	}
	return n, err
}

func (h *hashed) digest() string { return "sha256:" + hex.EncodeToString(h.hash.Sum(nil)) }

// Verify says whether the bytes are those that were recorded.
func (h *hashed) Verify() error {
	if h.recorded != "" && h.recorded != h.digest() {
		return failure.New(failure.Upstream, failure.DigestMismatch, nil,
			"the file has changed, its digest is no longer %s: give the sha256 of the module that you want, or set updatePolicy to Auto", h.recorded)
	}
	return nil
}
