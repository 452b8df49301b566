package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// maxMessage is the number of bytes of a message; the API takes 512 characters.
const maxMessage = 500

// explain turns every error of a session into a *failure.Error. Messages and
// causes are made here, of known words: errors of the HTTP client hold addresses,
// which may be signed, and those of oras whatever a registry sent.
func (s *session) explain(ctx context.Context, err error) *failure.Error {
	what := s.ref.Repository
	if what == "" {
		what = "/"
	}
	if s.ref.Tag != "" {
		what += ":" + s.ref.Tag
	}
	if s.ref.Digest != "" {
		what += "@" + s.ref.Digest
	}
	var layer *layerError
	var known *failure.Error
	inLayer := ""
	if errors.As(err, &layer) {
		inLayer = "layer " + short(layer.digest) + " of "
	}
	if errors.As(err, &known) {
		return failure.New(known.Class, known.Reason, known.Err, "%s", cut(inLayer+s.ref.Registry+"/"+what+": "+known.Message))
	}
	e := s.judge(ctx, err, inLayer+what)
	e.Message = cut(e.Message)
	return e
}

// where is how messages call the other side.
func (s *session) where() string {
	if s.repo == nil {
		return "server " + s.ref.Registry
	}
	return "registry " + s.ref.Registry
}

// cut keeps a message within what the API takes.
func cut(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "…"
}

// judge looks for what is known about an error.
func (s *session) judge(ctx context.Context, err error, what string) *failure.Error {
	for _, look := range []func(context.Context, error, string) *failure.Error{s.ofContext, s.ofConnection, s.ofAnswer, s.ofContent} {
		if e := look(ctx, err, what); e != nil {
			return e
		}
	}
	var sending *url.Error
	if errors.As(err, &sending) {
		return failure.New(failure.Transient, failure.Unreachable, nil, "%s did not give a whole HTTP answer for %s: see its log, and proxies in between", s.where(), what)
	}
	return failure.New(failure.Upstream, failure.RegistryError, nil,
		"%s gave an answer for %s that does not follow the distribution specification: check that the address is a registry's", s.where(), what)
}

// ofContext explains that time was up or the work is no longer wanted.
func (s *session) ofContext(ctx context.Context, _ error, what string) *failure.Error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return nil
	case errors.Is(cause, errTimeout):
		return failure.New(failure.Transient, failure.Unreachable, errTimeout,
			"%s did not give all of %s within %s: check the network to it", s.where(), what, s.fetcher.timeout)
	default:
		return failure.New(failure.Transient, failure.Unreachable, cause, "fetching %s from %s was interrupted", what, s.where())
	}
}

// ofConnection explains that there was no conversation with the registry.
func (s *session) ofConnection(_ context.Context, err error, what string) *failure.Error {
	host := s.where()
	var forbidden *forbiddenError
	var broken *brokenError
	var dns *net.DNSError
	var network net.Error
	var operation *net.OpError
	switch {
	case errors.As(err, &forbidden):
		return failure.New(failure.Upstream, failure.ForbiddenAddress, forbidden,
			"%s leads to %s, which is %s; the operator does not connect there: name a registry with an address of its own", host, forbidden.addr, forbidden.why)
	case errors.Is(err, http.ErrSchemeMismatch):
		return failure.New(failure.Upstream, failure.RegistryError, http.ErrSchemeMismatch,
			"%s speaks plain HTTP: give it a certificate, or set insecure", host)
	case errors.Is(err, errStalled):
		return failure.New(failure.Transient, failure.Unreachable, errStalled,
			"%s stopped sending %s: nothing came for %s", host, what, s.fetcher.stallTimeout)
	case errors.As(err, &broken):
		return failure.New(failure.Transient, failure.Truncated, plain(broken), "the connection to %s broke in the middle of %s", host, what)
	}
	if e := s.ofCertificate(err); e != nil {
		return e
	}
	var proxy *proxyError
	switch {
	case errors.As(err, &proxy):
		return failure.New(failure.Transient, failure.Unreachable, nil,
			"%s cannot be reached through the proxy %s: check the proxy, and the proxy settings of the operator", host, proxy.host)
	case errors.As(err, &dns):
		return failure.New(failure.Transient, failure.Unreachable, plain(dns),
			"the name of %s cannot be resolved: check the url and the cluster's DNS", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure.New(failure.Transient, failure.Unreachable, syscall.ECONNREFUSED,
			"%s refuses connections: check the host and port in the url, and that it runs", host)
	case errors.As(err, &network) && network.Timeout():
		return failure.New(failure.Transient, failure.Unreachable, os.ErrDeadlineExceeded,
			"%s does not answer: check the host and port in the url, proxies and network policies", host)
	case errors.As(err, &operation):
		return failure.New(failure.Transient, failure.Unreachable, plain(operation),
			"%s cannot be reached: check the host and port in the url, proxies and network policies", host)
	case errors.Is(err, io.EOF):
		return failure.New(failure.Transient, failure.Unreachable, io.EOF, "%s closed the connection without an answer", host)
	}
	return nil
}

// ofCertificate explains that the registry could not be trusted.
func (s *session) ofCertificate(err error) *failure.Error {
	untrusted := func(cause error, format string, args ...any) *failure.Error {
		return failure.New(failure.Upstream, failure.UntrustedCertificate, cause, "the certificate of %s %s", s.where(), fmt.Sprintf(format, args...))
	}
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &authority) && len(s.access.CA) > 0:
		return untrusted(plain(authority), "is not signed by a certificate in the Secret named in certSecretRef: put the CA that signed it there, in ca.crt")
	case errors.As(err, &authority):
		return untrusted(plain(authority), "is signed by an unknown authority: name a Secret with its CA certificate (ca.crt) in certSecretRef")
	case errors.As(err, &hostname):
		return untrusted(nil, "is not for this host name: use the name it is for, or give the registry another one")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return untrusted(plain(invalid), "is expired or not valid yet: renew it, and check the clocks")
	case errors.As(err, &invalid), errors.As(err, &verification):
		return untrusted(nil, "is not valid: replace it")
	case errors.As(err, &alert), errors.As(err, &record):
		return failure.New(failure.Upstream, failure.UntrustedCertificate, nil,
			"no TLS connection with %s could be agreed on: it needs TLS 1.2 or later", s.where())
	}
	return nil
}

