package controllers

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

// readLists is how often ConfigMaps with lists are read again. They are not
// watched: the operator does not keep other people's ConfigMaps in memory.
const readLists = 30 * time.Second

// observeLists reads the lists of a source. What cannot be read is a failure,
// and what the list declared before counts on.
func (r *PluginSourceReconciler) observeLists(ctx context.Context, src *v1alpha1.PluginSource) (lists declared.Lists, failures []listFailure) {
	lists = declared.Lists{Plugins: map[string][]list.Plugin{}, Images: map[string][]catalog.Key{}}
	for i, l := range src.Spec.PluginsFrom {
		if l.ConfigMapKeyRef == nil {
			continue // observePublished
		}
		plugins, err := parsed(ctx, r, src.Namespace, *l.ConfigMapKeyRef, fmt.Sprintf("pluginsFrom[%d]", i), list.Parse)
		if err != nil {
			failures = append(failures, listFailure{name: declared.ListName(l), Error: err})
			continue
		}
		lists.Plugins[declared.ListName(l)] = plugins
	}
	if src.Spec.Official == nil {
		return lists, failures
	}
	if ref := src.Spec.Official.TableRef; ref != nil {
		var err *failure.Error
		if lists.Table, err = parsed(ctx, r, src.Namespace, *ref, "official.tableRef", official.Parse); err != nil {
			lists.Table = nil
			return lists, append(failures, listFailure{name: declared.ConfigMapName(*ref), Error: err})
		}
	}
	if unknown := declared.UnknownReleases(src, lists.Table); len(unknown) > 0 {
		known := official.Embedded().Releases()
		failures = append(failures, listFailure{Error: failure.New(failure.Spec, failure.UnknownRelease, nil,
			"official.higressVersions names %s, and the operator knows Higress %s to %s: correct it, update the operator, or give a table in official.tableRef",
			strings.Join(unknown, ", "), known[0], known[len(known)-1])})
	}
	return lists, failures
}

// listFailure is why a list cannot be used.
type listFailure struct {
	name string // of the list; empty where no list is meant
	*failure.Error
	queued bool // the queue tries it again
}

// parsedList is a list as it was read last.
type parsedList struct {
	version string // of what it was read from
	content any
	err     *failure.Error
}

// parsed reads a list from a ConfigMap, and says which one it is where that fails.
func parsed[T any](
	ctx context.Context, r *PluginSourceReconciler, namespace string, ref v1alpha1.ConfigMapKeyReference, field string, parse func([]byte) (T, error),
) (T, *failure.Error) {
	var none T
	configMap, err := getConfigMap(ctx, r.Live, namespace, ref.Name, field)
	if err != nil {
		return none, err
	}
	id, version := namespace+"/"+declared.ConfigMapName(ref)+" "+field, string(configMap.UID)+"/"+configMap.ResourceVersion
	return once(r, id, version, func() (T, *failure.Error) {
		content, err := configMapKey(configMap, ref, field)
		if err != nil {
			return none, err
		}
		result, problem := parse(content)
		if problem != nil {
			e := failure.Of(problem)
			return none, failure.New(e.Class, e.Reason, e.Err, "key %s of ConfigMap %s: %s", ref.Key, ref.Name, e.Message)
		}
		return result, nil
	})
}

// once parses what has not changed only once.
func once[T any](r *PluginSourceReconciler, id, version string, parse func() (T, *failure.Error)) (T, *failure.Error) {
	if known, found := r.lists.Load(id); found && known.(parsedList).version == version { //nolint:forcetypeassert // nothing else is stored
		list := known.(parsedList) //nolint:forcetypeassert // nothing else is stored
		return list.content.(T), list.err
	}
	result, err := parse()
	r.lists.Store(id, parsedList{version, result, err})
	return result, err
}

func configMapKey(configMap *corev1.ConfigMap, ref v1alpha1.ConfigMapKeyReference, field string) ([]byte, *failure.Error) {
	if text, found := configMap.Data[ref.Key]; found {
		return []byte(text), nil
	}
	if content, found := configMap.BinaryData[ref.Key]; found {
		return content, nil
	}
	return nil, failure.New(failure.Waiting, failure.ConfigMapNotFound, nil,
		"ConfigMap %s/%s, named in %s, has no key %s: add it, or correct the key", configMap.Namespace, ref.Name, field, ref.Key)
}

func getConfigMap(ctx context.Context, live client.Reader, namespace, name, field string) (*corev1.ConfigMap, *failure.Error) {
	var configMap corev1.ConfigMap
	err := live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &configMap)
	switch {
	case apierrors.IsNotFound(err):
		return nil, failure.New(failure.Waiting, failure.ConfigMapNotFound, err,
			"ConfigMap %s/%s, named in %s, does not exist: create it, or correct the name", namespace, name, field)
	case apierrors.IsForbidden(err):
		return nil, failure.New(failure.Waiting, failure.InvalidConfigMap, err,
			"ConfigMap %s/%s, named in %s, may not be read by the operator: check its Role in namespace %s", namespace, name, field, namespace)
	case err != nil:
		return nil, failure.New(failure.Transient, failure.InvalidConfigMap, err,
			"ConfigMap %s/%s, named in %s, cannot be read: %v", namespace, name, field, err)
	}
	return &configMap, nil
}
