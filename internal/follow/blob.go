package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// stallTimeout is how long nothing may arrive of a module's body.
const stallTimeout = 30 * time.Second

// errStalled says that a body stopped arriving, or did not begin.
var errStalled = errors.New("nothing arrived for a while")

// keepAlive notices within 11 s that the other pod went away without a word, as
// it does with its node: a poll would wait for it for ever.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// newClient makes a client for pods of the same cluster: straight, without a
// proxy. The gzip is wanted as it is.
func newClient(dialTimeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive, Control: giveUpUnacknowledged}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, DisableCompression: true, MaxIdleConnsPerHost: defaultParallel + 1,
			IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// openBlob asks for the gzip of a module. The answer has to begin within a
// time; after that, something has to arrive every half a minute.
func openBlob(ctx context.Context, client *http.Client, base, sha256 string, within time.Duration, header http.Header) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(within, func() { cancel(errStalled) })
	response, err := askForBlob(ctx, client, base+"/blobs/sha256/"+sha256, header) //nolint:bodyclose // body closes it
	if err != nil {
		stalled.Stop()
		err = fmt.Errorf("module %s from %s: %w", sha256, base, cause(ctx, err))
		cancel(nil)
		return nil, err
	}
	stalled.Reset(stallTimeout)
	return &body{ctx: ctx, cancel: cancel, stalled: stalled, body: response.Body, length: response.ContentLength}, nil
}

func askForBlob(ctx context.Context, client *http.Client, url string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		request.Header = header.Clone()
	}
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := client.Do(request)
	if err != nil {
		return nil, withoutAddress(err)
	}
	if err := blobError(response); err != nil {
		response.Body.Close()
		return nil, err
	}
	return response, nil
}

// withoutAddress takes the address from an error: the caller names it.
func withoutAddress(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// timedOut says whether nobody answered in time.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, errStalled) || (errors.As(err, &timeout) && timeout.Timeout())
}

func blobError(r *http.Response) error {
	switch {
	case r.StatusCode == http.StatusGone:
		return ErrLost
	case r.StatusCode == http.StatusServiceUnavailable:
		return ErrLater
	case r.StatusCode != http.StatusOK:
		return errors.New(r.Status)
	case r.Header.Get("Content-Encoding") != "gzip":
		return errors.New("the answer is no gzip")
	}
	return nil
}

// body is the body of a module. It ends with an error when it stops arriving.
type body struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stalled *time.Timer
	body    io.ReadCloser
	length  int64 // in bytes; -1 where the answer does not say
}

// ContentLength is what publish.PutGzip asks for.
func (b *body) ContentLength() int64 { return b.length }

func (b *body) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.stalled.Reset(stallTimeout)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = cause(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.stalled.Stop()
	b.cancel(nil)
	return b.body.Close()
}

// cause tells why a request was ended, if it was ended by us.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil {
		return why
	}
	return err
}
