package controllers

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// podList reads pods as a cache does.
type podList []corev1.Pod

func (l podList) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return nil
}

func (l podList) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*corev1.PodList).Items = l //nolint:forcetypeassert // nothing else is listed
	return nil
}

// TestCopiesOfPods: a module comes from a ready pod of a server whose catalog
// names it; one that fails is not the end, and nobody is followed elsewhere.
func TestCopiesOfPods(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("a", 64)
	var asked []string
	pods := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		switch {
		case r.Header.Get("Prefer") != "wait=0":
			t.Error("the pod would wait for what it does not have")
		case strings.HasPrefix(r.URL.Path, "/away"):
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/none"):
			http.NotFound(w, r)
		default:
			w.Header().Set("Content-Encoding", "gzip")
			zip := gzip.NewWriter(w)
			_, _ = zip.Write([]byte("the module"))
			_ = zip.Close()
		}
	}))
	t.Cleanup(pods.Close)
	pod := func(name string, status corev1.ConditionStatus) corev1.Pod {
		p := corev1.Pod{}
		p.Name, p.Status.Conditions = name, []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
		return p
	}
	known := &Knowledge{}
	known.wrote(types.NamespacedName{Namespace: "n", Name: "s"}, "uid", &catalog.Catalog{Entries: []catalog.Entry{{Name: "p", Version: "1", SHA256: hash}}})
	c := pods.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	address := func(p *corev1.Pod) string { return strings.TrimPrefix(pods.URL, "http://") + "/" + p.Name }
	all := podList{pod("none", corev1.ConditionTrue), pod("away", corev1.ConditionTrue), pod("has", corev1.ConditionTrue), pod("starting", corev1.ConditionFalse)}
	for name, test := range map[string]struct {
		pods podList
		hash string
		want string
	}{
		"one of three has it": {all, hash, "the module"},
		"no catalog names it": {all, strings.Repeat("b", 64), ""},
		"nobody has it":       {all[:2], hash, ""},
		"nobody who is ready": {all[3:], hash, ""},
		"there are no pods":   {nil, hash, ""},
	} {
		body, err := copies(test.pods, known, c, address)(t.Context(), test.hash)
		if test.want == "" {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, []byte(test.want)) || body.Close() != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, path := range asked {
		if path == "/elsewhere" || strings.HasPrefix(path, "/starting") {
			t.Errorf("asked for %s", path)
		}
	}
}
