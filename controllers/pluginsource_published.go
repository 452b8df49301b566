package controllers

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// publishedSuffix makes the name under which a source wants its published lists
// and images in the queue: before they are there, what else it wants is not known.
const publishedSuffix = " published"

// servedVersion marks, in the queue, what is served while something else is
// fetched to replace it. No source can declare it.
const servedVersion = " (served)"

func ownerOf(src *v1alpha1.PluginSource) string { return client.ObjectKeyFromObject(src).String() }

// observePublished wants the source's published lists and images, and takes in
// what is known of them.
func (r *PluginSourceReconciler) observePublished(o *observedSource, access fetch.Access, lists *declared.Lists) {
	var items []pipeline.Item
	for _, l := range o.source.Spec.PluginsFrom {
		switch {
		case l.Image != "":
			items = append(items, r.imageItems(o.source, l.Image, access)...)
		case l.URL != "" && !o.source.Spec.Suspend:
			request := r.rewritten(fetch.Request{URL: l.URL, SHA256: l.SHA256, Access: access})
			items = append(items, pipeline.Item{
				Key: catalog.Key{Name: declared.ListName(l)}, Kind: pipeline.Document, Request: request,
				Follow: l.SHA256 == "" && !reference.Fixed(request.URL),
			})
		}
	}
	results := map[catalog.Key]pipeline.Result{}
	for _, result := range r.Queue.Want(ownerOf(o.source)+publishedSuffix, interval(o.source), items) {
		results[result.Key] = result
	}
	o.images = map[string]pipeline.Result{}
	for _, l := range o.source.Spec.PluginsFrom {
		name := declared.ListName(l)
		result, wanted := results[catalog.Key{Name: name}]
		switch {
		case !wanted:
		case l.Image != "":
			o.takeImage(name, result, results[catalog.Key{Name: name, Version: servedVersion}], lists)
		default:
			o.takeList(r, name, result, lists)
		}
	}
}

func (r *PluginSourceReconciler) rewritten(request fetch.Request) fetch.Request {
	if r.Rewrite == nil {
		return request
	}
	return r.Rewrite(request)
}

// takeList takes in a list that was read, or why it was not.
func (o *observedSource) takeList(r *PluginSourceReconciler, name string, result pipeline.Result, lists *declared.Lists) {
	err := result.Err
	if err == nil {
		err = result.CheckErr
	}
	if result.State == pipeline.Fetched {
		content, problem := once(r, ownerOf(o.source)+" "+name, result.Artifact.Digest, func() ([]list.Plugin, *failure.Error) {
			content, err := list.Parse(result.Content)
			if err != nil {
				e := failure.Of(err)
				return nil, failure.New(e.Class, e.Reason, e.Err, "%s: %s", name, e.Message)
			}
			return content, nil
		})
		if problem == nil {
			lists.Plugins[name] = content
		} else {
			err = problem
		}
	}
	o.missed(name, result, err)
}

// takeImage takes in the modules of an image: of the one that is wanted, else
// of the one that is served.
func (o *observedSource) takeImage(name string, wanted, served pipeline.Result, lists *declared.Lists) {
	o.missed(name, wanted, wanted.Err)
	image := wanted
	if wanted.State != pipeline.Fetched && served.State == pipeline.Fetched {
		image.State, image.Modules, image.Err = served.State, served.Modules, nil
	}
	o.images[name] = image
	if image.State != pipeline.Fetched {
		return
	}
	keys := make([]catalog.Key, 0, len(image.Modules))
	for _, module := range image.Modules {
		keys = append(keys, catalog.ParseKey(module.Member))
	}
	lists.Images[name] = keys
}

// missed notes why something that is published was not read, if it was not.
func (o *observedSource) missed(name string, result pipeline.Result, err *failure.Error) {
	switch {
	case err != nil:
		o.listFailures = append(o.listFailures, listFailure{name: name, Error: err, queued: true})
	case !result.Ended:
		o.reading = append(o.reading, name)
	}
}

// imageItems is what the queue fetches for an image; compare target.items. Its
// digest says which modules it has, so a copy elsewhere counts only with the same one.
func (r *PluginSourceReconciler) imageItems(src *v1alpha1.PluginSource, image string, access fetch.Access) []pipeline.Item {
	request := r.rewritten(fetch.Request{URL: image, Access: access})
	wanted := pipeline.Item{Key: catalog.Key{Name: image}, Kind: pipeline.Image, Request: request, Follow: !reference.Fixed(request.URL)}
	digest, movedTo, modules := knownImage(src, image)
	served := wanted
	served.Request.Digest, served.Recorded = digest, modules
	switch {
	case digest == "" && src.Spec.Suspend:
		return nil
	case digest == "":
		return []pipeline.Item{wanted}
	case src.Spec.Suspend:
		served.Follow = false
	case src.Spec.UpdatePolicy == v1alpha1.UpdateAuto && movedTo != "":
		wanted.Renew = movedTo
		served.Key.Version, served.Follow = servedVersion, false
		return []pipeline.Item{wanted, served}
	}
	return []pipeline.Item{served}
}

// knownImage gives what the status says of an image, with the hashes of its modules by member.
func knownImage(src *v1alpha1.PluginSource, image string) (digest, movedTo string, modules map[string]string) {
	for _, p := range src.Status.Plugins {
		if p.List != image || p.URL != image || p.Digest == "" || digest != "" && digest != p.Digest {
			continue
		}
		if digest == "" {
			digest, movedTo, modules = p.Digest, p.MovedTo, map[string]string{}
		}
		modules[keyOf(p).String()] = p.SHA256
	}
	return digest, movedTo, modules
}

// ofImage says what is known of a plugin that is one of an image's modules.
func (o *observedSource) ofImage(t target) pipeline.Result {
	image := o.images[t.List]
	result := image
	result.Key, result.Modules = t.Key, nil
	for _, module := range image.Modules {
		if module.Member == t.Key.String() {
			result.Artifact = module
			return result
		}
	}
	if image.State == pipeline.Fetched { // it is the module of another image, or of none
		return pipeline.Result{Key: t.Key, State: pipeline.Pending}
	}
	return result
}

// recordImages makes an event of what is left out of an image that was read.
func (r *PluginSourceReconciler) recordImages(o *observedSource) {
	for name, image := range o.images {
		if known, _, _ := knownImage(o.source, name); len(image.Skipped) > 0 && known != image.Artifact.Digest {
			r.Recorder.Eventf(o.source, nil, corev1.EventTypeWarning, v1alpha1.ReasonLeftOut, "Fetch", "%s: left out: %s", name, shorten(strings.Join(image.Skipped, "; ")))
		}
	}
}
