package controllers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

const (
	// copiesAsked is how many pods are asked for a module.
	copiesAsked = 3
	// copyWithin is how long one of them may take to give it.
	copyWithin = time.Minute
)

// errNoCopy says that no pod has a module.
var errNoCopy = errors.New("no pod gives the module")

// Copies gets modules back from the ready pods that serve them, by their own
// addresses. Who reads them has to verify them.
func Copies(reader client.Reader, known *Knowledge) func(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	address := func(pod *corev1.Pod) string {
		return net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(desired.HTTPPort))
	}
	c := &http.Client{Timeout: copyWithin, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return copies(reader, known, c, address)
}

func copies(
	reader client.Reader, known *Knowledge, c *http.Client, address func(*corev1.Pod) string,
) func(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	return func(ctx context.Context, sha256 string) (io.ReadCloser, error) {
		var ready []corev1.Pod
		for _, server := range known.naming(sha256) {
			var pods corev1.PodList
			if err := reader.List(ctx, &pods, client.InNamespace(server.Namespace), client.MatchingLabels(desired.Pods(server.Name))); err != nil {
				return nil, err
			}
			ready = append(ready, slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return !isReady(&p) })...)
		}
		rand.Shuffle(len(ready), func(i, j int) { ready[i], ready[j] = ready[j], ready[i] }) //nolint:gosec // not a secret
		err := errNoCopy
		for i := range ready[:min(len(ready), copiesAsked)] {
			var body io.ReadCloser
			if body, err = ofPod(ctx, c, "http://"+address(&ready[i])+"/blobs/sha256/"+sha256); err == nil {
				return body, nil
			}
		}
		return nil, err
	}
}

// ofPod asks one pod, which is not to wait for what it does not have (RFC 7240).
func ofPod(ctx context.Context, c *http.Client, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Prefer", "wait=0")
	response, err := c.Do(request) // undoes gzip by itself
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s answered %s", url, response.Status), response.Body.Close())
	}
	return response.Body, nil
}
