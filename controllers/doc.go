// Package controllers is the only place of the operator that talks to the API
// server. Two flows meet in it.
//
// What is served, from a source to a pod:
//
//	PluginSource, its lists ─► declared.Expand ─► targets ─► items ─► pipeline.Queue ─► fetch ─► store
//	                ▲ lists and images that are published elsewhere │ wakes, also when a tag has moved
//	pluginsource_controller ◄───────────────────────────────────────┘ writes status.plugins: digest, sha256
//	      │ wakes
//	pluginserver_controller: declared.Entries ─► catalog.Next ─► ConfigMap ─► handout ─► pods
//	      siblings ◄─► pods: what the operator cannot hand out, by the Service NAME-peers (desired.Peers)
//
// What points to it, from a server to Higress:
//
//	pods' /state ─► Knowledge: what every ready replica serves
//	      │
//	integrate: claim of the oldest server ─► integration.decide ─► one variable applied, or let go
//	release_controller: what nobody claims is let go
//
// Each reconcile reads as observe → desired → apply → status:
//
//	pluginsource_{controller,access,lists,published,gateway,status,report}.go
//	pluginserver_{controller,observe,workload,image,integrate,finalize,status}.go
//	declared     what sources declare, lists, official plugins and aliases included,
//	             and which source decides (pure: what a list declared stands in the status)
//	configmaps.go modules that stand in ConfigMaps, for the fetcher
//	copies.go    modules that the store lost, back from the pods
//	desired      the objects of a server (pure, golden tests)
//	apply        the only writer of those objects; never touches what is not ours
//	integration  other people's Deployments: observe, decide (pure), one leaf
//	release.go   lets go of everything, for good, before the operator is removed
//	knowledge.go what was seen of running pods, never written anywhere
//	setup.go     wires it all into a manager
package controllers
