package serve

// State is what a pod says of itself at /state on its ops port, as JSON.
type State struct {
	// Revision of the catalog that is served; empty before the first one.
	Revision string `json:"revision"`
	// Sequence of that catalog.
	Sequence int64 `json:"sequence"`
	// Missing are the entries of the catalog that are not served as it wants
	// them: their module has not arrived. Where an older module of the same name and
	// version was there, that one is still served. Pending entries do not count.
	Missing []Missing `json:"missing"`
	// Plugins is the number of names and versions that are served.
	Plugins int `json:"plugins"`
	// Used is what the volume holds, in bytes, and Budget what it may hold; 0 is
	// not known, or no limit.
	Used   int64 `json:"used,omitempty"`
	Budget int64 `json:"budget,omitempty"`
	// SyncError says what keeps the pod from following the newest catalog: a
	// sentence for the user. Empty if nothing does.
	SyncError string `json:"syncError,omitempty"`
	// Behind says that the pod cannot take up the newest catalog; SyncError says why.
	Behind bool `json:"behind,omitempty"`
}

// Missing names an entry that is not served as the catalog wants it.
type Missing struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}