// ofAnswer explains what the registry answered.
func (s *session) ofAnswer(_ context.Context, err error, what string) *failure.Error {
	host := s.where()
	var answer *errcode.ErrorResponse
	var status statusError
	switch {
	case errors.Is(err, errTooManyRedirects), errors.Is(err, errDowngrade), errors.Is(err, errRealm):
		reason := errTooManyRedirects
		for _, r := range []error{errDowngrade, errRealm} {
			if errors.Is(err, r) {
				reason = r
			}
		}
		return failure.New(failure.Upstream, failure.RegistryError, reason,
			"%s answered for %s with %s, which is not followed: correct the registry's settings", host, what, reason)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return s.ofStatus(http.StatusUnauthorized, what)
	case errors.Is(err, errdef.ErrNotFound):
		return s.ofStatus(http.StatusNotFound, what)
	case errors.As(err, &answer):
		return s.ofStatus(answer.StatusCode, what)
	case errors.As(err, &status):
		return s.ofStatus(int(status), what)
	case errors.Is(err, errNoModule):
		return failure.New(failure.Upstream, failure.NoWasmLayer, nil, "%s has an archive without a .wasm file at %s: put the module itself there, or plugin.wasm into the archive", host, what)
	}
	return nil
}

// ofStatus explains a status of HTTP.
func (s *session) ofStatus(status int, what string) *failure.Error {
	host := s.where()
	cause := fmt.Errorf("status %d", status)
	switch {
	case status == http.StatusUnauthorized && s.login:
		return failure.New(failure.Upstream, failure.Unauthorized, cause, "%s refused the login for %s (401): check the Secret named in secretRef", host, what)
	case status == http.StatusUnauthorized && len(s.access.DockerConfig) > 0:
		return failure.New(failure.Upstream, failure.Unauthorized, cause, "%s wants a login for %s (401), and the Secret named in secretRef has none for it: add one", host, what)
	case status == http.StatusUnauthorized:
		return failure.New(failure.Upstream, failure.Unauthorized, cause, "%s wants a login for %s (401): name a Secret in secretRef, and check that the repository exists", host, what)
	case status == http.StatusForbidden:
		return failure.New(failure.Upstream, failure.Unauthorized, cause, "%s does not allow to pull %s (403): give the login in the Secret named in secretRef that right", host, what)
	case status == http.StatusNotFound:
		return failure.New(failure.Upstream, failure.NotFound, cause, "%s does not have %s (404): check the url, or push it", host, what)
	case status == http.StatusTooManyRequests:
		return failure.New(failure.Transient, failure.TooManyRequests, cause, "%s asks to come back later for %s (429): it is tried again; a login or a mirror may help", host, what)
	case status >= http.StatusInternalServerError, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		return failure.New(failure.Transient, failure.RegistryError, cause, "%s has a problem of its own with %s (%d): see its log", host, what, status)
	case status == http.StatusBadRequest && s.access.PlainHTTP:
		return failure.New(failure.Upstream, failure.RegistryError, cause, "%s does not understand the request for %s (400): if it speaks HTTPS, remove insecure", host, what)
	}
	return failure.New(failure.Upstream, failure.RegistryError, cause, "%s answered %d for %s: check that the url leads to what it should", host, status, what)
}

// ofContent explains that the bytes are not the right ones.
func (s *session) ofContent(_ context.Context, err error, what string) *failure.Error {
	host := s.where()
	switch {
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData), strings.Contains(err.Error(), "digest mismatch"):
		return failure.New(failure.Upstream, failure.DigestMismatch, content.ErrMismatchedDigest,
			"%s gave other bytes for %s than its digest says: push it again, and check caches and proxies in between", host, what)
	case errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "mismatch Content-Length"):
		return failure.New(failure.Upstream, failure.Truncated, io.ErrUnexpectedEOF,
			"%s has %s in another length than its manifest says: push it again", host, what)
	}
	return nil
}

// plain keeps the text of an error of the network or of certificates, which
// holds no address with a query, without what it wraps.
func plain(err error) error { return errors.New(err.Error()) }
